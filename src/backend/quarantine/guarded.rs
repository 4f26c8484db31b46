//! A backend whose volumes' servers may be quarantined: refuses what would wait, and learns from what comes of the rest.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Quarantine;
use crate::backend::{
    Backend, BackendError, Connected, Description, Owners, Pinned, Presence, Release, Unrecorded,
};
use crate::connection::Protocol;
use crate::model::{Access, Found, HostPlan, HostVolume, Scope, Server, TargetPath, chain};
use crate::sys::worker::PER_SERVER;

/// Backend behind the quarantine.
pub(in crate::backend) struct Guarded {
    inner: Arc<dyn Backend>,
    quarantine: Quarantine,
    /// Turns of the disconnects of each server: an unmount may leave its worker stuck, and the first of them run before anybody knows.
    turns: Mutex<HashMap<Server, Weak<Semaphore>>>,
}

impl Guarded {
    pub(in crate::backend) fn new(inner: Arc<dyn Backend>, quarantine: Quarantine) -> Self {
        Self {
            inner,
            quarantine,
            turns: Mutex::default(),
        }
    }

    /// Runs what needs one of the plan's servers.
    async fn run<T>(
        &self,
        plan: &HostPlan,
        operation: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let servers = plan.reached_by();
        self.quarantine.check(&servers)?;
        let began = Instant::now();
        let outcome = operation.await;
        let shared = servers.len() > 1;
        match &outcome {
            Ok(_) => {
                for server in &servers {
                    self.quarantine.answered(server, shared);
                }
            }
            Err(error) => self.learn(&servers, began, error),
        }
        outcome
    }

    /// Learns from an error which servers are silent.
    fn learn(&self, servers: &[Server], began: Instant, error: &BackendError) {
        if !error.is_silence() {
            return;
        }
        let shared = servers.len() > 1;
        let silent = |server: &&Server| !shared || error.may_be_of(server);
        for server in servers.iter().filter(silent) {
            self.quarantine.silent(server, began, chain(error), shared);
        }
    }

    /// Waits for the turn of a disconnect: of the first server, as one volume's servers are most likely the next one's too.
    async fn turn(&self, servers: &[Server]) -> Option<OwnedSemaphorePermit> {
        let server = servers.first()?;
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turns| turns.strong_count() > 0);
            let known = all.get(server).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::new(Semaphore::new(PER_SERVER));
                all.insert(server.clone(), Arc::downgrade(&new));
                new
            })
        };
        turns.acquire_owned().await.ok()
    }
}

#[async_trait]
impl Backend for Guarded {
    fn protocol(&self) -> &'static str {
        self.inner.protocol()
    }

    fn read_only(&self, info: &Protocol) -> bool {
        self.inner.read_only(info)
    }

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        self.inner.plan(info, access)
    }

    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description {
        self.inner.describe(info, plan)
    }

    fn recall(&self, volumes: &[HostVolume]) {
        self.inner.recall(volumes);
    }

    fn check_confined(&self, plan: &HostPlan) -> Result<(), BackendError> {
        self.inner.check_confined(plan)
    }

    async fn sign_of_life(&self, server: &Server) -> Result<(), BackendError> {
        self.inner.sign_of_life(server).await
    }

    async fn unrecorded(&self, recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        self.inner.unrecorded(recorded).await
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        self.inner.find(volume).await
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        self.inner.find_all(volumes).await
    }

    /// Refuses an attach before it has begun anything.
    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError> {
        self.quarantine.check(&plan.reached_by())?;
        self.inner.survey(plan).await
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        owners: &dyn Owners,
    ) -> Result<Connected, BackendError> {
        let connecting = self.inner.connect(volume, info, owners);
        self.run(&volume.plan, connecting).await
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.run(&volume.plan, self.inner.join(volume)).await
    }

    fn beside(&self, plan: &HostPlan) -> Option<HostPlan> {
        self.inner.beside(plan)
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.run(&volume.plan, self.inner.inspect(volume)).await
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        scope: Scope,
        before: &Path,
    ) -> Result<Pinned, BackendError> {
        // No answer of the server: a share's file is not touched by this.
        self.quarantine.check(&volume.plan.reached_by())?;
        let began = Instant::now();
        let pinned = self.inner.pin(volume, scope, before).await;
        if let Err(error) = &pinned {
            self.learn(&volume.plan.reached_by(), began, error);
        }
        pinned
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        self.run(&volume.plan, self.inner.extend(volume)).await
    }

    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        // Asks each portal by itself.
        self.inner.repairable(volumes).await
    }

    async fn repair(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
        info: Option<&Protocol>,
    ) -> Result<(), BackendError> {
        // The volume's other servers are not needed.
        self.inner.repair(volume, paths, info).await
    }

    /// Tried also while the server is quarantined. A success is no sign of life: the kernel may have given up on the server.
    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        let servers = volume.plan.reached_by();
        let _turn = self.turn(&servers).await;
        let began = Instant::now();
        let outcome = self.inner.disconnect(volume, how).await;
        if let Err(error) = &outcome {
            self.learn(&servers, began, error);
        }
        outcome
    }
}
