//! Who logs in: gathered from options one by one, then checked for contradictions.

use std::path::{Component, PathBuf};

use crate::connection::SmbCredentials;
use crate::connection::grammar::Value;
use crate::model::Secret;

/// The longest password of NTLM, in UTF-16 units: the kernel hashes no more (fs/smb/client/smbencrypt.c, E_md4hash).
const MAX_PASSWORD: usize = 128;
/// The longest user name and domain, in bytes: CIFS_MAX_USERNAME_LEN, CIFS_MAX_DOMAINNAME_LEN less its end.
const MAX_NAME: usize = 255;

/// Refuses a password that is longer than the kernel takes: its error for that says nothing of the length.
pub(crate) fn check_password_length(password: &Secret) -> Result<(), &'static str> {
    match password.expose().encode_utf16().count() > MAX_PASSWORD {
        true => Err(
            "the password is longer than 128 characters (UTF-16 units), which no SMB logon carries: set a shorter one",
        ),
        false => Ok(()),
    }
}

/// What `sec=` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    /// NTLM in SPNEGO: also where nothing is asked for.
    Ntlmssp,
    /// The same, signed.
    Ntlmsspi,
    /// Kerberos.
    Krb5,
    /// Kerberos, signed.
    Krb5i,
}

/// What the options say of who logs in.
#[derive(Default)]
pub(super) struct Login {
    /// `guest` or `sec=none`.
    pub(super) guest: bool,
    username: Option<String>,
    password: Option<Secret>,
    domain: Option<String>,
    file: Option<PathBuf>,
    security: Option<Security>,
}

/// Takes a value, or the same once more.
fn set<T: PartialEq>(
    slot: &mut Option<T>,
    value: T,
    twice: &'static str,
) -> Result<(), &'static str> {
    match slot {
        Some(old) if *old != value => Err(twice),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

impl Login {
    /// Takes `username=`: `user`, `DOMAIN\user`, `DOMAIN/user`, `user@REALM`, each of them with `%password` or without.
    pub(super) fn set_user(&mut self, value: Value) -> Result<(), &'static str> {
        if let Some(at) = value.percent {
            self.set_password(Secret::from(&value.text[at + 1..]))?;
        }
        let end = value.percent.unwrap_or(value.text.len());
        self.set_username(&value.text[..end])
    }

    /// Takes a user name: `user`, `DOMAIN\user`, `DOMAIN/user` or `user@REALM`.
    pub(super) fn set_username(&mut self, text: &str) -> Result<(), &'static str> {
        // The kernel does not part them: a server refuses `DOMAIN\user` as a user's name.
        let user = match text.split_once(['\\', '/']) {
            Some((domain, user)) => {
                self.set_domain(domain)?;
                user
            }
            None => text,
        };
        if user.is_empty() {
            return Err("the user name is empty: name a user, or write guest");
        }
        if user.contains(['\\', '/']) {
            return Err("the user name holds more than one slash or backslash: write DOMAIN\\user");
        }
        if user.len() > MAX_NAME || user.chars().any(char::is_control) {
            return Err("the user name is longer than 255 bytes or holds a control character");
        }
        set(
            &mut self.username,
            user.to_owned(),
            "two different users are named",
        )
    }

    /// Takes a password.
    pub(super) fn set_password(&mut self, password: Secret) -> Result<(), &'static str> {
        check_password_length(&password)?;
        let text = password.expose();
        if text.chars().any(char::is_control) {
            return Err("the password holds a control character");
        }
        set(
            &mut self.password,
            password,
            "two different passwords are given",
        )
    }

    /// Takes a domain or workgroup; an empty one is none.
    pub(super) fn set_domain(&mut self, text: &str) -> Result<(), &'static str> {
        if text.is_empty() {
            return Ok(());
        }
        if text.len() > MAX_NAME || text.chars().any(char::is_control) {
            return Err("the domain is longer than 255 bytes or holds a control character");
        }
        set(
            &mut self.domain,
            text.to_owned(),
            "two different domains are named",
        )
    }

    /// Takes the path of a credentials file.
    pub(super) fn set_file(&mut self, path: PathBuf) -> Result<(), &'static str> {
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let clean = !path.to_string_lossy().chars().any(char::is_control);
        if !path.is_absolute() || !plain || !clean || path.file_name().is_none() {
            return Err("credentials= takes the absolute path of a file, without `..`");
        }
        set(
            &mut self.file,
            path,
            "two different credentials files are named",
        )
    }

    /// Takes `sec=`.
    pub(super) fn set_security(&mut self, security: Security) -> Result<(), &'static str> {
        set(
            &mut self.security,
            security,
            "two different values of sec= are given",
        )
    }

    /// Whether user, password, domain or a credentials file were given.
    pub(super) fn names_anybody(&self) -> bool {
        self.username.is_some()
            || self.password.is_some()
            || self.domain.is_some()
            || self.file.is_some()
    }

    /// What it comes to; nothing given means guest.
    ///
    /// # Errors
    /// Where two things that were given contradict each other, or one lacks another.
    pub(super) fn finish(self) -> Result<SmbCredentials, &'static str> {
        let Self {
            guest,
            username,
            mut password,
            domain,
            file,
            security,
        } = self;
        if guest {
            // `guest,password=` is what mount.cifs takes for "do not ask".
            password = password.filter(|password| !password.expose().is_empty());
            if username.is_some() || password.is_some() || domain.is_some() || file.is_some() {
                return Err(
                    "guest (or sec=none) is given beside a user, password, domain or file: keep one",
                );
            }
            if security.is_some() {
                return Err("guest (or sec=none) is given beside another sec=: keep one");
            }
            return Ok(SmbCredentials::Guest);
        }
        let kerberos = match security {
            Some(Security::Krb5) => Some("krb5"),
            Some(Security::Krb5i) => Some("krb5i"),
            Some(Security::Ntlmssp | Security::Ntlmsspi) | None => None,
        };
        if let Some(sec) = kerberos {
            if password.is_some() || file.is_some() {
                return Err(
                    "Kerberos (sec=krb5 or krb5i) takes no password and no credentials file: its tickets are this host's",
                );
            }
            return Ok(SmbCredentials::Kerberos {
                sec: sec.to_owned(),
                username,
                domain,
            });
        }
        match (file, username, password, domain) {
            (Some(file), None, None, None) => Ok(SmbCredentials::File(file)),
            (Some(_), ..) => Err(
                "credentials= is given beside a user, password or domain: put them into the file",
            ),
            (None, Some(username), Some(password), domain) => Ok(SmbCredentials::Password {
                username,
                password,
                domain,
            }),
            (None, Some(_), None, _) => {
                Err("a user is named without a password: add password=, or write guest for none")
            }
            (None, None, Some(_), _) => Err("a password is given without a user: add username="),
            (None, None, None, Some(_)) => {
                Err("a domain is named without a user: add username= and password=")
            }
            (None, None, None, None) if security.is_some() => {
                Err("sec= asks for NTLM without a user: add username= and password=")
            }
            (None, None, None, None) => Ok(SmbCredentials::Guest),
        }
    }
}
