use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn the_same_user_keeps_its_groups_and_another_has_its_own() {
    let user = RunAs {
        uid: 0,
        gid: 108,
        groups: vec![108, 4711],
    };
    let workers = Workers::from_executable("/nonexistent".into());
    let mounter = Mounter::new(workers, Some(user.clone()));
    assert_eq!(mounter.as_user(0, 108).user, Some(user));
    let other = mounter.as_user(0, 109).user.unwrap();
    assert!(
        other.gid == 109 && !other.groups.contains(&4711),
        "{other:?}"
    );
}

#[tokio::test]
async fn an_empty_mount_point_is_partial_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mounter = Mounter::new(Workers::from_executable("/nonexistent".into()), None);
    let mount = MountPlan {
        source: "//files/vols".into(),
        fstype: "cifs".into(),
        options: "rw".into(),
        target: dir.path().join("mnt/abc"),
        login: None,
    };
    let find = || async { mounter.find(&mount, Access::ReadWrite).await.unwrap() };
    assert_eq!(find().await, Presence::Absent);
    mounter
        .make_mount_point(&of(&mount).plan, &mount)
        .await
        .unwrap();
    assert_eq!(find().await, Presence::Partial);
    for _ in 0..2 {
        mounter.take_down(&of(&mount).plan, &mount).await.unwrap();
        assert_eq!(find().await, Presence::Absent);
    }
    mounter
        .make_mount_point(&of(&mount).plan, &mount)
        .await
        .unwrap();
    std::fs::write(mount.target.join("stray"), b"").unwrap();
    let error = mounter
        .take_down(&of(&mount).plan, &mount)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("remove the mount point"),
        "{error}"
    );
}

#[test]
fn an_address_keeps_its_scope_alone() {
    let for_kernel = |text: &str| super::for_kernel(text.parse().unwrap());
    assert_eq!(for_kernel("10.0.0.5:445"), "10.0.0.5");
    assert_eq!(for_kernel("[fd00::5]:2049"), "fd00::5");
    assert_eq!(for_kernel("[fe80::5%3]:445"), "fe80::5%3");
}

#[tokio::test]
async fn a_server_that_stalls_delays_another_by_one_mount() {
    let turns = Turns::default();
    let order = std::sync::Mutex::new(Vec::new());
    let mount = |server: &'static str| {
        let (turns, order) = (&turns, &order);
        async move {
            let _turn = turns.take(server.parse().unwrap()).await;
            order.lock().unwrap().push(server);
            tokio::task::yield_now().await;
        }
    };
    let (stalls, well) = ("10.0.0.1", "10.0.0.2");
    tokio::join!(mount(stalls), mount(stalls), mount(stalls), mount(well));
    assert_eq!(*order.lock().unwrap(), [stalls, well, stalls, stalls]);
}

/// A share on a server of this test's, whose mount is a script's business.
struct Scripted {
    settings: Shares,
    /// Signs of life that were asked for.
    asked: AtomicUsize,
}

impl Scripted {
    fn new() -> Self {
        Self {
            settings: crate::config::Settings::built_in().smb.shares,
            asked: AtomicUsize::new(0),
        }
    }
}

impl Share for Scripted {
    type Offer = u8;

    fn host(&self) -> &str {
        "127.0.0.1"
    }

    fn port(&self) -> Result<u16, BackendError> {
        Ok(1)
    }

    fn versions(&self) -> String {
        "1".to_owned()
    }

    fn settings(&self) -> &Shares {
        &self.settings
    }

    fn turns(&self) -> Option<&Turns> {
        None
    }

    async fn probe(&self, _address: SocketAddr) -> Outcome<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Outcome::Speaks(vec![1])
    }

    fn data(&self, _address: SocketAddr, _offer: &u8) -> Result<Zeroizing<String>, BackendError> {
        Ok(Zeroizing::default())
    }

    fn meaning(&self, errno: Errno, target: &Path, _offer: &u8) -> Meaning {
        words::meaning(errno, "//files/vols".to_owned(), target, "cifs")
    }
}

/// A volume on that mount.
fn of(mount: &MountPlan) -> HostVolume {
    HostVolume::from(HostPlan {
        protocol: "smbfs".into(),
        claims: Vec::new(),
        connection: crate::model::Connection::Mount(mount.clone()),
        path: mount.target.join("v"),
        root: mount.target.clone(),
        kind: crate::model::SourceKind::File,
        format: crate::model::ImageFormat::Raw,
        access: Access::ReadWrite,
        keeps_owner: true,
    })
}

/// A mounter whose workers report that error of mount(2), and a mount to make.
fn that_fails(dir: &Path, errno: Errno) -> (Mounter, MountPlan) {
    let worker = dir.join("worker");
    let reply = format!(
        r#"{{"failed":{{"step":"mount","errno":{}}}}}"#,
        errno as i32
    );
    // After its jobs, as a worker does.
    let script = format!(
        "#!/bin/sh\necho >>{0}/starts\ncat >/dev/null\necho >>{0}/workers\necho '{reply}'\n",
        dir.display()
    );
    std::fs::write(&worker, script).unwrap();
    std::fs::set_permissions(&worker, PermissionsExt::from_mode(0o755)).unwrap();
    let mount = MountPlan {
        source: "//files/vols".into(),
        fstype: "cifs".into(),
        options: "rw".into(),
        target: dir.join("mnt/abc"),
        login: None,
    };
    (Mounter::new(Workers::from_executable(worker), None), mount)
}

/// The number of workers that were started (`starts`), or given jobs (`workers`).
fn number_of(log: &str, dir: &Path) -> usize {
    let log = std::fs::read_to_string(dir.join(log)).unwrap();
    log.lines().count()
}

#[tokio::test]
async fn a_head_start_is_used_while_it_is_fresh() {
    for (age, asked) in [(Duration::ZERO, 1), (Duration::from_secs(2), 2)] {
        let dir = tempfile::tempdir().unwrap();
        let (mounter, mount) = that_fails(dir.path(), Errno::EHOSTDOWN);
        let (volume, share) = (of(&mount), Scripted::new());
        let mut early = mounter.early(&share, &volume.plan).await;
        early.ended = Instant::now() - age;
        let started = HeadStart::of(Instant::now(), early);
        let connected = mounter.connect(&share, &volume, &mount, started).await;
        connected.unwrap_err();
        assert_eq!(share.asked.load(Ordering::Relaxed), asked, "{age:?}");
        assert_eq!(number_of("workers", dir.path()), 1, "{age:?}");
        if asked == 1 {
            assert_eq!(number_of("starts", dir.path()), 1);
        }
    }
}

/// EAGAIN: the kernel's connection broke, and the same mount may do the next time; once more, and not for ever.
#[tokio::test]
async fn a_connection_that_broke_is_tried_once_more() {
    for (errno, tries) in [(Errno::EAGAIN, 2), (Errno::EHOSTDOWN, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let (mounter, mount) = that_fails(dir.path(), errno);
        let volume = of(&mount);
        let share = Scripted::new();
        let error = mounter
            .connect(&share, &volume, &mount, HeadStart::default())
            .await
            .unwrap_err();
        assert_eq!(
            error.reason(),
            crate::model::Reason::ServerTimeout,
            "{error}"
        );
        assert_eq!(number_of("workers", dir.path()), tries, "{errno}");
    }
}

/// The old address may still answer, with the data left there.
#[tokio::test]
async fn a_mount_from_where_its_server_was_is_not_joined() {
    let table = tempfile::NamedTempFile::new().unwrap();
    let mut mounter = Mounter::new(Workers::from_executable("/nonexistent".into()), None);
    mounter.addresses = Addresses::new(table.path().to_str().unwrap()).into();
    for (host, address, target, is_left) in [
        ("localhost", "192.0.2.1", "abc-7", true),
        ("localhost", "127.0.0.1", "abc", false),
        ("192.0.2.2", "192.0.2.1", "abc", false),
        ("files.invalid", "192.0.2.1", "abc", false),
        // No further mount is possible beside this one.
        ("localhost", "192.0.2.1", "abc-8", false),
    ] {
        let mount = MountPlan {
            source: format!("{host}:/vols"),
            fstype: "nfs".into(),
            options: "rw".into(),
            target: Path::new("/m").join(target),
            login: None,
        };
        let line = format!(
            "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /m/{target} rw - nfs4 {host}:/vols rw,addr={address}\n"
        );
        std::fs::write(table.path(), line).unwrap();
        let error = mounter.join(&of(&mount)).await.unwrap_err(); // no workers exist
        assert_eq!(
            error.is_of_connection(),
            is_left,
            "{host} {target}: {error}"
        );
    }
}

#[test]
fn a_soft_mount_tells_that_its_server_is_lost() {
    for (options, is_lost) in [("rw,soft,timeo=50", true), ("rw,softreval", false)] {
        let mount = MountPlan {
            source: "files:/vols".into(),
            fstype: "nfs".into(),
            options: options.into(),
            target: "/m/abc".into(),
            login: None,
        };
        let (step, errno) = ("open".to_owned(), Errno::EIO);
        let reply = Err(WorkerError::Failed { step, errno });
        let error = found(&of(&mount), None, reply).unwrap_err();
        assert_eq!(error.is_of_connection(), is_lost, "{error}");
    }
}

#[tokio::test]
async fn a_server_lives_if_one_of_its_addresses_answers_or_refuses() {
    let mounter = Mounter::new(Workers::from_executable("/nonexistent".into()), None);
    let server = Server {
        protocol: "smbfs".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: Some(4450),
    };
    let within = std::time::Duration::from_secs(3);
    let asked = async |outcome: fn() -> Outcome<()>| {
        let ask = |address: SocketAddr| async move {
            assert_eq!(address.port(), 4450);
            outcome()
        };
        mounter.sign_of_life(&server, 445, within, ask).await
    };
    let silent = asked(|| Outcome::Silent).await.unwrap_err();
    assert!(silent.is_silence(), "{silent}");
    asked(|| Outcome::Speaks(())).await.unwrap();
    asked(|| Outcome::Refused("no".into())).await.unwrap();
    asked(|| Outcome::Unreachable("no".into())).await.unwrap();
}

#[test]
fn a_worker_that_is_not_started_keeps_its_reason() {
    let stuck = WorkerError::Stuck {
        server: "nas (smbfs)".to_owned(),
        pids: vec![7, 8],
    };
    let error = host(|| "unmount /mnt/x".to_owned())(stuck);
    assert_eq!(error.reason(), crate::model::Reason::WorkersStuck);
    let text = error.to_string();
    assert!(
        text.contains("nas (smbfs)") && text.contains("pid 7, 8"),
        "{text}"
    );
}
