//! `smbfs`: a file on an SMB share. docs/connection-info.md has the grammar of the options string.
//!
//! Invariants: one export has one spelling here, however it was written; every mount option is on the list of
//! [`crate::model::mount_options`]; credentials contradict neither each other nor `sec=`.

mod credentials;
mod export;
mod options;
#[cfg(test)]
mod tests;

pub(crate) use credentials::check_password_length;

use super::path::{self, Key};
use super::{Common, ConnectionError, ConnectionInfo, Given, Protocol, SmbVolume, format};
use crate::model::{AccessSource, Secret};

/// Who logs in, given apart from the options string.
#[derive(Debug, Clone)]
pub struct SmbLogin {
    /// `user`, `DOMAIN\user` or `user@REALM`.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// The domain or workgroup; empty: none, or the one in `username`.
    pub domain: String,
}

impl ConnectionInfo {
    /// A file on an SMB share, from typed fields; `options` are mount options without credentials, and no `login` means
    /// guest or, by `sec=krb5`, Kerberos.
    ///
    /// # Errors
    /// Where a field does not fit, or the login can never work.
    pub fn smb(
        export: &str,
        name: &str,
        format: &str,
        options: &str,
        login: Option<SmbLogin>,
        common: Common,
    ) -> Result<Self, ConnectionError> {
        common.check("properties.")?;
        let mut parsed = options::parse("options", options)?;
        if parsed.login.names_anybody() {
            return Err(ConnectionError::Credentials {
                key: "options".to_owned(),
                problem: "user, password and domain have fields of their own (credentials): put them there",
            });
        }
        if let Some(login) = login {
            let SmbLogin {
                username,
                password,
                domain,
            } = login;
            let fields = &mut parsed.login;
            fields
                .set_username(&username)
                .and_then(|()| fields.set_password(password))
                .and_then(|()| fields.set_domain(&domain))
                .map_err(|problem| ConnectionError::Credentials {
                    key: "credentials".to_owned(),
                    problem,
                })?;
        }
        let given = Given {
            at: "",
            export,
            name,
            format: Some(format),
        };
        finish(&given, parsed, "credentials", common)
    }

    /// A file on an SMB share, from Cinder's keys.
    pub(super) fn smb_from_cinder(
        given: &Given<'_>,
        options: &str,
        common: Common,
    ) -> Result<Self, ConnectionError> {
        let key = format!("{}options", given.at);
        let options = options::parse(&key, options)?;
        finish(given, options, &key, common)
    }
}

fn finish(
    given: &Given<'_>,
    options: options::Options,
    login_key: &str,
    mut common: Common,
) -> Result<ConnectionInfo, ConnectionError> {
    let at = given.at;
    let export = export::parse(
        Key {
            path: &format!("{at}export"),
            expected: "//host/share or //host/share/folder",
        },
        given.export,
    )?;
    let name = path::volume_name(&format!("{at}name"), given.name)?;
    let format = format::parse(&format!("{at}format"), given.format)?;
    let credentials = options
        .login
        .finish()
        .map_err(|problem| ConnectionError::Credentials {
            key: login_key.to_owned(),
            problem,
        })?;
    if options.read_only {
        common.read_only_by.push(AccessSource::MountOptions);
    }
    Ok(ConnectionInfo {
        common,
        protocol: Protocol::Smb(SmbVolume {
            host: export.host,
            share: export.share,
            folder: export.folder,
            name,
            format,
            credentials,
            options: options.mount,
        }),
    })
}
