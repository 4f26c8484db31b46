//! Guests that are paused for failed requests go on by themselves once their volumes can be read, and no others do.

use volattach::libvirt::{DomainEnd, DomainEvent};
use volattach::model::Scope;

use super::life::Watched;
use super::*;

const ALIAS: &str = "ua-volattach-a1";

/// Longer than any pause between two tries.
const LONG: Duration = Duration::from_secs(90);

/// The attachment's error, as the record has it.
fn error(world: &World) -> Option<String> {
    let records = world.records();
    let error = records[0].course.error();
    error.map(|error| error.message.clone())
}

/// The volume can be read no more, and the guest is paused for it.
async fn stopped() -> Watched {
    let mut watched = Watched::new(Scope::Live).await;
    fail(&watched);
    watched.world.stop_io(ALIAS);
    let told = watched.change("paused").await;
    let error = told.error.unwrap();
    assert_eq!(
        (told.state, &error.reason),
        (State::Attached, &Reason::IoStopped.into())
    );
    assert!(error.message.contains("volume v1"), "{}", error.message);
    watched
}

fn fail(watched: &Watched) {
    let claims = watched.world.records()[0].host.plan.claims.clone();
    let mut state = watched.world.state();
    state.stale.extend(claims.iter().map(ToString::to_string));
}

fn mend(watched: &Watched) {
    watched.world.state().stale.clear();
}

#[tokio::test(start_paused = true)]
async fn a_guest_goes_on_once_its_volume_can_be_read() {
    let mut watched = stopped().await;
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 0);
    mend(&watched);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(watched.world.state().resumes, 1);
    let runs = watched.change("goes on").await;
    assert_eq!((runs.state, runs.error), (State::Attached, None));
    assert_eq!(watched.engine.figures().resumed.get(), 1);
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_somebody_resumes_is_left_to_that() {
    let mut watched = stopped().await;
    watched.world.resume();
    let runs = watched.change("goes on").await;
    assert_eq!(runs.error, None);
    mend(&watched);
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 0);
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_another_disk_keeps_paused_is_not_resumed() {
    let watched = stopped().await;
    watched
        .world
        .state()
        .io_failed
        .insert("virtio-disk0".to_owned());
    mend(&watched);
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 0);
    watched.world.state().io_failed.remove("virtio-disk0");
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 1);
    watched.end().await;
}

/// No event tells: the first look of the next daemon does.
#[tokio::test(start_paused = true)]
async fn a_guest_that_was_paused_before_the_daemon_started_goes_on() {
    let watched = stopped().await;
    let world = watched.world.clone();
    watched.end().await;
    let engine = world.engine();
    let reconciling = {
        let engine = engine.clone();
        tokio::spawn(async move { reconcile::run(&engine).await })
    };
    tokio::time::sleep(LONG).await;
    assert_eq!(world.state().resumes, 0);
    assert!(error(&world).is_some());
    world.state().stale.clear();
    tokio::time::sleep(LONG).await;
    assert_eq!(world.state().resumes, 1);
    assert_eq!(error(&world), None);
    engine.drain().await;
    reconciling.await.unwrap();
}

/// Its guest cannot release the disk before it goes on.
#[tokio::test(start_paused = true)]
async fn a_guest_whose_disk_is_being_detached_goes_on() {
    let watched = stopped().await;
    watched.world.state().guest = Guest::Ignores;
    let detached = watched.engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(detached), Reason::UnplugPending);
    mend(&watched);
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 1);
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_whose_disk_is_being_detached_goes_on_after_a_restart() {
    let watched = stopped().await;
    watched.world.state().guest = Guest::Ignores;
    let detached = watched.engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(detached), Reason::UnplugPending);
    let world = watched.world.clone();
    watched.end().await;
    world.state().stale.clear();
    let engine = world.engine();
    let reconciling = {
        let engine = engine.clone();
        tokio::spawn(async move { reconcile::run(&engine).await })
    };
    tokio::time::sleep(LONG).await;
    assert_eq!(world.state().resumes, 1);
    engine.drain().await;
    reconciling.await.unwrap();
}

/// As after a restart: no event has reported which disks failed.
#[tokio::test(start_paused = true)]
async fn an_attachment_without_its_disk_keeps_no_guest_paused() {
    let watched = stopped().await;
    let other = attach("a2", "v2", nfs("v2"));
    watched.engine.attach(by_root(other)).await.unwrap();
    {
        let mut state = watched.world.state();
        state.disks.remove("ua-volattach-a2");
        state.inspect_fails = Some(Reason::ServerTimeout);
        state.io_unreported = true;
        state.stale.clear();
    }
    watched.world.report(DomainEvent::Missed);
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 1);
    watched.end().await;
}

/// More than reconcile may have at work for one server at a time.
#[tokio::test(start_paused = true)]
async fn many_failed_disks_of_one_server_are_no_hindrance() {
    let watched = stopped().await;
    watched.world.state().work.per_server = 1;
    for number in 2..=12 {
        let (id, volume) = (format!("a{number}"), format!("v{number}"));
        mend(&watched);
        let request = attach(&id, &volume, smb(&volume));
        watched.engine.attach(by_root(request)).await.unwrap();
        watched.world.stop_io(&format!("ua-volattach-{id}"));
    }
    tokio::time::sleep(LONG).await;
    assert!(watched.world.state().io_failed.is_empty());
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_attach_still_reports_that_the_guest_is_paused() {
    let mut watched = stopped().await;
    let again = attach("a1", "v1", smb("v1"));
    let again = watched.engine.attach(by_root(again)).await.unwrap();
    assert_eq!(again.error.unwrap().reason, Reason::IoStopped);
    watched.nothing().await;
    watched.end().await;
}

/// Else nobody would know that its guest refused.
#[tokio::test(start_paused = true)]
async fn the_error_of_a_refused_detach_outlives_a_pause() {
    let watched = Watched::new(Scope::Live).await;
    watched.world.state().guest = Guest::Refuses;
    let detached = watched.engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(detached), Reason::UnplugRefused);
    let refused = error(&watched.world);
    watched.world.stop_io(ALIAS);
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 1);
    assert_eq!(error(&watched.world), refused);
    watched.end().await;
}

/// Its attachments are of the persistent configuration alone, with which it has started since.
#[tokio::test(start_paused = true)]
async fn a_guest_that_started_with_the_disk_in_its_configuration_goes_on() {
    let mut watched = Watched::new(Scope::Config).await;
    watched.world.stop(DomainEnd::ShutOff);
    watched.world.start();
    fail(&watched);
    watched.world.stop_io(ALIAS);
    let told = watched.change("paused").await;
    assert_eq!(told.error.unwrap().reason, Reason::IoStopped);
    mend(&watched);
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().resumes, 1);
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_domain_without_attachments_is_left_alone() {
    let watched = Watched::new(Scope::Live).await;
    watched.engine.detach(by_root(end("a1"))).await.unwrap();
    watched.world.stop_io("virtio-disk0");
    let asked = watched.world.state().domains_asked.len();
    tokio::time::sleep(LONG).await;
    assert_eq!(watched.world.state().domains_asked.len(), asked);
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_stops_again_at_once_is_resumed_ever_more_rarely() {
    let mut watched = stopped().await;
    mend(&watched);
    let mut resumed = Vec::new();
    for times in 1..=5 {
        let began = tokio::time::Instant::now();
        while watched.world.state().resumes < times {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        resumed.push(began.elapsed().as_secs());
        watched.world.stop_io(ALIAS);
    }
    assert!(resumed.is_sorted() && resumed[4] >= 8, "{resumed:?}");
    watched.world.report(DomainEvent::Missed);
    watched.change("told").await;
    watched.end().await;
}
