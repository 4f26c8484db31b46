//! Ownership of disks: an attachment takes only its own disk from a guest, and a name is never taken for an identity.

use uuid::Uuid;
use volattach::attach::AttachRequest;
use volattach::backend::Presence;
use volattach::connection::{IscsiPath, Protocol};
use volattach::journal::{Progress, Record, Step};
use volattach::model::{DomainRef, Scope};

use super::*;

const DISK: &str = "ua-volattach-a1";

fn reader(id: &str) -> AttachRequest {
    let mut request = attach(id, "v1", smb("v1"));
    request.access = Some(Access::ReadOnly);
    request
}

/// Runs an attach up to the passage of that name, and holds it at the passage.
pub(super) async fn held_at(
    world: &World,
    engine: &Engine,
    request: AttachRequest,
    passage: &str,
) -> JoinHandle<Result<Attachment, Error>> {
    for at in 0.. {
        world.gate.arm(at, Fault::Hold);
        let call = {
            let (engine, request) = (engine.clone(), request.clone());
            tokio::spawn(async move { engine.attach(by_root(request)).await })
        };
        world.gate.died().await;
        if world.gate.disarm().as_deref() == Some(passage) {
            return call;
        }
        world.gate.release();
        let _ = call.await.unwrap();
        engine
            .detach(by_root(end(request.id.as_str())))
            .await
            .unwrap();
    }
    unreachable!("there is such a passage")
}

/// Makes an attachment fail while libvirt is away, so that its record leaves open whether a disk was plugged in.
async fn left_open(world: &World, engine: &Engine, request: AttachRequest) {
    let call = held_at(world, engine, request, "backend.connect After").await;
    world.state().hypervisor_down = true;
    world.gate.release();
    assert_eq!(reason(call.await.unwrap()), Reason::UndoFailed);
    world.state().hypervisor_down = false;
    let record = world.records().remove(0);
    assert_eq!(record.progress(Step::Attach), Some(Progress::Intent));
}

#[tokio::test]
async fn an_attachment_that_came_to_nothing_takes_no_disk_of_another() {
    let world = World::new();
    let engine = world.engine();
    left_open(&world, &engine, reader("x")).await;
    engine.attach(by_root(reader("a1"))).await.unwrap();
    reconcile::once(&engine).await;
    assert!(world.state().disks.contains_key(DISK));
    assert_eq!(state(&engine, "a1").await, State::Attached);
    assert!(engine.look(&id("x")).await.unwrap().is_none());
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

/// Renames an attachment's disk as an earlier build would: by the volume.
fn named_by_volume(world: &World, id: &str) {
    let mut state = world.state();
    state.sync();
    let bytes = state.records[id].clone();
    let mut record: Record = serde_json::from_slice(&bytes).unwrap();
    let now = std::mem::replace(&mut record.disk.alias, "ua-v1".to_owned());
    record.disk.xml = record.disk.xml.replace(&now, "ua-v1");
    state
        .records
        .insert(id.to_owned(), serde_json::to_vec(&record).unwrap());
    if state.disks.remove(&now).is_some() {
        state.disks.insert("ua-v1".to_owned(), record.disk);
    }
}

#[tokio::test]
async fn two_attachments_of_an_earlier_build_have_one_disk_between_them() {
    let world = World::new();
    let engine = world.engine();
    left_open(&world, &engine, reader("x")).await;
    engine.attach(by_root(reader("a1"))).await.unwrap();
    for id in ["x", "a1"] {
        named_by_volume(&world, id);
    }
    let engine = world.engine();
    reconcile::once(&engine).await;
    assert!(world.state().disks.contains_key("ua-v1"));
    assert!(engine.look(&id("x")).await.unwrap().is_none());
    assert_eq!(state(&engine, "a1").await, State::Attached);
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
}

#[tokio::test]
async fn a_refused_plug_takes_away_nothing_of_that_name() {
    let world = World::new();
    let engine = world.engine();
    let request = attach("a1", "v1", local("v1"));
    let made = engine.attach(by_root(request.clone())).await.unwrap();
    let disk = world.state().disks[DISK].clone();
    engine.detach(by_root(end("a1"))).await.unwrap();
    // Another program plugs in the same disk between the look at the domain and the plug.
    let call = held_at(&world, &engine, request, "hypervisor.plug Before").await;
    {
        let mut state = world.state();
        state.disks.insert(DISK.to_owned(), disk);
        state.plug_fails = Some(Reason::VolumeInUse);
    }
    let asked = world.state().unplugs_asked;
    world.gate.release();
    assert_eq!(reason(call.await.unwrap()), Reason::VolumeInUse);
    assert_eq!(world.state().unplugs_asked, asked);
    assert!(world.state().disks.contains_key(DISK), "{made:?}");
    assert!(world.records().is_empty());
}

/// Strikes a repeated attach of a lost attachment with each fault at each of its calls.
#[tokio::test]
async fn a_repeat_that_fails_takes_no_disk_that_works() {
    for dialect in [Dialect::Qemu, Dialect::Xen] {
        for fault in [Fault::Fail, Fault::FailFromHere, Fault::Die] {
            for at in 0.. {
                if !repeat_fails(dialect, at, fault).await {
                    assert!(at > 5, "{fault:?}: nothing went wrong");
                    break;
                }
            }
        }
    }
}

/// Repeats the attach of a lost attachment with a fault at the call `at`; whether the fault struck.
async fn repeat_fails(dialect: Dialect, at: usize, fault: Fault) -> bool {
    let world = World::of(dialect);
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().sync();
    // As by `umount -l`: the guest keeps the file that it has open.
    world.state().connections.clear();
    world.gate.arm(at, fault);
    let repeat = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.attach(by_root(attach("a1", "v1", smb("v1")))).await })
    };
    tokio::select! {
        () = world.gate.died() => {}
        _ = async { while !repeat.is_finished() { tokio::task::yield_now().await } } => {}
    }
    repeat.abort();
    let struck = world.gate.disarm();
    let told = format!("{dialect:?} {fault:?} {struck:?}");
    let engine = world.engine();
    reconcile::once(&engine).await;
    {
        let state = world.state();
        assert!(state.disks.contains_key(DISK), "the disk is gone: {told}");
        assert_eq!(state.unplugs_asked, 0, "{told}");
    }
    let now = state(&engine, "a1").await;
    assert!(
        matches!(now, State::Attached | State::Lost),
        "{told}: {now}"
    );
    let again = attached(&engine, "a1", "v1").await;
    assert_eq!(
        (again.state, again.error),
        (State::Attached, None),
        "{told}"
    );
    engine.detach(by_root(end("a1"))).await.unwrap();
    nothing_left(&world);
    struck.is_some()
}

#[tokio::test]
async fn what_a_repeat_failed_of_is_told() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().connections.clear();
    world.state().connect_fails = Some(Reason::ServerUnreachable);
    let request = || by_root(attach("a1", "v1", smb("v1")));
    assert_eq!(
        reason(engine.attach(request()).await),
        Reason::ServerUnreachable
    );
    let told = engine.get(by_root(id("a1"))).await.unwrap().error.unwrap();
    assert_eq!(told.reason, Reason::DiskLost);
    assert!(told.message.contains("that failed: "), "{}", told.message);
}

#[tokio::test]
async fn a_disk_of_a_device_that_is_gone_is_plugged_in_anew() {
    for info in [nvme("v1"), iscsi("v1")] {
        let world = World::new();
        let engine = world.engine();
        let request = || by_root(attach("a1", "v1", info.clone()));
        let made = engine.attach(request()).await.unwrap();
        let device = made.host_path.unwrap();
        // The device goes away and comes back, by the same name.
        {
            let mut state = world.state();
            state.sequences.clear();
            state.sequence(&device);
        }
        reconcile::once(&engine).await;
        let lost = engine.get(by_root(id("a1"))).await.unwrap().error;
        assert_eq!(lost.unwrap().reason, Reason::DiskLost);
        let again = engine.attach(request()).await.unwrap();
        assert_eq!((again.state, again.error), (State::Attached, None));
        {
            let state = world.state();
            assert_eq!(state.unplugs_asked, 1);
            let now = state.sequences.get(&device).copied();
            assert_eq!(state.opened[DISK], now, "the guest has the old device");
        }
        engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&world);
    }
}

/// A server makes its share anew, or moves, while a guest has a file open on the mount.
#[tokio::test]
async fn a_mount_that_went_stale_is_not_joined() {
    for info in [smb as fn(&str) -> ConnectionInfo, nfs] {
        let world = World::new();
        let engine = world.engine();
        let attach = |id: &str, volume: &str| by_root(attach(id, volume, info(volume)));
        engine.attach(attach("a1", "v1")).await.unwrap();
        let stale: Vec<String> = world.state().connections.keys().cloned().collect();
        world.state().stale.extend(stale.clone());
        for (id, volume) in [("a2", "v2"), ("a3", "v3")] {
            engine.attach(attach(id, volume)).await.unwrap();
        }
        // The two later attachments share one mount, and come back to it after a loss.
        assert_eq!(world.state().connections.len(), 2);
        world.state().connections.retain(|it, _| stale.contains(it));
        reconcile::once(&engine).await;
        for (id, volume) in [("a2", "v2"), ("a3", "v3")] {
            let again = engine.attach(attach(id, volume)).await.unwrap();
            assert_eq!((again.state, again.error), (State::Attached, None));
        }
        assert_eq!(world.state().connections.len(), 2);
        assert_eq!(world.state().unplugs_asked, 0);
        engine.detach(by_root(end("a1"))).await.unwrap();
        assert!(!world.state().connections.contains_key(&stale[0]));
        engine.attach(attach("a1", "v1")).await.unwrap();
        assert!(world.state().connections.contains_key(&stale[0]));
        for id in ["a1", "a2", "a3"] {
            engine.detach(by_root(end(id))).await.unwrap();
        }
        nothing_left(&world);
    }
}

/// The device goes away at any call of an attach, and the next device gets its name.
#[tokio::test]
async fn a_name_that_another_device_took_is_not_plugged_in() {
    for info in [nvme("v1"), iscsi("v1")] {
        let (mut refused, mut made) = (0, 0);
        for at in 0.. {
            let world = World::new();
            let engine = world.engine();
            world.gate.arm(at, Fault::Hold);
            let call = {
                let (engine, request) = (engine.clone(), attach("a1", "v1", info.clone()));
                tokio::spawn(async move { engine.attach(by_root(request)).await })
            };
            tokio::select! {
                () = world.gate.died() => {}
                _ = async { while !call.is_finished() { tokio::task::yield_now().await } } => {}
            }
            let Some(passage) = world.gate.disarm() else {
                break;
            };
            world.reuse_names();
            world.gate.release();
            match call.await.unwrap() {
                Ok(_) => {
                    made += 1;
                    let checked = world.records()[0].host.sequence();
                    let opened = world.state().opened[DISK];
                    assert!(
                        opened == checked || opened.is_none(),
                        "{passage}: {opened:?}, not {checked:?}"
                    );
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.reason(), Reason::DeviceIdentity, "{passage}: {error}");
                    assert!(world.state().disks.is_empty(), "{passage}");
                    assert!(world.records().is_empty(), "{passage}");
                }
            }
            assert!(world.state().open.is_empty(), "{passage}");
        }
        assert!(refused > 0 && made > 0, "{refused} refused, {made} made");
    }
}

/// The host starts anew with other device names, and the domain starts after its storage is connected again.
#[tokio::test]
async fn a_persistent_disk_is_the_volume_at_the_next_start_too() {
    for info in [smb("v1"), nvme("v1"), iscsi("v1")] {
        for scope in [Scope::Config, Scope::LiveAndConfig] {
            let world = World::new();
            let mut request = attach("a1", "v1", info.clone());
            request.disk.scope = scope;
            let made = world.engine().attach(by_root(request.clone())).await;
            made.unwrap();
            world.reboot();
            let engine = world.engine();
            engine.recall().await.unwrap();
            reconcile::once(&engine).await;
            let lost = engine.get(by_root(id("a1"))).await.unwrap().error;
            assert_eq!(lost.unwrap().reason, Reason::DiskLost);
            let again = engine.attach(by_root(request.clone())).await.unwrap();
            assert_eq!((again.state, again.error), (State::Attached, None));
            world.start();
            let connected = world.records()[0].host.sequence();
            assert_eq!(world.state().opened[DISK], connected, "{scope:?}");
            reconcile::once(&engine).await;
            let there = engine.get(by_root(id("a1"))).await.unwrap();
            assert_eq!((there.state, there.error), (State::Attached, None));
            engine.detach(by_root(end("a1"))).await.unwrap();
            nothing_left(&world);
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_lost_of_one_configuration_is_lost() {
    for of_live in [true, false] {
        let world = World::new();
        let engine = world.engine();
        let mut request = attach("a1", "v1", smb("v1"));
        request.disk.scope = Scope::LiveAndConfig;
        engine.attach(by_root(request.clone())).await.unwrap();
        match of_live {
            true => world.state().disks.clear(),
            false => world.state().config.clear(),
        }
        reconcile::once(&engine).await;
        let lost = engine.get(by_root(id("a1"))).await.unwrap().error;
        assert_eq!(lost.unwrap().reason, Reason::DiskLost, "{of_live}");
        world.state().unplugs_asked = 0;
        engine.attach(by_root(request)).await.unwrap();
        {
            let state = world.state();
            assert!(state.disks.contains_key(DISK) && state.config.contains_key(DISK));
            assert!(of_live || state.unplugs_asked == 0, "taken from its guest");
        }
        engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&world);
    }
}

#[tokio::test]
async fn a_domain_that_took_anothers_name_gets_nothing_of_it() {
    let world = World::new();
    let engine = world.engine();
    let mut request = attach("a1", "v1", smb("v1"));
    request.domain = DomainRef::Name("web".to_owned());
    engine.attach(by_root(request.clone())).await.unwrap();
    world.state().named = Uuid::from_u128(7);
    let whole = engine.attach(by_root(request.clone())).await;
    assert_eq!(reason(whole), Reason::AttachmentConflict);
    world.state().connections.clear();
    let error = engine.attach(by_root(request)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::AttachmentConflict);
    assert!(
        error.to_string().contains("name the domain by its UUID"),
        "{error}"
    );
    assert_eq!(world.records()[0].domain.as_ref().unwrap().uuid, DOMAIN);
}

#[tokio::test]
async fn what_would_be_made_otherwise_leaves_a_disk_that_works() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().connections.clear();
    world.state().configuration = "echo_interval=20";
    world.state().sync();
    let engine = world.engine();
    let request = by_root(attach("a1", "v1", smb("v1")));
    assert_eq!(
        reason(engine.attach(request).await),
        Reason::CleanupRequired
    );
    assert!(world.state().disks.contains_key(DISK));
    engine.detach(by_root(end("a1"))).await.unwrap();
    attached(&engine, "a1", "v1").await;
    let connections = world.state().connections.clone();
    assert!(connections.values().eq([&Presence::Present]));
}

/// Volumes of two targets report one identity, as by storage that derives the identity from the numbers of target and LUN.
#[tokio::test]
async fn two_volumes_with_one_identity_are_not_both_connected() {
    let other = |mut info: ConnectionInfo| {
        match &mut info.protocol {
            Protocol::Iscsi(volume) => volume
                .paths
                .iter_mut()
                .for_each(|it| it.target = "iqn.y".into()),
            Protocol::Nvme(volume) => volume.nqn = "nqn.y".into(),
            _ => unreachable!("it is of a target"),
        }
        info
    };
    for info in [iscsi("v1"), nvme("v1")] {
        let world = World::new();
        let engine = world.engine();
        for target in ["iqn.x", "iqn.y", "nqn.x", "nqn.y"] {
            let told = ((target.to_owned(), 1), "36001405".to_owned());
            world.state().identities.extend([told]);
        }
        engine
            .attach(by_root(attach("a1", "v1", info.clone())))
            .await
            .unwrap();
        let disks = world.state().disks.clone();
        let second = engine
            .attach(by_root(attach("a2", "v2", other(info.clone()))))
            .await;
        let error = second.unwrap_err();
        assert_eq!(error.reason(), Reason::DeviceIdentity, "{error}");
        assert!(
            error
                .to_string()
                .contains("volume v1, which is attached on this host as a1"),
            "{error}"
        );
        assert_eq!(world.state().disks, disks);
        // Of two attaches at a time, one succeeds.
        engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&world);
        let (first, second) = tokio::join!(
            engine.attach(by_root(attach("a1", "v1", info.clone()))),
            engine.attach(by_root(attach("a2", "v2", other(info.clone()))))
        );
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        for id in ["a1", "a2"] {
            engine.detach(by_root(end(id))).await.unwrap();
        }
        // The same volume by another target is not refused for its identity.
        engine
            .attach(by_root(attach("a1", "v1", info.clone())))
            .await
            .unwrap();
        let again = connect("a2", "v1", other(info.clone()));
        assert_ne!(
            reason_of(engine.connect(by_root(again)).await),
            Some(Reason::DeviceIdentity)
        );
    }
}

fn reason_of<T>(result: Result<T, Error>) -> Option<Reason> {
    result.err().map(|error| error.reason())
}

/// One attachment reaches a LUN by two targets, another attachment by one of them: the shared path stays until both attachments are
/// gone.
#[tokio::test]
async fn who_shares_a_part_of_a_connection_keeps_that_part() {
    let by = |targets: &[&str]| {
        let mut info = iscsi("v1");
        let Protocol::Iscsi(volume) = &mut info.protocol else {
            unreachable!("iscsi() is iSCSI")
        };
        let path = volume.paths[0].clone();
        volume.paths = targets
            .iter()
            .map(|target| IscsiPath {
                target: (*target).to_owned(),
                ..path.clone()
            })
            .collect();
        info
    };
    for first in ["c1", "c2"] {
        let world = World::new();
        for target in ["iqn.x", "iqn.y"] {
            let told = ((target.to_owned(), 1), "36001405".to_owned());
            world.state().identities.extend([told]);
        }
        let engine = world.engine();
        let mut both = connect("c1", "v1", by(&["iqn.x", "iqn.y"]));
        let mut one = connect("c2", "v1", by(&["iqn.x"]));
        for request in [&mut both, &mut one] {
            request.access = Some(Access::ReadOnly);
        }
        engine.connect(by_root(both)).await.unwrap();
        engine.connect(by_root(one)).await.unwrap();
        engine.disconnect(by_root(end(first))).await.unwrap();
        let left: Vec<String> = world.state().connections.keys().cloned().collect();
        match first {
            "c1" => assert_eq!(left, ["iscsi:iqn.x/1"]),
            _ => assert_eq!(left, ["iscsi:iqn.x/1", "iscsi:iqn.y/1"]),
        }
        reconcile::once(&engine).await;
        for id in ["c1", "c2"] {
            engine.disconnect(by_root(end(id))).await.unwrap();
        }
        nothing_left(&world);
    }
}

/// libvirt plugs the disk in before it saves the persistent configuration, which may fail.
#[tokio::test]
async fn a_plug_into_both_that_was_refused_is_undone_in_the_guest() {
    let world = World::new();
    let engine = world.engine();
    let mut request = attach("a1", "v1", local("v1"));
    request.disk.scope = Scope::LiveAndConfig;
    let made = engine.attach(by_root(request.clone())).await.unwrap();
    let disk = world.state().disks[DISK].clone();
    engine.detach(by_root(end("a1"))).await.unwrap();
    assert_eq!(made.target.as_ref(), Some(&disk.target));
    let call = held_at(&world, &engine, request, "hypervisor.plug Before").await;
    {
        let mut state = world.state();
        state.disks.insert(DISK.to_owned(), disk);
        state.plug_fails = Some(Reason::VolumeUnreadable);
    }
    world.gate.release();
    assert_eq!(reason(call.await.unwrap()), Reason::VolumeUnreadable);
    nothing_left(&world);
}

#[tokio::test]
async fn a_repeat_gets_no_other_volume_than_the_first_call() {
    for info in [iscsi("v1"), nvme("v1")] {
        let world = World::new();
        let engine = world.engine();
        let request = attach("a1", "v1", info);
        engine.attach(by_root(request.clone())).await.unwrap();
        let remap = |identity: &str| {
            let mut state = world.state();
            state.connections.clear();
            state.disks.clear();
            for target in ["iqn.x", "nqn.x"] {
                let told = ((target.to_owned(), 1), identity.to_owned());
                state.identities.extend([told]);
            }
        };
        remap("36001405other");
        let repeated = engine.attach(by_root(request.clone())).await;
        let error = repeated.unwrap_err();
        assert_eq!(error.reason(), Reason::DeviceIdentity, "{error}");
        assert!(
            error.to_string().contains("detach the attachment"),
            "{error}"
        );
        assert!(world.state().disks.is_empty());
        engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&world);
        engine.attach(by_root(request)).await.unwrap();
        engine.detach(by_root(end("a1"))).await.unwrap();
        nothing_left(&world);
    }
}

/// A device that two attachments read is made writable by the second to go, and one beside a reader of another volume at once.
#[tokio::test]
async fn the_last_reader_of_a_device_makes_it_writable() {
    let world = World::new();
    let engine = world.engine();
    for (id, volume) in [("c1", "v1"), ("c2", "v1"), ("c3", "v2")] {
        let mut request = connect(id, volume, nvme(volume));
        request.access = Some(Access::ReadOnly);
        engine.connect(by_root(request)).await.unwrap();
    }
    for (id, keeps_read_only) in [("c1", true), ("c2", false), ("c3", false)] {
        engine.disconnect(by_root(end(id))).await.unwrap();
        let last = world.state().releases.last().cloned().unwrap();
        assert_eq!(last.keeps_read_only, keeps_read_only, "{id}");
    }
    nothing_left(&world);
}

/// The host boots, and the kernel numbers its devices anew: what the journal has of another boot names none of them, and a detach leaves
/// what others have made since.
#[tokio::test]
async fn numbers_of_another_boot_name_nothing() {
    let world = World::new();
    let mut request = connect("c1", "v1", nvme("v1"));
    request.access = Some(Access::ReadOnly);
    world
        .engine()
        .connect(by_root(request.clone()))
        .await
        .unwrap();
    let here = || world.records().remove(0).host;
    let connected = here();
    for boot in [Some("first".to_owned()), None] {
        world.change("c1", |record| record.host.found.boot = boot);
        world.engine().recall().await.unwrap();
        assert_eq!(here(), connected, "the same boot");
    }
    world.reboot();
    // Nor do they at the start after the next.
    for _ in 0..2 {
        world.engine().recall().await.unwrap();
        let found = here().found;
        let device = found.device.unwrap();
        assert_eq!(device.identity, *connected.identity().unwrap());
        assert_eq!(device.path, connected.plan.path);
        assert_eq!((device.sequence, found.protected), (None, false));
    }
    let recalled = world.state().recalled.len();
    assert_eq!(recalled, 2, "those of this boot alone");
    let engine = world.engine();
    engine.disconnect(by_root(end("c1"))).await.unwrap();
    assert!(world.state().releases.is_empty());
    // A repeat takes the attachment into this boot.
    request.id = id("c2");
    engine.connect(by_root(request.clone())).await.unwrap();
    world.reboot();
    let engine = world.engine();
    engine.recall().await.unwrap();
    world.state().connect_fails = Some(Reason::ServerUnreachable);
    for fails in [true, false] {
        let repeated = engine.connect(by_root(request.clone())).await;
        assert_eq!(repeated.is_err(), fails);
        assert_eq!(here().found.boot.unwrap(), "first++", "{fails}");
    }
    engine.disconnect(by_root(end("c2"))).await.unwrap();
    nothing_left(&world);
}
