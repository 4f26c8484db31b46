//! Short-lived worker processes: whatever may hang on a dead server runs in one, with a deadline.
//!
//! A worker is the executable `volattachd-worker`, with an empty environment. It gets one [`Job`] through its standard input and
//! gives one [`Reply`] through its standard output. It drops all capabilities but those of its job, cannot be looked
//! into, and dies with the daemon. It is not the daemon's own executable: to load that with libvirt takes some 20 ms,
//! as long as all the rest of an attach.
//!
//! Invariants: [`Workers::run`] returns at its deadline, also when the worker sleeps unkillably in the kernel; a
//! worker past its deadline is sent SIGKILL at once and reaped when it goes; secrets are in the pipe alone, never on a
//! command line or in the environment.

mod child;
mod job;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

pub use child::work;
pub use job::{InspectJob, Job, MountJob, Reply};

/// The name of a worker's executable, and its `argv[0]`.
const NAME: &str = "volattachd-worker";

/// Room for the longest job, in bytes: mount options of one page, each byte written as `\u0000` at worst, and paths.
const JOB_MAX: usize = 64 * 1024;

/// The longest reply that is read, in bytes.
const REPLY_MAX: u64 = 4 * 1024 * 1024;

/// How much of a worker's standard error is kept, in bytes.
const STDERR_MAX: u64 = 2048;

/// How long a killed worker may take to go before its reaping is left to the background.
const REAP: Duration = Duration::from_millis(500);

/// Starts workers.
#[derive(Debug, Clone)]
pub struct Workers {
    executable: PathBuf,
    /// Keeps what `executable` names.
    _open: Option<Arc<File>>,
}

/// Why a worker did not do its job.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It could not be started or talked to.
    #[error("cannot start a worker process from {executable:?}")]
    Start {
        /// What was to be started.
        executable: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not end in time and was killed.
    #[error("the worker process {pid} did not end within {} s and was killed{}", .within.as_secs_f64(),
        if *.reaped { "" } else { "; it sleeps in the kernel and will go when that lets it" })]
    Deadline {
        /// The worker.
        pid: u32,
        /// The deadline.
        within: Duration,
        /// Whether it is gone already.
        reaped: bool,
    },
    /// It ended without a reply.
    #[error("the worker process ended without a reply ({status}): {stderr}")]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A system call failed.
    #[error("cannot {step}: {errno}")]
    Failed {
        /// What was tried.
        step: String,
        /// The error.
        errno: Errno,
    },
}

impl Workers {
    /// Workers from the executable `volattachd-worker` beside this process's own. It is opened now, so that an upgrade does not
    /// pair this daemon with the next one's workers.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn installed() -> Result<Self, WorkerError> {
        let mut executable = PathBuf::from(NAME);
        let open = std::env::current_exe().and_then(|own| {
            executable = own.with_file_name(NAME);
            File::open(&executable)
        });
        let open = open.map_err(|source| WorkerError::Start { executable, source })?;
        Ok(Self {
            executable: format!("/proc/self/fd/{}", open.as_raw_fd()).into(),
            _open: Some(Arc::new(open)),
        })
    }

    /// Workers from another executable, which calls [`work`].
    #[must_use]
    pub fn from_executable(executable: PathBuf) -> Self {
        Self {
            executable,
            _open: None,
        }
    }

    /// Has a worker do a job.
    ///
    /// To be called on a thread that outlives the job, as all of an async runtime's own do: the kernel ends the
    /// worker with the *thread* that started it (prctl(2), `PR_SET_PDEATHSIG`). Dropping the future kills the worker.
    ///
    /// # Errors
    /// Where the worker could not do the job; a failed system call is [`WorkerError::Failed`].
    pub async fn run(&self, job: Job, within: Duration) -> Result<Reply, WorkerError> {
        let start = |source| WorkerError::Start {
            executable: self.executable.clone(),
            source,
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(JOB_MAX));
        serde_json::to_writer(&mut *bytes, &job).map_err(|e| start(e.into()))?;
        drop(job);
        let mut child = Command::new(&self.executable)
            .arg0(NAME)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        match tokio::time::timeout(within, converse(&mut child, &bytes)).await {
            Ok(result) => {
                let (status, stdout, stderr) = result.map_err(start)?;
                reply(status, &stdout, &stderr)
            }
            Err(_) => Err(abandon(child, within).await),
        }
    }
}

/// Hands over the job and collects everything that the worker says until it ends.
async fn converse(
    child: &mut Child,
    job: &[u8],
) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A worker that ended early says why itself.
            let _ = stdin.write_all(job).await;
        }
        Ok(())
    };
    let ((), stdout, stderr, status) = tokio::try_join!(
        write,
        read_up_to(stdout, REPLY_MAX),
        read_up_to(stderr, STDERR_MAX),
        child.wait(),
    )?;
    Ok((status, stdout, stderr))
}

async fn read_up_to(from: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(limit).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

fn reply(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<Reply, WorkerError> {
    match serde_json::from_slice(stdout) {
        Ok(Reply::Failed { step, errno }) => Err(WorkerError::Failed {
            step,
            errno: Errno::from_raw(errno),
        }),
        Ok(reply) if status.success() => Ok(reply),
        _ => Err(WorkerError::Died {
            status,
            stderr: String::from_utf8_lossy(stderr).trim().to_owned(),
        }),
    }
}

/// Kills a worker, and sees it gone where that is quick.
async fn abandon(mut child: Child, within: Duration) -> WorkerError {
    let pid = child.id().unwrap_or_default();
    // It fails only for a process that is gone already.
    let _ = child.start_kill();
    let reaped = tokio::time::timeout(REAP, child.wait()).await.is_ok();
    if !reaped {
        tokio::spawn(async move { child.wait().await });
    }
    WorkerError::Deadline {
        pid,
        within,
        reaped,
    }
}
