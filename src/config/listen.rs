//! `[listen]`: where callers reach the daemon.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::Problem;
use super::tree::Section;
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
    use crate::config::tests::settings;

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
