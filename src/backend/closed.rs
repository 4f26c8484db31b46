//! Ports that nobody listens at, for tests.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Waits until a port whose listener was dropped refuses connections: a process that another test forks has the listener until its exec.
pub(in crate::backend) fn wait_closed(address: impl ToSocketAddrs) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < deadline, "the port is still open");
    }
}

/// A port of 127.0.0.1 that refuses connections.
pub(in crate::backend) fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    wait_closed(address);
    address
}
