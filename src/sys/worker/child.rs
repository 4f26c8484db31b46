//! The worker's own side: confine itself, read the jobs, do them, reply to each, end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use zeroize::Zeroizing;

use super::{InspectJob, JOBS_MAX, Job, Reply, RunAs, ScanJob, SysfsJob, filter};
use crate::sys::beneath::Failed;
use crate::sys::{beneath, block, mount, nvme, scsi};

/// A worker's whole life: does its jobs and gives its exit code.
#[must_use]
pub fn work() -> ExitCode {
    match do_jobs() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent reads this into its own error.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn do_jobs() -> Result<(), String> {
    confine().map_err(|e| format!("cannot confine the worker: {e}"))?;
    let jobs = read_jobs()?;
    let mut kept = None;
    for (number, job) in jobs.iter().enumerate() {
        let needed = jobs[number..].iter().flat_map(capabilities).copied();
        keep_capabilities(&needed.collect())
            .map_err(|e| format!("cannot drop capabilities: {e}"))?;
        filter::install(&jobs[number..]).map_err(|e| e.to_string())?;
        let reply = run(job, &mut kept);
        send(&reply)?;
        if kept.is_some() {
            loop {
                std::thread::park(); // until this process is killed
            }
        }
        if matches!(reply, Reply::Failed { .. }) {
            break;
        }
    }
    Ok(())
}

fn send(reply: &Reply) -> Result<(), String> {
    let mut line = serde_json::to_vec(reply).map_err(|e| format!("cannot write a reply: {e}"))?;
    line.push(b'\n');
    std::io::stdout()
        .write_all(&line)
        .map_err(|e| format!("cannot send the reply: {e}"))
}

fn capabilities(job: &Job) -> &'static [Capability] {
    match job {
        Job::Mount(_) => &[Capability::CAP_SYS_ADMIN],
        // What is mounted beneath a share lies behind folders that are the hypervisor's user's alone, as are the files.
        Job::Unmount(_) => &[Capability::CAP_SYS_ADMIN, Capability::CAP_DAC_READ_SEARCH],
        // Another user needs no rights of root's: that is what is asked.
        Job::Inspect(InspectJob { user: Some(_), .. }) => {
            &[Capability::CAP_SETUID, Capability::CAP_SETGID]
        }
        Job::Inspect(InspectJob { write: false, .. }) => &[Capability::CAP_DAC_READ_SEARCH],
        Job::Inspect(InspectJob { write: true, .. }) => &[
            Capability::CAP_DAC_READ_SEARCH,
            Capability::CAP_DAC_OVERRIDE,
        ],
        // While a guest has a device, its node belongs to the hypervisor's user.
        Job::Identify(_) | Job::Hold(_) => &[Capability::CAP_DAC_READ_SEARCH],
        Job::Protect(_) | Job::Flush(_) => {
            &[Capability::CAP_SYS_ADMIN, Capability::CAP_DAC_READ_SEARCH]
        }
        Job::Scan(ScanJob {
            read_only: true, ..
        })
        | Job::IdentifyNamespace(_) => &[Capability::CAP_SYS_ADMIN],
        // A disk that is new is root's, as are the kernel's files.
        Job::Scan(_) | Job::WriteSysfs(_) | Job::ConnectNvme(_) => &[],
    }
}

/// Becomes another user for good, with all of its groups. All capabilities go with root.
fn run_as(user: &RunAs) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if uid == Uid::effective() {
        return Ok(());
    }
    let groups: Vec<_> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // The kernel forgets both with the old user (kernel/cred.c, commit_creds).
    confine()
}

/// The worker dies with its parent, and nobody looks into its memory: no ptrace, no core file.
fn confine() -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// Reads up to the end of standard input: a parent that died before it wrote all of the jobs leaves a part, which does
/// not parse.
fn read_jobs() -> Result<Vec<Job>, String> {
    // Room for the longest jobs from the start: growing would leave copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(JOBS_MAX + 1));
    std::io::stdin()
        .take(JOBS_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot read the jobs: {e}"))?;
    // Not serde's own message: it could quote them.
    serde_json::from_slice(&bytes).map_err(|_| "the jobs are malformed".to_owned())
}

/// Drops every capability that is not needed; those that the parent has not are not missed before a system call says so.
fn keep_capabilities(needed: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = permitted.intersection(needed).copied().collect();
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}

/// Does a job; a file to keep open after it goes into `kept`.
fn run(job: &Job, kept: &mut Option<File>) -> Reply {
    let result = match job {
        Job::Mount(m) => mount::mount(&m.source, &m.target, &m.fstype, m.read_only, &m.data)
            .map(|()| Reply::Done)
            .map_err(|errno| ("mount", errno)),
        Job::Unmount(target) => mount::unmount(target)
            .map(|()| Reply::Done)
            .map_err(|errno| ("unmount", errno)),
        Job::Inspect(job) => job
            .user
            .as_ref()
            .map_or(Ok(()), run_as)
            .map_err(|errno| ("become the user that QEMU runs as", errno))
            .and_then(|()| {
                if job.direct {
                    beneath::read_direct(&job.root, &job.relative)?;
                }
                beneath::inspect(&job.root, &job.relative, job.write, job.head, job.tail)
            })
            .map(Reply::Found),
        Job::Identify(device) => scsi::identify(device).map(Reply::Identity),
        Job::Scan(job) => scan(job),
        Job::Protect(job) => {
            block::set_read_only(&job.device, job.sequence, job.read_only).map(|()| Reply::Done)
        }
        Job::Flush(job) => block::flush(&job.device, job.shared).map(|()| Reply::Done),
        Job::Hold(job) => block::hold(&job.device, job.sequence).map(|file| {
            *kept = Some(file);
            Reply::Done
        }),
        Job::WriteSysfs(job) => write_sysfs(job).map(|()| Reply::Done),
        Job::ConnectNvme(options) => nvme::connect(options).map(|()| Reply::Done),
        Job::IdentifyNamespace(job) => {
            nvme::identify(&job.controller, job.nsid).map(Reply::Namespace)
        }
    };
    result.unwrap_or_else(Reply::from)
}

/// Has a disk appear, and asks it who it is.
fn scan(job: &ScanJob) -> Result<Reply, Failed> {
    write_sysfs(&job.scan)?;
    let Some(block) = scsi::appears(&job.unit, job.within) else {
        return Ok(Reply::Unit {
            block: None,
            told: scsi::Told::default(),
        });
    };
    let told = scsi::open_unit(&job.unit, &block, job.write, job.read_only)?;
    Ok(Reply::Unit {
        block: Some(block),
        told,
    })
}

/// Writes to one of the kernel's own files, by one write(2), as the kernel wants it.
///
/// # Errors
/// `EXDEV` for any other file; `ESTALE` if the file's directory is another one by now; open(2)'s and write(2)'s.
fn write_sysfs(job: &SysfsJob) -> Result<(), Failed> {
    let failed = |error: std::io::Error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        ("write to the kernel's file", errno)
    };
    let path = job.path.canonicalize().map_err(failed)?;
    if !path.starts_with("/sys") {
        return Err(("write to the kernel's file", Errno::EXDEV));
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(failed)?;
    // Looked at after the open: a directory that has its number still is the one that the file was opened in.
    if let (Some(expected), Some(directory)) = (job.directory, path.parent())
        && std::fs::metadata(directory).map_err(failed)?.ino() != expected
    {
        return Err(("find the kernel's file that was checked", Errno::ESTALE));
    }
    let written = file.write(job.value.as_bytes()).map_err(failed)?;
    match written == job.value.len() {
        true => Ok(()),
        false => Err(("write to the kernel's file", Errno::EIO)),
    }
}
