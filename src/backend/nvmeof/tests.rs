mod repair;
mod tree;

use std::net::SocketAddr;

use nix::errno::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::made::Which;
use super::*;
use crate::backend::closed::closed_port;
use crate::config::Settings;
use crate::connection::ConnectionInfo;
use crate::model::{Device, Reason};
use crate::sys::worker::{Reply, WorkerError};
use tree::Tree;

const UUID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

fn backend() -> NvmeBackend {
    let workers = Workers::from_executable(PathBuf::new());
    let quarantine = Quarantine::new(workers.registry().clone());
    let own = Arc::new(Host::this());
    NvmeBackend::new(Settings::built_in().nvmeof, own, workers, quarantine)
}

const OWN: &str = "nqn.me";
const PORTAL: &str = "10.0.0.1:4420";
const SECOND: &str = "[fd00::2]:4421";

fn plan() -> HostPlan {
    let info = info(r#""ns_id":7"#);
    backend().plan(&info, Access::ReadWrite).unwrap()
}

fn info(identity: &str) -> Protocol {
    let json = format!(
        r#"{{"driver_volume_type":"nvmeof","target_nqn":"nqn.x",{identity},
            "portals":[["10.0.0.1","4420","tcp"],["fd00::2",4421,"tcp"]]}}"#
    );
    ConnectionInfo::from_cinder_json(&json).unwrap().protocol
}

#[test]
fn volumes_of_a_subsystem_share_its_controllers() {
    let backend = backend();
    let by_uuid = info(&format!(r#""vol_uuid":"{UUID}""#));
    let plan = backend.plan(&by_uuid, Access::ReadOnly).unwrap();
    let controller = |portal: &str| Claim::Controller {
        subsystem: "nqn.x".into(),
        portal: portal.into(),
    };
    assert_eq!(
        plan.claims,
        [
            Claim::Subsystem("nqn.x".into()),
            controller("10.0.0.1:4420"),
            controller("[fd00::2]:4421"),
        ]
    );
    assert_eq!(
        plan.path,
        PathBuf::from(format!("/dev/disk/by-id/nvme-uuid.{UUID}"))
    );
    assert_eq!(
        (plan.kind, plan.access),
        (SourceKind::Block, Access::ReadOnly)
    );
    let target = target(&plan).unwrap();
    let uuid = uuid::Uuid::try_parse(UUID).ok();
    assert_eq!(target.expected, Wwid::nvme(uuid, None, None));
    let portals: Vec<&str> = target
        .paths
        .iter()
        .map(|path| path.portal.as_str())
        .collect();
    assert_eq!(portals, ["10.0.0.1:4420", "[fd00::2]:4421"]);
    let by_number = backend
        .plan(&info(r#""ns_id":7"#), Access::ReadWrite)
        .unwrap();
    assert_eq!(by_number.claims, plan.claims);
    assert_eq!(self::target(&by_number).unwrap().paths[0].lun, Some(7));
}

#[test]
fn the_kernel_is_given_every_time_out() {
    let own = NvmeHost {
        nqn: "nqn.me".into(),
        id: uuid::Uuid::try_parse(UUID).unwrap(),
    };
    let portal = "[fd00::2]:4421".parse().unwrap();
    let options = path::options(&Settings::built_in().nvmeof, "nqn.x", portal, &own);
    insta::assert_snapshot!(options, @"transport=tcp,traddr=fd00::2,trsvcid=4421,nqn=nqn.x,hostnqn=nqn.me,hostid=7c9e6679-7425-40de-944b-e07fc1f90ae7,keep_alive_tmo=5,reconnect_delay=2,fast_io_fail_tmo=15,ctrl_loss_tmo=600");
    let mut settings = Settings::built_in().nvmeof;
    settings.ctrl_loss_tmo = None;
    let options = path::options(&settings, "nqn.x", portal, &own);
    assert!(options.ends_with(",ctrl_loss_tmo=-1"), "{options}");
}

#[test]
fn a_plan_is_told_in_words() {
    let backend = backend();
    let info = info(r#""ns_id":7"#);
    let plan = backend.plan(&info, Access::ReadOnly).unwrap();
    let words = backend.describe(&info, &plan);
    insta::assert_snapshot!(words.connect, @"connect by NVMe/TCP to 10.0.0.1:4420, [fd00::2]:4421; the namespace 7 of nqn.x must tell its identity, the same on every path; make its device read-only");
    assert_eq!(words.settings.len(), 7);
}

#[test]
fn another_protocols_volume_is_no_business_of_this_one() {
    let local = r#"{"driver_volume_type":"local","device_path":"/dev/x"}"#;
    let local = ConnectionInfo::from_cinder_json(local).unwrap().protocol;
    let error = backend().plan(&local, Access::ReadOnly).unwrap_err();
    assert_eq!(error.reason(), Reason::Internal);
}

/// Recognizes volattach's controllers by the survey before them, also after a restart; those of an earlier build, by their time-out.
#[tokio::test]
async fn only_controllers_that_volattach_made_are_ended() {
    let mut tree = Tree::new();
    let mut volume = HostVolume::from(plan());
    for (name, portal) in [
        ("nvme0", PORTAL),
        ("nvme1", SECOND),
        ("nvme2", "10.0.0.9:4420"),
    ] {
        tree.controller(name, portal, OWN);
    }
    tree.backend.recall(std::slice::from_ref(&volume));
    assert_eq!(tree.ours(&volume).await, ["nvme0", "nvme1"]);
    assert!(tree.of_others(&volume.plan).await.is_empty());
    tree.set("nvme1", "fast_io_fail_tmo", "off");
    tree.restart();
    tree.backend.recall(std::slice::from_ref(&volume));
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
    volume.found.controllers_of_others = vec![tree.id("nvme1")];
    tree.restart();
    assert!(tree.ours(&volume).await.is_empty(), "nobody remembers any");
    tree.set("nvme1", "fast_io_fail_tmo", "15"); // set by the operator
    tree.backend.recall(std::slice::from_ref(&volume));
    tree.set("nvme0", "fast_io_fail_tmo", "off");
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
    let of_others = [tree.id("nvme1")];
    assert_eq!(tree.of_others(&volume.plan).await, of_others);
    // The controller of others is gone, and volattach made one there for another attachment, which is detached before the restart.
    tree.anew("nvme1");
    tree.restart();
    tree.backend.recall(std::slice::from_ref(&volume));
    assert_eq!(tree.ours(&volume).await, ["nvme1"]);
}

/// A portal where volattach connected once is not its own: another program may connect there, under the same host name.
#[tokio::test]
async fn a_controller_is_ours_and_not_its_portal() {
    let tree = Tree::new();
    let volume = HostVolume::from(plan());
    let first: SocketAddr = PORTAL.parse().unwrap();
    let made = &tree.backend.made;
    let refused = Err(WorkerError::Failed {
        step: "connect".to_owned(),
        errno: Errno::ECONNREFUSED,
    });
    // The connect is refused; a later controller there is another program's.
    let settle = async |connected: Result<Reply, WorkerError>| {
        let before = made.note("nqn.x", first, Which::Next);
        let target = ("nqn.x", first);
        tree.backend.settle(target, &connected, before).await;
        tree.ours(&volume).await
    };
    assert!(settle(refused).await.is_empty());
    tree.controller("nvme0", PORTAL, OWN);
    assert!(tree.ours(&volume).await.is_empty());
    assert_eq!(tree.of_others(&volume.plan).await, [tree.id("nvme0")]);
    // Another program was faster: its controller is not volattach's either.
    let faster = Err(WorkerError::Failed {
        step: "connect".to_owned(),
        errno: Errno::EALREADY,
    });
    assert!(settle(faster).await.is_empty());
    // A controller made by volattach, under the same name and at a portal where others had one.
    tree.anew("nvme0");
    assert_eq!(settle(Ok(Reply::Done)).await, ["nvme0"]);
    assert!(tree.of_others(&volume.plan).await.is_empty());
    assert_eq!(tree.backend.find(&volume).await.unwrap(), Presence::Partial);
    let all = tree.backend.find_all(vec![volume.clone()]).await;
    assert!(matches!(all[..], [Ok(Presence::Partial)]));
    // The controller is lost, and made again by another program.
    tree.anew("nvme0");
    assert!(tree.ours(&volume).await.is_empty());
    assert_eq!(tree.of_others(&volume.plan).await, [tree.id("nvme0")]);
    tree.release(&volume).await.unwrap();
    // A controller that others are connecting is theirs too.
    tree.set("nvme0", "subsysnqn", "(efault)");
    assert_eq!(tree.of_others(&volume.plan).await, [tree.id("nvme0")]);
}

/// Waits for and ends a connect that the kernel has begun and not answered, and nothing else that begins there.
#[tokio::test]
async fn a_connect_that_was_given_up_is_known_by_what_it_began() {
    let mut tree = Tree::new();
    let volume = HostVolume::from(plan());
    let given_up = || {
        Err(WorkerError::Deadline {
            pid: 1,
            within: LOOK,
            reaped: false,
        })
    };
    let target = ("nqn.x", PORTAL.parse().unwrap());
    tree.backend.settle(target, &given_up(), None).await;
    tree.controller("nvme0", PORTAL, OWN);
    assert_eq!(tree.ours(&volume).await, ["nvme0"], "late");
    // The kernel gave up as well, and another program's tool connects, without the time-out.
    tree.set("nvme0", "fast_io_fail_tmo", "off");
    assert!(tree.ours(&volume).await.is_empty());
    tree.set("nvme0", "fast_io_fail_tmo", "15");
    tree.set("nvme0", "subsysnqn", "(efault)");
    tree.backend.settle(target, &given_up(), None).await;
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
    tree.set("nvme0", "subsysnqn", "nqn.x");
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
    tree.anew("nvme0");
    assert!(tree.ours(&volume).await.is_empty());
    // The next daemon finds the connect that the last one has begun, and nothing if no controller exists.
    tree.set("nvme0", "subsysnqn", "(efault)");
    tree.restart();
    tree.backend.recall(std::slice::from_ref(&volume));
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
    tree.gone("nvme0");
    tree.restart();
    tree.backend.recall(std::slice::from_ref(&volume));
    tree.controller("nvme0", PORTAL, OWN);
    assert!(tree.ours(&volume).await.is_empty());
}

/// A detach ends a controller that reconnects, which by `ctrl_loss_tmo = "off"` goes on for ever.
#[tokio::test]
async fn a_controller_that_reconnects_is_ended() {
    let tree = Tree::new();
    let volume = HostVolume::from(plan());
    tree.controller("nvme0", PORTAL, OWN);
    tree.backend.recall(std::slice::from_ref(&volume));
    for state in ["connecting", "resetting", "live"] {
        tree.set("nvme0", "state", state);
        tree.set("nvme0", "ctrl_loss_tmo", "off");
        // No worker exists here: the job that ends the controller fails.
        let ended = tree.release(&volume).await.unwrap_err();
        assert!(ended.contains("nvme0"), "{state}: {ended}");
    }
}

/// The kernel connects this host's own name beside another name at the same portal: each controller goes with the program that made it.
#[tokio::test]
async fn controllers_by_another_host_name_are_nobodys_here() {
    let tree = Tree::new();
    let plan = plan();
    tree.controller("nvme0", PORTAL, "nqn.other");
    assert!(tree.of_others(&plan).await.is_empty());
    tree.controller("nvme1", PORTAL, OWN);
    assert_eq!(tree.of_others(&plan).await, [tree.id("nvme1")]);
    tree.set("nvme1", "hostnqn", ""); // before Linux 5.2
    assert_eq!(tree.of_others(&plan).await, [tree.id("nvme1")]);

    let volume = HostVolume::from(plan);
    tree.backend.recall(std::slice::from_ref(&volume));
    let find = async || {
        let found = tree.backend.find(&volume).await.unwrap();
        let all = tree.backend.find_all(vec![volume.clone()]).await;
        assert!(all.into_iter().all(|it| it.unwrap() == found));
        found
    };
    assert_eq!(find().await, Presence::Partial);
    let ended = tree.release(&volume).await.unwrap_err();
    assert!(ended.contains("nvme1"), "{ended}");
    tree.gone("nvme1");
    assert_eq!(find().await, Presence::Absent);
    tree.release(&volume).await.unwrap();
    tree.set("nvme0", "subsysnqn", "(efault)");
    assert_eq!(find().await, Presence::Absent);
}

/// With native multipath off, each controller has a device of its own, which goes away with the controller.
#[tokio::test]
async fn a_device_that_goes_by_one_controller_is_that_of_the_claimed_portal() {
    let mut tree = Tree::new();
    tree.backend.settings.device_timeout = Duration::ZERO;
    tree.controller("nvme0", PORTAL, OWN);
    tree.disk("nvme0n1", "nvme0");
    tree.controller("nvme1", SECOND, "nqn.other");
    tree.disk("nvme1n1", "nvme1");
    let info = info(r#""ns_id":7"#);
    let wanted = Wanted::new(volume(&info).unwrap());
    let mut plan = plan();
    let Connection::Nvme(target) = &mut plan.connection else {
        panic!("{:?}", plan.connection);
    };
    target.paths.retain(|path| path.portal == SECOND);
    let appear = async |target: &TargetPlan| {
        let block = tree.backend.appear(target, &wanted).await;
        block
            .map(|block| block.name)
            .map_err(|error| error.reason())
    };
    let absent = Err(Reason::DeviceNotFound);
    assert_eq!(appear(target).await, absent, "of another host name");
    tree.controller("nvme2", SECOND, OWN);
    tree.disk("nvme2n1", "nvme2");
    assert_eq!(appear(target).await, Ok("nvme2n1".to_owned()));
    tree.set("nvme2", "state", "connecting");
    let lost = Err(Reason::ServerTimeout);
    assert_eq!(appear(target).await, lost, "its own path is dead");
}

/// The last attachment that only reads a device makes a device that stays writable again, also after a restart.
#[tokio::test]
async fn what_attachments_alone_made_read_only_is_made_writable_again() {
    let tree = Tree::new();
    tree.controller("nvme0", "10.0.0.9:4420", OWN);
    tree.disk("nvme0n1", "nvme0");
    // A device that a controller of others keeps, which a detach does not write out.
    let device = Device {
        path: "/dev/nvme0n1".into(),
        identity: tree.backend.fabric.blocks("nqn.x").unwrap().remove(0).wwid,
        sequence: None,
    };
    let mut volume = HostVolume::from(plan());
    volume.found.device = Some(device.clone());
    for (protected, keeps_read_only) in [(true, false), (true, true), (false, false)] {
        for held in [vec![], vec![Claim::Subsystem("nqn.x".into())]] {
            volume.found.protected = protected;
            let backend = tree.anew_backend();
            backend.recall(std::slice::from_ref(&volume));
            assert_eq!(backend.protected.has(&device), protected);
            let how = Release {
                held,
                keeps_read_only,
                force: false,
            };
            // No worker exists here: a job that is tried fails.
            let released = backend.disconnect(&volume, &how).await;
            let again = released.is_err_and(|it| it.to_string().contains("writable again"));
            assert_eq!(again, protected && !keeps_read_only);
        }
    }
}

/// A portal that answers a probe.
async fn portal_that_answers() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let portal = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 128];
            stream.read_exact(&mut request).await.unwrap();
            let mut answer = [0; 128];
            (answer[0], answer[2]) = (1, 128);
            stream.write_all(&answer).await.unwrap();
        }
    });
    portal
}

/// Waits until a connect waits for the turn of its portal. No worker exists here: a connect that asks for one fails.
async fn waits_in_line<T: std::fmt::Debug>(
    tree: &Tree,
    key: &(String, SocketAddr),
    connect: impl Future<Output = T> + Unpin,
) {
    let waits = async {
        while tree.backend.connects.users(key) < 2 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        done = connect => panic!("did not wait for the other connect: {done:?}"),
        waited = tokio::time::timeout(Duration::from_secs(30), waits) => waited.unwrap(),
    }
}

/// Two volumes never connect to one portal at the same time, and a volume whose portal is connected waits for nobody.
#[tokio::test]
async fn a_portal_has_one_connect_at_a_time() {
    let tree = Tree::new();
    let own = tree.backend.own_name().await.unwrap();
    let portal = portal_that_answers().await;
    let key = ("nqn.x".to_owned(), portal);
    let turn = tree.backend.connects.lock(key.clone()).await;
    let mut connect = Box::pin(tree.backend.connect_path("nqn.x", portal, &own));
    waits_in_line(&tree, &key, &mut connect).await;
    tree.controller("nvme0", &portal.to_string(), OWN);
    let connected = tree.backend.connect_path("nqn.x", portal, &own).await;
    assert!(connected.is_ok(), "{connected:?}");
    drop(turn);
    let made_by_the_other = connect.await;
    assert!(made_by_the_other.is_ok(), "{made_by_the_other:?}");
}

fn timeout() -> BackendError {
    BackendError::Silent {
        host: "nqn.x".to_owned(),
        attempts: vec![],
    }
}

/// Callers that queue for a portal that hangs do not each wait out their own time.
#[tokio::test]
async fn a_queued_connect_is_refused_once_its_portal_is_quarantined() {
    let tree = Tree::new();
    let own = tree.backend.own_name().await.unwrap();
    let portal = portal_that_answers().await;
    let key = ("nqn.x".to_owned(), portal);
    let turn = tree.backend.connects.lock(key.clone()).await;
    let mut connect = Box::pin(tree.backend.connect_path("nqn.x", portal, &own));
    waits_in_line(&tree, &key, &mut connect).await;
    let server = Server::at(PROTOCOL, &portal.to_string());
    for _ in 0..2 {
        let quarantine = &tree.backend.quarantine;
        quarantine.silent(&server, Instant::now(), &timeout(), false);
    }
    drop(turn);
    let refused = connect.await.unwrap_err();
    assert!(
        matches!(refused, path::Fault::Quarantined(_)),
        "{refused:?}"
    );
}

/// Of two portals the quarantined one is not asked, and the other's failure is the volume's.
#[tokio::test]
async fn a_quarantined_portal_is_passed_over() {
    let tree = Tree::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let silent = listener.local_addr().unwrap();
    let closed = closed_port();
    let mut info = info(&format!(r#""vol_uuid":"{UUID}""#));
    let Protocol::Nvme(volume) = &mut info else {
        panic!("an NVMe volume")
    };
    volume.portals = vec![silent, closed];
    let quarantine = &tree.backend.quarantine;
    let portal = Server::at(PROTOCOL, &silent.to_string());
    for _ in 0..2 {
        quarantine.silent(&portal, Instant::now(), &timeout(), false);
    }
    let own = tree.backend.own_name().await.unwrap();
    let failed = tree.backend.connect_paths(volume, &own).await.unwrap_err();
    let text = failed.to_string();
    assert!(
        text.contains("quarantined since") && text.contains("connection refused"),
        "{text}"
    );
    assert!(!failed.is_silence(), "nobody was waited for");
    let asked = listener.accept().map(drop).unwrap_err();
    assert_eq!(asked.kind(), std::io::ErrorKind::WouldBlock);
}
