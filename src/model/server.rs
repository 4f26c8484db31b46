//! Names and addresses of servers, each with one spelling.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A storage server as one protocol reaches it: what falls silent and answers again as a whole. Another service of the same machine is
/// another server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// The connection info's protocol, such as `nfs`.
    pub protocol: String,
    /// Name or address, in the spelling of [`server_name`].
    pub host: String,
    /// Port; `None`: the protocol's own.
    pub port: Option<u16>,
}

impl fmt::Display for Server {
    /// `nas (smbfs)`, `[fd00::2]:4420 (nvmeof)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            host,
            port,
        } = self;
        match port {
            None => write!(f, "{host} ({protocol})"),
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port} ({protocol})"),
            Some(port) => write!(f, "{host}:{port} ({protocol})"),
        }
    }
}

/// How Windows writes an IPv6 address as a host name: `-` for `:` (MS-DTYP 2.2.57).
const IPV6_LITERAL: &str = ".ipv6-literal.net";
/// The longest host name, in bytes (RFC 1035 2.3.4, less the dot at its end).
const MAX_NAME: usize = 253;

/// Gives a server's name or address its one spelling: in lower case, an IPv6 address without brackets and in the form
/// of RFC 5952.
///
/// # Errors
/// What is wrong, in words that follow "the host".
pub fn server_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    let host = text.to_lowercase();
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
            .map_err(|_| "is no IPv6 address");
    }
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return Ok(address.to_string());
    }
    if host.contains(':') {
        return Err("holds a port: give it as the mount option port=");
    }
    // Digits and dots alone are an address for every resolver, also one with too few or too large numbers.
    let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err("is no IPv4 address");
    }
    let valid = host.len() <= MAX_NAME
        && !host.starts_with(['-', '.'])
        && host
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if !valid {
        return Err("is neither a name nor an address");
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_one_spelling() {
        for (text, name) in [
            ("NAS.Example.org", "nas.example.org"),
            ("10.0.0.5", "10.0.0.5"),
            ("[FD00:0::1]", "fd00::1"),
            ("fd00::1", "fd00::1"),
            ("fd00--1.ipv6-literal.net", "fd00::1"),
            ("Bücher", "bücher"),
        ] {
            assert_eq!(server_name(text).as_deref(), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in [
            "",
            "nas:445",
            "[nas]",
            "[fe80::1%eth0]",
            "10.0.0",
            "10.0.0.256",
            "a b",
            "user@nas",
            "-nas",
            ".",
            "a/b",
            "x--y.ipv6-literal.net",
        ] {
            assert!(server_name(text).is_err(), "{text}");
        }
    }
}
