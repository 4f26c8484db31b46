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
