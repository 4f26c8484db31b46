//! Holds the documentation to what there is: its links, its index, the tests and findings that it names.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file beneath a folder with that extension.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
}

/// Every source beneath a folder, in one text. Tests are written there as `fn NAME(` or `name: "NAME"`.
fn sources(folder: &str) -> String {
    let mut found = Vec::new();
    files(&root().join(folder), "rs", &mut found);
    let texts = found.iter().map(|path| fs::read_to_string(path).unwrap());
    texts.collect()
}

/// The documents, by their path from the root.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        }
    }
    for folder in ["clients", "docs", "tests"] {
        files(&root().join(folder), "md", &mut found);
    }
    let documents = found.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    });
    documents.collect()
}

/// The lines of a document that are not in a fenced block.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// The targets of a document's links within the repository.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let parts: Vec<&str> = prose.split('`').collect();
    assert!(parts.len() % 2 == 1, "a backtick is not closed");
    // What stands between backticks is no link.
    let plain: String = parts.into_iter().step_by(2).collect();
    let targets = plain.split("](").skip(1);
    let targets = targets.map(|rest| rest.split(')').next().unwrap().to_owned());
    targets.filter(|it| !it.starts_with("http")).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(text).lines().filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        let anchor: String = kept.map(|it| if it == ' ' { '-' } else { it }).collect();
        let more = (1..).map(|number| format!("{anchor}-{number}"));
        let mut names = std::iter::once(anchor.clone()).chain(more);
        found.insert(names.find(|name| !found.contains(name)).unwrap());
    }
    found
}

/// The path from the root to which a link in that document leads, and its anchor.
fn resolve(document: &Path, link: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    let mut target = PathBuf::new();
    let from = match path {
        "" => document.to_owned(),
        path => document.parent().unwrap().join(path),
    };
    for component in from.components() {
        match component {
            Component::ParentDir => assert!(target.pop(), "{link} leads out of the repository"),
            Component::Normal(name) => target.push(name),
            _ => {}
        }
    }
    (target, anchor)
}

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let documents = documents();
    let mut faults = Vec::new();
    let mut seen = 0;
    for (document, text) in &documents {
        for link in links(text) {
            let (target, anchor) = resolve(document, &link);
            let there = match (&anchor, documents.get(&target)) {
                (Some(anchor), Some(text)) => anchors(text).contains(anchor),
                (Some(_), None) => false,
                (None, _) => root().join(&target).exists(),
            };
            if !there {
                faults.push(format!("{}: {link}", document.display()));
            }
            seen += 1;
        }
    }
    assert!(faults.is_empty(), "dead links:\n{}", faults.join("\n"));
    assert!(seen > 100, "{seen}");
}

#[test]
fn the_index_links_every_page() {
    let documents = documents();
    let index = Path::new("docs/README.md");
    let linked: BTreeSet<PathBuf> = links(&documents[index])
        .iter()
        .map(|link| resolve(index, link).0)
        .collect();
    let pages = documents.keys().filter(|page| page.starts_with("docs"));
    let missing: Vec<_> = pages
        .filter(|page| *page != index && !linked.contains(*page))
        .collect();
    assert!(missing.is_empty(), "{index:?} lacks {missing:?}");
    let front = links(&documents[Path::new("README.md")]);
    assert!(front.contains(&"docs/README.md".to_owned()), "{front:?}");
}

/// The cells in backticks of the first column of the table beneath a heading.
fn first_column<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let rest = text.split_once(heading).unwrap().1;
    let section = rest.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap()).collect()
}

#[test]
fn the_findings_that_operators_are_told_of_are_doctors() {
    let page = &documents()[Path::new("docs/operating.md")];
    let findings = first_column(page, "## What doctor finds");
    assert!(findings.len() > 10, "{findings:?}");
    let told = sources("src/attach") + &sources("src/cli") + &sources("src/app");
    let unknown: Vec<_> = findings.iter().filter(|it| !told.contains(**it)).collect();
    assert!(unknown.is_empty(), "doctor tells of no {unknown:?}");
}

#[test]
fn the_threat_model_names_tests_that_there_are() {
    let sources = sources("src") + &sources("tests");
    let document = &documents()[Path::new("docs/security.md")];
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
                None if name.contains('/') => root().join(name).exists(),
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
