//! Volumes on SMB shares: mounted by mount(2), one mount for all volumes with the same export, credentials, options
//! and access.
//!
//! Invariants: no server is talked to in the daemon but by a probe with a deadline; a mount or unmount, and any look at
//! a file on a share, is a worker's job; one CIFS mount is under way at a time, so that the worker to kill when one
//! hangs is the one that makes the others wait (the kernel serialises them); a mount point's name is a keyed hash of
//! what makes mounts the same, so that two that differ are never mixed up and the name tells nothing.

mod credentials;
mod dialect;
mod failure;
mod mountpoint;
mod negotiate;
mod probe;
mod share;
mod unmount;

use std::borrow::Cow;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use tokio::sync::{Mutex, Semaphore};

use super::{Attempt, Backend, BackendError, Connected, Description, Presence, file};
use crate::config;
use crate::connection::{Protocol, SmbCredentials, SmbVolume};
use crate::model::{Access, HostKey, HostPlan, MountPlan, SourceKind};
use crate::sys::worker::{Job, MountJob, Reply, Worker, WorkerError, Workers};
use dialect::Dialect;
use failure::Meaning;
use probe::Outcome;
use share::Share;

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "smbfs";

/// How long a server's name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Look-ups of names at a time, of the runtime's 512 threads for blocking work.
const RESOLVING: usize = 16;

/// How long opening and reading a volume's header may take. A server that dies meanwhile is noticed later (after
/// three of `echo_interval`, and 10 s).
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The backend for SMB shares.
#[derive(Debug)]
pub struct SmbBackend {
    settings: config::Smb,
    mount_base: PathBuf,
    key: HostKey,
    workers: Workers,
    /// Look-ups of names under way: with a dead resolver they must not take every thread for blocking work.
    resolving: Arc<Semaphore>,
    /// Held by the one mount that is under way. Fair: in the order of asking.
    mounting: Mutex<()>,
}

impl SmbBackend {
    /// Mounts beneath `mount_base`, in directories named under the host's key. Touches nothing.
    #[must_use]
    pub fn new(settings: config::Smb, mount_base: PathBuf, key: HostKey, workers: Workers) -> Self {
        Self {
            settings,
            mount_base,
            key,
            workers,
            resolving: Arc::new(Semaphore::new(RESOLVING)),
            mounting: Mutex::new(()),
        }
    }

    /// Resolves the server's name: a literal address is itself.
    async fn resolve(&self, share: &Share<'_>) -> Result<Vec<SocketAddr>, BackendError> {
        let host = &share.volume.host;
        let failed = |source| BackendError::NameResolution {
            host: host.clone(),
            source,
        };
        let name = (host.clone(), share.port()?);
        let lookup = async {
            let turn = Arc::clone(&self.resolving).acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                // getaddrinfo(3) cannot be broken off: it keeps its turn to its end.
                let _turn = turn;
                name.to_socket_addrs().map(Vec::from_iter)
            })
            .await
            .unwrap_or_else(|ended| Err(ended.into()))
        };
        let mut addresses = tokio::time::timeout(RESOLVE_TIMEOUT, lookup)
            .await
            .map_err(|_| failed(Errno::ETIMEDOUT.into()))?
            .map_err(failed)?;
        addresses.dedup();
        if addresses.is_empty() {
            return Err(failed(std::io::Error::other("the name has no address")));
        }
        Ok(addresses)
    }

    /// Who logs in, with the credentials file read where one is named.
    async fn login<'a>(
        &self,
        volume: &'a SmbVolume,
    ) -> Result<Cow<'a, SmbCredentials>, BackendError> {
        let SmbCredentials::File(path) = &volume.credentials else {
            return Ok(Cow::Borrowed(&volume.credentials));
        };
        let (path, directories) = (path.clone(), self.settings.credentials_dirs.clone());
        let shown = path.clone();
        let read = move || credentials::read(&path, &directories);
        tokio::task::spawn_blocking(read)
            .await
            .map_err(host(|| format!("read {}", shown.display())))?
            .map(Cow::Owned)
    }

    /// Asks each address for a sign of life, mounts from the first that gives one, and inspects the volume.
    async fn mount(
        &self,
        share: &Share<'_>,
        plan: &HostPlan,
        mount: &MountPlan,
    ) -> Result<(), BackendError> {
        // It starts while the server is asked.
        let mut started = Some(self.workers.start());
        let login = self.login(share.volume).await?;
        let mut tried = Tried::default();
        for address in self.resolve(share).await? {
            let outcome = probe::probe(
                address,
                share.source_address(),
                &share.dialects,
                self.settings.probe_timeout,
            )
            .await;
            let dialect = match outcome {
                Outcome::Speaks(dialect) => dialect,
                other => {
                    tried.add(address, other, self.settings.probe_timeout);
                    continue;
                }
            };
            let data = share.data(&for_kernel(address), dialect, &login)?;
            let job = Job::Mount(MountJob {
                source: mount.source.clone(),
                target: mount.target.clone(),
                fstype: mount.fstype.clone(),
                read_only: plan.access.is_read_only(),
                data: data.to_string(),
            });
            let worker = started.take().unwrap_or_else(|| self.workers.start());
            let mut worker = worker.map_err(host(|| "start a worker".to_owned()))?;
            let jobs = [job, Job::Inspect(file::job(plan)?)];
            match self
                .mount_one(&mut worker, &jobs, share, mount, dialect)
                .await
            {
                Ok(()) => {
                    tracing::info!(source = mount.source, %address, vers = %dialect, mount_point = %mount.target.display(), "mounted");
                    self.check(mount, plan.access)?;
                    return found(plan, worker.reply(INSPECT_TIMEOUT).await).map(drop);
                }
                Err(Meaning::Final(error)) => return Err(error),
                Err(Meaning::Unreachable(why)) => {
                    tried.add(address, Outcome::Unreachable(why), Duration::ZERO);
                }
                Err(Meaning::Silent(why)) => tried.silent(address, why),
            }
        }
        Err(tried.into_error(share))
    }

    /// Mounts when it is this mount's turn.
    async fn mount_one(
        &self,
        worker: &mut Worker,
        jobs: &[Job],
        share: &Share<'_>,
        mount: &MountPlan,
        dialect: Dialect,
    ) -> Result<(), Meaning> {
        let within = self.settings.mount_timeout;
        let result = {
            let _turn = self.mounting.lock().await;
            match worker.give(jobs).await {
                Ok(()) => worker.reply(within).await,
                Err(error) => Err(error),
            }
        };
        let target = &mount.target;
        result.map(drop).map_err(|error| match error {
            WorkerError::Failed { errno, .. } => failure::meaning(errno, share, target, dialect),
            WorkerError::Deadline { .. } => Meaning::Final(BackendError::MountTimeout {
                share: share.source(),
                target: target.clone(),
                within,
            }),
            error => {
                let action = || format!("mount {} on {}", share.source(), target.display());
                Meaning::Final(host(action)(error))
            }
        })
    }

    /// Makes the directory to mount on, with nothing on it.
    async fn make_mount_point(&self, plan: &MountPlan) -> Result<(), BackendError> {
        let make = || {
            let target = plan.target.clone();
            blocking(
                || format!("make the mount point {}", plan.target.display()),
                move || mountpoint::make(&target),
            )
        };
        if !make().await? {
            // Whatever a crash or an earlier failure left: from the beginning.
            unmount::take_down(&self.workers, &plan.target).await?;
            make().await?;
        }
        Ok(())
    }

    /// Whether the mount is what was planned.
    fn check(&self, mount: &MountPlan, access: Access) -> Result<(), BackendError> {
        let why = mountpoint::shortcoming(mount, access)
            .map_err(host(|| "read the mount table".to_owned()))?;
        why.map_or(Ok(()), |why| {
            Err(BackendError::MountFailed {
                share: mount.source.clone(),
                target: mount.target.clone(),
                why,
            })
        })
    }

    fn volume<'a>(&self, info: &'a Protocol) -> Result<&'a SmbVolume, BackendError> {
        match info {
            Protocol::Smb(volume) => Ok(volume),
            _ => Err(not_mine("connection info of another protocol")),
        }
    }
}

/// Judges what a worker found of the volume, and gives its size in bytes.
fn found(plan: &HostPlan, reply: Result<Reply, WorkerError>) -> Result<u64, BackendError> {
    match reply {
        Ok(Reply::Found(found)) => file::judge(plan, &found).map(|()| found.size),
        Ok(_) => Err(not_mine("another job's reply")),
        Err(WorkerError::Failed { step, errno }) => Err(file::failure(plan, &step, errno)),
        Err(WorkerError::Deadline { within, .. }) => Err(BackendError::ServerLost {
            path: plan.path.clone(),
            why: format!("nothing within {} s", within.as_secs()),
        }),
        Err(error) => Err(host(|| format!("look at {}", plan.path.display()))(error)),
    }
}

fn not_mine(what: &'static str) -> BackendError {
    BackendError::NotMine {
        protocol: PROTOCOL,
        what,
    }
}

/// Whether the running kernel is Linux 6.1 or later. An older one refuses a mount with `closetimeo`.
fn kernel_knows_closetimeo() -> bool {
    let release = nix::sys::utsname::uname().ok();
    release
        .as_ref()
        .and_then(|name| name.release().to_str())
        .is_some_and(|release| since(release, (6, 1)))
}

/// Whether a kernel release, such as `6.1.0-56-amd64`, is that version or later.
fn since(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

/// The plan's mount, which every plan of this backend has.
fn mount_of(plan: &HostPlan) -> Result<&MountPlan, BackendError> {
    plan.mount
        .as_ref()
        .ok_or_else(|| not_mine("a plan without a mount"))
}

/// Makes an error of this host's of another.
fn host<E: std::error::Error + Send + Sync + 'static>(
    action: impl FnOnce() -> String,
) -> impl FnOnce(E) -> BackendError {
    |source| BackendError::Host {
        action: action(),
        source: source.into(),
    }
}

/// Runs what touches this host's own disk.
async fn blocking<T: Send + 'static>(
    action: impl Fn() -> String,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(host(&action))?
        .map_err(host(&action))
}

/// An address as `ip=` takes it: the scope of a link-local one after a `%`.
fn for_kernel(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        other => other.ip().to_string(),
    }
}

/// The addresses that did not do, and the most telling kind of why.
#[derive(Default)]
struct Tried {
    attempts: Vec<Attempt>,
    refused: Option<String>,
    silent: bool,
}

impl Tried {
    fn add(&mut self, address: SocketAddr, outcome: Outcome, within: Duration) {
        let outcome = match outcome {
            Outcome::Speaks(_) => return,
            Outcome::Unreachable(why) => why,
            Outcome::Silent => {
                self.silent = true;
                format!("no answer within {} s", within.as_secs_f64())
            }
            Outcome::Refused(why) => {
                self.refused = Some(format!("at {address}, {why}"));
                why
            }
        };
        self.attempts.push(Attempt { address, outcome });
    }

    fn silent(&mut self, address: SocketAddr, outcome: String) {
        self.silent = true;
        self.attempts.push(Attempt { address, outcome });
    }

    fn into_error(self, share: &Share<'_>) -> BackendError {
        let host = share.volume.host.clone();
        match self.refused {
            Some(answer) => BackendError::VersionRefused {
                host,
                offered: dialect::names(&share.dialects),
                answer,
            },
            None if self.silent => BackendError::Silent {
                host,
                attempts: self.attempts,
            },
            None => BackendError::Unreachable {
                host,
                attempts: self.attempts,
            },
        }
    }
}

#[async_trait]
impl Backend for SmbBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn read_only(&self, info: &Protocol) -> bool {
        matches!(info, Protocol::Smb(volume) if self.settings.read_only(&volume.host))
    }

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let volume = self.volume(info)?;
        let share = Share::new(&self.settings, volume, access)?;
        let id = share.id(&self.key);
        let target = self.mount_base.join(&id);
        Ok(HostPlan {
            protocol: PROTOCOL.to_owned(),
            shared: Some(format!("smb:{id}")),
            path: target.join(&volume.name),
            root: target.clone(),
            mount: Some(MountPlan {
                source: share.source(),
                fstype: "cifs".to_owned(),
                options: share.shown(),
                target,
            }),
            target: None,
            kind: SourceKind::File,
            format: volume.format,
            access,
        })
    }

    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description {
        let share = self
            .volume(info)
            .and_then(|volume| Share::new(&self.settings, volume, plan.access));
        // Whoever has a plan has one that could be made.
        let Ok(share) = share else {
            return Description::default();
        };
        Description {
            connect: share.describe(&self.settings, &plan.root),
            inspect: file::describe(plan),
            settings: share.settings(),
        }
    }

    async fn find(&self, plan: &HostPlan) -> Result<Presence, BackendError> {
        let (mount, access) = (mount_of(plan)?.clone(), plan.access);
        let target = mount.target.clone();
        blocking(
            || format!("look at the mount point {}", target.display()),
            move || mountpoint::presence(&mount, access),
        )
        .await
    }

    async fn connect(&self, plan: &HostPlan, info: &Protocol) -> Result<Connected, BackendError> {
        let mount = mount_of(plan)?;
        let mut share = Share::new(&self.settings, self.volume(info)?, plan.access)?;
        if !kernel_knows_closetimeo() {
            share.drop_option("closetimeo");
        }
        self.make_mount_point(mount).await?;
        let result = self.mount(&share, plan, mount).await;
        if result.is_err() {
            // What fails here is still found, and taken down by `disconnect`; the first error says more.
            let _ = unmount::take_down(&self.workers, &mount.target).await;
        }
        result.map(|()| Connected {
            plan: plan.clone(),
            inspected: true,
        })
    }

    async fn inspect(&self, plan: &HostPlan) -> Result<(), BackendError> {
        self.extend(plan).await.map(drop)
    }

    async fn extend(&self, plan: &HostPlan) -> Result<u64, BackendError> {
        // A file is as large as its server says when it is opened.
        let job = Job::Inspect(file::job(plan)?);
        found(plan, self.workers.run(job, INSPECT_TIMEOUT).await)
    }

    async fn disconnect(&self, plan: &HostPlan, last: bool) -> Result<(), BackendError> {
        let mount = mount_of(plan)?;
        if !last {
            return Ok(());
        }
        unmount::take_down(&self.workers, &mount.target).await
    }
}

#[cfg(test)]
mod tests;
