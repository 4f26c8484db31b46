//! SCSI disks of this host, which are asked for their identity directly.
//!
//! Invariants: an identity is the device's own answer to a fresh INQUIRY, never what the kernel or udev remember of an earlier
//! one; everything here may hang on a dead path, so it runs in a worker (see [`super::worker`]).

#![allow(unsafe_code)] // ioctl(2)

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::beneath::Failed;
use super::block::{self, open, open_as};
use crate::model::Wwid;

/// `SG_IO`, scsi/sg.h.
pub(super) const SG_IO: libc::Ioctl = 0x2285;
/// Status GOOD, SAM-5 5.3.1.
const GOOD: libc::c_uchar = 0x00;
/// Status CHECK CONDITION, SAM-5 5.3.1: the device has an error to report.
const CHECK_CONDITION: libc::c_uchar = 0x02;
/// `SG_DXFER_FROM_DEV`, scsi/sg.h.
const SG_DXFER_FROM_DEV: libc::c_int = -3;
/// How long the device may take to answer, in milliseconds.
const ANSWER_MS: libc::c_uint = 10_000;
/// How long a disk whose node is there may take to be live.
const LIVE: Duration = Duration::from_secs(5);
/// How often the kernel's files are looked at for a disk.
const POLL: Duration = Duration::from_millis(5);
/// The longest page that is asked for, in bytes: an identification page has some 200.
const PAGE_MAX: u16 = 4096;

/// `sg_io_hdr_t`, scsi/sg.h.
#[repr(C)]
struct SgIoHdr {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: libc::c_uchar,
    mx_sb_len: libc::c_uchar,
    iovec_count: libc::c_ushort,
    dxfer_len: libc::c_uint,
    dxferp: *mut libc::c_void,
    cmdp: *mut libc::c_uchar,
    sbp: *mut libc::c_uchar,
    timeout: libc::c_uint,
    flags: libc::c_uint,
    pack_id: libc::c_int,
    usr_ptr: *mut libc::c_void,
    status: libc::c_uchar,
    masked_status: libc::c_uchar,
    msg_status: libc::c_uchar,
    sb_len_wr: libc::c_uchar,
    host_status: libc::c_ushort,
    driver_status: libc::c_ushort,
    resid: libc::c_int,
    duration: libc::c_uint,
    info: libc::c_uint,
}

/// Report of a disk about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Identity of the disk; `None`: the disk reports none of its own.
    pub identity: Option<Wwid>,
    /// Sequence number (`diskseq`) of the device that was open for the report.
    pub sequence: Option<u64>,
}

/// Asks the device for its identity (INQUIRY, SPC-5 6.6, vital product data page 83h).
///
/// # Errors
/// open(2)'s; `EIO` where the device answers with an error, as an unmapped LUN does; `ETIMEDOUT` where it does not answer.
pub fn identify(device: &Path) -> Result<Told, Failed> {
    ask(&open(device, 0)?)
}

fn ask(file: &File) -> Result<Told, Failed> {
    let page = inquire(file, 0x83).map_err(|errno| ("ask who it is", errno))?;
    Ok(Told {
        identity: identity(&page),
        sequence: block::sequence(file),
    })
}

/// Waits for the block device of a SCSI disk, whose directory beneath /sys this is, and gives its name; `None`: it did not
/// appear in time.
#[must_use]
pub fn appears(unit: &Path, within: Duration) -> Option<String> {
    let until = Instant::now() + within;
    loop {
        let named = std::fs::read_dir(unit.join("block")).ok();
        let entry = named.and_then(|mut entries| entries.next()?.ok());
        let name = entry.and_then(|entry| entry.file_name().into_string().ok());
        if name.is_some() || Instant::now() >= until {
            return name;
        }
        std::thread::sleep(POLL);
    }
}

/// Opens the block device of a SCSI disk as it is to be used, asks who it is, and makes it read-only where it shall be.
///
/// # Errors
/// open(2)'s and ioctl(2)'s; `ENODEV` where the node in /dev is not that device's.
pub fn open_unit(unit: &Path, name: &str, write: bool, read_only: bool) -> Result<Told, Failed> {
    let device = Path::new("/dev").join(name);
    let until = Instant::now() + LIVE;
    let file = loop {
        match open_as(&device, write, 0) {
            // Its node is there a moment before the disk is live.
            Err((_, Errno::ENXIO | Errno::ENOENT)) if Instant::now() < until => {
                std::thread::sleep(POLL);
            }
            opened => break opened?,
        }
    };
    let other = ("look at the device", Errno::ENODEV);
    let number = file.metadata().map_err(|_| other)?.rdev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    let known = std::fs::read_to_string(unit.join("block").join(name).join("dev"));
    if known.map_err(|_| other)?.trim_end() != format!("{major}:{minor}") {
        return Err(other);
    }
    let told = ask(&file)?;
    if read_only {
        block::protect(&file, true)?;
    }
    Ok(told)
}

fn inquire(file: &File, page: u8) -> Result<Vec<u8>, Errno> {
    let [high, low] = PAGE_MAX.to_be_bytes();
    let mut command = [0x12, 1, page, high, low, 0];
    let mut answer = vec![0; usize::from(PAGE_MAX)];
    let mut sense = [0; 32];
    let mut header = SgIoHdr {
        dxfer_direction: SG_DXFER_FROM_DEV,
        cmd_len: command.len() as libc::c_uchar,
        mx_sb_len: sense.len() as libc::c_uchar,
        dxfer_len: libc::c_uint::from(PAGE_MAX),
        dxferp: answer.as_mut_ptr().cast(),
        cmdp: command.as_mut_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout: ANSWER_MS,
        ..header()
    };
    // SAFETY: the header is laid out as the kernel's, and its three pointers are to buffers of the lengths it gives, which
    // outlive the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), SG_IO, &raw mut header) };
    Errno::result(result)?;
    check(&header)?;
    let missing = usize::try_from(header.resid).unwrap_or(0);
    answer.truncate(answer.len().saturating_sub(missing));
    Ok(answer)
}

/// A request for nothing.
fn header() -> SgIoHdr {
    SgIoHdr {
        interface_id: libc::c_int::from(b'S'),
        dxfer_direction: 0,
        cmd_len: 0,
        mx_sb_len: 0,
        iovec_count: 0,
        dxfer_len: 0,
        dxferp: std::ptr::null_mut(),
        cmdp: std::ptr::null_mut(),
        sbp: std::ptr::null_mut(),
        timeout: 0,
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    }
}

/// Whether the device answered, and without an error.
fn check(header: &SgIoHdr) -> Result<(), Errno> {
    if header.host_status != 0 {
        // One of the host adapter's own (DID_*, scsi/scsi_status.h): no answer of the device's came.
        return Err(Errno::ETIMEDOUT);
    }
    match header.status {
        CHECK_CONDITION => Err(Errno::EIO),
        // SG_INFO_OK_MASK, scsi/sg.h.
        GOOD if header.info & 1 == 0 => Ok(()),
        // A passing state, such as BUSY and TASK SET FULL (SAM-5 5.3.1).
        _ => Err(Errno::EAGAIN),
    }
}

/// Finds the identity in a device identification page (SPC-5 7.7.6). Of several designators, takes the one that scsi_id takes (systemd,
/// src/udev/scsi_id/scsi_serial.c, `id_search_list`): NAA, registered extended first, then EUI-64, SCSI name, and T10 vendor id; only
/// designators of the logical unit.
#[must_use]
pub fn identity(page: &[u8]) -> Option<Wwid> {
    let &[_, 0x83, high, low, ..] = page else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let mut rest = page.get(4..)?;
    rest = rest.get(..length).unwrap_or(rest);
    let mut best: Option<(u8, Wwid)> = None;
    while let &[code_set, kind, _, length, ..] = rest {
        let Some(designator) = rest.get(4..4 + usize::from(length)) else {
            break;
        };
        rest = &rest[4 + usize::from(length)..];
        // Bits 4 and 5: what it designates; 0: the logical unit.
        if kind >> 4 & 3 != 0 {
            continue;
        }
        if let Some((rank, wwid)) = spelled(code_set & 0xf, kind & 0xf, designator)
            && best.as_ref().is_none_or(|(known, _)| rank < *known)
        {
            best = Some((rank, wwid));
        }
    }
    best.map(|(_, wwid)| wwid)
}

/// How good a designator is (0 is best), and its spelling.
fn spelled(code_set: u8, kind: u8, designator: &[u8]) -> Option<(u8, Wwid)> {
    let binary = code_set == 1;
    let rank = match (kind, designator.first()? >> 4) {
        (3, 6) if designator.len() == 16 => 0,
        (3, 5 | 3) if designator.len() == 8 => 1,
        (3, 2) if designator.len() == 8 => 2,
        (2, _) if matches!(designator.len(), 8 | 12 | 16) => 3,
        (8, _) => 4,
        (1, _) => 5,
        _ => return None,
    };
    let body = if binary {
        designator
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    } else {
        text(designator)?
    };
    Some((rank, Wwid::scsi(kind, &body)))
}

/// A designator of characters: without the blanks at its end, each run of others as one underscore, as scsi_id(8) does.
fn text(designator: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(designator).ok()?.trim_matches('\0');
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join("_");
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page with these designators: code set, type with association, bytes.
    fn page(designators: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (code_set, kind, bytes) in designators {
            body.extend([*code_set, *kind, 0, bytes.len() as u8]);
            body.extend(*bytes);
        }
        let mut page = vec![0, 0x83];
        page.extend((body.len() as u16).to_be_bytes());
        page.extend(body);
        page
    }

    const NAA6: [u8; 16] = [
        0x60, 0x01, 0x40, 0x51, 0x98, 0xde, 0xa3, 0x92, 0xaf, 0xc2, 0x1d, 0x07, 0x0f, 0x8a, 0xbf,
        0xc7,
    ];

    #[test]
    fn the_best_designator_of_the_unit_is_taken_in_multipathds_spelling() {
        let t10 = (2, 1, b"LIO-ORG IBLOCK:198dea39".as_slice());
        let naa6 = (1, 3, NAA6.as_slice());
        let naa5 = (1, 3, [0x50, 1, 2, 3, 4, 5, 6, 7].as_slice());
        let port = (1, 0x13, [0x51, 1, 2, 3, 4, 5, 6, 7].as_slice());
        let eui = (1, 2, [0, 1, 2, 3, 4, 5, 6, 7].as_slice());
        let name = (3, 8, b"iqn.2026-01.org.lab:v\0\0\0".as_slice());
        for (designators, expected) in [
            (
                vec![t10, port, naa5, naa6],
                Some("36001405198dea392afc21d070f8abfc7"),
            ),
            (vec![eui, naa5], Some("35001020304050607")),
            (vec![name, eui], Some("20001020304050607")),
            (vec![t10, name], Some("8iqn.2026-01.org.lab:v")),
            (vec![t10], Some("1LIO-ORG_IBLOCK:198dea39")),
            (vec![port], None),
            (vec![], None),
        ] {
            let told = identity(&page(&designators));
            assert_eq!(told.as_ref().map(Wwid::as_str), expected);
        }
    }

    #[test]
    fn no_answer_is_not_the_devices_own_error() {
        let header = |status, host_status, info| SgIoHdr {
            status,
            host_status,
            info,
            ..header()
        };
        assert_eq!(check(&header(0, 0, 0)), Ok(()));
        // A check condition.
        assert_eq!(check(&header(2, 0, 1)), Err(Errno::EIO));
        // BUSY, and TASK SET FULL.
        for status in [0x08, 0x28] {
            assert_eq!(check(&header(status, 0, 1)), Err(Errno::EAGAIN));
        }
        // DID_NO_CONNECT, DID_TIME_OUT, DID_TRANSPORT_DISRUPTED, DID_TRANSPORT_FAILFAST.
        for host in [1, 3, 14, 15] {
            assert_eq!(check(&header(0, host, 1)), Err(Errno::ETIMEDOUT));
        }
    }

    #[test]
    fn another_page_and_a_cut_one_give_none() {
        let whole = page(&[(1, 3, &NAA6)]);
        assert!(identity(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(identity(&whole[..length]), None, "{length}");
        }
        let mut other = whole;
        other[1] = 0x80;
        assert_eq!(identity(&other), None);
    }

    #[test]
    fn what_is_no_scsi_device_says_so() {
        assert!(identify(Path::new("/dev/null")).is_err());
    }

    proptest! {
        #[test]
        fn reading_a_page_is_total(bytes: Vec<u8>, body: Vec<u8>) {
            let _ = identity(&bytes);
            let told = identity(&page(&[(1, 3, &body[..body.len().min(200)]), (2, 1, b"x")]));
            prop_assert!(told.is_some_and(|told| !told.as_str().contains(char::is_control)));
        }
    }
}
