//! QEMU's copy-on-write format: docs/interop/qcow2.txt in QEMU's sources.

use super::{Fault, be32, be64, malformed};

/// Enough for the header and its extensions.
pub(super) const HEAD: usize = 64 * 1024;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bit 2 of the incompatible features: guest data is in another file.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
/// The header extension that names that file.
const EXTERNAL_DATA_FILE_NAME: u32 = 0x4441_5441;

pub(super) fn check(head: &[u8]) -> Result<(), Fault> {
    if head.get(..4) != Some(&MAGIC) {
        return malformed("it does not begin with qcow2's magic");
    }
    let header_length = match be32(head, 4)? {
        2 => 72,
        3 => be32(head, 100)?,
        version => return malformed(format!("its version is {version}, not 2 or 3")),
    };
    if be64(head, 8)? != 0 {
        return Err(Fault::References("names a backing file".into()));
    }
    let cluster_bits = be32(head, 20)?;
    if !(9..=21).contains(&cluster_bits) {
        return malformed(format!("its clusters are of 2^{cluster_bits} bytes"));
    }
    if header_length > 72 && be64(head, 72)? & EXTERNAL_DATA_FILE != 0 {
        return Err(Fault::References("keeps its data in another file".into()));
    }
    match be32(head, 32)? {
        0 => {}
        1 => return Err(Fault::Encrypted("AES".into())),
        2 => return Err(Fault::Encrypted("LUKS".into())),
        method => return malformed(format!("its encryption method is {method}")),
    }
    extensions(head, header_length as usize, 1 << cluster_bits)
}

/// Walks the header extensions, up to the end mark or the end of the first cluster.
fn extensions(head: &[u8], mut offset: usize, end: usize) -> Result<(), Fault> {
    if offset < 72 || offset > end {
        return malformed(format!("its header is of {offset} bytes"));
    }
    while offset < end {
        let [kind, length] = [be32(head, offset)?, be32(head, offset + 4)?];
        match kind {
            0 => return Ok(()),
            EXTERNAL_DATA_FILE_NAME => {
                return Err(Fault::References("names an external data file".into()));
            }
            _ => {}
        }
        // At most 4 GiB on top of `end`: it cannot overflow. A length that leads out of `head` ends in `be32`.
        offset += 8 + (length as usize).next_multiple_of(8);
        if offset > end {
            return malformed("a header extension leaves the first cluster");
        }
    }
    Ok(())
}
