//! A backend over a small world of targets, disks and maps, in which names are reused and two volumes may report one identity.
//!
//! Behaves as the iSCSI backend with the kernel and multipathd: a scan makes a disk appear under the first free name, a map's paths are all
//! disks that report its identity, and a removed disk leaves its name to the next disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use nix::errno::Errno;
use volattach::backend::iscsi::{heard, still};
use volattach::backend::{
    Backend, BackendError, Connected, Description, HeadStart, Owners, Pinned, Presence, Release,
    Unrecorded,
};
use volattach::connection::Protocol;
use volattach::model::{
    Access, Claim, Connection, Device, ErrorPolicy, Found, HostPlan, HostVolume, ImageFormat,
    Scope, Server, SourceKind, TargetPath, TargetPlan, Wwid,
};

use volattach::sys::scsi::Told;
use volattach::sys::worker::{Reply, WorkerError};

use super::World;
use super::gate::{Failed, Moment};

/// A LUN: its target and number.
pub type At = (String, u64);

/// A SCSI disk of this host, scanned from a LUN.
#[derive(Debug, Clone)]
pub struct Disk {
    pub name: PathBuf,
    pub number: u64,
    pub at: At,
    /// The identity that the disk reported when it appeared.
    pub told: Wwid,
}

/// A multipath map over disks of one identity.
#[derive(Debug, Clone)]
pub struct Map {
    pub name: PathBuf,
    pub number: u64,
    pub wwid: Wwid,
    /// The `diskseq` of each disk that is a path of the map.
    pub paths: BTreeSet<u64>,
}

/// Reason why this host cannot ask a disk for its identity.
#[derive(Debug, Clone, Copy)]
pub enum Deaf {
    /// No worker starts.
    NoWorker,
    /// A worker is refused to open the disk.
    Refused,
}

/// The storage, and this host's disks and maps of the storage.
#[derive(Debug, Default)]
pub struct San {
    /// The volume behind each LUN.
    pub luns: BTreeMap<At, u8>,
    /// Whether the storage leaves requests unanswered.
    pub silent: bool,
    /// Reason why this host cannot ask a disk for its identity; `None`: it can.
    pub deaf: Option<Deaf>,
    pub disks: Vec<Disk>,
    pub maps: Vec<Map>,
}

impl San {
    /// The identity that a volume reports. The third volume reports the identity of the first.
    pub fn identity(volume: u8) -> Wwid {
        Wwid::scsi(3, &format!("{}", if volume == 3 { 1 } else { volume }))
    }

    /// The volumes that a reader of the device sees, by any of its paths; `None`: the device is gone.
    pub fn read(&self, number: u64) -> Option<BTreeSet<u8>> {
        let volume = |disk: &Disk| self.luns.get(&disk.at).copied();
        let all: Vec<&Disk> = match self.maps.iter().find(|map| map.number == number) {
            Some(map) => {
                let its = |disk: &&Disk| map.paths.contains(&disk.number);
                self.disks.iter().filter(its).collect()
            }
            None => vec![self.disks.iter().find(|disk| disk.number == number)?],
        };
        Some(all.into_iter().filter_map(volume).collect())
    }

    fn at(&self, at: &At) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.at == *at)
    }
}

impl World {
    /// Adds a device under the first name of that kind that no device has and nobody holds open; returns name and `diskseq`.
    fn appear(&self, kind: &str) -> (PathBuf, u64) {
        let mut state = self.state();
        let is_free =
            |name: &PathBuf| !state.sequences.contains_key(name) && !state.open.contains(name);
        let mut names = (0..).map(|number| PathBuf::from(format!("/dev/{kind}{number}")));
        let name = names.find(is_free).unwrap();
        let number = state.sequence(&name);
        (name, number)
    }

    /// Removes the disk, also from its map.
    pub fn remove_disk(&self, number: u64) {
        let mut san = self.san();
        for map in &mut san.maps {
            map.paths.remove(&number);
        }
        let place = san.disks.iter().position(|disk| disk.number == number);
        if let Some(place) = place {
            let disk = san.disks.swap_remove(place);
            self.state().sequences.remove(&disk.name);
        }
    }

    /// Removes the map.
    pub fn remove_map(&self, number: u64) {
        let mut san = self.san();
        let place = san.maps.iter().position(|map| map.number == number);
        if let Some(place) = place {
            let map = san.maps.swap_remove(place);
            self.state().sequences.remove(&map.name);
        }
    }

    /// Removes the map if it has no path and nobody holds it open.
    fn remove_pathless(&self, number: u64) {
        let pathless = {
            let (san, state) = (self.san(), self.state());
            let map = san.maps.iter().find(|map| map.number == number);
            map.is_some_and(|map| map.paths.is_empty() && !state.open.contains(&map.name))
        };
        if pathless {
            self.remove_map(number);
        }
    }

    /// Removes all disks and maps.
    pub fn away(&self) {
        let (disks, maps) = {
            let san = self.san();
            (san.disks.clone(), san.maps.clone())
        };
        for disk in disks {
            self.remove_disk(disk.number);
        }
        for map in maps {
            self.remove_map(map.number);
        }
    }

    /// Adds the LUN's disk, and as multipathd does joins it to the map of its identity if such a map exists.
    pub fn scan(&self, at: &At) -> Option<Disk> {
        let volume = *self.san().luns.get(at)?;
        let (name, number) = self.appear("sd");
        let disk = Disk {
            name,
            number,
            at: at.clone(),
            told: San::identity(volume),
        };
        let mut san = self.san();
        san.disks.push(disk.clone());
        for map in san.maps.iter_mut().filter(|map| map.wwid == disk.told) {
            map.paths.insert(number);
        }
        Some(disk)
    }
}

pub struct SanBackend {
    world: World,
}

/// A path's disk, and whether the disk existed before.
type Live = (Disk, bool);

impl SanBackend {
    pub fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
        }
    }

    async fn pass(&self, call: &str, moment: Moment) -> Result<(), BackendError> {
        let passed = self.world.gate.pass(call, moment).await;
        match passed {
            Err(Failed) => Err(silent()),
            Ok(()) if self.world.san().silent => Err(silent()),
            Ok(()) => Ok(()),
        }
    }

    /// The reply that a worker would get from the disk at the LUN.
    fn ask(&self, at: &At) -> Result<Reply, WorkerError> {
        let san = self.world.san();
        let failed = |errno| WorkerError::Failed {
            step: "open the device".to_owned(),
            errno,
        };
        match san.deaf {
            Some(Deaf::NoWorker) => Err(WorkerError::Start {
                executable: PathBuf::new(),
                source: std::io::Error::from(Errno::EAGAIN),
            }),
            Some(Deaf::Refused) => Err(failed(Errno::EPERM)),
            None => match san.luns.get(at) {
                Some(volume) => Ok(Reply::Identity(Told {
                    identity: Some(San::identity(*volume)),
                    sequence: None,
                })),
                None => Err(failed(Errno::EIO)),
            },
        }
    }

    async fn path(&self, at: &At, owners: &dyn Owners) -> Result<Live, BackendError> {
        let there = self.world.san().at(at).cloned();
        if let Some(disk) = there {
            let path = as_path(at);
            let now = heard(&path, &disk.name.display().to_string(), self.ask(at));
            if still(Some(&disk.told), now)?.is_some() {
                owners
                    .take(&disk.told, disk.name.display().to_string())
                    .await?;
                return Ok((disk, true));
            }
            // The disk is a leftover of another volume.
            self.world.remove_disk(disk.number);
        }
        let disk = self
            .world
            .scan(at)
            .ok_or_else(|| BackendError::DeviceNotFound {
                volume: format!("{at:?}"),
                within: std::time::Duration::ZERO,
                why: "it is not mapped".to_owned(),
            })?;
        if let Err(taken) = owners
            .take(&disk.told, disk.name.display().to_string())
            .await
        {
            self.world.remove_disk(disk.number);
            return Err(taken);
        }
        Ok((disk, false))
    }

    async fn joined(
        &self,
        plan: &HostPlan,
        owners: &dyn Owners,
        found: &mut Vec<Live>,
    ) -> Result<Device, BackendError> {
        for path in paths(plan) {
            found.push(self.path(&path, owners).await?);
            self.pass("backend.connect", Moment::Half).await?;
        }
        let is_there = |(disk, _): &Live| self.world.san().read(disk.number).is_some();
        if !found.iter().all(is_there) {
            return Err(silent());
        }
        let told: BTreeSet<&Wwid> = found.iter().map(|(disk, _)| &disk.told).collect();
        let [wwid] = told.into_iter().collect::<Vec<_>>()[..] else {
            return Err(refused("its paths lead to different volumes"));
        };
        let (mut name, mut number) = (found[0].0.name.clone(), found[0].0.number);
        if found.len() > 1 {
            let own = found.iter().map(|(disk, _)| disk.number);
            let known = self
                .world
                .san()
                .maps
                .iter()
                .find(|map| map.wwid == *wwid)
                .cloned();
            let map = match known {
                Some(map) => map,
                None => {
                    let (name, number) = self.world.appear("dm-");
                    let (wwid, paths) = (wwid.clone(), BTreeSet::new());
                    let map = Map {
                        name,
                        number,
                        wwid,
                        paths,
                    };
                    self.world.san().maps.push(map.clone());
                    map
                }
            };
            let mut san = self.world.san();
            let its = san.maps.iter_mut().find(|it| it.number == map.number);
            its.unwrap().paths.extend(own);
            (name, number) = (map.name, map.number);
        }
        Ok(Device {
            path: name,
            identity: wwid.clone(),
            sequence: Some(number),
        })
    }
}

fn silent() -> BackendError {
    BackendError::Silent {
        host: "files".to_owned(),
        attempts: vec![],
    }
}

fn refused(why: &str) -> BackendError {
    BackendError::DeviceIdentity {
        volume: "x".to_owned(),
        why: why.to_owned(),
    }
}

fn paths(plan: &HostPlan) -> Vec<At> {
    let Connection::Iscsi(target) = &plan.connection else {
        panic!("all is iSCSI here")
    };
    let paths = target.paths.iter();
    paths
        .map(|path| (path.name.clone(), path.lun.unwrap()))
        .collect()
}

fn as_path((target, lun): &At) -> TargetPath {
    TargetPath {
        portal: String::new(),
        name: target.clone(),
        lun: Some(*lun),
    }
}

fn claim((target, lun): &At) -> Claim {
    Claim::Lun {
        target: target.clone(),
        lun: *lun,
    }
}

#[async_trait]
impl Backend for SanBackend {
    fn protocol(&self) -> &'static str {
        "iscsi"
    }

    fn read_only(&self, _info: &Protocol) -> bool {
        false
    }

    fn error_policy(&self) -> ErrorPolicy {
        ErrorPolicy::Stop
    }

    async fn check_confined(&self, _plan: &HostPlan) -> Result<(), BackendError> {
        Ok(())
    }

    fn recall(&self, _volumes: &[HostVolume]) {}

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let Protocol::Iscsi(volume) = info else {
            panic!("all is iSCSI here")
        };
        let paths = volume.paths.iter().map(|path| TargetPath {
            portal: path.portal.to_string(),
            name: path.target.clone(),
            lun: Some(path.lun),
        });
        let target = TargetPlan {
            transport: "tcp".to_owned(),
            paths: paths.collect(),
            interface: None,
            expected: None,
        };
        let mut plan = HostPlan {
            protocol: "iscsi".to_owned(),
            claims: Vec::new(),
            connection: Connection::Iscsi(target),
            path: "/dev/disk/by-path/x".into(),
            root: "/dev".into(),
            kind: SourceKind::Block,
            format: ImageFormat::Raw,
            access,
            keeps_owner: false,
        };
        plan.claims = self::paths(&plan).iter().map(claim).collect();
        plan.claims.sort();
        Ok(plan)
    }

    fn describe(&self, _info: &Protocol, _plan: &HostPlan) -> Description {
        Description::default()
    }

    async fn unrecorded(&self, _recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        Ok(Vec::new())
    }

    async fn sign_of_life(&self, _server: &Server) -> Result<(), BackendError> {
        Ok(())
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        let passed = self.world.gate.pass("backend.find", Moment::Before).await;
        passed.map_err(|Failed| silent())?;
        let san = self.world.san();
        let disks: Vec<&Disk> = paths(&volume.plan)
            .iter()
            .filter_map(|at| san.at(at))
            .collect();
        let map = san
            .maps
            .iter()
            .find(|map| Some(&map.wwid) == volume.identity());
        let its = |disk: &&&Disk| Some(&disk.told) == volume.identity();
        let devices = disks
            .iter()
            .filter(its)
            .map(|disk| (&disk.name, disk.number));
        let mut devices = devices.chain(map.map(|map| (&map.name, map.number)));
        let is = |(name, number): (&PathBuf, u64)| {
            name == volume.path() && Some(number) == volume.sequence()
        };
        Ok(match (devices.any(is), disks.is_empty()) {
            (true, _) => Presence::Present,
            (false, false) => Presence::Partial,
            (false, true) => Presence::Absent,
        })
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        let mut found = Vec::new();
        for volume in &volumes {
            found.push(self.find(volume).await);
        }
        found
    }

    async fn survey(&self, _plan: &HostPlan) -> Result<Found, BackendError> {
        Ok(Found::default())
    }

    async fn head_start(&self, _plan: &HostPlan, _info: &Protocol) -> HeadStart {
        HeadStart::default()
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        _info: &Protocol,
        owners: &dyn Owners,
        _head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        self.pass("backend.connect", Moment::Before).await?;
        let mut found = Vec::new();
        let joined = self.joined(&volume.plan, owners, &mut found).await;
        if joined.is_err() {
            for (disk, _) in found.iter().filter(|(_, old)| !old) {
                self.world.remove_disk(disk.number);
            }
        }
        let device = joined?;
        self.pass("backend.connect", Moment::After).await?;
        Ok(Connected {
            degraded: None,
            found: Found {
                device: Some(device),
                ..Found::default()
            },
            inspected: true,
        })
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await
    }

    fn beside(&self, _plan: &HostPlan) -> Option<HostPlan> {
        None
    }

    async fn inspect(&self, _volume: &HostVolume) -> Result<(), BackendError> {
        self.pass("backend.inspect", Moment::Before).await
    }

    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        _scope: Scope,
        _before: &Path,
    ) -> Result<Pinned, BackendError> {
        self.pass("backend.pin", Moment::Before).await?;
        if volume.sequence() != self.world.state().leads_to(volume.path()) {
            return Err(refused("another device has its name"));
        }
        Ok(Pinned {
            path: volume.path().to_owned(),
            held: Box::new(self.world.open(volume.path())),
        })
    }

    async fn extend(&self, _volume: &HostVolume) -> Result<u64, BackendError> {
        unreachable!("no history extends")
    }

    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        vec![Vec::new(); volumes.len()]
    }

    async fn repair(
        &self,
        _volume: &HostVolume,
        _paths: &[TargetPath],
        _info: Option<&Protocol>,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        self.pass("backend.disconnect", Moment::Before).await?;
        let own: BTreeSet<u64> = {
            let san = self.world.san();
            let own = paths(&volume.plan).into_iter();
            let own = own.filter(|at| !how.held.contains(&claim(at)));
            own.filter_map(|at| Some(san.at(&at)?.number)).collect()
        };
        let maps = self.world.san().maps.clone();
        let is_own = |map: &&Map| {
            let left = map.paths.is_empty() && Some(&map.wwid) == volume.identity();
            left || !map.paths.is_empty() && map.paths.is_subset(&own)
        };
        if let Some(map) = maps.iter().find(is_own) {
            self.world.remove_map(map.number);
        }
        let over = maps.iter().find(|map| !map.paths.is_disjoint(&own));
        for number in &own {
            self.pass("backend.disconnect", Moment::Half).await?;
            self.world.remove_disk(*number);
        }
        // Another call may have removed the map's other paths at the same time.
        if let Some(over) = over {
            self.world.remove_pathless(over.number);
        }
        self.pass("backend.disconnect", Moment::After).await
    }
}
