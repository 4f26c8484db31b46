//! iscsiadm, and the lock of its database.

use std::time::Instant;

use super::*;

/// A backend of that kernel whose iscsiadm is this script.
fn by_iscsiadm(kernel: &Path, script: &str) -> IscsiBackend {
    let mut backend = backend(kernel);
    let iscsiadm = program(kernel, "iscsiadm", script);
    backend.initiator.iscsiadm = iscsiadm.to_str().unwrap().to_owned();
    backend
}

#[tokio::test]
async fn a_lock_of_a_killed_iscsiadm_keeps_nobody_from_logging_in() {
    let kernel = kernel();
    let link = kernel.path().join("lock.write");
    // As the real one, which its deadline ends.
    let waits = format!(
        "while [ -e {} ]; do sleep 0.01; done; exit 15",
        link.display()
    );
    let backend = by_iscsiadm(kernel.path(), &waits);
    fs::write(&link, "").unwrap();
    backend
        .initiator
        .lock
        .look(Instant::now() - Duration::from_secs(29));
    // A restart of the daemon's would have seen the lock then.
    backend.recall(&[]);
    let ended = backend.initiator.iscsiadm(&[], Duration::from_secs(30));
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    assert_eq!(ended.unwrap().unwrap().code, Some(15));
    assert!(!link.exists());
}

#[tokio::test]
async fn a_lock_that_changes_hands_is_left_to_iscsiadm() {
    let kernel = kernel();
    let link = kernel.path().join("lock.write");
    fs::write(&link, "").unwrap();
    let backend = by_iscsiadm(kernel.path(), "exit 0");
    let others = async {
        for number in 0.. {
            // Another file: another holder.
            let next = kernel.path().join("next");
            fs::write(&next, number.to_string()).unwrap();
            fs::rename(&next, &link).unwrap();
            tokio::time::sleep(POLL).await;
        }
    };
    let run = backend.initiator.iscsiadm(&[], Duration::from_secs(30));
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! { ended = run => ended, () = others => unreachable!() }
    });
    assert_eq!(ended.await.unwrap().unwrap().code, Some(0));
    assert!(link.exists());
}

/// A session that iscsid refuses to end keeps no attachment: it is tried again, and told as a leftover.
#[tokio::test]
async fn a_session_without_a_disk_that_iscsid_keeps_is_ended_later() {
    let kernel = kernel();
    let sys = kernel.path();
    fs::remove_dir_all(sys.join("block")).unwrap();
    fs::remove_dir_all(sys.join("devices/platform/host2/session7/target2:0:0")).unwrap();
    let script = format!(
        "cd {}; echo >>tries; [ -e ready ] || {{ echo invalid state >&2; exit 9; }}; rm -r class/iscsi_session/session7",
        sys.display()
    );
    let mut backend = by_iscsiadm(sys, &script);
    backend.initiator.refused.pause = POLL;
    backend.initiator.settings.nodes = sys.join("nodes");
    let record = sys.join("nodes/iqn.a/10.0.0.1,3260");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(&record, "node.name = iqn.a\n").unwrap();
    let single = info(r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":3"#);
    let plan = backend.plan(&single, Access::ReadWrite).unwrap();
    let path = first_path(&plan);
    let volume = connected(plan, "/dev/sda", WWID);
    let how = Release::default();
    backend.disconnect(&volume, &how).await.unwrap();
    // A second volume of the session does not begin a second series of tries.
    backend.disconnect(&volume, &how).await.unwrap();
    let left = backend.unrecorded(&[]).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].mend, "iscsiadm -m session -r 7 --logout");
    fs::write(sys.join("ready"), "").unwrap();
    let gone = async {
        while backend.initiator.session(&path).is_some() || record.exists() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
}

/// The end of a session is what ends the removal of a silent target's disk, so there a refusal is told.
#[tokio::test]
async fn a_session_with_a_disk_that_iscsid_keeps_keeps_the_attachment() {
    let kernel = kernel();
    let sys = kernel.path();
    fs::remove_dir_all(sys.join("block")).unwrap();
    let mut backend = by_iscsiadm(sys, "echo invalid state >&2; exit 9");
    let failed = r#"{"failed":{"step":"write","errno":5}}"#;
    backend.workers = scripted(sys, &format!("echo '{failed}'"));
    let single = info(r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":3"#);
    let plan = backend.plan(&single, Access::ReadWrite).unwrap();
    let how = Release {
        force: true,
        ..Release::default()
    };
    let error = backend.disconnect(&plan.into(), &how).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DeviceBusy, "{error}");
    for words in ["not over", "invalid state"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}
