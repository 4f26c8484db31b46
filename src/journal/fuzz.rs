//! What holds of any record that was read.

use super::format::{decode_record, encode};

/// Any bytes as a record: what was read is written, and read again, as the same.
pub(crate) fn journal(bytes: &[u8]) {
    if let Ok(record) = decode_record(bytes) {
        let again = encode(&record).map(|bytes| decode_record(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == record));
    }
}
