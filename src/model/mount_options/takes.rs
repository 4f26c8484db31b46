//! What options take after `=`, and how it is spelled for the kernel.

use std::fmt;

/// The versions of a protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Versions {
    /// As the kernel's `vers=` names them, newest first.
    pub names: &'static [&'static str],
    /// Other spellings, and the kernel's.
    pub(super) spellings: &'static [(&'static str, &'static str)],
}

impl Versions {
    /// The version of that name, in the kernel's spelling.
    #[must_use]
    pub fn named(&self, text: &str) -> Option<&'static str> {
        let other = self.spellings.iter().find(|(other, _)| *other == text);
        let name = other.map_or(text, |(_, name)| name);
        self.names.iter().find(|known| **known == name).copied()
    }
}

/// What an option takes after `=`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    Nothing,
    Number(u32, u32),
    /// Permission bits, in octal.
    Mode,
    Word(&'static [&'static str]),
    Version(&'static Versions),
    Address,
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no value"),
            Self::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Self::Mode => f.write_str("permissions in octal, at most 0777"),
            Self::Word(words) => write!(f, "one of {}", words.join(", ")),
            Self::Version(versions) => write!(
                f,
                "one of {}; leave it out to take the newest that this host and the server both allow",
                versions.names.join(", ")
            ),
            Self::Address => f.write_str("an IP address"),
        }
    }
}

impl Takes {
    /// The value as the kernel takes it; `None` where it does not fit.
    pub(super) fn spell(self, value: Option<&str>) -> Option<Option<String>> {
        let text = match (self, value) {
            (Self::Nothing, None) => return Some(None),
            (Self::Nothing, Some(_)) | (_, None) => return None,
            (_, Some(text)) => text,
        };
        let spelled = match self {
            Self::Nothing => return None,
            Self::Number(min, max) => digits(text, 10)
                .filter(|n| (min..=max).contains(n))?
                .to_string(),
            // A leading 0 makes it octal for the kernel's fs_param_is_u32 (kstrtouint, base 0).
            Self::Mode => format!("{:#05o}", digits(text, 8).filter(|mode| *mode <= 0o777)?)
                .replacen("0o", "0", 1),
            Self::Word(words) => (*words.iter().find(|word| **word == text)?).to_owned(),
            Self::Version(versions) => versions.named(text)?.to_owned(),
            Self::Address => text.parse::<std::net::IpAddr>().ok()?.to_string(),
        };
        Some(Some(spelled))
    }
}

/// Digits of the radix only: `from_str_radix` alone would take a sign.
fn digits(text: &str, radix: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    plain
        .then(|| u32::from_str_radix(text, radix).ok())
        .flatten()
}

/// An option that may be used.
pub(super) struct Spec {
    /// The kernel's name.
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// The other options that it replaces: those that contradict it.
    pub(super) replaces: &'static [&'static str],
}

pub(super) const fn flag(name: &'static str, replaces: &'static [&'static str]) -> Spec {
    Spec {
        name,
        takes: Takes::Nothing,
        replaces,
    }
}

pub(super) const fn number(name: &'static str, min: u32, max: u32) -> Spec {
    value(name, Takes::Number(min, max))
}

pub(super) const fn value(name: &'static str, takes: Takes) -> Spec {
    Spec {
        name,
        takes,
        replaces: &[],
    }
}
