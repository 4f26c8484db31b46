//! Looking into an image's header before a guest gets it: QEMU opens every file that an image names, whichever host
//! file that is, so an image that names one is refused.
//!
//! Pure over the image's first and last bytes. Invariants: a format is never guessed, only the declared one is checked
//! (a raw volume's bytes are the guest's, who may write any header there, so of raw nothing is looked at); no bytes
//! make a check panic; what a check cannot see the end of is refused.

mod qcow2;
mod vmdk;
mod vpc;

use crate::model::ImageFormat;

/// Why an image may not be shown to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It names another file; how, as `names …`.
    References(String),
    /// Its header is not of its format; how.
    Malformed(String),
    /// It is encrypted; how.
    Encrypted(String),
}

/// How many of the first and last bytes a check wants.
pub(super) fn wanted(format: ImageFormat) -> (usize, usize) {
    match format {
        ImageFormat::Raw => (0, 0),
        ImageFormat::Qcow2 => (qcow2::HEAD, 0),
        ImageFormat::Vpc => (vpc::HEAD, vpc::FOOTER),
        ImageFormat::Vmdk => (vmdk::HEAD, 0),
    }
}

/// Checks an image of the declared format by its first and last bytes: as many as [`wanted`] says, or all there are.
///
/// # Errors
/// Where the image may not be shown to a guest.
pub(super) fn check(format: ImageFormat, head: &[u8], tail: &[u8]) -> Result<(), Fault> {
    match format {
        ImageFormat::Raw => Ok(()),
        ImageFormat::Qcow2 => qcow2::check(head),
        ImageFormat::Vpc => vpc::check(head, tail),
        ImageFormat::Vmdk => vmdk::check(head),
    }
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(why.into()))
}

/// The bytes at an offset.
fn bytes<const N: usize>(from: &[u8], offset: usize) -> Result<[u8; N], Fault> {
    offset
        .checked_add(N)
        .and_then(|end| from.get(offset..end))
        .and_then(|slice| slice.try_into().ok())
        .map_or_else(|| malformed("its header ends too early"), Ok)
}

fn be32(from: &[u8], offset: usize) -> Result<u32, Fault> {
    bytes(from, offset).map(u32::from_be_bytes)
}

fn be64(from: &[u8], offset: usize) -> Result<u64, Fault> {
    bytes(from, offset).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests;
