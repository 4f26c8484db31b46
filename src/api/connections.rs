//! Connections, counted: so many on a socket, so many of one user, none from whom no HTTP/2 comes.
//!
//! A connection over the limit is closed as soon as it is accepted: its caller sees UNAVAILABLE. Each socket is counted by itself,
//! so that strangers on the network do not keep out the host's own users.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::config::Limits;

/// The length of what a client of HTTP/2 sends first, in bytes: the preface and an empty SETTINGS frame (RFC 9113 3.4).
const PREFACE: usize = 24 + 9;

/// How long a client may take to send it.
const GREETING: Duration = Duration::from_secs(10);

/// The connections of one socket.
#[derive(Debug, Default)]
struct Open {
    all: u32,
    by_user: HashMap<u32, u32>,
    /// Whether the last one was refused: only the first of a series is logged.
    refusing: bool,
}

/// What a connection counts for, until it is dropped.
#[derive(Debug)]
struct Held {
    open: Arc<Mutex<Open>>,
    user: Option<u32>,
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// Counts a connection; `None`: there are enough.
    fn take(open: &Arc<Mutex<Open>>, user: Option<u32>, limits: &Limits) -> Option<Self> {
        let mut counts = lock(open);
        let own = user.and_then(|user| counts.by_user.get(&user).copied());
        let own = own.unwrap_or_default();
        if counts.all >= limits.connections || own >= limits.connections_per_user {
            if !counts.refusing {
                tracing::warn!(
                    user,
                    all = counts.all,
                    of_this_user = own,
                    "connections are refused: there are as many as limits.connections, or those of one user as \
                     limits.connections_per_user"
                );
            }
            counts.refusing = true;
            return None;
        }
        counts.refusing = false;
        counts.all += 1;
        if let Some(user) = user {
            *counts.by_user.entry(user).or_default() += 1;
        }
        Some(Self {
            open: Arc::clone(open),
            user,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = lock(&self.open);
        counts.all = counts.all.saturating_sub(1);
        if let Some(user) = self.user {
            let left = counts.by_user.remove(&user).unwrap_or_default();
            if left > 1 {
                counts.by_user.insert(user, left - 1);
            }
        }
    }
}

/// What a socket accepts, within the limits of the moment; `user` tells whose a connection is, where that is known.
pub fn limited<S: Send>(
    incoming: impl Stream<Item = io::Result<S>> + Send,
    limits: watch::Receiver<Limits>,
    user: impl Fn(&S) -> Option<u32> + Send,
) -> impl Stream<Item = io::Result<Guarded<S>>> + Send {
    let open = Arc::<Mutex<Open>>::default();
    incoming.filter_map(move |accepted| {
        let guarded = accepted.map(|stream| {
            let held = Held::take(&open, user(&stream), &limits.borrow())?;
            Some(Guarded::new(stream, held))
        });
        ready(guarded.transpose())
    })
}

/// A connection that counts among its socket's, and is closed unless its client begins with HTTP/2 in time.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    _held: Held,
    /// `None`: it has greeted.
    greeting: Option<Greeting>,
}

#[derive(Debug)]
struct Greeting {
    came: usize,
    late: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    fn new(stream: S, held: Held) -> Self {
        Self {
            stream,
            _held: held,
            greeting: Some(Greeting {
                came: 0,
                late: Box::pin(tokio::time::sleep(GREETING)),
            }),
        }
    }
}

impl<S: Connected> Connected for Guarded<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(greeting) = &mut self.greeting {
            greeting.came += buf.filled().len() - before;
            if greeting.came >= PREFACE {
                self.greeting = None;
            } else if read.is_pending() && greeting.late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
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

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::config::Settings;

    fn limits(all: u32, per_user: u32) -> watch::Receiver<Limits> {
        let limits = Limits {
            connections: all,
            connections_per_user: per_user,
            ..Settings::built_in().limits
        };
        watch::channel(limits).1
    }

    /// A connection of that user.
    fn of(user: u32) -> io::Result<(u32, DuplexStream)> {
        Ok((user, tokio::io::duplex(64).0))
    }

    #[tokio::test]
    async fn connections_are_counted_by_user_and_in_all_until_they_end() {
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(receive);
        let user = |(user, _): &(u32, DuplexStream)| (*user != 0).then_some(*user);
        let mut accepted = Box::pin(limited(incoming, limits(4, 2), user));
        // Those that are taken of these users', up to an error, which is passed on.
        let mut next = async |users: &[u32]| {
            for user in users {
                send.send(of(*user)).unwrap();
            }
            send.send(Err(io::ErrorKind::Other.into())).unwrap();
            let mut taken = Vec::new();
            while let Some(Ok(guarded)) = accepted.next().await {
                taken.push(guarded);
            }
            taken
        };
        let users = |taken: &[Guarded<(u32, DuplexStream)>]| {
            let users = taken.iter().map(|guarded| guarded.stream.0);
            users.collect::<Vec<_>>()
        };
        let mut first = next(&[1, 1, 1, 0]).await;
        assert_eq!(users(&first), [1, 1, 0]);
        let second = next(&[1, 2, 2, 0]).await;
        assert_eq!(users(&second), [2]);
        first.remove(0);
        let third = next(&[3, 1]).await;
        assert_eq!(users(&third), [3]);
        drop((first, second, third));
        assert_eq!(users(&next(&[1, 1, 1, 2, 2, 2]).await), [1, 1, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_no_http2_is_let_go_and_who_does_may_be_silent() {
        let far = Duration::from_secs(3600);
        for (sent, ends) in [(0, true), (PREFACE - 1, true), (PREFACE, false)] {
            let (mut client, server) = tokio::io::duplex(64);
            let incoming = stream::iter([Ok(server)]);
            let accepted = limited(incoming, limits(1, 1), |_| None);
            let mut guarded = Box::pin(accepted).next().await.unwrap().unwrap();
            client.write_all(&vec![b'x'; sent]).await.unwrap();
            let mut all = Vec::new();
            let read = tokio::time::timeout(far, guarded.read_to_end(&mut all)).await;
            let ended = read.is_ok_and(|read| read.unwrap_err().kind() == io::ErrorKind::TimedOut);
            assert_eq!((ended, all.len()), (ends, sent));
        }
    }
}
