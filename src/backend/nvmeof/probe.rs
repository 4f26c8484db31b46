//! Asks a portal for a sign of life from user space, before the kernel is asked to talk to it: a kernel's connect to a server that is
//! silent cannot be ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::backend::mount::probe::{Outcome, closed, connect, in_words};

/// The length of both PDUs, in bytes.
const LENGTH: u8 = 128;
/// Initialize Connection Request (NVM Express TCP Transport Specification 1.0c, 3.6.2.2).
const REQUEST: u8 = 0x00;
/// Initialize Connection Response (3.6.2.3).
const RESPONSE: u8 = 0x01;

/// Asks the portal to initialize a connection, which is then closed.
pub(super) async fn probe(portal: SocketAddr, within: Duration) -> Outcome<()> {
    timeout(within, ask(portal))
        .await
        .unwrap_or(Outcome::Silent)
}

async fn ask(portal: SocketAddr) -> Outcome<()> {
    let no_target = "what answers there does not speak NVMe/TCP";
    match exchange(portal).await {
        Ok(answer) if answer[0] == RESPONSE && answer[2] == LENGTH => Outcome::Speaks(()),
        Ok(_) => Outcome::Refused(no_target.to_owned()),
        Err(error) if closed(&error) => Outcome::Refused(no_target.to_owned()),
        Err(error) => Outcome::Unreachable(in_words(&error)),
    }
}

async fn exchange(portal: SocketAddr) -> io::Result<[u8; 8]> {
    let mut stream = connect(portal, None).await?;
    // Version 0, no alignment, no digests, one outstanding R2T: zeros all.
    let mut request = [0; LENGTH as usize];
    request[0] = REQUEST;
    request[2] = LENGTH;
    request[4] = LENGTH;
    stream.write_all(&request).await?;
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::backend::closed::closed_port;

    /// Ends no test that works.
    const LONG: Duration = Duration::from_secs(30);

    /// A server that answers with that, and waits where there is nothing to say.
    async fn server(answer: Option<Vec<u8>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; LENGTH as usize];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request[..5], [REQUEST, 0, LENGTH, 0, LENGTH]);
            match answer {
                Some(answer) => stream.write_all(&answer).await.unwrap(),
                None => std::future::pending().await,
            }
        });
        address
    }

    #[tokio::test]
    async fn a_target_is_told_from_what_is_none() {
        let mut response = vec![0; usize::from(LENGTH)];
        response[0] = RESPONSE;
        response[2] = LENGTH;
        assert_eq!(
            probe(server(Some(response)).await, LONG).await,
            Outcome::Speaks(())
        );
        for other in [b"HTTP/1.1 400 Bad Request".to_vec(), vec![1], vec![]] {
            let outcome = probe(server(Some(other)).await, LONG).await;
            assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_silent_portal_and_a_closed_one_are_told() {
        let silent = server(None).await;
        let within = Duration::from_millis(100);
        assert_eq!(probe(silent, within).await, Outcome::Silent);
        assert_eq!(
            probe(closed_port(), LONG).await,
            Outcome::Unreachable("connection refused".into())
        );
    }
}
