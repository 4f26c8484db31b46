//! What was attached and is no more: told, cleared away, or made again.

use super::*;

#[tokio::test]
async fn what_a_reboot_took_is_told_and_made_again() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    connected(&engine, "c1", "v2").await;
    world.state().disks.clear();
    world.state().connections.clear();
    let engine = world.engine();
    reconcile::once(&engine).await;
    for lost in ["a1", "c1"] {
        let shown = engine.get(by_root(id(lost))).await.unwrap();
        assert_eq!(shown.error.unwrap().reason, Reason::DiskLost, "{lost}");
    }
    let again = attached(&engine, "a1", "v1").await;
    assert_eq!((again.state, again.error), (State::Attached, None));
    connected(&engine, "c1", "v2").await;
    assert_eq!(world.state().disks.len(), 1);
    engine.detach(by_root(end("a1"))).await.unwrap();
    engine.disconnect(by_root(end("c1"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn a_connection_that_was_lost_from_under_a_disk_is_told_and_made_again() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().connections.clear();
    reconcile::once(&engine).await;
    let shown = engine.get(by_root(id("a1"))).await.unwrap();
    assert_eq!(shown.error.unwrap().reason, Reason::DiskLost);
    let again = attached(&engine, "a1", "v1").await;
    assert_eq!((again.state, again.error), (State::Attached, None));
    assert_eq!(world.state().connections.len(), 1);
    assert_eq!(world.state().unplugs_asked, 0, "the guest kept its disk");
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn what_is_made_again_elsewhere_leaves_nothing_where_it_was() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    connected(&engine, "c1", "v2").await;
    // The disk is lost, the mount is not; and the deployer's options, so the mount points, are others now.
    world.let_go("ua-volattach-a1");
    world.state().configuration = "echo_interval=20";
    world.state().sync();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    let before = world.state().connections.len();
    assert_eq!(before, 2, "c1 uses the old mount still");
    engine.disconnect(by_root(end("c1"))).await.unwrap();
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn the_last_that_is_made_again_elsewhere_takes_its_mount_down() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.let_go("ua-volattach-a1");
    world.state().configuration = "echo_interval=20";
    world.state().sync();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

/// As a disk of Xen that its guest has unbound: the domain goes on showing it.
#[tokio::test]
async fn a_disk_that_the_guest_has_no_more_is_plugged_in_anew() {
    let world = World::of(Dialect::Xen);
    let engine = world.engine();
    let request = || by_root(attach("a1", "v1", smb("v1")));
    engine.attach(request()).await.unwrap();
    world.state().hollow.insert("ua-volattach-a1".into());
    engine.attach(request()).await.unwrap();
    assert_eq!(world.state().unplugs_asked, 1);
    assert!(world.state().hollow.is_empty());
    assert!(world.state().disks.contains_key("ua-volattach-a1"));
}
