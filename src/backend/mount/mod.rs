//! What the backends that mount a share have in common: its mount point, the worker that mounts and inspects, the
//! look-up of its server's name, the take-down.
//!
//! Invariants: no server is talked to in the daemon but by a probe with a deadline; a mount or unmount, and any look at
//! a file on a share, is a worker's job; the kernel is asked to mount from an address only after the server there gave
//! a sign of life; a mount that fails leaves nothing.

mod early;
mod mountpoint;
mod moved;
pub(in crate::backend) mod probe;
pub(in crate::backend) mod selinux;
mod tried;
mod turns;
mod unmount;
pub(in crate::backend) mod words;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{BackendError, HeadStart, Presence, Unrecorded, each, file, workers_of};
use crate::config::Shares;
use crate::model::{Access, HostPlan, HostVolume, MountPlan, Server};
use crate::sys::Resolver;
use crate::sys::mountinfo::{Mount, Mounts};
use crate::sys::worker::{InspectJob, Job, MountJob, Reply, RunAs, Worker, WorkerError, Workers};
use early::Early;
pub(in crate::backend) use mountpoint::beside;
use moved::Addresses;
use probe::Outcome;
use tried::Tried;
pub(in crate::backend) use turns::Turns;

/// How long a server's name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long opening and reading a volume's header may take. A server that dies meanwhile is noticed later by the
/// kernel.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A share to mount, as its protocol knows it.
pub(in crate::backend) trait Share: Sync {
    /// What a server offers to be mounted with: a version, and what else its answer told.
    type Offer: std::fmt::Display + Sync + Send + 'static;

    /// The server's name or address.
    fn host(&self) -> &str;

    /// The port to ask at.
    fn port(&self) -> Result<u16, BackendError>;

    /// The versions that may be used, in words.
    fn versions(&self) -> String;

    /// How long an address may take to answer, and a mount.
    fn settings(&self) -> &Shares;

    /// The turns to take, where the kernel makes one mount wait for another.
    fn turns(&self) -> Option<&Turns>;

    /// Asks the server at an address what it offers, the best first.
    fn probe(&self, address: SocketAddr) -> impl Future<Output = Outcome<Vec<Self::Offer>>> + Send;

    /// mount(2)'s data string, secrets included.
    fn data(
        &self,
        address: SocketAddr,
        offer: &Self::Offer,
    ) -> Result<Zeroizing<String>, BackendError>;

    /// What mount(2)'s error means.
    fn meaning(&self, errno: Errno, target: &Path, offer: &Self::Offer) -> Meaning;
}

/// What an error of mount(2) means.
pub(in crate::backend) enum Meaning {
    /// Nothing is wrong but this address: another may do.
    Unreachable(String),
    /// It fell silent: another address may do.
    Silent(String),
    /// The kernel's connection to it broke while it mounted: the same may do the next time.
    Broke(String),
    /// Not by this version: an older one that the server offers may do.
    OtherVersion(BackendError),
    /// Another address would change nothing.
    Final(BackendError),
}

/// Mounts shares, and takes them down. Clones know of the same mounts.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Mounter {
    workers: Workers,
    /// As whom volumes are opened; `None`: as the daemon, whom the share's owner does not concern.
    user: Option<RunAs>,
    resolver: Resolver,
    addresses: Arc<Addresses>,
}

impl Mounter {
    /// Touches nothing.
    pub(in crate::backend) fn new(workers: Workers, user: Option<RunAs>) -> Self {
        Self {
            workers,
            user,
            resolver: Resolver::default(),
            addresses: Arc::new(Addresses::new("/proc/self/mountinfo")),
        }
    }

    /// The same, opening volumes as that user of this host. The same user keeps its groups: the host's user database may fail to answer, and
    /// its silence must not take them away.
    pub(in crate::backend) fn as_user(&self, uid: u32, gid: u32) -> Self {
        let is_same = |user: &&RunAs| (user.uid, user.gid) == (uid, gid);
        let same = self.user.as_ref().filter(is_same).cloned();
        Self {
            user: Some(same.unwrap_or_else(|| RunAs::of_this_host(uid, gid))),
            ..self.clone()
        }
    }

    /// Looks whether the mount is there, without touching the server.
    pub(in crate::backend) async fn find(
        &self,
        mount: &MountPlan,
        access: Access,
    ) -> Result<Presence, BackendError> {
        let (mount, target) = (mount.clone(), mount.target.clone());
        blocking(
            || format!("look at the mount point {}", target.display()),
            move || mountpoint::presence(&Mounts::read()?, &mount, access),
        )
        .await
    }

    /// The same for many volumes, by one mount table. Volumes without a mount are looked at by `local`.
    pub(in crate::backend) async fn find_all(
        &self,
        volumes: Vec<HostVolume>,
        local: impl Fn(&HostPlan, &Mounts) -> Result<Presence, BackendError> + Send + 'static,
    ) -> Vec<Result<Presence, BackendError>> {
        let count = volumes.len();
        let find = move |mounts: &Mounts, volume: &HostVolume| match volume.plan.mount() {
            Some(mount) => mountpoint::presence(mounts, mount, volume.plan.access)
                .map_err(host(|| format!("look at {}", mount.target.display()))),
            None => local(&volume.plan, mounts),
        };
        let look = move || {
            let mounts = Mounts::read()?;
            Ok(volumes.iter().map(|volume| find(&mounts, volume)).collect())
        };
        each(
            count,
            blocking(|| "read the mount table".to_owned(), look).await,
        )
    }

    /// Starts a worker and asks the server for a sign of life, for a connect to come.
    pub(in crate::backend) async fn head_start(
        &self,
        share: &impl Share,
        plan: &HostPlan,
    ) -> HeadStart {
        let began = Instant::now();
        HeadStart::of(began, self.early(share, plan).await)
    }

    /// Mounts the share and inspects the volume.
    pub(in crate::backend) async fn connect<S: Share>(
        &self,
        share: &S,
        volume: &HostVolume,
        mount: &MountPlan,
        head_start: HeadStart,
    ) -> Result<(), BackendError> {
        let early = async {
            match head_start.into_inner::<Early<S::Offer>>() {
                Some(early) => early,
                None => self.early(share, &volume.plan).await,
            }
        };
        let (early, made) = tokio::join!(early, self.make_mount_point(&volume.plan, mount));
        made?;
        // An earlier mount may have been taken down from the mount point, which takes as long as its server does.
        let early = match early.is_fresh() {
            true => early,
            false => self.early(share, &volume.plan).await,
        };
        let result = self.mount(early, share, volume, mount).await;
        if result.is_err() {
            // What fails here is still found, and taken down by `disconnect`; the first error says more.
            let _ = self.take_down(&volume.plan, mount).await;
        }
        result
    }

    /// Inspects the volume of a mounted share, and gives its size in bytes.
    pub(in crate::backend) async fn inspect(
        &self,
        volume: &HostVolume,
    ) -> Result<u64, BackendError> {
        inspect(&self.workers, volume, self.user.as_ref()).await
    }

    /// The same, and reads a block of the volume from its server.
    pub(in crate::backend) async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        read(&self.workers, volume, self.user.as_ref()).await
    }

    /// Unmounts everything on and beneath the plan's mount point, and removes it. Nothing there is success.
    pub(in crate::backend) async fn take_down(
        &self,
        plan: &HostPlan,
        mount: &MountPlan,
    ) -> Result<(), BackendError> {
        unmount::take_down(&workers_of(&self.workers, plan), &mount.target).await
    }

    /// Asks a server's addresses for a sign of life until one answers or refuses.
    ///
    /// # Errors
    /// Where the name does not resolve, or every address is silent.
    pub(in crate::backend) async fn sign_of_life<T, A>(
        &self,
        server: &Server,
        port: u16,
        within: Duration,
        ask: impl Fn(SocketAddr) -> A,
    ) -> Result<(), BackendError>
    where
        A: Future<Output = Outcome<T>>,
    {
        let mut tried = Tried::default();
        let port = server.port.unwrap_or(port);
        for address in self.resolve(&server.host, port).await? {
            match ask(address).await {
                Outcome::Silent => tried.add::<T>(address, Outcome::Silent, within),
                Outcome::Speaks(_) | Outcome::Refused(_) | Outcome::Unreachable(_) => return Ok(()),
            }
        }
        Err(tried.into_error(&server.host, String::new()))
    }

    /// Resolves the server's name: a literal address is itself.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, BackendError> {
        tokio::time::timeout(RESOLVE_TIMEOUT, self.resolver.resolve(host, port))
            .await
            .unwrap_or_else(|_| Err(Errno::ETIMEDOUT.into()))
            .map_err(|source| BackendError::NameResolution {
                host: host.to_owned(),
                source,
            })
    }

    /// Makes the directory to mount on, with nothing on it.
    async fn make_mount_point(
        &self,
        plan: &HostPlan,
        mount: &MountPlan,
    ) -> Result<(), BackendError> {
        let make = || {
            let target = mount.target.clone();
            blocking(
                || format!("make the mount point {}", mount.target.display()),
                move || mountpoint::make(&target),
            )
        };
        if !make().await? {
            // Whatever a crash or an earlier failure left: from the beginning.
            self.take_down(plan, mount).await?;
            make().await?;
        }
        Ok(())
    }

    /// Asks each address for a sign of life, mounts from the first that gives one, and inspects the volume.
    async fn mount<S: Share>(
        &self,
        early: Early<S::Offer>,
        share: &S,
        volume: &HostVolume,
        mount: &MountPlan,
    ) -> Result<(), BackendError> {
        let access = volume.plan.access;
        let Early {
            worker,
            addresses,
            outcomes,
            ..
        } = early;
        let (mut started, mut outcomes) = (Some(worker), outcomes.into_iter());
        let mut next_worker = || {
            let start = || workers_of(&self.workers, &volume.plan).start();
            let worker = started.take().unwrap_or_else(start);
            worker.map_err(host(|| "start a worker".to_owned()))
        };
        let mut tried = Tried::default();
        for address in addresses? {
            let outcome = match outcomes.next() {
                Some(outcome) => outcome,
                None => share.probe(address).await,
            };
            let offers = match outcome {
                Outcome::Speaks(offers) => offers,
                other => {
                    tried.add(address, other, share.settings().probe_timeout);
                    continue;
                }
            };
            let mut refused = None;
            for offer in offers {
                let job = Job::Mount(MountJob {
                    source: mount.source.clone(),
                    target: mount.target.clone(),
                    fstype: mount.fstype.clone(),
                    read_only: access.is_read_only(),
                    data: share.data(address, &offer)?.to_string(),
                });
                let mut worker = next_worker()?;
                let jobs = [job, Job::Inspect(file::job(volume, self.user.as_ref())?)];
                let mut outcome =
                    mount_one(&mut worker, &jobs, share, mount, address, &offer).await;
                if let Err(Meaning::Broke(why)) = &outcome {
                    tracing::info!(%address, why, "mounting once more");
                    worker = next_worker()?;
                    outcome = mount_one(&mut worker, &jobs, share, mount, address, &offer).await;
                }
                match outcome {
                    Ok(()) => {
                        tracing::info!(source = mount.source, %address, vers = %offer, mount_point = %mount.target.display(), "mounted");
                        check(mount, access).await?;
                        self.addresses.note(mount, address.ip()).await?;
                        let reply = worker.reply(INSPECT_TIMEOUT).await;
                        return found(volume, self.user.as_ref(), reply).map(drop);
                    }
                    Err(Meaning::Final(error)) => return Err(error),
                    Err(Meaning::OtherVersion(error)) => refused = Some(error),
                    Err(Meaning::Unreachable(why)) => {
                        tried.unreachable(address, why);
                        break;
                    }
                    Err(Meaning::Silent(why)) => {
                        tried.silent(address, why);
                        break;
                    }
                    Err(Meaning::Broke(why)) => {
                        tried.broke(address, why);
                        break;
                    }
                }
            }
            if let Some(error) = refused {
                return Err(error);
            }
        }
        Err(tried.into_error(share.host(), share.versions()))
    }
}

/// Mounts when it is this mount's turn.
async fn mount_one<S: Share>(
    worker: &mut Worker,
    jobs: &[Job],
    share: &S,
    mount: &MountPlan,
    address: SocketAddr,
    offer: &S::Offer,
) -> Result<(), Meaning> {
    let within = share.settings().mount_timeout;
    let result = {
        let _turn = match share.turns() {
            Some(turns) => Some(turns.take(address.ip()).await),
            None => None,
        };
        match worker.give(jobs).await {
            Ok(()) => worker.reply(within).await,
            Err(error) => Err(error),
        }
    };
    let target = &mount.target;
    result.map(drop).map_err(|error| match error {
        WorkerError::Failed { errno, .. } => share.meaning(errno, target, offer),
        WorkerError::Deadline { .. } => Meaning::Final(BackendError::MountTimeout {
            share: mount.source.clone(),
            target: target.clone(),
            within,
        }),
        error => {
            let action = || format!("mount {} on {}", mount.source, target.display());
            Meaning::Final(host(action)(error))
        }
    })
}

/// Whether the mount is what was planned.
async fn check(mount: &MountPlan, access: Access) -> Result<(), BackendError> {
    let its = mount.clone();
    let look = move || mountpoint::shortcoming(&its, access);
    let why = blocking(|| "read the mount table".to_owned(), look).await?;
    why.map_or(Ok(()), |why| {
        Err(BackendError::MountFailed {
            share: mount.source.clone(),
            target: mount.target.clone(),
            why,
        })
    })
}

/// Inspects a volume that is connected, as `user`, and gives its size in bytes.
pub(in crate::backend) async fn inspect(
    workers: &Workers,
    volume: &HostVolume,
    user: Option<&RunAs>,
) -> Result<u64, BackendError> {
    look(workers, volume, user, false).await
}

/// The same, and reads a block of the volume from its storage, past this host's caches.
pub(in crate::backend) async fn read(
    workers: &Workers,
    volume: &HostVolume,
    user: Option<&RunAs>,
) -> Result<(), BackendError> {
    look(workers, volume, user, true).await.map(drop)
}

async fn look(
    workers: &Workers,
    volume: &HostVolume,
    user: Option<&RunAs>,
    direct: bool,
) -> Result<u64, BackendError> {
    let job = InspectJob {
        direct,
        ..file::job(volume, user)?
    };
    let workers = workers_of(workers, &volume.plan);
    let reply = workers.run(Job::Inspect(job), INSPECT_TIMEOUT).await;
    found(volume, user, reply)
}

/// Judges what a worker found of the volume, and gives its size in bytes.
fn found(
    volume: &HostVolume,
    user: Option<&RunAs>,
    reply: Result<Reply, WorkerError>,
) -> Result<u64, BackendError> {
    match reply {
        Ok(Reply::Found(found)) => file::judge(volume, &found).map(|()| found.size),
        Ok(_) => Err(host(|| format!("look at {}", volume.path().display()))(
            std::io::Error::other("the worker gave another job's reply"),
        )),
        // The option `soft` turns a silent server into EIO (nfs(5)). A server's own EIO, of its disk, comes promptly and looks the same. It
        // counts as a silence too: the first probe of a quarantine comes at once, and such a server answers it.
        Err(WorkerError::Failed {
            errno: Errno::EIO, ..
        }) if is_soft(volume) => Err(BackendError::ServerLost {
            path: volume.path().to_owned(),
            why: "EIO, on a mount with the option soft".to_owned(),
            silent: true,
        }),
        Err(WorkerError::Failed { step, errno }) => Err(file::failure(volume, user, &step, errno)),
        Err(WorkerError::Deadline { within, .. }) => Err(BackendError::ServerLost {
            path: volume.path().to_owned(),
            why: format!("nothing within {} s", within.as_secs()),
            silent: true,
        }),
        Err(error) => Err(host(|| format!("look at {}", volume.path().display()))(
            error,
        )),
    }
}

fn is_soft(volume: &HostVolume) -> bool {
    let mount = volume.plan.mount().filter(|it| it.fstype == "nfs");
    mount.is_some_and(|it| it.options.split(',').any(|option| option == "soft"))
}

/// The plan's mount, which every plan of such a backend has.
pub(in crate::backend) fn of<'a>(
    plan: &'a HostPlan,
    protocol: &'static str,
) -> Result<&'a MountPlan, BackendError> {
    plan.mount()
        .ok_or(BackendError::not_mine(protocol, "a plan without a mount"))
}

/// An address as mount(2)'s `ip=` and `addr=` take it: the scope of a link-local one after a `%`.
pub(in crate::backend) fn for_kernel(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        other => other.ip().to_string(),
    }
}

/// Makes an error of this host's of another. A worker that is not started as too many are stuck keeps its own reason.
pub(in crate::backend) fn host<E: std::error::Error + Send + Sync + 'static>(
    action: impl FnOnce() -> String,
) -> impl FnOnce(E) -> BackendError {
    |source| {
        let source: Box<dyn std::error::Error + Send + Sync> = source.into();
        match source.downcast::<WorkerError>() {
            Ok(stuck) if matches!(*stuck, WorkerError::Stuck { .. }) => {
                BackendError::WorkersStuck(*stuck)
            }
            Ok(other) => BackendError::Host {
                action: action(),
                source: other,
            },
            Err(source) => BackendError::Host {
                action: action(),
                source,
            },
        }
    }
}

/// Finds mounts of these file systems beneath the directory of the mount points that none of the volumes has.
pub(in crate::backend) async fn unrecorded(
    base: &Path,
    fstypes: &[&str],
    recorded: &[HostVolume],
) -> Result<Vec<Unrecorded>, BackendError> {
    let mounts = blocking(|| "read the mount table".to_owned(), Mounts::read).await?;
    let known = |mount: &Mount| {
        let mut plans = recorded.iter().filter_map(|volume| volume.plan.mount());
        plans.any(|plan| plan.target == mount.mount_point)
    };
    let mounts = mounts.beneath(base).into_iter();
    let own = mounts.filter(|mount| fstypes.contains(&mount.fstype.as_str()) && !known(mount));
    let found = own.map(|mount| Unrecorded {
        what: format!(
            "mount {} of {}",
            mount.mount_point.display(),
            mount.source.display()
        ),
        mend: format!("umount {}", mount.mount_point.display()),
        own: true,
    });
    Ok(found.collect())
}

/// Runs what touches this host's own disk.
pub(in crate::backend) async fn blocking<T: Send + 'static>(
    action: impl Fn() -> String,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(host(&action))?
        .map_err(host(&action))
}

#[cfg(test)]
mod tests;
