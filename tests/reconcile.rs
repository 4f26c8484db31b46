//! Rounds of reconcile: what they cost, whom they let pass, and how often they try again.

#![cfg(test)]

mod fakes;
#[path = "reconcile/thousand.rs"]
mod thousand;

use std::time::Duration;

use fakes::{Changes, DOMAIN, Fault, OTHER_DOMAIN, World, attach, by_root, end, iscsi, smb};
use tokio::time::timeout;
use volattach::attach::Engine;
use volattach::libvirt::DomainEvent;
use volattach::model::{PathCount, Reason, State};
use volattach::reconcile;

/// Attaches so many SMB volumes.
async fn attached(engine: &Engine, volumes: std::ops::Range<usize>) {
    for number in volumes {
        let (id, volume) = (format!("a{number}"), format!("v{number}"));
        let request = attach(&id, &volume, smb(&volume));
        engine.attach(by_root(request)).await.unwrap();
    }
}

#[tokio::test]
async fn a_round_looks_once_at_the_host_and_once_at_each_domain() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, 0..6).await;
    for other in ["a1", "a3", "a5"] {
        let to = |domain: &mut volattach::model::Domain| domain.uuid = OTHER_DOMAIN;
        world.change(other, |record| record.domain.as_mut().map(to).unwrap());
    }
    let counted = || {
        let mut state = world.state();
        state.domains_asked.sort();
        let asked = std::mem::take(&mut state.domains_asked);
        (std::mem::take(&mut state.looks), asked)
    };
    counted();
    world.state().asked_for_callers = 0;
    reconcile::once(&engine).await;
    let mut domains = vec![(DOMAIN, 3), (OTHER_DOMAIN, 3)];
    domains.sort();
    assert_eq!(counted(), (vec![6], domains.clone()));
    // A record to act on is looked at anew, by itself.
    world.state().disks.remove("ua-volattach-a0");
    reconcile::once(&engine).await;
    domains.push((DOMAIN, 1));
    domains.sort();
    assert_eq!(counted(), (vec![6], domains));
    assert_eq!(world.state().asked_for_callers, 0, "callers go first");
    let records = world.records();
    let lost = records.iter().filter_map(|record| record.course.error());
    assert_eq!(lost.filter(|it| it.reason == Reason::DiskLost).count(), 1);
}

#[tokio::test]
async fn a_caller_is_served_while_a_round_waits() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, 0..2).await;
    // Two finds, then the look at the domain.
    world.gate.arm(2, Fault::Hold);
    let round = tokio::spawn({
        let engine = engine.clone();
        async move { reconcile::once(&engine).await }
    });
    world.gate.died().await;
    attached(&engine, 2..3).await;
    engine.detach(by_root(end("a0"))).await.unwrap();
    assert!(!round.is_finished());
    let held = world.gate.disarm();
    assert_eq!(held.as_deref(), Some("hypervisor.observe Before"));
    world.gate.release();
    round.await.unwrap();
    // What the round saw of a0 is old: nothing was done about it.
    assert_eq!(world.records().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn news_of_everything_during_a_round_is_one_more_round() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, 0..6).await;
    // Six finds, then the look at the domain.
    world.gate.arm(6, Fault::Hold);
    let reconciling = tokio::spawn({
        let engine = engine.clone();
        async move { reconcile::run(&engine).await }
    });
    world.gate.died().await;
    let held = world.gate.disarm();
    assert_eq!(held.as_deref(), Some("hypervisor.observe Before"));
    world.report(DomainEvent::Missed);
    // The clock is paused: it passes when nobody has anything else to do.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.state().domains_asked, []);
    world.gate.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.state().domains_asked, [(DOMAIN, 6), (DOMAIN, 6)]);
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_fails_is_tried_less_and_less() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, 0..1).await;
    world.state().flush_fails = true;
    engine.detach(by_root(end("a0"))).await.unwrap_err();
    world.state().releases.clear();
    let reconciling = tokio::spawn({
        let engine = engine.clone();
        async move { reconcile::run(&engine).await }
    });
    tokio::time::sleep(Duration::from_secs(30 * 60)).await;
    // At the start, and after 1, 3, 7, 15 and 23 minutes.
    assert_eq!(world.state().releases.len(), 6);
    world.state().flush_fails = false;
    tokio::time::sleep(Duration::from_secs(8 * 60)).await;
    assert!(world.records().is_empty());
    engine.drain().await;
    reconciling.await.unwrap();
}

const ONE: PathCount = PathCount {
    working: 1,
    planned: 2,
};
const BOTH: PathCount = PathCount {
    working: 2,
    planned: 2,
};

#[tokio::test(start_paused = true)]
async fn a_path_that_is_lost_or_was_down_is_shown_and_made_once_its_portal_answers() {
    let world = World::new();
    let engine = world.engine();
    let portal = "[fd00::1]:3260";
    for down_before in [true, false] {
        let mut changes = Changes::of(&engine).await;
        world.state().down.clear();
        let down = || world.state().down.insert(portal.to_owned(), false);
        down_before.then(down);
        let request = attach("a", "v1", iscsi("v1"));
        let attached = engine.attach(by_root(request)).await.unwrap();
        assert_eq!(attached.paths, Some(if down_before { ONE } else { BOTH }));
        down();
        // The portal is silent: the attachment works by the other path, and says so.
        reconcile::once(&engine).await;
        let shown = |attachment: volattach::model::Attachment| {
            (
                attachment.paths.unwrap(),
                attachment.state,
                attachment.error,
            )
        };
        let record = &world.records()[0];
        let now = shown(record.to_attachment());
        assert_eq!(now, (ONE, State::Attached, None));
        *world.state().down.get_mut(portal).unwrap() = true;
        reconcile::once(&engine).await;
        let now = shown(world.records()[0].to_attachment());
        assert_eq!(now, (BOTH, State::Attached, None));
        let mut told = Vec::new();
        while let Ok(change) = timeout(Duration::from_secs(1), changes.next()).await {
            told.extend(change.paths);
        }
        told.dedup();
        let expected = [&[BOTH][..], &[ONE, BOTH]][..].concat();
        assert_eq!(
            told,
            expected[usize::from(down_before)..],
            "watchers see it"
        );
        engine.detach(by_root(end("a"))).await.unwrap();
    }
}

#[tokio::test]
async fn a_repeated_request_makes_missing_paths_and_is_answered_without_them_too() {
    let world = World::new();
    let engine = world.engine();
    let portal = "[fd00::1]:3260".to_owned();
    world.state().down.insert(portal.clone(), false);
    for (answers, paths) in [(false, ONE), (false, ONE), (true, BOTH), (true, BOTH)] {
        if let Some(down) = world.state().down.get_mut(&portal) {
            *down = answers;
        }
        let request = attach("a", "v1", iscsi("v1"));
        let attached = engine.attach(by_root(request)).await.unwrap();
        assert_eq!(
            (attached.state, attached.paths),
            (State::Attached, Some(paths))
        );
        assert_eq!(world.records()[0].to_attachment().paths, Some(paths));
    }
}
