//! Addresses of web servers.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;

use super::error::Fault;
use super::tree::Value;

/// The address of a web server: `https://keystone.example.org:5000/identity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// `https`, or plain `http`.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// The port; default 443, or 80.
    pub port: u16,
    /// Empty, or a path that begins with a slash and does not end in one.
    pub path: String,
}

impl HttpUrl {
    /// Reads an address: no user, no query.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        let unbracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match unbracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None => host.to_owned(),
        };
        // What is left is the port: a user before the host is refused with it.
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" if tls => 443,
            "" => 80,
            port => port.strip_prefix(':')?.parse().ok().filter(|p| *p != 0)?,
        };
        (!host.is_empty() && uri.query().is_none() && !text.contains('#')).then(|| Self {
            tls,
            host,
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// `host:port`, as the header `Host` has it.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether the way there leaves this host.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// One or more addresses.
pub(super) fn urls(value: &Value) -> Result<Vec<HttpUrl>, Fault> {
    let expected = Fault::Expected(
        "a list of one or more addresses such as \"https://keystone.example.org:5000\"",
    );
    let Value::List(items) = value else {
        return Err(expected);
    };
    let urls: Option<Vec<_>> = items
        .iter()
        .map(|item| match &item.value {
            Value::Text(text) => HttpUrl::parse(text),
            _ => None,
        })
        .collect();
    urls.filter(|urls| !urls.is_empty()).ok_or(expected)
}

/// The address of a collector of traces, which is on this host or on a network of its own: no TLS.
pub(super) fn collector(value: &Value) -> Result<HttpUrl, Fault> {
    let url = match value {
        Value::Text(text) => HttpUrl::parse(text),
        _ => None,
    };
    url.filter(|url| !url.tls && url.path.is_empty())
        .ok_or(Fault::Expected(
            "the address of a collector that takes OTLP over gRPC, without TLS: \"http://127.0.0.1:4317\"",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let url = HttpUrl::parse("https://ks.example.org/identity/").unwrap();
        assert_eq!(
            (url.tls, url.host.as_str(), url.port, url.path.as_str()),
            (true, "ks.example.org", 443, "/identity")
        );
        let url = HttpUrl::parse("http://[::1]:5000").unwrap();
        assert_eq!(url.to_string(), "http://[::1]:5000");
        assert!(url.is_loopback());
        assert!(!HttpUrl::parse("http://10.0.0.1").unwrap().is_loopback());
        assert!(HttpUrl::parse("http://127.0.0.1").unwrap().is_loopback());
    }

    #[test]
    fn what_is_no_address_of_a_web_server_is_refused() {
        for wrong in [
            "",
            "keystone",
            "keystone:5000",
            "ftp://keystone",
            "https://",
            "https:///v3",
            "https://user:secret@keystone",
            "https://keystone:0",
            "https://keystone:99999",
            "https://keystone:",
            "https://keystone/v3?x=1",
            "https://keystone/v3#x",
            "https://key stone",
            "https://[::g]",
        ] {
            assert_eq!(HttpUrl::parse(wrong), None, "{wrong}");
        }
    }
}
