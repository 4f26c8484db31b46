//! One path's disk: logged in to, scanned, and asked who it is.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

use super::login::Gate;
use super::sysfs::{Cached, Session, Unit};
use super::{DEVICE, IscsiBackend, PROTOCOL, by_path, node, volume_at};
use crate::backend::{BackendError, mount};
use crate::connection::IscsiVolume;
use crate::model::{Access, TargetPath, TargetPlan};
use crate::sys::worker::{Job, Reply, ScanJob, SysfsJob, WorkerError};

/// How often the LUN is scanned for while it does not appear: the storage may map it a moment later.
const SCAN: Duration = Duration::from_secs(1);

/// How long udev may look at a leftover's map, which only somebody who has it open keeps longer.
const LOOKED_AT: Duration = Duration::from_secs(2);

/// A path that is there: its disk told who it is.
pub(super) struct Found {
    /// Such as `sdb`.
    pub(super) block: String,
    /// Whether it was there before.
    pub(super) old: bool,
    pub(super) identity: String,
    pub(super) _gate: Arc<Gate>,
}

impl IscsiBackend {
    /// One path's disk: logged in, scanned, and asked who it is. `own`: it is what the domain gets, not a path of a map.
    pub(super) async fn path(
        &self,
        path: &TargetPath,
        volume: &IscsiVolume,
        own: Option<Access>,
    ) -> Result<Found, BackendError> {
        let (session, gate) = self.initiator.login(path, volume.chap.as_ref()).await?;
        self.late.take_over(path).await;
        if let Some(unit) = path.lun.and_then(|lun| session.unit(lun))
            && let Some(identity) = self.still_the_same(path, &unit).await?
            && let Some(block) = unit.block
        {
            return Ok(Found {
                block,
                old: true,
                identity,
                _gate: gate,
            });
        }
        let (block, identity) = self.scan(path, &session, own).await?;
        self.seen.block(self.sysfs(), &block, identity.clone());
        Ok(Found {
            block,
            old: false,
            identity,
            _gate: gate,
        })
    }

    /// Whether a disk found at the LUN is the one that was first seen there. One that is not would show its guest, or the
    /// next, another volume: it is removed, also from under whoever uses it. Else this is who it is.
    async fn still_the_same(
        &self,
        path: &TargetPath,
        unit: &Unit,
    ) -> Result<Option<String>, BackendError> {
        let scanned = self.seen.unit(self.sysfs(), unit);
        let now = match &unit.block {
            Some(block) => match self.identify(path, block).await {
                // It may be the same: whoever uses it is to have it when its target answers again.
                Err(error @ BackendError::ServerLost { .. }) => return Err(error),
                told => told.ok(),
            },
            None => None,
        };
        if now.is_some() && now == scanned {
            return Ok(now);
        }
        tracing::warn!(unit = %unit.dir.display(), first = ?scanned, ?now, "removing a leftover of another volume at this LUN");
        self.remove_unit(path, unit, Cached::Nothing).await?;
        if let Some(map) = scanned.and_then(|wwid| self.sysfs().map(&wwid))
            && self.sysfs().paths_of(&map).is_empty()
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
    ) -> Result<(String, String), BackendError> {
        let within = self.initiator.settings.device_timeout;
        let until = Instant::now() + within;
        let lun = path.lun.unwrap_or_default();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if !session.logged_in() {
                    return Err(BackendError::ServerLost {
                        path: by_path(path),
                        why: "this host's session there broke while the LUN was looked for"
                            .to_owned(),
                    });
                }
                return Err(BackendError::DeviceNotFound {
                    volume: volume_at(path),
                    within,
                    why: "the target shows this host no such LUN; look whether the storage maps the volume to this initiator"
                        .to_owned(),
                });
            }
            let job = ScanJob {
                scan: SysfsJob {
                    path: self.sysfs().scan_file(session),
                    value: format!("- - {lun}"),
                },
                unit: session.unit_dir(lun),
                within: left.min(SCAN),
                write: own == Some(Access::ReadWrite),
                read_only: own == Some(Access::ReadOnly),
            };
            match self.scan_once(path, session, job, left + DEVICE).await? {
                Reply::Unit { block: None, .. } => {}
                Reply::Unit {
                    block: Some(block),
                    identity,
                } => {
                    let identity = some(path, &block, identity)?;
                    return Ok((block, identity));
                }
                _ => return Err(BackendError::not_mine(PROTOCOL, "another job's reply")),
            }
        }
    }

    /// Asks a disk or a map who it is.
    pub(super) async fn identify(
        &self,
        path: &TargetPath,
        block: &str,
    ) -> Result<String, BackendError> {
        match self.workers.run(Job::Identify(node(block)), DEVICE).await {
            Ok(Reply::Identity(identity)) => some(path, block, identity),
            Ok(_) => Err(BackendError::not_mine(PROTOCOL, "another job's reply")),
            Err(error) => Err(silent(path, &format!("/dev/{block}"), error)),
        }
    }

    /// The identity that all paths have, and that was asked for.
    pub(super) fn agree(&self, plan: &TargetPlan, found: &[Found]) -> Result<String, BackendError> {
        let volume = plan.paths.first().map(volume_at).unwrap_or_default();
        let first = found
            .first()
            .map(|path| path.identity.clone())
            .unwrap_or_default();
        let told = || {
            let each: Vec<String> = found
                .iter()
                .map(|path| format!("/dev/{} says {}", path.block, path.identity))
                .collect();
            each.join(", ")
        };
        if found.iter().any(|path| path.identity != first) {
            return Err(BackendError::DeviceIdentity {
                volume,
                why: format!("its paths lead to different volumes: {}", told()),
            });
        }
        match &plan.expected {
            Some(expected) if *expected != first => Err(BackendError::DeviceIdentity {
                volume,
                why: format!("it must be {expected}, but {}", told()),
            }),
            _ => Ok(first),
        }
    }
}

/// An identity, which every disk must have.
fn some(path: &TargetPath, block: &str, identity: Option<String>) -> Result<String, BackendError> {
    identity.ok_or_else(|| BackendError::DeviceIdentity {
        volume: volume_at(path),
        why: format!(
            "/dev/{block} tells no identity of its own (VPD page 83h), so it could be any volume"
        ),
    })
}

/// Why a disk did not tell who it is.
pub(super) fn silent(path: &TargetPath, disk: &str, error: WorkerError) -> BackendError {
    match error {
        WorkerError::Failed {
            step,
            errno: Errno::ETIMEDOUT,
        } => BackendError::ServerLost {
            path: by_path(path),
            why: format!("cannot {step}, of {disk}: ETIMEDOUT"),
        },
        WorkerError::Failed { step, errno } => BackendError::DeviceIdentity {
            volume: volume_at(path),
            why: format!(
                "cannot {step}, of {disk}: {} ({errno:?}); the storage may not map the LUN any more, or not for writing",
                errno.desc().to_lowercase()
            ),
        },
        WorkerError::Deadline { within, .. } => BackendError::ServerLost {
            path: by_path(path),
            why: format!("nothing within {} s", within.as_secs()),
        },
        error => mount::host(|| format!("ask {disk} who it is"))(error),
    }
}
