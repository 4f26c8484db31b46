//! A decision taken apart: each check of a rule with its value, and why it has it.

use std::fmt;

use super::check::{Check, Generic};
use super::decide::{Credentials, Decision, Stop, Target, View, get};
use super::python::{Fault, FormatError, Value, format};
use super::remote::Answers;
use super::rules::Policy;

/// A decision, and the checks that it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The rule asked for; `None`: there is none.
    pub(super) tree: Option<Node>,
}

/// One check.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    label: String,
    pub(super) value: Outcome,
    why: String,
    below: Vec<Node>,
}

/// What a check comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    True,
    False,
    /// It cannot be evaluated.
    Fault,
    /// A server was not asked, since the decision does not depend on it.
    Unasked,
}

impl Policy {
    /// Decides as [`Policy::decide`] does, and tells of every check, also of those that a decision need not look at.
    pub async fn explain(
        &self,
        rule: &str,
        credentials: &Credentials,
        target: &Target,
    ) -> Explanation {
        let mut answers = Answers::default();
        let decision = self
            .decide_by(rule, credentials, target, &mut answers)
            .await;
        let view = View {
            policy: self,
            rule,
            credentials,
            target,
            answers: &answers,
        };
        Explanation {
            decision,
            tree: self.resolve(rule).map(|_| view.reference(rule, rule)),
        }
    }
}

impl View<'_> {
    fn node(&self, check: &Check) -> Node {
        let below: Vec<_> = match check {
            Check::Rule(name) => return self.reference(&check.to_string(), name),
            joined => joined.parts().iter().map(|part| self.node(part)).collect(),
        };
        let (label, value) = match check {
            Check::Not(_) => ("not", first(&below, Outcome::True).not()),
            Check::And(_) => ("and", first(&below, Outcome::True)),
            Check::Or(_) => ("or", first(&below, Outcome::False)),
            leaf => return self.leaf_node(leaf),
        };
        Node {
            label: label.to_owned(),
            value,
            why: String::new(),
            below,
        }
    }

    /// A rule by its name.
    fn reference(&self, label: &str, name: &str) -> Node {
        let label = label.to_owned();
        let Some((found, rule)) = self.policy.resolve(name) else {
            return Node {
                label,
                value: Outcome::False,
                why: "there is no such rule".to_owned(),
                below: Vec::new(),
            };
        };
        let place = match &rule.at {
            Some(at) => at.to_string(),
            None => "built in".to_owned(),
        };
        let below = self.node(&rule.check);
        Node {
            label,
            value: below.value,
            why: match found == name {
                true => place,
                false => format!("there is no such rule; {found:?} stands in: {place}"),
            },
            below: vec![below],
        }
    }

    fn leaf_node(&self, leaf: &Check) -> Node {
        let (value, fault) = match self.leaf(leaf) {
            Ok(true) => (Outcome::True, None),
            Ok(false) => (Outcome::False, None),
            Err(Stop::Fault(Fault(why))) => (Outcome::Fault, Some(why)),
            Err(Stop::Ask(_)) => (Outcome::Unasked, Some("not asked".to_owned())),
        };
        let label = match leaf {
            Check::Word(word) => word.clone(),
            other => other.to_string(),
        };
        Node {
            label,
            value,
            why: fault.unwrap_or_else(|| self.why(leaf)),
            below: Vec::new(),
        }
    }

    fn why(&self, leaf: &Check) -> String {
        match leaf {
            Check::Word(_) => "no check: it has no colon".to_owned(),
            Check::Unparsable(why) => format!("the rule cannot be parsed: {why}"),
            Check::Role(name) => match format(name, &self.target.0) {
                Ok(wanted) => match get(&self.credentials.attributes, "roles") {
                    Some(roles) => format!("wanted {wanted:?}; the caller's are {}", shown(roles)),
                    None => "the caller has no roles".to_owned(),
                },
                Err(error) => missing(error),
            },
            Check::Generic(generic) => match format(&generic.right, &self.target.0) {
                Ok(wanted) => format!("wanted {wanted:?}; {}", self.values(generic)),
                Err(error) => missing(error),
            },
            _ => String::new(),
        }
    }

    /// What a left side leads to.
    fn values(&self, generic: &Generic) -> String {
        let mut found = Vec::new();
        let mut note = |value: &str| {
            found.push(format!("{value:?}"));
            false
        };
        // What cannot be evaluated was told instead.
        let _ = self.left(generic, &mut note);
        match found.is_empty() {
            true => format!("the caller has no {}", generic.left),
            false => format!("{} is {}", generic.left, found.join(", ")),
        }
    }
}

fn missing(error: FormatError) -> String {
    match error {
        FormatError::MissingKey(key) => format!("the target has no {key}"),
        FormatError::Fault(Fault(why)) => why,
    }
}

fn shown(roles: &Value) -> String {
    match roles {
        Value::List(roles) => {
            let names: Vec<_> = roles.iter().map(Value::to_python).collect();
            format!("{names:?}")
        }
        other => other.to_python(),
    }
}

/// The first value that is not `neutral`: what decides, from the left.
fn first(nodes: &[Node], neutral: Outcome) -> Outcome {
    let mut values = nodes.iter().map(|node| node.value);
    values.find(|value| *value != neutral).unwrap_or(neutral)
}

impl Outcome {
    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            other => other,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.decision.allowed {
            "allow"
        } else {
            "deny"
        };
        writeln!(f, "{word}: {}", self.decision.why)?;
        self.tree.iter().try_for_each(|tree| tree.write(f, 0))
    }
}

impl Node {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let value = match self.value {
            Outcome::True => "yes  ",
            Outcome::False => "no   ",
            Outcome::Fault => "error",
            Outcome::Unasked => "-    ",
        };
        let indent = "  ".repeat(depth);
        let why = match self.why.as_str() {
            "" => String::new(),
            why => format!("  ({why})"),
        };
        writeln!(f, "{value} {indent}{}{why}", self.label)?;
        self.below
            .iter()
            .try_for_each(|node| node.write(f, depth + 1))
    }
}
