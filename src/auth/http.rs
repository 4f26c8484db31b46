//! The smallest HTTP client that can ask Keystone, Cinder, and the servers of policies: one request a connection, with a deadline and
//! a bounded answer.
//!
//! Connections are not kept: identities are cached, so requests are few, and one that is kept may turn out to be dead
//! only after a request was sent on it. Redirects are not followed: tokens go to the configured servers alone.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls::{TlsError, authorities, system_authorities};
use crate::config::HttpUrl;
use crate::sys::Resolver;

/// The longest answer taken, in bytes: a token is some thousands, and one with a thousand groups is this.
const MAX_ANSWER: usize = 64 * 1024;
/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// Asks web servers.
pub struct HttpClient {
    /// `None`: no server is asked by TLS.
    tls: Option<TlsConnector>,
    timeout: Duration,
    /// The longest answer taken, in bytes.
    limit: usize,
    resolver: Resolver,
}

/// What a server answers.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    /// All of its body: 64 KiB at most, unless the client takes longer ones.
    pub body: Bytes,
}

/// Why a server gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// In all that time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection can be made, its name resolved, or its certificate verified.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// It breaks off, or does not speak HTTP.
    #[error("it does not speak HTTP, or broke off")]
    Broken(#[source] hyper::Error),
    /// More bytes than the client takes.
    #[error("its answer has more than {0} bytes")]
    TooLong(usize),
}

impl HttpClient {
    /// One that trusts the authorities in `ca`, and gives each request that time.
    ///
    /// # Errors
    /// Where the authorities cannot be read.
    pub fn new(ca: Option<&Path>, timeout: Duration) -> Result<Self, TlsError> {
        let trust = |ca| connector(ca, authorities(ca)?);
        Ok(Self {
            tls: ca.map(trust).transpose()?,
            timeout,
            limit: MAX_ANSWER,
            resolver: Resolver::default(),
        })
    }

    /// One that trusts the authorities that the host's packages trust, if it has a list of them.
    ///
    /// # Errors
    /// Where no TLS can be spoken by them.
    pub fn trusting_host(timeout: Duration) -> Result<Self, TlsError> {
        let mut client = Self::new(None, timeout)?;
        if let Some((list, roots)) = system_authorities() {
            client.tls = Some(connector(list, roots)?);
        }
        Ok(client)
    }

    /// The same, which takes answers of so many bytes.
    #[must_use]
    pub fn with_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Asks a server; the request's target is beneath its address.
    ///
    /// # Errors
    /// Where it gives no answer in time, or none that is HTTP.
    pub async fn send(
        &self,
        server: &HttpUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, HttpError> {
        let exchange = async {
            // Not by `connect` itself, whose look-ups nothing bounds.
            let resolved = self.resolver.resolve(&server.host, server.port).await;
            let addresses = resolved.map_err(HttpError::Connect)?;
            // In turn, until one takes the connection.
            let stream = TcpStream::connect(&*addresses)
                .await
                .map_err(HttpError::Connect)?;
            if !server.tls {
                return exchange(stream, server, request, self.limit).await;
            }
            let no_tls = || HttpError::Connect(io::Error::other("no authorities are configured"));
            let tls = self.tls.as_ref().ok_or_else(no_tls)?;
            let name = ServerName::try_from(server.host.clone())
                .map_err(|error| HttpError::Connect(io::Error::other(error)))?;
            let stream = tls
                .connect(name, stream)
                .await
                .map_err(HttpError::Connect)?;
            exchange(stream, server, request, self.limit).await
        };
        // Boxed: a TLS handshake's state is large, and every call would carry it.
        tokio::time::timeout(self.timeout, Box::pin(exchange))
            .await
            .unwrap_or(Err(HttpError::Timeout(self.timeout)))
    }
}

fn connector(ca: &Path, roots: RootCertStore) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::new(ca, io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    server: &HttpUrl,
    mut request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Answer, HttpError> {
    let target = format!("{}{}", server.path, request.uri());
    let invalid = |error: &dyn std::fmt::Display| {
        HttpError::Connect(io::Error::other(format!("no such target: {error}")))
    };
    *request.uri_mut() = target.parse().map_err(|error| invalid(&error))?;
    let host = server
        .authority()
        .parse()
        .map_err(|error| invalid(&error))?;
    request.headers_mut().insert(HOST, host);
    request
        .headers_mut()
        .insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));

    let (mut sender, mut connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(HttpError::Broken)?;
    let answer = async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(HttpError::Broken)?
            .into_parts();
        let collected = Limited::new(body, limit).collect().await;
        let body = collected.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => HttpError::Broken(*error),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>());
                HttpError::TooLong(limit)
            }
        })?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    };
    tokio::pin!(answer);
    // The connection does the work, and may well be done before its answer is read.
    let mut done = false;
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            _ = &mut connection, if !done => done = true,
        }
    }
}
