//! ONC RPC (RFC 5531) as bytes: the calls that ask for a sign of life, and the answers. Pure.

/// The longest answer that is read, in bytes; real ones are of some dozen.
const LONGEST_ANSWER: u32 = 64 * 1024;

/// Programs by their numbers (IANA).
pub(super) const PORTMAPPER: u32 = 100_000;
pub(super) const NFS: u32 = 100_003;
pub(super) const MOUNTD: u32 = 100_005;

/// A call, in words of XDR (RFC 4506).
pub(super) struct Call<'a> {
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
    pub(super) arguments: &'a [u32],
}

impl Call<'_> {
    /// The call that does nothing, which every program has (RFC 5531, 12.1).
    pub(super) fn null(program: u32, version: u32) -> Self {
        Self {
            program,
            version,
            procedure: 0,
            arguments: &[],
        }
    }
}

/// Arguments of an NFS 4 COMPOUND (RFC 7530, 16.2.1) without any operation: an empty tag, the minor version, no operation.
/// Its answer tells whether the server has that minor version (15.2.4).
pub(super) fn empty_compound(minor: u32) -> [u32; 3] {
    [0, minor, 0]
}

/// NFS4ERR_MINOR_VERS_MISMATCH (RFC 7530, 13.1).
pub(super) const MINOR_VERSION_MISMATCH: u32 = 10_021;

/// Arguments of the portmapper's GETPORT (RFC 1833, 3.2): where a program listens for TCP.
pub(super) fn get_port(program: u32, version: u32) -> [u32; 4] {
    const TCP: u32 = 6;
    [program, version, TCP, 0]
}

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It did it; the first word of its results, where it has one.
    Done(Option<u32>),
    /// It has not this version, but these.
    OtherVersions(u32, u32),
    /// It answers, and will not do it for this caller as it is.
    Denied,
    /// It is no answer to this call; what it is.
    NotRpc(&'static str),
}

/// A call with this transaction id, marked as one record (RFC 5531, 11).
pub(super) fn request(xid: u32, call: &Call<'_>) -> Vec<u8> {
    const LAST: u32 = 1 << 31;
    const CALL: u32 = 0;
    const RPC_VERSION: u32 = 2;
    let mut words = vec![xid, CALL, RPC_VERSION];
    words.extend([call.program, call.version, call.procedure]);
    words.extend([0; 4]); // AUTH_NONE, twice: no credentials, no verifier
    words.extend(call.arguments);
    let length = words.len() as u32 * 4;
    let mut bytes = (LAST | length).to_be_bytes().to_vec();
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    bytes
}

/// The length of the record that follows its mark: an answer this short comes in one.
pub(super) fn record_length(mark: [u8; 4]) -> Result<usize, Answer> {
    let mark = u32::from_be_bytes(mark);
    let length = mark & !(1 << 31);
    if mark == length || length > LONGEST_ANSWER {
        return Err(Answer::NotRpc("it answered with something else than RPC"));
    }
    Ok(length as usize)
}

/// Reads a reply (RFC 5531, 9) to the call with that transaction id.
pub(super) fn answer(record: &[u8], xid: u32) -> Answer {
    let word = |at: usize| {
        let bytes = record.get(at * 4..at * 4 + 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    const NOT_RPC: Answer = Answer::NotRpc("it answered with something else than RPC");
    if (word(0), word(1)) != (Some(xid), Some(1)) {
        return NOT_RPC;
    }
    match word(2) {
        Some(0) => {}
        Some(1) => return Answer::Denied,
        _ => return NOT_RPC,
    }
    // The verifier: its flavour, its length, and as many bytes, up to a multiple of four.
    let Some(verifier) = word(4).filter(|length| *length <= 400) else {
        return NOT_RPC;
    };
    let at = 5 + verifier.div_ceil(4) as usize;
    match (word(at), word(at + 1), word(at + 2)) {
        (Some(0), result, _) => Answer::Done(result),
        (Some(1), ..) => Answer::NotRpc("it has not that program: is it an NFS server?"),
        (Some(2), Some(low), Some(high)) => Answer::OtherVersions(low, high),
        (Some(3..=5), ..) => Answer::Denied,
        _ => NOT_RPC,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_call_is_one_record() {
        let arguments = empty_compound(2);
        let call = Call {
            program: NFS,
            version: 4,
            procedure: 1,
            arguments: &arguments,
        };
        let words = [7, 0, 2, 100_003, 4, 1, 0, 0, 0, 0, 0, 2, 0];
        let mut expected = bytes(&[0x8000_0000 | 52]);
        expected.extend(bytes(&words));
        assert_eq!(request(7, &call), expected);
    }

    #[test]
    fn answers_are_told_apart() {
        for (words, expected) in [
            (&[7, 1, 0, 0, 0, 0][..], Answer::Done(None)),
            (&[7, 1, 0, 0, 0, 0, 10_021], Answer::Done(Some(10_021))),
            (&[7, 1, 0, 0, 4, 99, 0, 5], Answer::Done(Some(5))),
            (&[7, 1, 0, 0, 0, 2, 2, 3], Answer::OtherVersions(2, 3)),
            (&[7, 1, 1, 1, 1], Answer::Denied),
            (&[7, 1, 0, 0, 0, 5], Answer::Denied),
        ] {
            assert_eq!(answer(&bytes(words), 7), expected, "{words:?}");
        }
        for words in [
            &[][..],
            &[8, 1, 0, 0, 0, 0],
            &[7, 0, 2, 0, 0, 0],
            &[7, 1, 0, 0, u32::MAX, 0],
            &[7, 1, 0, 0, 0, 1],
        ] {
            let answer = answer(&bytes(words), 7);
            assert!(matches!(answer, Answer::NotRpc(_)), "{words:?}: {answer:?}");
        }
    }

    #[test]
    fn records_are_bounded() {
        assert_eq!(record_length([0x80, 0, 0, 24]), Ok(24));
        for mark in [[0, 0, 0, 24], *b"HTTP", [0xff; 4]] {
            assert!(record_length(mark).is_err(), "{mark:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_answers_do_not_panic(words in prop::collection::vec(any::<u32>(), 0..12), cut in 0..4usize) {
            let mut record = bytes(&[7, 1, 0]);
            record.extend(bytes(&words));
            record.truncate(record.len() - cut);
            let _ = answer(&record, 7);
        }
    }
}
