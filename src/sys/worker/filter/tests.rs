//! Each kind of job's filter in a process of its own: what it lets through, and what kills.

#![allow(unsafe_code)] // fork(2) and raw system calls

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::*;
use crate::sys::worker::{FlushJob, HoldJob, MountJob, NamespaceJob, ProtectJob, RunAs, SysfsJob};

/// A system call: its number and first arguments.
type Raw = (libc::c_long, [libc::c_long; 4]);

/// No file.
const NONE: libc::c_long = -1;

fn inspect(user: bool) -> Job {
    Job::Inspect(InspectJob {
        root: "/".into(),
        relative: "v".into(),
        write: false,
        head: 0,
        tail: 0,
        direct: false,
        user: user.then_some(RunAs {
            uid: 1,
            gid: 1,
            groups: vec![],
        }),
    })
}

fn scan(read_only: bool) -> Job {
    Job::Scan(ScanJob {
        scan: sysfs(),
        unit: "/sys/x".into(),
        within: Duration::ZERO,
        write: false,
        read_only,
    })
}

fn sysfs() -> SysfsJob {
    SysfsJob {
        path: "/sys/x".into(),
        directory: None,
        value: "1".into(),
    }
}

/// Every kind of job, with a call that its filter alone lets through, as it makes it.
fn kinds() -> Vec<(&'static str, Job, Raw)> {
    let mount = Job::Mount(MountJob {
        source: "none".into(),
        target: "/x".into(),
        fstype: "tmpfs".into(),
        read_only: true,
        data: String::new(),
    });
    let namespace = Job::IdentifyNamespace(NamespaceJob {
        controller: "/dev/nvme0".into(),
        nsid: 1,
    });
    let flush = FlushJob {
        device: "/dev/sdx".into(),
        shared: false,
    };
    let protect = ProtectJob {
        device: "/dev/sdx".into(),
        sequence: Some(1),
        read_only: true,
    };
    let hold = HoldJob {
        device: "/dev/sdx".into(),
        sequence: 1,
    };
    let flags = |read_only: bool| {
        let flags = mount::REQUIRED.bits() | if read_only { libc::MS_RDONLY } else { 0 };
        (libc::SYS_mount, [0, 0, 0, flags as libc::c_long])
    };
    let request = |request: libc::Ioctl| {
        let request = libc::c_long::from(request as u32);
        (libc::SYS_ioctl, [NONE, request, 0, 0])
    };
    let look = (libc::SYS_openat2, [NONE, 0, 0, 0]);
    let node = || "/dev/sdx".into();
    let opened = (libc::SYS_openat, [NONE, 0, libc::O_RDWR.into(), 0]);
    vec![
        ("mount", mount, flags(true)),
        ("unmount", Job::Unmount("/x".into()), {
            let flags = libc::UMOUNT_NOFOLLOW.into();
            (libc::SYS_umount2, [0, flags, 0, 0])
        }),
        ("inspect", inspect(false), look),
        ("inspect as a user", inspect(true), {
            (libc::SYS_setresuid, [NONE, NONE, NONE, 0])
        }),
        ("identify", Job::Identify(node()), request(scsi::SG_IO)),
        ("scan", scan(false), request(scsi::SG_IO)),
        ("scan to read", scan(true), request(block::BLKROSET)),
        ("protect", Job::Protect(protect), request(block::BLKROSET)),
        ("flush", Job::Flush(flush), request(block::BLKFLSBUF)),
        ("hold", Job::Hold(hold), request(block::BLKGETDISKSEQ)),
        ("write to sysfs", Job::WriteSysfs(sysfs()), opened),
        ("connect", Job::ConnectNvme(String::new()), opened),
        ("ask a controller", namespace, request(nvme::ADMIN_CMD)),
    ]
}

/// Makes the call under the filter of these jobs, in another process. True: it was let through, whatever came of it; false: it
/// killed.
fn let_through(jobs: &[Job], (number, [a, b, c, d]): Raw) -> bool {
    let program = program(jobs).unwrap();
    // SAFETY: the child allocates nothing, takes no lock, and ends by _exit(2): all that it may after a fork of a process with
    // threads.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: it takes no memory. Whom the filter kills leaves no core file.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            let code = match seccompiler::apply_filter(&program) {
                Ok(()) => {
                    // SAFETY: no call of the tests writes to memory: pointers are null, descriptors none.
                    unsafe { libc::syscall(number, a, b, c, d) };
                    0
                }
                Err(_) => 1,
            };
            // SAFETY: it does not return.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 0) => true,
            WaitStatus::Signaled(_, Signal::SIGSYS, _) => false,
            other => panic!("{number}: {other:?}"),
        },
    }
}

#[test]
fn each_kind_may_make_its_own_call_and_not_the_others() {
    let all = kinds();
    for (name, job, own) in &all {
        let jobs = std::slice::from_ref(job);
        assert!(let_through(jobs, *own), "{name}");
        for (other, _, call) in &all {
            // What two kinds have in common.
            let shared = match (*name, *other) {
                _ if call == own => true,
                ("inspect as a user", "inspect") => true,
                ("identify" | "scan" | "scan to read" | "protect", "hold") => true,
                ("scan" | "scan to read", "identify" | "scan" | "write to sysfs" | "connect") => {
                    true
                }
                _ => false,
            };
            assert_eq!(let_through(jobs, *call), shared, "{name}: {other}");
        }
    }
}

/// What nobody needs: programs, processes, sockets, other processes' memory, executable memory, files that were not there.
#[test]
fn what_no_job_needs_kills() {
    let executable = libc::c_long::from(libc::PROT_EXEC | libc::PROT_READ);
    let create = |flags: libc::c_int| (libc::SYS_openat, [NONE, 0, flags.into(), 0]);
    let calls: &[(&str, Raw)] = &[
        ("execve", (libc::SYS_execve, [0; 4])),
        ("execveat", (libc::SYS_execveat, [NONE, 0, 0, 0])),
        ("clone", (libc::SYS_clone, [libc::c_long::MIN, 0, 0, 0])),
        (
            "socket",
            (libc::SYS_socket, [libc::AF_INET.into(), 1, 0, 0]),
        ),
        ("unix", (libc::SYS_socket, [libc::AF_UNIX.into(), 1, 0, 0])),
        ("connect", (libc::SYS_connect, [NONE, 0, 0, 0])),
        ("ptrace", (libc::SYS_ptrace, [-1, 0, 0, 0])),
        ("peek", (libc::SYS_process_vm_readv, [0, 0, 0, 0])),
        ("kill", (libc::SYS_kill, [0, 0, 0, 0])),
        // Of a process that there cannot be (kernel, PID_MAX_LIMIT).
        (
            "signal",
            (
                libc::SYS_tgkill,
                [1 << 23, 1 << 23, libc::SIGABRT.into(), 0],
            ),
        ),
        ("map", (libc::SYS_mmap, [0, 4096, executable, 0])),
        ("protect", (libc::SYS_mprotect, [0, 4096, executable, 0])),
        ("create", create(libc::O_WRONLY | libc::O_CREAT)),
        ("empty", create(libc::O_WRONLY | libc::O_TRUNC)),
        ("unnamed", create(libc::O_WRONLY | libc::O_TMPFILE)),
        ("unlink", (libc::SYS_unlinkat, [NONE, 0, 0, 0])),
        ("rename", (libc::SYS_renameat2, [NONE, 0, NONE, 0])),
        ("chmod", (libc::SYS_fchmodat, [NONE, 0, 0, 0])),
        ("chown", (libc::SYS_fchownat, [NONE, 0, -1, -1])),
        ("setns", (libc::SYS_setns, [NONE, 0, 0, 0])),
        ("unshare", (libc::SYS_unshare, [0, 0, 0, 0])),
        ("keyring", (libc::SYS_keyctl, [-1, 0, 0, 0])),
        ("bpf", (libc::SYS_bpf, [-1, 0, 0, 0])),
        ("module", (libc::SYS_finit_module, [NONE, 0, 0, 0])),
        ("io_uring", (libc::SYS_io_uring_setup, [0, 0, 0, 0])),
        ("no call", (9999, [0; 4])),
    ];
    for (kind, job, _) in kinds() {
        for (name, call) in calls {
            assert!(
                !let_through(std::slice::from_ref(&job), *call),
                "{kind}: {name}"
            );
        }
    }
}

/// A mount cannot be made of what is there already, and has every flag that keeps it harmless.
#[test]
fn a_mount_job_can_neither_bind_nor_move_nor_leave_out_a_flag() {
    let (_, job, _) = kinds().swap_remove(0);
    let jobs = std::slice::from_ref(&job);
    let try_flags = |flags: libc::c_ulong| {
        let call = (libc::SYS_mount, [0, 0, 0, flags as libc::c_long]);
        let_through(jobs, call)
    };
    let required = mount::REQUIRED.bits();
    assert!(try_flags(required));
    for more in [
        libc::MS_BIND,
        libc::MS_MOVE,
        libc::MS_REMOUNT,
        libc::MS_SHARED,
        1 << 40,
    ] {
        assert!(!try_flags(required | more), "{more:#x}");
    }
    for less in [libc::MS_NOSUID, libc::MS_NODEV, libc::MS_NOEXEC, 1 << 8] {
        assert!(!try_flags(required & !less), "{less:#x}");
    }
    let forced = (libc::SYS_umount2, [0, libc::MNT_DETACH.into(), 0, 0]);
    assert!(!let_through(&[Job::Unmount("/x".into())], forced));
}

/// The jobs ahead are allowed together, and with them what it takes to narrow the filter.
#[test]
fn several_jobs_have_what_each_needs() {
    let jobs = || {
        let mut kinds = kinds();
        let look = kinds.remove(2);
        let mount = kinds.remove(0);
        [mount, look]
    };
    let [(_, mount, mounted), (_, look, opened)] = jobs();
    let both = [mount, look];
    let narrow = (libc::SYS_capset, [0; 4]);
    for call in [mounted, opened, narrow] {
        assert!(let_through(&both, call));
    }
    let left = &both[1..];
    assert!(let_through(left, opened));
    assert!(!let_through(left, mounted) && !let_through(left, narrow));
}
