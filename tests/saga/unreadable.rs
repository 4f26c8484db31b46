//! Records that this build cannot read, as after the way back from an upgrade.

use volattach::journal::Unreadable;

use super::*;

#[tokio::test]
async fn an_unreadable_record_keeps_its_volume_and_its_claims() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    let claims = world.records().remove(0).host.plan.claims;
    // Of the same share.
    world.state().unreadable = vec![Unreadable {
        id: id("later"),
        volume: "v2".parse().ok(),
        claims,
        why: "it has version 9".to_owned(),
    }];
    let second = engine.attach(by_root(attach("a2", "v2", smb("v2")))).await;
    assert_eq!(reason(second), Reason::VolumeInUse);
    attached(&engine, "a3", "v3").await;
    for id in ["a1", "a3"] {
        engine.detach(by_root(end(id))).await.unwrap();
    }
    assert_eq!(world.state().connections.len(), 1, "its share is unmounted");
    world.state().unreadable.clear();
    attached(&engine, "a1", "v1").await;
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}
