use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::check::Check;
use super::defaults::RuleDefault;
use super::fuzz::now;
use super::parse::{Item, RuleText, parse, parse_text};
use super::*;

/// A policy of one file, without the rules in code.
fn policy(yaml: &str) -> Result<Policy, String> {
    with_defaults(yaml, &[])
}

fn with_defaults(yaml: &str, defaults: &'static [RuleDefault]) -> Result<Policy, String> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, yaml).unwrap();
    let sources = Sources {
        defaults,
        enforce_new_defaults: true,
        file: Some(&file),
        dir: None,
    };
    let prefix = format!("{}/", dir.path().display());
    Policy::load(sources).map_err(|error| error.to_string().replace(&prefix, ""))
}

/// Without the directory, which is another one each time.
fn file_name_only(text: &str) -> String {
    let folder = |text: &str| {
        let end = text.find("/policy.yaml")?;
        Some(text[text[..end].find('/')?..=end].to_owned())
    };
    folder(text).map_or_else(|| text.to_owned(), |folder| text.replace(&folder, ""))
}

fn attributes(json: &str) -> Attributes {
    match serde_json::from_str(json).unwrap() {
        Value::Map(entries) => entries,
        other => panic!("{other:?}"),
    }
}

fn canonical(text: &str) -> String {
    parse_text(text).to_string()
}

#[test]
fn rules_are_read_as_oslo_policy_reads_them() {
    for (text, written) in [
        ("", "@"),
        ("@", "@"),
        ("a:1 or b:2 and c:3", "(a:1 or (b:2 and c:3))"),
        (
            "a:1 and b:2 or c:3 and d:4",
            "((a:1 and b:2) or (c:3 and d:4))",
        ),
        ("(a:1 or b:2) and c:3", "((a:1 or b:2) and c:3)"),
        (
            "a:1 or (b:2 and c:3) and d:4",
            "(a:1 or (b:2 and c:3 and d:4))",
        ),
        ("(a:1 and b:2) and c:3", "((a:1 and b:2) and c:3)"),
        ("NOT a:1 And b:2", "(not a:1 and b:2)"),
        ("not not (a:1 or b:2)", "not not (a:1 or b:2)"),
        ("((a:1))", "a:1"),
        ("a:1\u{a0}or\u{1c}b:2", "(a:1 or b:2)"),
        ("foo or a:1", "(! or a:1)"),
        ("(role:a(b)", "role:a(b"),
        ("rule:a:b", "rule:a:b"),
        ("'a':b", "'a':b"),
        ("\"a'", "!"),
    ] {
        assert_eq!(canonical(text), written, "{text}");
    }
    for text in [
        "   ",
        "a:1 b:2",
        "a:1 and",
        "and",
        "or a:1",
        "()",
        "(a:1",
        "a:1)",
        "and(a:1)",
        "role: x",
        "role:x # c",
        "a:1 or or b:2",
        "not",
        "not and a:1",
        "'a':'b'",
        "\"x\"",
        "''",
        "(a:1 or) b:2",
        "a:1 (b:2)",
    ] {
        assert!(matches!(parse_text(text), Check::Unparsable(_)), "{text}");
    }
}

#[test]
fn a_rule_that_is_too_deep_denies() {
    let deep = |nots: usize| "not ".repeat(nots) + "a:1";
    assert!(matches!(parse_text(&deep(199)), Check::Not(_)));
    assert!(matches!(parse_text(&deep(100_000)), Check::Unparsable(_)));
    let open = "(".repeat(100_000);
    assert_eq!(
        canonical(&format!("{open}a:1{}", ")".repeat(100_000))),
        "a:1"
    );
}

#[test]
fn lists_are_alternatives_of_what_must_all_hold() {
    let all = |texts: &[&str]| Item::All(texts.iter().map(ToString::to_string).collect());
    let one = |text: &str| Item::One(text.to_owned());
    for (items, written) in [
        (vec![], "@"),
        (vec![all(&[])], "!"),
        (vec![one("")], "!"),
        (vec![all(&[""])], "!"),
        (vec![one("a:1")], "a:1"),
        (
            vec![all(&["a:1", "b:2"]), all(&[]), one("c:3")],
            "((a:1 and b:2) or c:3)",
        ),
        (vec![one("not a:1")], "not a:1"),
    ] {
        assert_eq!(
            parse(&RuleText::List(items.clone())).to_string(),
            written,
            "{items:?}"
        );
    }
    // A check in a list is no text of the language.
    assert!(matches!(
        parse(&RuleText::List(vec![one("not a:1")])),
        Check::Generic(_)
    ));
}

#[test]
fn circles_are_refused_where_they_begin() {
    let said = |yaml: &str| policy(yaml).unwrap_err();
    assert_eq!(
        said("x: '@'\na: role:x or not rule:b\nb: rule:a"),
        "policy.yaml:2: rules refer to each other in a circle: a → b → a: take one of the references out"
    );
    assert!(said("a: rule:a").contains("a → a"));
    assert!(said("default: rule:missing").contains("default → default"));
    assert!(said("a: rule:missing\ndefault: rule:a").contains("circle"));
    assert!(policy("a: rule:b and rule:c\nb: rule:c\nc: '@'").is_ok());
    // A rule in code may be a part of the circle: the file is to blame.
    let error = with_defaults("z: rule:admin_api\nadmin_api: rule:z", DEFAULTS).unwrap_err();
    assert!(
        error.starts_with("policy.yaml:2: ") && error.contains("admin_api → z"),
        "{error}"
    );
}

#[test]
fn what_would_take_for_ever_is_refused() {
    let chain = |length: usize, link: &dyn Fn(usize) -> String| {
        let lines = (0..length).map(|at| format!("r{at:05}: {}\n", link(at + 1)));
        lines.collect::<String>() + &format!("r{length:05}: '@'\n")
    };
    let single = |next| format!("rule:r{next:05}");
    let double = |next| format!("rule:r{next:05} and rule:r{next:05}");
    assert!(policy(&chain(200, &single)).is_ok());
    let error = policy(&chain(10_000, &single)).unwrap_err();
    assert!(error.contains("more than 250 levels"), "{error}");
    assert!(policy(&chain(10, &double)).is_ok());
    let error = policy(&chain(64, &double)).unwrap_err();
    assert!(error.contains("more than 100000 checks"), "{error}");
    let asking = |count: usize| {
        format!(
            "a: {}\nb: rule:a or rule:a\n",
            vec!["http://h/"; count].join(" or ")
        )
    };
    assert!(policy(&asking(8)).is_ok());
    let error = policy(&asking(9)).unwrap_err();
    assert!(
        error.contains("more than 16 checks that ask a server"),
        "{error}"
    );
    // The deepest that is let through can be evaluated, on the stack of a thread of tokio's.
    let deep = policy(&chain(240, &single)).unwrap();
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    let evaluated = thread.spawn(move || {
        let caller = now(deep.credentials(Attributes::new()));
        let target = Target::new(Attributes::new());
        let explained = now(deep.explain("r00000", &caller, &target));
        let text = explained.to_string();
        explained.decision.allowed && text.lines().count() == 243
    });
    assert!(evaluated.unwrap().join().unwrap());
}

#[test]
fn is_admin_is_computed_once_unless_it_is_given() {
    let policy = with_defaults("admin_only: is_admin:True", DEFAULTS).unwrap();
    let target = Target::new(Attributes::new());
    let allowed = |json: &str| {
        let caller = now(policy.credentials(attributes(json)));
        now(policy.decide("admin_only", &caller, &target)).allowed
    };
    assert!(allowed(r#"{"roles": ["Admin"]}"#));
    assert!(!allowed(r#"{"roles": ["member"]}"#));
    assert!(!allowed(r#"{"roles": ["admin"], "is_admin": false}"#));
    assert!(!allowed(r#"{"roles": "admin"}"#), "no list of roles");
}

#[test]
fn what_cannot_be_evaluated_denies_all_of_the_decision() {
    let policy = policy(
        "a: not class:x\nb: role:x or not :x\nc: not none.x:y\nd: '@ or class:x'\ne: not n:100%\nf: not http://h/\n\
         g: rule:a or @\n",
    )
    .unwrap();
    let caller = now(policy.credentials(attributes(r#"{"roles": [], "none": null, "n": 1}"#)));
    let target = Target::new(Attributes::new());
    let decide = |rule| now(policy.decide(rule, &caller, &target));
    for rule in ["a", "b", "c", "e", "f", "g"] {
        let decision = decide(rule);
        assert!(!decision.allowed, "{rule}");
        assert!(
            matches!(decision.why, Why::Fault { .. }),
            "{rule}: {}",
            decision.why
        );
    }
    assert!(decide("d").allowed, "it need not be looked at");
    assert_eq!(
        decide("c").why.to_string(),
        "in rule \"c\", \"none.x:y\" cannot be evaluated: none is null, and has no x"
    );
    assert_eq!(decide("zzz").why, Why::NoRule("zzz".to_owned()));
}

#[test]
fn every_rpc_has_its_rule_and_no_rule_an_unknown_path() {
    let proto = include_str!("../../proto/volattach/v1/volattach.proto");
    let methods = proto.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("rpc ")?.split_once('(')?;
        Some(format!("/volattach.v1.VolumeAttach/{name}"))
    });
    let mut methods: Vec<_> = methods.collect();
    methods.sort();
    let (beyond, own): (Vec<_>, Vec<_>) = DEFAULTS
        .iter()
        .filter(|rule| !rule.operations.is_empty())
        .partition(|rule| rule.name == Privilege::Force.rule());
    let operations = |rules: &[&RuleDefault]| {
        let operations = rules.iter().flat_map(|rule| rule.operations);
        let mut operations: Vec<_> = operations.map(|path| (*path).to_owned()).collect();
        operations.sort();
        operations
    };
    assert_eq!(operations(&own), methods);
    // What a call may ask for beyond has a rule too, of calls that there are.
    let beyond = operations(&beyond);
    assert_eq!(beyond, Privilege::Force.paths());
    assert!(beyond.iter().all(|path| methods.contains(path)));
}

#[test]
fn permissions_are_the_owners_to_set_and_force_is_for_administrators() {
    let policy = with_defaults("", DEFAULTS).unwrap();
    let target = Target::new(attributes(r#"{"project_id": "p1", "user_id": "alice"}"#));
    // Role, user, project, and whether they may show permissions, set them, and force.
    for (role, user, project, expected) in [
        ("admin", "root", "p9", [true, true, true]),
        ("member", "alice", "p1", [false, true, false]),
        ("reader", "alice", "p1", [true, false, false]),
        ("member", "alice", "p9", [false, false, false]),
        ("member", "bob", "p1", [false, false, false]),
    ] {
        let json =
            format!(r#"{{"roles": ["{role}"], "user_id": "{user}", "project_id": "{project}"}}"#);
        let caller = now(policy.credentials(attributes(&json)));
        let rules = [
            Rpc::GetVolumePermissions.rule(),
            Rpc::SetVolumePermissions.rule(),
            Privilege::Force.rule(),
        ];
        let found = rules.map(|rule| now(policy.decide(rule, &caller, &target)).allowed);
        assert_eq!(found, expected, "{role} {user} of {project}");
    }
}

#[test]
fn the_rules_in_code_have_nothing_to_find_and_decide_as_cinders() {
    let policy = with_defaults("", DEFAULTS).unwrap();
    assert_eq!(policy.findings(&[]), Vec::new());
    let target = Target::new(attributes(r#"{"project_id": "p1"}"#));
    let table = [
        // Roles, project, and whether they may attach, list, and ask for the connector.
        ("admin", "p9", [true, true, true]),
        ("member", "p1", [true, false, false]),
        ("member", "p9", [false, false, false]),
        ("reader", "p1", [false, true, false]),
        ("reader", "p9", [false, false, false]),
        ("service", "p1", [false, false, false]),
    ];
    for (role, project, expected) in table {
        let json =
            format!(r#"{{"roles": ["{role}"], "project_id": "{project}", "service_roles": []}}"#);
        let caller = now(policy.credentials(attributes(&json)));
        let rpcs = [Rpc::AttachVolume, Rpc::ListAttachments, Rpc::GetConnector];
        let found = rpcs.map(|rpc| now(policy.decide(rpc.rule(), &caller, &target)).allowed);
        assert_eq!(found, expected, "{role} of {project}");
    }
    let service =
        now(policy.credentials(attributes(r#"{"roles": [], "service_roles": ["service"]}"#)));
    assert!(now(policy.decide(Rpc::GetConnector.rule(), &service, &target)).allowed);
}

#[test]
fn findings_name_what_never_holds() {
    let yaml = r"
a: not rol:admin
b: not foo and role:membr
c: not rule:missing
d: not role:%(missing)s
e: role:x or
f: is_admin:true
g: not (rule:h and role:member)
h: role:admn
i: not not role:reder
j: n:100%
k: class:x
l: http://%(project_id)s/
admin_apy: rule:a or rule:b or rule:c or rule:d or rule:e or rule:f or rule:g or rule:i or rule:j or rule:k or rule:l
";
    let policy = with_defaults(yaml, DEFAULTS).unwrap();
    let found = policy.findings(&["x".to_owned()]);
    let found: Vec<_> = found
        .iter()
        .map(|finding| file_name_only(&finding.to_string()))
        .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn an_explanation_tells_why() {
    let yaml = "t: rule:u and (not role:admin or project_id:%(project_id)s) and rule:none\nu: groups.id:g2 or none.x:y\n\
        v: foo or user:%(missing)s or 'a':%(project_id)s\ndefault: '!'\n";
    let policy = policy(yaml).unwrap();
    let caller = now(policy.credentials(attributes(
        r#"{"roles": ["admin"], "project_id": "p1", "groups": [{"id": "g1"}, {"id": "g2"}], "none": null}"#,
    )));
    let target = Target::new(attributes(r#"{"project_id": "p2"}"#));
    let text =
        ["t", "v", "zzz"].map(|rule| now(policy.explain(rule, &caller, &target)).to_string());
    insta::assert_snapshot!(file_name_only(&text.concat()));
}

#[test]
fn the_sample_changes_nothing_and_its_rules_are_the_defaults() {
    let sample = sample();
    assert!(policy(&sample).unwrap().rules.is_empty());
    let uncommented = sample.replace("\n#\"", "\n\"");
    let policy = with_defaults(&uncommented, DEFAULTS).unwrap();
    assert_eq!(policy.redundant().len(), DEFAULTS.len());
    insta::assert_snapshot!(sample);
}

#[test]
fn json_becomes_yaml() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("policy.json");
    let json = r#"{"volume:attachment_create": "role:operator", "volume:extend": [["rule:xena_system_admin_or_project_member"]],
        "admin_api": [["is_admin:True"], ["role:\"x\"", "a:b"]], "old:thing": "", "older": [[], "role:z"]}"#;
    std::fs::write(&file, json).unwrap();
    let yaml = convert(&file).unwrap();
    insta::assert_snapshot!(yaml);
    let rules = |text: &str| {
        let found = super::file::parse(Path::new("p"), text)
            .unwrap()
            .into_iter();
        let mut found: Vec<_> = found.map(|rule| (rule.name, rule.text)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    let mut kept = rules(json);
    kept.retain(|(name, _)| name != "volume:extend");
    assert_eq!(rules(&yaml), kept);
}

/// A rule as people write them, more or less.
fn any_rule() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("and".to_owned()),
        Just("or".to_owned()),
        Just("not".to_owned()),
        Just("(".to_owned()),
        Just(")".to_owned()),
        "[(]{0,2}(role|rule|a|is_admin|'x'|class|None|1)?:?(b|%\\(k\\)[sdx]|%|x y)?[)]{0,2}",
        "\\PC{0,6}",
    ];
    proptest::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn nothing_that_is_read_panics(text in any::<String>(), rule in any_rule()) {
        for text in [text, rule] {
            let written = canonical(&text);
            prop_assert_eq!(canonical(&written), written);
            let _ = super::file::parse(Path::new("p"), &text);
            let check = parse(&RuleText::List(vec![Item::One(text.clone())]));
            drop(check);
        }
    }

    #[test]
    fn an_explanation_agrees_with_the_decision(rule in any_rule(), other in any_rule()) {
        let yaml = format!("t: {}\nb: {}\n", serde_json::json!(rule), serde_json::json!(other));
        if let Ok(policy) = policy(&yaml) {
            let caller = now(policy.credentials(attributes(r#"{"roles": ["b"], "a": {"b": "1"}, "is_admin": true}"#)));
            let target = Target::new(attributes(r#"{"k": "b"}"#));
            let explained = now(policy.explain("t", &caller, &target));
            let tree = explained.tree.as_ref().map(|tree| tree.value);
            prop_assert_eq!(explained.decision.allowed, tree == Some(explain::Outcome::True));
            let faulty = matches!(explained.decision.why, Why::Fault { .. });
            prop_assert_eq!(faulty, tree == Some(explain::Outcome::Fault));
        }
    }
}
