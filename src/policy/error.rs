//! Why a policy file is refused, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A line of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why a policy cannot be used. Whoever has an earlier one goes on with that.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file or directory cannot be read.
    #[error("cannot read the policy {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is refused, and with it the policy.
    #[error("{at}: {fault}")]
    Refused {
        /// Where.
        at: Place,
        /// What is wrong.
        fault: Refusal,
    },
}

/// What is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not YAML.
    #[error("this is no YAML: {0}")]
    Syntax(String),
    /// It has a character that readers of YAML disagree on.
    #[error(
        "the character {0:?} is not read here: take it out, or write it as an escape in double quotes"
    )]
    Character(char),
    /// It is YAML that policy files do not need.
    #[error("{what}: {advice}")]
    Unread {
        /// What was found.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A name of a rule is not a string.
    #[error("a rule's name must be a string, and this is {0}: put quotes around it")]
    Name(String),
    /// A rule is there twice.
    #[error("rule {name:?} is in line {first} already: remove one of the two")]
    Duplicate {
        /// Its name.
        name: String,
        /// The line where it is first.
        first: usize,
    },
    /// A value is neither a string nor a list of strings or of lists of strings.
    #[error(
        "rule {name:?} must be a string or a list, and this is {found}: put quotes around a rule, write \"@\" to allow \
         everyone and \"!\" to allow nobody"
    )]
    Value {
        /// The rule's name.
        name: String,
        /// What is there instead.
        found: String,
    },
    /// Rules refer to each other in a circle.
    #[error("rules refer to each other in a circle: {}: take one of the references out", .0.join(" → "))]
    Cycle(Vec<String>),
    /// Looking at a rule might take too long, or too much of the stack.
    #[error(
        "rule {name:?} is made of more than {most} {what}, other rules that it refers to included: make it simpler"
    )]
    TooLarge {
        /// The rule's name.
        name: String,
        /// The limit.
        most: usize,
        /// Of what.
        what: &'static str,
    },
}
