//! Sessions that no record has.

use super::*;

#[tokio::test]
async fn a_session_by_an_own_node_record_needs_a_record_of_the_journal() {
    let sys = kernel();
    let nodes = tempfile::tempdir().unwrap();
    let mut backend = backend(sys.path());
    backend.initiator.settings.nodes = nodes.path().to_owned();
    assert_eq!(backend.unrecorded(&[]).await.unwrap(), [], "of others");
    let target = nodes.path().join("iqn.a");
    fs::create_dir(&target).unwrap();
    let record = target.join("10.0.0.1,3260");
    fs::write(&record, "node.name = iqn.a\n").unwrap();
    let found = backend.unrecorded(&[]).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].mend, "iscsiadm -m session -r 7 --logout");
    let plan = backend.plan(&two_paths(), Access::ReadWrite).unwrap();
    assert_eq!(backend.unrecorded(&[plan.into()]).await.unwrap(), []);
    fs::write(&record, "# BEGIN RECORD 2.1.8\n").unwrap();
    assert_eq!(backend.unrecorded(&[]).await.unwrap(), [], "of iscsiadm");
}
