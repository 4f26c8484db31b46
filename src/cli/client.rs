//! The connection to the daemon, and the tokens that calls bring.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::args::Global;
use super::failure::Failure;
use crate::api::MAX_RESPONSE;
use crate::api::v1::volume_attach_client::VolumeAttachClient;
use crate::auth::ClientFiles;
use crate::config::HttpUrl;
use crate::model::{Secret, chain};
use crate::sys::Resolver;

/// The longest token read, in bytes: Keystone's Fernet tokens have some 250, its JWS tokens a few hundred.
const MAX_TOKEN: u64 = 16 * 1024;

/// Time between two signs of life of a daemon that is asked for long, and the time that it has for one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Where requests are sent by their own word. The name is never resolved: connectors go to their place whatever it is.
const NOWHERE: &str = "http://volattachd.invalid";

/// Where a daemon is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// On this host.
    Socket(PathBuf),
    /// On any host, by TLS.
    Tls {
        /// Its address.
        url: HttpUrl,
        /// What shows who is who.
        files: ClientFiles,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => write!(f, "{}", socket.display()),
            Self::Tls { url, .. } => write!(f, "{url}"),
        }
    }
}

/// A token as it is sent.
type Token = MetadataValue<Ascii>;

/// A connection, and how long to wait on it.
#[derive(Clone)]
pub(super) struct Client {
    /// The calls.
    pub(super) rpc: VolumeAttachClient<Channel>,
    timeout: Duration,
    user_token: Option<Token>,
    service_token: Option<Token>,
}

impl Client {
    /// Connects to the daemon of this host.
    pub(super) async fn connect(global: &Global) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_static(NOWHERE);
        let socket = Place::Socket(global.socket.clone());
        Self::by(endpoint, &socket, global).await
    }

    /// Connects to a daemon for long: one that falls silent ends the connection.
    pub(super) async fn stay(place: &Place, global: &Global) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_static(NOWHERE)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(SIGN_OF_LIFE);
        Self::by(endpoint, place, global).await
    }

    async fn by(endpoint: Endpoint, place: &Place, global: &Global) -> Result<Self, Failure> {
        let read = |file: &Option<_>| file.as_deref().map(token).transpose();
        let user_token = read(&global.token_file)?;
        let service_token = read(&global.service_token_file)?;
        let endpoint = endpoint.connect_timeout(global.timeout);
        let channel = match place {
            Place::Socket(socket) => {
                let socket = socket.clone();
                let connector = tower::service_fn(move |_| {
                    let socket = socket.clone();
                    async move { UnixStream::connect(socket).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await
            }
            Place::Tls { url, files } => {
                // Read each time: certificates are renewed.
                let tls = files
                    .connector()
                    .map_err(|error| Failure::local(chain(&error).to_string()))?;
                let url = url.clone();
                let connector = tower::service_fn(move |_| {
                    let (url, tls) = (url.clone(), tls.clone());
                    async move { secured(&url, &tls).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await
            }
        }
        .map_err(|error| Failure::unreachable(place, &error))?;
        Ok(Self {
            rpc: VolumeAttachClient::new(channel).max_decoding_message_size(MAX_RESPONSE),
            timeout: global.timeout,
            user_token,
            service_token,
        })
    }

    /// A message that is to be answered in time, with the tokens there are.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.request_of_stream(message);
        request.set_timeout(self.timeout);
        request
    }

    /// A message that is answered for as long as the caller listens, with the tokens there are.
    pub(super) fn request_of_stream<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let tokens = [
            ("x-auth-token", &self.user_token),
            ("x-service-token", &self.service_token),
        ];
        for (name, token) in tokens {
            if let Some(token) = token {
                request.metadata_mut().insert(name, token.clone());
            }
        }
        request
    }

    /// The answer, or why there is none.
    pub(super) fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        answer
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    /// What a status means here.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, self.timeout)
    }
}

/// Connects, and shakes hands.
async fn secured(url: &HttpUrl, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    let addresses = Resolver::default().resolve(&url.host, url.port).await?;
    let stream = TcpStream::connect(&*addresses).await?;
    tls.connect(name, stream).await
}

/// The token in a file, which nobody but its owner may be able to read.
fn token(path: &Path) -> Result<Token, Failure> {
    let cannot =
        |why: &str| Failure::local(format!("cannot use the token in {}: {why}", path.display()));
    let (mut text, mode) = File::open(path)
        .and_then(|file| {
            let mode = file.metadata()?.permissions().mode();
            let mut text = String::new();
            file.take(MAX_TOKEN).read_to_string(&mut text)?;
            Ok((Secret::new(text), mode))
        })
        .map_err(|error| cannot(&error.to_string()))?;
    if mode & 0o077 != 0 {
        return Err(cannot(&format!(
            "others than its owner may use it (mode {:03o}): chmod 600 it",
            mode & 0o777
        )));
    }
    text = Secret::new(text.expose().trim().to_owned());
    if text.expose().is_empty() {
        return Err(cannot("it is empty"));
    }
    let mut token = Token::try_from(text.expose())
        .map_err(|_| cannot("it has characters that no token has"))?;
    // Not shown where the request is, and kept out of what HTTP/2 remembers of it.
    token.set_sensitive(true);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_owners_alone_and_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let with = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).unwrap();
            token(&path)
        };
        let token = with("gAAAA-hunter2\n", 0o600).unwrap();
        assert_eq!(token, "gAAAA-hunter2");
        assert_eq!(format!("{token:?}"), "Sensitive");
        assert!(with("hunter2", 0o400).is_ok());
        for (text, mode) in [
            ("hunter2", 0o640),
            ("hunter2", 0o604),
            ("hunter2", 0o644),
            (" \n", 0o600),
            ("hunt\ner2", 0o600),
        ] {
            let failure = with(text, mode).unwrap_err().to_text();
            assert!(!failure.contains("hunter2"), "{failure}");
        }
        assert!(super::token(&dir.path().join("none")).is_err());
    }
}
