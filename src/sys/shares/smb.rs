//! /proc/fs/cifs/Stats, as Linux 6.1 writes it (`cifs_stats_proc_show` in fs/cifs/cifs_debug.c, `smb2_print_stats` in smb2ops.c).

use std::collections::BTreeMap;

use super::ShareIo;

/// The shares by server and name, both in lower case, as servers compare them (MS-SMB2 3.3.5.7); the counters of a share that is
/// connected to several times, added up.
pub(super) fn parse(text: &str) -> BTreeMap<(String, String), ShareIo> {
    let mut shares = BTreeMap::<_, ShareIo>::new();
    let mut current: Option<(String, String)> = None;
    for line in text.lines() {
        if let Some(unc) = heading(line) {
            current = name(unc);
        } else if let Some(name) = &current
            && let Some(counters) = counters(line)
        {
            shares.entry(name.clone()).or_default().add(counters);
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
pub(super) fn name(unc: &str) -> Option<(String, String)> {
    let mut parts = unc.split(['\\', '/']);
    let ("", "") = (parts.next()?, parts.next()?) else {
        return None;
    };
    let (server, share) = (parts.next()?, parts.next()?);
    let is_name = |part: &str| !part.is_empty() && !part.contains(char::is_control);
    (is_name(server) && is_name(share))
        .then(|| (server.to_ascii_lowercase(), share.to_ascii_lowercase()))
}

/// The counters of a line: `SMBs: 23`, on newer kernels with `since` and a time after it, `Bytes read: 0  Bytes written: 0`, or `Reads: 3 total 0 failed`.
fn counters(line: &str) -> Option<ShareIo> {
    let mut io = ShareIo::default();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words[..] {
        ["SMBs:", number] | ["SMBs:", number, "since", ..] => {
            io.operations = number.parse().ok()?
        }
        ["Bytes", "read:", read, "Bytes", "written:", written] => {
            io.read_bytes = Some(read.parse().ok()?);
            io.written_bytes = Some(written.parse().ok()?);
        }
        [_, _, "total" | "sent", failed, "failed"] => io.failed = failed.parse().ok()?,
        _ => return None,
    }
    Some(io)
}
