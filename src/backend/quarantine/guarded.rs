//! A backend whose volumes' servers may be quarantined: refuses what would wait, and learns from what comes of the rest.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Quarantine;
use super::turns::Turn;
use crate::backend::{
    Backend, BackendError, Connected, Description, HeadStart, Owners, Pinned, Presence, Release,
    Unrecorded,
};
use crate::connection::Protocol;
use crate::model::{Access, ErrorPolicy, Found, HostPlan, HostVolume, Scope, Server, TargetPath};

/// Backend behind the quarantine.
pub(in crate::backend) struct Guarded {
    inner: Arc<dyn Backend>,
    quarantine: Quarantine,
}

impl Guarded {
    pub(in crate::backend) fn new(inner: Arc<dyn Backend>, quarantine: Quarantine) -> Self {
        Self { inner, quarantine }
    }

    /// Runs what needs one of the plan's servers, whose success is a sign of life.
    async fn run<T>(
        &self,
        plan: &HostPlan,
        operation: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        self.run_since(Instant::now(), plan, operation).await
    }

    /// The same of an operation that a part of began earlier.
    async fn run_since<T>(
        &self,
        began: Instant,
        plan: &HostPlan,
        operation: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let outcome = self.try_run(began, plan, operation).await;
        if outcome.is_ok() {
            let servers = plan.reached_by();
            for server in &servers {
                self.quarantine.answered(server, servers.len() > 1);
            }
        }
        outcome
    }

    /// The same of a look at the volume, which reads a file on a share; of a block device, there may be nothing to read.
    async fn look<T>(
        &self,
        plan: &HostPlan,
        operation: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        match plan.mount() {
            Some(_) => self.run(plan, operation).await,
            None => self.try_run(Instant::now(), plan, operation).await,
        }
    }

    /// Runs what needs one of the plan's servers, and learns from its error alone.
    async fn try_run<T>(
        &self,
        began: Instant,
        plan: &HostPlan,
        operation: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let servers = plan.reached_by();
        self.quarantine.check(&servers)?;
        let outcome = operation.await;
        if let Err(error) = &outcome {
            self.learn(&servers, began, error);
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
            self.quarantine.silent(server, began, error, shared);
        }
    }

    /// Waits for the turn of a disconnect: of a server that is ill, where the disconnect may hang; else of the first.
    async fn turn(&self, servers: &[Server]) -> Option<Turn> {
        let ill = servers.iter().find(|it| self.quarantine.is_ill(it));
        Some(
            self.quarantine
                .disconnect_turn(ill.or(servers.first())?)
                .await,
        )
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

    fn error_policy(&self) -> ErrorPolicy {
        self.inner.error_policy()
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

    async fn check_confined(&self, plan: &HostPlan) -> Result<(), BackendError> {
        self.inner.check_confined(plan).await
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

    /// Leaves a server alone that may hang: each of its workers counts.
    async fn head_start(&self, plan: &HostPlan, info: &Protocol) -> HeadStart {
        let servers = plan.reached_by();
        if servers.iter().any(|server| self.quarantine.is_ill(server)) {
            return HeadStart::default();
        }
        self.inner.head_start(plan, info).await
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        owners: &dyn Owners,
        head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        let head_start = head_start.if_fresh();
        let began = head_start.began().unwrap_or_else(Instant::now);
        let connecting = self.inner.connect(volume, info, owners, head_start);
        self.run_since(began, &volume.plan, connecting).await
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.look(&volume.plan, self.inner.join(volume)).await
    }

    fn beside(&self, plan: &HostPlan) -> Option<HostPlan> {
        self.inner.beside(plan)
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.look(&volume.plan, self.inner.inspect(volume)).await
    }

    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.look(&volume.plan, self.inner.read(volume)).await
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        scope: Scope,
        before: &Path,
    ) -> Result<Pinned, BackendError> {
        // No answer of the server: a share's file is not touched by this.
        let pinning = self.inner.pin(volume, scope, before);
        self.try_run(Instant::now(), &volume.plan, pinning).await
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
        let turn = self.turn(&servers).await;
        let began = Instant::now();
        let outcome = self.inner.disconnect(volume, how).await;
        match (&outcome, turn) {
            (Err(error), _) => self.learn(&servers, began, error),
            (Ok(()), Some(turn)) if !servers.iter().any(|it| self.quarantine.is_ill(it)) => {
                turn.succeeded();
            }
            (Ok(()), _) => {}
        }
        outcome
    }
}
