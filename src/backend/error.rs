//! Why a backend failed: what was tried, on what, why, and what to do next. Never a secret.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::model::{ImageFormat, Reason, Server};
use crate::sys::worker::WorkerError;

/// One address of a server that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The address and port.
    pub address: SocketAddr,
    /// What came of it, in words.
    pub outcome: String,
    /// Whether it ran into a deadline, rather than being answered or refused.
    pub silent: bool,
}

/// `10.0.0.5:445 (connection refused), 10.0.0.6:445 (no answer within 3 s)`
fn tried(attempts: &[Attempt]) -> String {
    attempts
        .iter()
        .map(|a| format!("{} ({})", a.address, a.outcome))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No backend of that name.
    #[error("this build has no backend for {protocol:?}, only for {known}")]
    UnknownProtocol {
        /// The protocol asked for.
        protocol: String,
        /// The protocols there are.
        known: String,
    },
    /// A mount option has a value that cannot be given to the kernel.
    #[error("cannot mount {share} with {option}: {why}")]
    OptionInvalid {
        /// `//host/share`.
        share: String,
        /// The option's name, or what is wrong with them all.
        option: String,
        /// Why, and what to do.
        why: String,
    },
    /// A credentials file that cannot be used.
    #[error("cannot use the credentials file {path:?}: {why}")]
    CredentialsFile {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Kerberos is asked for, and not as the principal that the configuration names.
    #[error("cannot log in to {share} with Kerberos: {why}")]
    KerberosPrincipal {
        /// `//host/share`.
        share: String,
        /// Why, and what to do.
        why: String,
    },
    /// The kernel got no Kerberos ticket.
    #[error("cannot log in to {share} as {who}: {why}")]
    NoTicket {
        /// `//host/share`.
        share: String,
        /// The principal.
        who: String,
        /// Why, and what to do.
        why: String,
    },
    /// The server's name does not resolve.
    #[error("cannot resolve the server's name {host:?}: check the name and this host's resolver")]
    NameResolution {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address of the server takes connections.
    #[error("cannot reach the server {host} (tried {}): check that it runs, its address and port, and the way to it", tried(.attempts))]
    Unreachable {
        /// The server.
        host: String,
        /// Every address tried.
        attempts: Vec<Attempt>,
    },
    /// The server does not answer.
    #[error("the server {host} does not answer (tried {}): it may be down or overloaded; try again when it answers", tried(.attempts))]
    Silent {
        /// The server.
        host: String,
        /// Every address tried.
        attempts: Vec<Attempt>,
    },
    /// Client and server have no protocol version in common.
    #[error(
        "cannot agree on a protocol version with the server {host} (offered {offered}): {answer}"
    )]
    VersionRefused {
        /// The server.
        host: String,
        /// The versions offered.
        offered: String,
        /// What the server answered, and what to do.
        answer: String,
    },
    /// The server refuses the credentials or their access to the share.
    #[error("the server refuses {who} access to {share}: {why}")]
    LogonRefused {
        /// `//host/share`.
        share: String,
        /// The user, without the password.
        who: String,
        /// Why, and what to do.
        why: String,
    },
    /// The server has no such share, or no such folder on it.
    #[error("cannot mount {share}: {why}")]
    ShareNotFound {
        /// `//host/share/folder`.
        share: String,
        /// Why, and what to do.
        why: String,
    },
    /// A mount did not end within its deadline; its worker was killed.
    #[error("mounting {share} on {target:?} did not end within {} s and was stopped: the server answered at first and then fell silent; try again when it answers", .within.as_secs_f64())]
    MountTimeout {
        /// `//host/share`.
        share: String,
        /// The mount point.
        target: PathBuf,
        /// The deadline.
        within: Duration,
    },
    /// A server fell silent while a file on its share was looked at.
    #[error(
        "cannot look at the volume {path:?}: its server does not answer any more ({why}); try again when it does"
    )]
    ServerLost {
        /// The volume.
        path: PathBuf,
        /// How that was noticed.
        why: String,
        /// Whether it was noticed by a deadline.
        silent: bool,
    },
    /// The server was silent before, and is left alone until it gives a sign of life.
    #[error(
        "the server {server} has not answered since {} and is not asked again before it gives a sign of life, which is tried in {} s; \
         try again then (the first error: {why}; the daemon's log has its words)",
        prost_types::Timestamp::from(*.since), after.as_secs().max(1)
    )]
    Quarantined {
        /// The server.
        server: Server,
        /// Time of the first silence, UTC.
        since: SystemTime,
        /// The first error's reason.
        why: Reason,
        /// Time until the server is asked for a sign of life.
        after: Duration,
    },
    /// Too many workers for the same server outlived their deadline and their kill.
    #[error(transparent)]
    WorkersStuck(WorkerError),
    /// mount(2) failed otherwise, or did not do what was asked.
    #[error("cannot mount {share} on {target:?}: {why}")]
    MountFailed {
        /// `//host/share`.
        share: String,
        /// The mount point.
        target: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// A mount cannot be taken down.
    #[error("cannot unmount {target:?}: {why}")]
    UnmountFailed {
        /// The mount point.
        target: PathBuf,
        /// Why, and what to do.
        why: String,
        /// Whether the unmount ran into its deadline.
        silent: bool,
    },
    /// The target refuses the credentials.
    #[error("the target {target} refuses {who}: {why}")]
    LoginRefused {
        /// The target's name, and where it was asked.
        target: String,
        /// The user, without the password.
        who: String,
        /// Why, and what to do.
        why: String,
    },
    /// A login to a target failed otherwise.
    #[error("cannot log in to the target {target}: {why}")]
    LoginFailed {
        /// The target's name, and where it was asked.
        target: String,
        /// Why, and what to do.
        why: String,
    },
    /// The target has no such volume for this host.
    #[error("no device of {volume} appeared within {} s: {why}", .within.as_secs_f64())]
    DeviceNotFound {
        /// The target's name and the volume's number there.
        volume: String,
        /// The deadline.
        within: Duration,
        /// Why, and what to do.
        why: String,
    },
    /// A device is another volume's.
    #[error("the device of {volume} is refused: {why}")]
    DeviceIdentity {
        /// The target's name and the volume's number there.
        volume: String,
        /// Which identities differ, and what to do.
        why: String,
    },
    /// A device without a name that lasts, which a persistent configuration needs.
    #[error(
        "no name of {device:?} lasts beyond the host's next start, as a persistent configuration (scope) needs: {why}"
    )]
    NoLastingName {
        /// The device.
        device: PathBuf,
        /// The names looked for, and what to do.
        why: String,
    },
    /// A share is mounted with a login that its credentials file no longer holds.
    #[error(
        "{share} is mounted with what {file:?} said before it was changed: detach what uses that, and try again"
    )]
    OtherLogin {
        /// The share.
        share: String,
        /// The credentials file.
        file: PathBuf,
    },
    /// A device, a map over devices or a session cannot be released.
    #[error("cannot release {device}: {why}")]
    DeviceBusy {
        /// Which.
        device: String,
        /// Why, and what to do.
        why: String,
    },
    /// A device, a map over devices or a controller was not released by the deadline.
    #[error("cannot release {device}: {why}")]
    DeviceTimeout {
        /// Which.
        device: String,
        /// Why, and what to do.
        why: String,
    },
    /// There is no map over several paths.
    #[error("cannot make a multipath map of {volume}: {why}")]
    MultipathFailed {
        /// The target's name and the volume's number there.
        volume: String,
        /// Why, and what to do.
        why: String,
    },
    /// The volume was made for another host.
    #[error(
        "the volume is for the host {given}, and this one is {own}: ask the control plane for connection info of this host, whose \
         name is in /etc/nvme/hostnqn"
    )]
    OtherHost {
        /// The connection info's host NQN.
        given: String,
        /// This host's.
        own: String,
    },
    /// No such volume.
    #[error("no volume {path:?}: {why}")]
    VolumeNotFound {
        /// The volume.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The volume lies outside what it must stay beneath, or a link leads to it.
    #[error("the volume {path:?} is refused: {why}")]
    PathUnsafe {
        /// The volume.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The volume is neither a regular file nor, locally, a block device.
    #[error("the volume {path:?} is {found}, not {wanted}: name the volume's own file or device")]
    NotRegular {
        /// The volume.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// The volume is there, but cannot be opened or read.
    #[error("cannot open the volume {path:?} for {mode}: {why}")]
    Unreadable {
        /// The volume.
        path: PathBuf,
        /// `reading`, or `reading and writing`.
        mode: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// The image's header names another file.
    #[error(
        "the image {path:?} is refused: it {names}, which the guest could use to read any file of this host; flatten the image into one file"
    )]
    ReferencesFile {
        /// The volume.
        path: PathBuf,
        /// What names which other file.
        names: String,
    },
    /// The image's header is not what its format says.
    #[error(
        "the image {path:?} is not of the format {format}: {why}; correct the connection info's format, or the image"
    )]
    ImageMalformed {
        /// The volume.
        path: PathBuf,
        /// The declared format.
        format: ImageFormat,
        /// What is wrong.
        why: String,
    },
    /// The image is encrypted.
    #[error(
        "the image {path:?} is encrypted ({how}), and this agent has no keys: decrypt it, or let the guest do the encryption"
    )]
    ImageEncrypted {
        /// The volume.
        path: PathBuf,
        /// With what.
        how: String,
    },
    /// SELinux keeps guests from such mounts.
    #[error(
        "SELinux on this host keeps confined guests from {fstype} mounts: turn that off with `setsebool -P {boolean} on`, if you accept \
         what it costs: every guest of this host may then use every {fstype} mount, as far as Unix permissions let it, for files \
         there have no label of one guest's own. Turned off again later, disks that are in use fail"
    )]
    SelinuxBoolean {
        /// The file system.
        fstype: String,
        /// What is off.
        boolean: &'static str,
    },
    /// A directory, the mount table or a worker process failed: this host's trouble, not the server's.
    #[error("cannot {action}")]
    Host {
        /// What was tried, on what.
        action: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The plan is not one of this backend's: a defect.
    #[error(
        "the backend for {protocol} was handed what is not its own ({what}): report this as a defect"
    )]
    NotMine {
        /// The backend's protocol.
        protocol: &'static str,
        /// What it was handed.
        what: &'static str,
    },
}

impl BackendError {
    /// Something that is not this backend's.
    pub(super) fn not_mine(protocol: &'static str, what: &'static str) -> Self {
        Self::NotMine { protocol, what }
    }

    /// Another backend's connection info.
    pub(super) fn foreign(protocol: &'static str) -> Self {
        Self::not_mine(protocol, "connection info of another protocol")
    }

    /// Whether the connection itself does not work, for every volume that uses it.
    #[must_use]
    pub fn is_of_connection(&self) -> bool {
        matches!(self, Self::ServerLost { .. } | Self::OtherLogin { .. })
    }

    /// Whether a server let a deadline pass: nobody was refused, and nothing failed promptly. The one place that decides what counts for a
    /// quarantine.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Silent { attempts, .. } => attempts.iter().any(|it| it.silent),
            Self::ServerLost { silent, .. } | Self::UnmountFailed { silent, .. } => *silent,
            Self::MountTimeout { .. } | Self::DeviceTimeout { .. } => true,
            _ => false,
        }
    }

    /// Whether a silence of several servers may be this one's.
    pub(super) fn may_be_of(&self, server: &Server) -> bool {
        let is_at = |address: &SocketAddr| {
            server.host == address.ip().to_string() && server.port == Some(address.port())
        };
        match self {
            Self::Silent { attempts, .. } => {
                let mut silent = attempts.iter().filter(|it| it.silent);
                silent.any(|attempt| is_at(&attempt.address))
            }
            _ => true,
        }
    }

    /// Time after which a repeat may succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Quarantined { after, .. } => Some((*after).max(Duration::from_secs(1))),
            _ => None,
        }
    }

    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::UnknownProtocol { .. } => Reason::ProtocolUnsupported,
            Self::OptionInvalid { .. } => Reason::MountOptionInvalid,
            Self::CredentialsFile { .. } | Self::KerberosPrincipal { .. } => {
                Reason::CredentialsInvalid
            }
            Self::NameResolution { .. } => Reason::NameResolution,
            Self::Unreachable { .. } => Reason::ServerUnreachable,
            Self::Silent { .. } | Self::MountTimeout { .. } | Self::ServerLost { .. } => {
                Reason::ServerTimeout
            }
            Self::Quarantined { .. } => Reason::ServerQuarantined,
            Self::WorkersStuck(_) => Reason::WorkersStuck,
            Self::VersionRefused { .. } => Reason::ProtocolVersion,
            Self::LogonRefused { .. } | Self::NoTicket { .. } => Reason::LogonFailure,
            Self::ShareNotFound { .. } => Reason::ShareNotFound,
            Self::MountFailed { .. } => Reason::MountFailed,
            Self::UnmountFailed { .. } => Reason::UnmountFailed,
            Self::OtherLogin { .. } => Reason::CredentialsInvalid,
            Self::LoginRefused { .. } => Reason::LogonFailure,
            Self::LoginFailed { .. } => Reason::LoginFailed,
            Self::DeviceNotFound { .. } => Reason::DeviceNotFound,
            Self::DeviceIdentity { .. } => Reason::DeviceIdentity,
            Self::NoLastingName { .. } => Reason::DiskOptionInvalid,
            Self::OtherHost { .. } => Reason::InvalidConnectionInfo,
            Self::DeviceBusy { .. } | Self::DeviceTimeout { .. } => Reason::DeviceBusy,
            Self::MultipathFailed { .. } => Reason::MultipathFailed,
            Self::VolumeNotFound { .. } => Reason::VolumeNotFound,
            Self::PathUnsafe { .. } => Reason::VolumePathUnsafe,
            Self::NotRegular { .. } => Reason::VolumeNotRegular,
            Self::Unreadable { .. } => Reason::VolumeUnreadable,
            Self::ReferencesFile { .. } => Reason::ImageReferencesFile,
            Self::ImageMalformed { .. } => Reason::ImageMalformed,
            Self::ImageEncrypted { .. } => Reason::EncryptionUnsupported,
            Self::SelinuxBoolean { .. } => Reason::SelinuxBoolean,
            Self::Host { .. } | Self::NotMine { .. } => Reason::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(silent: bool) -> BackendError {
        let address = ([10, 0, 0, 1], 3260).into();
        let outcome = "x".to_owned();
        BackendError::Silent {
            host: "iqn.a".to_owned(),
            attempts: vec![Attempt {
                address,
                outcome,
                silent,
            }],
        }
    }

    fn lost(silent: bool) -> BackendError {
        let (path, why) = ("/mnt/x/v".into(), "x".to_owned());
        BackendError::ServerLost { path, why, silent }
    }

    #[test]
    fn a_deadline_is_a_silence_and_a_prompt_error_is_none() {
        let (share, target, why) = (
            "//nas/v".to_owned(),
            PathBuf::from("/mnt/x"),
            "x".to_owned(),
        );
        let unmount = |silent| BackendError::UnmountFailed {
            target: target.clone(),
            why: why.clone(),
            silent,
        };
        let mount = BackendError::MountTimeout {
            share,
            target: target.clone(),
            within: Duration::from_secs(30),
        };
        let timeout = BackendError::DeviceTimeout {
            device: "sda".to_owned(),
            why: why.clone(),
        };
        for error in [silent(true), lost(true), unmount(true), mount, timeout] {
            assert!(error.is_silence(), "{error}");
        }
        let refused = BackendError::Unreachable {
            host: "nas".to_owned(),
            attempts: vec![],
        };
        for error in [silent(false), lost(false), unmount(false), refused] {
            assert!(!error.is_silence(), "{error}");
        }
    }

    #[test]
    fn of_several_portals_the_silent_one_is_silent() {
        let portal = |portal| Server::at("iscsi", portal);
        assert!(silent(true).may_be_of(&portal("10.0.0.1:3260")));
        assert!(!silent(true).may_be_of(&portal("10.0.0.1:3261")));
        assert!(!silent(false).may_be_of(&portal("10.0.0.1:3260")));
        assert!(lost(true).may_be_of(&portal("10.0.0.2:3260")));
    }
}
