//! Callers over the network, by TLS with a certificate.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use volattach::api::v1::ListAttachmentsRequest;
use volattach::api::v1::volume_attach_client::VolumeAttachClient;

use crate::pki::{Authority, Certificate, write_pem};
use crate::{Daemon, LONG, Place};

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A daemon that listens with TLS, and who may call it.
pub(crate) struct Network {
    place: Place,
    /// Of the daemon's certificate, and of its callers'.
    pub(crate) authority: Authority,
    pub(crate) port: u16,
}

impl Network {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let network = Self {
            authority: Authority::new(),
            port: port.local_addr().unwrap().port(),
            place,
        };
        network.authority.write(network.file("ca.pem"));
        network.renew(&network.authority.issue("localhost"));
        let config = network.file("volattachd.toml");
        let mut text = fs::read_to_string(&config).unwrap();
        text.push_str(&format!(
            "[listen.tls]\naddresses = [\"127.0.0.1:{}\"]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
             [auth.certificates]\n\"spiffe://example.org/ctl\" = [\"admin\"]\n\"ctl.example.org\" = [\"admin\"]\n",
            network.port,
            network.file("cert.pem"),
            network.file("key.pem"),
            network.file("ca.pem"),
        ));
        fs::write(config, text).unwrap();
        network
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    pub(crate) fn start(&self) -> Daemon {
        self.place.start(self.place.command(&[]))
    }

    /// Gives the daemon another certificate.
    fn renew(&self, issued: &Certificate) {
        write_pem(&self.file("cert.pem"), "CERTIFICATE", &issued.der);
        write_pem(&self.file("key.pem"), "PRIVATE KEY", &issued.key);
    }

    /// Shakes hands, which the client is done with before the daemon has looked at its certificate.
    async fn connect(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&Certificate>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let ca = self.authority.der.clone();
        roots.add(CertificateDer::from(ca)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from(certificate.der.clone())],
                    PrivatePkcs8KeyDer::from(certificate.key.clone()).into(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// What the daemon says instead of serving a connection.
    async fn refusal(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&Certificate>,
    ) -> String {
        let stream = self.connect(versions, certificate).await;
        let served = match stream {
            Ok(mut stream) => stream.read(&mut [0; 64]).await,
            Err(error) => Err(error),
        };
        served.expect_err("it was let in").to_string()
    }

    async fn channel(&self, certificate: &Certificate) -> Channel {
        let stream = self.connect(TLS13, Some(certificate)).await.unwrap();
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { Ok::<_, std::io::Error>(stream?) }
        });
        Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }
}

async fn list(channel: Channel) -> Result<(), Code> {
    let mut client = VolumeAttachClient::new(channel);
    let listed = client.list_attachments(ListAttachmentsRequest::default());
    listed.await.map(|_| ()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_certificate_of_a_known_name_may_call() {
    let network = Network::new();
    let _daemon = network.start();
    let authority = &network.authority;
    for name in ["spiffe://example.org/ctl", "ctl.example.org"] {
        let channel = network.channel(&authority.issue(name)).await;
        assert_eq!(list(channel).await, Ok(()), "{name}");
    }
    for name in [
        "spiffe://example.org/ctl/x",
        "example.org",
        "x.ctl.example.org",
    ] {
        let channel = network.channel(&authority.issue(name)).await;
        assert_eq!(list(channel).await, Err(Code::PermissionDenied), "{name}");
    }
    // With a token it is Keystone's to say, and there is none.
    let mut request = tonic::Request::new(ListAttachmentsRequest::default());
    let token = "gAAAAA".parse().unwrap();
    request.metadata_mut().insert("x-auth-token", token);
    let channel = network.channel(&authority.issue("ctl.example.org")).await;
    let mut client = VolumeAttachClient::new(channel);
    let refused = client.list_attachments(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let good = authority.issue("ctl.example.org");
    let other = Authority::new().issue("ctl.example.org");
    let old = authority.issue_until("ctl.example.org", 2020);
    for (versions, certificate, why) in [
        (TLS13, None, "CertificateRequired"),
        // Of an authority of the same name: a signature that is not its own.
        (TLS13, Some(&other), "DecryptError"),
        (TLS13, Some(&old), "CertificateExpired"),
        (TLS12, Some(&good), "ProtocolVersion"),
    ] {
        let refusal = network.refusal(versions, certificate).await;
        assert!(refusal.contains(why), "{refusal}, not {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_handshake_holds_up_nobody_and_is_dropped() {
    let network = Network::new();
    let _daemon = network.start();
    let connect = || TcpStream::connect(("127.0.0.1", network.port));
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(connect().await.unwrap());
    }
    let good = network.authority.issue("ctl.example.org");
    assert_eq!(list(network.channel(&good).await).await, Ok(()));
    let end = tokio::time::timeout(LONG, stalled[0].read(&mut [0; 1])).await;
    assert_eq!(end.expect("it is kept for ever").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_taken_and_broken_ones_are_not() {
    let network = Network::new();
    let mut daemon = network.start();
    let mut log = BufReader::new(daemon.0.stderr.take().unwrap());
    let mut hear = |words: &str| {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "it ended without {words:?}"
            );
        }
    };
    let served = async || {
        let good = network.authority.issue("ctl.example.org");
        let stream = network.connect(TLS13, Some(&good)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = served().await;
    fs::write(network.file("cert.pem"), "broken").unwrap();
    hear("cannot be used");
    assert_eq!(served().await, first);

    let renewed = network.authority.issue("localhost");
    network.renew(&renewed);
    let deadline = Instant::now() + LONG;
    while served().await != renewed.der {
        assert!(Instant::now() < deadline, "the new certificate is not used");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }

    // An authority that is taken away ends what its certificates began.
    let channel = network
        .channel(&network.authority.issue("ctl.example.org"))
        .await;
    assert_eq!(list(channel.clone()).await, Ok(()));
    let other = Authority::new();
    other.write(network.file("ca.pem"));
    let deadline = Instant::now() + LONG;
    while list(channel.clone()).await != Err(Code::Unauthenticated) {
        assert!(Instant::now() < deadline, "the old authority still counts");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let channel = network.channel(&other.issue("ctl.example.org")).await;
    assert_eq!(list(channel).await, Ok(()));
    daemon.signal(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_other_files_and_other_names_and_keeps_connections() {
    let network = Network::new();
    let mut daemon = network.start();
    let old = network
        .channel(&network.authority.issue("ctl.example.org"))
        .await;
    let fresh = network.authority.issue("other.example.org");
    assert_eq!(list(old.clone()).await, Ok(()));
    let denied = list(network.channel(&fresh).await).await;
    assert_eq!(denied, Err(Code::PermissionDenied));

    let renewed = network.authority.issue("localhost");
    write_pem(&network.file("new.pem"), "CERTIFICATE", &renewed.der);
    write_pem(&network.file("new.key"), "PRIVATE KEY", &renewed.key);
    let config = network.file("volattachd.toml");
    let text = fs::read_to_string(&config).unwrap();
    let (cert, key) = (network.file("new.pem"), network.file("new.key"));
    let text =
        text.replace(
            &format!("{:?}", network.file("cert.pem")),
            &format!("{cert:?}"),
        )
        .replace(
            &format!("{:?}", network.file("key.pem")),
            &format!("{key:?}"),
        ) + "\"other.example.org\" = [\"admin\"]\n";
    fs::write(&config, text).unwrap();
    daemon.signal(Signal::SIGHUP);
    network.place.hear("READY=1");

    assert_eq!(list(old).await, Ok(()));
    assert_eq!(list(network.channel(&fresh).await).await, Ok(()));
    let stream = network.connect(TLS13, Some(&fresh)).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(shown[0].to_vec(), renewed.der);
    daemon.signal(Signal::SIGTERM);
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
}
