//! `make oslo-test`: random policies, decided here and by oslo.policy itself.
//!
//! Where they differ, volattach denies what oslo.policy allows, and only as docs/policy.md says.

#![cfg(test)]

mod generate;
#[path = "../web/mod.rs"]
mod web;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::FutureExt;
use generate::Random;
use serde_json::Value;
use volattach::policy::{self, Credentials, Policy, PolicyError, Refusal, Sources, Target, Why};

/// Which cases: the same ones each time, unless somebody asks for others.
const SEED: u64 = 1;
const CASES: usize = 20_000;

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

/// What needs no server's answer.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

/// What volattach says.
enum Ours {
    Decided(bool),
    Fault(Why),
    Refused(PolicyError),
}

/// A policy, a caller and a target.
type Case = (Policy, Credentials, Target);

fn load(file: &Path, text: &str, question: &Value) -> Result<Case, PolicyError> {
    std::fs::write(file, text).unwrap();
    let attributes = |value: &Value| match serde_json::from_value(value.clone()).unwrap() {
        policy::Value::Map(entries) => entries,
        other => panic!("{other:?}"),
    };
    let policy = Policy::load(Sources {
        defaults: &[],
        enforce_new_defaults: true,
        file: Some(file),
        dir: None,
    })?;
    let caller = now(policy.credentials(attributes(&question["credentials"])));
    Ok((policy, caller, Target::new(attributes(&question["target"]))))
}

fn ask_here(file: &Path, question: &Value) -> Ours {
    let text = match &question["yaml"] {
        Value::String(text) => text.clone(),
        _ => question["rules"].to_string(),
    };
    let (policy, caller, target) = match load(file, &text, question) {
        Ok(case) => case,
        Err(error) => return Ours::Refused(error),
    };
    let decision = now(policy.decide(question["rule"].as_str().unwrap(), &caller, &target));
    match decision.why {
        why @ Why::Fault { .. } => Ours::Fault(why),
        _ => Ours::Decided(decision.allowed),
    }
}

/// Whether a fault is one of those that docs/policy.md tells of.
fn is_documented(why: &str) -> bool {
    ["not read", "128 bits", "more than 4096"]
        .iter()
        .any(|known| why.contains(known))
}

/// How the sides of a check compare, as an explanation shows them.
fn compare_sides(file: &Path, question: &Value, oslo: &Value) -> Result<&'static str, String> {
    let (left, right) = (
        question["left"].as_str().unwrap(),
        question["right"].as_str().unwrap(),
    );
    let rules = serde_json::json!({"t": [format!("{left}:{right}")]});
    let (policy, caller, target) =
        load(file, &rules.to_string(), question).map_err(|e| e.to_string())?;
    let explained = now(policy.explain("t", &caller, &target));
    let shown = explained.to_string();
    if matches!(explained.decision.why, Why::Fault { .. }) {
        let raised = [&oslo["left"], &oslo["right"]]
            .iter()
            .any(|side| side["raised"].is_string());
        return match (
            raised,
            oslo["left"]["path"] == true && right == "x",
            is_documented(&shown),
        ) {
            (true, ..) => Ok("a fault where Python raises an exception"),
            (_, true, false) if shown.contains(", and has no ") => {
                Ok("a path into what has no parts")
            }
            (.., true) => Ok("a fault for what is documented not to be read"),
            _ => Err(shown),
        };
    }
    let wanted = match &oslo["right"]["text"] {
        Value::String(text) => format!("(wanted {text:?}; "),
        _ if oslo["right"]["missing"] == true => "(the target has no ".to_owned(),
        _ => {
            return Err(format!(
                "Python raises {}: {shown}",
                oslo["right"]["raised"]
            ));
        }
    };
    let literal = match &oslo["left"]["text"] {
        Value::String(text) if right == "x" => format!("{left} is {text:?}"),
        _ if oslo["left"]["raised"].is_string() => return Err(format!("Python raises: {shown}")),
        _ => String::new(),
    };
    match shown.contains(&wanted) && shown.contains(&literal) {
        true if oslo["right"]["missing"] == true => Ok("a missing key"),
        true if literal.is_empty() => Ok("the same, filled in"),
        true => Ok("the same literal"),
        false => Err(format!("{wanted} {literal}: {shown}")),
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
        (Ours::Fault(why), Some(oslo)) => match is_documented(&why.to_string()) {
            true => Ok("denied for what is documented not to be read"),
            false => Err(format!("{why}, and oslo.policy says {oslo}")),
        },
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
                Ok("refused: a duplicate, tag or anchor")
            }
            fault => Err(format!("refused, and all rules are strings: {fault}")),
        },
        (Ours::Refused(error), _) => Err(error.to_string()),
    }
}

/// Asks both, and counts how they compare.
fn differ(
    cases: usize,
    make: fn(&mut Random) -> Value,
    compare: fn(&Path, &Value, &Value) -> Result<&'static str, String>,
    at_least: [&'static str; 2],
) {
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
        match compare(&file, question, answer) {
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
    for kind in at_least {
        assert!(
            counts.get(kind).is_some_and(|count| count * 20 > cases),
            "too few: {kind}"
        );
    }
}

/// What a form says, in any order and with any blanks.
fn fields(form: &str) -> BTreeMap<String, Value> {
    let fields = form.split('&').map(|field| {
        let (name, value) = field.split_once('=').unwrap();
        let value = value.replace('+', " ");
        let value = percent_encoding::percent_decode_str(&value).decode_utf8();
        (
            name.to_owned(),
            serde_json::from_str(&value.unwrap()).unwrap(),
        )
    });
    fields.collect()
}

#[test]
fn a_server_is_asked_as_by_oslo_policy() {
    let (address, asked) = web::serve(|path| match path {
        "/no" => web::ok("False"),
        _ => web::ok("True"),
    });
    let credentials = serde_json::json!({
        "roles": ["member", "a b"], "project_id": "p1", "is_admin": false, "n": 16, "x": 1.5, "none": null,
        "text": "\"\u{e9}+&=%\n"
    });
    let target = serde_json::json!({"project_id": "p1", "volume_id": "v-1", "n": 16, "flag": true});
    let rules = serde_json::json!({
        "t": "rule:below", "below": format!("http://{address}/%(project_id)s/%(n)d%%25?v=%(volume_id)s"),
        "no": format!("not http://{address}/no"),
    });
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        let path = files.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    };
    let options = [
        ("--policy", write("policy.yaml", &rules)),
        ("--credentials", write("credentials.json", &credentials)),
        ("--target", write("target.json", &target)),
    ];
    for rule in ["t", "no"] {
        let mut check = Command::new(env!("CARGO_BIN_EXE_volattachd"));
        check.args(["policy", "check", rule]);
        for (option, path) in &options {
            check.arg(option).arg(path);
        }
        assert!(check.status().unwrap().success(), "{rule}");
        let question = serde_json::json!({
            "rules": rules, "rule": rule, "credentials": credentials, "target": target
        });
        assert_eq!(ask_oslo(&[question])[0]["answer"], true, "{rule}");
        let [ours, oslos] = [(); 2].map(|()| asked.recv_timeout(Duration::from_secs(30)).unwrap());
        assert_eq!(ours.line, oslos.line);
        let expected = BTreeMap::from([
            ("rule".to_owned(), Value::from(rule)),
            ("credentials".to_owned(), credentials.clone()),
            ("target".to_owned(), target.clone()),
        ]);
        assert_eq!(fields(&ours.body), expected);
        // oslo.policy adds to every caller what it has by a second name.
        let mut oslos = fields(&oslos.body);
        let told = oslos
            .get_mut("credentials")
            .unwrap()
            .as_object_mut()
            .unwrap();
        told.retain(|name, _| credentials.get(name).is_some());
        assert_eq!(oslos, expected);
    }
}

fn cases() -> usize {
    setting("VOLATTACH_OSLO_CASES").map_or(CASES, |cases| cases.parse().unwrap())
}

#[test]
fn random_rules_are_decided_as_by_oslo_policy() {
    let compare =
        |file: &Path, question: &Value, oslo: &Value| compare(&ask_here(file, question), oslo);
    differ(
        cases(),
        generate::question,
        compare,
        ["both allow", "both deny"],
    );
}

#[test]
fn random_sides_of_a_check_are_read_as_by_python() {
    differ(
        cases(),
        generate::sides_question,
        compare_sides,
        ["the same, filled in", "the same literal"],
    );
}

#[test]
fn random_files_are_read_as_by_oslo_policy_or_refused() {
    let compare =
        |file: &Path, question: &Value, oslo: &Value| compare(&ask_here(file, question), oslo);
    differ(
        cases() / 4,
        generate::yaml_question,
        compare,
        ["both allow", "both deny"],
    );
}

#[test]
fn files_with_a_slip_are_read_as_by_oslo_policy_or_refused() {
    let compare = |file: &Path, question: &Value, oslo: &Value| match ask_here(file, question) {
        Ours::Refused(_) if oslo["answer"].is_null() => Ok("refused by both, or raised"),
        Ours::Refused(_) => Ok("refused here"),
        ours => compare(&ours, oslo),
    };
    differ(
        cases() / 4,
        generate::slip_question,
        compare,
        ["both allow", "both deny"],
    );
}
