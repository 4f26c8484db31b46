//! What holds of any answer of an NFS server.

use super::rpc::{Answer, answer, record_length};

/// Any bytes as a record's mark and a reply: no more is read than allowed, and a reply to another call is none.
pub(crate) fn nfs_rpc(bytes: &[u8]) {
    let Some((mark, record)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    if let Ok(length) = record_length(*mark) {
        assert!(length <= 64 * 1024);
    }
    let xid = record
        .first_chunk::<4>()
        .map(|xid| u32::from_be_bytes(*xid));
    let believed = answer(record, xid.unwrap_or_default());
    assert!(xid.is_some() || matches!(believed, Answer::NotRpc(_)));
    let other = xid.unwrap_or_default().wrapping_add(1);
    assert!(matches!(answer(record, other), Answer::NotRpc(_)));
}
