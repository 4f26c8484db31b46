//! A client of xenstored, which knows what domains and their block backends really came to (xen/include/public/io/xs_wire.h,
//! docs/misc/xenstore.txt).
//!
//! The client libraries there are do not fit: Xen's own is C and blocks without an end, those in Rust are GPL.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Where xenstored listens in the control domain (`xs_daemon_socket`).
const SOCKET: &str = "/run/xenstored/socket";
/// How long an answer may take: xenstored works in memory.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest payload (`XENSTORE_PAYLOAD_MAX`), in bytes.
const MAX_PAYLOAD: usize = 4096;
/// The length of a header: type, request, transaction and length, 32 bits each in the machine's order.
const HEADER: usize = 16;

/// The kinds of messages (`enum xsd_sockmsg_type`).
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 11;
const RM: u32 = 13;
const ERROR: u32 = 16;

/// Why xenstored did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or the connection broke.
    #[error("xenstored at {SOCKET}")]
    Io(#[source] io::Error),
    /// It does not answer.
    #[error("xenstored at {SOCKET} did not answer within {} s", ANSWER.as_secs())]
    Silent,
    /// It refused.
    #[error("xenstored refused {path}: {name}")]
    Refused {
        /// The path in the store.
        path: String,
        /// The name of an errno, such as `EACCES`.
        name: String,
    },
    /// What it sent is no answer to what was asked.
    #[error("xenstored sent {0}")]
    Malformed(&'static str),
}

/// A connection to xenstored.
#[derive(Debug)]
pub(super) struct Store<S = UnixStream> {
    pub(super) stream: S,
}

impl Store {
    /// Connects.
    pub(super) async fn open() -> Result<Self, StoreError> {
        let stream = UnixStream::connect(SOCKET).await.map_err(StoreError::Io)?;
        Ok(Self { stream })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Store<S> {
    /// The value at the path; `None` where there is no such path.
    pub(super) async fn read(&mut self, path: &str) -> Result<Option<String>, StoreError> {
        let value = self.ask(READ, path, b"").await?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// The names beneath the path; none where there is no such path.
    pub(super) async fn list(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        let names = self.ask(DIRECTORY, path, b"").await?;
        Ok(names.map(|names| split(&names)).unwrap_or_default())
    }

    /// Writes the value at the path.
    pub(super) async fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        self.ask(WRITE, path, value.as_bytes()).await.map(drop)
    }

    /// Removes the path and all beneath it, if it is there.
    pub(super) async fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        self.ask(RM, path, b"").await.map(drop)
    }

    /// Asks, and gives the answer's payload; `None` where there is no such path.
    async fn ask(
        &mut self,
        kind: u32,
        path: &str,
        value: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let message = message(kind, path, value);
        let exchange = async {
            self.stream.write_all(&message).await?;
            let mut header = [0; HEADER];
            self.stream.read_exact(&mut header).await?;
            let (answered, length) = header_of(header);
            // What is longer than any payload may be is not read.
            let mut payload = vec![0; length.min(MAX_PAYLOAD)];
            self.stream.read_exact(&mut payload).await?;
            Ok((answered, length, payload))
        };
        let (answered, length, payload) = timeout(ANSWER, exchange)
            .await
            .map_err(|_| StoreError::Silent)?
            .map_err(StoreError::Io)?;
        if length > MAX_PAYLOAD {
            return Err(StoreError::Malformed("a message longer than there may be"));
        }
        match answered {
            answered if answered == kind => Ok(Some(payload)),
            ERROR => match split(&payload).first().map(String::as_str) {
                Some("ENOENT") => Ok(None),
                name => Err(StoreError::Refused {
                    path: path.to_owned(),
                    name: name.unwrap_or("no reason given").to_owned(),
                }),
            },
            _ => Err(StoreError::Malformed("an answer of another kind")),
        }
    }
}

/// A request: a header, the path with a NUL, the value.
fn message(kind: u32, path: &str, value: &[u8]) -> Vec<u8> {
    let length = path.len() + 1 + value.len();
    let mut message = Vec::with_capacity(HEADER + length);
    // One request at a time, outside of transactions.
    for word in [kind, 0, 0, u32::try_from(length).unwrap_or(u32::MAX)] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(path.as_bytes());
    message.push(0);
    message.extend(value);
    message
}

/// The kind and the payload's length.
fn header_of(header: [u8; HEADER]) -> (u32, usize) {
    let [a, b, c, d, _, _, _, _, _, _, _, _, w, x, y, z] = header;
    let length = u32::from_ne_bytes([w, x, y, z]);
    (
        u32::from_ne_bytes([a, b, c, d]),
        usize::try_from(length).unwrap_or(usize::MAX),
    )
}

/// The strings of a payload, each with a NUL after it.
fn split(payload: &[u8]) -> Vec<String> {
    payload
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[cfg(test)]
mod tests;
