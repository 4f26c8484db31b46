//! Reads the state of a subsystem on this host, as the kernel shows it now.

use std::net::SocketAddr;
use std::path::Path;

use tokio::time::Instant;

use super::fabric::{Block, Controller, State};
use super::verify::Wanted;
use super::{
    DEVICES, FURTHER_PATHS, INSPECT_TIMEOUT, LOOK, NvmeBackend, PROTOCOL, RESCAN, nqn, path,
    portals, target,
};
use crate::backend::BackendError;
use crate::backend::mount::blocking;
use crate::host::NvmeHost;
use crate::model::{Device, HostVolume, Server, TargetPath, TargetPlan};
use crate::sys::worker::{Job, SysfsJob, Workers};

impl NvmeBackend {
    /// Reads this host's names for NVMe storage, and makes the missing ones.
    pub(super) async fn own_name(&self) -> Result<NvmeHost, BackendError> {
        let action = || "read or make this host's NVMe names in /etc/nvme".to_owned();
        let host = self.own.clone();
        blocking(action, move || host.nvme()).await
    }

    /// The subsystem's controllers under this host's own name. A controller under another name, at any portal, belongs to the program that
    /// made it: it has the rights of that name, and the kernel connects the own name beside it.
    pub(super) async fn own_controllers(&self, nqn: &str) -> Result<Vec<Controller>, BackendError> {
        self.by_own_name(self.controllers(nqn).await?).await
    }

    /// Controllers at these portals, under this host's own name, that the kernel is connecting for the first time.
    pub(super) async fn own_beginning(
        &self,
        portals: &[SocketAddr],
    ) -> Result<Vec<Controller>, BackendError> {
        let (fabric, portals) = (self.fabric.clone(), portals.to_owned());
        let action = || "list the NVMe controllers in /sys/class/nvme".to_owned();
        let beginning = blocking(action, move || fabric.beginning(&portals)).await?;
        self.by_own_name(beginning).await
    }

    /// Numbers of the controllers at the target's portals that volattach did not make, with those that the kernel is connecting for the first
    /// time.
    pub(super) async fn of_others(&self, target: &TargetPlan) -> Result<Vec<u64>, BackendError> {
        let nqn = nqn(target)?;
        let portals: Vec<SocketAddr> = portals(&target.paths).collect();
        // Listed first: a connect that has begun may have become a controller by the second look.
        let mut there = self.own_beginning(&portals).await?;
        there.extend(self.own_controllers(nqn).await?);
        there.retain(|it| it.portal.is_some_and(|at| portals.contains(&at)));
        there.retain(|it| !self.made.has(nqn, it));
        Ok(there.iter().map(|it| it.id).collect())
    }

    pub(super) async fn by_own_name(
        &self,
        mut controllers: Vec<Controller>,
    ) -> Result<Vec<Controller>, BackendError> {
        // Read or make the own name only if a controller reports a host name.
        if controllers.iter().any(|it| !it.host.is_empty()) {
            let own = self.own_name().await?;
            controllers.retain(|it| it.is_by(&own.nqn));
        }
        Ok(controllers)
    }

    pub(super) async fn controllers(&self, nqn: &str) -> Result<Vec<Controller>, BackendError> {
        let (fabric, nqn) = (self.fabric.clone(), nqn.to_owned());
        let action = || "list the NVMe controllers in /sys/class/nvme".to_owned();
        blocking(action, move || fabric.controllers(&nqn)).await
    }

    pub(super) async fn blocks(&self, nqn: &str) -> Result<Vec<Block>, BackendError> {
        let (fabric, nqn) = (self.fabric.clone(), nqn.to_owned());
        let action = || "list the block devices in /sys/block".to_owned();
        blocking(action, move || fabric.blocks(&nqn)).await
    }

    /// The workers for what goes by a controller.
    pub(super) fn workers_at(&self, controller: &Controller) -> Workers {
        match controller.portal {
            Some(portal) => self
                .workers
                .of(&Server::at(PROTOCOL, &portal.to_string()).to_string()),
            None => self.workers.of(&controller.name),
        }
    }

    /// Makes live controllers look for namespaces. Controllers do so by themselves; this covers changes reported while nobody listened.
    pub(super) async fn rescan(&self, controllers: &[Controller]) {
        let live = controllers.iter().filter(|it| it.state == State::Live);
        let scans = live.map(|controller| {
            let path = self.fabric.file(&controller.name, "rescan_controller");
            let value = "1".to_owned();
            let job = Job::WriteSysfs(SysfsJob {
                path,
                directory: Some(controller.id),
                value,
            });
            async { self.workers_at(controller).run(job, INSPECT_TIMEOUT).await }
        });
        for failed in futures::future::join_all(scans)
            .await
            .into_iter()
            .flat_map(Result::err)
        {
            tracing::debug!(%failed, "a controller does not look for namespaces");
        }
    }

    /// Waits until the volume has a device with a live path, and for a moment until its other live paths lead there too. The device is not
    /// verified yet.
    pub(super) async fn appear(
        &self,
        target: &TargetPlan,
        wanted: &Wanted,
    ) -> Result<Block, BackendError> {
        let nqn = nqn(target)?;
        let end = Instant::now() + self.settings.device_timeout;
        let (mut rescan, mut patience) = (Instant::now(), None);
        loop {
            let controllers = self.controllers(nqn).await?;
            let mut blocks = self.blocks(nqn).await?;
            self.keep_claimed(&mut blocks, &target.paths, &controllers)
                .await?;
            let found = blocks.iter().find(|block| wanted.may_be(block));
            let leads = |block: &&Block| {
                let mut live = controllers.iter().filter(|it| it.state == State::Live);
                live.any(|controller| block.goes_by(controller))
            };
            if let Some(block) = found.filter(leads) {
                let until = patience.get_or_insert(end.min(Instant::now() + FURTHER_PATHS));
                if Instant::now() >= *until || self.all_lead(target, &controllers, block).await? {
                    return Ok(block.clone());
                }
            } else if Instant::now() >= end {
                let live = controllers.iter().any(|it| it.state == State::Live);
                // An existing device only lacks a live path.
                return Err(match live && found.is_none() {
                    true => wanted.absent(&blocks, self.settings.device_timeout),
                    false => path::lost(target, true),
                });
            }
            if found.is_none() && Instant::now() >= rescan {
                self.rescan(&controllers).await;
                rescan = Instant::now() + RESCAN;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps the devices that stay as long as the paths do. A device of a single controller, at another portal or under another host name,
    /// goes away with the holder of that controller; its twin at the claimed portal is the volume's.
    pub(super) async fn keep_claimed(
        &self,
        blocks: &mut Vec<Block>,
        paths: &[TargetPath],
        controllers: &[Controller],
    ) -> Result<(), BackendError> {
        if blocks.iter().all(|it| it.controller.is_none()) {
            return Ok(());
        }
        let mut claimed = self.by_own_name(controllers.to_vec()).await?;
        claimed.retain(|it| {
            it.portal
                .is_some_and(|at| portals(paths).any(|portal| portal == at))
        });
        blocks.retain(|block| {
            let only = block.controller.as_ref();
            only.is_none_or(|only| claimed.iter().any(|it| it.name == *only))
        });
        Ok(())
    }

    /// The volume's device, as the kernel shows it.
    pub(super) async fn device(&self, volume: &HostVolume) -> Result<Option<Block>, BackendError> {
        let target = target(&volume.plan)?;
        let Some(device) = &volume.found.device else {
            return Ok(None);
        };
        let blocks = self.blocks(nqn(target)?).await?;
        Ok(blocks.into_iter().find(|block| is_of(block, device)))
    }

    /// The device as the kernel shows it now.
    ///
    /// # Errors
    /// `VOLUME_NOT_FOUND` if the device went away.
    pub(super) async fn still(
        &self,
        target: &TargetPlan,
        before: &Block,
    ) -> Result<Block, BackendError> {
        let device = device_of(before);
        let blocks = self.blocks(nqn(target)?).await?;
        let now = blocks.into_iter().find(|block| is_of(block, &device));
        now.ok_or_else(|| gone(&device.path))
    }

    /// The volume's device.
    ///
    /// # Errors
    /// `VOLUME_NOT_FOUND` if the device went away.
    pub(super) async fn present(&self, volume: &HostVolume) -> Result<Block, BackendError> {
        let device = self.device(volume).await?;
        device.ok_or_else(|| gone(volume.path()))
    }

    /// Asks the connected volume's paths again which volume they lead to; returns its device and size.
    pub(super) async fn verify_again(
        &self,
        volume: &HostVolume,
    ) -> Result<(Block, u64), BackendError> {
        let target = target(&volume.plan)?;
        let block = self.present(volume).await?;
        let wanted = Wanted::connected(nqn(target)?, volume.identity());
        let told = self.verify(target, &wanted, &block).await?;
        Ok((block, told.size))
    }
}

/// The device with the identity that the kernel holds for it.
pub(super) fn device_of(block: &Block) -> Device {
    Device {
        path: Path::new(DEVICES).join(&block.name),
        identity: block.wwid.clone(),
        sequence: block.sequence,
    }
}

/// Whether the kernel shows this device there.
fn is_of(block: &Block, device: &Device) -> bool {
    block.wwid == device.identity
        && device.path == Path::new(DEVICES).join(&block.name)
        && (device.sequence.is_none() || block.sequence == device.sequence)
}

fn gone(path: &Path) -> BackendError {
    BackendError::VolumeNotFound {
        path: path.to_owned(),
        why: "the device went away: its server is lost, or has taken the volume away".to_owned(),
    }
}
