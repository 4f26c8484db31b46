//! The worker process, as volattachd starts it: what it does, what it may, and that nothing waits for it past its deadline.

#![cfg(test)]

mod skip;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use volattach::sys::beneath::{FileKind, Found};
use volattach::sys::mountinfo::Mounts;
use volattach::sys::worker::{
    FlushJob, HoldJob, InspectJob, Job, MountJob, NamespaceJob, PER_SERVER, ProtectJob, Reply,
    RunAs, ScanJob, SysfsJob, WorkerError, Workers,
};

const DEADLINE: Duration = Duration::from_secs(60);

fn workers() -> Workers {
    Workers::from_executable(PathBuf::from(env!("CARGO_BIN_EXE_volattachd-worker")))
}

fn inspect(root: &Path, relative: &str, write: bool) -> Job {
    Job::Inspect(InspectJob {
        root: root.to_owned(),
        relative: relative.into(),
        write,
        head: 4,
        tail: 2,
        direct: false,
        user: None,
    })
}

/// A block of the file is read from its storage, whatever the length of the file, and on a file system without O_DIRECT too.
#[tokio::test]
async fn a_file_is_read_past_the_cache() {
    let shared_memory = Path::new("/dev/shm");
    for directory in [std::env::temp_dir().as_path(), shared_memory] {
        let dir = tempfile::tempdir_in(directory).unwrap();
        for bytes in [0, 10, 5000] {
            std::fs::write(dir.path().join("v"), vec![7; bytes]).unwrap();
            let Job::Inspect(job) = inspect(dir.path(), "v", false) else {
                unreachable!("inspect() makes such a job");
            };
            let job = Job::Inspect(InspectJob {
                direct: true,
                ..job
            });
            let reply = workers().run(job, DEADLINE).await.unwrap();
            let Reply::Found(found) = reply else {
                panic!("{reply:?}");
            };
            assert_eq!(found.size, bytes as u64, "{directory:?}");
        }
    }
}

/// The same as another user.
fn inspect_as(user: RunAs, root: &Path, relative: &str, write: bool) -> Job {
    match inspect(root, relative, write) {
        Job::Inspect(job) => Job::Inspect(InspectJob {
            user: Some(user),
            ..job
        }),
        other => other,
    }
}

/// Root's rights do not count where it is another user's that matter, and a mount before it needs them.
#[tokio::test]
async fn a_file_is_opened_as_the_user_that_is_named() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        skip::skipped("becoming another user needs root");
        return;
    }
    let (nobody, stranger) = (65_534, 4_242_424);
    let dir = tempfile::tempdir().unwrap();
    let set = |name: &str, mode| {
        let path = dir.path().join(name);
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    set("", 0o711);
    for (name, mode) in [("open", 0o644), ("group", 0o640), ("closed", 0o600)] {
        std::fs::write(dir.path().join(name), b"0123456789").unwrap();
        set(name, mode);
    }
    std::os::unix::fs::chown(dir.path().join("group"), None, Some(nobody)).unwrap();
    let look = async |uid, name: &str, write| {
        let user = RunAs::of_this_host(uid, uid);
        let job = inspect_as(user, dir.path(), name, write);
        match workers().run(job, DEADLINE).await {
            Ok(_) => Ok(()),
            Err(WorkerError::Failed { errno, .. }) => Err(errno),
            Err(other) => panic!("{other}"),
        }
    };
    for uid in [nobody, stranger] {
        assert_eq!(look(uid, "open", false).await, Ok(()));
        assert_eq!(look(uid, "open", true).await, Err(Errno::EACCES));
        assert_eq!(look(uid, "closed", false).await, Err(Errno::EACCES));
    }
    assert_eq!(look(nobody, "group", false).await, Ok(()));
    assert_eq!(look(stranger, "group", false).await, Err(Errno::EACCES));
    assert_eq!(look(0, "closed", true).await, Ok(()));
}

#[tokio::test]
async fn a_file_is_found_with_its_ends() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v 1"), b"0123456789").unwrap();
    let reply = workers()
        .run(inspect(dir.path(), "v 1", true), DEADLINE)
        .await
        .unwrap();
    assert_eq!(
        reply,
        Reply::Found(Found {
            kind: FileKind::Regular,
            size: 10,
            head: b"0123".to_vec(),
            tail: b"89".to_vec(),
        })
    );
    let reply = workers()
        .run(inspect(dir.path(), ".", false), DEADLINE)
        .await;
    assert!(
        matches!(&reply, Ok(Reply::Found(Found { kind: FileKind::Directory, head, .. })) if head.is_empty()),
        "{reply:?}"
    );
}

#[tokio::test]
async fn jobs_are_done_in_order_up_to_the_first_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v"), b"0123456789").unwrap();
    let mut worker = workers().start().unwrap();
    let jobs = ["v", "absent", "v"].map(|name| inspect(dir.path(), name, false));
    worker.give(&jobs).await.unwrap();
    assert!(matches!(
        worker.reply(DEADLINE).await,
        Ok(Reply::Found(Found { size: 10, .. }))
    ));
    assert!(matches!(
        worker.reply(DEADLINE).await,
        Err(WorkerError::Failed { .. })
    ));
    let after = worker.reply(DEADLINE).await;
    assert!(after.is_err(), "{after:?}");
}

#[tokio::test]
async fn a_failed_call_is_told_with_its_errno() {
    let dir = tempfile::tempdir().unwrap();
    let error = workers()
        .run(inspect(dir.path(), "absent", false), DEADLINE)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, WorkerError::Failed { step, errno: Errno::ENOENT } if step == "open"),
        "{error}"
    );
}

#[tokio::test]
async fn an_executable_that_is_none_is_told() {
    let absent = Workers::from_executable("/nonexistent/volattachd".into());
    let error = absent
        .run(Job::Unmount("/nonexistent".into()), DEADLINE)
        .await
        .unwrap_err();
    assert!(matches!(error, WorkerError::Start { .. }), "{error}");
    let other = Workers::from_executable("/bin/false".into());
    let error = other
        .run(Job::Unmount("/nonexistent".into()), DEADLINE)
        .await
        .unwrap_err();
    assert!(matches!(error, WorkerError::Died { .. }), "{error}");
}

/// While a worker works, it has no rights but those that its jobs need.
#[test]
fn a_worker_keeps_only_the_rights_that_it_needs() {
    if !nix::unistd::geteuid().is_root() {
        skip::skipped("root's rights are only root's to drop");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v"), vec![b'v'; 1 << 20]).unwrap();
    // capabilities(7): CAP_DAC_READ_SEARCH is bit 2, CAP_DAC_OVERRIDE bit 1.
    for (write, rights) in [(false, 0b100), (true, 0b110)] {
        let Job::Inspect(job) = inspect(dir.path(), "v", write) else {
            unreachable!("inspect() makes such a job")
        };
        // A reply that is longer than a pipe takes, and nobody reads it: so it stays.
        let jobs = [Job::Inspect(InspectJob {
            head: 1 << 20,
            ..job
        })];
        let mut worker = std::process::Command::new(env!("CARGO_BIN_EXE_volattachd-worker"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = worker.stdin.take().unwrap();
        serde_json::to_writer(&stdin, &jobs).unwrap();
        drop(stdin);
        let wanted = [
            format!("CapPrm:\t{rights:016x}"),
            format!("CapEff:\t{rights:016x}"),
            "NoNewPrivs:\t1".to_owned(),
            // A filter (linux/seccomp.h, SECCOMP_MODE_FILTER).
            "Seccomp:\t2".to_owned(),
        ];
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).unwrap();
            if wanted.iter().all(|line| status.contains(line)) {
                break;
            }
            assert!(Instant::now() < deadline, "not {wanted:?}:\n{status}");
            std::thread::sleep(Duration::from_millis(5));
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
}

/// Each kind of job is done to its end, or fails as the kernel says: none is killed by its own filter. What needs a device
/// that this machine has not, the lab does.
#[tokio::test]
async fn no_job_is_killed_by_its_own_filter() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v");
    std::fs::write(&file, b"0123456789").unwrap();
    let sysfs = |path: &str, value: &str| SysfsJob {
        path: path.into(),
        directory: None,
        value: value.into(),
    };
    let scan = |path: &str, value: &str, unit: &str, read_only| {
        Job::Scan(ScanJob {
            scan: sysfs(path, value),
            unit: unit.into(),
            within: Duration::from_millis(50),
            write: true,
            read_only,
        })
    };
    // Written with what it has, which changes nothing.
    let kernels = "/sys/module/printk/parameters/time";
    let same = std::fs::read_to_string(kernels).unwrap();
    let same = same.trim();
    // A disk that is none: its node in /dev is another device's.
    let unit = dir.path().join("unit");
    std::fs::create_dir_all(unit.join("block/null")).unwrap();
    std::fs::write(unit.join("block/null/dev"), "1:3\n").unwrap();
    let root = nix::unistd::geteuid().is_root();
    let null = || PathBuf::from("/dev/null");
    let flush = |shared| {
        Job::Flush(FlushJob {
            device: file.clone(),
            shared,
        })
    };
    let protect = |device: &Path, sequence| {
        Job::Protect(ProtectJob {
            device: device.to_owned(),
            sequence,
            read_only: true,
        })
    };
    let parameters = std::fs::metadata(Path::new(kernels).parent().unwrap()).unwrap();
    let within = |directory| {
        Job::WriteSysfs(SysfsJob {
            directory: Some(directory),
            ..sysfs(kernels, same)
        })
    };
    let jobs = [
        ("identify", Job::Identify(null()), Some(Errno::ENOTTY)),
        (
            "absent",
            Job::Identify("/nonexistent".into()),
            Some(Errno::ENOENT),
        ),
        ("protect", protect(&file, None), Some(Errno::ENOTTY)),
        (
            "protect another",
            protect(&null(), Some(1)),
            Some(Errno::ESTALE),
        ),
        ("flush", flush(false), Some(Errno::ENOTTY)),
        ("flush a part", flush(true), Some(Errno::ENOTTY)),
        (
            "hold",
            Job::Hold(HoldJob {
                device: null(),
                sequence: 1,
            }),
            Some(Errno::ESTALE),
        ),
        (
            "write",
            Job::WriteSysfs(sysfs(kernels, same)),
            (!root).then_some(Errno::EACCES),
        ),
        (
            "write to that one",
            within(parameters.ino()),
            (!root).then_some(Errno::EACCES),
        ),
        (
            "write to another",
            within(parameters.ino() + 1),
            Some(Errno::ESTALE),
        ),
        (
            "elsewhere",
            Job::WriteSysfs(sysfs(file.to_str().unwrap(), "1")),
            Some(Errno::EXDEV),
        ),
        (
            "no target",
            scan("/sys/nonexistent", "1", "/nonexistent", false),
            Some(Errno::ENOENT),
        ),
        (
            "no disk",
            scan(kernels, same, "/nonexistent", false),
            (!root).then_some(Errno::EACCES),
        ),
        (
            "not a disk",
            scan(kernels, same, unit.to_str().unwrap(), true),
            Some(Errno::ENOTTY),
        ),
        (
            "controller",
            Job::IdentifyNamespace(NamespaceJob {
                controller: null(),
                nsid: 1,
            }),
            Some(Errno::ENOTTY),
        ),
    ];
    for (name, job, wanted) in jobs {
        match (workers().run(job, DEADLINE).await, wanted) {
            (Ok(_), None) => {}
            (Err(WorkerError::Failed { errno, .. }), Some(wanted)) if errno == wanted => {}
            // No right to the device or the kernel's file.
            (
                Err(WorkerError::Failed {
                    errno: Errno::EACCES,
                    ..
                }),
                _,
            ) if !root => {}
            (other, wanted) => panic!("{name}: {other:?}, not {wanted:?}"),
        }
    }
    // Connected to nothing: either there is no such device, or the options are none.
    let nvme = workers().run(Job::ConnectNvme("x".into()), DEADLINE).await;
    assert!(matches!(nvme, Err(WorkerError::Failed { .. })), "{nvme:?}");
}

/// A stand-in for a worker that tried what its filter forbids: it is told apart from one that ended by itself.
#[tokio::test]
async fn a_worker_that_its_filter_killed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path(), "kill -SYS $$");
    let error = Workers::from_executable(script)
        .run(Job::Unmount("/nonexistent".into()), DEADLINE)
        .await
        .unwrap_err();
    let WorkerError::Forbidden { pid } = error else {
        panic!("{error}")
    };
    let said = error.to_string();
    assert!(
        said.contains(&pid.to_string()) && said.contains("its job does not need"),
        "{said}"
    );
}

/// An executable script. Written by another process: while this one held it open for writing, a fork of another test's would
/// keep it so, and executing it would fail with ETXTBSY.
fn script(dir: &Path, line: &str) -> PathBuf {
    let script = dir.join("stand-in");
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#;
    let written = std::process::Command::new("sh")
        .args(["-c", write])
        .args([script.as_os_str(), line.as_ref()])
        .status()
        .unwrap();
    assert!(written.success());
    script
}

/// A stand-in that never replies, as a mount of a server that fell silent.
#[tokio::test]
async fn a_worker_past_its_deadline_is_killed_and_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path(), "exec sleep 1000");
    let error = Workers::from_executable(script)
        .run(
            Job::Unmount("/nonexistent".into()),
            Duration::from_millis(200),
        )
        .await
        .unwrap_err();
    let WorkerError::Deadline { pid, reaped, .. } = error else {
        panic!("{error}")
    };
    assert!(reaped);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// A stand-in that replies and stays: nobody waits for its end, but it does not count as stuck for ever.
#[tokio::test]
async fn a_worker_that_does_not_go_after_its_reply_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let line = format!(
        "cat >/dev/null; echo $$ >{}; echo '\"done\"'; exec sleep 1000",
        pid.display()
    );
    let workers = Workers::from_executable(script(dir.path(), &line));
    let unmount = Job::Unmount("/nonexistent".into());
    workers.run(unmount, DEADLINE).await.unwrap();
    let pid = std::fs::read_to_string(pid).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    let goes = async {
        while process.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, goes).await.unwrap();
}

/// A mount namespace of this thread's own, whose mounts nobody else sees; false, loudly, where that is not permitted.
fn own_mount_namespace() -> bool {
    let private = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        nix::mount::mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
    });
    if let Err(errno) = private {
        skip::skipped(&format!(
            "mounting needs root and a mount namespace of its own: {errno}"
        ));
    }
    private.is_ok()
}

#[tokio::test]
async fn mounts_come_and_go() {
    if !own_mount_namespace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a b");
    std::fs::create_dir(&target).unwrap();
    let mount = |read_only, data: &str| {
        Job::Mount(MountJob {
            source: "none".into(),
            target: target.clone(),
            fstype: "tmpfs".into(),
            read_only,
            data: data.into(),
        })
    };
    let unmount = || Job::Unmount(target.clone());
    let at = || {
        // Not /proc/self: the namespace is this thread's.
        let table = std::fs::read("/proc/thread-self/mountinfo").unwrap();
        let mounts = Mounts::parse(&table).unwrap();
        let found: Vec<_> = mounts.at(&target).into_iter().cloned().collect();
        found
    };

    workers()
        .run(mount(true, "size=64k"), DEADLINE)
        .await
        .unwrap();
    assert_eq!(at().len(), 1);
    assert!(at()[0].read_only && at()[0].fstype == "tmpfs");
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(
        table.contains(" ro,nosuid,nodev,noexec,") && table.contains("nosymfollow"),
        "{table}"
    );

    workers()
        .run(mount(false, "size=64k"), DEADLINE)
        .await
        .unwrap();
    assert_eq!(at().len(), 2);
    let held = std::fs::File::create(target.join("held")).unwrap();
    let error = workers().run(unmount(), DEADLINE).await.unwrap_err();
    assert!(
        matches!(
            error,
            WorkerError::Failed {
                errno: Errno::EBUSY,
                ..
            }
        ),
        "{error}"
    );
    drop(held);
    workers().run(unmount(), DEADLINE).await.unwrap();
    workers().run(unmount(), DEADLINE).await.unwrap();
    assert!(at().is_empty());
    let error = workers().run(unmount(), DEADLINE).await.unwrap_err();
    assert!(
        matches!(
            error,
            WorkerError::Failed {
                errno: Errno::EINVAL,
                ..
            }
        ),
        "{error}"
    );

    let error = workers()
        .run(mount(false, "no_such_option=1"), DEADLINE)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            WorkerError::Failed {
                errno: Errno::EINVAL,
                ..
            }
        ),
        "{error}"
    );
    let error = workers()
        .run(mount(false, &"x".repeat(4096)), DEADLINE)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            WorkerError::Failed {
                errno: Errno::E2BIG,
                ..
            }
        ),
        "{error}"
    );
}

/// Length of a request's header (linux/fuse.h, `struct fuse_in_header`).
const FUSE_HEADER: usize = 40;
/// The kernel's first request (`FUSE_INIT`).
const FUSE_INIT: u32 = 26;

/// Mounts a FUSE file system with these options beside the usual; returns what its server reads from. `None`, loudly, where that is not permitted.
fn fuse(target: &Path, options: &str) -> Option<std::fs::File> {
    use std::os::fd::AsRawFd;

    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let device = match device {
        Ok(device) => device,
        Err(error) => {
            skip::skipped(&format!("/dev/fuse cannot be opened: {error}"));
            return None;
        }
    };
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0{options}",
        device.as_raw_fd()
    );
    let mounted = nix::mount::mount(
        Some("silent"),
        target,
        Some("fuse"),
        MsFlags::empty(),
        Some(data.as_str()),
    );
    if let Err(errno) = mounted {
        skip::skipped(&format!("a FUSE file system cannot be mounted: {errno}"));
        return None;
    }
    Some(device)
}

/// A FUSE file system whose server answers the kernel's first request and takes all others without a word: who waits for those sleeps
/// where no signal ends it (fs/fuse/dev.c, `request_wait_answer`). The drop has the kernel end them all.
struct SilentMount {
    target: PathBuf,
    server: Option<std::thread::JoinHandle<()>>,
}

impl Drop for SilentMount {
    fn drop(&mut self) {
        use nix::mount::{MntFlags, umount2};
        umount2(&self.target, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
        let ended = self.server.take().map(std::thread::JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))));
    }
}

/// Mounts one; `None`, loudly, where that is not permitted.
fn silent_mount(target: &Path) -> Option<SilentMount> {
    use std::io::{Read, Write};

    let mut device = fuse(target, "")?;
    let server = std::thread::spawn(move || {
        let mut request = vec![0; 1 << 20];
        while let Ok(length) = device.read(&mut request) {
            assert!(length >= FUSE_HEADER);
            if request[4..8] == FUSE_INIT.to_ne_bytes() {
                // Header, then version 7.31 and nothing that is asked for (`struct fuse_init_out`).
                let mut reply = Vec::new();
                reply.extend(80u32.to_ne_bytes());
                reply.extend(0u32.to_ne_bytes());
                reply.extend(&request[8..16]);
                reply.extend(7u32.to_ne_bytes());
                reply.extend(31u32.to_ne_bytes());
                reply.resize(16 + 20, 0);
                reply.extend(4096u32.to_ne_bytes());
                reply.resize(80, 0);
                device.write_all(&reply).unwrap();
            }
        }
    });
    Some(SilentMount {
        target: target.to_owned(),
        server: Some(server),
    })
}

#[tokio::test]
async fn workers_that_outlive_their_kill_are_counted_until_they_go_and_bounded() {
    if !own_mount_namespace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (silent, well) = (dir.path().join("silent"), dir.path().join("well"));
    for directory in [&silent, &well] {
        std::fs::create_dir(directory).unwrap();
    }
    std::fs::write(well.join("v"), b"0123456789").unwrap();
    let Some(mount) = silent_mount(&silent) else {
        return;
    };
    let workers = workers();
    // Time for the worker to reach the file system; it gets no answer in any.
    let within = Duration::from_secs(2);
    let of_ill = workers.of("ill");
    let look = || of_ill.run(inspect(&silent, "v", false), within);
    // Also a worker that nobody waits for any more.
    assert!(tokio::time::timeout(within / 2, look()).await.is_err());
    let deadline = Instant::now() + DEADLINE;
    while workers.registry().stuck().is_empty() {
        assert!(Instant::now() < deadline, "never counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 2..=PER_SERVER {
        let outcome = look().await;
        assert!(
            matches!(outcome, Err(WorkerError::Deadline { reaped: false, .. })),
            "{outcome:?}"
        );
        assert_eq!(workers.registry().stuck().len(), number);
    }
    let stuck = workers.registry().stuck();
    for worker in &stuck {
        assert!(Path::new(&format!("/proc/{}", worker.pid)).exists());
        assert_eq!(worker.server, "ill");
        assert_eq!(worker.job, format!("open {}", silent.join("v").display()));
    }
    let refused = look().await.unwrap_err();
    let pids: Vec<u32> = stuck.iter().map(|worker| worker.pid).collect();
    assert!(
        matches!(&refused, WorkerError::Stuck { server, pids: named } if server == "ill" && *named == pids),
        "{refused}"
    );
    // Another server's workers do as ever.
    let other = workers.of("well");
    other
        .run(inspect(&well, "v", false), DEADLINE)
        .await
        .unwrap();
    drop(mount);
    let deadline = Instant::now() + DEADLINE;
    while !workers.registry().stuck().is_empty() {
        assert!(Instant::now() < deadline, "never reaped");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    of_ill
        .run(inspect(&well, "v", false), DEADLINE)
        .await
        .unwrap();
}

/// Leaves this thread the capabilities that the unit gives the daemon.
fn be_as_the_unit_says() {
    let unit = include_str!("../systemd/volattachd.service");
    let mut lines = unit.lines();
    let given = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let given = given.unwrap().split(' ');
    let given: caps::CapsHashSet = given.map(|name| name.parse().unwrap()).collect();
    caps::set(None, caps::CapSet::Effective, &given).unwrap();
    caps::set(None, caps::CapSet::Permitted, &given).unwrap();
}

/// A worker that has become QEMU's user and waits for a file system that does not answer ends at its deadline, and with the thread that started
/// it: root alone may kill no other user's process.
#[test]
fn a_worker_of_another_user_ends_at_its_deadline_and_with_the_daemon() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        skip::skipped("becoming another user needs root");
        return;
    }
    if !own_mount_namespace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let mute = dir.path().join("mute");
    std::fs::create_dir(&mute).unwrap();
    // Nobody reads from it: whoever comes waits for the file system's first word, and can be killed (fs/fuse/dev.c, `fuse_get_req`).
    let Some(device) = fuse(&mute, ",allow_other") else {
        return;
    };
    let nobody = 65_534;
    let look = || inspect_as(RunAs::of_this_host(nobody, nobody), &mute, "v", false);
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status"));
    let began = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            be_as_the_unit_says();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let outcome = workers().run(look(), Duration::from_secs(2)).await;
                assert!(
                    matches!(outcome, Err(WorkerError::Deadline { reaped: true, .. })),
                    "{outcome:?}"
                );
                let mut worker = workers().start().unwrap();
                worker.give(&[look()]).await.unwrap();
                // Never dropped: only the end of this thread ends it.
                std::mem::forget(worker);
                let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
                let pid: u32 = children.trim().parse().unwrap();
                let other = format!("Uid:\t{nobody}\t");
                let deadline = Instant::now() + DEADLINE;
                while !status(pid).unwrap().contains(&other) {
                    assert!(Instant::now() < deadline, "never became that user");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                pid
            })
        });
        thread.join().unwrap()
    });
    let deadline = Instant::now() + DEADLINE;
    while status(began).is_ok_and(|status| !status.contains("State:\tZ")) {
        assert!(Instant::now() < deadline, "outlives whoever started it");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(device);
    nix::mount::umount(&mute).unwrap();
}
