//! Holds docs/configuration.md and what is installed in dist/, the sample configuration and the examples beside it, to the schema.

use std::collections::BTreeSet;
use std::path::Path;

use super::Settings;
use super::load::decode;
use super::tests::{schema, settings};
use super::tree::{self, Table, Value};

const SAMPLE: &str = include_str!("../../dist/etc/volattach/volattachd.toml");

macro_rules! example {
    ($name:literal) => {
        include_str!(concat!(
            "../../dist/usr/share/doc/volattach/examples/",
            $name
        ))
    };
}

/// What has no default: the drop-ins to copy.
const EXAMPLES: &[&str] = &[
    example!("keystone.toml"),
    example!("others.toml"),
    example!("servers.toml"),
    example!("tls.toml"),
];

/// The sample with every key in force. A key follows its `#` at once; words follow a space.
fn uncommented() -> String {
    let lines = SAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Adds every key beneath a table, in the paths of docs/configuration.md, where a server is `NAME`.
fn keys(table: &Table, prefix: &str, found: &mut BTreeSet<String>) {
    for (name, node) in table {
        let server = matches!(prefix, "smb.servers." | "nfs.servers.");
        let path = format!("{prefix}{}", if server { "NAME" } else { name });
        match &node.value {
            // The deployer's own names, not keys.
            Value::Table(_)
                if matches!(
                    path.as_str(),
                    "auth.local" | "auth.certificates" | "smb.local_shares"
                ) =>
            {
                found.insert(path);
            }
            Value::Table(table) => keys(table, &format!("{path}."), found),
            _ => {
                found.insert(path);
            }
        }
    }
}

#[test]
fn the_sample_changes_nothing() {
    assert_eq!(settings(SAMPLE).unwrap(), Settings::built_in());
}

#[test]
fn the_samples_keys_have_their_defaults() {
    assert_eq!(settings(&uncommented()).unwrap(), Settings::built_in());
}

#[test]
fn every_example_is_valid_as_a_drop_in() {
    for example in EXAMPLES {
        settings(example).unwrap();
    }
    let mut merged = tree::parse(Path::new("sample"), &uncommented()).unwrap();
    for example in EXAMPLES {
        tree::merge(
            &mut merged,
            tree::parse(Path::new("example"), example).unwrap(),
        );
    }
    let mut problems = Vec::new();
    decode(merged, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn sample_and_examples_have_exactly_the_keys_of_the_schema() {
    let mut found = BTreeSet::new();
    let uncommented = uncommented();
    for text in EXAMPLES.iter().copied().chain([uncommented.as_str()]) {
        keys(
            &tree::parse(Path::new("c.toml"), text).unwrap(),
            "",
            &mut found,
        );
    }
    assert_eq!(found, schema());
}

#[test]
fn the_reference_has_exactly_the_keys_of_the_schema() {
    let documented: BTreeSet<String> = include_str!("../../docs/configuration.md")
        .split_once("## Keys")
        .and_then(|(_, rest)| rest.split_once("## Mount options"))
        .unwrap()
        .0
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    assert_eq!(documented, schema());
}

#[test]
fn the_references_example_is_valid() {
    let example = include_str!("../../docs/configuration.md")
        .split_once("```toml\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .unwrap()
        .0;
    let s = settings(example).unwrap();
    assert!(s.smb.shares.read_only("filer.example.org"));
}
