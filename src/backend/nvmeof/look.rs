//! Looks at what the kernel knows of a subsystem, as this host is known to it, and waits for a volume's device.

use std::path::Path;

use tokio::time::Instant;

use super::fabric::{Block, Controller, State};
use super::verify::Wanted;
use super::{DEVICES, INSPECT_TIMEOUT, LOOK, NvmeBackend, RESCAN, blocking, nqn, path, target};
use crate::backend::BackendError;
use crate::model::{HostVolume, TargetPlan};
use crate::sys::worker::{Job, SysfsJob};

impl NvmeBackend {
    /// The subsystem's controllers by this host's name. One by another name goes by that one's rights, and away with whoever made it.
    pub(super) async fn controllers(&self, nqn: &str) -> Result<Vec<Controller>, BackendError> {
        let (fabric, nqn, own) = (self.fabric.clone(), nqn.to_owned(), self.own.clone());
        let action = || "list the NVMe controllers in /sys/class/nvme".to_owned();
        let list = move || {
            let all = fabric.controllers(&nqn)?;
            match all.is_empty() {
                true => Ok(all),
                false => Ok(by_name(all, &own.nvme()?.nqn)),
            }
        };
        blocking(action, list).await
    }

    pub(super) async fn blocks(&self, nqn: &str) -> Result<Vec<Block>, BackendError> {
        let (fabric, nqn) = (self.fabric.clone(), nqn.to_owned());
        let action = || "list the block devices in /sys/block".to_owned();
        blocking(action, move || fabric.blocks(&nqn)).await
    }

    /// Has a controller look for its namespaces anew. It does so by itself; this is for what it was told of while nobody
    /// listened.
    pub(super) async fn rescan(&self, controllers: &[Controller]) {
        let live = controllers.iter().filter(|it| it.state == State::Live);
        let scans = live.map(|controller| {
            let path = self.fabric.file(&controller.name, "rescan_controller");
            let value = "1".to_owned();
            let job = Job::WriteSysfs(SysfsJob { path, value });
            self.workers.run(job, INSPECT_TIMEOUT)
        });
        for failed in futures::future::join_all(scans)
            .await
            .into_iter()
            .flat_map(Result::err)
        {
            tracing::debug!(%failed, "a controller does not look for namespaces");
        }
    }

    /// Waits until the volume has a device with a live path. Whose it is, is not known yet.
    pub(super) async fn appear(
        &self,
        target: &TargetPlan,
        wanted: &Wanted,
    ) -> Result<Block, BackendError> {
        let nqn = nqn(target)?;
        let end = Instant::now() + self.settings.device_timeout;
        let mut rescan = Instant::now();
        loop {
            let controllers = self.controllers(nqn).await?;
            let blocks = self.blocks(nqn).await?;
            // Where the kernel does not join paths, the device of another path is another attachment's.
            let at_portal = |block: &Block| {
                let of = |it: &&Controller| Some(&it.name) == block.controller.as_ref();
                let controller = controllers.iter().find(of);
                let portal = controller.and_then(|controller| controller.portal);
                path::portals(&target.paths).any(|own| Some(own) == portal)
            };
            let found = blocks.iter().find(|block| {
                wanted.may_be(block) && (block.controller.is_none() || at_portal(block))
            });
            let leads = |block: &&Block| {
                let mut live = controllers.iter().filter(|it| it.state == State::Live);
                live.any(|controller| controller.nsids.contains(&block.nsid))
            };
            if let Some(block) = found.filter(leads) {
                return Ok(block.clone());
            }
            if Instant::now() >= end {
                let live = controllers.iter().any(|it| it.state == State::Live);
                return Err(match live {
                    true => wanted.absent(&blocks, self.settings.device_timeout),
                    false => path::lost(target),
                });
            }
            if found.is_none() && Instant::now() >= rescan {
                self.rescan(&controllers).await;
                rescan = Instant::now() + RESCAN;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The volume's device, as far as the kernel knows it.
    pub(super) async fn device(&self, volume: &HostVolume) -> Result<Option<Block>, BackendError> {
        let target = target(&volume.plan)?;
        let Some(device) = &volume.found.device else {
            return Ok(None);
        };
        let blocks = self.blocks(nqn(target)?).await?;
        Ok(blocks.into_iter().find(|block| {
            block.wwid == device.identity
                && device.path == Path::new(DEVICES).join(&block.name)
                && (device.sequence.is_none() || block.sequence == device.sequence)
        }))
    }
}

/// Those by that name of a host; also those of which the kernel does not tell it.
pub(super) fn by_name(mut controllers: Vec<Controller>, host: &str) -> Vec<Controller> {
    controllers.retain(|it| it.host.is_empty() || it.host == host);
    controllers
}
