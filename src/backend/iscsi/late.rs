//! Scans that nobody waits for any more. The kernel goes on with a scan that was begun, however long its target is silent, and then
//! has a disk that is in no attachment: it is removed, unless an attach that came meanwhile uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::patience::Patience;
use super::sysfs::{Cached, Session};
use super::verdict::silent;
use super::{IscsiBackend, by_path, read};
use crate::backend::{BackendError, mount};
use crate::model::TargetPath;
use crate::sys::worker::{Job, Reply, ScanJob, WorkerError};

/// How long the kernel may take for a scan: it tries four times, 20 s each (drivers/scsi/scsi_scan.c), and waits for a broken
/// session as long as the initiator's settings say, two minutes by default.
const SCAN: Duration = Duration::from_secs(600);

/// The scans that nobody waits for, by their LUN.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<HashMap<TargetPath, Owner>>);

/// Whether an attach that came later sees to the disk. Locked while it is removed.
type Owner = Arc<tokio::sync::Mutex<bool>>;

impl Late {
    /// From now on the disk at this LUN, should it appear, is the caller's, who is about to look for it.
    pub(super) async fn take_over(&self, path: &TargetPath) {
        let owner = self.scans().get(path).cloned();
        if let Some(owner) = owner {
            *owner.lock().await = true;
        }
    }

    fn scans(&self) -> MutexGuard<'_, HashMap<TargetPath, Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IscsiBackend {
    /// Scans once for a disk. After the deadline, or when patience is over, the scan goes on without its caller.
    pub(super) async fn scan_once(
        &self,
        path: &TargetPath,
        session: &Session,
        job: ScanJob,
        within: Duration,
        patience: &Patience,
    ) -> Result<Reply, BackendError> {
        let begun = Instant::now();
        let workers = self.workers_at(path);
        let mut scan = tokio::spawn(async move { workers.run(Job::Scan(job), SCAN).await });
        let disk = format!("the disk at LUN {}", path.lun.unwrap_or_default());
        let scanned = tokio::time::timeout(within, &mut scan);
        match patience.wait(scanned).await {
            Some(Ok(Ok(told))) => told.map_err(|error| silent(path, &disk, error)),
            Some(Ok(Err(ended))) => Err(mount::host(|| format!("scan for {disk}"))(ended)),
            Some(Err(_)) | None => {
                let removed = self
                    .clone()
                    .remove_late(path.clone(), session.clone(), scan);
                tokio::spawn(removed);
                Err(BackendError::ServerLost {
                    path: by_path(path),
                    why: format!("nothing within {} s", begun.elapsed().as_secs()),
                    silent: true,
                })
            }
        }
    }

    /// Waits for the end of a scan, and removes the disk that there is then.
    pub(super) fn remove_late(
        self,
        path: TargetPath,
        session: Session,
        scan: JoinHandle<Result<Reply, WorkerError>>,
    ) -> impl Future<Output = ()> {
        let owner = Owner::default();
        // Before anybody can come.
        self.late.scans().insert(path.clone(), Arc::clone(&owner));
        async move {
            let _ = scan.await;
            let lun = path.lun;
            let note = move |own: &Self| {
                let unit = session.unit(lun?)?;
                own.own.note(own.sysfs(), own.number(&unit));
                Some(unit)
            };
            let unit = read(&self, note).await.ok().flatten();
            let others = owner.lock().await;
            if !*others {
                if let Some(unit) = unit {
                    tracing::warn!(unit = %unit.dir.display(), "removing a disk that appeared too late");
                    if let Err(error) = self.remove_unit(&path, &unit, Cached::Nothing).await {
                        tracing::error!(error = %crate::model::chain(&error), "a disk is left over");
                    }
                }
                let _ = self.initiator.release(&path).await;
            }
            let mut scans = self.late.scans();
            scans.retain(|_, other| !Arc::ptr_eq(other, &owner));
        }
    }
}
