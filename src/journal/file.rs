//! Opens the journal's file: checks all of it, refuses the format of a later build by name, and sets a damaged file aside.
//!
//! redb has a checksum for each page, and trusts a file that was closed cleanly unless it is told to check. So every open checks: a value
//! that was changed on the disk is never read as another valid one, and values need no checksum of their own.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ::redb::{
    Builder, CommitError, Database, DatabaseError, Error, StorageError, TableError,
    TransactionError,
};

use super::writer::Cause;

/// Bytes of cache: a record is about 1 KiB, and the default (1 GiB) suits no agent.
const CACHE: usize = 1 << 20;

/// Bytes with which a redb file begins (redb, docs/design.md, "Super-header").
const MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";
/// Places of the version in both commit slots (ditto).
const VERSIONS: [usize; 2] = [64, 192];
/// File format that this build's redb reads and writes.
const REDB_FORMAT: u8 = 3;

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its contents are not what was written: opening it again comes to the same.
    Damaged(String),
    /// Anything else, such as another process that has it open.
    Other(Cause),
}

impl Fault {
    pub(super) fn into_cause(self) -> Cause {
        match self {
            Self::Damaged(why) => format!("it is damaged: {why}").into(),
            Self::Other(cause) => cause,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let damaged = match &error {
            Error::Corrupted(_)
            // No build wrote a format before this one: its byte was changed.
            | Error::UpgradeRequired(_)
            | Error::TableTypeMismatch { .. }
            | Error::TableIsMultimap(_)
            | Error::TableIsNotMultimap(_)
            | Error::TypeDefinitionChanged { .. } => true,
            Error::Io(error) => matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::InvalidData
            ),
            _ => false,
        };
        match damaged {
            true => Self::Damaged(error.to_string()),
            false => Self::Other(error.into()),
        }
    }
}

macro_rules! of_redb {
    ($($error:ty)*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Error::from(error).into()
            }
        })*
    };
}

of_redb!(DatabaseError TransactionError TableError StorageError CommitError);

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<Cause> for Fault {
    fn from(error: Cause) -> Self {
        Self::Other(error)
    }
}

/// Opens the file, or makes it, checks every page, and uses it. A panic of redb, which some damage causes, is damage.
pub(super) fn open<T>(
    path: &Path,
    then: impl FnOnce(Database) -> Result<T, Fault>,
) -> Result<T, Fault> {
    guarded(|| {
        refuse_newer(path)?;
        then(builder().create(path)?)
    })
}

pub(super) fn builder() -> Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true);
    builder
}

/// Takes a panic for damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Fault::Damaged(text.unwrap_or_else(|| "redb panics".into())))
    })
}

/// Refuses a file of a later redb. Both commit slots have its version: a changed byte alone is damage.
pub(super) fn refuse_newer(path: &Path) -> Result<(), Fault> {
    let mut header = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(256).read_to_end(&mut header)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let [first, second] = VERSIONS.map(|at| header.get(at).copied().unwrap_or_default());
    if header.starts_with(MAGIC) && first == second && first > REDB_FORMAT {
        let why = format!(
            "it has redb's file format {first}, and this build reads {REDB_FORMAT}: install the build of volattach that wrote it, or a \
             later one"
        );
        return Err(Fault::Other(why.into()));
    }
    Ok(())
}

/// Keeps other processes from opening or setting aside files of this directory, until dropped.
pub(super) fn hold_directory(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new(".")))?;
    directory.lock()?;
    Ok(directory)
}

/// Renames a file that cannot be used to a name that no other file has, with the time in it, and returns that name.
pub(super) fn set_aside(path: &Path, directory: &File) -> io::Result<PathBuf> {
    let kept = unused(path, "corrupt");
    fs::rename(path, &kept)?;
    fs::set_permissions(&kept, Permissions::from_mode(0o600))?;
    directory.sync_all()?;
    Ok(kept)
}

/// Writes an entry of the journal to a file of its own beside it, and returns that file's name.
pub(super) fn keep(path: &Path, id: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let kept = unused(path, &format!("{id}.forgotten"));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&kept)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(kept)
}

/// A name that no file has: the path's, with the time and an end.
fn unused(path: &Path, end: &str) -> PathBuf {
    let now = prost_types::Timestamp::from(SystemTime::now());
    let now = prost_types::Timestamp { nanos: 0, ..now };
    let stem = format!("{}.{}", path.display(), now.to_string().replace(':', ""));
    let mut name = PathBuf::from(format!("{stem}.{end}"));
    let mut number = 1;
    while name.symlink_metadata().is_ok() {
        number += 1;
        name = format!("{stem}.{number}.{end}").into();
    }
    name
}
