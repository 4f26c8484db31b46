//! `make oslo-test`: random policies, decided here and by oslo.policy itself.
//!
//! Where they differ, volattach denies what oslo.policy allows, and only as docs/policy.md says.

#![cfg(test)]

mod generate;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use generate::Random;
use serde_json::Value;
use volattach::policy::{self, Policy, PolicyError, Refusal, Sources, Target, Why};

/// Which cases: the same ones each time, unless somebody asks for others.
const SEED: u64 = 1;
const CASES: usize = 2000;

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// oslo.policy's answers, in order.
fn ask_oslo(questions: &[Value]) -> Vec<Value> {
    let python = setting("VOLATTACH_OSLO_PYTHON")
        .expect("VOLATTACH_OSLO_PYTHON names no Python that has oslo.policy: run make oslo-test");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy/oracle.py");
    let mut oracle = Command::new(&python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{python}: {error}"));
    let mut input = oracle.stdin.take().unwrap();
    let lines: String = questions
        .iter()
        .map(|question| format!("{question}\n"))
        .collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = BufReader::new(oracle.stdout.take().unwrap());
    let answers = output
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    writer.join().unwrap().unwrap();
    assert!(oracle.wait().unwrap().success());
    answers
}

/// What volattach says.
enum Ours {
    Decided(bool),
    Fault(Why),
    Refused(PolicyError),
}

fn ask_here(file: &PathBuf, question: &Value) -> Ours {
    let text = match &question["yaml"] {
        Value::String(text) => text.clone(),
        _ => question["rules"].to_string(),
    };
    std::fs::write(file, text).unwrap();
    let attributes = |value: &Value| match serde_json::from_value(value.clone()).unwrap() {
        policy::Value::Map(entries) => entries,
        other => panic!("{other:?}"),
    };
    let sources = Sources {
        defaults: &[],
        enforce_new_defaults: true,
        file: Some(file),
        dir: None,
    };
    let policy = match Policy::load(sources) {
        Ok(policy) => policy,
        Err(error) => return Ours::Refused(error),
    };
    let caller = policy.credentials(attributes(&question["credentials"]));
    let target = Target::new(attributes(&question["target"]));
    let decision = policy.decide(question["rule"].as_str().unwrap(), &caller, &target);
    match decision.why {
        why @ Why::Fault { .. } => Ours::Fault(why),
        _ => Ours::Decided(decision.allowed),
    }
}

/// How the two answers compare; an error is a difference that must not be.
fn compare(ours: &Ours, oslo: &Value) -> Result<&'static str, String> {
    let answer = oslo["answer"].as_bool();
    let strings = oslo["strings"].as_bool().unwrap();
    match (ours, answer) {
        (Ours::Decided(ours), Some(oslo)) if *ours != oslo => {
            Err(format!("{ours} here, {oslo} by oslo.policy"))
        }
        (Ours::Decided(_) | Ours::Fault(_), _) if !strings => {
            Err("accepted, though not all rules are strings".to_owned())
        }
        (Ours::Decided(true), Some(true)) => Ok("both allow"),
        (Ours::Decided(_), Some(_)) => Ok("both deny"),
        (Ours::Fault(_), None) => Ok("denied where oslo.policy raises an exception"),
        (Ours::Decided(ours), None) => Err(format!(
            "{ours} here, and oslo.policy raises {}",
            oslo["raised"]
        )),
        (Ours::Fault(why), Some(oslo)) => {
            let why = why.to_string();
            match ["not read", "128 bits", "in the middle, deep"]
                .iter()
                .any(|known| why.contains(known))
            {
                true => Ok("denied for an expression that is documented not to be read"),
                false => Err(format!("{why}, and oslo.policy says {oslo}")),
            }
        }
        (Ours::Refused(PolicyError::Refused { fault, .. }), _) => match fault {
            Refusal::Cycle(_) if oslo["circle"] == true => Ok("refused for a circle"),
            Refusal::Cycle(_) => Err("refused for a circle that is none".to_owned()),
            _ if !strings => Ok("refused: not all rules are strings to oslo.policy"),
            Refusal::Syntax(why) if why.contains("comments must be separated") => {
                Ok("refused: a comment that touches what it is on")
            }
            Refusal::Value { found, .. } if found.starts_with("a number or a time") => {
                Ok("refused: a string that looks like a number")
            }
            Refusal::Duplicate { .. } | Refusal::Unread { .. } => {
                Ok("refused: a duplicate, tag or alias")
            }
            fault => Err(format!("refused, and all rules are strings: {fault}")),
        },
        (Ours::Refused(error), _) => Err(error.to_string()),
    }
}

fn differ(make: fn(&mut Random) -> Value, cases: usize) {
    let seed = setting("VOLATTACH_OSLO_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let questions: Vec<_> = (0..cases).map(|_| make(&mut random)).collect();
    let answers = ask_oslo(&questions);
    assert_eq!(answers.len(), cases);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    let mut counts = BTreeMap::new();
    let mut faults = Vec::new();
    for (question, answer) in questions.iter().zip(&answers) {
        match compare(&ask_here(&file, question), answer) {
            Ok(kind) => *counts.entry(kind).or_insert(0) += 1,
            Err(fault) => faults.push(format!("{fault}\n  {question}\n  {answer}")),
        }
    }
    println!("{cases} cases, seed {seed}: {counts:#?}");
    let shown = faults
        .iter()
        .take(20)
        .map(String::as_str)
        .collect::<Vec<_>>();
    assert!(
        faults.is_empty(),
        "{} differences:\n{}",
        faults.len(),
        shown.join("\n")
    );
    for kind in ["both allow", "both deny"] {
        assert!(
            counts.get(kind).is_some_and(|count| count * 20 > cases),
            "too few: {kind}"
        );
    }
}

fn cases() -> usize {
    setting("VOLATTACH_OSLO_CASES").map_or(CASES, |cases| cases.parse().unwrap())
}

#[test]
fn random_rules_are_decided_as_by_oslo_policy() {
    differ(generate::question, cases());
}

#[test]
fn random_files_are_read_as_by_oslo_policy_or_refused() {
    differ(generate::yaml_question, cases() / 4);
}
