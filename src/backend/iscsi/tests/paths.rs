//! Paths that are missing: at an attach, and made beside the others.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::backend::closed::wait_closed;
use crate::model::PathCount;

/// The kernel's session to iqn.a by 10.0.0.1:3260, a second portal of the target that may listen, an iscsiadm, workers and multipathd.
struct Host {
    kernel: tempfile::TempDir,
    backend: IscsiBackend,
    /// The second portal, which nobody may serve.
    portal: String,
    /// What multipathd was asked.
    asked: Arc<std::sync::Mutex<Vec<String>>>,
}

/// A loopback address of this process and test: nobody else takes the port of a portal that is down.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(2);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, a, b, c] = (std::process::id().wrapping_mul(64) + number % 64).to_be_bytes();
    Ipv4Addr::new(127, a, b, c)
}

impl Host {
    fn new() -> Self {
        let kernel = kernel();
        let listener = TcpListener::bind((own_address(), 0)).unwrap();
        let portal = listener.local_addr().unwrap().to_string();
        drop(listener);
        wait_closed(&portal);
        let (mut backend, dir) = (backend(kernel.path()), kernel.path());
        for (file, value) in [("username", "u\n"), ("password", "hunter2\n")] {
            fs::write(dir.join("class/iscsi_session/session7").join(file), value).unwrap();
        }
        fs::create_dir(dir.join("nodes")).unwrap();
        fs::write(dir.join("first"), identity(WWID)).unwrap();
        backend.initiator.settings.nodes = dir.join("nodes");
        // Long enough for no test to wait for.
        backend.initiator.settings.device_timeout = Duration::from_secs(600);
        let iscsiadm = program(dir, "iscsiadm", &iscsiadm(dir, &portal));
        backend.initiator.iscsiadm = iscsiadm.to_str().unwrap().to_owned();
        backend.workers = scripted(dir, &worker(dir));
        let asked = Arc::default();
        backend.multipathd.socket = multipathd(dir.to_owned(), Arc::clone(&asked));
        Self {
            kernel,
            backend,
            portal,
            asked,
        }
    }

    fn dir(&self) -> &Path {
        self.kernel.path()
    }

    /// Has somebody listen at the second portal.
    fn serve(&self) -> TcpListener {
        TcpListener::bind(&self.portal).unwrap()
    }

    /// Puts a volume behind the LUN at the second portal.
    fn map(&self, identity: &str) {
        fs::write(self.dir().join("mapped"), identity).unwrap();
    }

    fn info(&self) -> Protocol {
        info(&format!(
            r#""target_portals":["10.0.0.1","{}"],"target_iqns":["iqn.a","iqn.a"],"target_luns":[3,3],
               "auth_method":"CHAP","auth_username":"u","auth_password":"hunter2""#,
            self.portal
        ))
    }

    /// The volume, connected by the first portal.
    fn volume(&self) -> HostVolume {
        let plan = self.backend.plan(&self.info(), Access::ReadWrite).unwrap();
        connected(plan, "/dev/dm-0", WWID)
    }

    async fn presence(&self) -> Presence {
        self.backend.find(&self.volume()).await.unwrap()
    }

    fn log(&self, file: &str) -> String {
        fs::read_to_string(self.dir().join(file)).unwrap_or_default()
    }

    fn has_second_session(&self) -> bool {
        self.dir().join("class/iscsi_session/session8").exists()
    }

    fn asked(&self, command: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|it| it == command)
    }
}

/// A worker's reply of a disk with that identity.
fn identity(identity: &str) -> String {
    format!(r#"{{"identity":{{"identity":"{identity}","sequence":null}}}}"#)
}

/// Makes and ends session 8, to the second portal, and keeps what it was asked and the record that it went by.
fn iscsiadm(dir: &Path, portal: &str) -> String {
    let (dir, (address, port)) = (dir.display(), portal.split_once(':').unwrap());
    format!(
        r#"cd {dir}; echo "$*" >>calls
        class=class/iscsi_session/session8; session=devices/platform/host3/session8
        connection=$session/connection8:0/iscsi_connection/connection8:0
        case "$*" in
        *--login)
            cat "nodes/iqn.a/{address},{port}" >>record
            mkdir -p $class $connection
            echo {address} >$connection/persistent_address; echo {port} >$connection/persistent_port
            cp class/iscsi_session/session7/[!d]* $class; echo u >$class/username; echo hunter2 >$class/password
            ln -s {dir}/$session $class/device;;
        *--logout) rm -r $class devices/platform/host3;;
        esac"#
    )
}

/// Scans for the second portal's disk, sdb, and removes it; every other disk is the volume.
fn worker(dir: &Path) -> String {
    let dir = dir.display();
    let page: String = [0, 0x83, 0, 20, 1, 3, 0, 16]
        .iter()
        .chain(&NAA)
        .map(|byte: &u8| format!("\\{byte:03o}"))
        .collect();
    format!(
        r#"cd {dir}; jobs=$(cat); echo "$jobs" >>jobs
        unit=devices/platform/host3/session8/target3:0:0/3:0:0:3
        case $jobs in
        *'"scan"'*)
            if [ ! -e mapped ]; then
                sleep 0.1; echo '{{"unit":{{"block":null,"told":{{"identity":null,"sequence":null}}}}}}'; exit
            fi
            mkdir -p $unit/block/sdb block/sdb/holders; printf '{page}' >$unit/vpd_pg83
            echo '{{"unit":{{"block":"sdb","told":{{"identity":"'$(cat mapped)'","sequence":null}}}}}}';;
        *delete*) rm -r devices/platform/host3/session8/target3:0:0 block/sdb; echo '"done"';;
        */dev/sda*) cat first;;
        *) echo '{{"identity":{{"identity":"{WWID}","sequence":null}}}}';;
        esac"#
    )
}

/// A multipathd that takes whatever path it is given into the map dm-0. Returns its socket's name.
fn multipathd(sys: PathBuf, asked: Arc<std::sync::Mutex<Vec<String>>>) -> String {
    let name = format!("\0volattach-test-{}", uuid::Uuid::new_v4());
    let listener = tokio::net::UnixListener::bind(&name).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut length = [0; size_of::<usize>()];
            stream.read_exact(&mut length).await?;
            let mut command = vec![0; usize::from_ne_bytes(length)];
            stream.read_exact(&mut command).await?;
            let command = String::from_utf8(command).unwrap();
            let command = command.trim_end_matches('\0');
            let answer = answer(&sys, command);
            asked.lock().unwrap().push(command.to_owned());
            stream.write_all(&answer.len().to_ne_bytes()).await?;
            stream.write_all(answer.as_bytes()).await?;
        }
        #[expect(unreachable_code, reason = "names the type")]
        io::Result::Ok(())
    });
    name
}

fn answer(sys: &Path, command: &str) -> &'static str {
    let block = sys.join("block");
    match command.split_once(" path ") {
        _ if command == "show config local" => return "recheck_wwid yes\n\0",
        Some(("add", path)) => {
            fs::create_dir_all(block.join("dm-0/slaves").join(path)).unwrap();
            fs::create_dir_all(block.join(path).join("holders/dm-0")).unwrap();
        }
        Some(("del", path)) => {
            let _ = fs::remove_dir_all(block.join("dm-0/slaves").join(path));
        }
        _ => (),
    }
    "ok\n\0"
}

const ONE_OF_TWO: Presence = Presence::Degraded(PathCount {
    working: 1,
    planned: 2,
});

async fn repairable(backend: &IscsiBackend, volume: &HostVolume) -> Vec<TargetPath> {
    backend.repairable(vec![volume.clone()]).await.remove(0)
}

#[tokio::test]
async fn a_path_is_made_once_its_portal_answers_by_the_login_of_the_others() {
    let host = Host::new();
    let (backend, volume) = (&host.backend, host.volume());
    assert_eq!(host.presence().await, ONE_OF_TWO);
    assert_eq!(repairable(backend, &volume).await, [], "no portal answers");
    let _served = host.serve();
    host.map(WWID);
    let paths = repairable(backend, &volume).await;
    assert_eq!(paths, target_of(&volume.plan).unwrap().paths[1..]);
    backend.repair(&volume, &paths, None).await.unwrap();
    assert_eq!(host.presence().await, Presence::Present);
    assert_eq!(repairable(backend, &volume).await, []);
    assert!(host.asked("add path sdb"));
    let (record, calls) = (host.log("record"), host.log("calls"));
    assert!(record.contains("auth.username = u\n"), "{record}");
    assert!(record.contains("auth.password = hunter2\n"), "{record}");
    assert!(!calls.contains("hunter2"), "{calls}");
    // The connection broke: iscsid makes it again, nobody else.
    let state = host.dir().join("class/iscsi_session/session8/state");
    fs::write(state, "FAILED\n").unwrap();
    assert_eq!(host.presence().await, ONE_OF_TWO);
    assert_eq!(repairable(backend, &volume).await, []);
    // Both are broken.
    let state = host.dir().join("class/iscsi_session/session7/state");
    fs::write(state, "FAILED\n").unwrap();
    let none = Presence::Degraded(PathCount {
        working: 0,
        planned: 2,
    });
    assert_eq!(host.presence().await, none);
}

#[tokio::test]
async fn a_disk_outside_of_the_map_is_no_path_and_taken_in_again() {
    let host = Host::new();
    let (backend, volume) = (&host.backend, host.volume());
    let _served = host.serve();
    host.map(WWID);
    let paths = repairable(backend, &volume).await;
    backend.repair(&volume, &paths, None).await.unwrap();
    fs::remove_dir(host.dir().join("block/dm-0/slaves/sdb")).unwrap();
    assert_eq!(host.presence().await, ONE_OF_TWO);
    let paths = repairable(backend, &volume).await;
    backend.repair(&volume, &paths, None).await.unwrap();
    assert_eq!(host.presence().await, Presence::Present);
    assert_eq!(host.log("calls").lines().count(), 1, "one login");
}

#[tokio::test]
async fn another_volume_is_never_made_a_path() {
    let host = Host::new();
    let (backend, volume) = (&host.backend, host.volume());
    let _served = host.serve();
    host.map("36001405198dea392afc21d0700000000");
    let paths = repairable(backend, &volume).await;
    let error = backend.repair(&volume, &paths, None).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DeviceIdentity, "{error}");
    assert!(!host.asked("add path sdb"));
    assert!(!host.dir().join("block/sdb").exists(), "the disk is left");
    assert!(!host.has_second_session());
    assert_eq!(host.presence().await, ONE_OF_TWO);
}

/// The guest's only live path would be taken away at each repair.
#[tokio::test]
async fn a_path_is_kept_beside_a_dead_one_of_its_map_and_not_beside_another_volume() {
    let other = "36001405198dea392afc21d0700000000";
    let dead = |errno| format!(r#"{{"failed":{{"step":"ask","errno":{errno}}}}}"#);
    let (timed_out, gone) = (Errno::ETIMEDOUT as i32, Errno::ENXIO as i32);
    for (first, kept) in [
        (dead(timed_out), true),
        (dead(gone), true),
        (identity(other), false),
    ] {
        let host = Host::new();
        let (backend, volume) = (&host.backend, host.volume());
        let _served = host.serve();
        host.map(WWID);
        fs::write(host.dir().join("first"), &first).unwrap();
        let paths = repairable(backend, &volume).await;
        let repaired = backend.repair(&volume, &paths, None).await;
        assert_eq!(host.has_second_session(), kept, "{first}: {repaired:?}");
        match kept {
            true => repaired.unwrap(),
            false => assert_eq!(repaired.unwrap_err().reason(), Reason::DeviceIdentity),
        }
    }
}

#[tokio::test]
async fn a_path_is_not_made_for_a_map_that_the_guest_does_not_use() {
    let host = Host::new();
    let _served = host.serve();
    host.map(WWID);
    let plan = host.volume().plan;
    for device in ["/dev/sda", "/dev/dm-1"] {
        let volume = connected(plan.clone(), device, WWID);
        let paths = &target_of(&plan).unwrap().paths[1..];
        let error = host.backend.repair(&volume, paths, None).await.unwrap_err();
        assert_eq!(error.reason(), Reason::MultipathFailed, "{error}");
        assert!(!host.asked("add path sdb") && !host.has_second_session());
    }
}

#[tokio::test]
async fn without_a_session_only_the_caller_can_log_in() {
    let host = Host::new();
    let _served = host.serve();
    let session = host.dir().join("class/iscsi_session/session7");
    fs::remove_file(session.join("password")).unwrap();
    let volume = host.volume();
    let paths = repairable(&host.backend, &volume).await;
    let error = host
        .backend
        .repair(&volume, &paths, None)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::LoginFailed);
    assert!(error.to_string().contains("by the same request"), "{error}");
    assert!(!host.has_second_session());
    host.map(WWID);
    let given = host.info();
    let repaired = host.backend.repair(&volume, &paths, Some(&given)).await;
    repaired.unwrap();
    assert!(host.has_second_session() && host.asked("add path sdb"));
}

/// A portal that does not show the LUN costs a short grace, not the `device_timeout` of ten minutes.
#[tokio::test]
async fn a_lun_that_one_portal_does_not_show_is_left_to_a_repair() {
    let host = Host::new();
    let _served = host.serve();
    let (info, volume) = (host.info(), host.volume());
    let plan = volume.plan.clone().into();
    let connected = host
        .backend
        .connect(&plan, &info, &NoOthers, HeadStart::default());
    let connected = tokio::time::timeout(Duration::from_secs(60), connected).await;
    let connected = connected.expect("it waits for the LUN").unwrap();
    assert_eq!(connected.found.device, volume.found.device);
    assert_eq!(connected.degraded.map(Presence::Degraded), Some(ONE_OF_TWO));
    assert!(!host.has_second_session(), "logged out");
    host.map(WWID);
    let connected = host
        .backend
        .connect(&plan, &info, &NoOthers, HeadStart::default())
        .await
        .unwrap();
    assert_eq!(connected.degraded, None);
}

/// An iscsiadm that is killed may leave the lock of its database to everybody.
#[tokio::test]
async fn a_login_that_is_given_up_runs_on_to_its_end() {
    let host = Host::new();
    let _served = host.serve();
    let script = format!(
        "cd {}; case \"$*\" in *--login) while [ ! -e go ]; do sleep 0.1; done; touch ended;; esac; exit 8",
        host.dir().display()
    );
    let mut backend = host.backend.clone();
    let iscsiadm = program(host.dir(), "slow", &script);
    backend.initiator.iscsiadm = iscsiadm.to_str().unwrap().to_owned();
    backend.initiator.settings.login_timeout = Duration::from_secs(120);
    let plan = host.volume().plan.into();
    let connected = backend
        .connect(&plan, &host.info(), &NoOthers, HeadStart::default())
        .await;
    let degraded = connected.unwrap().degraded;
    assert_eq!(degraded.map(Presence::Degraded), Some(ONE_OF_TWO));
    fs::write(host.dir().join("go"), "").unwrap();
    let ends = async {
        while !host.dir().join("ended").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ends = tokio::time::timeout(Duration::from_secs(60), ends).await;
    ends.expect("it was killed");
}
