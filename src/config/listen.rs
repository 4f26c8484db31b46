//! `[listen]`: where callers reach the daemon.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::{Fault, Problem};
use super::tree::{Section, Value};
use super::value;

/// `[listen]`: where callers reach the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The unix socket, mode 0660; default `/run/volattach/volattachd.sock`.
    pub socket: PathBuf,
    /// The group that the socket belongs to; default `volattach`. Absent from the host: root alone.
    pub group: String,
    /// `[listen.tls]`; `None`: nobody reaches the daemon over the network.
    pub tls: Option<ListenTls>,
}

/// `[listen.tls]`: TCP for callers that have a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// Where to listen.
    pub addresses: Vec<SocketAddr>,
    /// PEM: the daemon's certificate, and those that lead from it to its authority.
    pub certificate: PathBuf,
    /// PEM: that certificate's private key.
    pub key: PathBuf,
    /// PEM: the authorities whose certificates callers may have.
    pub client_ca: PathBuf,
}

/// Where figures are served. Nobody is asked who he is there, so it is on this host alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsListen {
    /// A unix socket, mode 0666.
    Unix(PathBuf),
    /// A loopback address.
    Loopback(SocketAddr),
}

/// Reads `metrics_listen`.
pub(super) fn metrics(value: &Value) -> Result<MetricsListen, Fault> {
    let expected = Fault::Expected(
        "\"unix:/PATH\", or a loopback address with its port, such as \"127.0.0.1:9642\" or \"[::1]:9642\": figures are given to \
         whoever asks, so no other host may reach them",
    );
    let Value::Text(text) = value else {
        return Err(expected);
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return value::socket(&Value::Text(path.to_owned())).map(MetricsListen::Unix);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() && address.port() != 0 => {
            Ok(MetricsListen::Loopback(address))
        }
        _ => Err(expected),
    }
}

/// Reads the section.
pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Listen {
    let socket = section.read(problems, "socket", value::socket);
    let group = section.read(problems, "group", value::text("a group's name"));
    let tls = section.optional(problems, "tls");
    section.finish(problems);
    Listen {
        socket: socket.unwrap_or_else(|| "/run/volattach/volattachd.sock".into()),
        group: group.unwrap_or_else(|| "volattach".to_owned()),
        tls: tls.and_then(|tls| decode_tls(tls, problems)),
    }
}

fn decode_tls(mut section: Section, problems: &mut Vec<Problem>) -> Option<ListenTls> {
    let addresses = section.require(problems, "addresses", value::addresses);
    let certificate = section.require(problems, "certificate", value::path);
    let key = section.require(problems, "key", value::path);
    let client_ca = section.require(problems, "client_ca", value::path);
    section.finish(problems);
    Some(ListenTls {
        addresses: addresses?,
        certificate: certificate?,
        key: key?,
        client_ca: client_ca?,
    })
}

#[cfg(test)]
mod tests {
    use super::MetricsListen;
    use crate::config::tests::settings;

    #[test]
    fn figures_are_served_on_this_host_alone() {
        let read = |text: &str| {
            let settings = settings(&format!("metrics_listen = {text}"));
            settings.map(|settings| settings.metrics_listen)
        };
        assert_eq!(settings("").unwrap().metrics_listen, None);
        assert_eq!(
            read("\"unix:/run/v/m.sock\""),
            Ok(Some(MetricsListen::Unix("/run/v/m.sock".into())))
        );
        for address in ["127.0.0.1:9642", "127.1.2.3:1", "[::1]:9642"] {
            let loopback = MetricsListen::Loopback(address.parse().unwrap());
            assert_eq!(read(&format!("{address:?}")), Ok(Some(loopback)));
        }
        for wrong in [
            "\"0.0.0.0:9642\"",
            "\"[::]:9642\"",
            "\"10.0.0.1:9642\"",
            "\"[::ffff:10.0.0.1]:9642\"",
            "\"127.0.0.1:0\"",
            "\"127.0.0.1\"",
            "\"localhost:9642\"",
            "\":9642\"",
            "9642",
        ] {
            let error = read(wrong).unwrap_err();
            assert!(
                error.contains("no other host may reach"),
                "{wrong}: {error}"
            );
        }
        let long = format!("\"unix:/{}\"", "x".repeat(107));
        for wrong in [
            "\"unix:relative\"",
            "\"unix:\"",
            "\"unix:/a/../b\"",
            long.as_str(),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("path"), "{wrong}: {error}");
        }
    }

    #[test]
    fn tls_is_there_where_it_is_configured_and_then_whole() {
        assert_eq!(settings("").unwrap().listen.tls, None);
        let tls = settings(
            r#"
            [listen.tls]
            addresses = ["127.0.0.1:7443", "[::]:7443"]
            certificate = "/c.pem"
            key = "/k.pem"
            client_ca = "/ca.pem"
            "#,
        );
        let tls = tls.unwrap().listen.tls.unwrap();
        assert_eq!(tls.addresses[1], "[::]:7443".parse().unwrap());
        assert_eq!(tls.client_ca.to_str(), Some("/ca.pem"));

        let wrong = [
            "[listen.tls]",
            "[listen.tls]\naddresses = []\ncertificate = \"/c\"\nkey = \"/k\"\nclient_ca = \"/a\"",
            "[listen.tls]\naddresses = [\"ctl:7443\"]\ncertificate = \"/c\"\nkey = \"/k\"\nclient_ca = \"/a\"",
        ]
        .map(|text| settings(text).unwrap_err());
        insta::assert_snapshot!(wrong.join("\n"));
    }
}
