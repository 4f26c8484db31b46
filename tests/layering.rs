//! Holds the layers to their table: which module may import which, where `unsafe` may be, and how files look.
//!
//! Sources are read as token streams, so comments, strings and line breaks cannot mislead the checks, and paths inside
//! macros are seen too.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Each module, and what it may import. `module::Item` allows that item alone. The bottom layers come first.
const TABLE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("figures", &[]),
    ("sys", &["model::Wwid"]),
    ("config", &["model"]),
    ("connection", &["model"]),
    ("policy", &["model", "sys"]),
    ("journal", &["model", "figures"]),
    ("libvirt", &["model", "figures", "config", "sys"]),
    ("host", &["model", "sys"]),
    ("backend", &["model", "config", "connection", "sys", "host"]),
    ("auth", &["model", "config", "sys"]),
    ("admission", &["model", "policy"]),
    (
        "attach",
        &[
            "model",
            "figures",
            "connection",
            "admission::Admitted",
            "admission::Denied",
            "admission::Grant",
            "journal",
            "backend",
            "libvirt",
        ],
    ),
    (
        "reconcile",
        &["model", "attach", "journal", "backend", "libvirt"],
    ),
    (
        "api",
        &[
            "model",
            "figures",
            "config",
            "connection",
            "policy",
            "host",
            "auth",
            "admission",
            "attach",
        ],
    ),
];

/// The modules that put the parts together: they import what they need, and nobody imports them.
const TOP: &[&str] = &["app", "cli", "fuzz"];

/// The modules where `unsafe` may be, in files that allow it by name.
const UNSAFE: &[&str] = &["sys", "libvirt"];

/// Lines a file may have, tests beside the code included: a longer one is split.
const MAX_LINES: usize = 600;

struct Source {
    /// Relative to `src`.
    path: PathBuf,
    text: String,
    tokens: TokenStream,
}

impl Source {
    /// The top-level module that the file belongs to; `None`: the crate's root or a binary.
    fn module(&self) -> Option<&str> {
        let first = self.path.iter().next()?.to_str()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(name, "lib" | "bin")).then_some(name)
    }

    /// How many `super::` lead from the file's outermost level to the crate's root.
    fn depth(&self) -> usize {
        let folders = self.path.iter().count() - 1;
        folders + usize::from(!self.path.ends_with("mod.rs"))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let tokens = text
                    .parse()
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let path = path.strip_prefix(&root).unwrap().to_owned();
                found.push(Source { path, text, tokens });
            }
        }
    }
    assert!(!found.is_empty(), "no sources beneath {}", root.display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The paths that start at the crate's root, as `module` or `module::item`, one for each item of a `use` list.
fn crate_paths(tokens: &TokenStream, depth: usize, found: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let word = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => ident.to_string(),
        _ => String::new(),
    };
    let separator = |at: usize| {
        let colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
        colon(at) && colon(at + 1)
    };
    let mut at = 0;
    while at < tokens.len() {
        let starts_path = at < 2 || !separator(at - 2);
        let mut after = None;
        if matches!(word(at).as_str(), "crate" | "volattach") && separator(at + 1) && starts_path {
            after = Some(at + 3);
        } else if word(at) == "super" && starts_path {
            let mut end = at;
            let mut supers = 0;
            while word(end) == "super" && separator(end + 1) {
                supers += 1;
                end += 3;
            }
            if supers >= depth {
                after = Some(end);
            }
        }
        if let Some(start) = after {
            expand(&tokens[start..], "", found);
            at = start;
            continue;
        }
        if let TokenTree::Group(group) = &tokens[at] {
            let inline_module =
                group.delimiter() == Delimiter::Brace && at >= 2 && word(at - 2) == "mod";
            crate_paths(&group.stream(), depth + usize::from(inline_module), found);
        }
        at += 1;
    }
}

/// Adds the first two names of each path that the tokens begin with.
fn expand(tokens: &[TokenTree], prefix: &str, found: &mut BTreeSet<String>) {
    match tokens.first() {
        Some(TokenTree::Group(list)) if list.delimiter() == Delimiter::Brace => {
            let list: Vec<TokenTree> = list.stream().into_iter().collect();
            let comma =
                |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
            for item in list.split(comma).filter(|item| !item.is_empty()) {
                expand(item, prefix, found);
            }
        }
        Some(name) => {
            let rest = match tokens.get(1) {
                Some(TokenTree::Punct(p)) if p.as_char() == ':' => tokens.get(3..),
                _ => None,
            };
            match rest {
                Some(rest) if prefix.is_empty() => expand(rest, &format!("{name}::"), found),
                _ => {
                    found.insert(format!("{prefix}{name}"));
                }
            }
        }
        None => {}
    }
}

/// Why `module` may not use `path`, if it may not.
fn forbidden(module: &str, path: &str) -> Option<String> {
    let (target, _) = path.split_once("::").unwrap_or((path, ""));
    if target == module || (TOP.contains(&module) && !TOP.contains(&target)) {
        return None;
    }
    let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == module) else {
        return Some(format!("{module} is not in the table"));
    };
    (!allowed.contains(&target) && !allowed.contains(&path))
        .then(|| format!("{module} may import {allowed:?}"))
}

fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

#[test]
fn modules_import_only_what_their_layer_may() {
    let mut faults = Vec::new();
    for source in sources() {
        let Some(module) = source.module() else {
            continue;
        };
        let mut paths = BTreeSet::new();
        crate_paths(&source.tokens, source.depth(), &mut paths);
        for path in paths {
            if let Some(why) = forbidden(module, &path) {
                faults.push(format!(
                    "src/{}: crate::{path}: {why}",
                    source.path.display()
                ));
            }
        }
    }
    assert_none("imports against the layers", &faults);
}

#[test]
fn every_module_is_in_the_table() {
    let known: BTreeSet<&str> = TABLE
        .iter()
        .map(|(name, _)| *name)
        .chain(TOP.iter().copied())
        .collect();
    let sources = sources();
    let there: BTreeSet<&str> = sources.iter().filter_map(Source::module).collect();
    let unknown: Vec<_> = there.difference(&known).map(ToString::to_string).collect();
    assert_none(
        "modules that the table does not know: decide what they may import",
        &unknown,
    );
}

/// The rows of the layers' drawing on the crate's front page, from the bottom.
fn drawn() -> Vec<Vec<String>> {
    let front = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let front = fs::read_to_string(front).unwrap();
    let layers = front.split_once("# Layers").unwrap().1;
    let rows = layers.lines().filter_map(|line| line.split_once("│ "));
    let rows = rows.filter_map(|(modules, _)| modules.strip_prefix("//!"));
    let rows = rows.map(|modules| modules.split_whitespace().map(str::to_owned).collect());
    let mut rows: Vec<_> = rows.collect();
    rows.reverse();
    rows
}

#[test]
fn the_front_page_draws_the_layers_as_they_are() {
    let rows = drawn();
    let row = |name: &str| {
        let found = rows.iter().position(|row| row.iter().any(|it| it == name));
        found.unwrap_or_else(|| panic!("the drawing in src/lib.rs lacks {name}"))
    };
    let mut faults = Vec::new();
    for (module, allowed) in TABLE {
        for allowed in *allowed {
            let (below, _) = allowed.split_once("::").unwrap_or((allowed, ""));
            if row(below) >= row(module) {
                faults.push(format!("{module} may import {below}"));
            }
        }
    }
    assert_none(
        "imports that the drawing in src/lib.rs does not have",
        &faults,
    );
    let top = TOP.iter().filter(|name| **name != "fuzz");
    assert!(top.map(|name| row(name)).all(|it| it == rows.len() - 1));
    assert_eq!(rows.concat().len(), TABLE.len() + TOP.len() - 1);
}

#[test]
fn unsafe_stays_in_its_modules() {
    fn mentions_unsafe(tokens: &TokenStream) -> bool {
        tokens.clone().into_iter().any(|token| match token {
            TokenTree::Group(group) => mentions_unsafe(&group.stream()),
            TokenTree::Ident(ident) => ident == "unsafe" || ident == "unsafe_code",
            _ => false,
        })
    }
    let faults: Vec<_> = sources()
        .iter()
        .filter(|source| {
            source
                .module()
                .is_none_or(|module| !UNSAFE.contains(&module))
        })
        .filter(|source| mentions_unsafe(&source.tokens))
        .map(|source| source.path.display().to_string())
        .collect();
    assert_none("unsafe outside of sys and libvirt", &faults);
}

/// The trait methods with a default body: an implementation that forgets such a method still builds.
fn defaults(tokens: &TokenStream, found: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let is = |at: usize, word: &str| matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == word);
    let braces = |token: &TokenTree| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group.stream()),
        _ => None,
    };
    for at in 0..tokens.len() {
        if is(at, "trait") {
            let Some(body) = tokens[at..].iter().find_map(braces) else {
                continue;
            };
            let body: Vec<TokenTree> = body.into_iter().collect();
            let name = &tokens[at + 1];
            for (at, token) in body.iter().enumerate() {
                let declared = matches!(token, TokenTree::Ident(ident) if ident == "fn");
                let end = body[at..].iter().find(|token| {
                    braces(token).is_some()
                        || matches!(token, TokenTree::Punct(p) if p.as_char() == ';')
                });
                if declared && end.and_then(braces).is_some() {
                    found.insert(format!("{name}::{}", body[at + 1]));
                }
            }
        } else if let Some(inner) = braces(&tokens[at]) {
            defaults(&inner, found);
        }
    }
}

#[test]
fn no_trait_decides_for_who_forgets() {
    let mut found = BTreeSet::new();
    for source in sources() {
        defaults(&source.tokens, &mut found);
    }
    // These only combine the other methods.
    for combined in ["Journal::all", "Hypervisor::is_plugged"] {
        found.remove(combined);
    }
    let found: Vec<String> = found.into_iter().collect();
    assert_none("methods of traits with a default", &found);
}

#[test]
fn modules_open_with_their_purpose() {
    let faults: Vec<_> = sources()
        .iter()
        .filter(|source| source.path.ends_with("mod.rs") || source.path.ends_with("lib.rs"))
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path.display().to_string())
        .collect();
    assert_none("no //! on the first line", &faults);
}

#[test]
fn files_are_short() {
    let faults: Vec<_> = sources()
        .iter()
        .map(|source| (source.text.lines().count(), source))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, source)| format!("{} has {lines}", source.path.display()))
        .collect();
    assert_none("more than 600 lines", &faults);
}

#[test]
fn the_checks_find_what_they_look_for() {
    let paths = |text: &str, depth| {
        let mut found = BTreeSet::new();
        crate_paths(&text.parse().unwrap(), depth, &mut found);
        found.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        paths(
            "use crate::{model::{Access, Reason}, sys, backend::smb::Smb as S}; // crate::no",
            1
        ),
        ["backend::smb", "model::Access", "model::Reason", "sys"]
    );
    assert_eq!(
        paths("mod a { use super::super::attach::run; use super::b; }", 1),
        ["attach::run"]
    );
    assert_eq!(
        paths("use super::super::super::api; use super::x;", 3),
        ["api"]
    );
    assert_eq!(
        paths("fn f() { println!(\"crate::no {}\", crate::api::X) }", 1),
        ["api::X"]
    );
    assert_eq!(
        paths(
            "use volattach::app::run; use other::crate_::volattach::x;",
            1
        ),
        ["app::run"]
    );

    let mut found = BTreeSet::new();
    let traits = "mod a { pub trait T: Send { async fn a(&self) -> [u8; 2]; fn b(&self) -> u8 { 1 } } } impl T for U { fn a() {} }";
    defaults(&traits.parse().unwrap(), &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["T::b"]);

    assert_eq!(forbidden("attach", "admission::Admitted"), None);
    assert_eq!(forbidden("api", "api::proto"), None);
    assert_eq!(forbidden("app", "backend::smb"), None);
    for (module, path) in [
        ("attach", "admission::admit"),
        ("model", "config::Settings"),
        ("api", "app::run"),
        ("app", "cli::run"),
        ("sys", "*"),
    ] {
        assert!(forbidden(module, path).is_some(), "{module} {path}");
    }
}
