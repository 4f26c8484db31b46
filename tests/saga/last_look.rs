//! The last look at a volume before QEMU opens it.

use volattach::backend::Presence;
use volattach::journal::{Record, Step};

use super::*;

/// QEMU's open of an image whose server is silent stops the guest.
#[tokio::test(start_paused = true)]
async fn a_volume_is_looked_at_again_after_a_wait_for_its_domain() {
    let world = World::new();
    let engine = world.engine();
    // The first plug holds the domain for seconds; the second volume was looked at before.
    world.state().hypervisor_slow = true;
    let both = [attach("a1", "v1", smb("v1")), attach("a2", "v2", nfs("v2"))].map(|request| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.attach(by_root(request)).await })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let waits = |record: &Record| record.progress(Step::Attach).is_none();
    let second = world.records().into_iter().find(waits).unwrap();
    let claim = second.host.plan.claims[0].to_string();
    assert_eq!(world.state().connections[&claim], Presence::Present);
    world.state().stale.insert(claim);
    for call in both {
        match call.await.unwrap() {
            Ok(attached) => assert_ne!(attached.id, second.id),
            Err(error) => assert_eq!(error.reason(), Reason::ServerTimeout, "{error}"),
        }
    }
    let state = world.state();
    assert_eq!((state.plugs, state.disks.len()), (1, 1));
}

#[tokio::test]
async fn a_mount_that_turns_out_to_be_closed_to_the_guest_is_taken_down() {
    let world = World::new();
    let engine = world.engine();
    world.state().mounts_closed = true;
    attached(&engine, "a1", "v1").await;
    engine.detach(by_root(end("a1"))).await.unwrap();
    world.state().confined = true;
    let refused = engine.attach(by_root(attach("a1", "v1", smb("v1")))).await;
    assert_eq!(reason(refused), Reason::SelinuxBoolean);
    nothing_left(&world);
}
