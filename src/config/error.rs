//! What can be wrong with the configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::mount_options::{OptionError, Versions};
use crate::model::{Reason, hint, nearest};

/// A place in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not TOML.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Position,
        /// What is wrong.
        message: String,
    },
    /// Keys or values do not fit: all of them are told.
    #[error("the configuration is invalid:{}", list(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// Always [`Reason::ConfigurationInvalid`].
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::ConfigurationInvalid
    }
}

/// One problem on the line, several each on its own.
fn list(problems: &[Problem]) -> String {
    match problems {
        [one] => format!(" {one}"),
        several => several
            .iter()
            .map(|problem| format!("\n  {problem}"))
            .collect(),
    }
}

/// One thing that is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {key}: {fault}")]
pub struct Problem {
    /// Where the key is.
    pub at: Position,
    /// Its full path, such as `smb.servers.nas.versions`.
    pub key: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No such key.
    #[error("unknown key{}", known_keys(.name, .known))]
    Unknown {
        /// The key's last part.
        name: String,
        /// The keys of its table.
        known: Vec<&'static str>,
    },
    /// Its table needs it.
    #[error("is missing")]
    Missing,
    /// The value does not fit.
    #[error("expected {0}")]
    Expected(&'static str),
    /// These are no versions of the protocol.
    #[error("expected a list of one or more of {}", quoted(.0))]
    Versions(&'static Versions),
    /// A mount option does not fit.
    #[error(transparent)]
    MountOption(OptionError),
    /// This host has no such user or group.
    #[error("this host has no {what} {name:?}: name one, or give its number")]
    Nobody {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
    },
}

/// `"4.2", "4.1"`
fn quoted(versions: &Versions) -> String {
    let quoted: Vec<_> = versions.names.iter().map(|n| format!("{n:?}")).collect();
    quoted.join(", ")
}

/// The nearest known key, or else all of them.
fn known_keys(name: &str, known: &[&'static str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(name) => hint(Some(name)),
        None => format!("; known here: {}", known.join(", ")),
    }
}
