//! The connection to the daemon, and the tokens that calls bring.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::args::Global;
use super::failure::Failure;
use crate::api::MAX_RESPONSE;
use crate::api::v1::volume_attach_client::VolumeAttachClient;
use crate::model::Secret;

/// The longest token read, in bytes: Keystone's Fernet tokens have some 250, its JWS tokens a few hundred.
const MAX_TOKEN: u64 = 16 * 1024;

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
    /// Connects.
    pub(super) async fn connect(global: &Global) -> Result<Self, Failure> {
        let read = |file: &Option<_>| file.as_deref().map(token).transpose();
        let user_token = read(&global.token_file)?;
        let service_token = read(&global.service_token_file)?;
        let socket = global.socket.clone();
        // The name is never resolved: the connector below goes to the socket whatever it is.
        let channel = Endpoint::from_static("http://volattachd.invalid")
            .connect_timeout(global.timeout)
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .map_err(|error| Failure::unreachable(&global.socket, &error))?;
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
