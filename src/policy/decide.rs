//! Decisions: what a rule says of a caller and of what is called for.

use std::fmt;

use super::check::{Check, Generic, Left};
use super::defaults::{CONTEXT_IS_ADMIN, Scope};
use super::python::{Attributes, Fault, FormatError, Value, format};
use super::remote::{Answers, Question};
use super::rules::Policy;

/// Who calls, complete with `is_admin`; made by [`Policy::credentials`], once per request.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials {
    pub(super) attributes: Attributes,
    /// Why it cannot be told whether they are an administrator's: nothing can be decided by them.
    fault: Option<Why>,
}

/// What is called for: flat, so that a rule's `%(user.id)s` is the value of the key `user.id`.
#[derive(Debug, Clone, PartialEq)]
pub struct Target(pub(super) Attributes);

impl Target {
    /// A target of these attributes.
    #[must_use]
    pub fn new(attributes: Attributes) -> Self {
        Self(attributes)
    }
}

/// Whether a call is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is.
    pub allowed: bool,
    /// Why, for those who run the service.
    pub why: Why,
}

/// Why a call is allowed, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// This rule says so. It is `default` where the rule asked for is missing.
    Rule(String),
    /// There is no such rule, and none called `default`.
    NoRule(String),
    /// The rule wants a token of another scope.
    Scope(String, Scope),
    /// A check of the rule cannot be evaluated, whatever else the rule says.
    Fault {
        /// The rule.
        rule: String,
        /// The check.
        check: String,
        /// Why.
        fault: Fault,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(name) => write!(f, "rule {name:?} says so"),
            Self::NoRule(name) => {
                write!(f, "there is no rule {name:?}, and none called \"default\"")
            }
            Self::Scope(name, scope) => {
                let scope = scope.as_str();
                write!(f, "rule {name:?} is not for tokens of the scope {scope}")
            }
            Self::Fault { rule, check, fault } => {
                write!(
                    f,
                    "in rule {rule:?}, {check:?} cannot be evaluated: {fault}"
                )
            }
        }
    }
}

/// Why a check has no value.
pub(super) enum Stop {
    /// It cannot be evaluated.
    Fault(Fault),
    /// It depends on a server that was not asked yet.
    Ask(Question),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Where an evaluation came to an end.
struct Stopped {
    check: String,
    why: Stop,
}

impl Policy {
    /// A caller's credentials: what is known of it, and whether it is an administrator, by the rule `context_is_admin`.
    /// An `is_admin` among the attributes stays as it is: whoever takes them from outside leaves it out.
    #[must_use]
    pub async fn credentials(&self, mut attributes: Attributes) -> Credentials {
        // Rules call system_scope by either name.
        if let Some(scope) = get(&attributes, "system_scope").filter(|scope| scope.is_true()) {
            let scope = scope.clone();
            attributes.retain(|(name, _)| name != "system");
            attributes.push(("system".to_owned(), scope));
        }
        let mut credentials = Credentials {
            attributes,
            fault: None,
        };
        if get(&credentials.attributes, "is_admin").is_none() {
            // As in Cinder, the target is the caller itself.
            let target = Target(credentials.attributes.clone());
            let decision = self.decide(CONTEXT_IS_ADMIN, &credentials, &target).await;
            let is_admin = Value::Bool(decision.allowed);
            let attribute = ("is_admin".to_owned(), is_admin);
            credentials.attributes.push(attribute);
            if let why @ Why::Fault { .. } = decision.why {
                credentials.fault = Some(why);
            }
        }
        credentials
    }

    /// Decides by the rule of this name, and waits for no more than the servers that the rule asks. What cannot be evaluated
    /// is logged, and denied.
    pub async fn decide(&self, rule: &str, credentials: &Credentials, target: &Target) -> Decision {
        self.decide_by(rule, credentials, target, &mut Answers::default())
            .await
    }

    /// The same, which keeps the servers' answers.
    pub(super) async fn decide_by(
        &self,
        rule: &str,
        credentials: &Credentials,
        target: &Target,
        answers: &mut Answers,
    ) -> Decision {
        loop {
            let view = View {
                policy: self,
                rule,
                credentials,
                target,
                answers,
            };
            // From the start with each answer: what comes before a question says the same again.
            match view.decide() {
                Ok(decision) => return decision,
                Err(question) => answers.ask(self.remote.as_deref(), question).await,
            }
        }
    }

    /// The scope of the caller's token, where the rule is not for it.
    fn wrong_scope(&self, rule: &str, credentials: &Credentials) -> Option<Scope> {
        let default = self.defaults.iter().find(|default| default.name == rule)?;
        let has = |name| get(&credentials.attributes, name).is_some_and(Value::is_true);
        let scope = if has("system") {
            Scope::System
        } else if has("domain_id") {
            Scope::Domain
        } else {
            Scope::Project
        };
        (!default.scopes.is_empty() && !default.scopes.contains(&scope)).then_some(scope)
    }
}

pub(super) fn get<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value)
}

/// One caller and one target, as the rules see them.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) policy: &'a Policy,
    /// The rule asked for.
    pub(super) rule: &'a str,
    pub(super) credentials: &'a Credentials,
    pub(super) target: &'a Target,
    pub(super) answers: &'a Answers,
}

impl<'a> View<'a> {
    /// The decision, or what must be asked before there is one.
    fn decide(&self) -> Result<Decision, Question> {
        let deny = |why| Decision {
            allowed: false,
            why,
        };
        if let Some(fault) = &self.credentials.fault {
            return Ok(deny(fault.clone()));
        }
        let rule = self.rule;
        let Some((name, found)) = self.policy.resolve(rule) else {
            return Ok(deny(Why::NoRule(rule.to_owned())));
        };
        if let Some(scope) = self.policy.wrong_scope(rule, self.credentials) {
            return Ok(deny(Why::Scope(rule.to_owned(), scope)));
        }
        let name = name.to_owned();
        match self.holds(&found.check) {
            Ok(allowed) => Ok(Decision {
                allowed,
                why: Why::Rule(name),
            }),
            Err(Stopped {
                why: Stop::Ask(question),
                ..
            }) => Err(question),
            Err(Stopped {
                check,
                why: Stop::Fault(fault),
            }) => {
                tracing::warn!(rule = name, check, %fault, "denied: a check of the policy cannot be evaluated");
                Ok(deny(Why::Fault {
                    rule: name,
                    check,
                    fault,
                }))
            }
        }
    }

    /// Looks at as much of a check as it takes, from the left. A part that cannot be evaluated decides alone, also
    /// beneath `not`.
    fn holds(&self, check: &Check) -> Result<bool, Stopped> {
        match check {
            Check::Not(inner) => Ok(!self.holds(inner)?),
            Check::And(parts) => {
                for part in parts {
                    if !self.holds(part)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Check::Or(parts) => {
                for part in parts {
                    if self.holds(part)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Check::Rule(name) => match self.policy.resolve(name) {
                Some((_, rule)) => self.holds(&rule.check),
                None => Ok(false),
            },
            leaf => self.leaf(leaf).map_err(|why| Stopped {
                check: leaf.to_string(),
                why,
            }),
        }
    }

    /// A check that is made of no others.
    pub(super) fn leaf(&self, check: &Check) -> Result<bool, Stop> {
        match check {
            Check::Always => Ok(true),
            Check::Role(name) => match self.right(name)? {
                Some(wanted) => Ok(self.has_role(&wanted)?),
                None => Ok(false),
            },
            Check::Generic(generic) => match self.right(&generic.right)? {
                Some(wanted) => Ok(self.left(generic, &mut |value| value == wanted)?),
                None => Ok(false),
            },
            Check::Remote(url) => {
                let question =
                    Question::new(url, self.rule, &self.target.0, &self.credentials.attributes)?;
                match self.answers.to(&question) {
                    Some(answer) => Ok(answer?),
                    None => Err(Stop::Ask(question)),
                }
            }
            _ => Ok(false),
        }
    }

    /// A right side, filled in; `None`: the target has no such key.
    pub(super) fn right(&self, template: &str) -> Result<Option<String>, Fault> {
        match format(template, &self.target.0) {
            Ok(text) => Ok(Some(text)),
            Err(FormatError::MissingKey(_)) => Ok(None),
            Err(FormatError::Fault(fault)) => Err(fault),
        }
    }

    fn has_role(&self, wanted: &str) -> Result<bool, Fault> {
        let wanted = wanted.to_lowercase();
        let faulty = |value: &Value| {
            let kind = value.type_name();
            Fault(format!(
                "roles must be a list of names, and there is {kind}"
            ))
        };
        match get(&self.credentials.attributes, "roles") {
            None => Ok(false),
            Some(Value::List(roles)) => {
                let mut found = false;
                for role in roles {
                    match role {
                        Value::Text(name) => found |= name.to_lowercase() == wanted,
                        other => return Err(faulty(other)),
                    }
                }
                Ok(found)
            }
            Some(other) => Err(faulty(other)),
        }
    }

    /// Whether any value that a left side leads to passes the test.
    pub(super) fn left(
        &self,
        generic: &Generic,
        test: &mut dyn FnMut(&str) -> bool,
    ) -> Result<bool, Fault> {
        match &generic.meaning {
            Left::Literal(text) => Ok(test(text)),
            Left::Path(path) => in_map(&self.credentials.attributes, path, test),
            Left::Fault(fault) => Err(Fault(format!("its left side is no name: {fault}"))),
        }
    }
}

fn in_map(
    entries: &Attributes,
    path: &[String],
    test: &mut dyn FnMut(&str) -> bool,
) -> Result<bool, Fault> {
    let Some((key, rest)) = path.split_first() else {
        return Ok(false);
    };
    match get(entries, key) {
        None => Ok(false),
        Some(Value::List(items)) => {
            for item in items {
                if in_value(item, key, rest, test)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Some(value) => in_value(value, key, rest, test),
    }
}

fn in_value(
    value: &Value,
    name: &str,
    path: &[String],
    test: &mut dyn FnMut(&str) -> bool,
) -> Result<bool, Fault> {
    match (value, path) {
        (value, []) => Ok(test(&value.to_python())),
        (Value::Map(entries), path) => in_map(entries, path, test),
        (other, [key, ..]) => {
            let kind = other.type_name();
            Err(Fault(format!("{name} is {kind}, and has no {key}")))
        }
    }
}
