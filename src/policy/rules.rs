//! Rules put together: those in code, a policy file over them, a directory of files over that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::Check;
use super::defaults::{DEFAULT_RULE, RuleDefault};
use super::error::{Place, PolicyError};
use super::file::{self, FileRule};
use super::limits;
use super::parse::{parse, parse_text};
use super::remote::Remote;

/// Where a policy comes from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The rules in code.
    pub defaults: &'static [RuleDefault],
    /// Whether a default that has changed is what it is now. If not, whoever its earlier rule lets in is let in too,
    /// as long as no file has the rule (oslo.policy's `enforce_new_defaults`).
    pub enforce_new_defaults: bool,
    /// The policy file.
    pub file: Option<&'a Path>,
    /// A directory of files that are read after it, in the order of their names, those that begin with a dot left out.
    /// A rule that is read later replaces the earlier one.
    pub dir: Option<&'a Path>,
}

/// The rules that hold.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(super) defaults: &'static [RuleDefault],
    pub(super) rules: BTreeMap<String, Rule>,
    /// `None`: checks that ask a server cannot be evaluated.
    pub(super) remote: Option<Arc<dyn Remote>>,
}

/// One rule that holds.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) check: Check,
    /// `None`: in code.
    pub(super) at: Option<Place>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Where a file cannot be read, or is refused.
    pub fn load(sources: Sources<'_>) -> Result<Self, PolicyError> {
        let mut files = Vec::new();
        files.extend(sources.file.map(Path::to_owned));
        if let Some(dir) = sources.dir {
            files.extend(files_in(dir)?);
        }
        let mut rules = BTreeMap::new();
        for path in files {
            for FileRule { name, at, text } in file::read(&path)? {
                let check = parse(&text);
                rules.insert(
                    name,
                    Rule {
                        check,
                        at: Some(at),
                    },
                );
            }
        }
        for default in sources.defaults {
            if !rules.contains_key(default.name) {
                let check = default_check(default, &rules, sources.enforce_new_defaults);
                rules.insert(default.name.to_owned(), Rule { check, at: None });
            }
        }
        let policy = Self {
            defaults: sources.defaults,
            rules,
            remote: None,
        };
        limits::check(&policy)?;
        Ok(policy)
    }

    /// The same, whose `http:` and `https:` checks are asked by `remote`.
    #[must_use]
    pub fn asking(mut self, remote: Arc<dyn Remote>) -> Self {
        self.remote = Some(remote);
        self
    }

    /// The rule that a name stands for, and its own name: `default` stands in for one that is missing.
    pub(super) fn resolve(&self, name: &str) -> Option<(&str, &Rule)> {
        self.rules
            .get_key_value(name)
            .or_else(|| self.rules.get_key_value(DEFAULT_RULE))
            .map(|(name, rule)| (name.as_str(), rule))
    }

    /// The rules of files that say what the code says: `"name": "check"`, by name.
    #[must_use]
    pub fn redundant(&self) -> Vec<(&'static str, &'static str)> {
        let mut found: Vec<_> = self
            .defaults
            .iter()
            .filter(|default| {
                let rule = self.rules.get(default.name);
                rule.is_some_and(|rule| rule.at.is_some() && default.is_same(&rule.check))
            })
            .map(|default| (default.name, default.check))
            .collect();
        found.sort_unstable();
        found
    }
}

impl RuleDefault {
    /// Whether a check is this rule's, however it is written.
    pub(super) fn is_same(&self, check: &Check) -> bool {
        parse_text(self.check).to_string() == check.to_string()
    }
}

/// A default that no file has. A file may have its earlier name: then that holds, unless it says nothing new.
fn default_check(
    default: &RuleDefault,
    files: &BTreeMap<String, Rule>,
    enforce_new_defaults: bool,
) -> Check {
    let check = parse_text(default.check);
    let Some(deprecated) = &default.deprecated else {
        return check;
    };
    let earlier = parse_text(deprecated.check);
    if deprecated.name != default.name
        && let Some(rule) = files.get(deprecated.name)
        && rule.check != earlier
        && rule.check != Check::Rule(default.name.to_owned())
    {
        return rule.check.clone();
    }
    match enforce_new_defaults || deprecated.check == default.check {
        true => check,
        false => Check::Or(vec![check, earlier]),
    }
}

pub(super) fn files_in(dir: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let failed = |source| PolicyError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && !entry.path().is_dir() {
            if entry.file_name().to_str().is_none() {
                let odd = "a name there is not UTF-8, and its place in the order unclear";
                return Err(failed(io::Error::new(ErrorKind::InvalidInput, odd)));
            }
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
