//! Asks a server for a sign of life from user space, before the kernel is asked to talk to it: the kernel serialises
//! CIFS mounts, so one that waits for a silent server would make every other on the host wait.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::dialect::Dialect;
use super::negotiate::{self, Answer};
use crate::backend::mount::probe::{Outcome, closed, connect, in_words};

/// Asks the server at an address for one of these versions, newest first.
///
/// `from`: the address to connect from, where there is one of its family.
pub(super) async fn probe(
    address: SocketAddr,
    from: Option<IpAddr>,
    dialects: &[Dialect],
    within: Duration,
) -> Outcome<Vec<Dialect>> {
    timeout(within, ask(address, from, dialects))
        .await
        .unwrap_or(Outcome::Silent)
}

async fn ask(
    address: SocketAddr,
    from: Option<IpAddr>,
    dialects: &[Dialect],
) -> Outcome<Vec<Dialect>> {
    let (modern, smb1): (Vec<_>, Vec<_>) = dialects
        .iter()
        .copied()
        .partition(|dialect| *dialect != Dialect::Smb1);
    let mut said = None;
    if !modern.is_empty() {
        let request = negotiate::request(&modern, uuid::Uuid::new_v4().into_bytes());
        match exchange(address, from, &request).await {
            Ok(message) => match message.map_or_else(|a| a, |m| negotiate::answer(&m, &modern)) {
                Answer::Speaks(dialect) => return Outcome::Speaks(vec![dialect]),
                Answer::NothingInCommon(what) if smb1.is_empty() => return Outcome::Refused(what),
                Answer::NothingInCommon(what) => said = Some(what),
                Answer::NotSmb(what) => return Outcome::Refused(what.to_owned()),
            },
            // What a server that has SMB 1 alone does with a message of SMB 2.
            Err(error) if closed(&error) => {}
            Err(error) => return Outcome::Unreachable(in_words(&error)),
        }
    }
    let speaks_smb1 = match exchange(address, from, &negotiate::request_smb1()).await {
        Ok(message) => {
            let answer = message.map_or_else(|a| a, |m| negotiate::answer_smb1(&m));
            answer == Answer::Speaks(Dialect::Smb1)
        }
        Err(error) if closed(&error) => false,
        Err(error) => return Outcome::Unreachable(in_words(&error)),
    };
    match (speaks_smb1, said) {
        (true, _) if !smb1.is_empty() => Outcome::Speaks(vec![Dialect::Smb1]),
        (true, None) => Outcome::Refused(
            "it speaks SMB 1.0 alone, which is insecure and not allowed here".into(),
        ),
        (_, Some(what)) => Outcome::Refused(what),
        (false, None) if modern.is_empty() => Outcome::Refused(
            "it has no answer to SMB 1.0, the only version asked for: servers have newer ones"
                .into(),
        ),
        (false, None) => Outcome::Refused(
            "it closed the connection without an answer: is it an SMB server, and does it let \
             this host in?"
                .into(),
        ),
    }
}

/// Connects anew, sends a request and reads one answer, or what its frame says already.
async fn exchange(
    address: SocketAddr,
    from: Option<IpAddr>,
    request: &[u8],
) -> io::Result<Result<Vec<u8>, Answer>> {
    let mut stream = connect(address, from).await?;
    stream.write_all(request).await?;
    let mut frame = [0; 4];
    stream.read_exact(&mut frame).await?;
    let length = match negotiate::frame_length(frame) {
        Ok(length) => length,
        Err(answer) => return Ok(Err(answer)),
    };
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Ok(message))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::backend::closed::closed_port;

    /// Ends no test that works: the probes' own deadline in these tests.
    const LONG: Duration = Duration::from_secs(30);
    const NEW: Dialect = Dialect::Smb2(0x0302);

    /// A server that answers each connection with the next of these, and then closes it; `None`: never.
    async fn server(answers: Vec<Option<Vec<u8>>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Some(answer) = answer else {
                    open.push(stream);
                    continue;
                };
                let mut frame = [0; 4];
                stream.read_exact(&mut frame).await.unwrap();
                let mut request = vec![0; u32::from_be_bytes(frame) as usize];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
            // Keeps silent connections open.
            std::future::pending::<()>().await;
        });
        address
    }

    fn answer(revision: u16) -> Option<Vec<u8>> {
        let mut bytes = vec![0, 0, 0, 128];
        bytes.extend(b"\xfeSMB");
        bytes.resize(4 + 128, 0);
        bytes[4 + 16] = 1;
        bytes[4 + 64] = 65;
        bytes[4 + 68..4 + 70].copy_from_slice(&revision.to_le_bytes());
        Some(bytes)
    }

    fn answer_smb1() -> Option<Vec<u8>> {
        let mut bytes = b"\0\0\0\x25\xffSMB\x72".to_vec();
        bytes.resize(4 + 37, 0);
        bytes[4 + 32] = 17;
        Some(bytes)
    }

    async fn ask(answers: Vec<Option<Vec<u8>>>, dialects: &[Dialect]) -> Outcome<Vec<Dialect>> {
        probe(server(answers).await, None, dialects, LONG).await
    }

    #[tokio::test]
    async fn the_servers_version_is_taken() {
        assert_eq!(
            ask(vec![answer(0x0302)], &[NEW]).await,
            Outcome::Speaks(vec![NEW])
        );
        let from = Some("127.0.0.2".parse().unwrap());
        let address = server(vec![answer(0x0302)]).await;
        assert_eq!(
            probe(address, from, &[NEW], LONG).await,
            Outcome::Speaks(vec![NEW])
        );
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_at_the_deadline() {
        let address = server(vec![None]).await;
        let outcome = probe(address, None, &[NEW], Duration::from_millis(100)).await;
        assert_eq!(outcome, Outcome::Silent);
    }

    #[tokio::test]
    async fn a_closed_port_is_told() {
        assert_eq!(
            probe(closed_port(), None, &[NEW], LONG).await,
            Outcome::Unreachable("connection refused".into())
        );
    }

    #[tokio::test]
    async fn a_server_with_smb1_alone_is_told_and_only_used_where_allowed() {
        let smb1_alone = || vec![Some(vec![]), answer_smb1()];
        assert_eq!(
            ask(smb1_alone(), &[NEW, Dialect::Smb1]).await,
            Outcome::Speaks(vec![Dialect::Smb1])
        );
        let Outcome::Refused(why) = ask(smb1_alone(), &[NEW]).await else {
            panic!("not refused")
        };
        assert!(why.contains("SMB 1.0"), "{why}");
        assert_eq!(
            ask(vec![answer_smb1()], &[Dialect::Smb1]).await,
            Outcome::Speaks(vec![Dialect::Smb1])
        );
    }

    #[tokio::test]
    async fn what_is_no_smb_server_is_refused() {
        for answers in [
            vec![Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())],
            vec![Some(vec![0, 0, 0, 4, 1, 2, 3, 4])],
            vec![Some(vec![]), Some(vec![])],
            vec![Some(vec![0, 0, 1, 0, 0xfe]), Some(vec![])],
            vec![Some(vec![0x83, 0, 0, 1, 0x82]), Some(vec![])],
        ] {
            let outcome = ask(answers.clone(), &[NEW]).await;
            assert!(
                matches!(outcome, Outcome::Refused(_)),
                "{answers:?}: {outcome:?}"
            );
        }
    }
}
