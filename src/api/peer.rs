//! Connections that know who is at the other end.

use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Connected;

use crate::auth::{Peer, PeerCertificate, PeerCredentials, TlsServer};

/// How long a TLS handshake may take: two round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many may be under way: each holds some tens of kilobytes. Further connections wait in the kernel.
const MAX_HANDSHAKES: usize = 256;
/// How long a connection may be silent before its other end is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait after a connection cannot be accepted, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection; each of its requests carries who is at the other end as an extension.
#[derive(Debug)]
pub struct PeerStream {
    stream: Inner,
    peer: Option<Peer>,
}

#[derive(Debug)]
enum Inner {
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl PeerStream {
    /// A connection on the unix socket from that peer; `None` is nobody, whose every call is refused unless it brings
    /// tokens.
    #[must_use]
    pub fn unix(stream: UnixStream, peer: Option<Peer>) -> Self {
        Self {
            stream: Inner::Unix(stream),
            peer,
        }
    }

    /// A connection whose TLS handshake is done.
    fn tls(stream: TlsStream<TcpStream>) -> Self {
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain.and_then(PeerCertificate::new);
        Self {
            peer: certificate.map(|certificate| Peer::Certificate(Arc::new(certificate))),
            stream: Inner::Tls(Box::new(stream)),
        }
    }

    /// The peer's user on this host, where it is known.
    #[must_use]
    pub fn user(&self) -> Option<u32> {
        match &self.peer {
            Some(Peer::Local(peer)) => Some(peer.uid),
            Some(Peer::Certificate(_)) | None => None,
        }
    }
}

/// What a unix socket accepts, with what the kernel says of each peer at that time.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<PeerStream>> + Send {
    accepted(UnixListenerStream::new(listener)).map(|stream| {
        let peer = PeerCredentials::of(&stream)
            .inspect_err(|error| tracing::warn!(%error, "cannot learn who connected"))
            .ok();
        Ok(PeerStream::unix(stream, peer.map(Peer::Local)))
    })
}

/// What a TCP socket accepts, once the TLS handshake is done and the client has shown a certificate. Handshakes that
/// are slow do not hold up others.
pub fn incoming_tls(
    listener: TcpListener,
    tls: Arc<TlsServer>,
) -> impl Stream<Item = io::Result<PeerStream>> + Send {
    accepted(TcpListenerStream::new(listener))
        .map(move |stream| handshake(stream, tls.clone()))
        .buffer_unordered(MAX_HANDSHAKES)
        .filter_map(|stream| ready(stream.map(Ok)))
}

/// Goes on where a connection cannot be accepted: a server that is handed such an error ends.
fn accepted<S: Send>(
    listener: impl Stream<Item = io::Result<S>> + Send,
) -> impl Stream<Item = S> + Send {
    listener
        .then(|accepted| async {
            match accepted {
                Ok(stream) => Some(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    None
                }
            }
        })
        .filter_map(ready)
}

async fn handshake(stream: TcpStream, tls: Arc<TlsServer>) -> Option<PeerStream> {
    let from = stream.peer_addr().map(|address| address.to_string());
    let from = from.unwrap_or_default();
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4);
    // Without either, calls are answered all the same.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let _ = stream.set_nodelay(true);
    let done = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await;
    match done {
        Ok(Ok(stream)) => Some(PeerStream::tls(stream)),
        Ok(Err(error)) => {
            tracing::warn!(from, %error, "refused a connection: its TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::warn!(
                from,
                "dropped a connection: its TLS handshake takes too long"
            );
            None
        }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Option<Peer> {
        self.peer.clone()
    }
}

/// Does the same with either kind of stream.
macro_rules! inner {
    ($self:ident, $stream:ident => $do:expr) => {
        match &mut $self.stream {
            Inner::Unix($stream) => $do,
            Inner::Tls($stream) => $do,
        }
    };
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Inner::Unix(stream) => stream.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
