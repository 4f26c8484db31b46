//! VMware's format: "Virtual Disk Format 5.0". Only images in one sparse file are accepted: every other kind names its
//! extents' files.

use super::{Fault, bytes, malformed};

const SECTOR: usize = 512;
/// QEMU looks for the descriptor in the twenty sectors after the first (block/vmdk.c, `DESC_SIZE`).
const DESCRIPTOR: std::ops::Range<usize> = SECTOR..21 * SECTOR;
/// Enough for the sparse header and the descriptor.
pub(super) const HEAD: usize = 64 * 1024;

const MAGIC: [u8; 4] = *b"KDMV";

pub(super) fn check(head: &[u8]) -> Result<(), Fault> {
    if head.starts_with(b"# Disk DescriptorFile") {
        return Err(Fault::References(
            "is a descriptor, which names the files that hold the data".into(),
        ));
    }
    if !head.starts_with(&MAGIC) {
        return malformed("it does not begin with VMDK's magic");
    }
    // Without a capacity QEMU takes the extents from the descriptor.
    if u64::from_le_bytes(bytes(head, 12)?) == 0 {
        return Err(Fault::References(
            "leaves its extents to its descriptor".into(),
        ));
    }
    let at = u64::from_le_bytes(bytes(head, 28)?);
    let length = u64::from_le_bytes(bytes(head, 36)?);
    if (at, length) != (0, 0) {
        // Where the header says, and where QEMU looks: not always the same.
        let start = usize::try_from(at).ok().and_then(|n| n.checked_mul(SECTOR));
        let end = usize::try_from(length)
            .ok()
            .and_then(|n| n.checked_mul(SECTOR))
            .and_then(|n| n.checked_add(start?));
        match start.zip(end).and_then(|(start, end)| head.get(start..end)) {
            Some(text) => descriptor(text)?,
            None => return malformed("its descriptor is not at its beginning"),
        }
    }
    let end = DESCRIPTOR.end.min(head.len());
    descriptor(head.get(DESCRIPTOR.start..end).unwrap_or_default())
}

/// The descriptor's text: `key=value` lines, then one line an extent. The one extent's file name is not looked at: QEMU
/// does not open it, and an image that was renamed keeps its old one there.
fn descriptor(text: &[u8]) -> Result<(), Fault> {
    // QEMU looks for this anywhere in the text (vmdk_parent_open).
    if contains(text, b"parentFileNameHint") {
        return Err(Fault::References("names a parent".into()));
    }
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    let mut extents = 0;
    for line in text.split(|b| *b == b'\n') {
        let line = String::from_utf8_lossy(line);
        let words: Vec<_> = line.split_whitespace().collect();
        if let Some((key, value)) = line.split_once('=') {
            header(key.trim(), value.trim())?;
        } else if let ["RW" | "RDONLY" | "NOACCESS", _, kind, ..] = words[..] {
            extents += 1;
            if kind != "SPARSE" || extents > 1 {
                return Err(Fault::References("has extents outside its own file".into()));
            }
        }
    }
    Ok(())
}

fn header(key: &str, value: &str) -> Result<(), Fault> {
    let value = value.trim_matches('"');
    if key.eq_ignore_ascii_case("parentCID") && !value.eq_ignore_ascii_case("ffffffff") {
        return Err(Fault::References("names a parent".into()));
    }
    let in_one_file = ["monolithicSparse", "streamOptimized"];
    if key.eq_ignore_ascii_case("createType") && !in_one_file.contains(&value) {
        return Err(Fault::References(format!(
            "is of the kind {:?}, which names other files,",
            value.chars().take(40).collect::<String>()
        )));
    }
    Ok(())
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
