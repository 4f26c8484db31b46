//! `nfs`: a file on an NFS export. docs/connection-info.md has the grammar of the options string.
//!
//! Invariants: one export has one spelling here, however it was written; every mount option is on the list of
//! [`crate::model::mount_options::NFS`], and `vers` says all that was said of the version.

use super::path::{self, Key};
use super::{Common, ConnectionError, ConnectionInfo, Given, NfsVolume, Protocol, format, grammar};
use crate::model::mount_options::{Author, MountOption, NFS, OptionError};
use crate::model::{AccessSource, server_name};

/// What an export looks like.
pub(super) const EXPORT: &str =
    "host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp";

impl ConnectionInfo {
    /// A file on an NFS export, from typed fields.
    ///
    /// # Errors
    /// Where a field does not fit.
    pub fn nfs(
        export: &str,
        name: &str,
        format: &str,
        options: &str,
        common: Common,
    ) -> Result<Self, ConnectionError> {
        common.check("properties.")?;
        let given = Given {
            at: "",
            export,
            name,
            format: Some(format),
        };
        Self::nfs_from(&given, options, common)
    }

    /// A file on an NFS export, however it was given.
    pub(super) fn nfs_from(
        given: &Given<'_>,
        options: &str,
        mut common: Common,
    ) -> Result<Self, ConnectionError> {
        let at = given.at;
        let (host, path) = parse_export(&format!("{at}export"), given.export)?;
        let options = parse_options(&format!("{at}options"), options)?;
        if options.read_only {
            common.read_only_by.push(AccessSource::MountOptions);
        }
        Ok(Self {
            common,
            protocol: Protocol::Nfs(NfsVolume {
                host,
                path,
                name: path::volume_name(&format!("{at}name"), given.name)?,
                format: format::parse(&format!("{at}format"), given.format)?,
                options: options.mount,
            }),
        })
    }
}

/// Takes an export apart into host and path. Different spellings of one export come out equal.
fn parse_export(key: &str, text: &str) -> Result<(String, String), ConnectionError> {
    let key = Key {
        path: key,
        expected: EXPORT,
    };
    key.check_text(text)?;
    let (host, path) = text
        .split_once(":/")
        .ok_or_else(|| key.invalid("is not of the form host:/path"))?;
    if host.is_empty() {
        return Err(key.invalid("names no host"));
    }
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(key.invalid("has an IPv6 address without brackets"));
    }
    let host = server_name(host).map_err(|problem| ConnectionError::Host {
        key: key.path.to_owned(),
        problem,
    })?;
    let components: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    for component in &components {
        key.check_component(component)?;
    }
    Ok((host, format!("/{}", components.join("/"))))
}

/// What an options string comes to.
#[derive(Default)]
struct Options {
    /// `ro` is among them.
    read_only: bool,
    /// The rest, each allowed and spelled as the kernel does; `vers=4` means any minor version.
    mount: Vec<MountOption>,
}

fn parse_options(key: &str, text: &str) -> Result<Options, ConnectionError> {
    let tokens = grammar::parse(text).map_err(|problem| ConnectionError::Options {
        key: key.to_owned(),
        problem,
    })?;
    let refuse = |source| ConnectionError::MountOption {
        key: key.to_owned(),
        source,
    };
    let takes = |name: &str, takes: &str| {
        refuse(OptionError::Value {
            name: name.to_owned(),
            takes: takes.to_owned(),
        })
    };
    let mut options = Options::default();
    let (mut version, mut minor) = (None, None);
    for (index, grammar::Token { name, value }) in tokens.into_iter().enumerate() {
        let value = value.as_ref().map(|value| value.text.as_str());
        match (name.as_str(), value) {
            ("ro", None) => options.read_only = true,
            ("rw", None) => {}
            ("ro" | "rw", Some(_)) => return Err(takes(&name, "no value")),
            ("vers" | "nfsvers", Some("4")) => version = Some("4".to_owned()),
            ("minorversion", Some(digit @ ("0" | "1" | "2"))) => {
                minor = Some(digit.to_owned());
            }
            ("minorversion", _) => return Err(takes(&name, MINOR)),
            (name, value) => match NFS.check(name, value, Author::ConnectionInfo) {
                Ok(Some((name, value))) if name == "vers" => version = value,
                Ok(checked) => options.mount.extend(checked),
                // What looks unlike an option may be anything, a secret too: it is not told.
                Err(OptionError::Unknown { .. }) if !grammar::is_plain(name) => {
                    return Err(ConnectionError::Options {
                        key: key.to_owned(),
                        problem: format!("option {} is not an option of NFS", index + 1),
                    });
                }
                Err(error) => return Err(refuse(error)),
            },
        }
    }
    let version = match (version, minor) {
        (version, None) => version,
        (None, Some(minor)) => Some(format!("4.{minor}")),
        (Some(version), Some(minor)) if version == "4" || version == format!("4.{minor}") => {
            Some(format!("4.{minor}"))
        }
        (Some(_), Some(_)) => return Err(takes("minorversion", MINOR)),
    };
    let version = version.map(|version| ("vers".to_owned(), Some(version)));
    options.mount.extend(version);
    Ok(options)
}

/// What `minorversion` takes.
const MINOR: &str = "0, 1 or 2, and needs vers=4 or the same minor version";

#[cfg(test)]
mod tests;
