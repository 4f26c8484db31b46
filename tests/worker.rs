//! The worker process, as volattachd starts it: what it does, what it may, and that nothing waits for it past its deadline.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use volattach::sys::beneath::{FileKind, Found};
use volattach::sys::mountinfo::Mounts;
use volattach::sys::worker::{InspectJob, Job, MountJob, Reply, RunAs, WorkerError, Workers};

const DEADLINE: Duration = Duration::from_secs(20);

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
        user: None,
    })
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
        eprintln!("SKIPPED: becoming another user needs root");
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
        eprintln!("SKIPPED: root's rights are only root's to drop");
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

/// A stand-in that never replies, as a mount of a server that fell silent.
#[tokio::test]
async fn a_worker_past_its_deadline_is_killed_and_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("hangs");
    // Written by another process: while this one held it open for writing, a fork of another test's would keep it so,
    // and executing it would fail with ETXTBSY.
    let written = std::process::Command::new("sh")
        .args([
            "-c",
            r#"printf '#!/bin/sh\nexec sleep 1000\n' > "$0" && chmod 700 "$0""#,
        ])
        .arg(&script)
        .status()
        .unwrap();
    assert!(written.success());
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
        eprintln!("SKIPPED: mounting needs root and a mount namespace of its own: {errno}");
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
        let found: Vec<_> = mounts.at(&target).cloned().collect();
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
