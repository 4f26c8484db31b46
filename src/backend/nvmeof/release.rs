//! Letting go of a volume, and of the subsystem's controllers with the last of its volumes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

use super::fabric::{Block, Controller};
use super::{DEVICES, INSPECT_TIMEOUT, LOOK, NvmeBackend, nqn, portals, target};
use crate::backend::release::{self, Use, busy};
use crate::backend::{BackendError, Release, workers_of};
use crate::model::{Claim, HostVolume, TargetPath};
use crate::sys::worker::{FlushJob, Job, SysfsJob, WorkerError, Workers};

/// How long controllers may take to go. One whose server is silent waits for a command that times out after 60 s at most (the
/// module nvme-core's `admin_timeout`); with a keep-alive of 5 s some 8 s were seen.
const DEADLINE: Duration = Duration::from_secs(75);

impl NvmeBackend {
    /// Writes out what is cached of the volume; the last user of the subsystem ends its controllers too. A device that stays is writable
    /// again if it was read-only for this attachment alone.
    pub(super) async fn release(
        &self,
        volume: &HostVolume,
        how: &Release,
    ) -> Result<(), BackendError> {
        self.let_go(volume, how).await?;
        if let Some(device) = volume.found.protected_device()
            && !how.keeps_read_only
        {
            // It may stay, by controllers of others or for other volumes of the subsystem.
            match self.device(volume).await? {
                Some(_) => {
                    let workers = workers_of(&self.workers, &volume.plan);
                    let unset = self.protected.unset(&workers, device, how.force);
                    unset.await?;
                }
                None => self.protected.forget(device),
            }
        }
        Ok(())
    }

    async fn let_go(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        let target = target(&volume.plan)?;
        let nqn = nqn(target)?;
        let mut blocks = self.blocks(nqn).await?;
        // A device of a single controller elsewhere belongs to another attachment or program, and stays.
        let controllers = self.controllers(nqn).await?;
        self.keep_claimed(&mut blocks, &target.paths, &controllers)
            .await?;
        let own = |block: &&Block| volume.identity() == Some(&block.wwid);
        let workers = &workers_of(&self.workers, &volume.plan);
        if let Some(block) = blocks.iter().find(own)
            && self.flush(workers, block, how.force).await? == Use::ByHost
        {
            return Err(release::used_by_host(&block.name));
        }
        let held = |portal: &SocketAddr| {
            how.held.contains(&Claim::Controller {
                subsystem: nqn.to_owned(),
                portal: portal.to_string(),
            })
        };
        let mut paths = target.paths.clone();
        paths.retain(|path| path.portal.parse().is_ok_and(|portal| !held(&portal)));
        if paths.is_empty() {
            return Ok(());
        }
        // What others than volattach use of the subsystem needs its controllers.
        let shared = how.held.contains(&Claim::Subsystem(nqn.to_owned()));
        for block in blocks.iter().filter(|block| !shared && !own(block)) {
            if self.flush(workers, block, how.force).await? == Use::ByHost {
                tracing::warn!(
                    device = block.name,
                    "the controllers stay: this host itself uses another namespace"
                );
                return Ok(());
            }
        }
        self.end_controllers(nqn, &paths).await?;
        let portals: Vec<SocketAddr> = portals(&paths).collect();
        self.made.forget(nqn, &portals);
        Ok(())
    }

    /// Writes out what is cached of a device, if it is nobody's; `force`: where that fails, it is lost.
    async fn flush(
        &self,
        workers: &Workers,
        block: &Block,
        force: bool,
    ) -> Result<Use, BackendError> {
        let device = Path::new(DEVICES).join(&block.name);
        let job = FlushJob {
            device,
            shared: false,
        };
        let flushed = workers.run(Job::Flush(job), INSPECT_TIMEOUT).await;
        release::judge(&block.name, flushed, force)
    }

    /// Ends the controllers that volattach made, and sees them gone. What a connect that was given up has left to the kernel is
    /// waited for: it comes to nothing, or to a controller.
    pub(super) async fn end_controllers(
        &self,
        nqn: &str,
        paths: &[TargetPath],
    ) -> Result<(), BackendError> {
        let end = Instant::now() + DEADLINE;
        loop {
            let ours = self.ours(nqn, paths).await?;
            if ours.is_empty() {
                return Ok(());
            }
            let names: Vec<&str> = ours.all().map(|it| it.name.as_str()).collect();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BackendError::DeviceTimeout {
                    device: names.join(", "),
                    why: format!(
                        "the kernel has not let go within {} s: its server is silent; it goes on by itself, try again then",
                        DEADLINE.as_secs()
                    ),
                });
            }
            let ends = ours
                .controllers
                .iter()
                .map(|controller| self.end(controller, left));
            for outcome in futures::future::join_all(ends).await {
                outcome?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn end(&self, controller: &Controller, within: Duration) -> Result<(), BackendError> {
        let job = Job::WriteSysfs(SysfsJob {
            path: self.fabric.file(&controller.name, "delete_controller"),
            directory: Some(controller.id),
            value: "1".to_owned(),
        });
        match self.workers_at(controller).run(job, within).await {
            Ok(_) => {
                tracing::info!(controller = controller.name, "controller ended");
                Ok(())
            }
            // On its way out, still on its way in (drivers/nvme/host/sysfs.c), or past the deadline: the next look tells.
            Err(
                WorkerError::Failed {
                    errno:
                        Errno::ENOENT | Errno::ENODEV | Errno::ESTALE | Errno::EBUSY | Errno::EAGAIN,
                    ..
                }
                | WorkerError::Deadline { .. },
            ) => Ok(()),
            Err(error @ WorkerError::Stuck { .. }) => Err(BackendError::WorkersStuck(error)),
            Err(error) => Err(busy(controller.name.clone(), error.to_string())),
        }
    }
}
