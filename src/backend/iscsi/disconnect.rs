//! Taking a volume's disks down: the map, then the disks, then the sessions without any, each seen gone before the next.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::disk::Live;
use super::login::POLL;
use super::sysfs::{Cached, Map, Sysfs, Unit};
use super::{DEVICE, IscsiBackend, node, read, wwids};
use crate::backend::release::{self, Use};
use crate::backend::{BackendError, mount, workers_of};
use crate::model::{HostVolume, TargetPath, Wwid};
use crate::sys::worker::{FlushJob, Job, Reply, SysfsJob, WorkerError, Workers};

/// Disks, each with the path by which it is reached.
type Units = Vec<(TargetPath, Unit)>;

impl IscsiBackend {
    /// Finds the disks at these paths, and the disks of the same volume through other portals of the targets: another attachment may have
    /// made those, or one that discovered them before a crash.
    pub(super) fn units(&self, paths: &[TargetPath], identity: Option<&Wwid>) -> Units {
        let own = paths.iter().cloned();
        let own = own.filter_map(|path| self.at(path));
        let mut units: Vec<_> = own.collect();
        let first = || self.seen.unit(self.sysfs(), &units.first()?.1);
        if let Some(identity) = identity.cloned().or_else(first) {
            let others = self.elsewhere(paths).into_iter();
            let others = others.filter_map(|path| self.at(path));
            units.extend(others.filter(|(_, unit)| {
                self.seen.unit(self.sysfs(), unit).as_ref() == Some(&identity)
            }));
        }
        units
    }

    /// The same, read on a blocking thread.
    pub(super) async fn units_of(
        &self,
        paths: &[TargetPath],
        identity: Option<&Wwid>,
    ) -> Result<Units, BackendError> {
        let (paths, identity) = (paths.to_vec(), identity.cloned());
        read(self, move |own| own.units(&paths, identity.as_ref())).await
    }

    /// The disk that there is by a path.
    pub(super) fn at(&self, path: TargetPath) -> Option<(TargetPath, Unit)> {
        let unit = self.initiator.session(&path)?.unit(path.lun?)?;
        Some((path, unit))
    }

    /// The paths' LUNs through sessions with other portals of their targets.
    pub(super) fn elsewhere(&self, paths: &[TargetPath]) -> Vec<TargetPath> {
        let mut others = Vec::new();
        for path in paths {
            for session in self.sysfs().sessions(&path.name) {
                let other = TargetPath {
                    portal: session.portal.to_string(),
                    ..path.clone()
                };
                if !paths.contains(&other) && !others.contains(&other) {
                    others.push(other);
                }
            }
        }
        others
    }

    /// Removes the map of that identity if it has no path left: its volume is gone.
    pub(super) async fn remove_pathless(
        &self,
        identity: Option<&Wwid>,
    ) -> Result<(), BackendError> {
        if let Some(wwid) = identity
            && let Some((map, paths)) = self.map_of(wwid).await?
            && paths.is_empty()
        {
            self.remove_map(&map, DEVICE).await?;
        }
        Ok(())
    }

    /// The volume's disks at these paths that are not of others, the map over them, and whether the map has no further path: with further
    /// paths, the map is not this volume's alone, and only loses these.
    fn of_volume(&self, paths: &[TargetPath], volume: &HostVolume) -> (Units, Option<(Map, bool)>) {
        let identity = volume.identity();
        let mut units = self.units(paths, identity);
        units.retain(|(_, unit)| {
            let number = self.number(unit);
            number.is_none_or(|it| !volume.found.disks_of_others.contains(&it))
        });
        let blocks: Vec<&String> = units
            .iter()
            .filter_map(|(_, it)| it.block.as_ref())
            .collect();
        let over = blocks.iter().find_map(|it| self.sysfs().map_over(it));
        let map = over.or_else(|| self.sysfs().map(identity?));
        let map = map.map(|map| {
            let its = self.sysfs().paths_of(&map);
            let own = its.iter().all(|path| blocks.contains(&path));
            (map, own)
        });
        (units, map)
    }

    /// Removes the map and the disks, except those made by others, and logs out of sessions that nothing else uses. `force`: the last
    /// writes may be lost.
    pub(super) async fn take_down(
        &self,
        paths: &[TargetPath],
        volume: &HostVolume,
        force: bool,
    ) -> Result<(), BackendError> {
        let identity = volume.identity();
        // Before it was verified the volume was given to nobody who could have written.
        let force = force || identity.is_none();
        let (its, at) = (volume.clone(), paths.to_vec());
        let (units, map) = read(self, move |own| own.of_volume(&at, &its)).await?;
        // What is written to a map is flushed there, and its paths have nothing of their own.
        let cached = match &map {
            Some((map, true)) => {
                let workers = workers_of(&self.workers, &volume.plan);
                self.flush_map(&workers, map, force).await?;
                self.remove_map(map, DEVICE).await?;
                Cached::Nothing
            }
            _ if force => Cached::Expendable,
            _ => Cached::Writes,
        };
        let removed = units
            .iter()
            .map(|(path, unit)| self.remove_unit(path, unit, cached));
        let removed = join_all(removed).await;
        // The map may be empty only now: another disconnect, which still saw these paths, may have removed the others at the same time.
        let emptied = self.remove_pathless(map.as_ref().map(|(map, _)| &map.wwid));
        let emptied = emptied.await;
        if let Some(identity) = identity
            && paths.len() > 1
            && matches!(self.map_of(identity).await, Ok(None))
        {
            // Also for a map that went away unnoticed.
            forget(identity.clone()).await;
        }
        let mut left: Vec<&TargetPath> = paths.iter().collect();
        left.extend(units.iter().map(|(path, _)| path));
        let released = left.into_iter().map(|path| self.initiator.release(path));
        let released = join_all(released).await;
        removed
            .into_iter()
            .chain(released)
            .chain([emptied])
            .collect()
    }

    /// Writes out the cache of a map and of its partitions; fails if this host uses any of them.
    async fn flush_map(
        &self,
        workers: &Workers,
        map: &Map,
        force: bool,
    ) -> Result<(), BackendError> {
        let its = map.clone();
        let partitions = read(self.sysfs(), move |sysfs| sysfs.partitions_of(&its)).await?;
        let map = (&map.block, !partitions.is_empty());
        for (block, shared) in partitions.iter().map(|it| (it, false)).chain([map]) {
            let flushed = workers.run(flush(block, shared), DEVICE).await;
            if release::judge(block, flushed, force)? == Use::ByHost {
                return Err(release::used_by_host(block));
            }
        }
        Ok(())
    }

    /// Removes the disks that were found anew, and a map over them.
    pub(super) async fn remove_new(&self, paths: &[TargetPath], live: &[Live]) {
        let is_new = |block: &String| live.iter().any(|it| !it.old && it.block == *block);
        let units = self.units_of(paths, None).await.into_iter().flatten();
        for (path, unit) in units.filter(|(_, unit)| unit.block.as_ref().is_some_and(is_new)) {
            if let Ok(Some((map, paths))) = self.map_over(&unit).await
                && paths.iter().all(is_new)
            {
                let _ = self.remove_map(&map, DEVICE).await;
            }
            if let Err(error) = self.remove_unit(&path, &unit, Cached::Nothing).await {
                tracing::warn!(error = %crate::model::chain(&error), "a disk is left for the disconnect");
            }
        }
    }

    /// Has multipathd remove a map, which may be in use for so long.
    pub(super) async fn remove_map(&self, map: &Map, within: Duration) -> Result<(), BackendError> {
        let busy = |why: String| BackendError::DeviceBusy {
            device: format!("the multipath map /dev/{} of {}", map.block, map.wwid),
            why,
        };
        // Without a path, it would keep what is written, and whoever waits for that, for as long as it queues.
        let _ = self
            .multipathd
            .ask(&format!("disablequeueing map {}", map.wwid))
            .await;
        let until = Instant::now() + within;
        // udev has a map open for a moment after it was made or changed.
        let asked = loop {
            let asked = self.multipathd.ask(&format!("del map {}", map.wwid)).await;
            if self.map_of(&map.wwid).await?.is_none() {
                forget(map.wwid.clone()).await;
                return Ok(());
            }
            if asked.is_err() || Instant::now() >= until {
                break asked;
            }
            tokio::time::sleep(10 * POLL).await;
        };
        Err(busy(match asked {
            Ok(_) => "multipathd did not remove it: something has it open (see lsblk and fuser)"
                .to_owned(),
            Err(error) => format!("multipathd does not answer ({error}): start it"),
        }))
    }

    /// The map that has the disk as one of its paths, and all its paths.
    async fn map_over(&self, unit: &Unit) -> Result<Option<(Map, Vec<String>)>, BackendError> {
        let block = unit.block.clone();
        let look = move |sysfs: &Sysfs| {
            let map = sysfs.map_over(&block?)?;
            let paths = sysfs.paths_of(&map);
            Some((map, paths))
        };
        read(self.sysfs(), look).await
    }

    /// Removes a disk, and sees it gone; one that somebody uses, or that cannot be flushed, stays where there may be writes to
    /// lose. Where its removal hangs, its session is left, if nobody else has a disk there.
    pub(super) async fn remove_unit(
        &self,
        path: &TargetPath,
        unit: &Unit,
        cached: Cached,
    ) -> Result<(), BackendError> {
        let is_there = || read(unit, Unit::is_there);
        if !is_there().await? {
            return Ok(()); // its name may be another disk's by now
        }
        if let Some((map, paths)) = self.map_over(unit).await?
            && paths.len() <= 1
        {
            let _ = self
                .multipathd
                .ask(&format!("disablequeueing map {}", map.wwid))
                .await;
        }
        if let Some(block) = &unit.block {
            // It has it open. Nobody there has it not.
            let _ = self.multipathd.ask(&format!("del path {block}")).await;
        }
        let delete = || {
            Job::WriteSysfs(SysfsJob {
                path: unit.dir.join("delete"),
                directory: Some(unit.id),
                value: "1".to_owned(),
            })
        };
        let until = Instant::now() + DEVICE;
        let deleted = match &unit.block {
            Some(block) if cached != Cached::Nothing => {
                let force = cached == Cached::Expendable;
                let workers = self.workers_at(path);
                flush_and_delete(&workers, block, force, delete).await?
            }
            _ => self.workers_at(path).run(delete(), DEVICE).await,
        };
        while deleted.is_ok() && is_there().await? && Instant::now() < until {
            tokio::time::sleep(POLL).await;
        }
        if !is_there().await? || self.initiator.abandon(path).await? && !is_there().await? {
            return Ok(());
        }
        let device = unit.block.as_deref().map_or_else(
            || unit.dir.display().to_string(),
            |block| format!("/dev/{block}"),
        );
        match deleted {
            Ok(_) | Err(WorkerError::Deadline { .. }) => Err(BackendError::DeviceTimeout {
                device,
                why: "it is not gone: its target may be silent; try again when it answers"
                    .to_owned(),
            }),
            Err(error) => Err(mount::host(|| format!("remove {device}"))(error)),
        }
    }
}

/// Flushes and deletes a disk by one worker; returns the outcome of the deletion.
async fn flush_and_delete(
    workers: &Workers,
    block: &str,
    force: bool,
    delete: impl Fn() -> Job,
) -> Result<Result<Reply, WorkerError>, BackendError> {
    let jobs = [flush(block, false), delete()];
    let flushed = async {
        let mut worker = workers.start()?;
        worker.give(&jobs).await?;
        worker.reply(DEVICE).await?;
        Ok(worker)
    };
    Ok(match flushed.await {
        Ok(mut worker) => worker.reply(DEVICE).await,
        Err(error) => {
            if release::judge::<()>(block, Err(error), force)? == Use::ByHost {
                return Err(release::used_by_host(block));
            }
            workers.run(delete(), DEVICE).await
        }
    })
}

/// Makes multipathd forget the volume. A failure only leaves a line in a file.
async fn forget(wwid: Wwid) {
    let forgetting = tokio::task::spawn_blocking(move || {
        let forgotten = wwids::forget(Path::new(wwids::FILE), &wwid);
        if let Err(error) = forgotten {
            tracing::warn!(%wwid, %error, "the volume stays in {}", wwids::FILE);
        }
    });
    let _ = forgetting.await;
}

fn flush(block: &str, shared: bool) -> Job {
    Job::Flush(FlushJob {
        device: node(block),
        shared,
    })
}
