use proptest::prelude::*;
use tokio::io::duplex;

use super::*;

/// What the client makes of these answers, sent as they are, to the reading of `/a`; and what it asked.
fn read(answers: &[u8]) -> (Result<Option<String>, StoreError>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (stream, mut other) = duplex(1 << 16);
        other.write_all(answers).await.unwrap();
        other.shutdown().await.unwrap();
        let value = Store { stream }.read("/a").await;
        let mut asked = Vec::new();
        other.read_to_end(&mut asked).await.unwrap();
        (value, asked)
    })
}

fn answer(kind: u32, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [kind, 0, 0, length]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    bytes.extend(payload);
    bytes
}

#[test]
fn a_value_or_nothing() {
    let (value, asked) = read(&answer(READ, 2, b"42"));
    assert_eq!(value.unwrap().as_deref(), Some("42"));
    assert_eq!(asked, answer(READ, 3, b"/a\0"));
    let (value, _) = read(&answer(ERROR, 7, b"ENOENT\0"));
    assert_eq!(value.unwrap(), None);
}

#[test]
fn what_is_no_answer_is_an_error() {
    for (bytes, text) in [
        (
            answer(ERROR, 7, b"EACCES\0"),
            "xenstored refused /a: EACCES",
        ),
        (
            answer(ERROR, 0, b""),
            "xenstored refused /a: no reason given",
        ),
        (
            answer(WRITE, 3, b"OK\0"),
            "xenstored sent an answer of another kind",
        ),
        (
            answer(READ, 5000, &[b'x'; 5000]),
            "xenstored sent a message longer than there may be",
        ),
        (answer(READ, 9, b"42"), "xenstored at /run/xenstored/socket"),
        (Vec::new(), "xenstored at /run/xenstored/socket"),
    ] {
        assert_eq!(read(&bytes).0.unwrap_err().to_string(), text);
    }
}

#[test]
fn names_end_with_a_nul_each() {
    assert_eq!(split(b"51712\x0051728\0"), ["51712", "51728"]);
    assert!(split(b"").is_empty());
}

proptest! {
    #[test]
    fn no_answer_panics(kind in 0u32..20, length: u16, payload: Vec<u8>, bytes: Vec<u8>) {
        let _ = read(&answer(kind, length.into(), &payload));
        let _ = read(&bytes);
    }
}
