#!/usr/bin/python3
"""Searches a policy for rules of types, as sesearch(1) does, in one pass for all questions: sesearch takes a second for each.

  selinux_rules.py POLICY   reads lines "some|none ARGUMENT...": whether there are such rules; the arguments are sesearch's
"""

import argparse
import sys

import setools

arguments = argparse.ArgumentParser(prog="rule")
arguments.add_argument("wanted", choices=["some", "none"])
kind = arguments.add_mutually_exclusive_group(required=True)
kind.add_argument("-A", dest="kind", action="store_const", const="allow")
kind.add_argument("-T", dest="kind", action="store_const", const="type_transition")
arguments.add_argument("-s", dest="source", required=True)
arguments.add_argument("-t", dest="target")
arguments.add_argument("-c", dest="tclass")
arguments.add_argument("-p", dest="permission")

policy = setools.SELinuxPolicy(sys.argv[1])
attributes = {str(each): {str(each), *map(str, each.attributes())} for each in policy.types()}
asked = {}  # from the name of a type or attribute to the questions that rules of it may answer
lines = []
for line in map(str.strip, sys.stdin):
    question = arguments.parse_args(line.split())
    question.line, question.found = line, []
    lines.append(question)
    # A rule of any attribute that the type has is a rule of the type.
    for name in attributes[question.source]:
        asked.setdefault(name, []).append(question)

for rule in policy.terules():
    for question in asked.get(str(rule.source), []):
        if (
            str(rule.ruletype) == question.kind
            and (not question.target or str(rule.target) in attributes[question.target])
            and (not question.tclass or str(rule.tclass) == question.tclass)
            and (not question.permission or question.permission in rule.perms)
            # Rules of every process, as for its own files in /proc, say nothing of one.
            and not (str(rule.source) == "domain" and question.kind == "allow")
        ):
            question.found.append(str(rule))

wrong = [question for question in lines if (question.wanted == "some") != bool(question.found)]
for question in wrong:
    print("selinux:", "these must not be:" if question.found else "there are none:", question.line, *question.found, sep="\n  ")
if not lines:
    sys.exit("selinux: no rule was asked for")
sys.exit(bool(wrong))
