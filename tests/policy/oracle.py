"""Answers policy questions with oslo.policy itself: one JSON object a line in, one a line out.

A question has a caller (`credentials`), a `target`, the `rule` asked for, and either `rules`, a map, or `yaml`, the text of
a policy file. The answer has:

  answer   true, false, or null where an exception was raised
  raised   the exception's name
  strings  whether each name was a string, and each rule a string, or a list of strings and lists of strings; also those
           that are overridden by a later one of the same name
  circle   whether rules refer to each other in a circle, also beneath `not` and by way of `default`

A question may instead have the two sides of a check, `left` and `right`. The answer has what they come to, `text`; or
`missing`, where the target has no such key; or `path`, where the left side is no literal; or `raised`.
"""

import ast
import json
import logging
import sys
import warnings

import yaml

from oslo_config import cfg
from oslo_policy import _checks
from oslo_policy import policy

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")

conf = cfg.ConfigOpts()
conf([])
enforcer = policy.Enforcer(conf, use_conf=False)
enforcer.skip_undefined_check = True


def is_string(node):
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"


def are_all_strings(text):
    def is_list(node, depth):
        return isinstance(node, yaml.SequenceNode) and all(
            is_string(item) or depth > 1 and is_list(item, depth - 1) for item in node.value
        )

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return root is None or isinstance(root, yaml.MappingNode) and all(
        is_string(name) and (is_string(rule) or is_list(rule, 2)) for name, rule in root.value
    )


def references(check):
    if isinstance(check, _checks.RuleCheck):
        yield check.match
    for part in getattr(check, "rules", None) or []:
        yield from references(part)
    if isinstance(check, _checks.NotCheck):
        yield from references(check.rule)


def has_circle(rules):
    done = set()

    def visit(name, path):
        name = name if name in rules.keys() else "default"
        if name in path:
            return True
        if name in done or name not in rules.keys():
            return False
        found = any(visit(below, path | {name}) for below in references(rules[name]))
        done.add(name)
        return found

    return any(visit(name, frozenset()) for name in list(rules))


def answer(question):
    try:
        strings = True
        if "yaml" in question:
            raw = policy.parse_file_contents(question["yaml"])
            strings = are_all_strings(question["yaml"])
        else:
            raw = question["rules"]
        rules = policy.Rules.from_dict(raw, "default")
    except Exception as error:
        return {"answer": None, "raised": type(error).__name__, "strings": False, "circle": False}
    told = {"raised": None, "strings": strings, "circle": has_circle(rules)}
    enforcer.set_rules(rules)
    # What is asked is one decision: the check of all the rules that comes before it is another matter.
    enforcer._need_check_rule = False
    try:
        allowed = enforcer.enforce(question["rule"], question["target"], question["credentials"])
        return {"answer": bool(allowed), **told}
    except Exception as error:
        return {"answer": None, **told, "raised": type(error).__name__}


def side(compute, other, named):
    try:
        return {"text": str(compute())}
    except other:
        return {named: True}
    except Exception as error:
        return {"raised": type(error).__name__}


def sides(question):
    return {
        "left": side(lambda: ast.literal_eval(question["left"]), ValueError, "path"),
        "right": side(lambda: question["right"] % question["target"], KeyError, "missing"),
    }


for line in sys.stdin:
    question = json.loads(line)
    print(json.dumps(sides(question) if "left" in question else answer(question)))
