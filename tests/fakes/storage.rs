//! A backend whose mounts, and a journal whose file, are the world's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use volattach::backend::{
    Attempt, Backend, BackendError, Connected, Description, HeadStart, Owners, Pinned, Presence,
    Release, Setting, Unrecorded,
};
use volattach::connection::{ConnectionInfo, Protocol};
use volattach::journal::{Condition, Journal, JournalError, Key, Loss, Record, Unreadable};
use volattach::model::{
    Access, AttachmentId, Claim, Connection, Device, ErrorPolicy, Found, HostKey, HostPlan,
    HostVolume, ImageFormat, MountPlan, PathCount, Reason, Scope, Server, SetPermissions,
    SourceKind, TargetPath, TargetPlan, VolumeId,
};

use super::World;
use super::gate::{Failed, Moment};

/// Deadline of a call to a server.
const PROBE: Duration = Duration::from_millis(3);

/// Deadline of an unmount.
const UNMOUNT: Duration = Duration::from_millis(90);

pub struct FakeBackend {
    world: World,
    protocol: &'static str,
    /// As it was when this was made.
    configuration: String,
}

impl FakeBackend {
    pub fn new(world: &World, protocol: &'static str) -> Self {
        Self {
            configuration: world.state().configuration.to_string(),
            world: world.clone(),
            protocol,
        }
    }

    /// Counts the step if the plan is of another configuration.
    fn go_by(&self, plan: &HostPlan) {
        let mut state = self.world.state();
        let mut claims = plan.claims.iter().map(ToString::to_string);
        let is_other = |claim: String| {
            let planned = state.planned_by.get(&claim);
            planned.is_some_and(|planned| *planned != self.configuration)
        };
        if claims.any(is_other) {
            state.planned_by_others += 1;
        }
    }

    async fn pass(&self, call: &str, moment: Moment) -> Result<(), BackendError> {
        let passed = self.world.gate.pass(call, moment).await;
        passed.map_err(|Failed| fail(Reason::ServerUnreachable))
    }

    /// Waits out the deadline of a call if every server of the plan is silent.
    async fn ask(&self, plan: &HostPlan, call: &'static str) -> Result<(), BackendError> {
        self.ask_all(&plan.reached_by(), call).await
    }

    async fn ask_all(&self, servers: &[Server], call: &'static str) -> Result<(), BackendError> {
        let is_silent = |server: &Server| self.world.state().silent.contains(&server.host);
        if servers.is_empty() || !servers.iter().all(is_silent) {
            return Ok(());
        }
        let mut tried = Vec::new();
        for server in servers {
            let asked = (server.host.clone(), call);
            self.world.state().unanswered.push(asked);
            let address = server.portal().parse();
            tried.push(Attempt {
                address: address.unwrap_or(([10, 0, 0, 1], 445).into()),
                outcome: "no answer within 3 s".to_owned(),
                silent: true,
            });
        }
        tokio::time::sleep(PROBE).await;
        Err(BackendError::Silent {
            host: servers[0].host.clone(),
            attempts: tried,
        })
    }

    /// An unmount from a silent server: its worker outlives its kill.
    async fn hang(&self, plan: &HostPlan) -> Result<(), BackendError> {
        let Some(server) = plan.reached_by().into_iter().next() else {
            return Ok(());
        };
        if !self.world.state().silent.contains(&server.host) {
            return Ok(());
        }
        let entry = self.world.workers.enter(&server.to_string().into());
        let entry = entry.map_err(BackendError::WorkersStuck)?;
        entry.started(4242);
        let asked = (server.host, "disconnect");
        self.world.state().unanswered.push(asked);
        tokio::time::sleep(UNMOUNT).await;
        entry.outlived();
        self.world.state().stuck.push(entry);
        Err(BackendError::UnmountFailed {
            target: plan.root.clone(),
            why: "its server is silent".to_owned(),
            silent: true,
        })
    }

    fn there(&self, volume: &HostVolume) -> Presence {
        let plan = &volume.plan;
        let state = self.world.state();
        let connected = target_of(plan).is_none() || volume.found.device.is_some();
        let there: Vec<Option<Presence>> = plan
            .claims
            .iter()
            .map(|claim| state.connections.get(&claim.to_string()).copied())
            .collect();
        if there.iter().all(Option::is_none) {
            return match plan.claims.is_empty() {
                true => Presence::Present,
                false => Presence::Absent,
            };
        }
        let whole = there.iter().all(|it| *it == Some(Presence::Present));
        // Others may use the target, so only a connect finds the volume's device; another device may have the device's name by now.
        let its_own = volume.sequence() == state.sequences.get(volume.path()).copied();
        match whole && connected && its_own {
            true => match degraded(volume, &state.down) {
                Some(paths) => Presence::Degraded(paths),
                None => Presence::Present,
            },
            false => Presence::Partial,
        }
    }
}

/// An error of that reason.
fn fail(reason: Reason) -> BackendError {
    let host = "files".to_owned();
    let share = "//files/vols".to_owned();
    let target = PathBuf::from("/mnt/x");
    let path = PathBuf::from("/mnt/x/v1");
    let why = "the world says so".to_owned();
    let error = match reason {
        Reason::MountOptionInvalid => BackendError::OptionInvalid {
            share,
            option: "vers".to_owned(),
            why,
        },
        Reason::CredentialsInvalid => BackendError::CredentialsFile { path, why },
        Reason::NameResolution => BackendError::NameResolution {
            host,
            source: std::io::Error::other(why),
        },
        Reason::ServerTimeout => BackendError::Silent {
            host,
            attempts: vec![Attempt {
                address: ([10, 0, 0, 1], 445).into(),
                outcome: "no answer within 3 s".to_owned(),
                silent: true,
            }],
        },
        Reason::ProtocolVersion => BackendError::VersionRefused {
            host,
            offered: "3.1.1".to_owned(),
            answer: why,
        },
        Reason::LogonFailure => BackendError::LogonRefused {
            share,
            who: "bob".to_owned(),
            why,
        },
        Reason::ShareNotFound => BackendError::ShareNotFound { share, why },
        Reason::MountFailed => BackendError::MountFailed { share, target, why },
        Reason::UnmountFailed => BackendError::UnmountFailed {
            target,
            why,
            silent: false,
        },
        Reason::LoginFailed => BackendError::LoginFailed { target: share, why },
        Reason::DeviceNotFound => BackendError::DeviceNotFound {
            volume: share,
            within: std::time::Duration::from_secs(30),
            why,
        },
        Reason::DeviceIdentity => BackendError::DeviceIdentity { volume: share, why },
        Reason::DeviceBusy => BackendError::DeviceBusy { device: share, why },
        Reason::MultipathFailed => BackendError::MultipathFailed { volume: share, why },
        Reason::VolumeNotFound => BackendError::VolumeNotFound { path, why },
        Reason::VolumePathUnsafe => BackendError::PathUnsafe { path, why },
        Reason::VolumeNotRegular => BackendError::NotRegular {
            path,
            found: "a directory".to_owned(),
            wanted: "a regular file",
        },
        Reason::VolumeUnreadable => BackendError::Unreadable {
            path,
            mode: "reading",
            why,
        },
        Reason::ImageReferencesFile => BackendError::ReferencesFile {
            path,
            names: "names a backing file".to_owned(),
        },
        Reason::ImageMalformed => BackendError::ImageMalformed {
            path,
            format: ImageFormat::Qcow2,
            why,
        },
        Reason::Internal => BackendError::Host {
            action: "start a worker".to_owned(),
            source: why.into(),
        },
        _ => BackendError::Unreachable {
            host,
            attempts: vec![],
        },
    };
    assert_eq!(
        error.reason(),
        reason,
        "no backend fails with {reason}: {error}"
    );
    error
}

/// The plan's storage target, if the plan connects to a target.
fn target_of(plan: &HostPlan) -> Option<&TargetPlan> {
    match &plan.connection {
        Connection::Iscsi(target) | Connection::Nvme(target) => Some(target),
        Connection::None | Connection::Mount(_) => None,
    }
}

/// The count of the volume's paths, if some of their portals are down.
fn degraded(volume: &HostVolume, down: &BTreeMap<String, bool>) -> Option<PathCount> {
    let target = target_of(&volume.plan)?;
    let is_down = |path: &&TargetPath| down.contains_key(&path.portal);
    let missing = target.paths.iter().filter(is_down).count();
    let planned = volume.all_paths()?.planned;
    (missing > 0).then(|| PathCount {
        working: planned - u32::try_from(missing).unwrap(),
        planned,
    })
}

/// A head start under way.
struct Running<'a>(&'a World);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().head_starts_running -= 1;
    }
}

/// What a plan's connection is known by: what it shares with others, or else its path.
fn name(plan: &HostPlan) -> String {
    let claims: Vec<String> = plan.claims.iter().map(ToString::to_string).collect();
    match claims.is_empty() {
        true => plan.path.display().to_string(),
        false => claims.join(" "),
    }
}

#[async_trait]
impl Backend for FakeBackend {
    fn protocol(&self) -> &'static str {
        self.protocol
    }

    fn read_only(&self, _info: &Protocol) -> bool {
        false
    }

    fn error_policy(&self) -> ErrorPolicy {
        ErrorPolicy::Stop
    }

    async fn check_confined(&self, plan: &HostPlan) -> Result<(), BackendError> {
        self.go_by(plan);
        let state = self.world.state();
        let mut claims = plan.claims.iter();
        let is_mounted = claims.any(|it| state.connections.contains_key(&it.to_string()));
        match state.shares_closed || state.mounts_closed && is_mounted {
            true => Err(BackendError::SelinuxBoolean {
                fstype: plan.mount().unwrap().fstype.clone(),
                boolean: "virt_use_samba",
            }),
            false => Ok(()),
        }
    }

    /// The world holds the connections.
    fn recall(&self, volumes: &[HostVolume]) {
        let paths = volumes.iter().map(|volume| volume.path().to_owned());
        self.world.state().recalled.extend(paths);
    }

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let (claims, connection, root, path) = match info {
            Protocol::Smb(volume) => {
                let mut share = volume.clone();
                share.name.clear();
                let share = ConnectionInfo {
                    common: Default::default(),
                    protocol: Protocol::Smb(share),
                };
                let key = HostKey::new([0; 32]);
                let id = key.tag(&[
                    share.canonical().as_bytes(),
                    access.as_str().as_bytes(),
                    self.configuration.as_bytes(),
                ]);
                let root = PathBuf::from(format!("/mnt/{id}"));
                let mount = MountPlan {
                    source: format!("//{}/{}", volume.host, volume.share),
                    fstype: "cifs".to_owned(),
                    options: format!("{access},pass=[redacted]"),
                    target: root.clone(),
                    login: None,
                };
                (
                    vec![Claim::Mount(id)],
                    Connection::Mount(mount),
                    root.clone(),
                    root.join(&volume.name),
                )
            }
            Protocol::Nfs(volume) => {
                let id = format!("nfs {}{} {access}", volume.host, volume.path);
                let root = PathBuf::from("/mnt/nfs");
                let mount = MountPlan {
                    source: format!("{}:{}", volume.host, volume.path),
                    fstype: "nfs".to_owned(),
                    options: access.to_string(),
                    target: root.clone(),
                    login: None,
                };
                (
                    vec![Claim::Mount(id)],
                    Connection::Mount(mount),
                    root.clone(),
                    root.join(&volume.name),
                )
            }
            Protocol::Local(volume) => (
                Vec::new(),
                Connection::None,
                "/volumes".into(),
                volume.device_path.clone(),
            ),
            Protocol::Nvme(volume) => {
                let target = TargetPlan {
                    transport: "tcp".to_owned(),
                    paths: vec![TargetPath {
                        portal: volume.portals[0].to_string(),
                        name: volume.nqn.clone(),
                        lun: volume.nsid.map(u64::from),
                    }],
                    interface: None,
                    expected: None,
                };
                let path = "/dev/disk/by-id/nvme-x".into();
                (
                    vec![Claim::Subsystem(volume.nqn.clone())],
                    Connection::Nvme(target),
                    "/dev".into(),
                    path,
                )
            }
            Protocol::Iscsi(volume) => {
                let paths = volume.paths.iter();
                let paths = paths.map(|path| TargetPath {
                    portal: path.portal.to_string(),
                    name: path.target.clone(),
                    lun: Some(path.lun),
                });
                let target = TargetPlan {
                    transport: "tcp".to_owned(),
                    paths: paths.collect(),
                    interface: None,
                    expected: volume.identity.clone(),
                };
                let mut claims: Vec<Claim> = (volume.paths.iter())
                    .map(|path| Claim::Lun {
                        target: path.target.clone(),
                        lun: path.lun,
                    })
                    .collect();
                claims.sort();
                claims.dedup();
                let path = format!("/dev/disk/by-path/{}", claims[0]).into();
                (claims, Connection::Iscsi(target), "/dev".into(), path)
            }
        };
        for claim in &claims {
            let mut state = self.world.state();
            let planned = state.planned_by.entry(claim.to_string());
            planned.or_insert_with(|| self.configuration.clone());
        }
        Ok(HostPlan {
            protocol: self.protocol.to_owned(),
            claims,
            path,
            root,
            kind: match connection {
                Connection::Iscsi(_) | Connection::Nvme(_) => SourceKind::Block,
                Connection::None | Connection::Mount(_) => SourceKind::File,
            },
            connection,
            format: self.world.state().format,
            access,
            keeps_owner: matches!(info, Protocol::Smb(_) | Protocol::Nfs(_)),
        })
    }

    fn describe(&self, _info: &Protocol, plan: &HostPlan) -> Description {
        Description {
            connect: format!("connect {}", name(plan)),
            inspect: format!("open {}", plan.path.display()),
            settings: vec![Setting {
                name: "vers".to_owned(),
                value: "3.1.1".to_owned(),
                origin: "built in".to_owned(),
            }],
        }
    }

    async fn unrecorded(&self, recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        let mut state = self.world.state();
        if self.protocol == "smbfs" && state.mounts_listed {
            let claims = recorded.iter().flat_map(|it| &it.plan.claims);
            let held: Vec<String> = claims.map(ToString::to_string).collect();
            let there = state.connections.keys().filter(|it| !held.contains(it));
            let mount = |name: &String| Unrecorded {
                what: format!("mount {name}"),
                mend: format!("umount {name}"),
                own: true,
            };
            return Ok(there.map(mount).collect());
        }
        if self.protocol != "nfs" {
            return Ok(Vec::new());
        }
        match state.host_unseen {
            true => Err(fail(Reason::Internal)),
            false => {
                let mut found = std::mem::take(&mut state.recorded_meanwhile);
                found.extend(state.unrecorded.clone());
                Ok(found)
            }
        }
    }

    async fn sign_of_life(&self, server: &Server) -> Result<(), BackendError> {
        self.ask_all(std::slice::from_ref(server), "probe").await
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        self.pass("backend.find", Moment::Before).await?;
        Ok(self.there(volume))
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        self.world.state().looks.push(volumes.len());
        let mut found = Vec::new();
        for volume in &volumes {
            found.push(self.find(volume).await);
        }
        found
    }

    async fn survey(&self, _plan: &HostPlan) -> Result<Found, BackendError> {
        self.pass("backend.survey", Moment::Before).await?;
        Ok(Found::default())
    }

    async fn head_start(&self, plan: &HostPlan, _info: &Protocol) -> HeadStart {
        let takes = {
            let mut state = self.world.state();
            state.head_starts.push(name(plan));
            state.head_starts_running += 1;
            state.head_start_takes
        };
        let _running = Running(&self.world);
        tokio::time::sleep(takes).await;
        HeadStart::default()
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        _info: &Protocol,
        owners: &dyn Owners,
        _head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        let plan = &volume.plan;
        assert!(!plan.claims.is_empty(), "there is nothing to connect");
        self.go_by(plan);
        self.ask(plan, "connect").await?;
        self.pass("backend.connect", Moment::Before).await?;
        self.world.answered(&plan.servers()).await;
        if let Some(reason) = self.world.state().connect_fails.take() {
            return Err(fail(reason));
        }
        for claim in &plan.claims {
            let mut state = self.world.state();
            let there = state.connections.entry(claim.to_string());
            let there = *there.or_insert(Presence::Partial);
            // A further volume of a target leaves the others connected; a mount over a mount is a fault.
            assert!(
                target_of(plan).is_some() || there == Presence::Partial,
                "mounted over a mount: {claim}"
            );
        }
        self.pass("backend.connect", Moment::Half).await?;
        for claim in &plan.claims {
            let mut state = self.world.state();
            state
                .connections
                .insert(claim.to_string(), Presence::Present);
        }
        self.pass("backend.connect", Moment::After).await?;
        let mut found = volume.found.clone();
        if let Some(target) = target_of(plan) {
            let number = target.paths[0].lun.unwrap_or_default();
            let identity = self.world.state().identity(&target.paths[0].name, number);
            owners.take(&identity, format!("LUN {number}")).await?;
            let number = number + self.world.state().first_device;
            let path: PathBuf = match self.protocol {
                "iscsi" => format!("/dev/dm-{number}").into(),
                _ => format!("/dev/nvme0n{number}").into(),
            };
            let sequence = Some(self.world.state().sequence(&path));
            found.protected = plan.access.is_read_only();
            found.device = Some(Device {
                path,
                identity,
                sequence,
            });
        }
        Ok(Connected {
            degraded: degraded(volume, &self.world.state().down),
            inspected: self.protocol == "iscsi" && !found.protected,
            found,
        })
    }

    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        let passed = self.pass("backend.repairable", Moment::Before).await;
        let state = self.world.state();
        let answers = |path: &&TargetPath| state.down.get(&path.portal) == Some(&true);
        let answering = |volume: &HostVolume| match (&passed, target_of(&volume.plan)) {
            (Ok(()), Some(target)) => target.paths.iter().filter(answers).cloned().collect(),
            _ => Vec::new(),
        };
        volumes.iter().map(answering).collect()
    }

    async fn repair(
        &self,
        _volume: &HostVolume,
        paths: &[TargetPath],
        _info: Option<&Protocol>,
    ) -> Result<(), BackendError> {
        self.pass("backend.repair", Moment::Before).await?;
        for path in paths {
            self.world.state().down.remove(&path.portal);
        }
        self.pass("backend.repair", Moment::After).await
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await
    }

    fn beside(&self, plan: &HostPlan) -> Option<HostPlan> {
        let mount = plan.mount()?;
        let [Claim::Mount(claim)] = &plan.claims[..] else {
            return None;
        };
        let target = PathBuf::from(format!("{}+", mount.target.display()));
        Some(HostPlan {
            claims: vec![Claim::Mount(format!("{claim}+"))],
            path: target.join(plan.path.strip_prefix(&plan.root).unwrap()),
            root: target.clone(),
            connection: Connection::Mount(MountPlan {
                target,
                ..mount.clone()
            }),
            ..plan.clone()
        })
        .filter(|_| !claim.ends_with("+++"))
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.go_by(&volume.plan);
        self.ask(&volume.plan, "inspect").await?;
        self.pass("backend.inspect", Moment::Before).await?;
        if volume.sequence() != self.world.state().sequences.get(volume.path()).copied() {
            return Err(fail(Reason::DeviceIdentity));
        }
        assert_eq!(self.there(volume), Presence::Present, "not mounted");
        let mut state = self.world.state();
        let durable = |bytes: &Vec<u8>| {
            let record: Record = serde_json::from_slice(bytes).unwrap();
            record.host == *volume
        };
        assert!(
            !volume.found.protected || state.records.values().any(durable),
            "made read-only, and the journal does not say so yet"
        );
        let mut claims = volume.plan.claims.iter().map(ToString::to_string);
        if claims.any(|claim| state.stale.contains(&claim)) {
            return Err(BackendError::ServerLost {
                path: volume.path().to_owned(),
                why: "ESTALE".to_owned(),
                silent: false,
            });
        }
        state
            .inspect_fails
            .take()
            .map_or(Ok(()), |reason| Err(fail(reason)))
    }

    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.inspect(volume).await
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        scope: Scope,
        _before: &Path,
    ) -> Result<Pinned, BackendError> {
        self.go_by(&volume.plan);
        self.pass("backend.pin", Moment::Before).await?;
        if volume.sequence() != self.world.state().sequences.get(volume.path()).copied() {
            return Err(fail(Reason::DeviceIdentity));
        }
        let held = Box::new(self.world.open(volume.path()));
        let path = match volume.identity() {
            Some(identity) if scope.config() => {
                let link = PathBuf::from(format!("/dev/disk/by-id/{identity}"));
                let mut state = self.world.state();
                state.links.insert(link.clone(), volume.path().to_owned());
                link
            }
            _ => volume.path().to_owned(),
        };
        Ok(Pinned { path, held })
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        self.ask(&volume.plan, "extend").await?;
        self.pass("backend.extend", Moment::Before).await?;
        assert_eq!(self.there(volume), Presence::Present, "not mounted");
        let mut state = self.world.state();
        let failed = state.extend_fails.take();
        failed.map_or(Ok(state.stored), |reason| Err(fail(reason)))
    }

    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        let plan = &volume.plan;
        self.world.state().releases.push(how.clone());
        let own = plan.claims.iter().filter(|claim| !how.held.contains(claim));
        let own: Vec<String> = own.map(ToString::to_string).collect();
        if own.is_empty() && !plan.claims.is_empty() {
            return self.pass("backend.write_out", Moment::Before).await;
        }
        if own
            .iter()
            .any(|it| self.world.state().connections.contains_key(it))
        {
            self.hang(plan).await?;
        }
        self.pass("backend.disconnect", Moment::Before).await?;
        self.world.answered(&plan.servers()).await;
        let records = self.world.records();
        {
            let mut state = self.world.state();
            if let Some(reason) = state.disconnect_fails.take() {
                return Err(fail(reason));
            }
            if state.flush_fails && !how.force {
                return Err(fail(Reason::DeviceBusy));
            }
            for record in records.iter().filter(|it| state.disk(&it.disk).is_some()) {
                let mut its = record.host.plan.claims.iter().map(ToString::to_string);
                assert!(
                    !its.any(|claim| own.contains(&claim)),
                    "took a connection from under the disk of {}: {own:?}",
                    record.id
                );
            }
            for claim in &own {
                if let Some(there) = state.connections.get_mut(claim) {
                    *there = Presence::Partial;
                }
            }
        }
        self.pass("backend.disconnect", Moment::Half).await?;
        {
            let mut state = self.world.state();
            for claim in &own {
                state.connections.remove(claim);
                state.stale.remove(claim);
            }
            if how.held.is_empty() {
                state.sequences.remove(volume.path());
            }
        }
        self.pass("backend.disconnect", Moment::After).await
    }
}

pub struct FakeJournal {
    world: World,
}

impl FakeJournal {
    pub fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
        }
    }

    async fn pass(&self, call: &str, moment: Moment) -> Result<(), JournalError> {
        let passed = self.world.gate.pass(call, moment).await;
        let full = moment == Moment::Before && self.world.state().disk_full;
        if passed.is_ok() && !full {
            return Ok(());
        }
        Err(JournalError {
            action: "write",
            path: "/journal".into(),
            source: "no space left on device".into(),
        })
    }
}

#[async_trait]
impl Journal for FakeJournal {
    async fn get(&self, id: &AttachmentId) -> Result<Option<Record>, JournalError> {
        let unreadable = self.world.state().unreadable.clone();
        if let Some(unreadable) = unreadable.into_iter().find(|it| it.id == *id) {
            return Err(JournalError {
                action: "read",
                path: "/journal".into(),
                source: unreadable.why.into(),
            });
        }
        let records = self.world.records();
        Ok(records.into_iter().find(|record| record.id == *id))
    }

    async fn unreadable(&self) -> Result<Vec<Unreadable>, JournalError> {
        Ok(self.world.state().unreadable.clone())
    }

    async fn of(&self, key: Key<'_>) -> Result<Vec<Arc<Record>>, JournalError> {
        let mut records = self.after(None, usize::MAX).await?;
        records.retain(|record| record.has(key));
        Ok(records)
    }

    async fn any(
        &self,
        key: Key<'_>,
        wanted: &(dyn for<'r> Fn(&'r Record) -> bool + Sync),
    ) -> Result<bool, JournalError> {
        Ok(self.of(key).await?.iter().any(|record| wanted(record)))
    }

    async fn after(
        &self,
        id: Option<&AttachmentId>,
        limit: usize,
    ) -> Result<Vec<Arc<Record>>, JournalError> {
        tokio::task::yield_now().await;
        let records = self.world.records().into_iter();
        let records = records.filter(|record| id.is_none_or(|id| record.id > *id));
        Ok(records.take(limit).map(Arc::new).collect())
    }

    async fn put(&self, record: &Record) -> Result<(), JournalError> {
        self.pass("journal.put", Moment::Before).await?;
        {
            let mut state = self.world.state();
            state.sync();
            state.records.insert(record.id.to_string(), bytes(record));
        }
        self.pass("journal.put", Moment::After).await
    }

    async fn put_soon(&self, record: &Record) -> Result<(), JournalError> {
        let mut state = self.world.state();
        state.soon.insert(record.id.to_string(), bytes(record));
        Ok(())
    }

    async fn remove(&self, id: &AttachmentId) -> Result<(), JournalError> {
        self.pass("journal.remove", Moment::Before).await?;
        {
            let mut state = self.world.state();
            state.sync();
            state.records.remove(id.as_str());
        }
        self.pass("journal.remove", Moment::After).await
    }

    async fn set_aside(&self, id: &AttachmentId) -> Result<PathBuf, JournalError> {
        self.pass("journal.set_aside", Moment::Before).await?;
        self.world.state().unreadable.retain(|it| it.id != *id);
        self.pass("journal.set_aside", Moment::After).await?;
        Ok(format!("/journal.{id}.forgotten").into())
    }

    async fn permissions(&self, volume: &VolumeId) -> Result<Option<SetPermissions>, JournalError> {
        let state = self.world.state();
        let bytes = state.permissions.get(volume.as_str());
        Ok(bytes.map(|bytes| serde_json::from_slice(bytes).unwrap()))
    }

    async fn set_permissions(
        &self,
        volume: &VolumeId,
        set: Option<&SetPermissions>,
    ) -> Result<(), JournalError> {
        self.pass("journal.set_permissions", Moment::Before).await?;
        let volume = volume.to_string();
        match set.map(|set| serde_json::to_vec(set).unwrap()) {
            Some(set) => self.world.state().permissions.insert(volume, set),
            None => self.world.state().permissions.remove(&volume),
        };
        self.pass("journal.set_permissions", Moment::After).await
    }

    async fn loss(&self) -> Result<Option<Loss>, JournalError> {
        Ok(self.world.state().loss.clone())
    }

    async fn forget_loss(&self) -> Result<(), JournalError> {
        self.world.state().loss = None;
        Ok(())
    }

    async fn condition(&self) -> Condition {
        self.world.state().condition.clone()
    }
}

fn bytes(record: &Record) -> Vec<u8> {
    let bytes = serde_json::to_vec(record).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("hunter2"), "a secret in the journal: {text}");
    bytes
}
