//! The paths to a connected volume: how many of them work, and those that are missing made again.
//!
//! A path works while the portal has a live controller under this host's own name that leads to the volume's device. A controller that
//! reconnects is left to the kernel. No path needs a secret: DH-HMAC-CHAP is refused at the attach.

use std::collections::HashSet;
use std::net::SocketAddr;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::fabric::{Block, Controller, State};
use super::made::Which;
use super::path::{Connect, worst};
use super::verify::Wanted;
use super::{LOOK, NvmeBackend, RESCAN, nqn, portals, target};
use crate::backend::mount::blocking;
use crate::backend::{BackendError, Presence};
use crate::model::{HostVolume, PathCount, TargetPath, TargetPlan, chain};
use crate::sys::worker::WorkerError;

/// Portals that are asked at a time.
const PROBES: usize = 64;

impl NvmeBackend {
    /// How many of the volume's paths lead to its device, which exists.
    pub(super) async fn presence(
        &self,
        volume: &HostVolume,
        block: &Block,
    ) -> Result<Presence, BackendError> {
        let target = target(&volume.plan)?;
        let controllers = self.own_controllers(nqn(target)?).await?;
        let planned = volume.all_paths().map_or(0, |paths| paths.planned);
        let works = |portal: &SocketAddr| leads(&controllers, *portal, block);
        let working = portals(&target.paths).filter(works).count();
        let working = u32::try_from(working).unwrap_or(planned);
        Ok(match working < planned {
            true => Presence::Degraded(PathCount { working, planned }),
            false => Presence::Present,
        })
    }

    /// Whether every live controller at the target's portals leads to the device: the kernel looks for the namespaces of a new controller after
    /// the connect.
    pub(super) async fn all_lead(
        &self,
        target: &TargetPlan,
        controllers: &[Controller],
        block: &Block,
    ) -> Result<bool, BackendError> {
        let own = self.by_own_name(controllers.to_vec()).await?;
        let mut live = own.iter().filter(|it| it.state == State::Live);
        Ok(live.all(|it| {
            let is_planned = portals(&target.paths).any(|portal| it.portal == Some(portal));
            !is_planned || block.goes_by(it)
        }))
    }

    /// Finds the paths of each volume whose portals have no controller and answer a probe.
    pub(super) async fn answering(&self, volumes: &[HostVolume]) -> Vec<Vec<TargetPath>> {
        let own = self.clone();
        let action = || "list the NVMe controllers in /sys".to_owned();
        let now = match blocking(action, move || own.indexed()).await {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot look for missing paths");
                return vec![Vec::new(); volumes.len()];
            }
        };
        let mut missing = Vec::with_capacity(volumes.len());
        for volume in volumes {
            missing.push(now.missing(volume).await.unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "cannot look for missing paths");
                Vec::new()
            }));
        }
        let portals: HashSet<SocketAddr> = missing.iter().flatten().map(|(_, at)| *at).collect();
        let answers: HashSet<SocketAddr> = stream::iter(portals)
            .map(async |portal| match self.ask(portal).await {
                Ok(()) => Some(portal),
                Err(fault) => {
                    tracing::debug!(%portal, ?fault, "a missing path cannot be made");
                    None
                }
            })
            .buffer_unordered(PROBES)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let answering =
            |(path, portal): (TargetPath, SocketAddr)| answers.contains(&portal).then_some(path);
        let each = missing.into_iter();
        each.map(|missing| missing.into_iter().filter_map(answering).collect())
            .collect()
    }

    /// Finds the paths of a volume whose portals have no controller.
    async fn missing(
        &self,
        volume: &HostVolume,
    ) -> Result<Vec<(TargetPath, SocketAddr)>, BackendError> {
        let target = target(&volume.plan)?;
        let all: Vec<SocketAddr> = portals(&target.paths).collect();
        // Listed first: a connect that has begun may have become a controller by the second look.
        let mut known = self.own_beginning(&all).await?;
        known.extend(self.own_controllers(nqn(target)?).await?);
        let missing = target.paths.iter().filter_map(|path| {
            let portal: SocketAddr = path.portal.parse().ok()?;
            let has_controller = known.iter().any(|it| it.portal == Some(portal));
            (!has_controller).then(|| (path.clone(), portal))
        });
        Ok(missing.collect())
    }

    /// Connects to these portals, and verifies the volume's identity by each new path.
    ///
    /// # Errors
    /// Why a path could not be made, or does not lead to the volume.
    pub(super) async fn make_paths(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
    ) -> Result<(), BackendError> {
        let nqn = nqn(target(&volume.plan)?)?;
        let own = &self.own_name().await?;
        let connects = portals(paths)
            .map(|portal| async move { (portal, self.connect_path(nqn, portal, own).await) });
        let (mut connected, mut faults) = (Vec::new(), Vec::new());
        for (portal, outcome) in join_all(connects).await {
            match outcome {
                Ok(how) => connected.push((portal, how)),
                Err(fault) => faults.push((portal, fault)),
            }
        }
        if !connected.is_empty() {
            self.verify_paths(volume, &connected).await?;
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(worst(nqn, faults)),
        }
    }

    /// Asks each of these portals' controllers which volume they lead to. A new path to another volume is taken away at once. A path that was
    /// found stays with its attachment or program, and one that does not answer stays too, as the kernel compares the identity itself before
    /// it uses the path.
    async fn verify_paths(
        &self,
        volume: &HostVolume,
        connected: &[(SocketAddr, Connect)],
    ) -> Result<(), BackendError> {
        let nqn = nqn(target(&volume.plan)?)?;
        let portals: Vec<SocketAddr> = connected.iter().map(|(portal, _)| *portal).collect();
        let (block, mut controllers) = self.follow(volume, &portals).await?;
        controllers.retain(|it| portals.iter().any(|portal| it.portal == Some(*portal)));
        let wanted = Wanted::connected(nqn, volume.identity());
        let answers = self.identify(&block, &controllers).await;
        let (mut other, mut unanswered) = (None, None);
        for (controller, (name, answer)) in controllers.iter().zip(answers) {
            if let Err(error) = answer {
                unanswered = Some(unverified(volume, &name, error));
                continue;
            }
            let Err(objection) = wanted.agreed(&block, vec![(name, answer)]) else {
                continue;
            };
            tracing::error!(controller = controller.name, error = %chain(&objection), "a path leads to another volume");
            let is_new = connected
                .iter()
                .any(|(at, how)| controller.portal == Some(*at) && *how == Connect::Made);
            if is_new {
                self.take_away(volume, controller).await?;
            }
            other = Some(objection);
        }
        other.or(unanswered).map_or(Ok(()), Err)
    }

    /// Ends a controller that volattach made, unless another one is at its portal by now.
    pub(super) async fn take_away(
        &self,
        volume: &HostVolume,
        controller: &Controller,
    ) -> Result<(), BackendError> {
        let target = target(&volume.plan)?;
        let nqn = nqn(target)?;
        let Some(portal) = controller.portal else {
            return Ok(());
        };
        // Until its note is forgotten: the next connect there makes a note of its own.
        let _turn = self.connects.lock((nqn.to_owned(), portal)).await;
        if !self.made.has(nqn, controller) {
            return Ok(());
        }
        self.made.note(nqn, portal, Which::Is(controller.id));
        let mut path = target.paths.clone();
        path.retain(|path| path.portal.parse() == Ok(portal));
        self.end_controllers(nqn, &path).await?;
        self.made.forget(nqn, &[portal]);
        Ok(())
    }

    /// Waits until each of these portals' controllers leads to the volume's device; returns the device and the controllers.
    async fn follow(
        &self,
        volume: &HostVolume,
        made: &[SocketAddr],
    ) -> Result<(Block, Vec<Controller>), BackendError> {
        let nqn = nqn(target(&volume.plan)?)?;
        let within = self.settings.device_timeout;
        let end = Instant::now() + within;
        let mut rescan = Instant::now() + RESCAN;
        loop {
            let block = self.present(volume).await?;
            let controllers = self.own_controllers(nqn).await?;
            let missing = made.iter().find(|it| !leads(&controllers, **it, &block));
            let Some(portal) = missing else {
                return Ok((block, controllers));
            };
            let now = Instant::now();
            if now >= end {
                return Err(BackendError::DeviceNotFound {
                    volume: Wanted::connected(nqn, volume.identity()).to_string(),
                    within,
                    why: format!(
                        "the portal {portal} was connected again and does not lead to it: map the volume to this host at every portal"
                    ),
                });
            }
            if now >= rescan {
                self.rescan(&controllers).await;
                rescan = now + RESCAN;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A path does not report which volume it leads to.
fn unverified(volume: &HostVolume, controller: &str, error: WorkerError) -> BackendError {
    match error {
        WorkerError::Stuck { .. } => BackendError::WorkersStuck(error),
        error => BackendError::ServerLost {
            path: volume.path().to_owned(),
            why: format!(
                "the new path {controller} does not report which volume it leads to: {error}"
            ),
            silent: false,
        },
    }
}

/// Whether a live controller at the portal leads to the device.
fn leads(controllers: &[Controller], portal: SocketAddr, block: &Block) -> bool {
    let mut at = controllers.iter().filter(|it| it.portal == Some(portal));
    at.any(|it| it.state == State::Live && block.goes_by(it))
}
