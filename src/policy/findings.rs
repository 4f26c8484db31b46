//! What is likely wrong with a policy, though it can be used.
//!
//! A check that never holds denies, and nobody is let in by mistake; beneath a `not` it lets everyone in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::check::{Check, Generic, Left};
use super::defaults::{CREDENTIALS, DEFAULT_RULE, ROLES, TARGET};
use super::error::Place;
use super::python::{Fault, FormatError, Value, format, keys};
use super::remote::parts;
use super::rules::Policy;
use crate::model::{hint, nearest};

/// Something that is likely wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    at: Option<Place>,
    rule: String,
    said: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => at.fmt(f)?,
            None => f.write_str("built in")?,
        }
        write!(f, ": rule {:?}: {}", self.rule, self.said)
    }
}

/// What is wrong with a check.
struct Flaw {
    said: String,
    /// What was most likely meant.
    hint: String,
    /// What it does to the rule that has it.
    effect: Effect,
}

enum Effect {
    /// The check is false.
    False,
    /// The decision is to deny, also beneath `not`.
    Denies,
}

impl Flaw {
    fn never(said: String, near: Option<&str>) -> Self {
        Self {
            said,
            hint: hint(near),
            effect: Effect::False,
        }
    }

    fn denies(said: String) -> Self {
        Self {
            said: said + ", and denies, whatever else the rule says",
            hint: String::new(),
            effect: Effect::Denies,
        }
    }
}

impl Policy {
    /// What is likely wrong. `roles` are the roles that the deployment has, besides those that every Keystone has.
    #[must_use]
    pub fn findings(&self, roles: &[String]) -> Vec<Finding> {
        let mut search = Search {
            policy: self,
            roles: roles.iter().map(String::as_str).chain(ROLES).collect(),
            negated: self.negated(),
            found: BTreeSet::new(),
        };
        let asked = self.asked();
        for (name, rule) in &self.rules {
            search.look(name, rule.at.as_ref(), &rule.check, false);
            if !asked.contains(name.as_str()) {
                let known = nearest(name, self.defaults.iter().map(|default| default.name));
                let said = format!("no call asks for it, and no other rule{}", hint(known));
                search.add(name, rule.at.as_ref(), said);
            }
        }
        search.found.into_iter().collect()
    }

    /// The rules that calls ask for, that others refer to, or that stand in.
    fn asked(&self) -> BTreeSet<&str> {
        let mut asked = BTreeSet::from([DEFAULT_RULE]);
        for default in self.defaults {
            asked.insert(default.name);
            asked.extend(default.deprecated.map(|deprecated| deprecated.name));
        }
        let mut checks: Vec<_> = self.rules.values().map(|rule| &rule.check).collect();
        while let Some(check) = checks.pop() {
            if let Check::Rule(name) = check {
                asked.insert(name);
            }
            checks.extend(check.parts());
        }
        asked
    }

    /// The rules that others refer to beneath an odd number of `not`, and one of those others.
    fn negated(&self) -> BTreeMap<&str, &str> {
        let mut references = Vec::new();
        for (name, rule) in &self.rules {
            collect(&rule.check, name, false, &mut references);
        }
        // Each rule once as it is, and once turned round where something turns it.
        let mut turned: BTreeMap<&str, &str> = BTreeMap::new();
        loop {
            let before = turned.len();
            for (from, to, negated) in &references {
                let Some((to, _)) = self.resolve(to) else {
                    continue;
                };
                if *negated {
                    turned.entry(to).or_insert(from);
                } else if turned.contains_key(from) {
                    let by = turned[from];
                    turned.entry(to).or_insert(by);
                }
            }
            if turned.len() == before {
                return turned;
            }
        }
    }
}

fn collect<'a>(
    check: &'a Check,
    from: &'a str,
    negated: bool,
    found: &mut Vec<(&'a str, &'a str, bool)>,
) {
    if let Check::Rule(name) = check {
        found.push((from, name, negated));
    }
    let negated = negated ^ matches!(check, Check::Not(_));
    for part in check.parts() {
        collect(part, from, negated, found);
    }
}

struct Search<'a> {
    policy: &'a Policy,
    roles: Vec<&'a str>,
    negated: BTreeMap<&'a str, &'a str>,
    found: BTreeSet<Finding>,
}

impl Search<'_> {
    fn add(&mut self, rule: &str, at: Option<&Place>, said: String) {
        self.found.insert(Finding {
            at: at.cloned(),
            rule: rule.to_owned(),
            said,
        });
    }

    fn look(&mut self, rule: &str, at: Option<&Place>, check: &Check, negated: bool) {
        for flaw in self.flaws(check) {
            let trap = match (flaw.effect, negated, self.negated.get(rule)) {
                (Effect::Denies, ..) | (_, false, None) => String::new(),
                (_, true, _) => ", and beneath not lets everyone in".to_owned(),
                (_, false, Some(by)) => {
                    format!(", and lets everyone in where rule {by:?} has it beneath not")
                }
            };
            self.add(rule, at, flaw.said + &trap + &flaw.hint);
        }
        let negated = negated ^ matches!(check, Check::Not(_));
        for part in check.parts() {
            self.look(rule, at, part, negated);
        }
    }

    /// Why a check never holds, or may not.
    fn flaws(&self, check: &Check) -> Vec<Flaw> {
        let one = |said| vec![Flaw::never(said, None)];
        match check {
            Check::Unparsable(why) => one(format!("it cannot be parsed, and is false: {why}")),
            Check::Word(word) => one(format!("{word:?} is no check, for want of a colon")),
            Check::Remote(url) => match parts(url) {
                // What is missing is no false here, but nothing to ask for.
                Ok((_, path)) => template_flaws(path)
                    .into_iter()
                    .map(|flaw| Flaw::denies(flaw.said + &flaw.hint))
                    .collect(),
                Err(Fault(why)) => vec![Flaw::denies(format!("{url:?} asks nobody: {why}"))],
            },
            Check::Rule(name) if !self.policy.rules.contains_key(name) => {
                let near = nearest(name, self.policy.rules.keys().map(String::as_str));
                let said = match self.policy.resolve(name) {
                    Some((default, _)) => {
                        format!("there is no rule {name:?}; {default:?} stands in")
                    }
                    None => format!("there is no rule {name:?}"),
                };
                vec![Flaw::never(said, near)]
            }
            Check::Role(name) => self.role_flaws(name),
            Check::Generic(generic) => generic_flaws(generic),
            _ => Vec::new(),
        }
    }

    fn role_flaws(&self, name: &str) -> Vec<Flaw> {
        let mut flaws = template_flaws(name);
        let mut roles = self.roles.iter();
        let known = roles.any(|role| role.to_lowercase() == name.to_lowercase());
        if !known && !name.contains('%') {
            let near = nearest(name, self.roles.iter().copied());
            flaws.push(Flaw::never(format!("nobody knows the role {name:?}"), near));
        }
        flaws
    }
}

fn generic_flaws(generic: &Generic) -> Vec<Flaw> {
    let mut flaws = template_flaws(&generic.right);
    let Generic { left, right, .. } = generic;
    match &generic.meaning {
        Left::Literal(_) => {}
        Left::Fault(fault) => flaws.push(Flaw::denies(format!(
            "the left side of \"{left}:{right}\" is no name ({fault})"
        ))),
        Left::Path(path) => {
            let name = path.first().map_or("", String::as_str);
            if !CREDENTIALS.contains(&name) {
                let said = format!("callers have no {name:?}");
                flaws.push(Flaw::never(said, nearest(name, CREDENTIALS)));
            }
        }
    }
    if matches!(left.as_str(), "is_admin" | "is_admin_project")
        && !matches!(right.as_str(), "True" | "False")
        && !right.contains('%')
    {
        let said = format!("{left} is True or False, never {right:?}");
        flaws.push(Flaw::never(said, None));
    }
    flaws
}

/// What is wrong with a right side, whatever the target.
fn template_flaws(template: &str) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let mut any = Vec::new();
    for key in keys(template) {
        if !TARGET.contains(&key) {
            let said = format!("no call has a {key:?} in its target");
            flaws.push(Flaw::never(said, nearest(key, TARGET)));
        }
        // A whole number suits every conversion.
        any.push((key.to_owned(), Value::Int(1)));
    }
    if let Err(FormatError::Fault(Fault(why))) = format(template, &any) {
        let said = format!("{template:?} cannot be filled in ({why})");
        flaws.push(Flaw::denies(said));
    }
    flaws
}
