//! The mount options that may be used, how their values are checked, and how several layers of them are merged: one
//! [`Table`] per file system.
//!
//! Credentials, `ro` and `rw` are not among them: connection info carries those apart.

use std::fmt;

mod nfs;
mod smb;
mod takes;
#[cfg(test)]
mod tests;

pub use nfs::{NFS, NFS_VERSIONS};
pub use smb::{SMB, SMB_VERSIONS};
use takes::Spec;
pub use takes::Versions;

use super::nearest::{hint, nearest};

/// An option's name and its value, where it has one.
pub type MountOption = (String, Option<String>);

/// Names that are refused, and why.
type Refusals = &'static [(&'static [&'static str], &'static str)];

/// The options of one file system.
pub struct Table {
    /// What connection info and the deployer may both use.
    allowed: &'static [Spec],
    /// What only the deployer may use.
    deployer: &'static [Spec],
    /// Accepted, and dropped: always in force, or without meaning in the kernel.
    dropped: &'static [&'static str],
    /// Refused on purpose.
    refused: Refusals,
    /// Refused of the deployer besides: connection info has its own rules for them.
    refused_of_deployer: Refusals,
    /// Other spellings of names, and the kernel's.
    aliases: &'static [(&'static str, &'static str)],
}

/// Which layer an option comes from, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// What volattach gives where nobody says otherwise.
    BuiltIn,
    /// The configuration's `default_options`, and what other keys of its come to.
    Default,
    /// The configuration's `default_options` of the volume's server.
    ServerDefault,
    /// The volume's connection info.
    ConnectionInfo,
    /// The configuration's `mandatory_options` of the volume's server.
    ServerMandatory,
    /// The configuration's `mandatory_options`.
    Mandatory,
    /// What nobody can change.
    Fixed,
}

impl Origin {
    /// In the words that a plan shows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn | Self::Fixed => "built in",
            Self::Default => "default",
            Self::ServerDefault | Self::ServerMandatory => "server",
            Self::ConnectionInfo => "connection info",
            Self::Mandatory => "mandatory",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An option in force, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveOption {
    /// The kernel's name.
    pub name: String,
    /// Its value, where it has one.
    pub value: Option<String>,
    /// The layer that had the last word.
    pub origin: Origin,
}

/// Who writes an option: a deployer may use a few more than connection info.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// The control plane, in connection info.
    ConnectionInfo,
    /// The deployer, in the configuration.
    Deployer,
}

/// Why an option cannot be used. Values are never told: a secret may have been put there by mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option on the list.
    #[error("mount option {name:?} is not allowed{}", hint(.nearest.as_deref()))]
    Unknown {
        /// The option.
        name: String,
        /// The known option that is most like it.
        nearest: Option<String>,
    },
    /// Known, and refused on purpose.
    #[error("mount option {name:?} is refused: {why}")]
    Refused {
        /// The option.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// The value does not fit.
    #[error("mount option {name:?} takes {takes}")]
    Value {
        /// The option.
        name: String,
        /// What it takes.
        takes: String,
    },
}

impl Table {
    /// Checks an option that `author` wrote, and spells it as the kernel does. `None`: accepted and dropped, since it is
    /// always in force or means nothing to the kernel.
    ///
    /// # Errors
    /// Where the option is not on the list, is refused on purpose, or its value does not fit.
    pub fn check(
        &self,
        name: &str,
        value: Option<&str>,
        author: Author,
    ) -> Result<Option<MountOption>, OptionError> {
        let alias = self.aliases.iter().find(|(alias, _)| *alias == name);
        let name = alias.map_or(name, |(_, name)| name);
        let (refusals, deployer): ([Refusals; 2], &[Spec]) = match author {
            Author::ConnectionInfo => ([self.refused, &[]], &[]),
            Author::Deployer => ([self.refused, self.refused_of_deployer], self.deployer),
        };
        if let Some((_, why)) = refusals
            .iter()
            .flat_map(|list| list.iter())
            .find(|(names, _)| names.contains(&name))
        {
            return Err(OptionError::Refused {
                name: name.to_owned(),
                why,
            });
        }
        if self.dropped.contains(&name) && value.is_none()
            || (name, value) == ("vers", Some("default"))
        {
            return Ok(None);
        }
        let known = || self.allowed.iter().chain(deployer);
        let Some(spec) = known().find(|spec| spec.name == name) else {
            return Err(OptionError::Unknown {
                name: name.to_owned(),
                nearest: nearest(name, known().map(|spec| spec.name)).map(str::to_owned),
            });
        };
        match spec.takes.spell(value) {
            Some(value) => Ok(Some((spec.name.to_owned(), value))),
            None => Err(OptionError::Value {
                name: spec.name.to_owned(),
                takes: spec.takes.to_string(),
            }),
        }
    }

    /// Merges layers, weakest first: an option replaces its own earlier value and every option that it contradicts.
    ///
    /// The order of the result is the order in which the options that are left were last given.
    pub fn merge<'a>(
        &self,
        layers: impl IntoIterator<Item = (Origin, &'a [MountOption])>,
    ) -> Vec<EffectiveOption> {
        let mut merged: Vec<EffectiveOption> = Vec::new();
        for (origin, options) in layers {
            for (name, value) in options {
                let spec = self.allowed.iter().find(|spec| spec.name == name);
                let replaces = spec.map_or(&[] as &[&str], |spec| spec.replaces);
                merged.retain(|old| old.name != *name && !replaces.contains(&old.name.as_str()));
                merged.push(EffectiveOption {
                    name: name.clone(),
                    value: value.clone(),
                    origin,
                });
            }
        }
        merged
    }
}
