//! What mounting a volume's export comes to: pure, from the settings and the connection info.

use std::path::Path;

use super::version::{Version, names};
use crate::backend::mount::words;
use crate::backend::{BackendError, Setting};
use crate::config;
use crate::connection::NfsVolume;
use crate::model::mount_options::{EffectiveOption, Origin};
use crate::model::{Access, HostKey};
use crate::sys::mount;

/// The port of servers for which no other is named.
pub(super) const PORT: u16 = 2049;

/// The longest address that `addr=` takes: IPv6 with a scope (kernel net/core/utils.c, `INET6_ADDRSTRLEN` and a name).
const LONGEST_ADDRESS: usize = 64;

/// How a volume's export is mounted.
pub(super) struct Export<'a> {
    pub(super) volume: &'a NfsVolume,
    access: Access,
    /// The versions to ask for, newest first.
    pub(super) versions: Vec<Version>,
    /// Who set them.
    versions_from: Origin,
    /// Everything but version and addresses.
    options: Vec<EffectiveOption>,
}

/// An option, its value where it has one, and who set it.
type Pair<'a> = (&'a str, Option<String>, &'a str);

/// What only a mount by version 3 takes, of mountd.
const OF_MOUNTD: [&str; 2] = ["mountport", "mountproto"];

impl<'a> Export<'a> {
    pub(super) fn new(
        settings: &config::Nfs,
        volume: &'a NfsVolume,
        access: Access,
    ) -> Result<Self, BackendError> {
        let mut options = settings.effective_options(&volume.host, &volume.options);
        // The address says which family it is, and TCP it is always.
        options.retain(|option| option.name != "proto" && option.name != "mountproto");
        let vers = options
            .iter()
            .position(|option| option.name == "vers")
            .map(|at| options.remove(at));
        let (allowed, configured) = settings.shares.versions_for(&volume.host);
        let names = match vers.as_ref().and_then(|vers| vers.value.as_deref()) {
            Some("4") => allowed
                .iter()
                .map(String::as_str)
                .filter(|n| *n != "3")
                .collect(),
            Some(asked) => vec![asked],
            None => allowed.iter().map(String::as_str).collect::<Vec<_>>(),
        };
        let mut versions: Vec<_> = names.into_iter().filter_map(Version::from_name).collect();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        versions.dedup();
        let export = Self {
            volume,
            access,
            versions,
            versions_from: vers.map_or(configured, |vers| vers.origin),
            options,
        };
        export.check(allowed)?;
        Ok(export)
    }

    fn check(&self, allowed: &[String]) -> Result<(), BackendError> {
        if self.versions.contains(&Version::V3) && !allowed.iter().any(|name| name == "3") {
            return Err(BackendError::VersionRefused {
                host: self.volume.host.clone(),
                offered: "3".into(),
                answer:
                    "this host uses NFS 3 only with servers whose configuration names \"3\" among \
                         its versions"
                        .into(),
            });
        }
        if self.versions.is_empty() {
            return Err(self.invalid("vers", "this host allows no minor version of NFS 4"));
        }
        // With room for what is known only when connecting.
        let address = "x".repeat(LONGEST_ADDRESS);
        self.data(&address, self.newest(), Some(u16::MAX)).map(drop)
    }

    fn invalid(&self, option: &str, why: impl Into<String>) -> BackendError {
        BackendError::OptionInvalid {
            share: self.source(),
            option: option.to_owned(),
            why: why.into(),
        }
    }

    fn newest(&self) -> Version {
        self.versions.first().copied().unwrap_or(Version::V3)
    }

    /// `host:/path`, an IPv6 address in brackets.
    pub(super) fn source(&self) -> String {
        let (host, path) = (&self.volume.host, &self.volume.path);
        match host.contains(':') {
            true => format!("[{host}]:{path}"),
            false => format!("{host}:{path}"),
        }
    }

    /// Names the mount by everything that makes two mounts the same: export, versions, options and access.
    pub(super) fn id(&self, key: &HostKey) -> String {
        let mut options: Vec<_> = self
            .options
            .iter()
            .map(|option| match &option.value {
                Some(value) => format!("{}={value}", option.name),
                None => option.name.clone(),
            })
            .collect();
        options.sort_unstable();
        let export = [
            "nfs".to_owned(),
            self.volume.host.clone(),
            self.volume.path.clone(),
            self.access.to_string(),
            names(&self.versions),
        ];
        let parts: Vec<&[u8]> = (export.iter().chain(&options))
            .map(String::as_bytes)
            .collect();
        key.tag(&parts)
    }

    /// The port that the server listens on.
    pub(super) fn port(&self) -> Result<u16, BackendError> {
        let port = self.value("port").map_or(Ok(PORT), str::parse);
        port.map_err(|_| self.invalid("port", "it is no port number"))
    }

    /// The port that the server's mountd listens on, where somebody sets one.
    pub(super) fn mount_port(&self) -> Option<u16> {
        self.value("mountport")?.parse().ok()
    }

    /// Whether Kerberos says who reads and writes.
    pub(super) fn kerberos(&self) -> bool {
        self.value("sec").is_some_and(|sec| sec.starts_with("krb5"))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .find(|option| option.name == name)
            .and_then(|option| option.value.as_deref())
    }

    /// Every option with its value and who set it, in the order in which the kernel gets them.
    fn pairs(&self, address: &str, version: Version, mount_port: Option<u16>) -> Vec<Pair<'_>> {
        const BUILT_IN: &str = "built in";
        let proto = if address.contains(':') { "tcp6" } else { "tcp" };
        let mut pairs = vec![
            (
                "vers",
                Some(version.to_string()),
                self.versions_from.as_str(),
            ),
            ("addr", Some(address.to_owned()), BUILT_IN),
            ("proto", Some(proto.to_owned()), BUILT_IN),
        ];
        if version == Version::V3 {
            pairs.push(("mountaddr", Some(address.to_owned()), BUILT_IN));
            pairs.push(("mountproto", Some(proto.to_owned()), BUILT_IN));
            let port = mount_port.map(|port| ("mountport", Some(port.to_string()), BUILT_IN));
            pairs.extend(port);
        }
        let rest = self.options.iter();
        pairs.extend(
            rest.filter(|option| !OF_MOUNTD.contains(&option.name.as_str()))
                .map(|option| {
                    let (name, origin) = (option.name.as_str(), option.origin.as_str());
                    (name, option.value.clone(), origin)
                }),
        );
        pairs
    }

    /// mount(2)'s data string.
    pub(super) fn data(
        &self,
        address: &str,
        version: Version,
        mount_port: Option<u16>,
    ) -> Result<String, BackendError> {
        let data = render(&self.pairs(address, version, mount_port));
        if let Some(why) = words::too_long(&data) {
            return Err(self.invalid("its options", why));
        }
        Ok(data)
    }

    /// The options as far as they are known before connecting.
    fn known(&self) -> Vec<Pair<'_>> {
        self.pairs(
            &words::known_address(&self.volume.host),
            self.newest(),
            self.mount_port(),
        )
    }

    /// Flags and options as mount(2) will get them, as far as they are known before connecting.
    pub(super) fn shown(&self) -> String {
        let data = render(&self.known());
        format!("{},{},{data}", self.access, mount::FLAGS)
    }

    /// The options in force, and who set each.
    pub(super) fn settings(&self) -> Vec<Setting> {
        self.known()
            .into_iter()
            .map(|(name, value, origin)| Setting {
                name: name.to_owned(),
                value: value.unwrap_or_default(),
                origin: origin.to_owned(),
            })
            .collect()
    }

    /// What connecting does, in words.
    pub(super) fn describe(&self, settings: &config::Nfs, target: &Path) -> String {
        let versions = match self.versions.as_slice() {
            [one] => format!("NFS {one}"),
            several => format!("the newest NFS version it has of {}", names(several)),
        };
        let (source, access) = (self.source(), self.access.in_words());
        let how = format!("{source} {access} on {}", target.display());
        words::describe(&settings.shares, &self.volume.host, &versions, &how)
    }
}

/// Joins options as the kernel takes them apart. No value has a comma: the list of options allows none that could.
fn render(pairs: &[Pair<'_>]) -> String {
    let options: Vec<_> = pairs
        .iter()
        .map(|(name, value, _)| match value {
            Some(value) => format!("{name}={value}"),
            None => (*name).to_owned(),
        })
        .collect();
    options.join(",")
}
