//! Tests of the journal in a file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use super::*;
use crate::journal::format::{decode_record, encode};
use crate::journal::{Course, Progress, Step, StepRecord};
use crate::model::{
    Access, AccessDecision, AccessSource, Claim, Class, Connection, Dialect, DiskPlan, Holder,
    HostPlan, HostVolume, ImageFormat, Scope, SourceKind, VolumeOwner, VolumeRights,
};

pub(in crate::journal) fn record(id: &str) -> Record {
    Record {
        id: id.parse().unwrap(),
        fingerprint: "f".into(),
        volume: "v".parse().unwrap(),
        shareable: false,
        domain: None,
        access: AccessDecision::from_sources(vec![]),
        rights: VolumeRights::default(),
        holder: None,
        host: HostVolume::from(HostPlan {
            keeps_owner: false,
            protocol: "local".into(),
            claims: Vec::new(),
            connection: Connection::None,
            path: "/r/v".into(),
            root: "/r".into(),
            kind: SourceKind::File,
            format: ImageFormat::Raw,
            access: Access::ReadWrite,
        }),
        disk: DiskPlan {
            dialect: Dialect::Qemu,
            left_out: Vec::new(),
            alias: "ua-v".into(),
            source: "/r/v".into(),
            sequence: None,
            target: "vda".into(),
            xml: "<disk/>".into(),
            scope: Scope::Live,
        },
        course: Course {
            steps: vec![StepRecord {
                step: Step::Connect,
                progress: Progress::Intent,
            }],
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            ..Course::begin()
        },
        degraded: None,
        force: false,
    }
}

#[tokio::test]
async fn records_outlive_the_process_and_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    for id in ["b", "a", "c"] {
        journal.put(&record(id)).await.unwrap();
    }
    journal.remove(&"c".parse().unwrap()).await.unwrap();
    drop(journal);
    let journal = RedbJournal::open(&path, false).unwrap();
    assert_eq!(
        journal.all().await.unwrap(),
        [Arc::new(record("a")), Arc::new(record("b"))]
    );
    assert_eq!(
        journal.get(&"a".parse().unwrap()).await.unwrap(),
        Some(record("a"))
    );
    assert_eq!(journal.get(&"c".parse().unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn permissions_outlive_the_process_and_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    let set = |permissions: &str| SetPermissions {
        permissions: permissions.parse().unwrap(),
        owner: VolumeOwner {
            user_id: Some("alice".into()),
            ..VolumeOwner::default()
        },
        by: Holder {
            user_id: "alice".into(),
            project_id: "p".into(),
        },
        at: SystemTime::UNIX_EPOCH,
    };
    let [v1, v2] = ["v1", "v2"].map(|id| id.parse().unwrap());
    for (volume, permissions) in [(&v1, "600"), (&v2, "640"), (&v1, "440")] {
        let set = set(permissions);
        journal.set_permissions(volume, Some(&set)).await.unwrap();
    }
    journal.set_permissions(&v2, None).await.unwrap();
    journal.put(&record("v1")).await.unwrap();
    drop(journal);
    let journal = RedbJournal::open(&path, false).unwrap();
    assert_eq!(journal.permissions(&v1).await.unwrap(), Some(set("440")));
    assert_eq!(journal.permissions(&v2).await.unwrap(), None);
    assert_eq!(journal.all().await.unwrap(), [Arc::new(record("v1"))]);
}

/// A record as version 0.1 wrote it, before holders and permissions existed.
#[test]
fn a_record_without_holder_and_permissions_is_read() {
    let before = br#"{"version":1,"record":{"id":"a","fingerprint":"f","volume":"v","shareable":false,"domain":null,
        "access":{"access":"rw","read_only_by":[]},"host":{"protocol":"local","shared":null,"mount":null,"target":null,
        "path":"/r/v","root":"/r","kind":"file","format":"raw","access":"rw"},"disk":{"alias":"ua-v","target":"vda",
        "xml":"<disk/>","scope":"live","dialect":"qemu","left_out":[]},"steps":[{"step":"connect","progress":"intent"}],
        "direction":"forward","state":"connecting","error":null,"unplug_requested":null,
        "created":{"secs_since_epoch":0,"nanos_since_epoch":0},"updated":{"secs_since_epoch":0,"nanos_since_epoch":0}}}"#;
    let mut expected = record("a");
    expected.disk.source = "/r/v".into();
    assert_eq!(decode_record(before).unwrap(), expected);
}

/// Opens a file written by version 0.1: attachments of every backend, in every state that a stop can leave, and permissions.
#[tokio::test]
async fn a_journal_of_version_1_opens_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/journal-v1.redb");
    std::fs::copy(old, &path).unwrap();
    let journal = RedbJournal::open(&path, false).unwrap();
    let records = journal.all().await.unwrap();
    let told = |record: &Arc<Record>| {
        let host = &record.host;
        let claims: Vec<String> = host.plan.claims.iter().map(ToString::to_string).collect();
        let connection = match &host.plan.connection {
            Connection::None => "nothing".to_owned(),
            Connection::Mount(mount) => mount.source.clone(),
            Connection::Iscsi(target) => format!("iscsi by {}", target.paths.len()),
            Connection::Nvme(target) => format!("nvme by {}", target.paths.len()),
        };
        format!(
            "{} {} {:?} {} of {}: {connection}, {claims:?}, {:?} {:?}, {} from {}\n",
            record.id,
            record.course.state,
            record.course.direction,
            record.course.steps.len(),
            record.volume,
            host.path(),
            host.identity().map(crate::model::Wwid::as_str),
            record.disk.alias,
            record.disk.source.display(),
        )
    };
    insta::assert_snapshot!(records.iter().map(told).collect::<String>(), @r#"
    iscsi-attached attached Forward 2 of v3: iscsi by 1, ["iscsi:iqn.2026-01.org.lab:v3/1"], "/dev/sdb" Some("36001405198dea392afc21d070f8abfc7"), ua-v3 from /dev/sdb
    iscsi-connecting connecting Forward 1 of v5: iscsi by 2, ["iscsi:iqn.2026-01.org.lab:v4/1"], "/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.2026-01.org.lab:v4-lun-1" None, ua-v5 from /dev/disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.2026-01.org.lab:v4-lun-1
    iscsi-map-failed failed Backward 2 of v4: iscsi by 2, ["iscsi:iqn.2026-01.org.lab:v4/1"], "/dev/dm-0" Some("36001405b2d3e4f5061728394a5b6c7d0"), ua-v4 from /dev/dm-0
    local-lost attached Forward 2 of v7: nothing, ["/dev/vg/volume-6"], "/dev/vg/volume-6" None, ua-v7 from /dev/vg/volume-6
    nfs-connected connected Forward 1 of v2: 10.0.0.5:/exp, ["nfs:b40ded19647c48dc081aa91678fe0854"], "/var/lib/volattach/mnt/b40ded19647c48dc081aa91678fe0854/volume-2" None, ua-v2 from /var/lib/volattach/mnt/b40ded19647c48dc081aa91678fe0854/volume-2
    nvme-detaching detaching Backward 2 of v6: nvme by 2, ["nvmeof:nqn.2026-01.org.lab:s", "nvmeof:nqn.2026-01.org.lab:s@10.0.0.1:4420", "nvmeof:nqn.2026-01.org.lab:s@10.0.1.1:4420"], "/dev/nvme0n1" Some("uuid.7c9e6679-7425-40de-944b-e07fc1f90ae7"), ua-v6 from /dev/nvme0n1
    smb-attached attached Forward 2 of v1: //nas/volumes, ["smb:04c374950dbe60cfdb61591b012e85f3"], "/var/lib/volattach/mnt/04c374950dbe60cfdb61591b012e85f3/volume-1" None, ua-v1 from /var/lib/volattach/mnt/04c374950dbe60cfdb61591b012e85f3/volume-1
    smb-reading attached Forward 2 of v1b: //nas/volumes, ["smb:4c4877c21cb4f550a038f6c5cb7919cc"], "/var/lib/volattach/mnt/4c4877c21cb4f550a038f6c5cb7919cc/volume-1" None, ua-v1b from /var/lib/volattach/mnt/4c4877c21cb4f550a038f6c5cb7919cc/volume-1
    "#);
    let v1 = "v1".parse().unwrap();
    assert!(journal.permissions(&v1).await.unwrap().is_some());
    // A changed record is written in this version, beside unchanged records of version 1.
    let mut changed = records.clone();
    Arc::make_mut(&mut changed[1]).force = true;
    journal.put(&changed[1]).await.unwrap();
    drop(journal);
    let journal = RedbJournal::open(&path, false).unwrap();
    assert_eq!(journal.all().await.unwrap(), changed);
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let mut record = record("a");
    record.access = AccessDecision::from_sources(vec![
        AccessSource::Request,
        AccessSource::Attached {
            user: "bob".to_owned(),
        },
        AccessSource::Permissions {
            permissions: "440".parse().unwrap(),
            class: Class::Group,
        },
    ]);
    record.rights.permissions = "440".parse().ok();
    record.holder = Some(Holder::default());
    assert_eq!(decode_record(&encode(&record).unwrap()).unwrap(), record);
}

#[tokio::test]
async fn what_is_written_soon_is_read_at_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    journal.put_soon(&record("a")).await.unwrap();
    let read = journal.get(&"a".parse().unwrap()).await.unwrap();
    assert_eq!(read, Some(record("a")));
    drop(journal);
    let journal = RedbJournal::open(&path, false).unwrap();
    assert_eq!(journal.all().await.unwrap(), [Arc::new(record("a"))]);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    assert_eq!(
        RedbJournal::open(&path, false).err().unwrap().action,
        "open"
    );
    drop(journal);
}

/// A record of a later build concerns nobody else: the others are served, and it stays as it is, whatever is written beside it.
#[tokio::test]
async fn an_unreadable_record_is_refused_alone_and_kept() {
    const RECORDS: redb::TableDefinition<'_, &str, &[u8]> =
        redb::TableDefinition::new("attachments");
    const LATER: &[u8] = br#"{"version":3,"record":{"id":"later","volume":"v9","host":{"plan":{"claims":[{"mount":"m"}]}}}}"#;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let journal = RedbJournal::open(&path, false).unwrap();
    journal.put(&record("a")).await.unwrap();
    drop(journal);
    let raw = redb::Database::create(&path).unwrap();
    let transaction = raw.begin_write().unwrap();
    let mut table = transaction.open_table(RECORDS).unwrap();
    table.insert("later", LATER).unwrap();
    drop(table);
    transaction.commit().unwrap();
    drop(raw);
    for _ in 0..2 {
        let journal = RedbJournal::open(&path, false).unwrap();
        assert_eq!(journal.all().await.unwrap(), [Arc::new(record("a"))]);
        let error = journal.get(&"later".parse().unwrap()).await.unwrap_err();
        assert!(error.source.to_string().contains("version 3"), "{error:?}");
        let unreadable = journal.unreadable().await.unwrap();
        let [later] = &unreadable[..] else {
            panic!("{unreadable:?}")
        };
        assert_eq!(later.volume, "v9".parse().ok());
        assert_eq!(later.claims, [Claim::Mount("m".to_owned())]);
        journal.put(&record("a")).await.unwrap();
    }
    let raw = redb::Database::create(&path).unwrap();
    let transaction = redb::ReadableDatabase::begin_read(&raw).unwrap();
    let table = transaction.open_table(RECORDS).unwrap();
    let kept = table.get("later").unwrap().map(|it| it.value().to_owned());
    assert_eq!(kept.as_deref(), Some(LATER));
    drop((table, transaction, raw));

    // Set aside: out of the journal for good, and in a file of its own.
    let later = "later".parse().unwrap();
    let journal = RedbJournal::open(&path, false).unwrap();
    assert!(journal.set_aside(&record("a").id).await.is_err());
    let file = journal.set_aside(&later).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), LATER);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(file.parent(), path.parent());
    assert_eq!(journal.get(&later).await.unwrap(), None);
    drop(journal);
    let journal = RedbJournal::open(&path, false).unwrap();
    assert_eq!(journal.unreadable().await.unwrap(), []);
    assert_eq!(journal.all().await.unwrap(), [Arc::new(record("a"))]);
}

/// Permissions of a later build are told with the condition.
#[tokio::test]
async fn the_condition_has_the_permissions_that_cannot_be_read() {
    const PERMISSIONS: redb::TableDefinition<'_, &str, &[u8]> =
        redb::TableDefinition::new("permissions");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    drop(RedbJournal::open(&path, false).unwrap());
    let raw = redb::Database::create(&path).unwrap();
    let transaction = raw.begin_write().unwrap();
    let mut table = transaction.open_table(PERMISSIONS).unwrap();
    table.insert("v9", &br#"{"version":9}"#[..]).unwrap();
    drop(table);
    transaction.commit().unwrap();
    drop(raw);
    let journal = RedbJournal::open(&path, false).unwrap();
    let condition = journal.condition().await;
    let [(volume, why)] = &condition.unreadable_permissions[..] else {
        panic!("{condition:?}")
    };
    assert_eq!(volume.as_str(), "v9");
    assert!(why.contains("version 9"), "{why}");
    assert_eq!(condition.write_failure, None);
    assert_eq!(condition.room.unwrap().directory, dir.path());
}

mod damage;
