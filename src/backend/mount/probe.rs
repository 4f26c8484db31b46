//! Connecting to a server from user space, to ask for a sign of life before the kernel is asked to talk to it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use tokio::net::{TcpSocket, TcpStream};

/// What came of asking one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) enum Outcome<T> {
    /// It answers, and this is what it offers to be mounted with.
    Speaks(T),
    /// It answers, but no version is in common; what it said.
    Refused(String),
    /// No connection, or none that lasted; why.
    Unreachable(String),
    /// No answer in time.
    Silent,
}

/// Connects; `from` is the address to connect from, where there is one of the server's family.
pub(in crate::backend) async fn connect(
    address: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from.filter(|from| from.is_ipv4() == address.is_ipv4()) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(address).await
}

/// Whether the server ended the connection once there was one.
pub(in crate::backend) fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// `connection refused`, rather than `Connection refused (os error 111)`.
pub(in crate::backend) fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().to_lowercase(),
        None => error.to_string(),
    }
}
