//! The journal's file, opened anew after a write that failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::{Database, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::Loss;
use super::contents::{Change, Contents};
use super::file::{self, Fault};
use super::format::encode;
use super::recent::{self, RECENT, REMOVED};
use super::writer::{BOUND, Cause, Disk};

/// Records, but for those that [`recent`] has.
pub(super) const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
pub(super) const PERMISSIONS: TableDefinition<'_, &str, &[u8]> =
    TableDefinition::new("permissions");
/// Facts of the file as a whole: its format ([`recent::FORMATS`]), the build that wrote it, and the loss of an earlier file.
pub(super) const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");

/// The journal's contents, shared with the thread that writes the file.
pub(super) type Shared = Arc<Mutex<Contents>>;

pub(super) fn lock(contents: &Shared) -> MutexGuard<'_, Contents> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file, as the thread that writes to it has it.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    contents: Shared,
    /// `None` after a failed write: redb refuses every transaction after that until the file is opened anew.
    database: Option<Database>,
    /// Entries of the table of recent changes.
    recent: u64,
}

impl Store {
    /// Opens the file, or makes it, and reads its contents. A damaged file is set aside, and a new one made in its place. `existed`: an
    /// absent file is a loss too.
    ///
    /// # Errors
    /// The file cannot be made or read, is of a later build, or is open in another process.
    pub(super) fn open(path: &Path, existed: bool) -> Result<Self, Cause> {
        let directory = file::hold_directory(path)?;
        let mut loss = None;
        let found = path.try_exists()?;
        let opened = match found && path.metadata()?.len() == 0 {
            true => Err(Fault::Damaged("it is empty".to_owned())),
            false => {
                if !found && existed {
                    loss = Some(Loss::now("the file is missing".to_owned(), None));
                }
                Self::try_open(path, loss.as_ref())
            }
        };
        let (database, contents, recent) = match opened {
            Err(Fault::Damaged(why)) => {
                let kept = file::set_aside(path, &directory)?;
                Self::try_open(path, Some(&Loss::now(why, Some(kept))))
                    .map_err(Fault::into_cause)?
            }
            opened => opened.map_err(Fault::into_cause)?,
        };
        Ok(Self {
            path: path.to_owned(),
            contents: Arc::new(Mutex::new(contents)),
            database: Some(database),
            recent,
        })
    }

    fn try_open(path: &Path, loss: Option<&Loss>) -> Result<(Database, Contents, u64), Fault> {
        file::open(path, |database| {
            let transaction = database.begin_write()?;
            let mut contents = Contents::read(&transaction)?;
            if loss.is_some() {
                contents.loss = loss.cloned();
            }
            // Entries of a daemon that was killed stay where they are: a disk that is full must not keep this one from starting.
            let recent = recent::len(&transaction)?;
            // A new file has its tables now; a file of an earlier build has its format.
            let about = contents.about(recent)?;
            replace(&mut transaction.open_table(ABOUT)?, &about)?;
            transaction.commit()?;
            Ok((database, contents, recent))
        })
    }

    pub(super) fn contents(&self) -> &Shared {
        &self.contents
    }

    /// Runs one transaction, which returns the number of recent entries; it is on disk when this returns. After a failure the next call
    /// opens the file anew first.
    fn transact(
        &mut self,
        work: impl FnOnce(&WriteTransaction) -> Result<u64, Cause>,
    ) -> Result<(), Cause> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.restore()?,
        };
        let transaction = database.begin_write()?;
        let recent = work(&transaction)?;
        // redb's default durability: on disk when commit returns.
        transaction.commit()?;
        self.recent = recent;
        self.database = Some(database);
        Ok(())
    }

    /// Opens the file anew, and makes it hold exactly the contents: a failed write may have come to the disk all the same, and its
    /// caller was told that it did not.
    fn restore(&self) -> Result<Database, Cause> {
        let ([records, permissions], about) = {
            let contents = lock(&self.contents);
            (contents.encoded()?, contents.about(0)?)
        };
        let restored = file::open(&self.path, |database| {
            let transaction = database.begin_write()?;
            recent::clear(&transaction)?;
            replace(&mut transaction.open_table(RECORDS)?, &records)?;
            replace(&mut transaction.open_table(PERMISSIONS)?, &permissions)?;
            replace(&mut transaction.open_table(ABOUT)?, &about)?;
            transaction.commit()?;
            Ok(database)
        });
        let database = restored.map_err(Fault::into_cause)?;
        tracing::info!(path = %self.path.display(), "the journal is opened anew");
        Ok(database)
    }
}

impl Disk for Store {
    fn write(&mut self, changes: &[Change]) -> Result<(), Cause> {
        self.transact(|transaction| write(transaction, changes))
    }

    fn fold(&mut self) -> Result<(), Cause> {
        self.transact(|transaction| {
            recent::fold(transaction)?;
            Ok(0)
        })
    }

    fn unfolded(&self) -> u64 {
        self.recent
    }

    fn apply(&self, change: Change) {
        lock(&self.contents).apply(change);
    }
}

/// Writes the changes, and returns the number of recent entries. Many changes share the cost of the big table's levels, and would fill the
/// table of recent ones: they are written to the big table.
fn write(transaction: &WriteTransaction, changes: &[Change]) -> Result<u64, Cause> {
    let many = changes.len() as u64 >= BOUND;
    if many {
        recent::fold(transaction)?;
    }
    let before = recent::len(transaction).map_err(Fault::into_cause)?;
    {
        let (table, removed) = match many {
            true => (RECORDS, None),
            false => (RECENT, Some(REMOVED)),
        };
        let mut records = transaction.open_table(table)?;
        let mut permissions = transaction.open_table(PERMISSIONS)?;
        for change in changes {
            match change {
                Change::Record(id, record) => {
                    let value = record.as_deref().map(encode).transpose()?;
                    set(&mut records, id.as_str(), value.as_deref().or(removed))?;
                }
                Change::Permissions(volume, given) => {
                    let value = given.as_ref().map(encode).transpose()?;
                    set(&mut permissions, volume.as_str(), value.as_deref())?;
                }
                Change::NoLoss => {
                    transaction.open_table(ABOUT)?.remove("loss")?;
                }
            }
        }
    }
    recent::mark(transaction, before)
}

type Entries<'t> = Table<'t, &'static str, &'static [u8]>;

pub(super) fn set(table: &mut Entries<'_>, key: &str, value: Option<&[u8]>) -> Result<(), Cause> {
    match value {
        Some(value) => table.insert(key, value)?,
        None => table.remove(key)?,
    };
    Ok(())
}

/// Makes the table hold exactly these entries.
fn replace(table: &mut Entries<'_>, wanted: &BTreeMap<String, Vec<u8>>) -> Result<(), Cause> {
    table.retain(|key, value| wanted.get(key).is_some_and(|wanted| wanted == value))?;
    for (key, value) in wanted {
        if table.get(key.as_str())?.is_none() {
            table.insert(key.as_str(), value.as_slice())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
