//! SMB negotiation as bytes: the request that asks for a sign of life, and the answer. Pure.
//!
//! One request offers every version that may be used, and the server answers with the newest that it has of them
//! (MS-SMB2 3.3.5.4), so one exchange does what trying each in turn would.

use super::dialect::{Dialect, SMB_3_1_1};

/// The longest answer that is read, in bytes; real ones are of some hundred.
pub(super) const LONGEST_ANSWER: usize = 64 * 1024;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// This is the newest version in common.
    Speaks(Dialect),
    /// No version in common; what it said.
    NothingInCommon(String),
    /// It is no answer to an SMB negotiate; why not.
    NotSmb(&'static str),
}

/// A NEGOTIATE Request (MS-SMB2 2.2.3) for these versions of SMB 2 and 3, framed for TCP (2.1).
pub(super) fn request(dialects: &[Dialect], client: [u8; 16]) -> Vec<u8> {
    let revisions: Vec<u16> = dialects
        .iter()
        .filter_map(|dialect| match dialect {
            Dialect::Smb2(revision) => Some(*revision),
            Dialect::Smb1 => None,
        })
        .collect();
    let with_contexts = dialects.contains(&SMB_3_1_1);
    let mut message = header();
    let mut put = |bytes: &[u8]| message.extend_from_slice(bytes);
    put(&36u16.to_le_bytes()); // StructureSize
    put(&(revisions.len() as u16).to_le_bytes()); // DialectCount: at most five
    put(&1u16.to_le_bytes()); // SecurityMode: signing enabled
    put(&[0; 2]);
    put(&0x7fu32.to_le_bytes()); // Capabilities: all, as the kernel says for SMB 3
    put(&client); // ClientGuid
    // Either ClientStartTime, which is zero, or where the contexts are: behind the versions, at a multiple of eight.
    let versions_end = 64 + 36 + 2 * revisions.len();
    let contexts_at = versions_end.next_multiple_of(8);
    if with_contexts {
        put(&(contexts_at as u32).to_le_bytes());
        put(&2u16.to_le_bytes());
        put(&[0; 2]);
    } else {
        put(&[0; 8]);
    }
    for revision in &revisions {
        put(&revision.to_le_bytes());
    }
    if with_contexts {
        put(&vec![0; contexts_at - versions_end]);
        // SMB2_PREAUTH_INTEGRITY_CAPABILITIES (2.2.3.1.1): SHA-512, salted with 16 bytes.
        put(&context(1, &[1, 0, 16, 0, 1, 0], &client));
        // SMB2_ENCRYPTION_CAPABILITIES (2.2.3.1.2): AES-128-GCM, -CCM, AES-256-GCM, -CCM.
        put(&context(2, &[4, 0, 2, 0, 1, 0, 4, 0, 3, 0], &[]));
    }
    framed(&message)
}

/// A negotiate context (MS-SMB2 2.2.3.1), padded to a multiple of eight.
fn context(kind: u16, data: &[u8], more: &[u8]) -> Vec<u8> {
    let length = data.len() + more.len();
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes.extend(more);
    bytes.resize((8 + length).next_multiple_of(8), 0);
    bytes
}

/// An SMB2 header (MS-SMB2 2.2.1.2) for the first message of a connection: command NEGOTIATE, one credit.
fn header() -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..4].copy_from_slice(b"\xfeSMB");
    header[4] = 64;
    header[14] = 1;
    header
}

/// An SMB_COM_NEGOTIATE request (MS-CIFS 2.2.4.52.1) for "NT LM 0.12", the SMB 1 that the kernel speaks.
pub(super) fn request_smb1() -> Vec<u8> {
    let mut message = b"\xffSMB\x72\0\0\0\0\x18\x01\xc8".to_vec();
    message.resize(32, 0);
    message.push(0); // WordCount
    let dialect = b"\x02NT LM 0.12\0";
    message.extend((dialect.len() as u16).to_le_bytes());
    message.extend(dialect);
    framed(&message)
}

/// Direct TCP transport (MS-SMB2 2.1): a zero and the length in three bytes.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u32).to_be_bytes().to_vec();
    bytes.extend(message);
    bytes
}

/// The length of the message that follows a frame's first four bytes.
pub(super) fn frame_length(frame: [u8; 4]) -> Result<usize, Answer> {
    match frame {
        [0, ..] => match u32::from_be_bytes(frame) as usize {
            length if length <= LONGEST_ANSWER => Ok(length),
            _ => Err(Answer::NotSmb("it announced an absurdly long answer")),
        },
        // A negative session response (RFC 1002, 4.3.4).
        [0x83, ..] => Err(Answer::NothingInCommon(
            "it refused the session: does it let this host in?".into(),
        )),
        _ => Err(Answer::NotSmb("it answered with something else than SMB")),
    }
}

/// Reads a NEGOTIATE Response (MS-SMB2 2.2.4): the version in it must be one of those offered.
pub(super) fn answer(message: &[u8], offered: &[Dialect]) -> Answer {
    let Some(header) = message.get(..64).filter(|h| h.starts_with(b"\xfeSMB")) else {
        return Answer::NotSmb("it answered with something else than SMB 2 or 3");
    };
    let status = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let (command, response) = (header[12..14] == [0; 2], header[16] & 1 == 1);
    if !command || !response {
        return Answer::NotSmb("its SMB message is no answer to a negotiate");
    }
    match status {
        0 => {}
        STATUS_NOT_SUPPORTED => {
            return Answer::NothingInCommon("it has none of these versions".into());
        }
        status => {
            return Answer::NothingInCommon(format!(
                "it refused to negotiate, with status {status:#010x}"
            ));
        }
    }
    let Some([65, 0, _, _, low, high]) = message.get(64..70) else {
        return Answer::NotSmb("its negotiate answer is malformed");
    };
    let spoken = Dialect::Smb2(u16::from_le_bytes([*low, *high]));
    if offered.contains(&spoken) {
        Answer::Speaks(spoken)
    } else {
        Answer::NothingInCommon("it chose a version that was not offered".into())
    }
}

/// MS-ERREF 2.3.1.
const STATUS_NOT_SUPPORTED: u32 = 0xc000_00bb;

/// Reads an SMB_COM_NEGOTIATE response (MS-CIFS 2.2.4.52.2) to [`request_smb1`].
pub(super) fn answer_smb1(message: &[u8]) -> Answer {
    let Some(header) = message.get(..35).filter(|m| m.starts_with(b"\xffSMB\x72")) else {
        return Answer::NotSmb("it answered with something else than SMB 1");
    };
    // The status, then behind the header WordCount (17 for "NT LM 0.12") and DialectIndex: 0, or 0xffff for none.
    match (&header[5..9], header[32], &header[33..35]) {
        ([0, 0, 0, 0], 17, [0, 0]) => Answer::Speaks(Dialect::Smb1),
        _ => Answer::NothingInCommon("it refused to negotiate SMB 1.0".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::mount_options::SMB_VERSIONS;

    fn all() -> Vec<Dialect> {
        SMB_VERSIONS
            .names
            .iter()
            .map(|name| Dialect::from_name(name).unwrap())
            .collect()
    }

    /// The start of an answer as a Samba server gives it.
    fn response(status: u32, revision: u16) -> Vec<u8> {
        let mut message = header();
        message[8..12].copy_from_slice(&status.to_le_bytes());
        message[16] = 1;
        message.extend([65, 0, 1, 0]);
        message.extend(revision.to_le_bytes());
        message.resize(64 + 64, 0);
        message
    }

    #[test]
    fn a_request_frames_exactly_the_versions_offered() {
        let offered = [Dialect::Smb2(0x0302), Dialect::Smb2(0x0210), Dialect::Smb1];
        let bytes = request(&offered, [7; 16]);
        assert_eq!(bytes.len(), 4 + 64 + 36 + 4);
        assert_eq!(frame_length(bytes[..4].try_into().unwrap()), Ok(104));
        assert_eq!(bytes[4 + 64..][..4], [36, 0, 2, 0]);
        assert_eq!(bytes[4 + 64 + 36..], [0x02, 0x03, 0x10, 0x02]);
        let with_contexts = request(&all(), [7; 16]);
        // Contexts begin at 64 + 36 + 5 * 2, rounded up to 112, and there are two of them.
        assert_eq!(
            with_contexts[4 + 64 + 28..][..8],
            [112, 0, 0, 0, 2, 0, 0, 0]
        );
        assert_eq!(with_contexts[4 + 112..][..4], [1, 0, 22, 0]);
        assert_eq!(with_contexts[4 + 112 + 32..][..4], [2, 0, 10, 0]);
        assert_eq!((with_contexts.len() - 4) % 8, 0);
    }

    #[test]
    fn answers_are_believed_as_far_as_they_were_asked_for() {
        let offered = [Dialect::Smb2(0x0302), Dialect::Smb2(0x0210)];
        assert_eq!(
            answer(&response(0, 0x0210), &offered),
            Answer::Speaks(offered[1])
        );
        for refusal in [
            response(0, 0x0311),
            response(STATUS_NOT_SUPPORTED, 0),
            response(0xc000_0022, 0x0302),
        ] {
            let answer = answer(&refusal, &offered);
            assert!(matches!(answer, Answer::NothingInCommon(_)), "{answer:?}");
        }
        let whole = response(0, 0x0302);
        for cut in 0..70 {
            let answer = answer(&whole[..cut], &offered);
            assert!(matches!(answer, Answer::NotSmb(_)), "{cut}: {answer:?}");
        }
    }

    #[test]
    fn smb1_is_answered_by_the_index_of_its_one_dialect() {
        let mut message = b"\xffSMB\x72".to_vec();
        message.resize(32, 0);
        message.extend([17, 0, 0]);
        assert_eq!(answer_smb1(&message), Answer::Speaks(Dialect::Smb1));
        message[33..].copy_from_slice(&[0xff, 0xff]);
        assert!(matches!(answer_smb1(&message), Answer::NothingInCommon(_)));
    }

    #[test]
    fn frames_are_bounded() {
        assert!(matches!(
            frame_length([0, 0xff, 0, 0]),
            Err(Answer::NotSmb(_))
        ));
        assert!(matches!(frame_length(*b"HTTP"), Err(Answer::NotSmb(_))));
        assert!(matches!(
            frame_length([0x83, 0, 0, 1]),
            Err(Answer::NothingInCommon(_))
        ));
    }

    proptest! {
        #[test]
        fn hostile_answers_do_not_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            start in prop_oneof![Just(response(0, 0x0311)), Just(b"\xffSMB\x72".to_vec()), Just(vec![])],
        ) {
            let mut message = start;
            message.extend(bytes);
            if let Answer::Speaks(dialect) = answer(&message, &all()) {
                prop_assert!(all().contains(&dialect));
            }
            let _ = answer_smb1(&message);
        }
    }
}
