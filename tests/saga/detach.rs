//! Detaches that their guests refuse, lose or answer late, and detaches that are cancelled.

use std::time::SystemTime;

use volattach::model::{RecordedReason, Scope};

use super::*;
use crate::fakes::by_root;

/// Reconciles from time to time, as the daemon does.
fn reconciling(engine: &Engine) -> JoinHandle<()> {
    let engine = engine.clone();
    tokio::spawn(async move { reconcile::run(&engine).await })
}

/// Lets that many seconds pass. The clock is the test's own.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn pending(engine: &Engine, id: &str) {
    let detach = engine.detach(by_root(end(id))).await;
    assert_eq!(reason(detach), Reason::UnplugPending);
}

async fn cancel(engine: &Engine, id: &str) -> Result<Attachment, Error> {
    engine.cancel_detach(by_root(self::id(id))).await
}

fn asked(world: &World) -> usize {
    world.state().unplugs_asked
}

async fn told(engine: &Engine, id: &str) -> Option<Reason> {
    let shown = engine.get(by_root(self::id(id))).await.unwrap();
    shown.error.map(|error| match error.reason {
        RecordedReason::Known(reason) => reason,
        RecordedReason::Later(spelled) => panic!("{spelled}"),
    })
}

#[tokio::test(start_paused = true)]
async fn a_refused_detach_is_over_until_the_next_call() {
    for scope in [Scope::Live, Scope::LiveAndConfig] {
        let world = World::new();
        let engine = world.engine();
        let mut request = attach("a1", "v1", smb("v1"));
        request.disk.scope = scope;
        engine.attach(by_root(request)).await.unwrap();
        world.state().guest = Guest::Refuses;
        let refused = engine.detach(by_root(end("a1"))).await;
        assert_eq!(reason(refused), Reason::UnplugRefused);
        let reconciling = reconciling(&engine);
        pass(600).await;
        assert_eq!(asked(&world), 1, "asked by nobody");
        assert_eq!(state(&engine, "a1").await, State::Attached);
        // Of both configurations: the request had removed the disk from the persistent one.
        assert_eq!(told(&engine, "a1").await, Some(Reason::UnplugRefused));
        let again = engine.detach(by_root(end("a1"))).await;
        assert_eq!(reason(again), Reason::UnplugRefused);
        assert_eq!(asked(&world), 2);
        world.state().guest = Guest::Obeys;
        engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&world);
        engine.drain().await;
        reconciling.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_comes_late_ends_the_detach_too() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    pending(&engine, "a1").await;
    world.state().guest = Guest::Refuses;
    reconcile::once(&engine).await;
    assert_eq!(state(&engine, "a1").await, State::Attached);
    assert_eq!(told(&engine, "a1").await, Some(Reason::UnplugRefused));
    assert_eq!(asked(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_is_repeated_after_growing_pauses() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    pending(&engine, "a1").await;
    let first = reconciling(&engine);
    let mut now = 0;
    for (second, expected) in [(29, 1), (40, 2), (85, 2), (105, 3)] {
        pass(second - now).await;
        now = second;
        assert_eq!(asked(&world), expected, "after {second} s");
    }
    assert_eq!(world.records()[0].course.unplug_requests(), 3);
    // A restart begins neither the count nor the pauses anew.
    engine.drain().await;
    first.await.unwrap();
    let engine = world.engine();
    let second = reconciling(&engine);
    pass(115).await;
    assert_eq!(asked(&world), 3);
    pass(20).await;
    assert_eq!(asked(&world), 4);
    assert_eq!(state(&engine, "a1").await, State::Detaching);
    world.state().guest = Guest::Obeys;
    pass(215).await;
    assert_eq!(asked(&world), 4);
    pass(35).await;
    nothing_left(&world);
    engine.drain().await;
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_long_asks_again_itself() {
    let world = World::new();
    let engine = world.engine_with(Duration::from_secs(600));
    attached(&engine, "a1", "v1").await;
    let detach = unanswered_detach(&world, &engine).await;
    pass(20).await;
    world.state().guest = Guest::Obeys;
    detach.await.unwrap().unwrap();
    assert_eq!(asked(&world), 2);
    nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_busy_guest_is_asked_again_after_some_seconds() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Busy;
    pending(&engine, "a1").await;
    assert_eq!(state(&engine, "a1").await, State::Detaching);
    assert_eq!(world.records()[0].course.unplug_requests(), 0);
    let reconciling = reconciling(&engine);
    pass(6).await;
    assert_eq!(asked(&world), 1);
    world.state().guest = Guest::Obeys;
    pass(10).await;
    nothing_left(&world);
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_silences_no_request() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    pending(&engine, "a1").await;
    drop(engine);
    let year = Duration::from_secs(365 * 24 * 3600);
    world.set_time("a1", "unplug_requested", SystemTime::now() + year);
    let engine = world.engine();
    let reconciling = reconciling(&engine);
    pass(25).await;
    // Nobody knows how long ago it was: another request could cancel it.
    pending(&engine, "a1").await;
    assert_eq!(asked(&world), 1);
    pass(15).await;
    assert_eq!(asked(&world), 2);
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_a_failed_attach_is_asked_for_after_pauses_and_by_each_call() {
    for at in 0.. {
        let world = World::new();
        let engine = world.engine();
        world.state().guest = Guest::Refuses;
        world.gate.arm(at, Fault::Fail);
        let failed = engine.attach(by_root(attach("a1", "v1", smb("v1")))).await;
        match world.gate.disarm().as_deref() {
            Some("hypervisor.plug After") => {}
            Some(_) => continue,
            None => panic!("nothing fails after the plug"),
        }
        assert_eq!(reason(failed), Reason::UndoFailed);
        let reconciling = reconciling(&engine);
        pass(25).await;
        assert_eq!(asked(&world), 1);
        pass(15).await;
        assert_eq!(asked(&world), 2);
        assert_eq!(state(&engine, "a1").await, State::Detaching);
        assert_eq!(reason(cancel(&engine, "a1").await), Reason::DiskLost);
        let again = engine.detach(by_root(end("a1"))).await;
        assert_eq!(reason(again), Reason::UnplugRefused);
        assert_eq!(
            asked(&world),
            3,
            "it has answered, so asking cancels nothing"
        );
        world.state().guest = Guest::Obeys;
        pass(130).await;
        nothing_left(&world);
        engine.drain().await;
        reconciling.await.unwrap();
        return;
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_job_refuses_a_detach_and_a_busy_domain_delays_it() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().unplug_fails = Some(Reason::BlockJobActive);
    let refused = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(refused), Reason::BlockJobActive);
    reconcile::once(&engine).await;
    assert_eq!(asked(&world), 1);
    assert_eq!(state(&engine, "a1").await, State::Attached);
    assert_eq!(told(&engine, "a1").await, Some(Reason::BlockJobActive));

    world.state().unplug_fails = Some(Reason::OperationInProgress);
    let later = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(later), Reason::OperationInProgress);
    assert_eq!(state(&engine, "a1").await, State::Detaching);
    reconcile::once(&engine).await;
    nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_detach_leaves_the_attachment_as_it_was() {
    for scope in [Scope::Live, Scope::LiveAndConfig] {
        let world = World::new();
        let engine = world.engine();
        let mut request = attach("a1", "v1", smb("v1"));
        request.disk.scope = scope;
        let before = engine.attach(by_root(request)).await.unwrap();
        world.state().guest = Guest::Ignores;
        pending(&engine, "a1").await;
        let kept = cancel(&engine, "a1").await.unwrap();
        assert_eq!((kept.state, kept.error), (State::Attached, None));
        assert_eq!(kept.target, before.target);
        let reconciling = reconciling(&engine);
        pass(600).await;
        assert_eq!(asked(&world), 1);
        assert_eq!(told(&engine, "a1").await, None);
        // A repeated call has the same answer.
        assert_eq!(cancel(&engine, "a1").await.unwrap().state, State::Attached);
        world.state().guest = Guest::Obeys;
        engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&world);
        engine.drain().await;
        reconciling.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_the_call_that_waits_for_the_guest() {
    let world = World::new();
    let engine = world.engine_with(Duration::from_secs(600));
    attached(&engine, "a1", "v1").await;
    let detach = unanswered_detach(&world, &engine).await;
    let begun = tokio::time::Instant::now();
    let kept = cancel(&engine, "a1").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!((kept.state, kept.error), (State::Attached, None));
    assert_eq!(reason(detach.await.unwrap()), Reason::DetachCancelled);
}

#[tokio::test]
async fn a_cancel_without_a_disk_says_so_and_the_detach_goes_on() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    pending(&engine, "a1").await;
    world.state().disks.clear();
    assert_eq!(reason(cancel(&engine, "a1").await), Reason::DiskLost);
    nothing_left(&world);

    world.state().guest = Guest::Obeys;
    attached(&engine, "a1", "v1").await;
    world.state().disconnect_fails = Some(Reason::UnmountFailed);
    let failed = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(failed), Reason::UnmountFailed);
    assert_eq!(reason(cancel(&engine, "a1").await), Reason::DiskLost);
    nothing_left(&world);

    let nobody = cancel(&engine, "a1").await;
    assert_eq!(reason(nobody), Reason::AttachmentNotFound);
    connected(&engine, "c1", "v1").await;
    let connection = cancel(&engine, "c1").await;
    assert_eq!(reason(connection), Reason::AttachmentKind);
}

#[tokio::test]
async fn a_guest_that_lets_go_after_the_cancel_has_lost_its_disk() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    pending(&engine, "a1").await;
    cancel(&engine, "a1").await.unwrap();
    world.let_go("ua-volattach-a1");
    reconcile::once(&engine).await;
    assert_eq!(told(&engine, "a1").await, Some(Reason::DiskLost));
    assert_eq!(state(&engine, "a1").await, State::Lost);
    let again = attached(&engine, "a1", "v1").await;
    assert_eq!((again.state, again.error), (State::Attached, None));
}

#[tokio::test]
async fn a_detach_that_libvirts_absence_stopped_can_be_cancelled() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().hypervisor_down = true;
    engine.detach(by_root(end("a1"))).await.unwrap_err();
    let early = cancel(&engine, "a1").await;
    assert_eq!(reason(early), Reason::HypervisorUnavailable);
    world.state().hypervisor_down = false;
    let kept = cancel(&engine, "a1").await.unwrap();
    assert_eq!((kept.state, kept.error), (State::Attached, None));
    reconcile::once(&engine).await;
    assert_eq!(asked(&world), 0);
}
