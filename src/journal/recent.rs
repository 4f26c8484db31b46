//! The records that changed last, in a small table beside the big one.
//!
//! A commit writes every level of a table's tree above the entry that it changes. The small table's tree has one level or two, so a change
//! takes as long beside 100,000 records as beside ten. The writer's thread moves the entries to the big table while nobody waits ([`fold`]).
//!
//! Invariants: an entry here replaces the big table's entry of that id; the file has format [`WITH_RECENT`] exactly while this table has
//! entries, changed by the commit that writes the first of them or moves them all. A build that does not know this table thus refuses the
//! file of a daemon that was killed, rather than read records of before, and reads the file of one that was stopped.

use std::collections::BTreeMap;

use ::redb::{ReadableTable, ReadableTableMetadata, TableDefinition, TableError, WriteTransaction};

use super::file::Fault;
use super::store::{ABOUT, RECORDS, set};
use super::writer::Cause;

pub(super) const RECENT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("recent");

/// Entry of a record that was removed. No record is encoded as this. Written also if the big table lacks the record: to look there would
/// cost what this table saves.
pub(super) const REMOVED: &[u8] = b"";

/// Format of the file as a whole, its tables and their keys, while this table is empty.
const WITHOUT_RECENT: u32 = 1;
/// The same while it has entries.
const WITH_RECENT: u32 = 2;

/// Formats that this build reads. A file of a later one is refused; values have versions of their own.
pub(super) const FORMATS: [u32; 2] = [WITHOUT_RECENT, WITH_RECENT];

/// Format of a file with that many entries here.
pub(super) fn format(entries: u64) -> u32 {
    match entries {
        0 => WITHOUT_RECENT,
        _ => WITH_RECENT,
    }
}

/// Number of entries.
pub(super) fn len(transaction: &WriteTransaction) -> Result<u64, Fault> {
    Ok(transaction.open_table(RECENT)?.len()?)
}

/// The entries by id; `None`: the record was removed.
pub(super) fn read(
    transaction: &WriteTransaction,
) -> Result<BTreeMap<String, Option<Vec<u8>>>, Fault> {
    let mut entries = BTreeMap::new();
    for entry in transaction.open_table(RECENT)?.iter()? {
        let (id, value) = entry?;
        let value = (value.value() != REMOVED).then(|| value.value().to_owned());
        entries.insert(id.value().to_owned(), value);
    }
    Ok(entries)
}

/// Gives the file its format if it had `before` entries, and returns the number of entries.
pub(super) fn mark(transaction: &WriteTransaction, before: u64) -> Result<u64, Cause> {
    let entries = len(transaction).map_err(Fault::into_cause)?;
    if format(entries) != format(before) {
        set_format(transaction, format(entries))?;
    }
    Ok(entries)
}

/// Moves all entries to the big table.
pub(super) fn fold(transaction: &WriteTransaction) -> Result<(), Cause> {
    let entries = read(transaction).map_err(Fault::into_cause)?;
    let mut records = transaction.open_table(RECORDS)?;
    for (id, value) in &entries {
        set(&mut records, id, value.as_deref())?;
    }
    clear(transaction)?;
    set_format(transaction, WITHOUT_RECENT)
}

/// Removes all entries.
pub(super) fn clear(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.delete_table(RECENT)?;
    Ok(())
}

fn set_format(transaction: &WriteTransaction, format: u32) -> Result<(), Cause> {
    let mut about = transaction.open_table(ABOUT)?;
    set(&mut about, "format", Some(format.to_string().as_bytes()))
}
