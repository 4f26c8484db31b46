//! After the loss of the journal: what volattach has left on the host is found, kept from others, and unplugged by its id.

use std::time::SystemTime;

use volattach::backend::Unrecorded;
use volattach::journal::Loss;
use volattach::model::{Actor, Identity, Via, VolumeFacts, VolumeOwner};

use super::*;
use crate::fakes::{admit, root};

/// Loses every record; the daemon starts with a new journal.
fn lose(world: &World) -> Engine {
    let mut state = world.state();
    state.sync();
    state.records.clear();
    state.loss = Some(Loss {
        at: SystemTime::UNIX_EPOCH,
        why: "the file is missing".into(),
        kept: None,
    });
    drop(state);
    world.engine()
}

/// A user of Keystone's, without a service.
fn user() -> Actor {
    Actor {
        via: Via::Keystone,
        user: Some(Identity {
            user_id: "mallory".into(),
            project_id: Some("p".into()),
            roles: vec!["admin".into()],
            ..Identity::default()
        }),
        ..root()
    }
}

#[tokio::test]
async fn a_disk_without_a_record_is_found_and_unplugged_by_its_id() {
    let world = World::new();
    attached(&world.engine(), "a1", "v1").await;
    let engine = lose(&world);
    let orphans = engine.orphans().await.unwrap();
    assert_eq!(orphans.len(), 1, "{orphans:?}");
    assert_eq!(orphans[0].mend, "volattach detach a1");
    assert!(
        orphans[0].what.contains("of attachment a1 in web"),
        "{orphans:?}"
    );

    // Nobody else gets its volume, and a user alone does not get its disk away.
    for (id, volume) in [("a1", "v9"), ("a2", "v1")] {
        let again = engine.attach(by_root(attach(id, volume, smb("v1")))).await;
        assert_eq!(reason(again), Reason::VolumeInUse, "{id}");
    }
    let owner = VolumeOwner {
        project_id: Some("p".into()),
        ..VolumeOwner::default()
    };
    let by_user = engine.detach(admit(user(), owner, end("a1"))).await;
    assert_eq!(reason(by_user), Reason::CleanupRequired);
    assert_eq!(world.state().disks.len(), 1);

    engine.detach(by_root(end("another"))).await.unwrap();
    assert_eq!(world.state().disks.len(), 1);
    engine.detach(by_root(end("a1"))).await.unwrap();
    assert_eq!(world.state().disks.len(), 0);
    engine.detach(by_root(end("a1"))).await.unwrap();
}

#[tokio::test]
async fn a_detach_without_a_record_is_no_success_while_the_disk_stays() {
    let world = World::new();
    attached(&world.engine(), "a1", "v1").await;
    let engine = lose(&world);
    world.state().guest = Guest::Ignores;
    let ended = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(ended), Reason::UnplugPending);
    world.state().hypervisor_down = true;
    let ended = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(ended), Reason::HypervisorUnavailable);
}

#[tokio::test]
async fn a_disk_of_xen_without_a_record_is_left_to_the_operator() {
    let world = World::of(Dialect::Xen);
    attached(&world.engine(), "a1", "v1").await;
    let engine = lose(&world);
    let error = engine.detach(by_root(end("a1"))).await.unwrap_err();
    assert_eq!(error.reason(), Reason::CleanupRequired);
    assert!(error.to_string().contains("virsh detach-disk"), "{error}");
    assert_eq!(world.state().disks.len(), 1);
}

/// The loss is over once nothing is found; new attachments, and the disks of records, are no orphans.
#[tokio::test]
async fn the_loss_is_forgotten_once_nothing_is_left() {
    let world = World::new();
    attached(&world.engine(), "a1", "v1").await;
    let engine = lose(&world);
    attached(&engine, "a2", "v2").await;
    let reconciling = tokio::spawn({
        let engine = engine.clone();
        async move { reconcile::run(&engine).await }
    });
    assert_eq!(engine.orphans().await.unwrap().len(), 1);
    assert!(world.state().loss.is_some());
    engine.detach(by_root(end("a1"))).await.unwrap();
    reconciling.abort();
    let engine = world.engine();
    let reconciling = tokio::spawn(async move { reconcile::run(&engine).await });
    until("the loss is forgotten", async || {
        world.state().loss.is_none()
    })
    .await;
    reconciling.abort();
}

/// A diagnosis has attachments with errors as a list has them: those that the caller may see.
#[tokio::test]
async fn a_diagnosis_leaves_out_attachments_that_the_caller_may_not_see() {
    let world = World::new();
    let engine = world.engine();
    let owned = |service_owned| VolumeOwner {
        project_id: Some("p".into()),
        service_owned,
        ..VolumeOwner::default()
    };
    for (id, service_owned) in [("a1", false), ("a2", true)] {
        let mut request = attach(id, id, smb(id));
        request.facts = Some(VolumeFacts {
            owner: owned(service_owned),
            ..VolumeFacts::default()
        });
        engine.attach(by_root(request)).await.unwrap();
        world.let_go(&format!("ua-volattach-{id}"));
    }
    reconcile::once(&engine).await;
    let found = engine.diagnose(by_root(())).await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    let found = engine.diagnose(admit(user(), owned(false), ()));
    let found = found.await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].attachment, Some(id("a1")));
}

/// The command would take the connection from under a call.
#[tokio::test]
async fn a_connection_whose_record_is_written_meanwhile_is_no_orphan() {
    let world = World::new();
    let engine = world.engine();
    let connection = |name: &str| Unrecorded {
        what: format!("mount /mnt/{name}"),
        mend: format!("umount /mnt/{name}"),
        own: true,
    };
    world.state().recorded_meanwhile = vec![connection("new")];
    assert_eq!(engine.orphans().await.unwrap(), []);
    world.state().recorded_meanwhile = vec![connection("new")];
    world.state().unrecorded = vec![connection("old")];
    let found = engine.orphans().await.unwrap();
    let mend: Vec<_> = found.iter().map(|orphan| orphan.mend.as_str()).collect();
    assert_eq!(mend, ["umount /mnt/old"]);
}
