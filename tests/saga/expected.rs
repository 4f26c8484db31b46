//! Attaches to a domain that was read before: planned by that, while the domain is read anew.

use volattach::journal::{Record, Step};
use volattach::libvirt::{DomainEnd, DomainEvent};

use super::*;

/// An engine that has attached a volume to the domain.
async fn warm(world: &World) -> Engine {
    let engine = world.engine();
    let request = attach("a1", "v1", local("v1"));
    engine.attach(by_root(request)).await.unwrap();
    // Three seconds for each look.
    world.state().hypervisor_slow = true;
    engine
}

/// Begins to attach a second volume.
fn begins(engine: &Engine) -> JoinHandle<Result<Attachment, Error>> {
    let engine = engine.clone();
    let request = attach("a2", "v2", local("v2"));
    tokio::spawn(async move { engine.attach(by_root(request)).await })
}

fn second(world: &World) -> Option<Record> {
    let mut records = world.records().into_iter();
    records.find(|record| record.id.as_str() == "a2")
}

#[tokio::test(start_paused = true)]
async fn the_intent_is_written_while_the_domain_is_read() {
    let world = World::new();
    let engine = warm(&world).await;
    let call = begins(&engine);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = second(&world).unwrap();
    assert!(written.progress(Step::Attach).is_some());
    assert_eq!(written.disk.target, "vdb", "with the plug before it");
    assert_eq!(world.state().plugs, 1);
    let attached = call.await.unwrap().unwrap();
    assert_eq!(attached.target.as_deref(), Some("vdb"));
}

/// A host that attaches and detaches all day would else never plan by what it knows.
#[tokio::test(start_paused = true)]
async fn a_disk_that_has_gone_leaves_the_rest_as_expected() {
    let world = World::new();
    let engine = warm(&world).await;
    let reconciling = tokio::spawn({
        let engine = engine.clone();
        async move { reconcile::run(&engine).await }
    });
    tokio::time::sleep(Duration::from_secs(10)).await; // the round of the start
    engine.detach(by_root(end("a1"))).await.unwrap();
    let (domain, alias) = (DOMAIN, "ua-volattach-a1".to_owned());
    world.report(DomainEvent::DiskGone { domain, alias });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let call = begins(&engine);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        second(&world).unwrap().disk.target,
        "vda",
        "as it is free again"
    );
    call.await.unwrap().unwrap();
    reconciling.abort();
}

/// No claim is locked while libvirt is waited for.
#[tokio::test(start_paused = true)]
async fn a_volume_that_needs_a_connection_waits_for_the_domain() {
    let world = World::new();
    let engine = warm(&world).await;
    let call = tokio::spawn({
        let engine = engine.clone();
        async move { engine.attach(by_root(attach("a2", "v2", smb("v2")))).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(second(&world).is_none());
    call.await.unwrap().unwrap();
}

/// The journal has the plan that fits the domain before the disk is plugged in.
#[tokio::test(start_paused = true)]
async fn a_domain_that_is_not_as_expected_is_planned_for_anew() {
    let world = World::new();
    let engine = warm(&world).await;
    let mut foreign = world.state().disks["ua-volattach-a1"].clone();
    foreign.xml = foreign.xml.replace("\"vda\"", "\"vdb\"");
    foreign.xml = foreign.xml.replace("ua-volattach-a1", "foreign");
    foreign.target = "vdb".to_owned();
    foreign.source = "/foreign".into();
    foreign.alias = "foreign".to_owned();
    world.state().disks.insert("foreign".to_owned(), foreign);
    world.state().name = "renamed".to_owned();
    let call = begins(&engine);
    // The look is over, and the plug is not.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.state().plugs, 1);
    let written = second(&world).unwrap();
    assert_eq!(written.disk.target, "vdc");
    assert_eq!(written.domain.unwrap().name, "renamed");
    let attached = call.await.unwrap().unwrap();
    assert_eq!(attached.target.as_deref(), Some("vdc"));
}

/// The world fails a plug at a target that is taken.
#[tokio::test(start_paused = true)]
async fn attaches_at_once_are_planned_for_one_after_the_other() {
    let world = World::new();
    let engine = warm(&world).await;
    let attach = |id: &str, volume: &str| engine.attach(by_root(attach(id, volume, local(volume))));
    let (second, third) = tokio::join!(attach("a2", "v2"), attach("a3", "v3"));
    let targets = [second, third].map(|attached| attached.unwrap().target.unwrap());
    assert!(
        targets == ["vdb", "vdc"] || targets == ["vdc", "vdb"],
        "{targets:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_has_stopped_leaves_nothing_and_is_not_expected_again() {
    let world = World::new();
    let engine = warm(&world).await;
    engine.detach(by_root(end("a1"))).await.unwrap();
    let call = begins(&engine);
    world.stop(DomainEnd::ShutOff);
    assert_eq!(reason(call.await.unwrap()), Reason::DomainState);
    assert!(world.records().is_empty());
    let call = begins(&engine);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(second(&world).is_none(), "begun by a view that was wrong");
    assert_eq!(reason(call.await.unwrap()), Reason::DomainState);
}

/// QEMU's open of an image whose server is silent stops the guest.
#[tokio::test(start_paused = true)]
async fn a_volume_is_inspected_again_after_a_slow_look_at_its_domain() {
    let world = World::new();
    let engine = warm(&world).await;
    let call = begins(&engine);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.state().inspect_fails = Some(Reason::ServerTimeout);
    call.await.unwrap().unwrap_err();
    assert!(world.state().inspect_fails.is_none(), "inspected again");
    assert_eq!(world.state().plugs, 1);
    assert!(second(&world).is_none());
}

/// The guest was not asked for anything, so nothing has to be undone with it.
#[tokio::test(start_paused = true)]
async fn a_domain_that_cannot_be_read_leaves_nothing() {
    let world = World::new();
    let engine = warm(&world).await;
    let call = begins(&engine);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.state().domain_fails = Some(Reason::HypervisorUnavailable);
    world.state().hypervisor_down = true;
    assert_eq!(reason(call.await.unwrap()), Reason::HypervisorUnavailable);
    assert!(second(&world).is_none());
}

/// Another plug came between: the domain is read once more, and the volume was inspected all the same.
#[tokio::test(start_paused = true)]
async fn a_volume_that_was_refused_is_not_plugged_in_after_another() {
    let world = World::new();
    let engine = warm(&world).await;
    let first = begins(&engine);
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.state().inspect_fails = Some(Reason::VolumeNotFound);
    let refused = engine.attach(by_root(attach("a3", "v3", local("v3"))));
    assert_eq!(reason(refused.await), Reason::VolumeNotFound);
    first.await.unwrap().unwrap();
    assert_eq!(world.state().plugs, 2);
}
