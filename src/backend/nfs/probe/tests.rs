use tokio::net::TcpListener;

use super::*;

/// Ends no test that works: the probes' own deadline in these tests.
const LONG: Duration = Duration::from_secs(30);
const ALL: [Version; 4] = [Version::V4(2), Version::V4(1), Version::V4(0), Version::V3];

/// The words of an answer behind its transaction id; `None`: none ever comes.
type Words = Option<&'static [u32]>;

const DONE: Words = Some(&[1, 0, 0, 0, 0, 0, 0, 0]);
const OTHER_MINOR: Words = Some(&[1, 0, 0, 0, 0, 10_021, 0, 0]);
const THREE_ALONE: Words = Some(&[1, 0, 0, 0, 2, 3, 3]);
const DENIED: Words = Some(&[1, 1, 1, 1]);

/// A program that gives the calls of one connection after the other these answers.
async fn program(connections: Vec<Vec<Words>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        for answers in connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut mark = [0; 4];
                stream.read_exact(&mut mark).await.unwrap();
                let mut call = vec![0; rpc::record_length(mark).unwrap()];
                stream.read_exact(&mut call).await.unwrap();
                let Some(words) = answer else { continue };
                let mut bytes = (0x8000_0004 + words.len() as u32 * 4)
                    .to_be_bytes()
                    .to_vec();
                bytes.extend(&call[..4]);
                bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
                stream.write_all(&bytes).await.unwrap();
            }
            open.push(stream);
        }
        // Keeps connections open.
        std::future::pending::<()>().await;
    });
    address
}

async fn ask(answers: Vec<Words>, versions: &[Version]) -> Outcome<Vec<Offer>> {
    probe(program(vec![answers]).await, versions, None, LONG).await
}

fn offers(outcome: Outcome<Vec<Offer>>) -> Vec<String> {
    match outcome {
        Outcome::Speaks(offers) => offers.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_newest_version_in_common_comes_first() {
    assert_eq!(offers(ask(vec![DONE], &ALL).await), ["4.2", "4.1", "4.0"]);
    let older = ask(vec![OTHER_MINOR, DONE], &ALL).await;
    assert_eq!(offers(older), ["4.1", "4.0"]);
    assert_eq!(offers(ask(vec![DENIED], &ALL[1..2]).await), ["4.1"]);
}

#[tokio::test]
async fn version_3_needs_its_mountd() {
    let mountd = program(vec![vec![DONE]]).await;
    let nfs = || program(vec![vec![THREE_ALONE, THREE_ALONE, THREE_ALONE, DONE]]);
    let outcome = probe(nfs().await, &ALL, Some(mountd.port()), LONG).await;
    let offer = Offer {
        version: Version::V3,
        mount_port: Some(mountd.port()),
    };
    assert_eq!(outcome, Outcome::Speaks(vec![offer]));
    let other = program(vec![vec![THREE_ALONE]]).await;
    let outcome = probe(nfs().await, &ALL, Some(other.port()), LONG).await;
    assert!(
        matches!(&outcome, Outcome::Refused(why) if why.contains("no mountd")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_server_without_any_of_them_says_what_it_has() {
    let outcome = ask(vec![THREE_ALONE], &ALL[..1]).await;
    assert_eq!(
        outcome,
        Outcome::Refused("it has NFS version 3 alone".into())
    );
    let outcome = ask(vec![OTHER_MINOR], &ALL[..1]).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

#[tokio::test]
async fn silence_and_closed_ports_are_told() {
    let address = program(vec![vec![None]]).await;
    let outcome = probe(address, &ALL, None, Duration::from_millis(100)).await;
    assert_eq!(outcome, Outcome::Silent);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcome = probe(address, &ALL, None, LONG).await;
    assert_eq!(outcome, Outcome::Unreachable("connection refused".into()));
}

#[tokio::test]
async fn what_is_no_nfs_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut call = [0; 56];
            stream.read_exact(&mut call).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    for _ in 0..2 {
        let outcome = probe(address, &ALL, None, LONG).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
}
