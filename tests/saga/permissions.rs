//! Who may use a volume: what is decided by, what is remembered, who comes first of two, who may stand beside whom.

use volattach::admission::Admitted;
use volattach::attach::{AttachRequest, ConnectRequest, EndRequest, PermissionsRequest};
use volattach::model::{ImageFormat, Use, VolumeFacts, VolumeOwner, VolumeRights};

use super::*;
use crate::fakes::{admit, local_peer, nfs};

const ALICE: u32 = 1001;
const BOB: u32 = 1002;

fn by<T>(uid: u32, request: T) -> Admitted<T> {
    admit(local_peer(uid), alices(), request)
}

/// A connect that takes what it gets.
fn any(id: &str, volume: &str, info: ConnectionInfo) -> ConnectRequest {
    let mut request = connect(id, volume, info);
    request.access = None;
    request
}

fn alices() -> VolumeOwner {
    VolumeOwner {
        user_id: Some(format!("uid:{ALICE}")),
        group_id: Some(format!("gid:{BOB}")),
        ..VolumeOwner::default()
    }
}

/// What is told of a volume of Alice's, whose group is Bob's.
fn facts(permissions: &str) -> Option<VolumeFacts> {
    Some(VolumeFacts {
        owner: alices(),
        permissions: permissions.parse().ok(),
        attached: Vec::new(),
    })
}

fn with(mut request: ConnectRequest, facts: Option<VolumeFacts>) -> ConnectRequest {
    request.facts = facts;
    request
}

fn set(volume: &str, permissions: &str) -> PermissionsRequest {
    PermissionsRequest {
        volume: volume.parse().unwrap(),
        permissions: permissions.parse().ok(),
    }
}

fn read_only(made: &Attachment) -> bool {
    made.access.access.is_read_only()
}

#[tokio::test]
async fn another_users_attach_beside_a_writer_is_read_only_until_the_writer_leaves() {
    let world = World::new();
    let engine = world.engine();
    let first = attach("a1", "v1", smb("v1"));
    let first = engine.attach(by(ALICE, first)).await.unwrap();
    assert!(!read_only(&first));
    let second = engine.connect(by(BOB, any("a2", "v1", smb("v1")))).await;
    let second = second.unwrap();
    assert!(read_only(&second));
    assert_eq!(
        second.access.reason(),
        "user uid:1001 has the volume attached read-write"
    );
    assert_eq!(second.holder.unwrap().user_id, "uid:1002");
    let xml = second.disk_xml.unwrap();
    assert!(
        xml.contains("<readonly/>") && xml.contains("<shareable/>"),
        "{xml}"
    );
    assert!(!first.disk_xml.unwrap().contains("<shareable/>"));
    // It is what was decided then, also when it is asked for again.
    engine.detach(by(ALICE, end("a1"))).await.unwrap();
    let again = engine.connect(by(BOB, any("a2", "v1", smb("v1")))).await;
    assert!(read_only(&again.unwrap()));
    let third = engine.connect(by(BOB, any("a3", "v1", smb("v1")))).await;
    assert!(!read_only(&third.unwrap()), "a reader tolerates one writer");
    for id in ["a2", "a3"] {
        engine.disconnect(by(BOB, end(id))).await.unwrap();
    }
    nothing_left(&world);
}

#[tokio::test]
async fn who_has_it_read_write_is_not_made_read_only_by_that() {
    let world = World::new();
    let engine = world.engine();
    let shareable = |id: &str, volume: &str| {
        let mut request = any(id, volume, smb(volume));
        request.info.common.multiattach = true;
        request
    };
    engine
        .connect(by(ALICE, shareable("a1", "v1")))
        .await
        .unwrap();
    let own = engine.connect(by(ALICE, shareable("a2", "v1"))).await;
    assert!(!read_only(&own.unwrap()));
    // Also where both say that they coordinate their writes.
    let other = engine.connect(by(BOB, shareable("a3", "v1"))).await;
    assert!(read_only(&other.unwrap()));
    // A user who may not share it with itself is told so, not made a reader.
    engine
        .connect(by(ALICE, any("b1", "v2", smb("v2"))))
        .await
        .unwrap();
    let error = engine.connect(by(ALICE, any("b2", "v2", smb("v2")))).await;
    assert_eq!(reason(error), Reason::VolumeInUse);
}

#[tokio::test]
async fn uses_elsewhere_count_as_much_as_those_here() {
    let world = World::new();
    let engine = world.engine();
    let used = |user: &str, access| {
        let mut told = facts("").unwrap();
        told.attached = vec![Use {
            user_id: user.to_owned(),
            access,
        }];
        Some(told)
    };
    for (user, access, expected) in [
        ("uid:1001", Access::ReadWrite, true),
        ("", Access::ReadWrite, true),
        ("uid:1002", Access::ReadWrite, false),
        ("uid:1001", Access::ReadOnly, false),
    ] {
        let request = with(any("a1", "v1", smb("v1")), used(user, access));
        let made = engine.connect(by(BOB, request.clone())).await.unwrap();
        assert_eq!(read_only(&made), expected, "{user} {access}");
        assert_eq!(made.disk_xml.unwrap().contains("<shareable/>"), expected);
        // That uses come and go makes a repeated request no other one.
        let repeated = with(request, used("uid:4", Access::ReadWrite));
        let repeated = engine.connect(by(BOB, repeated)).await.unwrap();
        assert_eq!(read_only(&repeated), expected);
        engine.disconnect(by(BOB, end("a1"))).await.unwrap();
    }
    // An image that is written elsewhere cannot be read in peace.
    world.state().format = ImageFormat::Qcow2;
    let request = with(any("a1", "v1", smb("v1")), used("", Access::ReadWrite));
    assert_eq!(
        reason(engine.connect(by(BOB, request)).await),
        Reason::VolumeInUse
    );
    nothing_left(&world);
}

#[tokio::test]
async fn the_permissions_digit_decides() {
    let world = World::new();
    let engine = world.engine();
    const CAROL: u32 = 1003;
    // `None`: refused.
    for (uid, permissions, expected) in [
        (ALICE, "600", Some(Access::ReadWrite)),
        (ALICE, "466", Some(Access::ReadOnly)),
        (ALICE, "066", None),
        (BOB, "640", Some(Access::ReadOnly)),
        (BOB, "660", Some(Access::ReadWrite)),
        (BOB, "606", None),
        (CAROL, "664", Some(Access::ReadOnly)),
        (CAROL, "606", Some(Access::ReadWrite)),
        (CAROL, "660", None),
        (0, "660", None),
    ] {
        let request = with(any("a1", "v1", smb("v1")), facts(permissions));
        let made = engine.connect(by(uid, request)).await;
        match expected {
            None => assert_eq!(
                reason(made),
                Reason::PermissionDenied,
                "{uid} {permissions}"
            ),
            Some(access) => {
                let made = made.unwrap();
                assert_eq!(made.access.access, access, "{uid} {permissions}");
                assert_eq!(made.rights.permissions, permissions.parse().ok());
                engine.disconnect(by(uid, end("a1"))).await.unwrap();
            }
        }
    }
    nothing_left(&world);
}

#[tokio::test]
async fn what_must_be_written_or_booted_from_is_refused_otherwise() {
    let world = World::new();
    let engine = world.engine();
    let mut request = with(any("a1", "v1", smb("v1")), facts("640"));
    request.require_rw = true;
    let error = engine.connect(by(BOB, request.clone())).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ReadWriteRefused);
    assert!(error.to_string().contains("640"), "{error}");
    request.require_rw = false;
    request.boot = true;
    let error = engine.connect(by(ALICE, request.clone())).await;
    assert_eq!(reason(error), Reason::PermissionDenied);
    // A place in the boot order says as much.
    request.boot = false;
    request.disk.boot_order = Some(1);
    let error = engine.connect(by(ALICE, request.clone())).await;
    assert_eq!(reason(error), Reason::PermissionDenied);
    request.facts = facts("740");
    engine.connect(by(ALICE, request.clone())).await.unwrap();
    // Both are part of the request.
    for change in [
        (|request: &mut ConnectRequest| request.boot = true) as fn(&mut ConnectRequest),
        |request| request.require_rw = true,
    ] {
        let mut other = request.clone();
        change(&mut other);
        let error = engine.connect(by(ALICE, other)).await;
        assert_eq!(reason(error), Reason::AttachmentConflict);
    }
}

#[tokio::test]
async fn a_repeated_request_is_the_same_ones_alone() {
    let world = World::new();
    let engine = world.engine();
    let request = any("a1", "v1", smb("v1"));
    engine.connect(by(ALICE, request.clone())).await.unwrap();
    let other = engine.connect(by(BOB, request.clone())).await;
    assert_eq!(reason(other), Reason::AttachmentConflict);
    engine.connect(by(ALICE, request.clone())).await.unwrap();
    // Of whom an earlier version made it for is not known.
    let mut record = world.records().remove(0);
    record.holder = None;
    let bytes = serde_json::to_vec(&record).unwrap();
    world.state().records.insert("a1".into(), bytes);
    engine.connect(by(BOB, request)).await.unwrap();
    let beside = engine.connect(by(BOB, any("a2", "v1", smb("v1")))).await;
    assert_eq!(
        beside.unwrap().access.reason(),
        "somebody else has the volume attached read-write"
    );
}

#[tokio::test]
async fn permissions_set_here_win_for_later_attaches_until_they_are_forgotten() {
    let world = World::new();
    let engine = world.engine();
    let rights = async |volume: &str| engine.rights(&volume.parse().unwrap()).await.unwrap();
    assert_eq!(rights("v1").await, VolumeRights::default());
    let request = |id: &str| with(any(id, "v1", smb("v1")), facts("660"));
    let made = engine.connect(by(ALICE, request("a1"))).await.unwrap();
    assert!(!read_only(&made));
    // What was told is known while it is attached, whose it is included.
    let told = rights("v1").await;
    assert_eq!(told.permissions, "660".parse().ok());
    assert!(!told.set_here);

    let answer = engine
        .set_permissions(by(ALICE, set("v1", "440")))
        .await
        .unwrap();
    assert_eq!(answer.rights.owner, told.owner);
    let by_whom = answer.set.unwrap().by;
    assert_eq!(by_whom.user_id, "uid:1001");
    let kept = engine.get(by(ALICE, id("a1"))).await.unwrap();
    assert!(!read_only(&kept), "what is attached stays as it is");
    engine.disconnect(by(ALICE, end("a1"))).await.unwrap();
    // Another process of the daemon, nobody attached, nothing told.
    let engine = world.engine();
    let made = engine
        .connect(by(ALICE, any("a2", "v1", smb("v1"))))
        .await
        .unwrap();
    assert_eq!(
        made.access.reason(),
        "the volume's permissions 440 do not let its owner write"
    );
    // They win over what is told.
    let made = engine.connect(by(BOB, request("a3"))).await.unwrap();
    assert!(read_only(&made));
    assert_eq!(made.rights.permissions, "440".parse().ok());

    let answer = engine
        .set_permissions(by(ALICE, set("v1", "")))
        .await
        .unwrap();
    assert_eq!(answer.set, None);
    assert_eq!(
        answer.rights.permissions, None,
        "those who were attached by it do not bring it back"
    );
    for (uid, id) in [(ALICE, "a2"), (BOB, "a3")] {
        engine.disconnect(by(uid, end(id))).await.unwrap();
    }
    let made = engine.connect(by(BOB, request("a4"))).await.unwrap();
    assert!(!read_only(&made));
    assert!(world.state().permissions.is_empty());
}

#[tokio::test]
async fn what_was_told_counts_where_nothing_is() {
    let world = World::new();
    let engine = world.engine();
    let first = with(any("a1", "v1", smb("v1")), facts("440"));
    engine.connect(by(ALICE, first)).await.unwrap();
    let untold = any("a2", "v1", smb("v1"));
    assert!(read_only(&engine.connect(by(BOB, untold)).await.unwrap()));
    const CAROL: u32 = 1003;
    let stranger = any("a3", "v1", smb("v1"));
    assert_eq!(
        reason(engine.connect(by(CAROL, stranger)).await),
        Reason::PermissionDenied
    );
}

#[tokio::test]
async fn who_reads_stands_beside_a_writer_only_where_that_is_safe() {
    let world = World::new();
    let engine = world.engine();
    let reader = |id: &str, info: ConnectionInfo| {
        let mut request = any(id, "v1", info);
        request.access = Some(Access::ReadOnly);
        request
    };
    // A reader that came first, and knew of no writer.
    engine
        .connect(by(BOB, reader("r1", nfs("v1"))))
        .await
        .unwrap();
    let writer = engine.connect(by(ALICE, any("w1", "v1", nfs("v1")))).await;
    assert_eq!(reason(writer), Reason::VolumeInUse);
    engine.disconnect(by(BOB, end("r1"))).await.unwrap();
    // One device for the whole host.
    for info in [nvme as fn(&str) -> ConnectionInfo, iscsi] {
        engine
            .connect(by(ALICE, any("w1", "v1", info("v1"))))
            .await
            .unwrap();
        let error = engine
            .connect(by(BOB, any("r1", "v1", info("v1"))))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::VolumeInUse);
        assert!(
            error.to_string().contains("one device on this host"),
            "{error}"
        );
        engine.disconnect(by(ALICE, end("w1"))).await.unwrap();
    }
    // An image.
    world.state().format = ImageFormat::Qcow2;
    engine
        .connect(by(ALICE, any("w1", "v1", nfs("v1"))))
        .await
        .unwrap();
    let error = engine.connect(by(BOB, any("r1", "v1", nfs("v1")))).await;
    assert_eq!(reason(error), Reason::VolumeInUse);
    engine.disconnect(by(ALICE, end("w1"))).await.unwrap();
    let mut shareable = reader("r1", nfs("v1"));
    shareable.disk.shareable = true;
    engine.connect(by(BOB, shareable)).await.unwrap();
    let error = engine.connect(by(ALICE, any("w1", "v1", nfs("v1")))).await;
    assert_eq!(reason(error), Reason::VolumeInUse);
    engine.disconnect(by(BOB, end("r1"))).await.unwrap();
    nothing_left(&world);
    // Xen knows no locks.
    let world = World::of(Dialect::Xen);
    let engine = world.engine();
    engine
        .connect(by(ALICE, any("w1", "v1", nfs("v1"))))
        .await
        .unwrap();
    let mut shareable = any("r1", "v1", nfs("v1"));
    for consents in [false, true] {
        shareable.disk.shareable = consents;
        let error = engine.connect(by(BOB, shareable.clone())).await;
        assert_eq!(reason(error), Reason::VolumeInUse, "{consents}");
    }
}

#[tokio::test]
async fn of_two_at_once_one_writes() {
    for at in 0..20 {
        let world = World::new();
        let engine = world.engine();
        // The first stands still at every call in turn, while the second goes through.
        world.gate.arm(at, Fault::Hold);
        let first = {
            let engine = engine.clone();
            // One that looks at its domain between the decision and the word in the journal.
            let mut request = attach("a1", "v1", smb("v1"));
            request.access = None;
            tokio::spawn(async move { engine.attach(by(ALICE, request)).await })
        };
        let stands = tokio::select! {
            () = world.gate.died() => true,
            () = until("it is done", async || first.is_finished()) => false,
        };
        world.gate.disarm();
        let second = engine.connect(by(BOB, any("a2", "v1", smb("v1")))).await;
        world.gate.release();
        let made = [first.await.unwrap().unwrap(), second.unwrap()];
        let writers = made.iter().filter(|made| !read_only(made)).count();
        assert_eq!(writers, 1, "at {at}: {made:?}");
        for (made, uid) in made.iter().zip([ALICE, BOB]) {
            let record = engine.get(by(uid, made.id.clone())).await.unwrap();
            assert_eq!(record.access, made.access, "at {at}");
        }
        if !stands {
            return;
        }
    }
    panic!("it never ended");
}

#[tokio::test]
async fn a_plan_tells_what_is_decided_and_by_which_permissions() {
    let world = World::new();
    let engine = world.engine();
    let first = attach("a1", "v1", local("v1"));
    engine.attach(by(ALICE, first)).await.unwrap();
    let mut request = attach("a2", "v2", local("v2"));
    request.access = None;
    request.facts = facts("640");
    let plan = engine.plan(by(BOB, request.clone())).await.unwrap();
    assert_eq!(plan.rights.permissions, "640".parse().ok());
    assert!(plan.disk.xml.contains("<readonly/>"), "{}", plan.disk.xml);
    assert_eq!(
        plan.access.reason(),
        "the volume's permissions 640 do not let its group write"
    );
    let refused = by(1003, request);
    assert_eq!(reason(engine.plan(refused).await), Reason::PermissionDenied);
    let beside = AttachRequest {
        access: None,
        ..attach("a3", "v1", local("v1"))
    };
    // The domain has the disk; but who plans for another user is told first that it would be read-only.
    let mut request = beside;
    request.require_rw = true;
    assert_eq!(
        reason(engine.plan(by(BOB, request)).await),
        Reason::ReadWriteRefused
    );
}

#[tokio::test]
async fn an_attachment_made_anew_is_decided_anew() {
    let world = World::new();
    let engine = world.engine();
    let mut request = attach("a1", "v1", local("v1"));
    request.access = None;
    let made = engine.attach(by(ALICE, request.clone())).await.unwrap();
    assert!(!read_only(&made));
    engine
        .set_permissions(by_root(set("v1", "444")))
        .await
        .unwrap();
    // The domain shows a disk that its guest has no more.
    world.state().hollow.insert("ua-volattach-a1".into());
    let made = engine.attach(by(ALICE, request)).await.unwrap();
    assert!(read_only(&made));
    let xml = world.state().disks["ua-volattach-a1"].xml.clone();
    assert!(xml.contains("<readonly/>"), "{xml}");

    // The connection is lost, and the domain has the disk still, as it was.
    let world = World::new();
    let engine = world.engine();
    let mut request = attach("a1", "v1", nvme("v1"));
    request.access = None;
    engine.attach(by(ALICE, request.clone())).await.unwrap();
    engine
        .set_permissions(by_root(set("v1", "444")))
        .await
        .unwrap();
    world.state().connections.clear();
    let made = engine.attach(by(ALICE, request)).await.unwrap();
    assert!(read_only(&made));
    let xml = world.state().disks["ua-volattach-a1"].xml.clone();
    assert!(xml.contains("<readonly/>"), "{xml}");
}

#[tokio::test]
async fn an_attachment_is_not_in_its_own_way() {
    let world = World::new();
    let engine = world.engine();
    let request = any("a1", "v1", smb("v1"));
    let first = engine.connect(by(ALICE, request.clone())).await;
    let first = first.unwrap();
    // An earlier version made it, for nobody knows whom, and the host was started anew.
    let mut record = world.records().remove(0);
    record.holder = None;
    let bytes = serde_json::to_vec(&record).unwrap();
    world.state().records.insert("a1".into(), bytes);
    world.state().connections.clear();
    let made = engine.connect(by(ALICE, request)).await.unwrap();
    assert!(!read_only(&made), "{}", made.access.reason());
    assert_eq!(made.created, first.created, "it is the same one still");
}

#[tokio::test]
async fn force_goes_past_a_flush_that_fails_and_is_remembered() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().flush_fails = true;
    assert_eq!(
        reason(engine.detach(by_root(end("a1"))).await),
        Reason::DeviceBusy
    );
    assert_eq!(state(&engine, "a1").await, State::Failed);
    let force = |id: &str| EndRequest {
        force: true,
        ..end(id)
    };
    engine.detach(by_root(force("a1"))).await.unwrap();
    nothing_left(&world);

    // A guest that lets go later: what was asked for still holds, after a restart too.
    attached(&engine, "a2", "v2").await;
    world.state().guest = Guest::Ignores;
    let pending = engine.detach(by_root(force("a2"))).await;
    assert_eq!(reason(pending), Reason::UnplugPending);
    let engine = world.engine();
    world.let_go("ua-volattach-a2");
    reconcile::once(&engine).await;
    nothing_left(&world);
}

#[tokio::test]
async fn the_newest_word_counts_also_when_the_clock_was_set_back() {
    let world = World::new();
    let engine = world.engine();
    for (id, permissions) in [("a1", "640"), ("a2", "660")] {
        let mut request = any(id, "v1", smb("v1"));
        request.access = Some(Access::ReadOnly);
        let request = with(request, facts(permissions));
        engine.connect(by(ALICE, request)).await.unwrap();
    }
    let day = std::time::Duration::from_secs(24 * 3600);
    world.set_time("a1", "created", std::time::SystemTime::now() + day);
    let engine = world.engine();
    let known = engine.rights(&"v1".parse().unwrap()).await.unwrap();
    assert_eq!(known.permissions, "660".parse().ok());
    // The order goes on after a restart.
    let mut request = any("a3", "v1", smb("v1"));
    request.access = Some(Access::ReadOnly);
    let request = with(request, facts("600"));
    engine.connect(by(ALICE, request)).await.unwrap();
    let known = engine.rights(&"v1".parse().unwrap()).await.unwrap();
    assert_eq!(known.permissions, "600".parse().ok());
    let orders: Vec<u64> = world.records().iter().map(|it| it.course.order()).collect();
    assert_eq!(orders, [1, 2, 3]);
}
