//! A rule as a tree of checks.

use std::fmt;

use super::python::{Fault, literal};

/// A rule, or a part of one. `Display` writes it as oslo.policy does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Check {
    /// `@`, an empty rule or list.
    Always,
    /// `!`, a list of nothing but empty lists.
    Never,
    /// A word without a colon: false.
    Word(String),
    /// A rule that cannot be parsed: false as a whole.
    Unparsable(&'static str),
    /// `rule:name`
    Rule(String),
    /// `role:name`
    Role(String),
    /// `http://…`, `https://…`: asks a server.
    Remote(String),
    /// `left:right`, any other.
    Generic(Generic),
    /// `not …`
    Not(Box<Self>),
    /// `… and …`
    And(Vec<Self>),
    /// `… or …`
    Or(Vec<Self>),
}

/// `left:right`, where the left side is of the caller and the right of what is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Generic {
    pub(super) left: String,
    pub(super) right: String,
    pub(super) meaning: Left,
}

/// What a left side means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Left {
    /// A literal, as Python writes it.
    Literal(String),
    /// A path through the credentials.
    Path(Vec<String>),
    /// Python cannot read it: no decision that comes to look at it allows.
    Fault(Fault),
}

impl Generic {
    fn new(left: &str, right: &str) -> Self {
        let meaning = match literal(left) {
            Ok(Some(literal)) => Left::Literal(literal.into_python()),
            Ok(None) => Left::Path(left.split('.').map(ToOwned::to_owned).collect()),
            Err(fault) => Left::Fault(fault),
        };
        Self {
            left: left.to_owned(),
            right: right.to_owned(),
            meaning,
        }
    }
}

impl Check {
    /// One check, such as `role:member`.
    pub(super) fn leaf(text: &str) -> Self {
        match (text, text.split_once(':')) {
            ("@", _) => Self::Always,
            ("!", _) => Self::Never,
            (_, None) => Self::Word(text.to_owned()),
            (_, Some(("rule", name))) => Self::Rule(name.to_owned()),
            (_, Some(("role", name))) => Self::Role(name.to_owned()),
            (_, Some(("http" | "https", _))) => Self::Remote(text.to_owned()),
            (_, Some((left, right))) => Self::Generic(Generic::new(left, right)),
        }
    }

    /// The checks that this one is made of.
    pub(super) fn parts(&self) -> &[Self] {
        match self {
            Self::Not(inner) => std::slice::from_ref(inner),
            Self::And(parts) | Self::Or(parts) => parts,
            _ => &[],
        }
    }

    /// How many levels there are.
    pub(super) fn depth(&self) -> usize {
        1 + self.parts().iter().map(Self::depth).max().unwrap_or(0)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |parts: &[Self], word: &str, f: &mut fmt::Formatter<'_>| {
            f.write_str("(")?;
            for (at, part) in parts.iter().enumerate() {
                f.write_str(if at == 0 { "" } else { word })?;
                part.fmt(f)?;
            }
            f.write_str(")")
        };
        match self {
            Self::Always => f.write_str("@"),
            Self::Never | Self::Word(_) | Self::Unparsable(_) => f.write_str("!"),
            Self::Rule(name) => write!(f, "rule:{name}"),
            Self::Role(name) => write!(f, "role:{name}"),
            Self::Remote(url) => f.write_str(url),
            Self::Generic(generic) => write!(f, "{}:{}", generic.left, generic.right),
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::And(parts) => joined(parts, " and ", f),
            Self::Or(parts) => joined(parts, " or ", f),
        }
    }
}
