//! The deployer's settings: TOML fragments, merged, validated.
//!
//! Invariants: an unknown key is refused, with the nearest known one named; a [`Settings`] value is valid as a whole:
//! nothing is checked again later.

mod error;
mod load;
mod nfs;
mod owner;
mod smb;
#[cfg(test)]
mod tests;
mod tree;
mod value;

pub use error::{ConfigError, Fault, Position, Problem};
pub use load::DEFAULT_PATH;
pub use nfs::{Nfs, NfsServer};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be configured, with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `[listen]`
    pub listen: Listen,
    /// `[libvirt]`
    pub libvirt: Libvirt,
    /// Where the journal and the host's key live; `state_dir`, default `/var/lib/volattach`.
    pub state_dir: PathBuf,
    /// Where shares are mounted; `mount_base`, default `/var/lib/volattach/mnt`.
    pub mount_base: PathBuf,
    /// `[smb]`
    pub smb: Smb,
    /// `[nfs]`
    pub nfs: Nfs,
    /// `[local]`
    pub local: Local,
    /// `[detach]`
    pub detach: Detach,
    /// `[iscsi]`
    pub iscsi: Iscsi,
}

/// `[listen]`: where callers reach the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The unix socket, mode 0660; default `/run/volattach/volattachd.sock`.
    pub socket: PathBuf,
    /// The group that may call besides root; default `volattach`. Absent from the host: root alone.
    pub group: String,
}

/// `[libvirt]`: the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libvirt {
    /// The connection URI; default `qemu:///system`.
    pub uri: String,
    /// How long a call to libvirt may take; then its domain is left alone until it ends; default 60 s.
    pub call_timeout: Duration,
}

/// `[smb]`: shares by SMB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smb {
    /// The versions tried where connection info asks for none; default 3.1.1, 3.0.2, 3.0, 2.1. `1.0` only works when named here.
    pub versions: Vec<String>,
    /// The owner of every file on a mount; default: the user `libvirt-qemu` (or `qemu`), looked up.
    pub uid: u32,
    /// The group of every file on a mount; default: that user's.
    pub gid: u32,
    /// Directories that `credentials=FILE` may name files in; default none.
    pub credentials_dirs: Vec<PathBuf>,
    /// How long a server may take to answer an SMB negotiate; default 3 s.
    pub probe_timeout: Duration,
    /// How long a mount may take once the server has answered; then its worker is killed; default 10 s.
    pub mount_timeout: Duration,
    /// Options for every server, which connection info may override.
    pub default_options: Vec<(String, Option<String>)>,
    /// Options for every server, which nothing overrides.
    pub mandatory_options: Vec<(String, Option<String>)>,
    /// As whom this host logs in where connection info asks for Kerberos; `None`: as nobody.
    pub kerberos: Option<SmbKerberos>,
    /// Shares of this very host, by host (as [`crate::model::server_name`] spells it) and share (in lower case), and the
    /// directory that each is: used as they are, without a mount; default none.
    pub local_shares: BTreeMap<(String, String), PathBuf>,
    /// Per server, by the host name or address as connection info writes it, in lower case.
    pub servers: BTreeMap<String, SmbServer>,
}

/// `[smb.servers."NAME"]`: what differs for one server; `None` and empty take `[smb]`'s.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SmbServer {
    /// The versions allowed.
    pub versions: Option<Vec<String>>,
    /// Every volume on this server is read-only.
    pub read_only: bool,
    /// Before `[smb]`'s `default_options`.
    pub default_options: Vec<(String, Option<String>)>,
    /// Before `[smb]`'s `mandatory_options`.
    pub mandatory_options: Vec<(String, Option<String>)>,
    /// Instead of `[smb]`'s.
    pub kerberos: Option<SmbKerberos>,
}

/// `[smb.kerberos]`: as whom this host logs in with Kerberos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbKerberos {
    /// `name@REALM`: whose key is taken from the keytab where the user has no credential cache.
    pub principal: String,
    /// The user of this host whose credential cache, or else keytab, has the credentials; default 0, root.
    pub cruid: u32,
}

/// `[local]`: volumes of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Directories beneath which volumes may lie, on local file systems; default none: nothing local may be attached.
    pub roots: Vec<PathBuf>,
}

/// `[detach]`: how long to wait for guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    /// How long a detach waits for the guest before it answers UNPLUG_PENDING; default 20 s.
    pub unplug_timeout: Duration,
}

/// `[iscsi]`: LUNs of iSCSI targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iscsi {
    /// Where the initiator (open-iscsi) keeps its node records; default `/etc/iscsi/nodes`, Debian's place.
    pub nodes: PathBuf,
    /// The initiator's interface, described in `/etc/iscsi/ifaces`; default `default`: whichever leads there.
    pub interface: String,
    /// How long a portal may take to accept a connection, before it is logged in to; default 3 s.
    pub probe_timeout: Duration,
    /// How long a login may take; default 10 s.
    pub login_timeout: Duration,
    /// How long a LUN, and a map over several paths, may take to appear once the target is logged in to; default 30 s.
    pub device_timeout: Duration,
}
