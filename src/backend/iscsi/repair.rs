//! A volume's paths: those that work, and the making of the others beside them.
//!
//! A session whose connection broke is repaired by iscsid, from its node record and without end, unless the deployer limits that
//! (`node.session.reopen_max`). What iscsid has given up or never had is made here: a portal that was down at the attach, a LUN that was
//! mapped later, a session that somebody ended.
//!
//! Invariants: working paths stay untouched; a path is made as at a connect, and taken into the map that the guest uses only after its own
//! fresh answer was the identity in the record; what fails leaves nothing new. The login is the one of the volume's other sessions, which
//! the kernel holds, so no secret is kept for a repair.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use super::connect::{Others, worst};
use super::disk::Live;
use super::login::{address, at};
use super::patience::Patience;
use super::sysfs::Unit;
use super::{IscsiBackend, PROTOCOL, paths_of, read, volume_at};
use crate::backend::{BackendError, Owners, Presence};
use crate::connection::Chap;
use crate::model::{Device, HostVolume, PathCount, Secret, Server, TargetPath, Wwid, chain};

/// Portals that are asked at a time.
const PROBES: usize = 64;

/// A missing path, as this host has it.
enum Missing {
    /// Its session is broken: iscsid repairs the session.
    Broken,
    /// Its session works: only the disk is missing, or the disk's place in the map.
    Disk,
    /// It has no session.
    Session,
}

impl IscsiBackend {
    /// What a connection is that has the volume's device: whole, or short of paths.
    pub(super) fn completeness(
        &self,
        volume: &HostVolume,
        units: &[(TargetPath, Unit)],
    ) -> Result<Presence, BackendError> {
        let paths = paths_of(volume)?;
        let works = self.working(volume, units);
        let working = paths.iter().filter(|path| works.contains(path)).count();
        Ok(count(working, paths.len()).map_or(Presence::Present, Presence::Degraded))
    }

    /// Paths by which the volume's device reaches the volume now: the session is logged in, and its disk, which is the volume, is the device
    /// or one of the map's paths.
    fn working<'a>(
        &self,
        volume: &HostVolume,
        units: &'a [(TargetPath, Unit)],
    ) -> Vec<&'a TargetPath> {
        let Some(device) = &volume.found.device else {
            return Vec::new();
        };
        let used = self.blocks_of(device);
        let works = |(path, unit): &&(TargetPath, Unit)| {
            unit.block.as_ref().is_some_and(|it| used.contains(it))
                && self.seen.unit(self.sysfs(), unit).as_ref() == Some(&device.identity)
                && unit.identity_at_scan().as_ref() == Some(&device.identity)
                && self
                    .initiator
                    .session(path)
                    .is_some_and(|it| it.logged_in())
        };
        units.iter().filter(works).map(|(path, _)| path).collect()
    }

    /// The block devices beneath the volume's device: the map's paths, or the disk itself.
    fn blocks_of(&self, device: &Device) -> Vec<String> {
        let name = device.path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        match self.sysfs().map(&device.identity) {
            Some(map) if map.block == name => self.sysfs().paths_of(&map),
            _ => vec![name],
        }
    }

    /// The paths that do not work.
    fn missing(&self, volume: &HostVolume) -> Result<Vec<(TargetPath, Missing)>, BackendError> {
        let paths = paths_of(volume)?;
        let units = self.units(paths, volume.identity());
        let works = self.working(volume, &units);
        let missing = paths.iter().filter(|path| !works.contains(path));
        let each = missing.map(|path| {
            let state = match self.initiator.session(path).map(|it| it.logged_in()) {
                None => Missing::Session,
                Some(false) => Missing::Broken,
                Some(true) => Missing::Disk,
            };
            (path.clone(), state)
        });
        Ok(each.collect())
    }

    /// The missing paths of each volume that can be made now.
    pub(super) async fn makeable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        let count = volumes.len();
        let look = move |own: &Self| {
            let now = own.indexed();
            let missing = volumes.iter().map(|volume| now.missing(volume));
            missing.collect::<Result<Vec<_>, BackendError>>()
        };
        let missing = match read(self, look).await.flatten() {
            Ok(missing) => missing,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot look for missing paths");
                return vec![Vec::new(); count];
            }
        };
        let sessions = missing.iter().flatten();
        let sessions = sessions.filter(|(_, state)| matches!(state, Missing::Session));
        let portals: HashMap<String, TargetPath> = sessions
            .map(|(path, _)| (path.portal.clone(), path.clone()))
            .collect();
        let answers: HashSet<String> = stream::iter(portals)
            .map(async |(portal, path)| match self.ask(&path).await {
                Ok(()) => Some(portal),
                Err(error) => {
                    tracing::debug!(portal, error = %chain(&error), "a missing path cannot be made");
                    None
                }
            })
            .buffer_unordered(PROBES)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let makeable = |(path, state): (TargetPath, Missing)| match state {
            Missing::Broken => None,
            Missing::Disk => Some(path),
            Missing::Session => answers.contains(&path.portal).then_some(path),
        };
        let each = missing.into_iter();
        each.map(|missing| missing.into_iter().filter_map(makeable).collect())
            .collect()
    }

    /// Asks a portal for a sign of life, unless the portal is quarantined.
    async fn ask(&self, path: &TargetPath) -> Result<(), BackendError> {
        let probe = self.initiator.probe(path, address(path)?);
        let portal = Server::at(PROTOCOL, &path.portal);
        self.initiator.quarantine.watch(&portal, probe).await
    }

    /// The login by which the volume's sessions were made. Not those of the volume's other portals: another caller may have made these.
    pub(super) fn login_of(&self, volume: &HostVolume) -> Result<Option<Chap>, BackendError> {
        let paths = paths_of(volume)?;
        let units = self.units(paths, volume.identity());
        let its = |(path, unit): &&(TargetPath, Unit)| {
            paths.contains(path) && self.seen.unit(self.sysfs(), unit).as_ref() == volume.identity()
        };
        let sessions = units.iter().filter(its);
        let mut sessions = sessions.filter_map(|(path, _)| self.initiator.session(path));
        let login = sessions.find_map(|session| session.login().ok());
        let [username, password, target, answer] =
            login.ok_or_else(|| BackendError::LoginFailed {
                target: at(&paths[0]),
                why: "this host has no session of the volume any more whose login could be used for another: attach the volume again by \
                      the same request, which has the login"
                    .to_owned(),
            })?;
        let secret = |text: &str| Secret::new(text.to_owned());
        let given = !(username.is_empty() && password.is_empty());
        Ok(given.then(|| Chap {
            username: username.to_string(),
            password: secret(&password),
            target: (!(target.is_empty() && answer.is_empty()))
                .then(|| (target.to_string(), secret(&answer))),
        }))
    }

    /// Makes paths beside those that work; returns why, if some could not be made.
    pub(super) async fn make_paths(
        &self,
        volume: &HostVolume,
        paths: &[TargetPath],
        chap: Option<&Chap>,
    ) -> Result<(), BackendError> {
        let made = paths.iter().map(|path| self.make_path(volume, path, chap));
        let mut errors = Vec::new();
        for (path, outcome) in paths.iter().zip(join_all(made).await) {
            match outcome {
                Ok(()) => {
                    tracing::info!(target = path.name, portal = path.portal, "path made again");
                }
                Err(error) => {
                    tracing::warn!(target = path.name, portal = path.portal, error = %crate::model::chain(&error), "no path");
                    errors.push(error);
                }
            }
        }
        // Sessions that came to nothing.
        join_all(paths.iter().map(|path| self.initiator.release(path))).await;
        match errors.is_empty() {
            true => Ok(()),
            false => Err(worst(errors)),
        }
    }

    /// Makes one path, and takes it into the volume's map.
    async fn make_path(
        &self,
        volume: &HostVolume,
        path: &TargetPath,
        chap: Option<&Chap>,
    ) -> Result<(), BackendError> {
        let Some(device) = &volume.found.device else {
            return Ok(()); // nothing was verified, so nothing is connected
        };
        let patience = Patience::default();
        let (session, gate) = self.initiator.login(path, chap, &patience).await?;
        patience.is_up();
        let only = Only(&device.identity);
        let live = self
            .disk(path, session, gate, None, &only, &patience)
            .await?;
        let live = [live];
        let taken = self.take_in(device, path, &live).await;
        if taken.is_err() {
            self.remove_new(std::slice::from_ref(path), &live).await;
        }
        taken
    }

    /// Has multipathd take a disk into the map that is the volume's device.
    async fn take_in(
        &self,
        device: &Device,
        path: &TargetPath,
        live: &[Live],
    ) -> Result<(), BackendError> {
        let used = |why: String| BackendError::MultipathFailed {
            volume: volume_at(path),
            why,
        };
        // multipathd would make another map, which no guest uses.
        let Some((map, _)) = self.map_of(&device.identity).await? else {
            return Err(used(format!(
                "{} is no map, so it takes no further path",
                device.path.display()
            )));
        };
        if super::node(&map.block) != device.path {
            return Err(used(format!(
                "the map is /dev/{} by now, and the guest uses {}",
                map.block,
                device.path.display()
            )));
        }
        let taken = self.map(path, live, &device.identity, Others::MayBeDead);
        taken.await.map(drop)
    }
}

/// Counts paths; `None`: none is missing.
pub(super) fn count(working: usize, planned: usize) -> Option<PathCount> {
    let number = |paths: usize| u32::try_from(paths).unwrap_or(u32::MAX);
    let count = PathCount {
        working: number(working),
        planned: number(planned),
    };
    count.is_short().then_some(count)
}

/// Lets a path be of one volume alone: the volume being repaired, whose identity its record holds.
struct Only<'a>(&'a Wwid);

#[async_trait]
impl Owners for Only<'_> {
    async fn take(&self, identity: &Wwid, device: String) -> Result<(), BackendError> {
        match identity == self.0 {
            true => Ok(()),
            false => Err(BackendError::DeviceIdentity {
                volume: device,
                why: format!(
                    "its disk says {identity}, and the volume that is attached is {}: have the storage map that volume there",
                    self.0
                ),
            }),
        }
    }
}
