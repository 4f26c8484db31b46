//! What holds of any rule, policy file and question.

use std::collections::BTreeMap;
use std::path::Path;

use futures::FutureExt;

use super::check::Check;
use super::decide::Why;
use super::file;
use super::limits;
use super::parse::{parse, parse_text};
use super::rules::{Policy, Rule};
use super::{Attributes, Target, Value};

/// What needs nobody's answer.
#[expect(clippy::panic, reason = "so a target says that something is wrong")]
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let done = future.now_or_never();
    done.unwrap_or_else(|| panic!("it waits"))
}

fn policy(rules: impl IntoIterator<Item = (String, Check)>) -> Policy {
    let rules = rules
        .into_iter()
        .map(|(name, check)| (name, Rule { check, at: None }));
    Policy {
        defaults: &[],
        rules: rules.collect::<BTreeMap<_, _>>(),
        remote: None,
    }
}

fn member() -> Attributes {
    let roles = ["member", "reader"].map(|role| Value::Text(role.to_owned()));
    vec![
        ("roles".to_owned(), Value::List(roles.to_vec())),
        ("project_id".to_owned(), Value::Text("p".to_owned())),
        ("user_id".to_owned(), Value::Text("u".to_owned())),
    ]
}

/// Any text as a rule: it decides, the same each time; with `and !` it denies, with `or @` it allows unless it cannot be
/// evaluated, and `not` turns it, unless likewise.
pub(crate) fn policy_rule(text: &str) {
    let check = parse_text(text);
    assert_eq!(parse_text(text), check);
    let both = |other| vec![check.clone(), other];
    let policy = policy([
        ("r".to_owned(), check.clone()),
        ("not".to_owned(), Check::Not(Box::new(check.clone()))),
        ("and".to_owned(), Check::And(both(Check::Never))),
        ("or".to_owned(), Check::Or(both(Check::Always))),
    ]);
    if limits::check(&policy).is_err() {
        return;
    }
    let (credentials, target) = (now(policy.credentials(member())), Target::new(member()));
    let [plain, not, and, or] =
        ["r", "not", "and", "or"].map(|rule| now(policy.decide(rule, &credentials, &target)));
    assert!(!and.allowed);
    match plain.why {
        Why::Fault { .. } => assert!(!plain.allowed && !not.allowed && !or.allowed),
        _ => assert!(or.allowed && not.allowed != plain.allowed),
    }
    let explanation = now(policy.explain("r", &credentials, &target));
    assert_eq!(explanation.decision.allowed, plain.allowed);
    let _ = explanation.to_string();
    // Nobody is nobody's member: what is only about roles denies who has none.
    if matches!(check, Check::Role(_)) {
        let nobody = now(policy.credentials(Vec::new()));
        assert!(!now(policy.decide("r", &nobody, &target)).allowed);
    }
}

/// Any text as a policy file: refused with a place in it, or rules of different names that can be decided by.
pub(crate) fn policy_file(text: &str) {
    let rules = match file::parse(Path::new("p.yaml"), text) {
        Ok(rules) => rules,
        Err(error) => {
            assert!(error.to_string().starts_with("p.yaml:"), "{error}");
            return;
        }
    };
    let count = rules.len();
    // Any of YAML's line breaks counts.
    let lines = 1 + text.matches(['\n', '\r']).count();
    assert!(rules.iter().all(|rule| (1..=lines).contains(&rule.at.line)));
    let policy = policy(rules.into_iter().map(|rule| (rule.name, parse(&rule.text))));
    assert_eq!(policy.rules.len(), count, "a name twice");
    if limits::check(&policy).is_ok() {
        let (credentials, target) = (now(policy.credentials(member())), Target::new(member()));
        for name in policy.rules.keys() {
            let _ = now(policy.decide(name, &credentials, &target));
        }
        let _ = policy.findings(&[]);
    }
}

/// Any three lines as a rule, and as the JSON of who asks and about what.
pub(crate) fn policy_decide(text: &str) {
    let mut lines = text.splitn(3, '\n');
    let rule = lines.next().unwrap_or_default();
    let object = |line: Option<&str>| match serde_json::from_str(line.unwrap_or_default()) {
        Ok(Value::Map(entries)) => Some(entries),
        _ => None,
    };
    let (Some(credentials), Some(target)) = (object(lines.next()), object(lines.next())) else {
        return;
    };
    let policy = policy([("r".to_owned(), parse_text(rule))]);
    if limits::check(&policy).is_ok() {
        let (credentials, target) = (now(policy.credentials(credentials)), Target::new(target));
        let first = now(policy.decide("r", &credentials, &target));
        assert_eq!(
            now(policy.decide("r", &credentials, &target)).allowed,
            first.allowed
        );
        assert!(!now(policy.decide("missing", &credentials, &target)).allowed);
    }
}
