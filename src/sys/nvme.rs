//! NVMe over TCP on this host: connecting to a controller, and asking it which volume a namespace is.
//!
//! Invariants: an identity is the controller's own answer to a fresh Identify, never what the kernel remembers of an earlier
//! one; everything here may hang on a silent server, so it runs in a worker (see [`super::worker`]).

#![allow(unsafe_code)] // ioctl(2)

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::beneath::Failed;
use crate::model::Wwid;

/// Where the kernel takes connections to make.
const FABRICS: &str = "/dev/nvme-fabrics";
/// `NVME_IOCTL_ADMIN_CMD`, linux/nvme_ioctl.h: `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
pub(super) const ADMIN_CMD: libc::Ioctl = 0xc048_4e41_u32 as libc::Ioctl;
/// Identify, NVM Express Base Specification 2.0c, 5.17.
const IDENTIFY: u8 = 0x06;
/// Identify: the namespace's data structure.
const CNS_NAMESPACE: u32 = 0x00;
/// Identify: the namespace's list of identification descriptors.
const CNS_DESCRIPTORS: u32 = 0x03;
/// How long the controller may take to answer, in milliseconds.
const ANSWER_MS: u32 = 5_000;
/// The length of what Identify gives, in bytes.
const PAGE: usize = 4096;

/// `struct nvme_passthru_cmd`, linux/nvme_ioctl.h.
#[repr(C)]
#[derive(Default)]
struct PassthruCmd {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// What a controller says of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its UUID; none is not nil.
    pub uuid: Option<Uuid>,
    /// Its NGUID, 16 bytes; none is all zero.
    pub nguid: Option<Uuid>,
    /// Its EUI-64; none is zero.
    pub eui64: Option<u64>,
    /// Its size in bytes.
    pub size: u64,
}

impl Namespace {
    /// Identity of the namespace; `None`: it has none of its own.
    #[must_use]
    pub fn wwid(&self) -> Option<Wwid> {
        Wwid::nvme(self.uuid, self.nguid, self.eui64)
    }
}

/// Connects to a controller: `options` as drivers/nvme/host/fabrics.c takes them (`nvmf_parse_options`).
///
/// # Errors
/// open(2)'s: `ENOENT` if the module nvme-fabrics is not loaded; `EALREADY` if this host already has a controller there; the connection's,
/// such as `ECONNREFUSED`; `EIO` if the server refuses the host or has no such subsystem.
pub fn connect(options: &str) -> Result<(), Failed> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(FABRICS)
        .map_err(|error| ("open /dev/nvme-fabrics", errno(&error)))?;
    file.write(options.as_bytes())
        .map(drop)
        .map_err(|error| ("connect", errno(&error)))
}

/// Asks the controller which volume a namespace is.
///
/// # Errors
/// open(2)'s and ioctl(2)'s; `ENXIO` where the controller has no such namespace, `EIO` where it answers otherwise.
pub fn identify(controller: &Path, nsid: u32) -> Result<Namespace, Failed> {
    let file = OpenOptions::new()
        .read(true)
        .open(controller)
        .map_err(|error| ("open the controller", errno(&error)))?;
    let ask = |cns| {
        let mut page = vec![0; PAGE];
        let mut command = PassthruCmd {
            opcode: IDENTIFY,
            nsid,
            addr: page.as_mut_ptr().expose_provenance() as u64,
            data_len: PAGE as u32,
            cdw10: cns,
            timeout_ms: ANSWER_MS,
            ..PassthruCmd::default()
        };
        // SAFETY: the command is laid out as the kernel's, and its address is that of a buffer of the length it gives, which
        // outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), ADMIN_CMD, &raw mut command) };
        // A positive number is the controller's own status (NVM Express Base Specification 2.0c, 4.3).
        match Errno::result(result) {
            Ok(0) => Ok(page),
            Ok(status) if status & 0x7ff == 0x0b => Err(("identify the namespace", Errno::ENXIO)),
            Ok(_) => Err(("identify the namespace", Errno::EIO)),
            Err(errno) => Err(("identify the namespace", errno)),
        }
    };
    let mut namespace = descriptors(&ask(CNS_DESCRIPTORS)?);
    // An inactive namespace's structure is all zero (NVM Express NVM Command Set Specification 1.0c, 4.1.5.1).
    namespace.size = match size(&ask(CNS_NAMESPACE)?) {
        Some(0) => return Err(("identify the namespace", Errno::ENXIO)),
        Some(size) => size,
        None => return Err(("read the namespace's size", Errno::EIO)),
    };
    Ok(namespace)
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Reads a list of identification descriptors (NVM Express Base Specification 2.0c, 5.17.2.3): type, length, two bytes, the
/// identity; the first of no length ends it.
pub(super) fn descriptors(page: &[u8]) -> Namespace {
    let mut namespace = Namespace {
        uuid: None,
        nguid: None,
        eui64: None,
        size: 0,
    };
    let mut rest = page;
    while let [kind, length, _, _, after @ ..] = rest {
        let Some((identity, next)) = after.split_at_checked(usize::from(*length)) else {
            break;
        };
        match (kind, identity) {
            (_, []) => break,
            (1, bytes) => {
                let eui64 = <[u8; 8]>::try_from(bytes).map(u64::from_be_bytes);
                namespace.eui64 = eui64.ok().filter(|eui64| *eui64 != 0);
            }
            (2, bytes) => namespace.nguid = sixteen(bytes),
            (3, bytes) => namespace.uuid = sixteen(bytes),
            _ => {}
        }
        rest = next;
    }
    namespace
}

fn sixteen(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok().filter(|uuid| !uuid.is_nil())
}

/// The size in bytes (NVM Express NVM Command Set Specification 1.0c, 4.1.5.1): NSZE blocks of 2^LBADS bytes, LBADS that of
/// the format in use.
pub(super) fn size(page: &[u8]) -> Option<u64> {
    let blocks = u64::from_le_bytes(page.get(..8)?.try_into().ok()?);
    let flbas = *page.get(26)?;
    let format = usize::from(flbas & 0x0f) | usize::from(flbas & 0x60) >> 1;
    let shift = match *page.get(128 + 4 * format + 2)? {
        // Of an inactive namespace.
        0 if blocks == 0 => 0,
        shift @ 9..=31 => u32::from(shift),
        _ => return None,
    };
    blocks.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: [u8; 16] = [
        0x7c, 0x9e, 0x66, 0x79, 0x74, 0x25, 0x40, 0xde, 0x94, 0x4b, 0xe0, 0x7f, 0xc1, 0xf9, 0x0a,
        0xe7,
    ];

    fn page(descriptors: &[(u8, &[u8])]) -> Vec<u8> {
        let mut page = Vec::new();
        for (kind, identity) in descriptors {
            page.extend([*kind, u8::try_from(identity.len()).unwrap(), 0, 0]);
            page.extend(*identity);
        }
        page.resize(PAGE, 0);
        page
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<PassthruCmd>(), 72);
    }

    #[test]
    fn identities_are_read_and_spelled_as_the_kernel_does() {
        let wwid = |list: &[(u8, &[u8])]| Some(descriptors(&page(list)).wwid()?.to_string());
        let eui = [0, 0x25, 0x38, 1, 2, 3, 4, 5];
        let uuid = "uuid.7c9e6679-7425-40de-944b-e07fc1f90ae7";
        assert_eq!(
            wwid(&[(1, &eui), (2, &[1; 16]), (4, &[0]), (3, &ID)]).as_deref(),
            Some(uuid)
        );
        let nguid = "eui.7c9e6679742540de944be07fc1f90ae7";
        assert_eq!(
            wwid(&[(1, &eui), (2, &ID), (3, &[0; 16])]).as_deref(),
            Some(nguid)
        );
        assert_eq!(
            wwid(&[(9, &[1, 2]), (1, &eui)]).as_deref(),
            Some("eui.0025380102030405")
        );
        assert_eq!(wwid(&[(3, &[1; 8]), (2, &[0; 16]), (1, &[0; 8])]), None);
        assert_eq!(wwid(&[]), None);
        // What comes after the end is not read.
        assert_eq!(wwid(&[(4, &[]), (3, &ID)]), None);
    }

    #[test]
    fn the_size_is_that_of_the_format_in_use() {
        let mut page = vec![0; PAGE];
        assert_eq!(size(&page), Some(0));
        page[..8].copy_from_slice(&5_u64.to_le_bytes());
        assert_eq!(size(&page), None);
        page[130] = 9;
        page[128 + 4 * 17 + 2] = 12;
        assert_eq!(size(&page), Some(5 * 512));
        page[26] = 0x21;
        assert_eq!(size(&page), Some(5 * 4096));
        page[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(size(&page), None);
    }

    proptest! {
        #[test]
        fn reading_is_total(page in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let _ = descriptors(&page);
            let _ = size(&page);
        }
    }
}
