//! Connection info: how to reach a volume, from what control planes send to validated types, one file per protocol.
//!
//! Invariants: parsing is total (any input gives a value or a clear error, never a panic) and touches nothing; unknown
//! keys are ignored, and told at debug level by name only; secrets leave the input for [`crate::model::Secret`] and are in no
//! error; an image's format is never guessed: none means raw.

mod canonical;

mod cinder;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod grammar;
mod iscsi;
mod local;
mod nfs;
mod nvmeof;
mod path;
mod qos;
mod smb;
#[cfg(test)]
mod tests;

pub(crate) use cinder::Wiped;
pub use error::ConnectionError;
pub use iscsi::{Chap, ChapText, Discovery, IscsiPath, IscsiPathText, IscsiVolume};
pub use nvmeof::NvmeFields;
pub use qos::QosSpecs;
pub use smb::SmbLogin;
pub(crate) use smb::check_password_length;

use crate::model::mount_options::MountOption;
use crate::model::{AccessSource, ImageFormat, IoTune, Secret};

/// How to reach a volume, and what its owner says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// What every protocol has.
    pub common: Common,
    /// How to reach it.
    pub protocol: Protocol,
}

/// What connection info of every protocol may say of the volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Common {
    /// Sources of read-only in its keys: [`AccessSource::AccessMode`], [`AccessSource::AttachMode`], [`AccessSource::Readonly`],
    /// [`AccessSource::MountOptions`].
    pub read_only_by: Vec<AccessSource>,
    /// Limits on I/O (`qos_specs`).
    pub iotune: Option<IoTune>,
    /// Discards reach the storage.
    pub discard: bool,
    /// Bytes.
    pub logical_block_size: Option<u32>,
    /// Bytes.
    pub physical_block_size: Option<u32>,
    /// Several attachments may write it (`multiattach`).
    pub multiattach: bool,
}

/// One protocol's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// A file on an SMB share (`smbfs`).
    Smb(SmbVolume),
    /// A block device or file of this host (`local`).
    Local(LocalVolume),
    /// A file on an NFS export (`nfs`).
    Nfs(NfsVolume),
    /// A LUN of an iSCSI target (`iscsi`).
    Iscsi(IscsiVolume),
    /// A namespace of an NVMe/TCP subsystem (`nvmeof`).
    Nvme(NvmeVolume),
}

impl Protocol {
    /// Its name in connection info (`driver_volume_type`).
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Smb(_) => "smbfs",
            Self::Local(_) => "local",
            Self::Nfs(_) => "nfs",
            Self::Iscsi(_) => "iscsi",
            Self::Nvme(_) => "nvmeof",
        }
    }
}

/// A file on an SMB share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbVolume {
    /// The server: a host name in lower case, or an address without brackets.
    pub host: String,
    /// The share's name.
    pub share: String,
    /// The folder beneath the share that is mounted; empty: the share's root. No leading or trailing slash.
    pub folder: String,
    /// The volume's file beneath the export: relative, no `..`.
    pub name: String,
    /// Its format.
    pub format: ImageFormat,
    /// Who logs in.
    pub credentials: SmbCredentials,
    /// Other mount options, in the order given, each of them allowed; `ro`, `rw` and credentials are not among them,
    /// and `sec` only as `ntlmssp` or `ntlmsspi`.
    pub options: Vec<MountOption>,
}

/// Who logs in to an SMB server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SmbCredentials {
    /// Nobody: `sec=none`.
    Guest,
    /// User and password, NTLMSSP.
    Password {
        /// The user, without its domain.
        username: String,
        /// At most 128 UTF-16 units: the kernel's NTLM takes no more.
        password: Secret,
        /// The domain or workgroup.
        domain: Option<String>,
    },
    /// A credentials file in mount.cifs' format (`username=`, `password=`, `domain=` lines) on this host; read when connecting.
    File(std::path::PathBuf),
    /// Kerberos: `sec=krb5` or `krb5i`, credentials from the kernel's upcall.
    Kerberos {
        /// `krb5` or `krb5i`.
        sec: String,
        /// The principal, where given.
        username: Option<String>,
        /// `domain=`, where given.
        domain: Option<String>,
    },
}

/// A file on an NFS export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsVolume {
    /// The server: a host name in lower case, or an address without brackets.
    pub host: String,
    /// The export's absolute path on the server; no trailing slash but for the root's.
    pub path: String,
    /// The volume's file beneath the export: relative, no `..`.
    pub name: String,
    /// Its format.
    pub format: ImageFormat,
    /// Mount options, each of them allowed; `ro` and `rw` are not among them, and `vers=4` means any minor version.
    pub options: Vec<MountOption>,
}

/// A block device or file of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalVolume {
    /// An absolute path, no `..`.
    pub device_path: std::path::PathBuf,
    /// Its format.
    pub format: ImageFormat,
}

/// A namespace of an NVMe/TCP subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeVolume {
    /// The subsystem's NQN.
    pub nqn: String,
    /// Where the subsystem answers, in the order given, each once; at least one.
    pub portals: Vec<std::net::SocketAddr>,
    /// What tells the volume from the subsystem's others: one of the three at least.
    pub uuid: Option<uuid::Uuid>,
    /// The namespace's globally unique identifier (NGUID), 16 bytes.
    pub nguid: Option<uuid::Uuid>,
    /// The namespace's number in the subsystem, which another volume may get: it counts where neither identity is given.
    pub nsid: Option<u32>,
    /// The NQN of the host that this was made for, where it says so.
    pub host_nqn: Option<String>,
    /// Its format.
    pub format: ImageFormat,
}

/// A file on a share as a caller describes it, not yet checked.
struct Given<'a> {
    /// Put before the names of keys in errors, such as `data.`.
    at: &'a str,
    export: &'a str,
    name: &'a str,
    format: Option<&'a str>,
}

/// The most ways to one volume that are taken: arrays have some 4 to 16, and each is logged in to.
pub const MAX_PATHS: usize = 64;

/// Refuses a list of more ways to one volume than there can be.
fn few_paths(key: &str, given: usize) -> Result<(), ConnectionError> {
    match given <= MAX_PATHS {
        true => Ok(()),
        false => Err(ConnectionError::Invalid {
            key: key.to_owned(),
            problem: "has more entries than any volume has paths",
            expected: "at most 64",
        }),
    }
}

/// What a block size may be.
const BLOCK_SIZE: &str = "a power of two from 512 to 2097152";

impl Common {
    /// Checks the block sizes; `at` is put before the names of keys in errors.
    ///
    /// QEMU takes powers of two from 512 bytes to 2 MiB, the physical size not below the logical (hw/block/block.c).
    fn check(&self, at: &str) -> Result<(), ConnectionError> {
        let sizes = [
            ("logical_block_size", self.logical_block_size),
            ("physical_block_size", self.physical_block_size),
        ];
        let invalid = |name, problem| ConnectionError::Invalid {
            key: format!("{at}{name}"),
            problem,
            expected: BLOCK_SIZE,
        };
        for (name, size) in sizes {
            if size
                .is_some_and(|size| !size.is_power_of_two() || !(512..=2_097_152).contains(&size))
            {
                return Err(invalid(name, "is no block size"));
            }
        }
        if let (Some(logical), Some(physical)) = (self.logical_block_size, self.physical_block_size)
            && physical < logical
        {
            return Err(invalid("physical_block_size", "is below the logical one"));
        }
        Ok(())
    }
}

impl ConnectionInfo {
    /// A block device or file of this host, from typed fields.
    ///
    /// # Errors
    /// Where a field does not fit.
    pub fn local(device_path: &str, format: &str, common: Common) -> Result<Self, ConnectionError> {
        common.check("properties.")?;
        Ok(Self {
            common,
            protocol: Protocol::Local(LocalVolume::parse("", device_path, Some(format))?),
        })
    }
}
