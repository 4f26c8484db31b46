//! Decisions that oslo.policy made (tests/data/policy_vectors.json), made again: by the library, and by the tool.

use futures::FutureExt;
use serde_json::Value;
use volattach::policy::{
    self, Attributes, DEFAULTS, Deprecated, Policy, PolicyError, Refusal, RuleDefault, Scope,
    Sources, Target,
};

use super::{Files, run};

fn vectors() -> Vec<Value> {
    let text = include_str!("../data/policy_vectors.json");
    let mut file: Value = serde_json::from_str(text).unwrap();
    match file["vectors"].take() {
        Value::Array(vectors) => vectors,
        other => panic!("{other}"),
    }
}

/// The policy file of a vector: rules as JSON, or the text itself.
fn policy_text(vector: &Value) -> String {
    match (&vector["yaml"], &vector["rules"]) {
        (Value::String(text), _) => text.clone(),
        (_, Value::Null) => String::new(),
        (_, rules) => rules.to_string(),
    }
}

/// Where volattach is to differ: an empty rule is refused, and what raises an exception denies.
fn expected(vector: &Value) -> Option<bool> {
    match (&vector["id"], &vector["expected"]) {
        (Value::String(id), _) if id == "P33" => None,
        (_, Value::Bool(allowed)) => Some(*allowed),
        (_, Value::String(error)) if error.starts_with("error:") => None,
        (_, other) => panic!("{other}"),
    }
}

/// A vector's defaults, which are rules in code: they live as long as the test.
fn defaults(vector: &Value) -> &'static [RuleDefault] {
    let text = |value: &Value| -> &'static str {
        Box::leak(value.as_str().unwrap().to_owned().into_boxed_str())
    };
    let scopes = |value: &Value| -> &'static [Scope] {
        let names = value.as_array().into_iter().flatten();
        let scopes: Vec<_> = names
            .map(|name| match name.as_str().unwrap() {
                "system" => Scope::System,
                "domain" => Scope::Domain,
                _ => Scope::Project,
            })
            .collect();
        scopes.leak()
    };
    let rules = vector["defaults"].as_array().into_iter().flatten();
    let rules: Vec<_> = rules
        .map(|rule| RuleDefault {
            name: text(&rule["name"]),
            check: text(&rule["check_str"]),
            description: "",
            operations: &[],
            scopes: scopes(&rule["scope_types"]),
            deprecated: rule["deprecated_rule"].is_object().then(|| Deprecated {
                name: text(&rule["deprecated_rule"]["name"]),
                check: text(&rule["deprecated_rule"]["check_str"]),
            }),
        })
        .collect();
    rules.leak()
}

fn attributes(value: &Value) -> Attributes {
    match serde_json::from_value(value.clone()).unwrap() {
        policy::Value::Map(entries) => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn oslo_policys_decisions_are_made_again() {
    let files = Files::new();
    let vectors = vectors();
    assert_eq!(vectors.len(), 40);
    for vector in &vectors {
        let id = vector["id"].as_str().unwrap();
        files.write("policy.yaml", &policy_text(vector));
        let loaded = Policy::load(Sources {
            defaults: defaults(vector),
            enforce_new_defaults: vector["enforce_new_defaults"] != false,
            file: Some(&files.path("policy.yaml")),
            dir: None,
        });
        let Some(allowed) = expected(vector) else {
            let error = loaded.unwrap_err();
            let PolicyError::Refused { fault, .. } = &error else {
                panic!("{id}: {error}");
            };
            let right = match id {
                "P33" => matches!(fault, Refusal::Value { .. }),
                _ => matches!(fault, Refusal::Cycle(_)),
            };
            assert!(right, "{id}: {error}");
            continue;
        };
        let policy = loaded.unwrap();
        let caller = policy.credentials(attributes(&vector["creds"]));
        let caller = caller.now_or_never().unwrap();
        let target = Target::new(attributes(&vector["target"]));
        let decision = policy.decide(vector["rule"].as_str().unwrap(), &caller, &target);
        let decision = decision.now_or_never().unwrap();
        assert_eq!(decision.allowed, allowed, "{id}: {}", decision.why);
    }
}

/// The rules of the service are beneath: the vectors do not name them by chance.
#[test]
fn the_tool_says_the_same() {
    let files = Files::new();
    for vector in vectors()
        .iter()
        .filter(|vector| vector["group"] != "defaults")
    {
        let rule = vector["rule"].as_str().unwrap();
        assert!(!DEFAULTS.iter().any(|default| default.name == rule) || !vector["rules"].is_null());
        let policy = files.write("policy.yaml", &policy_text(vector));
        let credentials = files.write("credentials.json", &vector["creds"].to_string());
        let target = files.write("target.json", &vector["target"].to_string());
        let mut line = vec!["check", "--policy", &policy, "--credentials", &credentials];
        line.extend(["--target", &target, rule]);
        let answer = run(&line);
        match expected(vector) {
            Some(true) => assert_eq!(answer, (0, "allow\n".to_owned(), String::new()), "{vector}"),
            Some(false) => assert_eq!(answer, (1, "deny\n".to_owned(), String::new()), "{vector}"),
            None => {
                assert_eq!((answer.0, answer.1.as_str()), (2, ""), "{vector}");
                assert!(answer.2.contains("policy.yaml:1: "), "{}", answer.2);
            }
        }
        line[0] = "explain";
        assert_eq!(run(&line).0, answer.0, "{vector}");
    }
}
