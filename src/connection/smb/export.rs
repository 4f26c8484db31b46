//! The export: `//host/share[/folder]`, with slashes or backslashes.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::connection::ConnectionError;
use crate::connection::path::Key;

/// How Windows writes an IPv6 address as a host name ([MS-DTYP] 2.2.57: `:` is written `-`).
const IPV6_LITERAL: &str = ".ipv6-literal.net";

/// The parts of an export.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// In lower case; an IPv6 address without brackets.
    pub(super) host: String,
    /// The share's name.
    pub(super) share: String,
    /// Beneath the share; empty: its root.
    pub(super) folder: String,
}

/// Takes an export apart. Different spellings of one export come out equal.
pub(super) fn parse(key: Key<'_>, text: &str) -> Result<Export, ConnectionError> {
    key.check_text(text)?;
    let text = text.replace('\\', "/");
    let Some(rest) = text.strip_prefix("//") else {
        return Err(key.invalid("does not begin with //"));
    };
    let (host, path) = rest
        .split_once('/')
        .ok_or_else(|| key.invalid("names no share"))?;
    let host = parse_host(key, host)?;
    let (share, folder) = path.split_once('/').unwrap_or((path, ""));
    if share.is_empty() {
        return Err(key.invalid("names no share"));
    }
    key.check_component(share)?;
    if share.eq_ignore_ascii_case("ipc$") {
        return Err(key.invalid("names IPC$, which holds no files"));
    }
    let folder: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for component in &folder {
        key.check_component(component)?;
    }
    Ok(Export {
        host,
        share: share.to_owned(),
        folder: folder.join("/"),
    })
}

fn parse_host(key: Key<'_>, host: &str) -> Result<String, ConnectionError> {
    if host.is_empty() {
        return Err(key.invalid("names no host"));
    }
    let host = host.to_lowercase();
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let literal = host
        .strip_suffix(IPV6_LITERAL)
        .map(|address| address.replace('-', ":"));
    if let Some(address) = bracketed.or(literal.as_deref()) {
        return address
            .parse::<Ipv6Addr>()
            .map(|address| address.to_string())
            .map_err(|_| key.invalid("has a host that is no IPv6 address"));
    }
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return Ok(address.to_string());
    }
    if host.contains(':') {
        return Err(key.invalid("has a port in its host (give it as the mount option port=)"));
    }
    if host.contains('@') {
        return Err(key.invalid("has a user in its host (give it as the mount option username=)"));
    }
    // Digits and dots alone are an address for every resolver, also one with too few or too large numbers.
    let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(key.invalid("has a host that is no IPv4 address"));
    }
    let valid = host.len() <= 253
        && !host.starts_with(['-', '.'])
        && host
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if !valid {
        return Err(key.invalid("has a host that is neither a name nor an address"));
    }
    Ok(host)
}
