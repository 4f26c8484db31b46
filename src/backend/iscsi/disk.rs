//! One path's disk: logged in to, scanned, and asked who it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::login::Gate;
use super::patience::Patience;
use super::sysfs::{Cached, Session, Unit};
use super::verdict::{Identity, heard, some, still};
use super::{DEVICE, IscsiBackend, PROTOCOL, by_path, node, read, volume_at};
use crate::backend::{BackendError, Owners};
use crate::connection::Chap;
use crate::model::{Access, HostVolume, TargetPath, Wwid};
use crate::sys::worker::{Job, Reply, ScanJob, SysfsJob};

/// How often the LUN is scanned for while it does not appear: the storage may map it a moment later.
const SCAN: Duration = Duration::from_secs(1);

/// How long udev may look at a leftover's map, which only somebody who has it open keeps longer.
const LOOKED_AT: Duration = Duration::from_secs(2);

/// A path whose disk exists and has reported its identity.
pub(super) struct Live {
    /// Such as `sdb`.
    pub(super) block: String,
    /// Whether it was there before.
    pub(super) old: bool,
    pub(super) told: Identity,
    pub(super) _gate: Arc<Gate>,
}

impl IscsiBackend {
    /// One path's disk: logged in, scanned, and asked who it is. `own`: it is what the domain gets, not a path of a map. Given up when
    /// `patience` with it is over, as another path is up.
    pub(super) async fn path(
        &self,
        path: &TargetPath,
        chap: Option<&Chap>,
        own: Option<Access>,
        owners: &dyn Owners,
        patience: &Patience,
    ) -> Result<Live, BackendError> {
        let (session, gate) = self.initiator.login(path, chap, patience).await?;
        let live = self.disk(path, session, gate, own, owners, patience);
        let live = live.await?;
        patience.is_up();
        Ok(live)
    }

    /// The disk of a path that is logged in to, scanned for if need be.
    pub(super) async fn disk(
        &self,
        path: &TargetPath,
        session: Session,
        gate: Arc<Gate>,
        own: Option<Access>,
        owners: &dyn Owners,
        patience: &Patience,
    ) -> Result<Live, BackendError> {
        self.late.take_over(path).await;
        if let Some(unit) = unit_at(&session, path.lun).await?
            && let Some(told) = self.still_the_same(path, &unit, patience).await?
            && let Some(block) = unit.block
        {
            owners.take(&told.wwid, volume_at(path)).await?;
            return Ok(Live {
                block,
                old: true,
                told,
                _gate: gate,
            });
        }
        let (block, told) = self.scan(path, &session, own, patience).await?;
        let its = told.clone();
        let note = move |own: &Self| {
            own.own.note(own.sysfs(), its.sequence);
            own.seen.first(own.sysfs(), its.sequence, its.wwid);
        };
        read(self, note).await?;
        if let Err(taken) = owners.take(&told.wwid, volume_at(path)).await {
            // Remove the disk at once: multipathd may already have joined it to the other volume's map.
            if let Some(unit) = unit_at(&session, path.lun).await? {
                self.remove_unit(path, &unit, Cached::Nothing).await?;
            }
            return Err(taken);
        }
        Ok(Live {
            block,
            old: false,
            told,
            _gate: gate,
        })
    }

    /// Returns the identity if this is the device first seen at the LUN; otherwise removes it, even if in use: a guest would see another
    /// volume.
    ///
    /// # Errors
    /// The disk did not answer: its users keep the disk until it answers again.
    pub(super) async fn still_the_same(
        &self,
        path: &TargetPath,
        unit: &Unit,
        patience: &Patience,
    ) -> Result<Option<Identity>, BackendError> {
        let its = unit.clone();
        let scanned = read(self, move |own| own.seen.unit(own.sysfs(), &its)).await?;
        if let Some(block) = &unit.block {
            let asked = patience.wait(self.identify(path, block)).await;
            let now = asked.unwrap_or_else(|| {
                Err(BackendError::ServerLost {
                    path: by_path(path),
                    why: format!("/dev/{block} did not answer while another path was up"),
                    silent: false,
                })
            });
            if let Some(same) = still(scanned.as_ref(), now)? {
                return Ok(Some(same));
            }
        }
        tracing::warn!(unit = %unit.dir.display(), first = ?scanned, "removing a leftover of another volume at this LUN");
        self.remove_unit(path, unit, Cached::Nothing).await?;
        if let Some(wwid) = scanned
            && let Some((map, paths)) = self.map_of(&wwid).await?
            && paths.is_empty()
        {
            // One that is open stays, without a path, until its volume is detached.
            let _ = self.remove_map(&map, LOOKED_AT).await;
        }
        Ok(None)
    }

    /// Has the session's host look for the one LUN until its disk is there, and asks that who it is.
    async fn scan(
        &self,
        path: &TargetPath,
        session: &Session,
        own: Option<Access>,
        patience: &Patience,
    ) -> Result<(String, Identity), BackendError> {
        let begun = Instant::now();
        let until = begun + self.initiator.settings.device_timeout;
        let lun = path.lun.unwrap_or_default();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || patience.is_over() {
                if !read(session, Session::logged_in).await? {
                    return Err(BackendError::ServerLost {
                        path: by_path(path),
                        why: "this host's session there broke while the LUN was looked for"
                            .to_owned(),
                        silent: true,
                    });
                }
                return Err(BackendError::DeviceNotFound {
                    volume: volume_at(path),
                    within: Duration::from_secs(begun.elapsed().as_secs()),
                    why: "the target shows this host no such LUN; look whether the storage maps the volume to this initiator"
                        .to_owned(),
                });
            }
            let job = ScanJob {
                scan: SysfsJob {
                    path: self.sysfs().scan_file(session),
                    directory: session.host_id,
                    value: format!("- - {lun}"),
                },
                unit: read(session, move |it| it.unit_dir(lun)).await?,
                within: left.min(SCAN),
                write: own == Some(Access::ReadWrite),
                read_only: own == Some(Access::ReadOnly),
            };
            let within = left + DEVICE;
            match self.scan_once(path, session, job, within, patience).await? {
                Reply::Unit { block: None, .. } => {
                    // Remove a vacant LUN: the storage may map the volume at any moment, but the kernel would not look at the LUN again.
                    let vacant = move |it: &Session| it.unit(lun).filter(Unit::is_vacant);
                    if let Some(unit) = read(session, vacant).await? {
                        self.remove_unit(path, &unit, Cached::Nothing).await?;
                    }
                }
                Reply::Unit {
                    block: Some(block),
                    told,
                } => {
                    let told = some(path, &block, told)?;
                    return Ok((block, told));
                }
                _ => return Err(BackendError::not_mine(PROTOCOL, "another job's reply")),
            }
        }
    }

    /// Whether the volume's device still is one of these disks, or the map over them. Another disk may have the name by now.
    pub(super) fn is_there(&self, volume: &HostVolume, units: &[(TargetPath, Unit)]) -> bool {
        let Some(device) = &volume.found.device else {
            return false;
        };
        let is_it = |block: &String| {
            let sequence = self.sysfs().sequence(block);
            node(block) == device.path && (device.sequence.is_none() || sequence == device.sequence)
        };
        let map = self.sysfs().map(&device.identity).map(|map| map.block);
        units
            .iter()
            .filter(|(_, unit)| unit.identity_at_scan().as_ref() == Some(&device.identity))
            .any(|(_, unit)| unit.block.iter().chain(&map).any(is_it))
    }

    /// Asks a disk or a map who it is.
    pub(super) async fn identify(
        &self,
        path: &TargetPath,
        block: &str,
    ) -> Result<Identity, BackendError> {
        let workers = self.workers_at(path);
        let asked = workers.run(Job::Identify(node(block)), DEVICE).await;
        heard(path, block, asked)
    }
}

/// The session's disk at that LUN.
async fn unit_at(session: &Session, lun: Option<u64>) -> Result<Option<Unit>, BackendError> {
    read(session, move |it| it.unit(lun?)).await
}

/// Returns the identity that all paths have, which must be the expected one.
pub(super) fn agree(
    expected: Option<&Wwid>,
    path: &TargetPath,
    live: &[Live],
) -> Result<Wwid, BackendError> {
    let other = |why: String| {
        let each: Vec<String> = live
            .iter()
            .map(|path| format!("/dev/{} says {}", path.block, path.told.wwid))
            .collect();
        BackendError::DeviceIdentity {
            volume: volume_at(path),
            why: why + &each.join(", "),
        }
    };
    let mut told: Vec<&Wwid> = live.iter().map(|path| &path.told.wwid).collect();
    told.dedup();
    match (told.as_slice(), expected) {
        ([first], Some(expected)) if *first != expected => {
            Err(other(format!("it must be {expected}, but ")))
        }
        ([first], _) => Ok((*first).clone()),
        _ => Err(other("its paths lead to different volumes: ".to_owned())),
    }
}
