//! The recipe of Cinder's policy documentation for an administrator who may look and not touch.

use super::{Files, run};

/// As the recipe is written there, with a rule of the service that uses each of its own.
const RECIPE: &str = r#"
"context_is_admin": "role:admin or role:cinder:reader-admin"
"strict_admin_api": "not role:cinder:reader-admin and rule:admin_api"
"strict_admin_or_owner": "(not role:cinder:reader-admin and (is_admin:True or (role:admin and is_admin_project:True))) or project_id:%(project_id)s"
"volume:extend": "rule:strict_admin_or_owner"
"volume:attachment_delete": "rule:strict_admin_api"
"volume:attachment_get": "rule:admin_or_owner"
"#;

/// The sample with the recipe's rules in place of its own.
fn policy() -> String {
    let (code, sample, _) = run(&["sample"]);
    assert_eq!(code, 0);
    sample + RECIPE
}

#[test]
fn an_observer_sees_all_and_changes_nothing() {
    let files = Files::new();
    let policy = files.write("policy.yaml", &policy());
    let target = files.write("target.json", r#"{"project_id": "p1", "user_id": "u1"}"#);
    let table = [
        // Roles, project, and whether they may look, extend, and delete.
        ("cinder:reader-admin", "p9", [true, false, false]),
        ("CINDER:Reader-Admin", "p9", [true, false, false]),
        ("cinder:reader-admin", "p1", [true, true, false]),
        ("admin", "p9", [true, true, true]),
        ("member", "p1", [true, true, false]),
        ("member", "p9", [false, false, false]),
    ];
    for (role, project, expected) in table {
        let caller = format!(
            r#"{{"user_id": "u2", "project_id": "{project}", "roles": ["{role}", "reader"]}}"#
        );
        let caller = files.write("caller.json", &caller);
        let allowed = [
            "volume:attachment_get",
            "volume:extend",
            "volume:attachment_delete",
        ]
        .map(|rule| {
            let line = [
                "check",
                "--policy",
                &policy,
                "--credentials",
                &caller,
                "--target",
                &target,
                rule,
            ];
            run(&line).0 == 0
        });
        assert_eq!(allowed, expected, "{role} of {project}");
    }
}

#[test]
fn its_role_is_to_be_made_known() {
    let files = Files::new();
    let policy = files.write("policy.yaml", &policy());
    let (code, said, _) = run(&["validate", "--policy", &policy]);
    assert_eq!(code, 1);
    assert!(
        said.lines()
            .all(|line| line.contains("nobody knows the role \"cinder:reader-admin\"")),
        "{said}"
    );
    assert!(said.contains("beneath not lets everyone in"), "{said}");
    let roles = files.write("roles", "# the deployment's\ncinder:reader-admin\n");
    let known = run(&["validate", "--policy", &policy, "--roles", &roles]);
    assert_eq!(known, (0, String::new(), String::new()));
    // Wherever in the recipe it is misspelt.
    let places = RECIPE.matches("cinder:reader-admin").count();
    for place in 0..places {
        let (at, role) = RECIPE
            .match_indices("cinder:reader-admin")
            .nth(place)
            .unwrap();
        let mut misspelt = RECIPE.to_owned();
        misspelt.replace_range(at..at + role.len(), "cinder:reader-admn");
        let misspelt = files.write("misspelt.yaml", &misspelt);
        let (code, said, _) = run(&["validate", "--policy", &misspelt, "--roles", &roles]);
        assert_eq!(code, 1, "{place}: {said}");
        assert!(
            said.contains("did you mean \"cinder:reader-admin\"?"),
            "{place}: {said}"
        );
    }
    assert_eq!(places, 3);
}
