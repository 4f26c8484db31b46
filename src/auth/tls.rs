//! TLS for callers over the network, and for calls to other hosts' daemons: TLS 1.3, and no connection without a client's certificate.
//!
//! The files are read again when they change. Certificate and key are two files: as long as one is new and the other
//! old, or either is broken, what was good last goes on.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificate::PeerCertificate;
use crate::config::ListenTls;
use crate::model::chain;
use crate::sys::Watched;

/// How the daemon shows who it is to callers over the network, and checks who they are.
#[derive(Debug)]
pub struct TlsServer {
    current: RwLock<Loaded>,
    /// Held for as long as a reload takes.
    watch: Mutex<Watch>,
}

#[derive(Debug)]
struct Watch {
    files: ListenTls,
    watched: Watched,
}

/// What the files hold.
#[derive(Debug, Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// Where one of them cannot be read or used, or key and certificate are no pair.
    pub fn new(files: &ListenTls) -> Result<Self, TlsError> {
        let watched = Watched::new(paths(files));
        Ok(Self {
            current: RwLock::new(load(files)?),
            watch: Mutex::new(Watch {
                files: files.clone(),
                watched,
            }),
        })
    }

    /// Goes over to another one's files, and to what they hold. Connections stay, and their certificates are checked by the new authorities.
    pub fn replace(&self, other: Self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = other.current.into_inner();
        self.set(loaded.unwrap_or_else(PoisonError::into_inner));
        let other = other.watch.into_inner();
        *watch = other.unwrap_or_else(PoisonError::into_inner);
    }

    fn set(&self, loaded: Loaded) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    /// What a connection that was just accepted is to be handed to.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current().config.into()
    }

    fn current(&self) -> Loaded {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Whether a certificate would be let in now: connections live longer than certificates and authorities.
    pub(super) fn verify(&self, peer: &PeerCertificate) -> Result<(), rustls::Error> {
        let Some((certificate, rest)) = peer.chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        let verifier = self.current().verifier;
        verifier
            .verify_client_cert(certificate, rest, UnixTime::now())
            .map(|_| ())
    }

    /// Looks whether the files have changed; those that have, and were the same at the last look, are read again. Waits for
    /// the disk.
    pub fn refresh(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let Watch { files, watched } = &mut *watch;
        if !watched.look(paths(files)) {
            return;
        }
        match load(files) {
            Ok(loaded) => {
                watched.done();
                self.set(loaded);
                tracing::info!("the files of [listen.tls] have changed and are in use");
            }
            Err(error) => {
                let why = chain(&error).to_string();
                if watched.failed(&why) {
                    tracing::error!(
                        error = why,
                        "the files of [listen.tls] have changed and cannot be used: those read before stay in use"
                    );
                }
            }
        }
    }
}

fn paths(files: &ListenTls) -> [PathBuf; 3] {
    [&files.certificate, &files.key, &files.client_ca].map(Clone::clone)
}

fn load(files: &ListenTls) -> Result<Loaded, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(authorities(&files.client_ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| TlsError::new(&files.client_ca, io::Error::other(error)))?;
    let certificates = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier.clone())
                .with_single_cert(certificates, key)
        })
        .map_err(|error| TlsError::new(&files.certificate, io::Error::other(error)))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session brings the certificate of the first one, which is not checked again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded {
        config: Arc::new(config),
        verifier,
    })
}

/// The files with which this program calls daemons over the network.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    /// The authorities of the daemons' certificates.
    pub ca: PathBuf,
    /// The caller's certificate, followed by those that lead from it to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl ClientFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Where one of them cannot be read or used, or key and certificate are no pair.
    pub fn connector(&self) -> Result<TlsConnector, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = authorities(&self.ca)?;
        let certificates = certificates(&self.certificate)?;
        let key = private_key(&self.key)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder
                    .with_root_certificates(roots)
                    .with_client_auth_cert(certificates, key)
            })
            .map_err(|error| TlsError::new(&self.certificate, io::Error::other(error)))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config).into())
    }
}

/// Reads the certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::new(
            path,
            io::Error::other("there is no certificate in it"),
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::new(path, io::Error::other(error))),
    }
}

/// Reads the certificates of authorities.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::new(path, io::Error::other(error)))?;
    }
    Ok(roots)
}

/// Lists of the authorities that a host's packages trust: Debian's place, and Fedora's.
const SYSTEM_LISTS: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// The authorities that the host's packages trust, and the list that has them. Certificates that rustls cannot use are left out, as one
/// old authority is no reason to trust none.
pub(super) fn system_authorities() -> Option<(&'static Path, RootCertStore)> {
    SYSTEM_LISTS.iter().map(Path::new).find_map(|list| {
        let found = CertificateDer::pem_file_iter(list).ok()?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.filter_map(Result::ok));
        (!roots.is_empty()).then_some((list, roots))
    })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mode = fs::metadata(path)
        .map_err(|error| TlsError::new(path, error))?
        .permissions()
        .mode();
    if mode & 0o007 != 0 {
        let why = "it is a private key, and every user of the host may use it: chmod o= it";
        return Err(TlsError::new(path, io::Error::other(why)));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::new(path, io::Error::other(error)))
}

/// A file for TLS that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}", .path.display())]
pub struct TlsError {
    path: PathBuf,
    source: io::Error,
}

impl TlsError {
    pub(super) fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}
