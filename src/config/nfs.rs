//! `[nfs]`: exports by NFS, and what the settings come to for one server.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::Problem;
use super::load::decode_servers;
use super::owner;
use super::tree::Section;
use super::value;
use crate::model::mount_options::{EffectiveOption, MountOption, NFS, NFS_VERSIONS, Origin};

/// `[nfs]`: exports by NFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nfs {
    /// The versions tried where connection info asks for none; default 4.2, 4.1, 4.0. `3` only works when named here.
    pub versions: Vec<String>,
    /// The user that must be able to open volumes; default: the user `libvirt-qemu` (or `qemu`), looked up.
    pub uid: u32,
    /// Its group; default: that user's.
    pub gid: u32,
    /// How long a server may take to answer which version it speaks; default 3 s.
    pub probe_timeout: Duration,
    /// How long a mount may take once the server has answered; then its worker is killed; default 10 s.
    pub mount_timeout: Duration,
    /// Options for every server, which connection info may override.
    pub default_options: Vec<(String, Option<String>)>,
    /// Options for every server, which nothing overrides.
    pub mandatory_options: Vec<(String, Option<String>)>,
    /// Per server, by the host name or address as connection info writes it, in lower case.
    pub servers: BTreeMap<String, NfsServer>,
}

/// `[nfs.servers."NAME"]`: what differs for one server; `None` and empty take `[nfs]`'s.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NfsServer {
    /// The versions allowed.
    pub versions: Option<Vec<String>>,
    /// Every volume on this server is read-only.
    pub read_only: bool,
    /// Before `[nfs]`'s `default_options`.
    pub default_options: Vec<(String, Option<String>)>,
    /// Before `[nfs]`'s `mandatory_options`.
    pub mandatory_options: Vec<(String, Option<String>)>,
}

/// Reads the section.
pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Nfs {
    let versions = value::versions(&NFS_VERSIONS);
    let options = value::mount_options(&NFS);
    let nfs_versions = section.read(problems, "versions", &versions);
    let user = section.read(problems, "uid", owner::user);
    let group = section.read(problems, "gid", owner::group);
    let user = user.unwrap_or_else(|| owner::qemu("nfs"));
    let probe_timeout = section.read(problems, "probe_timeout", value::duration);
    let mount_timeout = section.read(problems, "mount_timeout", value::duration);
    let default_options = section.read(problems, "default_options", &options);
    let mandatory_options = section.read(problems, "mandatory_options", &options);
    let servers = section.section(problems, "servers");
    section.finish(problems);
    let server = |section: &mut Section, problems: &mut Vec<Problem>| NfsServer {
        versions: section.read(problems, "versions", &versions),
        read_only: section
            .read(problems, "read_only", value::flag)
            .unwrap_or(false),
        default_options: section
            .read(problems, "default_options", &options)
            .unwrap_or_default(),
        mandatory_options: section
            .read(problems, "mandatory_options", &options)
            .unwrap_or_default(),
    };
    Nfs {
        versions: nfs_versions.unwrap_or_else(|| ["4.2", "4.1", "4.0"].map(str::to_owned).to_vec()),
        uid: user.uid,
        gid: group.or(user.gid).unwrap_or(user.uid),
        probe_timeout: probe_timeout.unwrap_or(Duration::from_secs(3)),
        mount_timeout: mount_timeout.unwrap_or(Duration::from_secs(10)),
        default_options: default_options.unwrap_or_default(),
        mandatory_options: mandatory_options.unwrap_or_default(),
        servers: decode_servers(servers, problems, server),
    }
}

impl Nfs {
    /// The overrides for a server, by its name or address as connection info writes it.
    #[must_use]
    pub fn server(&self, host: &str) -> Option<&NfsServer> {
        self.servers.get(&host.to_lowercase())
    }

    /// The versions that may be used with a server, newest first.
    #[must_use]
    pub fn versions_for(&self, host: &str) -> &[String] {
        self.server(host)
            .and_then(|server| server.versions.as_deref())
            .unwrap_or(&self.versions)
    }

    /// Whether every volume on a server is read-only.
    #[must_use]
    pub fn read_only(&self, host: &str) -> bool {
        self.server(host).is_some_and(|server| server.read_only)
    }

    /// The mount options for a volume on a server, and where each comes from; `given` are its connection info's.
    ///
    /// From the weakest to the strongest: built in, `nfs.default_options`, the server's `default_options`, connection
    /// info, the server's `mandatory_options`, `nfs.mandatory_options`, and what cannot be changed. `vers` is among
    /// them only where connection info asks for one; addresses, transport and mount flags never are.
    #[must_use]
    pub fn effective_options(&self, host: &str, given: &[MountOption]) -> Vec<EffectiveOption> {
        let server = self.server(host);
        NFS.merge([
            (Origin::BuiltIn, &*built_in()),
            (Origin::Default, &self.default_options),
            (
                Origin::ServerDefault,
                server.map_or(&[], |server| &*server.default_options),
            ),
            (Origin::ConnectionInfo, given),
            (
                Origin::ServerMandatory,
                server.map_or(&[], |server| &*server.mandatory_options),
            ),
            (Origin::Mandatory, &self.mandatory_options),
            // Without it a second mount of an export silently gets the first one's options.
            (Origin::Fixed, &[("nosharecache".to_owned(), None)]),
        ])
    }
}

/// Where nobody says otherwise.
fn built_in() -> Vec<MountOption> {
    let flag = |name: &str| (name.to_owned(), None);
    let option = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    vec![
        option("port", "2049"), // named, or the kernel asks the server's portmapper for version 3's
        // `hard` waits for the server without end. QEMU's direct writes tell the guest of an error, and lose nothing
        // silently, which is what `soft` is warned of in nfs(5).
        flag("softerr"),
        option("timeo", "100"), // tenths of a second: with two repeats an operation fails after 30 s
        option("retrans", "2"),
        flag("nolock"), // of version 3: QEMU's image locks stay on this host, and no rpc.statd is needed
    ]
}
