//! Names of servers, looked up by this host's resolver.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::Semaphore;

/// Look-ups at a time, of the runtime's 512 threads for blocking work.
const LOOK_UPS: usize = 16;

/// Looks names up for those who share it, by clones too: with a dead resolver they must not take every thread for blocking work.
#[derive(Debug, Clone)]
pub struct Resolver {
    turns: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(LOOK_UPS)),
        }
    }
}

impl Resolver {
    /// The addresses of a name, one at least; a literal address is itself, and waits for nothing.
    ///
    /// It takes as long as the resolver does, and longer where others wait for that too: give it a deadline.
    ///
    /// # Errors
    /// Where the name has no address, or getaddrinfo(3) fails.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let name = (host.to_owned(), port);
        let mut addresses = self
            .in_turn(move || name.to_socket_addrs().map(Vec::from_iter))
            .await?;
        addresses.dedup();
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(addresses)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            // getaddrinfo(3) cannot be broken off: it keeps its turn to its end.
            let _turn = turn;
            look_up()
        })
        .await
        .unwrap_or_else(|ended| Err(ended.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn look_ups_that_hang_keep_their_turns_and_delay_no_address() {
        let resolver = Resolver::default();
        let mut held = Vec::new();
        let hanging = (0..LOOK_UPS).map(|_| {
            let (end, wait) = channel::<()>();
            held.push(end);
            resolver.in_turn(move || wait.recv().map_err(io::Error::other))
        });
        // Whoever asked gives up; the threads go on.
        assert!(join_all(hanging).now_or_never().is_none());
        assert_eq!(resolver.turns.available_permits(), 0);
        assert!(resolver.in_turn(|| Ok(())).now_or_never().is_none());

        let literal = resolver.resolve("fd00::5", 5000).now_or_never().unwrap();
        assert_eq!(literal.unwrap(), ["[fd00::5]:5000".parse().unwrap()]);

        drop(held);
        assert!(resolver.in_turn(|| Ok(())).await.is_ok());
    }
}
