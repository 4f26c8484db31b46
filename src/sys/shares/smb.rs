//! /proc/fs/cifs/Stats, as Linux 6.1 writes it (`cifs_stats_proc_show` in fs/cifs/cifs_debug.c, `smb2_print_stats` in smb2ops.c).

use std::collections::BTreeMap;

use super::{Name, ShareIo, Tally};

/// The tree connections by server and share, both in lower case, as servers compare them (MS-SMB2 3.3.5.7), in the kernel's order.
pub(super) fn parse(text: &str) -> BTreeMap<Name, Vec<Tally>> {
    let mut shares = BTreeMap::<_, Vec<Tally>>::new();
    let mut current: Option<&mut Tally> = None;
    for line in text.lines() {
        if let Some(unc) = heading(line) {
            current = name(unc).and_then(|name| {
                let tallies = shares.entry(name).or_default();
                tallies.push(Tally::default());
                tallies.last_mut()
            });
        } else if let Some(tally) = &mut current {
            count(tally, line);
        }
    }
    shares
}

/// The share that a section is about: `1) \\10.0.0.1\vols`, after which a share without a connection has `\tDISCONNECTED `.
fn heading(line: &str) -> Option<&str> {
    let (number, unc) = line.split_once(") ")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let unc = unc.split_once('\t').map_or(unc, |(unc, _)| unc);
    (is_number && unc.starts_with("\\\\")).then_some(unc)
}

/// Server and share of `\\server\share`, or of what is mounted: `//server/share/folder`.
pub(super) fn name(unc: &str) -> Option<Name> {
    let mut parts = unc.split(['\\', '/']);
    let ("", "") = (parts.next()?, parts.next()?) else {
        return None;
    };
    let (server, share) = (parts.next()?, parts.next()?);
    let is_name = |part: &str| !part.is_empty() && !part.contains(char::is_control);
    (is_name(server) && is_name(share))
        .then(|| (server.to_ascii_lowercase(), share.to_ascii_lowercase()))
}

/// Takes over the counters of a line: `SMBs: 23`, on newer kernels with `since` and a time after it, `Bytes read: 0  Bytes written: 0`, or
/// `Reads: 3 total 0 failed`.
fn count(tally: &mut Tally, line: &str) {
    let mut io = ShareIo::default();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words[..] {
        ["SMBs:", number] => io.operations = counter(number),
        ["SMBs:", number, "since", ref time @ ..] => {
            io.operations = counter(number);
            tally.id = time.join(" ");
        }
        ["Bytes", "read:", read, "Bytes", "written:", written] => {
            io.read_bytes = read.parse().ok();
            io.written_bytes = written.parse().ok();
        }
        [_, _, "total" | "sent", failed, "failed"] => io.failed = counter(failed),
        _ => return,
    }
    tally.io.add(io);
}

/// A counter of 32 bits, which the kernel prints as a number with a sign.
fn counter(number: &str) -> u64 {
    let signed = || number.parse().ok().map(i32::cast_unsigned);
    let unsigned = number.parse().ok().or_else(signed);
    unsigned.map_or(0, u64::from)
}
