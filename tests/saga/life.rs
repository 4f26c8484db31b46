//! What happens to a domain is shown on its attachments at once, long before the next round looks at everything.

use volattach::attach::ExtendRequest;
use volattach::libvirt::{DomainEnd, DomainEvent};
use volattach::model::Scope;

use super::*;
use crate::fakes::Changes;

/// A small part of the time between two rounds; the clock is paused, and passes when nobody has anything to do.
const SOON: Duration = Duration::from_secs(5);

/// A daemon that reconciles, with one attachment.
pub(super) struct Watched {
    pub(super) world: World,
    pub(super) engine: Engine,
    changes: Changes,
    reconciling: JoinHandle<()>,
}

impl Watched {
    /// Attaches `a1` in this scope, and lets the first round end.
    pub(super) async fn new(scope: Scope) -> Self {
        let world = World::new();
        let engine = world.engine();
        let mut request = attach("a1", "v1", smb("v1"));
        request.disk.scope = scope;
        engine.attach(by_root(request)).await.unwrap();
        let reconciling = {
            let engine = engine.clone();
            tokio::spawn(async move { reconcile::run(&engine).await })
        };
        tokio::time::sleep(SOON).await;
        let changes = Changes::of(&engine).await;
        assert_eq!(world.records()[0].course.state(), State::Attached);
        Self {
            world,
            engine,
            changes,
            reconciling,
        }
    }

    /// The next change that watchers see, within a time in which no round begins.
    pub(super) async fn change(&mut self, why: &str) -> Attachment {
        let change = tokio::time::timeout(SOON, self.changes.next()).await;
        change.unwrap_or_else(|_| panic!("not told: {why}"))
    }

    /// The next change, which is a loss for this reason; gives its words.
    async fn loss(&mut self, reason: Reason) -> String {
        let lost = self.change(reason.as_str()).await;
        let error = lost.error.unwrap();
        assert_eq!((lost.state, &error.reason), (State::Lost, &reason.into()));
        error.message
    }

    /// Nothing changes.
    pub(super) async fn nothing(&mut self) {
        let change = tokio::time::timeout(SOON, self.changes.next()).await;
        assert!(change.is_err(), "{change:?}");
    }

    pub(super) async fn end(self) {
        self.engine.drain().await;
        self.reconciling.await.unwrap();
    }
}

fn contains(message: &str, words: &str) {
    assert!(message.contains(words), "{message}: not {words:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_domain_is_told_at_once_in_its_words() {
    for (how, reason, words) in [
        (
            DomainEnd::ShutOff,
            Reason::DiskLost,
            "was shut off, and no longer has the disk",
        ),
        (
            DomainEnd::Crashed,
            Reason::DiskLost,
            "crashed, and no longer has the disk",
        ),
        (
            DomainEnd::Saved,
            Reason::DiskLost,
            "was saved, and no longer has the disk",
        ),
        (
            DomainEnd::Migrated,
            Reason::DomainGone,
            "was migrated to another host, and with it",
        ),
    ] {
        let mut watched = Watched::new(Scope::Live).await;
        watched.world.stop(how);
        let message = watched.loss(reason).await;
        contains(&message, words);
        contains(&message, &format!("web ({DOMAIN}) "));
        watched.nothing().await;
        // The domain is not asked for a disk that it does not have.
        watched.engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&watched.world);
        assert_eq!(watched.world.state().unplugs_asked, 0);
        watched.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_is_gone_is_told_as_such() {
    let mut watched = Watched::new(Scope::Live).await;
    watched.world.stop(DomainEnd::ShutOff);
    watched.loss(Reason::DiskLost).await;
    watched.world.undefine();
    let message = watched.loss(Reason::DomainGone).await;
    contains(&message, "was undefined, and with it");
    let extended = watched.engine.extend(by_root(ExtendRequest {
        id: id("a1"),
        bytes: None,
    }));
    assert_eq!(reason(extended.await), Reason::DomainGone);
    // A transient one is gone as it stops; and of what nobody reported, only the result is known.
    for (end, words) in [
        (
            Some(DomainEnd::Crashed),
            "crashed and no longer exists on this host, and",
        ),
        (None, ") no longer exists on this host, and"),
    ] {
        let mut watched = Watched::new(Scope::Live).await;
        {
            let mut state = watched.world.state();
            state.defined = false;
            state.disks.clear();
            state.end = end;
        }
        watched.world.report(DomainEvent::Stopped {
            domain: DOMAIN,
            end: DomainEnd::Crashed,
        });
        let message = watched.loss(Reason::DomainGone).await;
        contains(&message, words);
        watched.end().await;
    }
    watched.end().await;
}

/// As a saved domain that goes on, or one that comes back from another host.
#[tokio::test(start_paused = true)]
async fn a_disk_that_comes_back_with_its_domain_is_told_at_once() {
    for (end, reason) in [
        (DomainEnd::Saved, Reason::DiskLost),
        (DomainEnd::Migrated, Reason::DomainGone),
    ] {
        let mut watched = Watched::new(Scope::Live).await;
        let disks = watched.world.state().disks.clone();
        watched.world.stop(end);
        watched.loss(reason).await;
        watched.world.state().disks = disks;
        watched.world.start();
        let found = watched.change("found").await;
        assert_eq!((found.state, found.error), (State::Attached, None));
        watched.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_starts_without_the_disk_has_lost_it_by_its_end() {
    let mut watched = Watched::new(Scope::Live).await;
    watched.world.stop(DomainEnd::ShutOff);
    // Before anybody has looked.
    watched.world.start();
    let message = watched.loss(Reason::DiskLost).await;
    contains(
        &message,
        "was shut off and was started again since, and no longer",
    );
    watched.nothing().await;
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_the_persistent_configuration_outlives_the_domains_end() {
    let mut watched = Watched::new(Scope::LiveAndConfig).await;
    watched.world.stop(DomainEnd::ShutOff);
    watched.nothing().await;
    watched.world.start();
    watched.nothing().await;
    watched.world.stop(DomainEnd::ShutOff);
    watched.world.undefine();
    let message = watched.loss(Reason::DomainGone).await;
    contains(&message, "was undefined, and with it");
    watched.end().await;

    // A migration that leaves the configuration here leaves the disk in it.
    let mut watched = Watched::new(Scope::LiveAndConfig).await;
    watched.world.stop(DomainEnd::Migrated);
    watched.nothing().await;
    watched.world.undefine();
    let message = watched.loss(Reason::DomainGone).await;
    contains(&message, "was migrated to another host, and with it");
    watched.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_domain_has_its_new_name_at_once_and_in_errors() {
    let mut watched = Watched::new(Scope::LiveAndConfig).await;
    watched.world.rename("shop");
    let renamed = watched.change("renamed").await;
    assert_eq!((renamed.state, &renamed.error), (State::Attached, &None));
    let name = |attachment: Attachment| attachment.domain.unwrap().name;
    assert_eq!(name(renamed), "shop");
    watched.nothing().await;
    // A name that nobody reported is found by the next look, here with a loss.
    {
        let mut state = watched.world.state();
        state.name = "store".to_owned();
        state.disks.clear();
        state.config.clear();
    }
    let domain = DOMAIN;
    watched.world.report(DomainEvent::Started { domain });
    let lost = watched.change("lost").await;
    contains(&lost.error.clone().unwrap().message, "store (");
    assert_eq!(name(lost), "store");
    watched.world.state().name = "web".to_owned();
    reconcile::once(&watched.engine).await;
    assert_eq!(name(watched.change("renamed").await), "web");
    watched.end().await;
}

/// A watcher of one domain name is told that the domain left, or came.
#[tokio::test(start_paused = true)]
async fn a_renamed_domain_leaves_one_watch_and_enters_another() {
    let mut watched = Watched::new(Scope::LiveAndConfig).await;
    let engine = &watched.engine;
    let named = async |name: &str| {
        let filter = Filter {
            domain: name.parse().ok(),
            ..Filter::default()
        };
        let request = WatchRequest {
            filter,
            after: None,
        };
        let mut feed = engine.watch(by_root(request)).await.unwrap();
        while !feed.next().await.unwrap().up_to_date {}
        feed
    };
    let (mut old, mut new) = (named("web").await, named("shop").await);
    watched.world.rename("shop");
    for (feed, left) in [(&mut old, true), (&mut new, false)] {
        let told = tokio::time::timeout(SOON, feed.next()).await;
        let event = told.expect("not told").unwrap().event.unwrap();
        assert_eq!(event.left, left);
        assert_eq!(event.attachment.domain.unwrap().name, "shop");
    }
    // Told once: the rest is none of the watcher's business.
    watched.change("renamed").await;
    watched.world.stop(DomainEnd::ShutOff);
    watched.world.undefine();
    watched.loss(Reason::DomainGone).await;
    assert_eq!(old.next().await.unwrap().event, None);
    assert!(new.next().await.unwrap().event.is_some());
    watched.end().await;
}

/// Events that came together are one round.
#[tokio::test(start_paused = true)]
async fn events_of_many_disks_are_one_look_at_their_domain() {
    let watched = Watched::new(Scope::Live).await;
    attached(&watched.engine, "a2", "v2").await;
    let world = &watched.world;
    world.state().domains_asked.clear();
    for id in ["a1", "a2"] {
        let (domain, alias) = (DOMAIN, format!("ua-volattach-{id}"));
        world.report(DomainEvent::DiskGone { domain, alias });
    }
    until("the domain is looked at", async || {
        !world.state().domains_asked.is_empty()
    })
    .await;
    tokio::time::sleep(SOON).await;
    assert_eq!(world.state().domains_asked, [(DOMAIN, 2)]);
    watched.end().await;
}

/// libvirt is reached again, or more has happened than a slow receiver can be told.
#[tokio::test(start_paused = true)]
async fn missed_events_have_everything_looked_at_at_once() {
    for events in [1, 1000] {
        let mut watched = Watched::new(Scope::Live).await;
        watched.world.state().disks.clear();
        for _ in 0..events {
            watched.world.report(match events {
                1 => DomainEvent::Missed,
                _ => DomainEvent::Started {
                    domain: fakes::OTHER_DOMAIN,
                },
            });
        }
        let message = watched.loss(Reason::DiskLost).await;
        contains(&message, ") no longer has the disk of attachment a1");
        watched.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_ends_lets_go_of_its_disk_for_a_detach_that_waits() {
    let world = World::new();
    let engine = world.engine_with(Duration::from_secs(600));
    attached(&engine, "a1", "v1").await;
    let detach = unanswered_detach(&world, &engine).await;
    let begun = tokio::time::Instant::now();
    world.stop(DomainEnd::Crashed);
    detach.await.unwrap().unwrap();
    assert!(begun.elapsed() < SOON);
    nothing_left(&world);
}

/// The connection alone decides where libvirt cannot be asked, and nothing is told anew by that.
#[tokio::test]
async fn a_lost_connection_is_told_without_libvirt_once() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    let told = async || {
        reconcile::once(&engine).await;
        let shown = engine.get(by_root(id("a1"))).await.unwrap();
        shown.error.map(|error| error.reason)
    };
    {
        let mut state = world.state();
        state.connections.clear();
        state.hypervisor_down = true;
    }
    assert_eq!(told().await, Some(Reason::DiskLost.into()));
    world.state().hypervisor_down = false;
    world.stop(DomainEnd::Migrated);
    assert_eq!(told().await, Some(Reason::DomainGone.into()));
    world.state().hypervisor_down = true;
    assert_eq!(told().await, Some(Reason::DomainGone.into()));
}
