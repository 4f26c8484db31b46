//! `cinder reconcile`: what it finds, mends and leaves alone.

use std::collections::BTreeSet;

use serde_json::json;
use uuid::Uuid;

use super::Lab;
use super::fake::Attachment;

#[tokio::test]
async fn reconcile_mends_both_ways_and_leaves_novas_alone() {
    let lab = Lab::new().await;
    let id: Uuid = lab.attached().await.parse().unwrap();
    // Not complete.
    lab.cinder.state().attachments.get_mut(&id).unwrap().status = "attaching";
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["mend"]),
        (0, &json!("complete it in Cinder")),
        "{found}"
    );
    assert_eq!(lab.cinder.state().attachments[&id].status, "attached");
    // Nova's, on this host.
    let nova = {
        let mut state = lab.cinder.state();
        let one = state.attachments[&id].clone();
        let nova = Attachment {
            volume: lab.volume.clone(),
            instance: Some(Uuid::new_v4().to_string()),
            ..one
        };
        let nova_id = Uuid::new_v4();
        state.nova = true;
        state.novas.insert(nova_id);
        state.attachments.insert(nova_id, nova);
        nova_id
    };
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    let left = found["left_alone"][0].as_str().unwrap();
    assert!(code == 0 && left.contains("Nova's"), "{found}");
    let (code, refused) = lab.run(&["detach", &nova.to_string()]).await;
    assert_eq!(
        (code, &refused["error"]["reason"]),
        (4, &json!("CINDER_CONFLICT")),
        "{refused}"
    );
    assert_eq!(
        lab.cinder.state().attachments.remove(&nova).unwrap().status,
        "attached"
    );
    // Gone in Cinder.
    lab.cinder.state().attachments.remove(&id);
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["mend"]),
        (0, &json!("detach it from this host")),
        "{found}"
    );
    lab.assert_empty("reconciled");
}

#[tokio::test]
async fn those_who_may_not_see_hosts_are_told_and_end_what_is_marked() {
    let lab = Lab::new().await;
    let id: Uuid = lab.attached().await.parse().unwrap();
    lab.cinder.state().admin = false;
    lab.detach_here(&id.to_string()).await;
    // Complete: its mark shows whose it is. Another host's is not taken for it.
    let other = Uuid::new_v4();
    {
        let mut state = lab.cinder.state();
        let mut theirs = state.attachments[&id].clone();
        theirs.mountpoint = "volattach:elsewhere:1".to_owned();
        state.attachments.insert(other, theirs);
    }
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["attachment_id"]),
        (0, &json!(id)),
        "{found}"
    );
    assert_eq!(lab.sides().0, BTreeSet::from([other.to_string()]));
    // Incomplete: it may be anybody's.
    lab.cinder
        .state()
        .attachments
        .get_mut(&other)
        .unwrap()
        .status = "attaching";
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["mendable"]),
        (9, &json!(false)),
        "{found}"
    );
}
