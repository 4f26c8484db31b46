//! Volumes that share a subsystem or target: one that takes long keeps no other waiting, and the last one takes the shared part down.

use super::identity::held_at;
use super::*;

/// A volume of a subsystem or target, by its name.
type Info = fn(&str) -> ConnectionInfo;

/// Waits for a call that nothing may hold up. The clock is paused: it advances only once every call waits.
async fn soon<T>(call: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(Duration::from_secs(600), call).await;
    ended.expect("a call waits for another volume's")
}

async fn attach_one(engine: &Engine, id: &str, info: ConnectionInfo) {
    let volume = id.replace('a', "v");
    let request = by_root(attach(id, &volume, info));
    soon(engine.attach(request)).await.unwrap();
}

/// A host whose detach of `a1`, the only attachment, is held at the passage of that name.
async fn detach_held_at(
    passage: &str,
    info: Info,
) -> (World, Engine, JoinHandle<Result<(), Error>>) {
    for at in 0.. {
        let world = World::new();
        let engine = world.engine();
        attach_one(&engine, "a1", info("v1")).await;
        world.gate.arm(at, Fault::Hold);
        let call = {
            let engine = engine.clone();
            tokio::spawn(async move { engine.detach(by_root(end("a1"))).await })
        };
        soon(world.gate.died()).await;
        if world.gate.disarm().as_deref() == Some(passage) {
            return (world, engine, call);
        }
        world.gate.release();
        let _ = call.await.unwrap();
    }
    unreachable!("there is such a passage")
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_does_not_appear_keeps_no_other_waiting() {
    for info in [nvme as Info, iscsi] {
        let world = World::new();
        let engine = world.engine();
        let request = attach("a1", "v1", info("v1"));
        let waits = held_at(&world, &engine, request, "backend.connect Half").await;
        attach_one(&engine, "a2", info("v2")).await;
        world.state().releases.clear();
        soon(engine.detach(by_root(end("a2")))).await.unwrap();
        let record = world.records().remove(0);
        if let [claim @ volattach::model::Claim::Subsystem(_)] = &record.host.plan.claims[..] {
            let releases = world.state().releases.clone();
            let stays = releases.iter().all(|it| it.held.contains(claim));
            assert!(stays, "the volume that waits needs it: {releases:?}");
        }
        world.gate.release();
        soon(waits).await.unwrap().unwrap();
        soon(engine.detach(by_root(end("a1")))).await.unwrap();
        nothing_left(&world);
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_not_written_out_keeps_no_other_waiting() {
    let (world, engine, waits) = detach_held_at("backend.write_out Before", nvme).await;
    attach_one(&engine, "a2", nvme("v2")).await;
    soon(engine.detach(by_root(end("a2")))).await.unwrap();
    assert!(
        !world.state().connections.is_empty(),
        "the volume that waits needs it"
    );
    world.gate.release();
    soon(waits).await.unwrap().unwrap();
    nothing_left(&world);
}

/// Whoever connects while the last holder takes the controllers down waits for that, and makes them anew.
#[tokio::test(start_paused = true)]
async fn what_the_last_holder_takes_down_nobody_uses_meanwhile() {
    for passage in ["backend.disconnect Before", "backend.disconnect Half"] {
        let (world, engine, ends) = detach_held_at(passage, nvme).await;
        let comes = {
            let engine = engine.clone();
            tokio::spawn(
                async move { engine.attach(by_root(attach("a2", "v2", nvme("v2")))).await },
            )
        };
        // Passes once nothing else can go on.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let uses = |id: &str| {
            let records = world.records();
            let mut its = records.iter().filter(|it| it.id.as_str() == id);
            its.any(|it| it.uses_connection())
        };
        assert!(uses("a1") && !uses("a2"), "{passage}");
        world.gate.release();
        soon(ends).await.unwrap().unwrap();
        soon(comes).await.unwrap().unwrap();
        assert!(uses("a2") && !world.state().connections.is_empty());
        soon(engine.detach(by_root(end("a2")))).await.unwrap();
        nothing_left(&world);
    }
}

/// A repair whose server takes its time keeps no other volume waiting; the findings of the attachment stay those of this boot of the host.
#[tokio::test(start_paused = true)]
async fn a_path_that_is_made_again_keeps_no_other_volume_waiting() {
    let passage = "backend.repair Before";
    let (world, engine, repairs) = 'held: {
        for at in 0.. {
            let world = World::new();
            let engine = world.engine();
            attach_one(&engine, "a1", nvme("v1")).await;
            world.state().down.insert("10.0.0.1:4420".to_owned(), true);
            world.gate.arm(at, Fault::Hold);
            let round = {
                let engine = engine.clone();
                tokio::spawn(async move { reconcile::once(&engine).await })
            };
            soon(world.gate.died()).await;
            if world.gate.disarm().as_deref() == Some(passage) {
                break 'held (world, engine, round);
            }
            world.gate.release();
            round.await.unwrap();
        }
        unreachable!("there is such a passage")
    };
    world.state().down.clear();
    attach_one(&engine, "a2", nvme("v2")).await;
    soon(engine.detach(by_root(end("a2")))).await.unwrap();
    world.gate.release();
    soon(repairs).await.unwrap();
    let record = world.records().remove(0);
    assert_eq!(record.degraded, None);
    assert_eq!(record.host.found.boot.as_deref(), Some("first"));
    soon(engine.detach(by_root(end("a1")))).await.unwrap();
    nothing_left(&world);
}

/// A reader that has found the device read-only by another reader keeps the device so, though the other one goes before the journal says that.
#[tokio::test(start_paused = true)]
async fn a_device_stays_read_only_for_a_reader_that_just_came() {
    let reads = |id: &str| {
        let mut request = connect(id, "v1", nvme("v1"));
        request.access = Some(Access::ReadOnly);
        by_root(request)
    };
    for at in 0.. {
        let world = World::new();
        let engine = world.engine();
        engine.connect(reads("c1")).await.unwrap();
        world.gate.arm(at, Fault::Hold);
        let comes = {
            let (engine, request) = (engine.clone(), reads("c2"));
            tokio::spawn(async move { engine.connect(request).await })
        };
        soon(world.gate.died()).await;
        let passage = world.gate.disarm().unwrap();
        let records = world.records();
        let begun = records
            .iter()
            .any(|it| it.id == id("c2") && it.uses_connection());
        if !begun || passage != "journal.put Before" {
            world.gate.release();
            comes.await.unwrap().unwrap();
            continue;
        }
        world.state().releases.clear();
        let goes = {
            let engine = engine.clone();
            tokio::spawn(async move { engine.disconnect(by_root(end("c1"))).await })
        };
        // Passes once nothing else can go on.
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.gate.release();
        soon(comes).await.unwrap().unwrap();
        soon(goes).await.unwrap().unwrap();
        let releases = world.state().releases.clone();
        assert!(releases.iter().all(|it| it.keeps_read_only), "{releases:?}");
        engine.disconnect(by_root(end("c2"))).await.unwrap();
        nothing_left(&world);
        return;
    }
}
