//! Holds what the documentation says of the tests to the tests that there are.

#![cfg(test)]

use std::fs;
use std::path::Path;

/// Every test's name, of whatever kind, in one text: they are written as `fn NAME(` or `name: "NAME"`.
fn tests_of(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_of(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_threat_model_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    tests_of(&root.join("src"), &mut sources);
    tests_of(&root.join("tests"), &mut sources);
    let document = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let threats = document.split_once("## Threats").unwrap().1;
    let mut named = 0;
    for line in threats.lines().filter(|line| line.starts_with("| ")) {
        let Some(shown_by) = line.trim_end_matches(" |").rsplit(" | ").next() else {
            continue;
        };
        if matches!(shown_by, "shown by" | "---") {
            continue;
        }
        for name in shown_by.split('`').skip(1).step_by(2) {
            let found = match name.strip_prefix("FILTER=") {
                Some(filter) => sources.contains(&format!("name: \"{filter}")),
                None if name.contains('/') => root.join(name).exists(),
                None => sources.contains(&format!("fn {name}(")),
            };
            assert!(
                found,
                "docs/security.md names {name}, and there is no such test"
            );
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}
