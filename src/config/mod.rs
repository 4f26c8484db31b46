//! The deployer's settings: TOML fragments, merged, validated.
//!
//! Invariants: an unknown key is refused, with the nearest known one named; a [`Settings`] value is valid as a whole:
//! nothing is checked again later.

mod auth;
mod change;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod keystone;
mod limits;
mod listen;
mod load;
mod metrics;
mod nfs;
mod nvmeof;
mod owner;
mod policy;
#[cfg(test)]
mod sample;
mod shares;
mod smb;
#[cfg(test)]
mod tests;
mod tree;
mod url;
mod value;

pub use auth::{Auth, LocalRoles};
pub use error::{ConfigError, Fault, Position, Problem};
pub use keystone::Keystone;
pub use limits::Limits;
pub use listen::{Listen, ListenTls, MetricsListen};
pub use load::DEFAULT_PATH;
pub use metrics::MetricsIo;
pub use nfs::Nfs;
pub use nvmeof::Nvmeof;
pub use policy::{Policy, REMOTE_TIMEOUT};
pub use shares::{ShareServer, Shares};
pub use smb::{Smb, SmbKerberos};
pub use url::HttpUrl;

use std::path::PathBuf;
use std::time::Duration;

use crate::model::ErrorPolicy;

/// Everything that can be configured, with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `[listen]`
    pub listen: Listen,
    /// `[policy]`
    pub policy: Policy,
    /// Where the audit is written beside the log; `audit_file`, default nowhere.
    pub audit_file: Option<PathBuf>,
    /// Where figures are written for a textfile collector of Prometheus'; `metrics_file`, default nowhere.
    pub metrics_file: Option<PathBuf>,
    /// Where figures are served to Prometheus; `metrics_listen`, default nowhere.
    pub metrics_listen: Option<MetricsListen>,
    /// Whose I/O is among the figures; `metrics_io`, default nobody's.
    pub metrics_io: MetricsIo,
    /// The collector that traces go to by OTLP over gRPC; `otlp_endpoint`, default nowhere.
    pub otlp_endpoint: Option<HttpUrl>,
    /// `[auth]`
    pub auth: Auth,
    /// `[keystone]`; `None`: nobody is asked about tokens, and calls that bring one are refused.
    pub keystone: Option<Keystone>,
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
    /// `[nvmeof]`
    pub nvmeof: Nvmeof,
    /// `[limits]`
    pub limits: Limits,
}

/// `[libvirt]`: the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libvirt {
    /// The connection URI; default `qemu:///system`.
    pub uri: String,
    /// How long a call to libvirt may take; then its domain is left alone until it ends; default 60 s.
    pub call_timeout: Duration,
}

/// `[local]`: volumes of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Directories beneath which volumes may lie, on local file systems; default none: nothing local may be attached.
    pub roots: Vec<PathBuf>,
    /// What becomes of a guest's failed requests; default `enospace`, as QEMU does by itself.
    pub error_policy: ErrorPolicy,
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
    /// What becomes of a guest's failed requests; default `stop`.
    pub error_policy: ErrorPolicy,
}
