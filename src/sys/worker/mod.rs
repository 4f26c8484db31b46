//! Short-lived worker processes: whatever may hang on a dead server runs in one, with a deadline.
//!
//! A worker is the executable `volattachd-worker`, with an empty environment. It gets its [`Job`]s through its standard
//! input and gives a [`Reply`] to each through its standard output, up to the first that fails; then it ends. It drops
//! all capabilities and system calls but those of the jobs ahead of it, cannot be looked into, and dies with the daemon. It is
//! not the daemon's own executable: to load that with libvirt takes some 20 ms, as long as all the rest of an attach.
//!
//! Invariants: whoever waits for a reply gets one at the deadline, also when the worker sleeps unkillably in the kernel;
//! a worker past its deadline is sent SIGKILL at once and reaped when it goes; each worker is counted under the server that it works
//! for until it is reaped ([`Registry`]); secrets are in the pipe alone, never on a command line or in the environment.

mod child;
mod filter;
mod job;
mod registry;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use zeroize::Zeroizing;

pub use child::work;
pub use job::{
    FlushJob, HoldJob, InspectJob, Job, MountJob, NamespaceJob, ProtectJob, Reply, RunAs, ScanJob,
    SysfsJob,
};
pub use registry::{Entry, IN_ALL, PER_SERVER, Registry, StuckWorker};

/// The name of a worker's executable, and its `argv[0]`.
const NAME: &str = "volattachd-worker";

/// Room for the longest jobs, in bytes: mount options of one page, each byte written as `\u0000` at worst, and paths.
const JOBS_MAX: usize = 64 * 1024;

/// The longest reply that is read, in bytes.
const REPLY_MAX: u64 = 4 * 1024 * 1024;

/// How much of a worker's standard error is kept, in bytes.
const STDERR_MAX: u64 = 2048;

/// How long a killed worker may take to go before its reaping is left to the background, and it counts as stuck.
const REAP: Duration = Duration::from_millis(500);

/// How long a worker that replied to its last job may take to go before it is killed: to close a device may be I/O.
const LEAVE: Duration = Duration::from_secs(5);

/// Label of workers that no server is named for.
const THIS_HOST: &str = "this host";

/// Starts workers.
#[derive(Debug, Clone)]
pub struct Workers {
    executable: PathBuf,
    /// Keeps what `executable` names.
    _open: Option<Arc<File>>,
    /// The server that they work for, in words.
    server: Arc<str>,
    registry: Registry,
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
    /// Too many workers for the same server are stuck, so that no other was started.
    #[error(
        "no worker process is started for {server}: {} ended neither by its deadline nor by SIGKILL (pid {}) and will go when the \
        kernel lets it; bring the server back, look where it sleeps (cat /proc/PID/stack), or restart this host",
        match pids.len() { 1 => "one".to_owned(), number => format!("each of {number}") },
        pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    )]
    Stuck {
        /// The server, in words.
        server: String,
        /// The stuck workers.
        pids: Vec<u32>,
    },
    /// It ended without a reply.
    #[error("the worker process ended without a reply ({status}): {stderr}")]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// It tried a system call that its jobs do not need, and was killed by its filter.
    #[error(
        "the worker process {pid} tried a system call that its job does not need and was killed: a defect, or an attack; the \
        kernel's log names the call (journalctl -k -g 'type=1326.*pid={pid}')"
    )]
    Forbidden {
        /// The worker.
        pid: u32,
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
        let path = format!("/proc/self/fd/{}", open.as_raw_fd());
        Ok(Self {
            _open: Some(Arc::new(open)),
            ..Self::from_executable(path.into())
        })
    }

    /// Workers from another executable, which calls [`work`].
    #[must_use]
    pub fn from_executable(executable: PathBuf) -> Self {
        Self {
            executable,
            _open: None,
            server: THIS_HOST.into(),
            registry: Registry::default(),
        }
    }

    /// The same workers, counted under the server that they work for.
    #[must_use]
    pub fn of(&self, server: &str) -> Self {
        Self {
            server: server.into(),
            ..self.clone()
        }
    }

    /// The workers that exist.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Has a worker do a job: [`Self::start`], [`Worker::give`] and [`Worker::reply`].
    ///
    /// # Errors
    /// Where the worker could not do the job; a failed system call is [`WorkerError::Failed`].
    pub async fn run(&self, job: Job, within: Duration) -> Result<Reply, WorkerError> {
        let mut worker = self.start()?;
        worker.give(&[job]).await?;
        worker.reply(within).await
    }

    /// Makes a worker keep a block device open; see [`Job::Hold`].
    ///
    /// # Errors
    /// As [`Self::run`]; `ESTALE` if another device has that name by now.
    pub async fn hold(&self, job: HoldJob, within: Duration) -> Result<Held, WorkerError> {
        let mut worker = self.start()?;
        worker.give(&[Job::Hold(job)]).await?;
        worker.jobs += 1; // the worker does not end with this reply
        worker.reply(within).await?;
        Ok(Held(worker))
    }

    /// Starts a worker, which waits for its jobs. Dropping it kills it.
    ///
    /// To be called on a thread that outlives the jobs, as all of an async runtime's own do: the kernel ends the
    /// worker with the *thread* that started it (prctl(2), `PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// Where it could not be started; [`WorkerError::Stuck`] at once where too many for the same server are stuck.
    pub fn start(&self) -> Result<Worker, WorkerError> {
        let entry = self.registry.enter(&self.server)?;
        let child = Command::new(&self.executable)
            .arg0(NAME)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|source| WorkerError::Start {
            executable: self.executable.clone(),
            source,
        })?;
        entry.started(child.id().unwrap_or_default());
        Ok(Worker {
            executable: self.executable.clone(),
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(BufReader::new),
            jobs: 0,
            process: Some(Process { child, entry }),
        })
    }
}

/// A block device that is kept open until this is dropped.
pub struct Held(#[expect(dead_code, reason = "dropping it is what it is for")] Worker);

/// A worker that was started. The drop kills it.
pub struct Worker {
    executable: PathBuf,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    /// How many replies are to come.
    jobs: usize,
    /// `None`: it is being seen to its end elsewhere.
    process: Option<Process>,
}

/// A worker's process, and its place among those that exist.
struct Process {
    child: Child,
    entry: Entry,
}

impl Process {
    /// Lets the process go by itself for so long, and then sees to its end.
    async fn see_off(mut self, within: Duration) {
        let gone = tokio::time::timeout(within, self.child.wait()).await;
        if gone.is_err() {
            self.end().await;
        }
    }

    /// Kills the process, and waits until it is reaped; it counts as stuck if that takes longer than [`REAP`].
    async fn end(mut self) {
        // It fails only for a process that is gone already.
        let _ = self.child.start_kill();
        let gone = tokio::time::timeout(REAP, self.child.wait()).await;
        if gone.is_err() {
            self.entry.outlived();
            self.reap().await;
        }
    }

    /// Waits until the process is reaped.
    async fn reap(mut self) {
        // It fails only for a process that is reaped already.
        let _ = self.child.wait().await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // At once: the runtime may be about to end.
            let _ = process.child.start_kill();
            runtime.spawn(process.end());
        }
    }
}

impl Worker {
    /// Gives it its jobs, once. They are done in order, up to the first that fails.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub async fn give(&mut self, jobs: &[Job]) -> Result<(), WorkerError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(JOBS_MAX));
        serde_json::to_writer(&mut *bytes, jobs).map_err(|error| self.broken(error.into()))?;
        self.jobs = jobs.len();
        if let Some(process) = &self.process {
            let each: Vec<String> = jobs.iter().map(Job::in_words).collect();
            process.entry.given(each.join(", then "));
        }
        if let Some(mut stdin) = self.stdin.take() {
            // A worker that ended early says why itself.
            let _ = stdin.write_all(&bytes).await;
        }
        Ok(())
    }

    /// The reply to the next job.
    ///
    /// # Errors
    /// Where the worker could not do the job; a failed system call is [`WorkerError::Failed`].
    pub async fn reply(&mut self, within: Duration) -> Result<Reply, WorkerError> {
        match tokio::time::timeout(within, self.read()).await {
            Ok(result) => result,
            Err(_) => Err(self.abandon(within).await),
        }
    }

    async fn read(&mut self) -> Result<Reply, WorkerError> {
        let mut line = Vec::new();
        if let Some(stdout) = &mut self.stdout {
            let read = stdout.take(REPLY_MAX).read_until(b'\n', &mut line).await;
            read.map_err(|error| self.broken(error))?;
        }
        let reply = serde_json::from_slice(&line);
        self.jobs = self.jobs.saturating_sub(1);
        match reply {
            Ok(Reply::Failed { step, errno }) => {
                self.ended();
                Err(WorkerError::Failed {
                    step,
                    errno: Errno::from_raw(errno),
                })
            }
            Ok(reply) => {
                if self.jobs == 0 {
                    self.ended();
                }
                Ok(reply)
            }
            Err(_) => Err(self.died().await),
        }
    }

    /// It has no more to say, and goes.
    fn ended(&mut self) {
        if let Some(process) = self.process.take() {
            tokio::spawn(process.see_off(LEAVE));
        }
    }

    /// It said nothing, or nonsense.
    async fn died(&mut self) -> WorkerError {
        let Some(process) = &mut self.process else {
            return self.broken(std::io::ErrorKind::UnexpectedEof.into());
        };
        let child = &mut process.child;
        let pid = child.id().unwrap_or_default();
        let mut said = Vec::new();
        let stderr = child.stderr.take();
        let see = async {
            if let Some(stderr) = stderr {
                stderr.take(STDERR_MAX).read_to_end(&mut said).await?;
            }
            child.wait().await
        };
        let seen = see.await;
        self.process = None; // reaped
        match seen {
            Ok(status) if status.signal() == Some(libc::SIGSYS) => WorkerError::Forbidden { pid },
            Ok(status) => WorkerError::Died {
                status,
                stderr: String::from_utf8_lossy(&said).trim().to_owned(),
            },
            Err(error) => self.broken(error),
        }
    }

    fn broken(&self, source: std::io::Error) -> WorkerError {
        WorkerError::Start {
            executable: self.executable.clone(),
            source,
        }
    }

    /// Kills it, and sees it gone where that is quick.
    async fn abandon(&mut self, within: Duration) -> WorkerError {
        let (mut pid, mut reaped) = (0, true);
        if let Some(mut process) = self.process.take() {
            let child = &mut process.child;
            pid = child.id().unwrap_or_default();
            // It fails only for a process that is gone already.
            let _ = child.start_kill();
            reaped = tokio::time::timeout(REAP, child.wait()).await.is_ok();
            if !reaped {
                // At once: the next worker is started, or not, by this count.
                process.entry.outlived();
                tokio::spawn(process.reap());
            }
        }
        WorkerError::Deadline {
            pid,
            within,
            reaped,
        }
    }
}
