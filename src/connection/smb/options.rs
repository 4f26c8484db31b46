//! What the options string says: who logs in, whether read-only, and which mount options.

use std::path::PathBuf;

use super::credentials::{Login, Security};
use crate::connection::ConnectionError;
use crate::connection::grammar::{self, Token};
use crate::model::Secret;
use crate::model::mount_options::{Author, MountOption, OptionError, SMB};

/// What an options string comes to.
#[derive(Default)]
pub(super) struct Options {
    /// `ro` is among them.
    pub(super) read_only: bool,
    /// Who logs in.
    pub(super) login: Login,
    /// The rest, each allowed and spelled as the kernel does.
    pub(super) mount: Vec<MountOption>,
}

const SECURITY: &str = "one of ntlmssp, ntlmsspi, krb5, krb5i, none";

/// Parses an options string; `key` is for errors.
pub(super) fn parse(key: &str, text: &str) -> Result<Options, ConnectionError> {
    let tokens = grammar::parse(text).map_err(|problem| ConnectionError::Options {
        key: key.to_owned(),
        problem,
    })?;
    let mut options = Options::default();
    // A password with a bare comma goes on in what looks like the next option's name: that must not be told.
    let mut after_password = false;
    for (index, token) in tokens.into_iter().enumerate() {
        let told = !after_password && grammar::is_plain(&token.name);
        after_password = matches!(token.name.as_str(), "password" | "pass")
            || token.value.as_ref().is_some_and(|v| v.percent.is_some());
        match apply(key, &mut options, token) {
            Err(ConnectionError::MountOption {
                source: OptionError::Unknown { .. },
                ..
            }) if !told => {
                return Err(ConnectionError::OptionAfterPassword {
                    key: key.to_owned(),
                    position: index + 1,
                });
            }
            other => other?,
        }
    }
    Ok(options)
}

fn apply(key: &str, options: &mut Options, token: Token) -> Result<(), ConnectionError> {
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
    let Token { name, value } = token;
    let login = &mut options.login;
    let credentials = |problem| ConnectionError::Credentials {
        key: key.to_owned(),
        problem,
    };
    match (name.as_str(), value) {
        ("ro", None) => options.read_only = true,
        ("rw", None) => {}
        ("guest", None) => login.guest = true,
        ("username" | "user", Some(value)) => login.set_user(value).map_err(credentials)?,
        ("password" | "pass", Some(value)) => {
            login
                .set_password(Secret::from(value.text.as_str()))
                .map_err(credentials)?;
        }
        ("domain" | "dom" | "workgroup", Some(value)) => {
            login.set_domain(&value.text).map_err(credentials)?;
        }
        ("credentials" | "cred", Some(value)) => login
            .set_file(PathBuf::from(value.text.as_str()))
            .map_err(credentials)?,
        ("sec", Some(value)) => {
            let security = match value.text.as_str() {
                "none" => None,
                "krb5" => Some(Security::Krb5),
                "krb5i" => Some(Security::Krb5i),
                "ntlmssp" => Some(Security::Ntlmssp),
                "ntlmsspi" => Some(Security::Ntlmsspi),
                _ => return Err(takes(&name, SECURITY)),
            };
            login.guest |= security.is_none();
            if let Some(security) = security {
                login.set_security(security).map_err(credentials)?;
            }
            if let Some(Security::Ntlmssp | Security::Ntlmsspi) = security {
                options.mount.push((name, Some(value.text.to_string())));
            }
        }
        ("ro" | "rw" | "guest", Some(_)) => return Err(takes(&name, "no value")),
        (
            "username" | "user" | "password" | "pass" | "domain" | "dom" | "workgroup"
            | "credentials" | "cred" | "sec",
            None,
        ) => return Err(takes(&name, "a value")),
        (name, value) => {
            let text = value.as_ref().map(|value| value.text.as_str());
            let checked = SMB
                .check(name, text, Author::ConnectionInfo)
                .map_err(refuse)?;
            options.mount.extend(checked);
        }
    }
    Ok(())
}
