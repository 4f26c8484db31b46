//! What is refused of rules as a whole: circles, and what takes too long or too much of the stack to look at.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::Check;
use super::error::{Place, PolicyError, Refusal};
use super::rules::Policy;

/// How deep checks may be, rules that they refer to included: some 300 levels fill the stack of oslo.policy, which then raises.
const MAX_LEVELS: usize = 250;

/// How many checks a decision may come to look at.
const MAX_CHECKS: usize = 100_000;

/// How many servers a decision may come to ask: each with a deadline of its own.
const MAX_SERVERS: usize = 16;

/// Checks that every rule can be evaluated.
pub(super) fn check(policy: &Policy) -> Result<(), PolicyError> {
    let mut walk = Walk {
        policy,
        path: Vec::new(),
        sizes: BTreeMap::new(),
    };
    policy.rules.keys().try_for_each(|name| walk.visit(name))
}

#[derive(Debug, Clone, Copy)]
struct Size {
    levels: usize,
    checks: usize,
    servers: usize,
}

struct Walk<'a> {
    policy: &'a Policy,
    path: Vec<&'a str>,
    sizes: BTreeMap<&'a str, Size>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, name: &'a str) -> Result<(), PolicyError> {
        let Some((name, rule)) = self.policy.resolve(name) else {
            return Ok(());
        };
        if self.sizes.contains_key(name) {
            return Ok(());
        }
        if let Some(start) = self.path.iter().position(|on| *on == name) {
            let circle = &self.path[start..];
            let names = circle.iter().copied().chain([name]);
            let fault = Refusal::Cycle(names.map(ToOwned::to_owned).collect());
            return self.refuse(circle, fault);
        }
        if self.path.len() > MAX_LEVELS {
            return self.too_large(name, MAX_LEVELS, "levels");
        }
        self.path.push(name);
        let mut references = Vec::new();
        references_of(&rule.check, &mut references);
        for reference in references {
            self.visit(reference)?;
        }
        self.path.pop();
        let size = self.size(&rule.check);
        if size.levels > MAX_LEVELS {
            return self.too_large(name, MAX_LEVELS, "levels");
        }
        if size.checks > MAX_CHECKS {
            return self.too_large(name, MAX_CHECKS, "checks");
        }
        if size.servers > MAX_SERVERS {
            return self.too_large(name, MAX_SERVERS, "checks that ask a server");
        }
        self.sizes.insert(name, size);
        Ok(())
    }

    fn size(&self, check: &Check) -> Size {
        let below = match check {
            Check::Rule(name) => {
                let found = self.policy.resolve(name);
                let size = found.and_then(|(name, _)| self.sizes.get(name));
                size.copied().into_iter().collect()
            }
            other => other
                .parts()
                .iter()
                .map(|part| self.size(part))
                .collect::<Vec<_>>(),
        };
        let levels = below.iter().map(|size| size.levels).max().unwrap_or(0);
        let checks = below
            .iter()
            .fold(1, |sum: usize, size| sum.saturating_add(size.checks));
        let own = usize::from(matches!(check, Check::Remote(_)));
        let servers = below
            .iter()
            .fold(own, |sum, size| sum.saturating_add(size.servers));
        Size {
            levels: levels + 1,
            checks,
            servers,
        }
    }

    fn too_large(&self, name: &str, most: usize, what: &'static str) -> Result<(), PolicyError> {
        let fault = Refusal::TooLarge {
            name: name.to_owned(),
            most,
            what,
        };
        self.refuse(&[name], fault)
    }

    /// Refuses the file that has the first of the rules; those in code are right.
    fn refuse(&self, rules: &[&str], fault: Refusal) -> Result<(), PolicyError> {
        let rules = rules.iter().filter_map(|name| self.policy.rules.get(*name));
        let at = rules.filter_map(|rule| rule.at.clone()).next();
        Err(PolicyError::Refused {
            at: at.unwrap_or(Place {
                file: Path::new("(built in)").into(),
                line: 1,
            }),
            fault,
        })
    }
}

fn references_of<'a>(check: &'a Check, found: &mut Vec<&'a str>) {
    if let Check::Rule(name) = check {
        found.push(name);
    }
    for part in check.parts() {
        references_of(part, found);
    }
}
