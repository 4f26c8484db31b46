//! Microsoft's VHD: "Virtual Hard Disk Image Format Specification", version 1.0.

use super::{Fault, be32, be64, bytes, malformed};

/// Enough for the footer's copy and the dynamic disk header.
pub(super) const HEAD: usize = 4096;
/// The footer's length.
pub(super) const FOOTER: usize = 512;

const COOKIE: [u8; 8] = *b"conectix";
const DYNAMIC_COOKIE: [u8; 8] = *b"cxsparse";
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

pub(super) fn check(head: &[u8], tail: &[u8]) -> Result<(), Fault> {
    // Dynamic and differencing disks begin with a copy of the footer, which QEMU believes (block/vpc.c, vpc_open).
    if head.starts_with(&COOKIE) {
        return match be32(head, 60)? {
            DIFFERENCING => Err(Fault::References(
                "is a differencing disk, which names its parent".into(),
            )),
            DYNAMIC => dynamic(head),
            kind => malformed(format!("its disk type is {kind}, not 3 (dynamic)")),
        };
    }
    if !tail.starts_with(&COOKIE) || tail.len() != FOOTER {
        return malformed("it has no VHD footer");
    }
    match be32(tail, 60)? {
        FIXED => Ok(()),
        DIFFERENCING => Err(Fault::References(
            "is a differencing disk, which names its parent".into(),
        )),
        kind => malformed(format!("its disk type is {kind}, not 2 (fixed)")),
    }
}

/// The dynamic disk header: the parent's id and name are zero unless there is one.
fn dynamic(head: &[u8]) -> Result<(), Fault> {
    let offset = usize::try_from(be64(head, 16)?).unwrap_or(usize::MAX);
    let cookie: [u8; 8] = bytes(head, offset)?;
    if cookie != DYNAMIC_COOKIE {
        return malformed("it has no dynamic disk header");
    }
    let parent_id: [u8; 16] = bytes(head, offset + 40)?;
    let parent_name: [u8; 512] = bytes(head, offset + 64)?;
    if parent_id != [0; 16] || parent_name != [0; 512] {
        return Err(Fault::References("names a parent".into()));
    }
    Ok(())
}
