//! The SMB mount options that may be used, how their values are checked, and how several layers of them are merged.
//!
//! Names and ranges are those of Linux 6.1, `fs/smb/client/fs_context.c` (`smb3_fs_parameters`); mount.cifs(8) tells
//! what they mean. Credentials, `ro` and `rw` are not among them: connection info carries those apart.

use std::fmt;

mod list;
#[cfg(test)]
mod tests;

use list::{ALLOWED, DEPLOYER, DROPPED, REFUSED, REFUSED_OF_DEPLOYER, Spec, Takes};

use super::nearest::{hint, nearest};

/// An option's name and its value, where it has one.
pub type MountOption = (String, Option<String>);

/// The protocol versions there are, newest first, as the kernel's `vers=` names them (`2.0` is SMB 2.0.2).
pub const SMB_VERSIONS: [&str; 6] = ["3.1.1", "3.0.2", "3.0", "2.1", "2.0", "1.0"];

/// Which layer an option comes from, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// What volattach gives where nobody says otherwise.
    BuiltIn,
    /// The configuration's `smb.uid`, `smb.gid` and `smb.default_options`.
    Default,
    /// The configuration's `default_options` of the volume's server.
    ServerDefault,
    /// The volume's connection info.
    ConnectionInfo,
    /// The configuration's `mandatory_options` of the volume's server.
    ServerMandatory,
    /// The configuration's `smb.mandatory_options`.
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

/// Checks an option that `author` wrote, and spells it as the kernel does. `None`: accepted and dropped, since it is
/// always in force or means nothing to the kernel.
///
/// # Errors
/// Where the option is not on the list, is refused on purpose, or its value does not fit.
pub fn check(
    name: &str,
    value: Option<&str>,
    author: Author,
) -> Result<Option<MountOption>, OptionError> {
    let name = match name {
        "dirmode" => "dir_mode",
        name => name,
    };
    let refusals: [&[_]; 2] = match author {
        Author::ConnectionInfo => [REFUSED, &[]],
        Author::Deployer => [REFUSED, REFUSED_OF_DEPLOYER],
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
    if DROPPED.contains(&name) && value.is_none() || (name, value) == ("vers", Some("default")) {
        return Ok(None);
    }
    let deployer: &[Spec] = match author {
        Author::ConnectionInfo => &[],
        Author::Deployer => DEPLOYER,
    };
    let known = || ALLOWED.iter().chain(deployer);
    let Some(spec) = known().find(|spec| spec.name == name) else {
        return Err(OptionError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, known().map(|spec| spec.name)).map(str::to_owned),
        });
    };
    match spell(spec.takes, value) {
        Some(value) => Ok(Some((spec.name.to_owned(), value))),
        None => Err(OptionError::Value {
            name: spec.name.to_owned(),
            takes: spec.takes.to_string(),
        }),
    }
}

/// The value as the kernel takes it; `None` where it does not fit.
fn spell(takes: Takes, value: Option<&str>) -> Option<Option<String>> {
    let text = match (takes, value) {
        (Takes::Nothing, None) => return Some(None),
        (Takes::Nothing, Some(_)) | (_, None) => return None,
        (_, Some(text)) => text,
    };
    let spelled = match takes {
        Takes::Nothing => return None,
        Takes::Number(min, max) => digits(text, 10)
            .filter(|n| (min..=max).contains(n))?
            .to_string(),
        // A leading 0 makes it octal for the kernel's fs_param_is_u32 (kstrtouint, base 0).
        Takes::Mode => format!("{:#05o}", digits(text, 8).filter(|mode| *mode <= 0o777)?)
            .replacen("0o", "0", 1),
        Takes::Word(words) => (*words.iter().find(|word| **word == text)?).to_owned(),
        Takes::Version => version(text)?.to_owned(),
        Takes::Address => text.parse::<std::net::IpAddr>().ok()?.to_string(),
    };
    Some(Some(spelled))
}

/// The protocol version of that name, as in [`SMB_VERSIONS`].
#[must_use]
pub fn version(text: &str) -> Option<&'static str> {
    let name = match text {
        "2.0.2" => "2.0",
        "3.02" => "3.0.2",
        "3.11" => "3.1.1",
        name => name,
    };
    SMB_VERSIONS.into_iter().find(|known| *known == name)
}

/// Digits of the radix only: `from_str_radix` alone would take a sign.
fn digits(text: &str, radix: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    plain
        .then(|| u32::from_str_radix(text, radix).ok())
        .flatten()
}

/// Merges layers, weakest first: an option replaces its own earlier value and every option that it contradicts.
///
/// The order of the result is the order in which the options that are left were last given.
pub fn merge<'a>(
    layers: impl IntoIterator<Item = (Origin, &'a [MountOption])>,
) -> Vec<EffectiveOption> {
    let mut merged: Vec<EffectiveOption> = Vec::new();
    for (origin, options) in layers {
        for (name, value) in options {
            let replaces = ALLOWED
                .iter()
                .find(|spec| spec.name == name)
                .map_or(&[] as &[&str], |spec| spec.replaces);
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
