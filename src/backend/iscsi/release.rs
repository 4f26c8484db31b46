//! Sessions that nobody needs any more.
//!
//! A session without a disk holds nothing of a volume: once a volume's disks were seen gone, its connection is down, and a session that
//! iscsid refuses to end does not keep the attachment. The session stays this agent's to end: this daemon tries again after growing pauses,
//! and so does the next release of any volume by that portal. Its node record stays as long, by which [`Initiator::unrecorded`] finds the
//! session after a restart.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::login::{Initiator, at};
use super::read;
use super::sysfs::Session;
use crate::backend::BackendError;
use crate::model::{TargetPath, chain};

/// Pause before the second try, doubled by each further try.
const FIRST: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(600);

/// Sessions that iscsid refused to end.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    sessions: Arc<Mutex<HashSet<TargetPath>>>,
    /// Pause before the second try.
    pub(super) pause: Duration,
}

impl Default for Refused {
    fn default() -> Self {
        Self {
            sessions: Arc::default(),
            pause: FIRST,
        }
    }
}

impl Refused {
    fn lock(&self) -> MutexGuard<'_, HashSet<TargetPath>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Initiator {
    /// Logs out of the session, unless it has a disk or somebody here is about to give it one. None there is success, and so is a session
    /// that iscsid refuses to end for now: that is tried again.
    pub(super) async fn release(&self, path: &TargetPath) -> Result<(), BackendError> {
        if let Some((session, refusal)) = self.try_release(path).await? {
            self.release_later(path, &session, &refusal);
        }
        Ok(())
    }

    /// Tries once; returns the session that iscsid refused to end.
    async fn try_release(
        &self,
        path: &TargetPath,
    ) -> Result<Option<(Session, BackendError)>, BackendError> {
        let gate = self.gate(path);
        let _turn = gate.0.lock().await;
        let Some(session) = self.find(path).await? else {
            self.remove_record(path).await?;
            return Ok(None);
        };
        // The gate before the disks: whoever holds the gate may be making one.
        if Arc::strong_count(&gate) > 1
            || read(&session, |it| !it.units().is_empty()).await?
            || self.is_of_others(path).await?
        {
            return Ok(None);
        }
        match self.logout(path, &session).await {
            Ok(()) => Ok(None),
            Err(refusal @ BackendError::DeviceBusy { .. }) => Ok(Some((session, refusal))),
            Err(error) => Err(error),
        }
    }

    /// Tries again after growing pauses, until the session is gone or used again.
    fn release_later(&self, path: &TargetPath, session: &Session, refusal: &BackendError) {
        let path = TargetPath {
            lun: None,
            ..path.clone()
        };
        if !self.refused.lock().insert(path.clone()) {
            return;
        }
        tracing::warn!(
            error = %chain(refusal),
            "session {} with {} has no disk any more, and stays until iscsid ends it; to try by hand: iscsiadm -m session -r {} --logout",
            session.id,
            at(&path),
            session.id,
        );
        let own = self.clone();
        tokio::spawn(async move {
            let mut pause = own.refused.pause;
            loop {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST);
                match own.try_release(&path).await {
                    Ok(None) => break,
                    Ok(Some((_, error))) | Err(error) => {
                        tracing::debug!(error = %chain(&error), "a session stays");
                    }
                }
            }
            own.refused.lock().remove(&path);
        });
    }
}
