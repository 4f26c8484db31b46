//! What mounting a volume's share comes to: pure, from the settings and the connection info.

use std::path::Path;

use zeroize::Zeroizing;

use super::dialect::{Dialect, names};
use crate::backend::mount::words;
use crate::backend::{BackendError, Setting};
use crate::config;
use crate::connection::{SmbCredentials, SmbVolume};
use crate::model::mount_options::{EffectiveOption, Origin};
use crate::model::{Access, HostKey, Secret};
use crate::sys::mount;

/// The port of servers for which no other is named.
pub(super) const PORT: u16 = 445;

/// The longest address that `ip=` takes: IPv6 with a scope (kernel net/core/utils.c, `INET6_ADDRSTRLEN` and a name).
const LONGEST_ADDRESS: usize = 64;

/// How a volume's share is mounted.
pub(super) struct Share<'a> {
    pub(super) volume: &'a SmbVolume,
    pub(super) access: Access,
    /// The versions to offer, newest first.
    pub(super) dialects: Vec<Dialect>,
    /// Who set them.
    dialects_from: Origin,
    /// Everything but versions, address and credentials.
    options: Vec<EffectiveOption>,
    /// As whom to log in, and who set it: always there where the credentials are Kerberos'.
    pub(super) kerberos: Option<(config::SmbKerberos, Origin)>,
}

/// An option's value on its way to the kernel.
enum Value<'a> {
    None,
    Plain(String),
    Secret(&'a Secret),
}

impl<'a> Share<'a> {
    pub(super) fn new(
        settings: &config::Smb,
        volume: &'a SmbVolume,
        access: Access,
    ) -> Result<Self, BackendError> {
        let mut options = settings.effective_options(&volume.host, &volume.options);
        let vers = options
            .iter()
            .position(|option| option.name == "vers")
            .map(|at| options.remove(at));
        let (allowed, configured) = settings.shares.versions_for(&volume.host);
        let names = match vers.as_ref().and_then(|vers| vers.value.clone()) {
            Some(asked) => vec![asked],
            None => allowed.to_vec(),
        };
        let mut dialects: Vec<_> = names.iter().filter_map(|n| Dialect::from_name(n)).collect();
        dialects.sort_unstable_by(|a, b| b.cmp(a));
        dialects.dedup();
        let share = Self {
            volume,
            access,
            dialects,
            dialects_from: vers.map_or(configured, |vers| vers.origin),
            options,
            kerberos: kerberos(settings, volume)?,
        };
        share.check(settings, allowed)?;
        Ok(share)
    }

    fn check(&self, settings: &config::Smb, allowed: &[String]) -> Result<(), BackendError> {
        if self.dialects.contains(&Dialect::Smb1) && !allowed.iter().any(|name| name == "1.0") {
            return Err(BackendError::VersionRefused {
                host: self.volume.host.clone(),
                offered: "1.0".into(),
                answer: "SMB 1.0 is insecure, and this host uses it only with servers whose \
                         configuration names \"1.0\" among its versions"
                    .into(),
            });
        }
        if self.dialects.is_empty() {
            return Err(self.invalid("vers", "no version of the protocol is allowed"));
        }
        if let SmbCredentials::File(path) = &self.volume.credentials {
            super::credentials::directory(path, &settings.credentials_dirs)?;
        }
        // With room for what is known only when connecting.
        let address = "x".repeat(LONGEST_ADDRESS);
        let newest = self.dialects.first().copied().unwrap_or(Dialect::Smb1);
        self.data(&address, newest, &self.volume.credentials)
            .map(drop)
    }

    fn invalid(&self, option: &str, why: impl Into<String>) -> BackendError {
        BackendError::OptionInvalid {
            share: self.source(),
            option: option.to_owned(),
            why: why.into(),
        }
    }

    /// `//host/share/folder`
    pub(super) fn source(&self) -> String {
        source(self.volume)
    }

    /// Names the mount by everything that makes two mounts the same: export, credentials, options and access.
    ///
    /// Share names are compared without regard to the case of ASCII letters, as servers do (MS-SMB2 3.3.5.7). Folders
    /// are not: a server may well have `A` and `a`, and a second mount is better than the wrong folder.
    pub(super) fn id(&self, key: &HostKey) -> String {
        let some = |text: &Option<String>| text.as_ref().map_or("-".into(), |t| format!("+{t}"));
        // Passwords pass through these: wiped afterwards.
        let credentials: [Zeroizing<String>; 4] = match &self.volume.credentials {
            SmbCredentials::Guest => ["guest".into(), "".into(), "".into(), "".into()],
            SmbCredentials::Password {
                username,
                password,
                domain,
            } => [
                "password".to_owned(),
                username.clone(),
                password.expose().to_owned(),
                some(domain),
            ],
            SmbCredentials::File(path) => [
                "file".into(),
                path.to_string_lossy().into_owned(),
                "".into(),
                "".into(),
            ],
            SmbCredentials::Kerberos { sec, .. } => {
                let (principal, cruid) = match &self.kerberos {
                    Some((kerberos, _)) => (kerberos.principal.clone(), kerberos.cruid),
                    None => Default::default(),
                };
                ["krb5".into(), sec.clone(), principal, cruid.to_string()]
            }
        }
        .map(Zeroizing::new);
        let mut options: Vec<_> = self
            .options
            .iter()
            .map(|option| format!("{}{}", option.name, some(&option.value)))
            .collect();
        options.sort_unstable();
        let export = [
            "cifs".to_owned(),
            host(self.volume),
            self.volume.share.to_ascii_lowercase(),
            self.volume.folder.clone(),
            self.access.to_string(),
            names(&self.dialects),
        ];
        let parts: Vec<&[u8]> = (export.iter().map(String::as_bytes))
            .chain(credentials.iter().map(|part| part.as_bytes()))
            .chain(options.iter().map(String::as_bytes))
            .collect();
        key.tag(&parts)
    }

    /// The port that the server listens on.
    pub(super) fn port(&self) -> Result<u16, BackendError> {
        let port = self.value("port").map_or(Ok(PORT), str::parse);
        port.map_err(|_| self.invalid("port", "it is no port number"))
    }

    /// The address to connect from, where the deployer sets one.
    pub(super) fn source_address(&self) -> Option<std::net::IpAddr> {
        self.value("srcaddr")?.parse().ok()
    }

    /// Leaves an option out.
    pub(super) fn drop_option(&mut self, name: &str) {
        self.options.retain(|option| option.name != name);
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .find(|option| option.name == name)
            .and_then(|option| option.value.as_deref())
    }

    /// Every option with its value and who set it, in the order in which the kernel gets them.
    fn pairs<'b>(
        &'b self,
        address: &str,
        dialect: Dialect,
        credentials: &'b SmbCredentials,
    ) -> Vec<(&'b str, Value<'b>, &'b str)> {
        const BUILT_IN: &str = "built in";
        const INFO: &str = "connection info";
        let plain = |text: &str| Value::Plain(text.to_owned());
        let mut pairs = vec![
            ("ip", plain(address), BUILT_IN),
            ("vers", plain(dialect.name()), self.dialects_from.as_str()),
        ];
        let user = |pairs: &mut Vec<_>, username: &str, domain: &Option<String>| {
            pairs.push(("username", plain(username), INFO));
            if let Some(domain) = domain {
                pairs.push(("domain", plain(domain), INFO));
            }
        };
        let sec_is_ours = match credentials {
            SmbCredentials::Guest => {
                pairs.push(("sec", plain("none"), INFO));
                true
            }
            SmbCredentials::Password {
                username,
                password,
                domain,
            } => {
                user(&mut pairs, username, domain);
                pairs.push(("password", Value::Secret(password), INFO));
                false
            }
            SmbCredentials::File(path) => {
                let from = format!("[from {}]", path.display());
                pairs.push(("username", Value::Plain(from), INFO));
                pairs.push(("password", plain(REDACTED), INFO));
                false
            }
            SmbCredentials::Kerberos { sec, .. } => {
                pairs.push(("sec", plain(sec), INFO));
                if let Some((kerberos, from)) = &self.kerberos {
                    pairs.push(("username", plain(&kerberos.principal), from.as_str()));
                    pairs.push(("cruid", plain(&kerberos.cruid.to_string()), from.as_str()));
                }
                true
            }
        };
        pairs.extend(
            self.options
                .iter()
                .filter(|option| !(sec_is_ours && option.name == "sec"))
                .map(|option| {
                    let value = option.value.as_deref().map_or(Value::None, plain);
                    (option.name.as_str(), value, option.origin.as_str())
                }),
        );
        pairs
    }

    /// mount(2)'s data string, secrets included.
    pub(super) fn data(
        &self,
        address: &str,
        dialect: Dialect,
        credentials: &SmbCredentials,
    ) -> Result<Zeroizing<String>, BackendError> {
        let pairs = self.pairs(address, dialect, credentials);
        let data = render(&pairs, Secret::expose);
        if data.contains('\0') {
            return Err(self.invalid("its options", "one of them contains a NUL byte"));
        }
        if let Some(why) = words::too_long(&data) {
            return Err(self.invalid("its options", why));
        }
        Ok(data)
    }

    /// Flags and options as mount(2) will get them, secrets redacted, as far as they are known before connecting.
    pub(super) fn shown(&self) -> String {
        let newest = self.dialects.first().copied().unwrap_or(Dialect::Smb1);
        let address = words::known_address(&self.volume.host);
        let pairs = self.pairs(&address, newest, &self.volume.credentials);
        let data = render(&pairs, |_| REDACTED);
        let mode = self.access;
        format!("{mode},{},{}", mount::FLAGS, *data)
    }

    /// The options in force, and who set each.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let newest = self.dialects.first().copied().unwrap_or(Dialect::Smb1);
        self.pairs(
            &words::known_address(&self.volume.host),
            newest,
            &self.volume.credentials,
        )
        .into_iter()
        .map(|(name, value, origin)| Setting {
            name: name.to_owned(),
            value: match value {
                Value::None => String::new(),
                Value::Plain(text) => text,
                Value::Secret(_) => REDACTED.to_owned(),
            },
            origin: origin.to_owned(),
        })
        .collect()
    }

    /// Who logs in, without the password.
    pub(super) fn who(&self) -> String {
        match &self.volume.credentials {
            SmbCredentials::Guest => "a guest".into(),
            SmbCredentials::Password {
                username,
                domain: Some(domain),
                ..
            } => format!("user {username:?} of domain {domain:?}"),
            SmbCredentials::Password { username, .. } => format!("user {username:?}"),
            SmbCredentials::File(path) => format!("the user in {}", path.display()),
            SmbCredentials::Kerberos { .. } => {
                let principal = self.kerberos.as_ref().map(|(k, _)| k.principal.as_str());
                format!("the Kerberos principal {:?}", principal.unwrap_or_default())
            }
        }
    }

    /// What connecting does, in words.
    pub(super) fn describe(&self, settings: &config::Smb, target: &Path) -> String {
        let versions = match self.dialects.as_slice() {
            [one] => format!("SMB {one}"),
            several => format!("the newest SMB version it has of {}", names(several)),
        };
        let (source, access, who) = (self.source(), self.access.in_words(), self.who());
        let how = format!("{source} {access} on {} as {who}", target.display());
        words::describe(&settings.shares, &self.volume.host, &versions, &how)
    }
}

/// The server's name as it is compared: DNS names are the same in any case (RFC 4343).
fn host(volume: &SmbVolume) -> String {
    volume.host.to_lowercase()
}

/// `//host/share/folder`
pub(super) fn source(volume: &SmbVolume) -> String {
    let (host, share, folder) = (host(volume), &volume.share, &volume.folder);
    match folder.as_str() {
        "" => format!("//{host}/{share}"),
        folder => format!("//{host}/{share}/{folder}"),
    }
}

/// As whom this host logs in, where it is by Kerberos: as nobody that the deployer has not named.
fn kerberos(
    settings: &config::Smb,
    volume: &SmbVolume,
) -> Result<Option<(config::SmbKerberos, Origin)>, BackendError> {
    let SmbCredentials::Kerberos { username, .. } = &volume.credentials else {
        return Ok(None);
    };
    let refused = |why: String| BackendError::KerberosPrincipal {
        share: source(volume),
        why,
    };
    let (kerberos, from) = settings.kerberos(&volume.host).ok_or_else(|| {
        refused(
            "this host's configuration names no principal for it: set smb.kerberos.principal, or \
             give a user and password in the connection info"
                .to_owned(),
        )
    })?;
    let principal = &kerberos.principal;
    let same = |user: &String| {
        user == principal
            || principal
                .rsplit_once('@')
                .is_some_and(|(name, _)| name == user)
    };
    match username.as_ref().filter(|user| !same(user)) {
        Some(user) => Err(refused(format!(
            "connection info names the user {user:?}, and this host logs in as {principal:?}: leave \
             username= out, or name that principal in the configuration"
        ))),
        None => Ok(Some((kerberos.clone(), from))),
    }
}

const REDACTED: &str = "[redacted]";

/// Joins options as the kernel takes them apart (fs/smb/client/fs_context.c, `smb3_fs_context_parse_monolithic`): a
/// comma within a value is doubled.
fn render(
    pairs: &[(&str, Value<'_>, &str)],
    secret: impl Fn(&Secret) -> &str,
) -> Zeroizing<String> {
    // Room for the longest there may be, so that growing leaves no copy of a secret behind.
    let mut data = Zeroizing::new(String::with_capacity(4 * mount::DATA_MAX));
    for (name, value, _) in pairs {
        if !data.is_empty() {
            data.push(',');
        }
        data.push_str(name);
        let value = match value {
            Value::None => continue,
            Value::Plain(text) => text,
            Value::Secret(value) => secret(value),
        };
        data.push('=');
        for character in value.chars() {
            data.push(character);
            if character == ',' {
                data.push(',');
            }
        }
    }
    data
}

#[cfg(test)]
mod tests;
