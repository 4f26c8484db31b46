//! The calls of the engine against a fake host: repeated, conflicting and concurrent ones, guests that do not let go,
//! what is lost and made again.

#![cfg(test)]

#[path = "saga/detach.rs"]
mod detach;
#[path = "saga/expected.rs"]
mod expected;
mod fakes;
#[path = "saga/figures.rs"]
mod figures;
#[path = "saga/forget.rs"]
mod forget;
#[path = "saga/head_start.rs"]
mod head_start;
#[path = "saga/identity.rs"]
mod identity;
#[path = "saga/last_look.rs"]
mod last_look;
#[path = "saga/life.rs"]
mod life;
#[path = "saga/lost.rs"]
mod lost;
#[path = "saga/orphans.rs"]
mod orphans;
#[path = "saga/permissions.rs"]
mod permissions;
#[path = "saga/quarantine.rs"]
mod quarantine;
#[path = "saga/reload.rs"]
mod reload;
#[path = "saga/stopped.rs"]
mod stopped;
#[path = "saga/subsystem.rs"]
mod subsystem;
#[path = "saga/unreadable.rs"]
mod unreadable;
#[path = "saga/watch.rs"]
mod watch;
#[path = "saga/work.rs"]
mod work;

use std::time::Duration;

use tokio::task::JoinHandle;

use fakes::{
    DOMAIN, Fault, Guest, World, attach, by_root, connect, end, iscsi, local, nfs, nvme, smb,
};
use volattach::attach::{Engine, Error, Filter, Told, WatchRequest};
use volattach::connection::ConnectionInfo;
use volattach::model::{Access, AccessSource, Attachment, AttachmentId, Dialect, Reason, State};
use volattach::reconcile;

fn id(id: &str) -> AttachmentId {
    id.parse().unwrap()
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> Reason {
    result.unwrap_err().reason()
}

fn nothing_left(world: &World) {
    let state = world.state();
    assert!(state.connections.is_empty(), "{:?}", state.connections);
    assert!(state.disks.is_empty(), "{:?}", state.disks);
    assert!(state.config.is_empty(), "{:?}", state.config);
    assert!(state.records.is_empty(), "{:?}", state.records.keys());
}

/// Attaches an SMB volume.
async fn attached(engine: &Engine, id: &str, volume: &str) -> Attachment {
    let request = attach(id, volume, smb(volume));
    engine.attach(by_root(request)).await.unwrap()
}

/// Connects an SMB volume.
async fn connected(engine: &Engine, id: &str, volume: &str) -> Attachment {
    let request = connect(id, volume, smb(volume));
    engine.connect(by_root(request)).await.unwrap()
}

async fn state(engine: &Engine, id: &str) -> State {
    engine.get(by_root(self::id(id))).await.unwrap().state
}

/// Begins a detach that the guest does not answer.
async fn unanswered_detach(world: &World, engine: &Engine) -> JoinHandle<Result<(), Error>> {
    world.state().guest = Guest::Ignores;
    let detach = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.detach(by_root(end("a1"))).await })
    };
    until("the guest is asked", async || {
        world.state().unplugs_asked == 1
    })
    .await;
    detach
}

/// Waits for a condition that the engine brings about in the background.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn the_same_request_twice_is_one_attachment() {
    let world = World::new();
    let engine = world.engine();
    let first = attached(&engine, "a1", "v1").await;
    let second = attached(&engine, "a1", "v1").await;
    assert_eq!(first, second);
    assert_eq!(
        (first.state, first.target.as_deref()),
        (State::Attached, Some("vda"))
    );
    engine.detach(by_root(end("a1"))).await.unwrap();
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn another_request_under_the_same_id_conflicts() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    let mut read_only = attach("a1", "v1", smb("v1"));
    read_only.access = Some(Access::ReadOnly);
    let mut password = attach("a1", "v1", smb("v1"));
    let volattach::connection::Protocol::Smb(volume) = &mut password.info.protocol else {
        unreachable!("smb() is SMB")
    };
    volume.credentials = volattach::connection::SmbCredentials::Guest;
    for other in [
        read_only,
        password,
        attach("a1", "v2", smb("v1")),
        attach("a1", "v1", smb("v2")),
    ] {
        assert_eq!(
            reason(engine.attach(by_root(other)).await),
            Reason::AttachmentConflict
        );
    }
    let host_only = engine
        .connect(by_root(connect("a1", "v1", smb("v1"))))
        .await;
    assert_eq!(reason(host_only), Reason::AttachmentConflict);
    assert_eq!(
        reason(engine.disconnect(by_root(end("a1"))).await),
        Reason::AttachmentKind
    );
}

#[tokio::test]
async fn a_call_is_not_turned_away_while_the_attachment_is_merely_looked_at() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.gate.arm(1, Fault::Hold);
    let look = {
        let engine = engine.clone();
        tokio::spawn(async move { reconcile::once(&engine).await })
    };
    world.gate.died().await;
    let waits_at = world.gate.disarm();
    assert_eq!(waits_at.as_deref(), Some("hypervisor.observe Before"));
    engine.detach(by_root(end("a1"))).await.unwrap();
    // What it sees now is of a record that is no more.
    world.gate.release();
    look.await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn a_second_call_on_the_same_attachment_is_turned_away() {
    let world = World::new();
    let engine = world.engine_with(Duration::from_secs(600));
    attached(&engine, "a1", "v1").await;
    let detach = unanswered_detach(&world, &engine).await;
    assert_eq!(
        reason(engine.detach(by_root(end("a1"))).await),
        Reason::OperationInProgress
    );
    let again = engine.attach(by_root(attach("a1", "v1", smb("v1")))).await;
    assert_eq!(reason(again), Reason::OperationInProgress);
    world.let_go("ua-volattach-a1");
    detach.await.unwrap().unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn a_targets_volume_is_not_shared_by_a_writer_and_a_reader() {
    let world = World::new();
    let engine = world.engine();
    let shareable = |id: &str, info, access| {
        let mut request = connect(id, "v1", info);
        request.info.common.multiattach = true;
        request.access = Some(access);
        by_root(request)
    };
    use Access::{ReadOnly, ReadWrite};
    let first = shareable("a1", nvme("v1"), ReadWrite);
    engine.connect(first).await.unwrap();
    let reader = engine.connect(shareable("a2", nvme("v1"), ReadOnly)).await;
    assert_eq!(reason(reader), Reason::VolumeInUse);
    let writer = shareable("a2", nvme("v1"), ReadWrite);
    engine.connect(writer).await.unwrap();
    // Two mounts of a share may differ.
    for (id, access) in [("b1", ReadWrite), ("b2", ReadOnly)] {
        let mut request = connect(id, "v2", smb("v2"));
        request.info.common.multiattach = true;
        request.access = Some(access);
        engine.connect(by_root(request)).await.unwrap();
    }
    for id in ["a1", "a2", "b1", "b2"] {
        engine.disconnect(by_root(end(id))).await.unwrap();
    }
    nothing_left(&world);
}

#[tokio::test]
async fn a_volume_is_shared_by_readers_beside_one_writer_or_by_consent() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    let writer = engine
        .connect(by_root(connect("a2", "v1", smb("v1"))))
        .await;
    assert_eq!(reason(writer), Reason::VolumeInUse);
    let mut reader = connect("a2", "v1", smb("v1"));
    reader.access = Some(Access::ReadOnly);
    engine.connect(by_root(reader.clone())).await.unwrap();
    engine.detach(by_root(end("a1"))).await.unwrap();
    reader.id = id("a3");
    engine.connect(by_root(reader)).await.unwrap();
    // The second knew of no writer.
    let writer = engine
        .connect(by_root(connect("a4", "v1", smb("v1"))))
        .await;
    assert_eq!(reason(writer), Reason::VolumeInUse);
    for shared in ["a4", "a5"] {
        let mut request = connect(shared, "v2", smb("v2"));
        request.info.common.multiattach = true;
        engine.connect(by_root(request)).await.unwrap();
    }
}

#[tokio::test]
async fn one_mount_serves_two_volumes_and_goes_with_the_last() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    attached(&engine, "a2", "v2").await;
    assert_eq!(world.state().connections.len(), 1);
    let mut read_only = attach("a3", "v3", smb("v3"));
    read_only.access = Some(Access::ReadOnly);
    engine.attach(by_root(read_only)).await.unwrap();
    assert_eq!(
        world.state().connections.len(),
        2,
        "read-only is another mount"
    );
    engine.detach(by_root(end("a1"))).await.unwrap();
    assert_eq!(world.state().connections.len(), 2);
    engine.detach(by_root(end("a2"))).await.unwrap();
    assert_eq!(world.state().connections.len(), 1);
    engine.detach(by_root(end("a3"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_users_at_once_one_mounts_and_one_unmounts() {
    let world = World::new();
    let engine = world.engine();
    for round in 0..20 {
        // The fake backend fails the test where a share is mounted over a mount or taken from under a disk.
        let calls = (0..8).map(|n| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let (id, volume) = (format!("a{n}"), format!("v{n}"));
                attached(&engine, &id, &volume).await;
                engine.detach(by_root(end(&id))).await.unwrap();
            })
        });
        for call in futures::future::join_all(calls).await {
            call.unwrap();
        }
        nothing_left(&world);
        assert!(world.state().unplugs_asked == 8 * (round + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_let_go_is_not_asked_again_too_soon_and_completes_by_itself() {
    let world = World::new();
    let engine = world.engine();
    let reconciling = {
        let engine = engine.clone();
        tokio::spawn(async move { reconcile::run(&engine).await })
    };
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    assert_eq!(
        reason(engine.detach(by_root(end("a1"))).await),
        Reason::UnplugPending
    );
    assert_eq!(state(&engine, "a1").await, State::Detaching);
    assert_eq!(
        reason(engine.detach(by_root(end("a1"))).await),
        Reason::UnplugPending
    );
    assert_eq!(world.state().unplugs_asked, 1, "asked again too soon");
    assert!(
        !world.state().connections.is_empty(),
        "taken from under the disk"
    );
    let shown = engine.get(by_root(id("a1"))).await.unwrap();
    assert_eq!(shown.error.unwrap().reason, Reason::UnplugPending);

    let all = WatchRequest::default();
    let mut changes = engine.watch(by_root(all)).await.unwrap();
    world.let_go("ua-volattach-a1");
    let gone = |told: Told| {
        told.event
            .is_some_and(|it| it.attachment.state == State::Gone)
    };
    while !gone(changes.next().await.unwrap()) {}
    nothing_left(&world);
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test]
async fn a_guest_that_refuses_keeps_its_disk_and_may_be_asked_again() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Refuses;
    assert_eq!(
        reason(engine.detach(by_root(end("a1"))).await),
        Reason::UnplugRefused
    );
    world.state().guest = Guest::Obeys;
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn a_detach_that_a_restart_cut_short_goes_on() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    assert_eq!(
        reason(engine.detach(by_root(end("a1"))).await),
        Reason::UnplugPending
    );
    drop(engine);
    world.let_go("ua-volattach-a1");
    let engine = world.engine();
    reconcile::once(&engine).await;
    nothing_left(&world);
}

#[tokio::test]
async fn a_detach_cut_short_after_the_unplug_needs_no_hypervisor_to_go_on() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().disconnect_fails = Some(Reason::ServerUnreachable);
    assert_eq!(
        reason(engine.detach(by_root(end("a1"))).await),
        Reason::ServerUnreachable
    );
    assert_eq!(state(&engine, "a1").await, State::Failed);
    let again = engine.attach(by_root(attach("a1", "v1", smb("v1")))).await;
    assert_eq!(reason(again), Reason::CleanupRequired);
    world.state().hypervisor_down = true;
    let engine = world.engine();
    reconcile::once(&engine).await;
    nothing_left(&world);
}

#[tokio::test]
async fn a_domain_that_is_gone_or_stopped_does_not_keep_its_volume() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    {
        let mut state = world.state();
        state.defined = false;
        state.disks.clear();
    }
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
    let gone = engine.attach(by_root(attach("a1", "v1", smb("v1")))).await;
    assert_eq!(reason(gone), Reason::DomainNotFound);
    {
        let mut state = world.state();
        state.defined = true;
        state.running = false;
    }
    let stopped = engine.attach(by_root(attach("a1", "v1", smb("v1")))).await;
    assert_eq!(reason(stopped), Reason::DomainState);
    nothing_left(&world);
}

#[tokio::test]
async fn a_target_that_was_taken_since_the_look_is_chosen_anew() {
    let world = World::new();
    let engine = world.engine();
    world.state().plug_fails = Some(Reason::TargetInUse);
    attached(&engine, "a1", "v1").await;
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn an_attach_runs_to_its_end_without_its_caller() {
    let world = World::new();
    let engine = world.engine();
    let call = engine.attach(by_root(attach("a1", "v1", local("v1"))));
    let gone = tokio::time::timeout(Duration::ZERO, call).await;
    if gone.is_err() {
        until("attached", async || !world.state().disks.is_empty()).await;
    }
    until("answered", async || {
        engine
            .attach(by_root(attach("a1", "v1", local("v1"))))
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_stopping_daemon_takes_no_work_and_cuts_short_a_wait_for_a_guest() {
    let world = World::new();
    let engine = world.engine_with(Duration::from_secs(3600));
    attached(&engine, "a1", "v1").await;
    let detach = unanswered_detach(&world, &engine).await;
    engine.drain().await;
    assert_eq!(reason(detach.await.unwrap()), Reason::UnplugPending);
    let late = engine.attach(by_root(attach("a2", "v2", smb("v2")))).await;
    assert_eq!(reason(late), Reason::ShuttingDown);
}

#[tokio::test]
async fn any_source_makes_it_read_only_and_the_plan_touches_nothing() {
    let world = World::new();
    let engine = world.engine();
    let mut request = attach("a1", "v1", smb("v1"));
    request.info.common.read_only_by = vec![AccessSource::AccessMode];
    let plan = engine.plan(by_root(request.clone())).await.unwrap();
    assert_eq!(plan.access.access, Access::ReadOnly);
    assert!(plan.disk.xml.contains("<readonly/>"), "{}", plan.disk.xml);
    let names: Vec<_> = plan.steps.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["connect", "inspect", "attach"]);
    nothing_left(&world);
    let attached = engine.attach(by_root(request)).await.unwrap();
    assert_eq!(attached.access.read_only_by, [AccessSource::AccessMode]);
    assert_eq!(attached.domain.unwrap().uuid, DOMAIN);
}

#[tokio::test]
async fn a_guest_that_does_not_answer_keeps_no_news_of_others_waiting() {
    let world = World::new();
    let engine = world.engine_with(Duration::from_secs(600));
    for (attachment, volume) in [("a1", "v1"), ("a2", "v2")] {
        attached(&engine, attachment, volume).await;
    }
    world.state().hypervisor_down = true;
    engine.detach(by_root(end("a1"))).await.unwrap_err();
    {
        let mut state = world.state();
        state.hypervisor_down = false;
        state.guest = Guest::Ignores;
    }
    let reconciling = {
        let engine = engine.clone();
        tokio::spawn(async move { reconcile::run(&engine).await })
    };
    until("the guest is asked for a1", async || {
        world.state().unplugs_asked == 1
    })
    .await;
    world.let_go("ua-volattach-a2");
    until("the loss of a2 is told", async || {
        let shown = engine.get(by_root(id("a2"))).await.unwrap();
        shown
            .error
            .is_some_and(|error| error.reason == Reason::DiskLost)
    })
    .await;
    assert_eq!(state(&engine, "a1").await, State::Detaching);
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn news_of_others_do_not_put_off_the_look_at_everything() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().disconnect_fails = Some(Reason::UnmountFailed);
    engine.detach(by_root(end("a1"))).await.unwrap_err();
    world.state().disconnect_fails = Some(Reason::UnmountFailed);
    let reconciling = {
        let engine = engine.clone();
        tokio::spawn(async move { reconcile::run(&engine).await })
    };
    until("the first look fails", async || {
        world.state().disconnect_fails.is_none()
    })
    .await;
    // Time is the test's own: it passes as soon as nobody has anything else to do.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        world.let_go("of-another");
    }
    nothing_left(&world);
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test]
async fn a_guest_that_was_asked_before_a_crash_is_not_asked_again() {
    let world = World::new();
    let engine = world.engine_with(Duration::from_secs(600));
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    // Its process ends while it waits for the guest: this call goes no further.
    let cut_short = tokio::spawn(async move { engine.detach(by_root(end("a1"))).await });
    until("the journal knows that the guest was asked", async || {
        world.records()[0].course.unplug_requested().is_some()
    })
    .await;
    let engine = world.engine();
    reconcile::once(&engine).await;
    assert_eq!(world.state().unplugs_asked, 1);
    cut_short.abort();
}
