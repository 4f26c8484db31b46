//! Attachments that are forgotten: the record goes, the host stays as it is, and each thing that is left is told.

use tokio::time::{Instant, timeout};
use volattach::attach::{ForgetRequest, Forgotten};
use volattach::journal::Unreadable;

use super::identity::held_at;
use super::*;

async fn forget(engine: &Engine, id: &str, confirmed: bool) -> Result<Forgotten, Error> {
    let id = self::id(id);
    engine
        .forget(by_root(ForgetRequest { id, confirmed }))
        .await
}

fn whats(forgotten: &Forgotten) -> Vec<&str> {
    forgotten.left.iter().map(|it| it.what.as_str()).collect()
}

/// An attachment whose share cannot be unmounted.
async fn failed(world: &World, engine: &Engine, id: &str, volume: &str) {
    attached(engine, id, volume).await;
    world.state().disconnect_fails = Some(Reason::UnmountFailed);
    let ended = engine.detach(by_root(end(id))).await;
    assert_eq!(reason(ended), Reason::UnmountFailed);
    world.state().disconnect_fails = None;
    assert_eq!(state(engine, id).await, State::Failed);
}

#[tokio::test]
async fn a_failed_attachment_is_forgotten_and_its_mount_is_told() {
    let world = World::new();
    world.state().mounts_listed = true;
    let engine = world.engine();
    failed(&world, &engine, "a1", "v1").await;
    let mut changes = engine
        .watch(by_root(WatchRequest::default()))
        .await
        .unwrap();
    let there = world.state().connections.clone();
    let mount = there.keys().next().unwrap().clone();

    let would = forget(&engine, "a1", false).await.unwrap();
    assert!(!would.forgotten && would.kept.is_none());
    assert_eq!(whats(&would), [format!("mount {mount}")]);
    assert_eq!(would.left[0].mend, format!("umount {mount}"));
    assert_eq!(state(&engine, "a1").await, State::Failed);
    assert!(engine.orphans().await.unwrap().is_empty());

    let forgotten = forget(&engine, "a1", true).await.unwrap();
    assert!(forgotten.forgotten);
    assert_eq!(forgotten.left, would.left);
    assert!(world.records().is_empty());
    assert_eq!(world.state().connections, there, "the host stays as it is");
    let gone = |told: Told| {
        let attachment = told.event?.attachment;
        (attachment.state == State::Gone).then_some(attachment.error)
    };
    let told = async {
        loop {
            if let Some(error) = gone(changes.next().await.unwrap()) {
                return error;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told);
    let error = told.await.expect("watchers are told").unwrap();
    assert_eq!(error.reason, Reason::Forgotten);
    // What is left has no record now.
    let orphans = engine.orphans().await.unwrap();
    assert_eq!(orphans[0].what, format!("mount {mount}"));

    // The id and the volume are free; the mount is joined, and goes with its last holder.
    assert_eq!(
        reason(forget(&engine, "a1", true).await),
        Reason::AttachmentNotFound
    );
    attached(&engine, "a1", "v1").await;
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

/// A mount that another attachment holds too is that one's: not told as left, and unmounted by it.
#[tokio::test]
async fn what_another_attachment_holds_stays_its_own() {
    let world = World::new();
    world.state().mounts_listed = true;
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    attached(&engine, "a2", "v2").await;
    world.state().disks.remove("ua-volattach-a1");
    reconcile::once(&engine).await;
    assert_eq!(state(&engine, "a1").await, State::Lost);
    assert_eq!(world.state().connections.len(), 1);
    let forgotten = forget(&engine, "a1", true).await.unwrap();
    assert_eq!(whats(&forgotten), Vec::<&str>::new());
    engine.detach(by_root(end("a2"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn a_disk_that_its_guest_keeps_is_told_with_its_alias_and_asked_for_by_nobody() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    let ended = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(ended), Reason::UnplugPending);
    let forgotten = forget(&engine, "a1", true).await.unwrap();
    let [disk] = &forgotten.left[..] else {
        panic!("{:?}", forgotten.left)
    };
    assert!(
        disk.what.starts_with("disk vda of attachment a1 in web"),
        "{disk:?}"
    );
    let mend = format!("virsh detach-device-alias {DOMAIN} ua-volattach-a1 --live");
    assert_eq!(disk.mend, mend);
    assert_eq!(disk.attachment, Some(id("a1")));
    reconcile::once(&engine).await;
    assert_eq!(world.state().unplugs_asked, 1);
    assert_eq!(world.state().disks.len(), 1);
    let orphans = engine.orphans().await.unwrap();
    assert_eq!(
        (orphans[0].what.as_str(), &orphans[0].mend),
        (disk.what.as_str(), &mend)
    );
}

#[tokio::test]
async fn what_can_be_settled_is_not_forgotten() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    for confirmed in [false, true] {
        let refused = forget(&engine, "a1", confirmed).await;
        assert_eq!(reason(refused), Reason::ForgetRefused);
        let refused = forget(&engine, "none", confirmed).await;
        assert_eq!(reason(refused), Reason::AttachmentNotFound);
    }
    // A call works on it.
    let engine = world.engine_with(Duration::from_secs(60));
    let detach = unanswered_detach(&world, &engine).await;
    let refused = forget(&engine, "a1", true).await;
    assert_eq!(reason(refused), Reason::OperationInProgress);
    assert_eq!(world.records().len(), 1);
    detach.abort();
}

/// What cannot be looked at is told, and keeps nothing from being forgotten.
#[tokio::test]
async fn an_attachment_of_an_unreachable_hypervisor_is_forgotten() {
    let world = World::new();
    let engine = world.engine();
    failed(&world, &engine, "a1", "v1").await;
    world.state().hypervisor_down = true;
    let forgotten = forget(&engine, "a1", true).await.unwrap();
    let [unseen] = &forgotten.left[..] else {
        panic!("{:?}", forgotten.left)
    };
    assert!(
        unseen.what.contains("a disk ua-volattach-a1 may be there"),
        "{unseen:?}"
    );
    assert!(world.records().is_empty());
}

#[tokio::test]
async fn an_unreadable_record_is_forgotten_and_its_volume_is_free() {
    let world = World::new();
    world.state().mounts_listed = true;
    let engine = world.engine();
    attached(&engine, "later", "v1").await;
    {
        let mut state = world.state();
        state.sync();
        state.records.clear();
    }
    world.state().unreadable = vec![Unreadable {
        id: id("later"),
        volume: "v1".parse().ok(),
        claims: Vec::new(),
        why: "it has version 9".to_owned(),
    }];
    let engine = world.engine();
    let taken = engine.attach(by_root(attach("a2", "v1", smb("v1")))).await;
    assert_eq!(reason(taken), Reason::VolumeInUse);

    let would = forget(&engine, "later", false).await.unwrap();
    assert!(!would.forgotten && world.state().unreadable.len() == 1);
    let forgotten = forget(&engine, "later", true).await.unwrap();
    assert_eq!(forgotten.left, would.left);
    let whats = whats(&forgotten);
    assert!(
        whats[0].starts_with("disk vda of attachment later in web"),
        "{whats:?}"
    );
    assert!(whats[1].starts_with("mount "), "{whats:?}");
    assert!(forgotten.kept.is_some());
    assert!(world.state().unreadable.is_empty());
    assert_eq!(world.state().disks.len(), 1);
    assert_eq!(engine.orphans().await.unwrap().len(), 2);
    // The disk that is left keeps the volume from its domain.
    let again = engine.attach(by_root(attach("a2", "v1", smb("v1")))).await;
    assert_eq!(reason(again), Reason::VolumeInUse);
    connected(&engine, "a2", "v1").await;
}

/// Beside another unreadable record, nothing that is found is this attachment's for sure.
#[tokio::test]
async fn another_unreadable_record_may_have_what_is_found() {
    let world = World::new();
    world.state().mounts_listed = true;
    let engine = world.engine();
    failed(&world, &engine, "a1", "v1").await;
    world.state().unreadable = vec![Unreadable {
        id: id("later"),
        volume: None,
        claims: Vec::new(),
        why: "it has version 9".to_owned(),
    }];
    let forgotten = forget(&engine, "a1", true).await.unwrap();
    let mend = &forgotten.left[0].mend;
    assert!(
        mend.starts_with("unless one of the unreadable records has it: umount"),
        "{mend}"
    );
}

/// A journal that cannot be written keeps the record, and the answer says so.
#[tokio::test]
async fn a_record_that_cannot_be_removed_stays() {
    let world = World::new();
    let engine = world.engine();
    connected(&engine, "c1", "v1").await;
    world.state().disconnect_fails = Some(Reason::UnmountFailed);
    let ended = engine.disconnect(by_root(end("c1"))).await;
    assert_eq!(reason(ended), Reason::UnmountFailed);
    world.gate.arm(0, Fault::Fail);
    let refused = forget(&engine, "c1", true).await;
    assert_eq!(reason(refused), Reason::JournalFailed);
    assert_eq!(state(&engine, "c1").await, State::Failed);
}

/// A block device that is read-only for the attachment stays so, unless another attachment has the device.
#[tokio::test]
async fn a_device_that_stays_read_only_is_told() {
    let world = World::new();
    let engine = world.engine();
    let reader = |id: &str| {
        let mut request = connect(id, "v1", iscsi("v1"));
        request.access = Some(Access::ReadOnly);
        request
    };
    let mut request = attach("a1", "v1", iscsi("v1"));
    request.access = Some(Access::ReadOnly);
    engine.attach(by_root(request)).await.unwrap();
    engine.connect(by_root(reader("c2"))).await.unwrap();
    world.state().disks.remove("ua-volattach-a1");
    reconcile::once(&engine).await;
    let shared = forget(&engine, "a1", true).await.unwrap();
    assert_eq!(whats(&shared), Vec::<&str>::new(), "c2 has the device");
    world.state().disconnect_fails = Some(Reason::DeviceBusy);
    let ended = engine.disconnect(by_root(end("c2"))).await;
    assert_eq!(reason(ended), Reason::DeviceBusy);
    let left = forget(&engine, "c2", true).await.unwrap();
    let mends: Vec<&str> = left.left.iter().map(|it| it.mend.as_str()).collect();
    assert!(
        mends
            .iter()
            .any(|it| it.starts_with("lsblk --inverse /dev/")),
        "{mends:?}"
    );
    assert!(
        mends
            .iter()
            .any(|it| it.starts_with("blockdev --setrw /dev/")),
        "{mends:?}"
    );
    // A later reader takes its protection back as the first would have.
    engine.connect(by_root(reader("c3"))).await.unwrap();
    engine.disconnect(by_root(end("c3"))).await.unwrap();
    nothing_left(&world);
}

/// The end of the other attachment would count no holder but its own, and take the device from the guest.
#[tokio::test]
async fn an_attachment_whose_guest_has_a_shared_device_is_not_forgotten() {
    for info in [nvme as fn(&str) -> ConnectionInfo, iscsi] {
        let world = World::new();
        let engine = world.engine();
        // Two namespaces of one subsystem; or one LUN, in the domain and on the host.
        let shares_lun = matches!(
            info("v1"),
            ConnectionInfo {
                protocol: volattach::connection::Protocol::Iscsi(_),
                ..
            }
        );
        let (volume, mut first) = match shares_lun {
            true => ("v1", attach("a1", "v1", info("v1"))),
            false => ("v2", attach("a1", "v1", info("v1"))),
        };
        first.info.common.multiattach = true;
        let mut second = connect("a2", volume, info(volume));
        second.info.common.multiattach = true;
        engine.attach(by_root(first)).await.unwrap();
        engine.connect(by_root(second)).await.unwrap();
        world.state().guest = Guest::Ignores;
        let pending = engine.detach(by_root(end("a1"))).await;
        assert_eq!(reason(pending), Reason::UnplugPending);
        for confirmed in [false, true] {
            let refused = forget(&engine, "a1", confirmed).await.unwrap_err();
            assert_eq!(refused.reason(), Reason::ForgetRefused);
            let words = refused.chain();
            assert!(
                words.contains("has its disk vda, and attachment a2 holds "),
                "{words}"
            );
        }
        world.state().hypervisor_down = true;
        let unseen = forget(&engine, "a1", true).await;
        assert_eq!(reason(unseen), Reason::ForgetRefused);
        world.state().hypervisor_down = false;
        assert_eq!(world.records().len(), 2);
        // Without the disk, nobody loses anything.
        world.state().disks.clear();
        assert!(forget(&engine, "a1", true).await.unwrap().forgotten);
        engine.disconnect(by_root(end("a2"))).await.unwrap();
    }
}

/// A device that is found by some of its paths is a device that is left.
#[tokio::test]
async fn a_device_with_a_missing_path_is_told() {
    let world = World::new();
    let engine = world.engine();
    let request = connect("c1", "v1", iscsi("v1"));
    engine.connect(by_root(request)).await.unwrap();
    world.state().disconnect_fails = Some(Reason::DeviceBusy);
    let ended = engine.disconnect(by_root(end("c1"))).await;
    assert_eq!(reason(ended), Reason::DeviceBusy);
    let whole = forget(&engine, "c1", false).await.unwrap();
    assert!(
        whats(&whole)
            .iter()
            .any(|it| it.starts_with("block device "))
    );
    world.state().down.insert("10.0.0.1:3260".to_owned(), true);
    let degraded = forget(&engine, "c1", false).await.unwrap();
    assert_eq!(whats(&degraded), whats(&whole));
}

/// The looks of a forget keep no call on the same share waiting, and what such a call changes meanwhile counts.
#[tokio::test(start_paused = true)]
async fn a_forget_that_looks_keeps_nobody_waiting() {
    let world = World::new();
    world.state().mounts_listed = true;
    let engine = world.engine();
    failed(&world, &engine, "a1", "v1").await;
    for late in [true, false] {
        let second = Duration::from_secs(1);
        world.gate.arm(1, Fault::Hold);
        let forgets = {
            let engine = engine.clone();
            let id = id("a1");
            let request = by_root(ForgetRequest {
                id,
                confirmed: true,
            });
            let request = request.until(Some(Instant::now() + second));
            tokio::spawn(async move { engine.forget(request).await })
        };
        world.gate.died().await;
        let waits_at = world.gate.disarm();
        assert_eq!(waits_at.as_deref(), Some("hypervisor.domain Before"));
        if late {
            tokio::time::sleep(2 * second).await;
            world.gate.release();
            assert_eq!(reason(forgets.await.unwrap()), Reason::DeadlinePassed);
            assert_eq!(state(&engine, "a1").await, State::Failed);
            continue;
        }
        let joins = timeout(second / 2, async { connected(&engine, "c2", "v2").await });
        joins.await.expect("it waits for the forget");
        world.gate.release();
        let forgotten = forgets.await.unwrap().unwrap();
        assert_eq!(whats(&forgotten), Vec::<&str>::new(), "c2 has the mount");
    }
    engine.disconnect(by_root(end("c2"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_forget_waits_no_longer_than_its_caller() {
    let world = World::new();
    let engine = world.engine();
    failed(&world, &engine, "a1", "v1").await;
    let other = attach("a2", "v2", smb("v2"));
    let holds = held_at(&world, &engine, other, "backend.survey Before").await;
    let second = Duration::from_secs(1);
    let id = id("a1");
    let request = by_root(ForgetRequest {
        id,
        confirmed: true,
    });
    let request = request.until(Some(Instant::now() + second));
    let late = timeout(2 * second, engine.forget(request)).await;
    assert_eq!(reason(late.expect("it waits on")), Reason::DeadlinePassed);
    world.gate.release();
    holds.await.unwrap().unwrap();
    assert_eq!(state(&engine, "a1").await, State::Failed);
}

/// Another volume of the subsystem is connected after the first look at who holds it.
#[tokio::test(start_paused = true)]
async fn who_comes_while_a_forget_looks_is_counted() {
    let world = World::new();
    let engine = world.engine();
    let request = attach("a1", "v1", nvme("v1"));
    engine.attach(by_root(request)).await.unwrap();
    world.state().guest = Guest::Ignores;
    let pending = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(pending), Reason::UnplugPending);
    world.gate.arm(1, Fault::Hold);
    let forgets = {
        let engine = engine.clone();
        tokio::spawn(async move { forget(&engine, "a1", true).await })
    };
    world.gate.died().await;
    let waits_at = world.gate.disarm();
    assert_eq!(waits_at.as_deref(), Some("hypervisor.domain Before"));
    let request = connect("c2", "v2", nvme("v2"));
    engine.connect(by_root(request)).await.unwrap();
    world.gate.release();
    assert_eq!(reason(forgets.await.unwrap()), Reason::ForgetRefused);
    assert_eq!(world.records().len(), 2);
}
