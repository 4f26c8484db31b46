//! What libvirt reports of a domain's life is shown on the domain's attachments, long before the next round of reconcile.

use std::sync::Arc;

use tokio::task::JoinHandle;
use virt::domain::Domain;
use volattach::attach::{AttachRequest, Engine};
use volattach::connection::Protocol;
use volattach::libvirt::DomainEnd;
use volattach::model::{Attachment, DiskPlan, State};
use volattach::reconcile;

use super::*;
use crate::fakes::{Changes, World, attach, by_root, local};

/// A part of the minute between two rounds.
const SOON: Duration = Duration::from_secs(20);

/// A daemon that reconciles, with the storage of a fake world and the domains of a real libvirtd.
struct Watched {
    engine: Engine,
    request: AttachRequest,
    changes: Changes,
    reconciling: JoinHandle<()>,
}

impl Watched {
    /// Attaches `a1` to the domain `idle`.
    async fn new(daemon: &Daemon) -> Self {
        let hypervisor = daemon.hypervisor(Duration::from_secs(15));
        let uuid = domain(&hypervisor).await.domain.uuid;
        let engine = World::new().engine_over(Arc::new(hypervisor));
        let mut request = attach("a1", "v1", local("v1"));
        request.domain = DomainRef::Uuid(uuid);
        // QEMU may only read the image.
        let spec = spec(daemon);
        request.access = Some(spec.access);
        request.disk = spec.options;
        let Protocol::Local(volume) = &mut request.info.protocol else {
            unreachable!("local() is local")
        };
        volume.device_path = spec.path;
        let reconciling = {
            let engine = engine.clone();
            tokio::spawn(async move { reconcile::run(&engine).await })
        };
        let changes = Changes::of(&engine).await;
        let watched = Self {
            engine,
            request,
            changes,
            reconciling,
        };
        watched.attach().await;
        watched
    }

    async fn attach(&self) {
        let request = by_root(self.request.clone());
        let attached = self.engine.attach(request).await.unwrap();
        assert_eq!(attached.state, State::Attached);
    }

    /// Waits until watchers see the attachment so.
    async fn shows(&mut self, what: &str, is: impl Fn(&Attachment) -> bool) -> Attachment {
        let mut last = None;
        let shown = timeout(SOON, async {
            loop {
                let change = self.changes.next().await;
                if is(&change) {
                    return change;
                }
                last = Some(change);
            }
        });
        let shown = shown.await;
        shown.unwrap_or_else(|_| panic!("not told: {what}; the last change: {last:?}"))
    }

    /// Waits until watchers see it lost for this reason and in these words.
    async fn lost(&mut self, reason: Reason, words: &str) {
        let is_told = |shown: &Attachment| {
            shown
                .error
                .as_ref()
                .is_some_and(|error| error.reason == reason && error.message.contains(words))
        };
        let lost = self.shows(words, is_told).await;
        assert_eq!(lost.state, State::Lost);
    }

    async fn end(self) {
        self.engine.drain().await;
        self.reconciling.await.unwrap();
    }
}

/// Defines the idle domain and starts it.
fn idle(connect: &Connect) -> Domain {
    let idle = connect.define_domain_xml(IDLE).unwrap();
    idle.create().unwrap();
    idle
}

#[tokio::test]
async fn the_life_of_a_domain_is_shown_at_once() {
    let daemon = Daemon::start("life");
    let connect = daemon.connect().await;
    let idle = idle(&connect);
    let mut watched = Watched::new(&daemon).await;

    idle.destroy().unwrap();
    let shut_off = "was shut off, and no longer has the disk of attachment a1";
    watched.lost(Reason::DiskLost, shut_off).await;

    idle.create().unwrap();
    watched.attach().await;
    kill(daemon.qemu("idle"), Signal::SIGKILL).unwrap();
    let crashed = "crashed, and no longer has the disk of attachment a1";
    watched.lost(Reason::DiskLost, crashed).await;

    // A saved domain goes on with its disks.
    idle.create().unwrap();
    watched.attach().await;
    idle.managed_save(0).unwrap();
    watched.lost(Reason::DiskLost, "was saved, and no").await;
    idle.create().unwrap();
    let is_found = |shown: &Attachment| shown.state == State::Attached && shown.error.is_none();
    watched.shows("found", is_found).await;
    idle.destroy().unwrap();
    watched.lost(Reason::DiskLost, shut_off).await;

    idle.rename("shop", 0).unwrap();
    let is_named = |shown: &Attachment| shown.domain.as_ref().unwrap().name == "shop";
    let renamed = watched.shows("the new name", is_named).await;
    assert_eq!(renamed.state, State::Lost);

    let shop = connect.lookup_domain_by_name("shop").unwrap();
    shop.undefine().unwrap();
    let undefined = "was undefined, and with it the disk of attachment a1";
    watched.lost(Reason::DomainGone, undefined).await;
    watched.end().await;
}

/// A transient domain exists no more as soon as it stops.
#[tokio::test]
async fn a_domain_that_is_gone_with_its_end_is_told_by_both() {
    let daemon = Daemon::start("transient");
    let connect = daemon.connect().await;
    let idle = idle(&connect);
    let mut watched = Watched::new(&daemon).await;
    idle.undefine().unwrap();
    kill(daemon.qemu("idle"), Signal::SIGKILL).unwrap();
    let gone = "crashed and no longer exists on this host, and with it the disk of attachment a1";
    watched.lost(Reason::DomainGone, gone).await;
    watched.end().await;
}

#[tokio::test]
async fn what_happened_without_libvirtd_is_shown_as_soon_as_it_is_back() {
    let mut daemon = Daemon::start("missed");
    let connect = daemon.connect().await;
    drop(idle(&connect));
    drop(connect);
    let mut watched = Watched::new(&daemon).await;
    daemon.signal(Signal::SIGKILL);
    daemon.child.wait().unwrap();
    kill(daemon.qemu("idle"), Signal::SIGKILL).unwrap();
    daemon.restart();
    let lost = "no longer has the disk of attachment a1";
    watched.lost(Reason::DiskLost, lost).await;
    watched.end().await;
}

/// libvirt itself keeps how a domain ended that still exists; and an end explains a loss until every disk was seen in the domain since.
#[tokio::test]
async fn an_end_is_known_without_its_event_and_explains_what_came_after_it_alone() {
    let daemon = Daemon::start("ends");
    let connect = daemon.connect().await;
    let idle = idle(&connect);
    let hypervisor = daemon.hypervisor(Duration::from_secs(15));
    let view = domain(&hypervisor).await;
    let uuid = view.domain.uuid;
    let plan = plan_disk(&view, &spec(&daemon)).unwrap();
    let seen = async |by: &Libvirt| {
        let disks = std::slice::from_ref(&plan);
        by.observe(uuid, disks).await.unwrap()
    };
    kill(daemon.qemu("idle"), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + LONG;
    while seen(&hypervisor).await.running {
        assert!(Instant::now() < deadline, "it runs without its QEMU");
        sleep(Duration::from_millis(20)).await;
    }
    // Another daemon's process, which has heard of nothing.
    let other = daemon.hypervisor(Duration::from_secs(15));
    domain(&other).await;
    let ended = seen(&other).await;
    assert_eq!(ended.name.as_deref(), Some("idle"));
    assert_eq!(
        (ended.running, ended.end),
        (false, Some(DomainEnd::Crashed))
    );

    let mut events = hypervisor.events();
    idle.create().unwrap();
    let started = DomainEvent::Started { domain: uuid };
    while timeout(LONG, events.recv()).await.unwrap().unwrap() != started {}
    let without = seen(&hypervisor).await;
    assert_eq!(
        (without.running, without.end),
        (true, Some(DomainEnd::Crashed))
    );
    hypervisor.plug(uuid, &plan).await.unwrap();
    assert_eq!(seen(&hypervisor).await.plugged, [true]);
    let never = DiskPlan {
        alias: "ua-volattach-never".to_owned(),
        ..plan.clone()
    };
    let missing = hypervisor.observe(uuid, &[never]).await.unwrap();
    assert_eq!((missing.plugged, missing.end), (vec![false], None));
}
