//! Which system calls a worker may make (seccomp(2)): those of the jobs ahead of it, and no others.
//!
//! Invariants: the list says what is allowed; any other call kills the worker, and the kernel's log names it. No job may
//! start a program, open a socket, make a file or map memory executable. A filter only ever narrows the one before it. Where no
//! filter can be made, as on a machine of another kind than those named here, no job is done.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{InspectJob, Job, ScanJob};
use crate::sys::{block, mount, nvme, scsi};

/// Why a worker's system calls cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// It cannot be written down.
    #[error("cannot make a filter of system calls for this machine: {0}")]
    Make(#[from] seccompiler::BackendError),
    /// The kernel, or what confines the daemon, does not take it.
    #[error(
        "cannot install a filter of system calls: {0}; the kernel must have CONFIG_SECCOMP_FILTER, and the daemon's unit let \
         seccomp(2) through"
    )]
    Install(#[from] seccompiler::Error),
}

/// A system call that is allowed.
#[derive(Clone, Copy)]
struct Call {
    number: libc::c_long,
    /// Which argument must have which value in the bits of a mask; `None`: whatever they are.
    only: Option<Only>,
}

#[derive(Clone, Copy)]
struct Only {
    argument: u8,
    mask: u64,
    value: u64,
}

/// A call with whatever arguments.
const fn any(number: libc::c_long) -> Call {
    Call { number, only: None }
}

/// A call whose argument has that value where the mask has ones.
const fn masked(number: libc::c_long, argument: u8, mask: u64, value: u64) -> Call {
    let only = Some(Only {
        argument,
        mask,
        value,
    });
    Call { number, only }
}

/// A call whose argument, an int to the kernel, is that.
const fn exact(number: libc::c_long, argument: u8, value: u64) -> Call {
    masked(number, argument, 0xffff_ffff, value)
}

/// ioctl(2) with that request.
const fn ioctl(request: libc::Ioctl) -> Call {
    exact(libc::SYS_ioctl, 1, request as u32 as u64)
}

/// Flags by which openat(2) would make or empty a file. `O_TMPFILE` less `O_DIRECTORY` is 0o20000000 on every machine.
const MAKES: u64 = (libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | 0o20_000_000) as u64;
const OPEN_TO_READ: Call = masked(
    libc::SYS_openat,
    2,
    MAKES | libc::O_ACCMODE as u64,
    libc::O_RDONLY as u64,
);
const OPEN: Call = masked(libc::SYS_openat, 2, MAKES, 0);

/// What every job needs: to reply, to have memory, to end, be it by an abort.
const EVERY: &[Call] = &[
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_close),
    // Rust's debug builds look whether what they close is open.
    exact(libc::SYS_fcntl, 1, libc::F_GETFD as u64),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_brk),
    masked(libc::SYS_mmap, 2, libc::PROT_EXEC as u64, 0),
    masked(libc::SYS_mprotect, 2, libc::PROT_EXEC as u64, 0),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_madvise),
    any(libc::SYS_futex),
    any(libc::SYS_getrandom),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
];

/// To drop what the next job does not need.
const NEXT: &[Call] = &[
    any(libc::SYS_capget),
    any(libc::SYS_capset),
    any(libc::SYS_seccomp),
    exact(libc::SYS_prctl, 0, libc::PR_SET_NO_NEW_PRIVS as u64),
];

/// To look at an open file.
const LOOK: &[Call] = &[
    any(libc::SYS_fstat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_lseek),
];

/// A mount is never without these flags, and has no other but read-only: not one by which something else is mounted, moved or
/// changed.
const MOUNT: &[Call] = &[masked(
    libc::SYS_mount,
    3,
    !libc::MS_RDONLY,
    mount::REQUIRED.bits(),
)];

const UNMOUNT: &[Call] = &[exact(libc::SYS_umount2, 1, libc::UMOUNT_NOFOLLOW as u64)];

/// openat2(2)'s flags are in memory, where no filter can look: what it may open is for the capabilities to say.
const INSPECT: &[Call] = &[any(libc::SYS_openat2), any(libc::SYS_pread64)];

/// To become another user, and to be confined again as that one.
const BECOME: &[Call] = &[
    any(libc::SYS_geteuid),
    any(libc::SYS_setgroups),
    any(libc::SYS_setresgid),
    any(libc::SYS_setresuid),
    exact(libc::SYS_prctl, 0, libc::PR_SET_PDEATHSIG as u64),
    exact(libc::SYS_prctl, 0, libc::PR_SET_DUMPABLE as u64),
    exact(libc::SYS_prctl, 0, libc::PR_SET_NO_NEW_PRIVS as u64),
    exact(libc::SYS_prlimit64, 1, libc::RLIMIT_CORE as u64),
];

const IDENTIFY: &[Call] = &[
    OPEN_TO_READ,
    ioctl(scsi::SG_IO),
    ioctl(block::BLKGETDISKSEQ),
];
const HOLD: &[Call] = &[OPEN_TO_READ, ioctl(block::BLKGETDISKSEQ)];
const PROTECT: &[Call] = &[
    OPEN_TO_READ,
    ioctl(block::BLKGETDISKSEQ),
    ioctl(block::BLKROSET),
];
const FLUSH: &[Call] = &[
    OPEN_TO_READ,
    any(libc::SYS_sync_file_range),
    ioctl(block::BLKFLSBUF),
];

/// The path is made one without links first.
const WRITE_SYSFS: &[Call] = &[
    OPEN,
    any(libc::SYS_readlinkat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink),
];

/// To wait for a disk, and to open it as it is to be used.
const APPEAR: &[Call] = &[
    any(libc::SYS_getdents64),
    any(libc::SYS_nanosleep),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_restart_syscall),
    ioctl(scsi::SG_IO),
    ioctl(block::BLKGETDISKSEQ),
];
const PROTECT_NEW: &[Call] = &[ioctl(block::BLKROSET)];

const CONNECT_NVME: &[Call] = &[OPEN];
const IDENTIFY_NAMESPACE: &[Call] = &[OPEN_TO_READ, ioctl(nvme::ADMIN_CMD)];

fn calls(job: &Job) -> Vec<&'static [Call]> {
    match job {
        Job::Mount(_) => vec![MOUNT],
        Job::Unmount(_) => vec![UNMOUNT],
        Job::Inspect(InspectJob { user: None, .. }) => vec![LOOK, INSPECT],
        Job::Inspect(InspectJob { user: Some(_), .. }) => vec![LOOK, INSPECT, BECOME],
        Job::Identify(_) => vec![LOOK, IDENTIFY],
        Job::Scan(ScanJob {
            read_only: false, ..
        }) => vec![LOOK, WRITE_SYSFS, APPEAR],
        Job::Scan(ScanJob {
            read_only: true, ..
        }) => vec![LOOK, WRITE_SYSFS, APPEAR, PROTECT_NEW],
        Job::Protect(_) => vec![LOOK, PROTECT],
        Job::Flush(_) => vec![LOOK, FLUSH],
        Job::Hold(_) => vec![LOOK, HOLD],
        Job::WriteSysfs(_) => vec![LOOK, WRITE_SYSFS],
        Job::ConnectNvme(_) => vec![LOOK, CONNECT_NVME],
        Job::IdentifyNamespace(_) => vec![LOOK, IDENTIFY_NAMESPACE],
    }
}

/// Confines this thread, and whatever it would start, to the calls of these jobs.
///
/// # Errors
/// Where that cannot be done: then no job may be.
pub(super) fn install(jobs: &[Job]) -> Result<(), FilterError> {
    Ok(seccompiler::apply_filter(&program(jobs)?)?)
}

/// The filter of the jobs ahead.
fn program(jobs: &[Job]) -> Result<BpfProgram, FilterError> {
    let mut allowed: Vec<&[Call]> = jobs.iter().flat_map(calls).collect();
    allowed.push(EVERY);
    // An abort is a signal to itself: to no other process, all of root's as they may be.
    let own = [exact(libc::SYS_tgkill, 0, std::process::id().into())];
    allowed.push(&own);
    if jobs.len() > 1 {
        allowed.push(NEXT);
    }
    // No rule at all for a call: it is allowed as it is. Several: it is where one of them fits.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut unconditional = Vec::new();
    for call in allowed.into_iter().flatten() {
        let known = rules.entry(call.number).or_default();
        match call.only {
            None => unconditional.push(call.number),
            Some(only) => known.push(SeccompRule::new(vec![only.condition()?])?),
        }
    }
    for number in unconditional {
        rules.insert(number, vec![]);
    }
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    let (otherwise, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, otherwise, allow, machine)?;
    Ok(BpfProgram::try_from(filter)?)
}

impl Only {
    fn condition(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        // What the kernel takes for an int has whatever it likes in the upper half.
        let length = match self.mask >> 32 {
            0 => SeccompCmpArgLen::Dword,
            _ => SeccompCmpArgLen::Qword,
        };
        let is = SeccompCmpOp::MaskedEq(self.mask);
        SeccompCondition::new(self.argument, length, is, self.value)
    }
}

#[cfg(test)]
mod tests;
