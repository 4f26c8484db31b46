mod credentials;
mod initiator;
mod paths;
mod release;
mod unrecorded;

use std::fs;
use std::os::unix::fs::symlink;

use nix::errno::Errno;

use super::connect::worst;
use super::disk::{Live, agree};
use super::login::POLL;
use super::patience::Patience;
use super::*;
use crate::backend::NoOthers;
use crate::connection::ConnectionInfo;
use crate::model::{Device, Reason};
use crate::sys::exec::Ended;
use crate::sys::worker::{Registry, Reply, WorkerError};

fn wwid(text: &str) -> Wwid {
    Wwid::as_spelled(text.to_owned())
}

/// The first path of a plan.
fn first_path(plan: &HostPlan) -> TargetPath {
    target_of(plan).unwrap().paths[0].clone()
}

/// A volume that was connected as that device.
fn connected(plan: HostPlan, path: &str, identity: &str) -> HostVolume {
    let mut volume = HostVolume::from(plan);
    volume.found.device = Some(Device {
        path: path.into(),
        identity: wwid(identity),
        sequence: None,
    });
    volume
}

fn backend(sys: &Path) -> IscsiBackend {
    let settings = config::Iscsi {
        nodes: "/nowhere/nodes".into(),
        interface: "default".to_owned(),
        probe_timeout: Duration::from_secs(3),
        login_timeout: Duration::from_secs(10),
        device_timeout: Duration::from_secs(30),
        error_policy: ErrorPolicy::Stop,
    };
    let quarantine = Quarantine::new(Registry::default());
    let mut initiator = Initiator::new(settings, Sysfs::new(sys.to_owned()), quarantine);
    initiator.lock = Arc::new(lock::DatabaseLock::new(sys.join("lock.write")));
    IscsiBackend {
        initiator,
        workers: Workers::from_executable(PathBuf::new()),
        seen: Arc::default(),
        own: Arc::default(),
        protected: Arc::default(),
        late: Arc::default(),
        multipathd: Multipathd::default(),
    }
}

fn info(members: &str) -> Protocol {
    let text = format!(r#"{{"driver_volume_type":"iscsi",{members}}}"#);
    ConnectionInfo::from_cinder_json(&text).unwrap().protocol
}

fn two_paths() -> Protocol {
    info(
        r#""target_portals":["10.0.0.1","[fd00::2]:3261"],"target_iqns":["iqn.a","iqn.b"],"target_luns":[3,300],
           "auth_method":"CHAP","auth_username":"u","auth_password":"hunter2","wwn":"60014051b2d3e4f5061728394a5b6c7d""#,
    )
}

const WWID: &str = "36001405198dea392afc21d070f8abfc7";

/// The same as the disk has it.
const NAA: [u8; 16] = [
    0x60, 0x01, 0x40, 0x51, 0x98, 0xde, 0xa3, 0x92, 0xaf, 0xc2, 0x1d, 0x07, 0x0f, 0x8a, 0xbf, 0xc7,
];

/// A kernel with one session, to iqn.a at 10.0.0.1:3260, whose LUN 3 is sda, of the map dm-0.
fn kernel() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = |path: &str, content: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let session = "devices/platform/host2/session7";
    let connection = format!("{session}/connection7:0/iscsi_connection/connection7:0");
    file(&format!("{connection}/persistent_address"), "10.0.0.1\n");
    file(&format!("{connection}/persistent_port"), "3260\n");
    let class = "class/iscsi_session/session7";
    file(&format!("{class}/targetname"), "iqn.a\n");
    file(&format!("{class}/state"), "LOGGED_IN\n");
    for login in ["username", "password", "username_in", "password_in"] {
        file(&format!("{class}/{login}"), "(null)\n");
    }
    symlink(
        dir.path().join(session),
        dir.path().join(class).join("device"),
    )
    .unwrap();
    file(
        &format!("{session}/target2:0:0/2:0:0:3/block/sda/ro"),
        "0\n",
    );
    file(&format!("{session}/target2:0:0/uevent"), "");
    let mut page = vec![0, 0x83, 0, 20, 1, 3, 0, 16];
    page.extend(NAA);
    let unit = dir.path().join(session).join("target2:0:0/2:0:0:3");
    fs::write(unit.join("vpd_pg83"), page).unwrap();
    file("block/sda/ro", "1\n");
    file("block/sda/holders/dm-0/x", "");
    file("block/dm-0/dm/uuid", &format!("mpath-{WWID}\n"));
    file("block/dm-0/slaves/sda/x", "");
    file("block/dm-1/dm/uuid", "LVM-x\n");
    dir
}

#[test]
fn the_kernels_tree_is_read() {
    let kernel = kernel();
    let backend = backend(kernel.path());
    let plan = backend.plan(&two_paths(), Access::ReadWrite).unwrap();
    let paths = &target_of(&plan).unwrap().paths;
    let session = backend.initiator.session(&paths[0]).unwrap();
    assert_eq!(
        (session.id, session.host, session.logged_in()),
        (7, 2, true)
    );
    assert!(login::made_by(&session, None).unwrap());
    fs::remove_file(kernel.path().join("class/iscsi_session/session7/password")).unwrap();
    assert!(
        login::made_by(&session, None).is_err(),
        "none that can be read"
    );
    assert!(backend.initiator.session(&paths[1]).is_none());
    let unit = session.unit(3).unwrap();
    for (first, vacant) in [(0x00, false), (0x20, true), (0x7f, true)] {
        fs::write(unit.dir.join("inquiry"), [first, 0, 5]).unwrap();
        assert_eq!(unit.is_vacant(), vacant, "{first:#x}");
    }
    assert_eq!(unit.dir, session.unit_dir(3));
    assert_eq!(unit.identity_at_scan(), Some(wwid(WWID)));
    assert_eq!(unit.block.as_deref(), Some("sda"));
    assert_eq!((session.units().len(), session.unit(4)), (1, None));
    let sysfs = backend.sysfs();
    let map = sysfs.map_over("sda").unwrap();
    assert_eq!((map.block.as_str(), map.wwid.as_str()), ("dm-0", WWID));
    assert_eq!(sysfs.map(&wwid(WWID)), Some(map.clone()));
    assert!(sysfs.partitions_of(&map).is_empty());
    let holder = |name: &str, uuid: &str| {
        let block = kernel.path().join("block");
        fs::create_dir_all(block.join("dm-0/holders").join(name)).unwrap();
        fs::create_dir_all(block.join(name).join("dm")).unwrap();
        fs::write(block.join(name).join("dm/uuid"), format!("{uuid}\n")).unwrap();
    };
    holder("dm-7", &format!("part1-mpath-{WWID}"));
    assert_eq!(sysfs.partitions_of(&map), ["dm-7"]);
    holder("dm-8", "LVM-x");
    assert!(sysfs.partitions_of(&map).is_empty(), "this host uses it");
    assert_eq!(sysfs.map(&wwid("x")), None);
    assert_eq!(sysfs.paths_of(&map), ["sda"]);
    assert!(sysfs.read_only("sda") && !sysfs.read_only("dm-0"));
}

#[tokio::test]
async fn a_disk_that_cannot_be_asked_is_not_taken_for_another_volume() {
    let kernel = kernel();
    // Workers of this backend do not start.
    let backend = backend(kernel.path());
    let plan = backend.plan(&two_paths(), Access::ReadWrite).unwrap();
    let path = first_path(&plan);
    let (_, unit) = backend.at(path.clone()).unwrap();
    let patience = Patience::default();
    let asked = backend.still_the_same(&path, &unit, &patience).await;
    let error = asked.unwrap_err();
    assert!(
        error.to_string().contains("ask /dev/sda who it is"),
        "{error}"
    );
    // Workers that end without an answer, and workers that are killed by their filter.
    for script in ["exit 3", "kill -SYS $$"] {
        let dying = IscsiBackend {
            workers: scripted(kernel.path(), script),
            ..backend.clone()
        };
        let asked = dying.still_the_same(&path, &unit, &patience).await;
        let error = asked.unwrap_err();
        assert_eq!(error.reason(), Reason::Internal, "{error}");
        assert!(unit.is_there());
    }

    let told = |errno| {
        let step = "open the device".to_owned();
        let error = verdict::untold(&path, "/dev/sda", WorkerError::Failed { step, errno });
        error.reason()
    };
    assert_eq!(told(Errno::EIO), Reason::DeviceIdentity);
    for errno in [Errno::ENXIO, Errno::ENODEV] {
        assert_eq!(
            told(errno),
            Reason::ServerTimeout,
            "{errno}: the kernel has it offline"
        );
    }
    for errno in [
        Errno::EAGAIN,
        Errno::EPERM,
        Errno::EACCES,
        Errno::EMFILE,
        Errno::ENOENT,
    ] {
        assert_eq!(told(errno), Reason::Internal, "{errno}");
    }
    assert_eq!(told(Errno::ETIMEDOUT), Reason::ServerTimeout);
}

#[test]
fn a_disk_is_who_the_journal_says_and_of_several_the_one_that_the_kernel_says() {
    let kernel = kernel();
    let sequence = kernel.path().join("block/sda/diskseq");
    for (number, recalled, first) in [
        (1, &["old"][..], "old"),
        (2, &["old", WWID], WWID),
        (3, &[WWID, "old"], WWID),
        (4, &[], WWID),
    ] {
        fs::write(&sequence, format!("{number}\n")).unwrap();
        let backend = backend(kernel.path());
        let plan = backend.plan(&two_paths(), Access::ReadWrite).unwrap();
        backend.recall(&[plan.clone().into()]); // nothing was verified
        for identity in recalled {
            backend.recall(&[connected(plan.clone(), "/dev/sda", identity)]);
        }
        let (_, unit) = backend.at(first_path(&plan)).unwrap();
        let seen = backend.seen.unit(backend.sysfs(), &unit);
        assert_eq!(seen, Some(wwid(first)));
    }
}

#[tokio::test]
async fn what_was_not_verified_is_never_found_whole() {
    let kernel = kernel();
    let backend = backend(kernel.path());
    let plan = backend.plan(&two_paths(), Access::ReadWrite).unwrap();
    let find = async |volume: HostVolume| {
        let found = backend.find(&volume).await.unwrap();
        let all = backend.find_all(vec![volume.clone(), volume]).await;
        assert!(all.into_iter().all(|it| it.unwrap() == found));
        found
    };
    assert_eq!(find(plan.clone().into()).await, Presence::Partial);
    let one_of_two = Presence::Degraded(crate::model::PathCount {
        working: 1,
        planned: 2,
    });
    for (path, identity, presence) in [
        ("/dev/sda", WWID, one_of_two),
        ("/dev/dm-0", WWID, one_of_two),
        ("/dev/sdb", WWID, Presence::Partial),
        ("/dev/sda", "another", Presence::Partial),
    ] {
        let volume = connected(plan.clone(), path, identity);
        assert_eq!(find(volume).await, presence, "{path}");
    }
    fs::remove_dir_all(kernel.path().join("class")).unwrap();
    assert_eq!(find(plan.into()).await, Presence::Absent);
}

#[test]
fn a_plan_names_all_that_takes_it_down_and_no_secret() {
    let backend = backend(Path::new("/nowhere"));
    let plan = backend.plan(&two_paths(), Access::ReadOnly).unwrap();
    let shown = serde_json::to_string_pretty(&plan).unwrap();
    assert!(!shown.contains("hunter2"), "{shown}");
    insta::assert_snapshot!(shown, @r#"
    {
      "protocol": "iscsi",
      "claims": [
        {
          "lun": {
            "target": "iqn.a",
            "lun": 3
          }
        },
        {
          "lun": {
            "target": "iqn.b",
            "lun": 300
          }
        }
      ],
      "connection": {
        "iscsi": {
          "transport": "tcp",
          "paths": [
            {
              "portal": "10.0.0.1:3260",
              "name": "iqn.a",
              "lun": 3
            },
            {
              "portal": "[fd00::2]:3261",
              "name": "iqn.b",
              "lun": 300
            }
          ],
          "interface": null,
          "expected": "360014051b2d3e4f5061728394a5b6c7d"
        }
      },
      "path": "/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.a-lun-3",
      "root": "/dev",
      "kind": "block",
      "format": "raw",
      "access": "ro",
      "keeps_owner": false
    }
    "#);
    let words = backend.describe(&two_paths(), &plan);
    insta::assert_snapshot!(words.connect, @r#"log in as "u" by CHAP, scan for LUN 3 of iqn.a at 10.0.0.1:3260 and for LUN 300 of iqn.b at [fd00::2]:3261; the disk must tell the identity 360014051b2d3e4f5061728394a5b6c7d, the same on every path; have multipathd join the paths"#);
    // The same LUN is the same connection, however it is reached and for whatever access.
    let swapped = info(
        r#""target_portals":["10.0.0.9","10.0.0.8"],"target_iqns":["iqn.b","iqn.a"],"target_luns":[300,3]"#,
    );
    let other = backend.plan(&swapped, Access::ReadWrite).unwrap();
    assert_eq!(other.claims, plan.claims);
    let single = info(r#""target_portal":"[fd00::2]","target_iqn":"iqn.b","target_lun":300"#);
    let other = backend.plan(&single, Access::ReadWrite).unwrap();
    assert_eq!(other.claims, plan.claims[1..]);
    assert_eq!(
        other.path,
        Path::new("/dev/disk/by-path/ip-fd00::2:3260-iscsi-iqn.b-lun-0x012c000000000000")
    );
}

/// A portal that takes connections, and says so to nobody.
#[tokio::test]
async fn a_quarantined_portal_is_not_asked() {
    let sys = tempfile::tempdir().unwrap();
    let initiator = backend(sys.path()).initiator;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let path = TargetPath {
        portal: listener.local_addr().unwrap().to_string(),
        name: "iqn.a".into(),
        lun: Some(1),
    };
    let portal = Server::at(PROTOCOL, &path.portal);
    let timeout = BackendError::Silent {
        host: "iqn.a".into(),
        attempts: vec![],
    };
    for _ in 0..2 {
        let began = tokio::time::Instant::now();
        initiator.quarantine.silent(&portal, began, &timeout, false);
    }
    let refused = initiator
        .login(&path, None, &Patience::default())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::ServerQuarantined, "{refused}");
    assert!(!refused.is_silence());
    let asked = listener.accept().map(drop).unwrap_err();
    assert_eq!(asked.kind(), std::io::ErrorKind::WouldBlock);
    // The portal's other error says more.
    let silent = BackendError::Silent {
        host: "iqn.a".into(),
        attempts: vec![],
    };
    let worst = worst(vec![refused, silent]);
    assert_eq!(worst.reason(), Reason::ServerTimeout);
    initiator.sign_of_life(&portal).await.unwrap();
    listener.accept().unwrap();
    // A refusal is a sign of life too.
    drop(listener);
    initiator.sign_of_life(&portal).await.unwrap();
}

#[test]
fn of_several_errors_the_most_telling_is_told_and_every_portal_tried() {
    let attempt = |port| {
        vec![super::super::Attempt {
            address: ([10, 0, 0, 1], port).into(),
            outcome: "x".into(),
            silent: true,
        }]
    };
    let silent = |port| BackendError::Silent {
        host: "iqn.a".into(),
        attempts: attempt(port),
    };
    let closed = BackendError::Unreachable {
        host: "iqn.a".into(),
        attempts: attempt(3),
    };
    let error = worst(vec![closed, silent(1), silent(2)]);
    assert_eq!(error.reason(), Reason::ServerTimeout);
    for port in [":1 ", ":2 ", ":3 "] {
        assert!(error.to_string().contains(port), "{error}");
    }
    let refused = BackendError::LoginRefused {
        target: "iqn.a".into(),
        who: "u".into(),
        why: "x".into(),
    };
    let error = worst(vec![silent(1), refused]);
    assert_eq!(error.reason(), Reason::LogonFailure);
}

#[test]
fn paths_must_agree_with_each_other_and_with_what_was_asked_for() {
    let path = TargetPath {
        portal: "10.0.0.1:3260".into(),
        name: "iqn.a".into(),
        lun: Some(3),
    };
    let live = |block: &str, identity: &str| Live {
        block: block.into(),
        old: false,
        told: Identity {
            wwid: wwid(identity),
            sequence: None,
        },
        _gate: Arc::default(),
    };
    let text = "360014051b2d3e4f5061728394a5b6c7d";
    let wanted = wwid(text);
    let both = [live("sda", text), live("sdb", text)];
    assert_eq!(agree(Some(&wanted), &path, &both).unwrap(), wanted);
    let mixed = [live("sda", text), live("sdb", WWID)];
    let error = agree(Some(&wanted), &path, &mixed).unwrap_err();
    assert_eq!(error.reason(), Reason::DeviceIdentity);
    let other = [live("sda", WWID)];
    let error = agree(Some(&wanted), &path, &other).unwrap_err();
    assert!(error.to_string().contains("must be"), "{error}");
    assert_eq!(agree(None, &path, &other).unwrap(), wwid(WWID));
}

#[test]
fn what_iscsiadm_ends_with_has_its_reason() {
    let path = TargetPath {
        portal: "10.0.0.1:3260".into(),
        name: "iqn.a".into(),
        lun: Some(3),
    };
    let address = ([10, 0, 0, 1], 3260).into();
    for (code, reason) in [
        (Some(4), Reason::ServerUnreachable),
        (Some(8), Reason::ServerTimeout),
        (Some(11), Reason::ServerTimeout),
        (Some(19), Reason::LoginFailed),
        (Some(20), Reason::LoginFailed),
        (Some(24), Reason::LogonFailure),
        (None, Reason::LoginFailed),
    ] {
        let ended = Ok(Ended {
            code,
            said: "x".into(),
            output: String::new(),
        });
        let error = login::meaning(&path, address, None, ended, Duration::from_secs(3));
        assert_eq!(error.reason(), reason, "{code:?}: {error}");
    }
    // As open-iscsi 2.1.8 says it, without the capability to load modules.
    let ended = Ok(Ended {
        code: Some(21),
        said: "iscsiadm: Could not insert module tcp. Kmod error -1 iscsiadm: Could not load transport tcp.Dropping \
               interface default."
            .into(),
        output: String::new(),
    });
    let error = login::meaning(&path, address, None, ended, Duration::from_secs(3));
    assert!(error.to_string().contains("modprobe iscsi_tcp"), "{error}");
}

/// A worker that gives one answer to every job, and keeps a log of the jobs.
fn worker(dir: &Path, reply: &str) -> Workers {
    let jobs = dir.join("jobs");
    scripted(dir, &format!("cat >>{}; echo '{reply}'", jobs.display()))
}

/// A worker that is this shell script.
fn scripted(dir: &Path, script: &str) -> Workers {
    Workers::from_executable(program(dir, "worker", script))
}

/// A program that is this shell script.
fn program(dir: &Path, name: &str, script: &str) -> PathBuf {
    let executable = dir.join(name);
    // By another process: while this one had it open for writing, whatever another test starts would have it open too, and it
    // could not be run (ETXTBSY).
    let mut write = std::process::Command::new("sh");
    write.args([
        "-c",
        "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2\" && chmod +x \"$2\"",
        "sh",
    ]);
    assert!(
        write
            .arg(script)
            .arg(&executable)
            .status()
            .unwrap()
            .success()
    );
    executable
}

#[tokio::test]
async fn a_disk_of_a_silent_target_is_no_leftover() {
    let single = info(r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":3"#);
    for (errno, reason, removed) in [
        (Errno::ETIMEDOUT, Reason::ServerTimeout, false),
        (Errno::EIO, Reason::Internal, true),
    ] {
        let kernel = kernel();
        let reply = format!(r#"{{"failed":{{"step":"ask","errno":{}}}}}"#, errno as i32);
        let backend = IscsiBackend {
            workers: worker(kernel.path(), &reply),
            ..backend(kernel.path())
        };
        let plan = backend.plan(&single, Access::ReadOnly).unwrap();
        let error = backend
            .connect(&plan.into(), &single, &NoOthers, HeadStart::default())
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        let jobs = fs::read_to_string(kernel.path().join("jobs")).unwrap();
        assert!(jobs.contains("identify"), "{jobs}");
        assert_eq!(jobs.contains("delete"), removed, "{jobs}");
    }
}

#[tokio::test]
async fn a_disk_that_appears_too_late_is_removed_unless_an_attach_took_it_over() {
    let single = info(r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":3"#);
    for taken in [false, true] {
        let kernel = kernel();
        let backend = IscsiBackend {
            workers: worker(kernel.path(), r#""done""#),
            ..backend(kernel.path())
        };
        // Another's disk, for which the session stays.
        let units = kernel
            .path()
            .join("devices/platform/host2/session7/target2:0:0");
        fs::create_dir(units.join("2:0:0:4")).unwrap();
        let plan = backend.plan(&single, Access::ReadWrite).unwrap();
        let path = first_path(&plan);
        let session = backend.initiator.session(&path).unwrap();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let scan = tokio::spawn(async move {
            let _ = ended.await;
            Ok(Reply::Done)
        });
        let removed = tokio::spawn(backend.clone().remove_late(path.clone(), session, scan));
        if taken {
            backend.late.take_over(&path).await;
        }
        // It is gone with the job that deletes it, which here nobody does.
        end.send(()).unwrap();
        let deleted = async {
            while !fs::read_to_string(kernel.path().join("jobs"))
                .is_ok_and(|jobs| jobs.contains("delete"))
            {
                tokio::time::sleep(POLL).await;
            }
            fs::remove_dir_all(
                kernel
                    .path()
                    .join("devices/platform/host2/session7/target2:0:0"),
            )
            .unwrap();
        };
        match taken {
            true => removed.await.unwrap(),
            false => drop(tokio::join!(deleted, removed)),
        }
        assert_eq!(kernel.path().join("jobs").exists(), !taken);
    }
}
