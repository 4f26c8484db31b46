//! The journal's file, opened anew after a write that failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ::redb::{Database, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde_json::{Value, json};

use super::file::{self, Fault};
use super::format::{decode_permissions, decode_record, encode};
use super::index::Records;
use super::writer::Cause;
use super::{Loss, Record, Unreadable};
use crate::model::{AttachmentId, InvalidId, SetPermissions, VolumeId};

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
const PERMISSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("permissions");
/// Facts of the file as a whole: [`FORMAT`], the build that wrote it, and the loss of an earlier file.
const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");

/// Format of the file as a whole: its tables and their keys. A file of a later format is refused; values have versions of their own.
pub(super) const FORMAT: u32 = 1;

/// This build.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// One entry written, or removed (`None`).
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// The record of an attachment.
    Record(AttachmentId, Option<Arc<Record>>),
    /// The permissions that were set here for a volume.
    Permissions(VolumeId, Option<Box<SetPermissions>>),
    /// Forgets the loss of an earlier journal.
    NoLoss,
}

/// A value that this build cannot read: kept in the file as it is.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// Why.
    pub(super) why: String,
}

impl Kept {
    fn new(bytes: &[u8], why: &Cause) -> Self {
        Self {
            bytes: bytes.to_owned(),
            why: why.to_string(),
        }
    }

    /// The value.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value as text, and why it cannot be read.
    pub(super) fn to_json(&self) -> Value {
        json!({"value": String::from_utf8_lossy(&self.bytes), "why": self.why})
    }

    /// The parts of a record that concern others, as far as they can be made out.
    pub(super) fn as_record(&self, id: &AttachmentId) -> Unreadable {
        let value: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        let record = &value["record"];
        let claims = record["host"]["plan"]["claims"].as_array();
        let claim = |claim: &Value| serde_json::from_value(claim.clone()).ok();
        Unreadable {
            id: id.clone(),
            volume: record["volume"].as_str().and_then(|it| it.parse().ok()),
            claims: claims.into_iter().flatten().filter_map(claim).collect(),
            why: self.why.clone(),
        }
    }
}

/// Everything in the journal. Reads need no disk, as nobody else writes the file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) records: Records,
    pub(super) permissions: BTreeMap<VolumeId, SetPermissions>,
    /// Records that this build cannot read, by attachment id.
    pub(super) unreadable: BTreeMap<AttachmentId, Kept>,
    /// Permissions that this build cannot read, by volume id.
    pub(super) unreadable_permissions: BTreeMap<VolumeId, Kept>,
    /// Loss of an earlier file.
    pub(super) loss: Option<Loss>,
}

impl Contents {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Record(_, Some(record)) => self.records.insert(record),
            Change::Record(id, None) => {
                self.records.remove(&id);
                self.unreadable.remove(&id);
            }
            Change::Permissions(volume, Some(set)) => {
                self.permissions.insert(volume, *set);
            }
            Change::Permissions(volume, None) => {
                self.permissions.remove(&volume);
            }
            Change::NoLoss => self.loss = None,
        }
    }

    pub(super) fn read(transaction: &WriteTransaction) -> Result<Self, Fault> {
        let mut contents = Self::default();
        {
            let about = transaction.open_table(ABOUT)?;
            refuse_later(&about)?;
            contents.loss = about.get("loss")?.map(|loss| Loss::read(loss.value()));
        }
        for entry in transaction.open_table(RECORDS)?.iter()? {
            let (id, value) = entry?;
            match decode_record(value.value()) {
                Ok(record) if record.id.as_str() != id.value() => {
                    let why = format!("it names itself {}", record.id).into();
                    let kept = Kept::new(value.value(), &why);
                    contents.unreadable.insert(key(id.value())?, kept);
                }
                Ok(record) => contents.records.insert(Arc::new(record)),
                Err(error) => {
                    let kept = Kept::new(value.value(), &error);
                    contents.unreadable.insert(key(id.value())?, kept);
                }
            }
        }
        for entry in transaction.open_table(PERMISSIONS)?.iter()? {
            let (volume, value) = entry?;
            match decode_permissions(value.value()) {
                Ok(set) => {
                    contents.permissions.insert(key(volume.value())?, set);
                }
                Err(error) => {
                    let kept = Kept::new(value.value(), &error);
                    let all = &mut contents.unreadable_permissions;
                    all.insert(key(volume.value())?, kept);
                }
            }
        }
        Ok(contents)
    }

    /// The entries of the three tables, encoded.
    fn encoded(&self) -> Result<[BTreeMap<String, Vec<u8>>; 3], Cause> {
        let mut records = BTreeMap::new();
        for record in self.records.after(None) {
            records.insert(record.id.to_string(), encode(record.as_ref())?);
        }
        for (id, kept) in &self.unreadable {
            records.insert(id.to_string(), kept.bytes.clone());
        }
        let mut permissions = BTreeMap::new();
        for (volume, set) in &self.permissions {
            permissions.insert(volume.to_string(), encode(set)?);
        }
        for (volume, kept) in &self.unreadable_permissions {
            permissions.insert(volume.to_string(), kept.bytes.clone());
        }
        let mut about = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_string().into_bytes()),
            ("build".to_owned(), BUILD.as_bytes().to_vec()),
        ]);
        if let Some(loss) = &self.loss {
            about.insert("loss".to_owned(), serde_json::to_vec(loss)?);
        }
        Ok([records, permissions, about])
    }
}

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
        let (database, contents) = match opened {
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
        })
    }

    fn try_open(path: &Path, loss: Option<&Loss>) -> Result<(Database, Contents), Fault> {
        file::open(path, |database| {
            let transaction = database.begin_write()?;
            let mut contents = Contents::read(&transaction)?;
            if loss.is_some() {
                contents.loss = loss.cloned();
            }
            // A new file has its tables now; a file of an earlier build has its format.
            let [_, _, about] = contents.encoded()?;
            replace(&mut transaction.open_table(ABOUT)?, &about)?;
            transaction.commit()?;
            Ok((database, contents))
        })
    }

    pub(super) fn contents(&self) -> &Shared {
        &self.contents
    }

    /// Writes the changes in their order, all or none; they are on disk when this returns. After a failure the next call opens the file
    /// anew first.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), Cause> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.restore()?,
        };
        commit(&database, changes)?;
        self.database = Some(database);
        Ok(())
    }

    /// Opens the file anew, and makes it hold exactly the contents: a failed write may have come to the disk all the same, and its
    /// caller was told that it did not.
    fn restore(&self) -> Result<Database, Cause> {
        let [records, permissions, about] = lock(&self.contents).encoded()?;
        let restored = file::open(&self.path, |database| {
            let transaction = database.begin_write()?;
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

/// Reads the key of an entry.
fn key<T: FromStr<Err = InvalidId>>(text: &str) -> Result<T, Cause> {
    Ok(text.parse()?)
}

impl Loss {
    fn now(why: String, kept: Option<PathBuf>) -> Self {
        Self {
            at: SystemTime::now(),
            why,
            kept,
        }
    }

    fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|error| Self::now(format!("unknown: {error}"), None))
    }
}

/// Refuses a file of a later format, which it names itself. A file without a format is of a build before the first.
fn refuse_later(about: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<(), Fault> {
    let text = |key: &str| -> Result<Option<String>, Fault> {
        let value = about.get(key)?;
        Ok(value.map(|it| String::from_utf8_lossy(it.value()).into_owned()))
    };
    let Some(format) = text("format")?.filter(|it| *it != FORMAT.to_string()) else {
        return Ok(());
    };
    let build = text("build")?.unwrap_or_default();
    let why = format!(
        "it has format {format}, written by volattach {build}, and this build ({BUILD}) reads format {FORMAT}: install volattach {build} \
         or a later one"
    );
    Err(Fault::Other(why.into()))
}

/// Writes all the changes in one transaction. redb's default durability: on disk when commit returns.
fn commit(database: &Database, changes: &[Change]) -> Result<(), Cause> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        let mut permissions = transaction.open_table(PERMISSIONS)?;
        for change in changes {
            match change {
                Change::Record(id, record) => {
                    let value = record.as_deref().map(encode).transpose()?;
                    set(&mut records, id.as_str(), value.as_deref())?;
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
    Ok(transaction.commit()?)
}

type Entries<'t> = Table<'t, &'static str, &'static [u8]>;

fn set(table: &mut Entries<'_>, key: &str, value: Option<&[u8]>) -> Result<(), Cause> {
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
