//! Tests of a damaged, missing or later file: its records are read unchanged, or it is set aside, or refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::journal::Inspection;

/// Flips at most so many bytes behind the headers. `VOLATTACH_FLIPS=n` flips n, or all there are.
const FLIPS: usize = 200;

/// The bytes of a closed journal with a record and its changes.
async fn journal(dir: &Path) -> Vec<u8> {
    let path = dir.join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    for force in [true, false] {
        let record = Record {
            force,
            ..record("a")
        };
        journal.put(&record).await.unwrap();
    }
    drop(journal);
    fs::read(&path).unwrap()
}

/// The files that were set aside.
fn kept(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|it| it == "corrupt"))
        .collect()
}

/// Opens a journal of these bytes: either its record is read unchanged, or the file is set aside as it is, or refused.
async fn open(bytes: &[u8], case: &str) -> &'static str {
    // In memory, if this machine has such a directory: an open waits for the disk several times.
    let memory = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
    let dir = dir.unwrap();
    let path = dir.path().join("journal.redb");
    fs::write(&path, bytes).unwrap();
    let Ok(journal) = RedbJournal::open(&path, true) else {
        assert!(kept(dir.path()).is_empty(), "{case}");
        return "refused";
    };
    let records = journal.all().await.unwrap();
    let Some(loss) = journal.loss().await.unwrap() else {
        assert_eq!(records, [Arc::new(record("a"))], "{case}");
        return "read";
    };
    assert_eq!(records, [], "{case}");
    let kept = loss.kept.unwrap();
    assert_eq!(
        fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&kept).unwrap().len(),
        bytes.len() as u64,
        "{case}"
    );
    "aside"
}

/// Every byte of the headers, and bytes that are in use throughout the file.
#[tokio::test]
async fn a_flipped_byte_is_harmless_or_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = journal(dir.path()).await;
    let flips = std::env::var("VOLATTACH_FLIPS").map(|flips| flips.parse().unwrap());
    let flips: usize = flips.unwrap_or(FLIPS);
    let used = |at: &usize| bytes[*at] != 0 || flips >= bytes.len();
    let used: Vec<usize> = (320..bytes.len()).filter(used).collect();
    println!(
        "{} bytes, {} of them to choose from",
        bytes.len(),
        used.len()
    );
    let step = used.len() / flips + 1;
    let mut came_to = BTreeMap::new();
    for at in (0..320).step_by(3).chain(used.into_iter().step_by(step)) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let case = format!("byte {at} of {}", bytes.len());
        *came_to.entry(open(&flipped, &case).await).or_insert(0) += 1;
    }
    assert!(came_to["read"] > 0 && came_to["aside"] > 50, "{came_to:?}");
}

#[tokio::test]
async fn a_truncated_file_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = journal(dir.path()).await;
    for length in [
        0,
        1,
        9,
        100,
        319,
        320,
        4096,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        let case = format!("{length} of {}", bytes.len());
        assert_eq!(open(&bytes[..length], &case).await, "aside", "{case}");
    }
}

#[tokio::test]
async fn a_missing_file_is_a_loss_where_one_existed() {
    for existed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let journal = RedbJournal::open(&path, existed).unwrap();
        assert_eq!(journal.loss().await.unwrap().is_some(), existed);
    }
}

#[tokio::test]
async fn a_loss_is_remembered_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    fs::write(&path, "not a journal").unwrap();
    for _ in 0..2 {
        let journal = RedbJournal::open(&path, true).unwrap();
        assert!(journal.loss().await.unwrap().is_some());
    }
    let journal = RedbJournal::open(&path, true).unwrap();
    journal.put(&record("a")).await.unwrap();
    journal.forget_loss().await.unwrap();
    drop(journal);
    let journal = RedbJournal::open(&path, true).unwrap();
    assert_eq!(journal.loss().await.unwrap(), None);
    assert_eq!(journal.all().await.unwrap(), [Arc::new(record("a"))]);
}

#[tokio::test]
async fn a_file_set_aside_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    for text in ["one", "two", "three"] {
        fs::write(&path, text).unwrap();
        drop(RedbJournal::open(&path, true).unwrap());
    }
    let mut kept: Vec<String> = kept(dir.path())
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["one", "three", "two"]);
}

#[tokio::test]
async fn a_file_of_a_later_build_is_refused_by_name_and_kept() {
    const ABOUT: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("about");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let bytes = journal(dir.path()).await;
    let refused = |expected: &str| {
        let before = fs::read(&path).unwrap();
        let error = RedbJournal::open(&path, true).err().unwrap();
        assert!(error.source.to_string().contains(expected), "{error:?}");
        assert!(kept(dir.path()).is_empty());
        before
    };
    // Of a later redb.
    let mut later = bytes.clone();
    [later[64], later[192]] = [4, 4];
    fs::write(&path, &later).unwrap();
    refused("file format 4");
    assert_eq!(fs::read(&path).unwrap(), later);
    // Of later tables.
    fs::write(&path, &bytes).unwrap();
    let raw = redb::Database::create(&path).unwrap();
    let transaction = raw.begin_write().unwrap();
    let mut about = transaction.open_table(ABOUT).unwrap();
    about.insert("format", b"3".as_slice()).unwrap();
    about.insert("build", b"9.8.7".as_slice()).unwrap();
    drop(about);
    transaction.commit().unwrap();
    drop(raw);
    refused("reads formats 1 and 2: install volattach 9.8.7");
    let error = Inspection::read(&path).unwrap_err();
    assert!(error.source.to_string().contains("9.8.7"), "{error:?}");
}

/// Upgrade and way back: records of each version and of a later one, with a reason of a later build, in one file.
#[tokio::test]
async fn records_of_each_version_live_in_one_file() {
    const RECORDS: redb::TableDefinition<'_, &str, &[u8]> =
        redb::TableDefinition::new("attachments");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/journal-v1.redb");
    fs::copy(old, &path).unwrap();
    let number = RedbJournal::open(&path, true)
        .unwrap()
        .all()
        .await
        .unwrap()
        .len();
    let reason = |record: &Record| String::from_utf8(encode(record).unwrap()).unwrap();
    let later = reason(&record("reason")).replace(
        r#""error":null"#,
        r#""error":{"reason":"SOME_LATER_REASON","message":"m"}"#,
    );
    let state = reason(&record("state")).replace(r#""state":"connecting""#, r#""state":"later""#);
    let version = reason(&record("version")).replace(r#""version":2"#, r#""version":3"#);
    let raw = redb::Database::create(&path).unwrap();
    let transaction = raw.begin_write().unwrap();
    let mut table = transaction.open_table(RECORDS).unwrap();
    for (id, value) in [("reason", &later), ("state", &state), ("version", &version)] {
        table.insert(id, value.as_bytes()).unwrap();
    }
    table.insert("elsewhere", later.as_bytes()).unwrap();
    drop(table);
    transaction.commit().unwrap();
    drop(raw);
    for _ in 0..2 {
        let journal = RedbJournal::open(&path, true).unwrap();
        assert_eq!(journal.all().await.unwrap().len(), number + 1);
        let unreadable = journal.unreadable().await.unwrap();
        let ids: Vec<&str> = unreadable.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["elsewhere", "state", "version"]);
        let read = journal
            .get(&"reason".parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        let error = read.to_attachment().error.unwrap();
        assert_eq!(error.reason.to_string(), "SOME_LATER_REASON");
        // Written back as it was.
        journal.put(&read).await.unwrap();
        assert_eq!(reason(&read), later);
    }
}
