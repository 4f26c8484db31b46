//! Connections that know who is at the other end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;

use crate::auth::PeerCredentials;

/// A connection on the unix socket; each of its requests carries the peer's credentials as an extension.
#[derive(Debug)]
pub struct LocalStream {
    stream: UnixStream,
    peer: Option<PeerCredentials>,
}

impl LocalStream {
    /// A connection from that peer; `None` is nobody, whose every call is refused.
    #[must_use]
    pub fn new(stream: UnixStream, peer: Option<PeerCredentials>) -> Self {
        Self { stream, peer }
    }
}

/// What a listener accepts, with what the kernel says of each peer at that time.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<LocalStream>> + Send {
    UnixListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        let peer = PeerCredentials::of(&stream)
            .inspect_err(|error| tracing::warn!(%error, "cannot learn who connected"))
            .ok();
        Ok(LocalStream::new(stream, peer))
    })
}

impl Connected for LocalStream {
    type ConnectInfo = Option<PeerCredentials>;

    fn connect_info(&self) -> Option<PeerCredentials> {
        self.peer.clone()
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
