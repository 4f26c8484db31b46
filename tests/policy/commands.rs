//! The tools of `volattachd policy`: what they print, and their exit codes.

use super::{Files, run};

/// Checks a rule for a member of p1 who asks for something of p1.
fn check(files: &Files, more: &[&str]) -> (i32, String, String) {
    let caller = r#"{"user_id": "u1", "project_id": "p1", "roles": ["member"]}"#;
    let caller = files.write("caller.json", caller);
    let target = files.write("target.json", r#"{"project_id": "p1"}"#);
    run(&[
        &["check", "--credentials", &caller, "--target", &target],
        more,
    ]
    .concat())
}

#[test]
fn without_files_the_service_s_own_rules_hold() {
    let files = Files::new();
    assert_eq!(check(&files, &["volume:attachment_create"]).0, 0);
    assert_eq!(check(&files, &["volume:attachment_get"]).0, 1);
    assert_eq!(check(&files, &["nothing"]).1, "deny\n");
}

#[test]
fn a_directory_s_files_replace_rules_in_the_order_of_their_names() {
    let files = Files::new();
    let policy = files.write("policy.yaml", "a: '!'\nb: '!'\nc: '!'\n");
    files.write("policy.d/20-later", "a: '@'\n");
    files.write("policy.d/10-first.yaml", "a: '!'\nb: '@'\n");
    files.write("policy.d/.hidden", "c: '@'\n");
    files.write("policy.d/sub/deeper", "c: '@'\n");
    let dir = files.path("policy.d");
    let dir = dir.to_str().unwrap();
    let answers = ["a", "b", "c"].map(|rule| {
        let line = ["--policy", &policy, "--policy-dir", dir, rule];
        check(&files, &line).0
    });
    assert_eq!(answers, [0, 0, 1]);
    files.write("policy.d/30", "a: rule:b\nb: rule:a\n");
    let (code, _, said) = check(&files, &["--policy-dir", dir, "c"]);
    assert_eq!(code, 2);
    assert!(
        said.contains("policy.d/30:1: ") && said.contains("circle"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    let files = Files::new();
    for (text, said) in [
        (
            "a: '@'\nt:\n",
            "policy.yaml:2: rule \"t\" must be a string or a list, and this is empty",
        ),
        ("t: !\n", "policy.yaml:1: tags"),
        (
            "t: '!'\nt: '@'\n",
            "policy.yaml:2: rule \"t\" is in line 1 already",
        ),
        ("t: [\n", "policy.yaml:"),
    ] {
        let policy = files.write("policy.yaml", text);
        for tool in ["check", "validate", "list-redundant"] {
            let (code, out, error) = match tool {
                "check" => check(&files, &["--policy", &policy, "t"]),
                other => run(&[other, "--policy", &policy]),
            };
            assert_eq!((code, out.as_str()), (2, ""), "{text}");
            assert!(
                error.starts_with("volattachd: ") && error.contains(said),
                "{error}"
            );
        }
    }
    let latin1 = files.path("latin1.yaml");
    std::fs::write(&latin1, b"t: '\xe9'\n").unwrap();
    for path in [latin1.to_str().unwrap(), "/nonexistent/policy.yaml"] {
        let (code, _, error) = check(&files, &["--policy", path, "t"]);
        assert_eq!(code, 2);
        assert!(
            error.contains(&format!("cannot read the policy {path}: ")),
            "{error}"
        );
    }
    assert_eq!(check(&files, &["--policy-dir", "/nonexistent", "t"]).0, 2);
    assert_eq!(check(&files, &[]).0, 2, "no rule was named");
    assert_eq!(run(&["nonsense"]).0, 2);
}

#[test]
fn credentials_and_targets_are_json_objects() {
    let files = Files::new();
    let good = files.write("good.json", "{}");
    for text in ["[]", "null", "{", ""] {
        let bad = files.write("bad.json", text);
        for (credentials, target, what) in [(&bad, &good, "credentials"), (&good, &bad, "target")] {
            let (code, _, error) = run(&[
                "check",
                "--credentials",
                credentials,
                "--target",
                target,
                "t",
            ]);
            assert_eq!(code, 2);
            assert!(
                error.contains(&format!("cannot read the {what} {bad}: ")),
                "{error}"
            );
        }
    }
}

#[test]
fn a_check_that_cannot_be_evaluated_denies_and_is_told() {
    let files = Files::new();
    let policy = files.write("policy.yaml", "t: not class:x\n");
    let (code, out, error) = check(&files, &["--policy", &policy, "t"]);
    assert_eq!((code, out.as_str()), (1, "deny\n"));
    let why = "\"class\" is a word of Python's own";
    assert!(error.contains(why), "{error}");
}

#[test]
fn the_sample_has_every_rule_and_changes_nothing() {
    let files = Files::new();
    let (code, sample, _) = run(&["sample"]);
    assert_eq!(code, 0);
    assert!(sample.contains(
        "\n# POST  /volattach.v1.VolumeAttach/AttachVolume\n#\"volume:attachment_create\": "
    ));
    let policy = files.write("policy.yaml", &sample);
    assert_eq!(
        run(&["validate", "--policy", &policy]),
        (0, String::new(), String::new())
    );
    assert_eq!(run(&["list-redundant", "--policy", &policy]).1, "");
    let same = files.write(
        "same.yaml",
        "admin_api: ((is_admin:True) or (role:admin and is_admin_project:True))\nx: '@'\n",
    );
    assert_eq!(
        run(&["list-redundant", "--policy", &same]),
        (
            0,
            "\"admin_api\": \"is_admin:True or (role:admin and is_admin_project:True)\"\n"
                .to_owned(),
            String::new()
        )
    );
}

#[test]
fn an_old_file_becomes_yaml() {
    let files = Files::new();
    let json = r#"{"context_is_admin": "role:admin", "volume:extend": "role:storage", "volume:accept_transfer": ""}"#;
    let json = files.write("policy.json", json);
    let (code, yaml, _) = run(&["convert", &json]);
    assert_eq!(code, 0);
    assert!(
        yaml.contains("\n#\"context_is_admin\": \"role:admin\"\n"),
        "{yaml}"
    );
    assert!(
        yaml.contains("\n\"volume:extend\": \"role:storage\"\n"),
        "{yaml}"
    );
    let (_, extra) = yaml.split_once("# WARNING: ").unwrap();
    assert!(
        extra.ends_with("\n\"volume:accept_transfer\": \"\"\n"),
        "{yaml}"
    );
    assert_eq!(run(&["convert", "/nonexistent.json"]).0, 2);
}

#[test]
fn an_explanation_names_each_check() {
    let files = Files::new();
    let caller = files.write(
        "caller.json",
        r#"{"project_id": "p9", "roles": ["member"]}"#,
    );
    let target = files.write("target.json", r#"{"project_id": "p1"}"#);
    let line = [
        "explain",
        "--credentials",
        &caller,
        "--target",
        &target,
        "volume:extend",
    ];
    let (code, text, _) = run(&line);
    assert_eq!(code, 1);
    insta::assert_snapshot!(text, @r#"
    deny: rule "volume:extend" says so
    no    volume:extend  (built in)
    no      rule:xena_system_admin_or_project_member  (built in)
    no        or
    no          role:admin  (wanted "admin"; the caller's are ["member"])
    no          and
    yes           role:member  (wanted "member"; the caller's are ["member"])
    no            project_id:%(project_id)s  (wanted "p1"; project_id is "p9")
    "#);
}

#[test]
fn each_tool_has_its_man_page() {
    let files = Files::new();
    let dir = files.path("");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_volattachd"))
        .arg("--man")
        .arg(&dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for page in [
        "volattachd.8",
        "volattachd-policy.8",
        "volattachd-policy-list-redundant.8",
    ] {
        let text = std::fs::read_to_string(dir.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}
