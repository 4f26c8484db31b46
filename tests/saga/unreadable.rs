//! Records that this build cannot read, as after the way back from an upgrade.

use volattach::attach::ListQuery;
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

/// The reason of a later build: shown as spelled, and in nobody's way.
#[tokio::test]
async fn a_record_with_a_later_reason_is_listed_and_detached() {
    let world = World::new();
    attached(&world.engine(), "a1", "v1").await;
    {
        let mut state = world.state();
        state.sync();
        let record = state.records.get_mut("a1").unwrap();
        let text = String::from_utf8(record.clone()).unwrap();
        let later = r#""error":{"reason":"SOME_LATER_REASON","message":"m"}"#;
        assert!(text.contains(r#""error":null"#), "{text}");
        *record = text.replace(r#""error":null"#, later).into_bytes();
    }
    let engine = world.engine();
    let query = ListQuery {
        filter: Filter::default(),
        after: None,
        limit: 10,
    };
    let listed = engine.list(by_root(query)).await.unwrap().remove(0);
    assert_eq!(
        listed.error.unwrap().reason.to_string(),
        "SOME_LATER_REASON"
    );
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}
