//! Work is counted from its admission to its end, whatever becomes of its caller; and a caller's deadline goes with its call.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use volattach::admission::Admitted;
use volattach::attach::{Engine, Error};
use volattach::connection::{ConnectionInfo, Protocol};
use volattach::model::{Attachment, Reason, State, WorkLimits};
use volattach::reconcile;

use super::identity::held_at;
use super::{attached, id, nothing_left, reason, state, until};
use crate::fakes::{World, attach, by_root, connect, end, nvme, smb};

/// A world with so many turns for each server, and its engine.
fn limited(per_server: u32) -> (World, Engine) {
    let world = World::new();
    let limits = world.state().work;
    world.state().work = WorkLimits {
        per_server,
        ..limits
    };
    let engine = world.engine();
    (world, engine)
}

/// A volume on a share of its own of that server.
fn on(server: &str, name: &str) -> ConnectionInfo {
    let mut info = smb(name);
    let Protocol::Smb(volume) = &mut info.protocol else {
        unreachable!("smb() is SMB")
    };
    volume.host = server.into();
    volume.share = name.into();
    info
}

/// The same request, of a caller who waits so long.
fn within<T>(time: Duration, request: T) -> Admitted<T> {
    by_root(request).until(Some(Instant::now() + time))
}

/// Begins to attach a volume of that server, for a caller who waits for ever.
fn attaching(engine: &Engine, server: &str, id: &str) -> JoinHandle<Result<Attachment, Error>> {
    let engine = engine.clone();
    let request = by_root(attach(id, id, on(server, id)));
    tokio::spawn(async move { engine.attach(request).await })
}

/// Begins so many attaches to a server that does not answer, and waits until they ask the server.
async fn stuck(
    world: &World,
    engine: &Engine,
    count: usize,
) -> Vec<JoinHandle<Result<Attachment, Error>>> {
    world.state().mute.insert("dead".into());
    let calls = (0..count).map(|number| attaching(engine, "dead", &format!("s{number}")));
    let calls = calls.collect();
    until("the server is asked", async || {
        world.state().kept_waiting == count
    })
    .await;
    calls
}

#[tokio::test(start_paused = true)]
async fn callers_who_give_up_leave_no_more_than_the_bound_behind() {
    let (world, engine) = limited(2);
    world.state().mute.insert("dead".into());
    let give_up = Duration::from_millis(50);
    let calls = (0..12).map(|number| {
        let (engine, id) = (engine.clone(), format!("a{number}"));
        let request = within(give_up, attach(&id, &id, on("dead", &id)));
        tokio::spawn(async move { timeout(give_up, engine.attach(request)).await })
    });
    let (mut gone, mut late, mut refused) = (0, 0, 0);
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Err(_) => gone += 1,
            Ok(answer) => match reason(answer) {
                Reason::DeadlinePassed => late += 1,
                Reason::TooMuchWork => refused += 1,
                reason => panic!("{reason}"),
            },
        }
    }
    // Two are at work for callers who are gone; four have waited for their turn.
    assert_eq!((gone, late, refused), (2, 4, 6));
    assert_eq!((world.records().len(), world.state().kept_waiting), (2, 2));
    // However many follow.
    for number in 12..112 {
        let id = format!("a{number}");
        let call = engine.attach(within(give_up, attach(&id, &id, on("dead", &id))));
        let late = timeout(2 * give_up, call).await;
        assert_eq!(reason(late.expect("it waits on")), Reason::DeadlinePassed);
    }
    assert_eq!((world.records().len(), world.state().kept_waiting), (2, 2));
    world.answer();
    until("all is undone", async || world.records().is_empty()).await;
    until("all is forgotten", async || {
        world.state().records.is_empty()
    })
    .await;
    assert_eq!(world.state().plugs, 0);
    nothing_left(&world);
    attached(&engine, "a1", "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_leaves_its_caller_the_calls_to_other_servers() {
    let world = World::new();
    let engine = world.engine();
    world.state().mute.insert("dead".into());
    let calls: Vec<_> = (0..300)
        .map(|number| attaching(&engine, "dead", &format!("s{number}")))
        .collect();
    until("the server is asked", async || {
        world.state().kept_waiting == 32
    })
    .await;
    for number in 0..3 {
        let (id, volume) = (format!("a{number}"), format!("v{number}"));
        let within = Duration::from_secs(1);
        let request = by_root(attach(&id, &volume, on("files", &volume)));
        timeout(within, engine.attach(request))
            .await
            .unwrap()
            .unwrap();
        let detach = engine.detach(by_root(end(&id)));
        timeout(within, detach).await.unwrap().unwrap();
    }
    assert_eq!(world.records().len(), 32);
    world.answer();
    let mut refused = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(attachment) => assert_eq!(attachment.state, State::Attached),
            Err(error) => {
                assert_eq!(error.reason(), Reason::TooMuchWork);
                assert!(error.chain().contains("server dead"), "{}", error.chain());
                refused += 1;
            }
        }
    }
    // 32 ran at once, and 64 waited.
    assert_eq!(refused, 300 - 96);
}

#[tokio::test(start_paused = true)]
async fn an_attach_that_comes_too_late_is_undone_and_its_guest_never_sees_the_disk() {
    let (world, engine) = limited(2);
    world.state().mute.insert("files".into());
    for attaches in [true, false] {
        let asked = world.state().kept_waiting;
        let call = {
            let (engine, second) = (engine.clone(), Duration::from_secs(1));
            tokio::spawn(async move {
                match attaches {
                    true => {
                        engine
                            .attach(within(second, attach("a1", "v1", smb("v1"))))
                            .await
                    }
                    false => {
                        engine
                            .connect(within(second, connect("a1", "v1", smb("v1"))))
                            .await
                    }
                }
            })
        };
        until("the server is asked", async || {
            world.state().kept_waiting > asked
        })
        .await;
        sleep(Duration::from_secs(2)).await;
        assert!(!call.is_finished());
        world.answer();
        let late = call.await.unwrap().unwrap_err();
        assert_eq!(late.reason(), Reason::DeadlinePassed, "{}", late.chain());
        assert_eq!(world.state().plugs, 0);
        nothing_left(&world);
        world.state().mute.insert("files".into());
    }
    // The same request again, with time.
    world.answer();
    attached(&engine, "a1", "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_has_begun_nothing() {
    let (world, engine) = limited(1);
    let request = by_root(attach("a1", "v1", on("dead", "v1")));
    engine.attach(request).await.unwrap();
    let calls = stuck(&world, &engine, 1).await;
    let before = world.state().records.clone();
    let second = Duration::from_secs(1);
    // By its deadline.
    let late = timeout(2 * second, engine.detach(within(second, end("a1")))).await;
    assert_eq!(reason(late.expect("it waits on")), Reason::DeadlinePassed);
    // By a deadline that has passed already, though there is room.
    let late = engine
        .attach(within(Duration::ZERO, attach("a2", "v2", smb("v2"))))
        .await;
    assert_eq!(reason(late), Reason::DeadlinePassed);
    // By its caller, who goes away.
    assert!(
        timeout(second, engine.detach(by_root(end("a1"))))
            .await
            .is_err()
    );
    assert_eq!(world.state().records, before);
    assert_eq!(state(&engine, "a1").await, State::Attached);
    world.answer();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // The line is empty again.
    let detached = timeout(second, engine.detach(by_root(end("a1")))).await;
    detached.expect("it waits on").unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_call_on_the_same_share_gives_up_in_time() {
    let (world, engine) = limited(4);
    let calls = stuck(&world, &engine, 1).await;
    let volume = on("dead", "s0");
    let late = engine.attach(within(Duration::from_secs(1), attach("a1", "v1", volume)));
    let late = timeout(Duration::from_secs(2), late).await;
    assert_eq!(reason(late.unwrap()), Reason::DeadlinePassed);
    assert_eq!((world.records().len(), world.state().kept_waiting), (1, 1));
    world.answer();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_detach_goes_on_past_its_callers_deadline_and_an_attach_past_its_callers_end() {
    let (world, engine) = limited(2);
    let calls = stuck(&world, &engine, 1).await;
    for call in &calls {
        call.abort();
    }
    world.answer();
    until("it is attached", async || {
        let records = world.records();
        records.len() == 1 && records[0].course.state() == State::Attached
    })
    .await;
    world.state().mute.insert("dead".into());
    let asked = world.state().kept_waiting;
    let second = Duration::from_secs(1);
    let call = timeout(second, engine.detach(within(second, end("s0")))).await;
    assert!(call.is_err() && world.state().kept_waiting > asked);
    world.answer();
    until("it is detached", async || world.state().records.is_empty()).await;
    nothing_left(&world);
}

/// How long a detach waits for its guest here.
const HOUR: Duration = Duration::from_secs(3600);

/// Two detaches by the only turn of their server: the first waits for its guest, the second for the turn.
async fn one_turn_for_two_detaches() -> (World, Engine, Detach, Detach) {
    let (world, _) = limited(1);
    let engine = world.engine_with(HOUR);
    attached(&engine, "a1", "v1").await;
    attached(&engine, "a2", "v2").await;
    let first = super::unanswered_detach(&world, &engine).await;
    let second = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.detach(by_root(end("a2"))).await })
    };
    sleep(Duration::from_secs(1)).await;
    (world, engine, first, second)
}

type Detach = JoinHandle<Result<(), Error>>;

#[tokio::test(start_paused = true)]
async fn a_cancel_comes_through_while_all_turns_wait_for_guests() {
    let (world, engine, first, second) = one_turn_for_two_detaches().await;
    assert_eq!(state(&engine, "a2").await, State::Attached, "it waits");
    // The second has the turn of the first, and waits for its guest in turn.
    let cancel = timeout(HOUR / 2, engine.cancel_detach(by_root(id("a1")))).await;
    let cancelled = cancel.expect("it waits on").unwrap();
    assert_eq!(cancelled.state, State::Attached);
    assert_eq!(reason(first.await.unwrap()), Reason::DetachCancelled);
    until("the other guest is asked", async || {
        world.state().unplugs_asked == 2
    })
    .await;
    world.let_go("ua-volattach-a2");
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn a_detach_that_waits_for_its_turn_is_cancelled() {
    let (world, engine, first, second) = one_turn_for_two_detaches().await;
    let cancelled = engine.cancel_detach(by_root(id("a2"))).await.unwrap();
    assert_eq!(cancelled.state, State::Attached);
    assert_eq!(reason(second.await.unwrap()), Reason::DetachCancelled);
    assert!(!first.is_finished());
    world.let_go("ua-volattach-a1");
    first.await.unwrap().unwrap();
    assert_eq!(world.state().unplugs_asked, 1, "no other guest was asked");
    assert_eq!(state(&engine, "a2").await, State::Attached);
}

/// A repeat for an attachment that works is not kept from its answer by the call that holds what a missing path is made of.
#[tokio::test(start_paused = true)]
async fn a_repeat_does_not_wait_for_missing_paths_past_its_deadline() {
    let (world, engine) = limited(4);
    let request = || attach("a1", "v1", nvme("v1"));
    let made = engine.attach(by_root(request())).await.unwrap();
    let other = attach("a2", "v2", nvme("v2"));
    let holds = held_at(&world, &engine, other, "backend.survey Before").await;
    world.state().down.insert("10.0.0.1:4420".to_owned(), true);
    let second = Duration::from_secs(1);
    let again = timeout(2 * second, engine.attach(within(second, request()))).await;
    let again = again.expect("it waits on").unwrap();
    assert_eq!((again.state, again.id), (State::Attached, made.id));
    assert_ne!(again.paths, made.paths, "no path was made");
    world.state().down.clear();
    world.gate.release();
    holds.await.unwrap().unwrap();
}

/// A record without a turn has not failed: the pauses after failures are none of its own.
#[tokio::test(start_paused = true)]
async fn a_record_without_a_turn_is_looked_at_in_each_round() {
    let (world, engine) = limited(1);
    let request = by_root(attach("a1", "v1", on("dead", "v1")));
    engine.attach(request).await.unwrap();
    world.state().disconnect_fails = Some(Reason::UnmountFailed);
    engine.detach(by_root(end("a1"))).await.unwrap_err();
    let calls = stuck(&world, &engine, 1).await;
    let reconciling = tokio::spawn({
        let engine = engine.clone();
        async move { reconcile::run(&engine).await }
    });
    sleep(Duration::from_secs(10 * 60)).await;
    assert_eq!(world.records().len(), 2);
    world.answer();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    sleep(Duration::from_secs(70)).await;
    assert_eq!(
        world.records().len(),
        1,
        "left alone for longer than a round"
    );
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reconcile_leaves_a_dead_server_to_its_callers() {
    let (world, engine) = limited(8);
    for number in 0..6 {
        let id = format!("a{number}");
        let request = by_root(attach(&id, &id, on("dead", &id)));
        engine.attach(request).await.unwrap();
        world.state().disconnect_fails = Some(Reason::UnmountFailed);
        engine.detach(by_root(end(&id))).await.unwrap_err();
    }
    // Of six to settle, two are tried at a time.
    world.state().mute.insert("dead".into());
    let rounds = async || {
        for _ in 0..3 {
            let _ = timeout(Duration::from_secs(60), reconcile::once(&engine)).await;
        }
    };
    rounds().await;
    assert_eq!(world.state().kept_waiting, 2);
    // And the callers have the other turns.
    let calls = (0..7).map(|number| attaching(&engine, "dead", &format!("s{number}")));
    let mut calls: Vec<_> = calls.collect();
    until("callers ask the server", async || {
        world.state().kept_waiting == 8
    })
    .await;
    rounds().await;
    assert_eq!(world.state().kept_waiting, 8, "all turns are taken");
    world.answer();
    for call in calls.drain(..) {
        call.await.unwrap().unwrap();
    }
    reconcile::once(&engine).await;
    assert_eq!(world.records().len(), 7, "all six are gone");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait() {
    let (world, engine) = limited(1);
    let mut calls = stuck(&world, &engine, 1).await;
    let waiting = attaching(&engine, "dead", "a1");
    assert!(
        timeout(Duration::from_secs(1), engine.drain())
            .await
            .is_err()
    );
    let ended = timeout(Duration::from_secs(1), waiting).await;
    let ended = ended.expect("it waits on").unwrap();
    assert_eq!(reason(ended), Reason::ShuttingDown);
    world.answer();
    calls.remove(0).await.unwrap().unwrap();
    engine.drain().await;
}
