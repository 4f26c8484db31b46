//! A world of fakes behind the three traits, for tests of everything above them.
//!
//! The [`World`] is what a real host would be: its mounts, its domain's disks, its journal's file. It outlives the
//! [`Engine`]s made on it, as a host outlives a daemon's process. Every call into the world passes the [`Gate`], where a test
//! may let it fail or let the process die, before the call has its effect, half-way, or after.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod gate;
mod hypervisor;
mod san;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;
use volattach::admission::{Admission, Admitted, Object};
use volattach::attach::{
    AttachRequest, ConnectRequest, EndRequest, Engine, Feed, Filter, Parts, Tuning, WatchRequest,
};
use volattach::backend::{Backend, Backends, Lvm, Presence, Quarantine, Release, Unrecorded};
use volattach::config::Settings;
use volattach::connection::{
    Chap, Common, ConnectionInfo, IscsiPath, IscsiVolume, LocalVolume, NfsVolume, NvmeVolume,
    Protocol, SmbCredentials, SmbVolume,
};
use volattach::journal::{Condition, Journal, Loss, Record, Room, Unreadable};
use volattach::libvirt::{DomainEnd, DomainEvent, Hypervisor};
use volattach::model::{
    Access, Actor, Attachment, AttachmentId, Claim, Dialect, DiskIo, DiskOptions, DiskPlan,
    HostKey, Identity, ImageFormat, IoTune, Reason, Secret, Via, VolumeOwner, WorkLimits, Wwid,
};
use volattach::policy::{PolicyFiles, PolicyStore, Rpc};
use volattach::sys::worker::{Entry, Registry};

pub use gate::{Fault, Gate};
pub use hypervisor::FakeHypervisor;
pub use san::{Deaf, San};

/// The domain of the world.
pub const DOMAIN: Uuid = Uuid::from_u128(0x6f2a_7f52_3b1f_4d6c_9f0e_0d9f_6f6a_3c11);

/// Another domain, which always has all disks.
pub const OTHER_DOMAIN: Uuid = Uuid::from_u128(0x0b1d_6d2f_53c8_49f0_8a3c_7d0a_5c9e_42e7);

/// How the domain's guest answers an unplug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// It lets go.
    Obeys,
    /// It does nothing.
    Ignores,
    /// It says no.
    Refuses,
    /// It is busy with an earlier request and gets no other.
    Busy,
}

/// What is there.
pub struct State {
    /// Connections, by what is shared or by path.
    pub connections: BTreeMap<String, Presence>,
    /// Connections that have gone stale: they exist, and an inspect fails on them.
    pub stale: BTreeSet<String>,
    /// Servers that leave everything unanswered, by host name.
    pub silent: BTreeSet<String>,
    /// What silent servers were asked: the host's name and the call.
    pub unanswered: Vec<(String, &'static str)>,
    /// Workers that outlived their kill, on silent servers.
    pub stuck: Vec<Entry>,
    /// Identities that volumes report instead of their own, by target and number.
    pub identities: BTreeMap<(String, u64), String>,
    /// The `diskseq` of each existing block device, by name.
    pub sequences: BTreeMap<PathBuf, u64>,
    /// The number in the name of the first device; a start of the host changes the number.
    pub first_device: u64,
    /// The `diskseq` of the last device that appeared.
    pub last_sequence: u64,
    /// Portals without a working path, and whether each answers a probe.
    pub down: BTreeMap<String, bool>,
    /// The block devices that somebody holds open: their names go to no other device.
    pub open: Vec<PathBuf>,
    /// The connections that were given a head start, by what is shared.
    pub head_starts: Vec<String>,
    /// How long a head start takes.
    pub head_start_takes: Duration,
    /// Head starts that have neither ended nor been given up.
    pub head_starts_running: usize,
    /// How connections were released, the last one last.
    pub releases: Vec<Release>,
    /// Paths of the volumes that were recalled, in order.
    pub recalled: Vec<PathBuf>,
    /// How many volumes each look at all of a backend's volumes was about.
    pub looks: Vec<usize>,
    /// The domains asked for their disks, and for how many disks each time.
    pub domains_asked: Vec<(Uuid, usize)>,
    /// How many calls to the hypervisor callers waited for.
    pub asked_for_callers: usize,
    /// This boot of the host.
    pub boot: String,
    /// Records of a later build.
    pub unreadable: Vec<Unreadable>,
    /// Loss of an earlier journal.
    pub loss: Option<Loss>,
    /// udev's names for block devices.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// The domain's disks, by alias.
    pub disks: BTreeMap<String, DiskPlan>,
    /// The disks of the domain's persistent configuration, by alias.
    pub config: BTreeMap<String, DiskPlan>,
    /// Records as the journal's file has them.
    pub records: BTreeMap<String, Vec<u8>>,
    /// Records that the file will have, and that the process's end takes back.
    pub soon: BTreeMap<String, Vec<u8>>,
    /// Permissions as the journal's file has them.
    pub permissions: BTreeMap<String, Vec<u8>>,
    /// What the deployer configured for mounts.
    pub configuration: &'static str,
    /// The configuration by which each connection was planned first, by claim.
    pub planned_by: BTreeMap<String, String>,
    /// How many steps of an attach went by another configuration than its plan.
    pub planned_by_others: usize,
    /// What runs the domain.
    pub dialect: Dialect,
    /// How the guest behaves.
    pub guest: Guest,
    /// How often the guest was asked to let go.
    pub unplugs_asked: usize,
    /// The aliases of disks that the domain shows and its guest has no more.
    pub hollow: BTreeSet<String>,
    /// The `diskseq` of the device behind each disk as it was plugged in, by alias.
    pub opened: BTreeMap<String, Option<u64>>,
    /// The name of the world's domains, at first `web`.
    pub name: String,
    /// The UUID of the domain that has this name.
    pub named: Uuid,
    /// How the domain ended last.
    pub end: Option<DomainEnd>,
    /// Whether the domain runs.
    pub running: bool,
    /// Whether the domain exists.
    pub defined: bool,
    /// Whether SELinux confines the domain.
    pub confined: bool,
    /// Whether libvirt writes the domain's disks into an AppArmor profile.
    pub profiled: bool,
    /// Whether SELinux keeps confined domains from shares.
    pub shares_closed: bool,
    /// The same, but seen only once a share is mounted.
    pub mounts_closed: bool,
    /// The reason with which the next connect fails.
    pub connect_fails: Option<Reason>,
    /// The reason with which the next inspect fails.
    pub inspect_fails: Option<Reason>,
    /// The size of every volume on its storage, in bytes.
    pub stored: u64,
    /// The sizes of the domain's disks as its guest sees them, by alias.
    pub shown: BTreeMap<String, u64>,
    /// The I/O that the guest did on the domain's disks, by alias.
    pub io: BTreeMap<String, DiskIo>,
    /// The aliases of the disks to which requests failed: the domain is paused for that.
    pub io_failed: BTreeSet<String>,
    /// Whether no event has reported which disks failed.
    pub io_unreported: bool,
    /// How often the domain was resumed.
    pub resumes: usize,
    /// The limits on the domain's disks, by alias.
    pub iotune: BTreeMap<String, IoTune>,
    /// The format of every volume.
    pub format: ImageFormat,
    /// The reason with which the next extend fails.
    pub extend_fails: Option<Reason>,
    /// The reason with which the next disconnect fails.
    pub disconnect_fails: Option<Reason>,
    /// Whether what was written last cannot be flushed.
    pub flush_fails: bool,
    /// Whether the hypervisor can be reached.
    pub hypervisor_down: bool,
    /// Whether each call to the hypervisor takes seconds.
    pub hypervisor_slow: bool,
    /// Whether the journal's disk is full: what is deferred waits, anything else fails.
    pub disk_full: bool,
    /// The reason with which the next plug fails.
    pub plug_fails: Option<Reason>,
    /// The reason with which the next unplug request fails.
    pub unplug_fails: Option<Reason>,
    /// The reason with which each look at the domain fails.
    pub domain_fails: Option<Reason>,
    /// Connections that no record has.
    pub unrecorded: Vec<Unrecorded>,
    /// Connections that the next look alone finds without a record: a call writes the record meanwhile.
    pub recorded_meanwhile: Vec<Unrecorded>,
    /// Whether mounts of SMB that no record has are listed with those.
    pub mounts_listed: bool,
    /// Whether the connections of this host cannot be looked at.
    pub host_unseen: bool,
    /// Condition of the journal's storage.
    pub condition: Condition,
    /// How much work the next engine may have under way.
    pub work: WorkLimits,
    /// How many disks were plugged in.
    pub plugs: usize,
    /// Servers that keep each connect and disconnect waiting until they are told to answer.
    pub mute: BTreeSet<String>,
    /// How many connects and disconnects were kept waiting.
    pub kept_waiting: usize,
}

/// A host.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    san: Arc<Mutex<San>>,
    pub gate: Gate,
    /// Notified when servers answer again.
    answers: Arc<Notify>,
    /// The worker processes of this host.
    pub workers: Registry,
    events: broadcast::Sender<DomainEvent>,
}

/// An open device, closed by the drop.
pub struct Open {
    world: World,
    device: PathBuf,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.world.state();
        // No entry is left after the death of the process that held the device open.
        if let Some(place) = state.open.iter().position(|it| *it == self.device) {
            state.open.swap_remove(place);
        }
    }
}

impl State {
    /// The identity that a volume reports.
    pub fn identity(&self, target: &str, number: u64) -> Wwid {
        let given = self.identities.get(&(target.to_owned(), number)).cloned();
        Wwid::as_spelled(given.unwrap_or_else(|| format!("{target}.{number}")))
    }

    /// The `diskseq` of the device, which appears if it does not exist.
    pub fn sequence(&mut self, device: &Path) -> u64 {
        let next = self.last_sequence + 1;
        let sequence = *self.sequences.entry(device.to_owned()).or_insert(next);
        self.last_sequence = sequence.max(self.last_sequence);
        sequence
    }

    /// Finds a planned disk in the running domain by the rules of [`volattach::libvirt::Devices::find`].
    pub fn disk(&self, plan: &DiskPlan) -> Option<&DiskPlan> {
        found(&self.disks, plan)
    }

    /// Finds a planned disk in the persistent configuration, by the same rules.
    pub fn configured(&self, plan: &DiskPlan) -> Option<&DiskPlan> {
        found(&self.config, plan)
    }

    /// The `diskseq` of the device that a path leads to.
    pub fn leads_to(&self, path: &Path) -> Option<u64> {
        let device = self.links.get(path).map_or(path, PathBuf::as_path);
        self.sequences.get(device).copied()
    }

    /// What is to be written soon is.
    pub fn sync(&mut self) {
        if self.disk_full {
            return;
        }
        let soon = std::mem::take(&mut self.soon);
        self.records.extend(soon);
    }
}

impl World {
    /// A host with a domain of QEMU's.
    pub fn new() -> Self {
        Self::of(Dialect::Qemu)
    }

    /// A host with a domain of this kind.
    pub fn of(dialect: Dialect) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                connections: BTreeMap::new(),
                stale: BTreeSet::new(),
                silent: BTreeSet::new(),
                unanswered: Vec::new(),
                stuck: Vec::new(),
                identities: BTreeMap::new(),
                sequences: BTreeMap::new(),
                first_device: 0,
                last_sequence: 0,
                down: BTreeMap::new(),
                open: Vec::new(),
                releases: Vec::new(),
                recalled: Vec::new(),
                looks: Vec::new(),
                domains_asked: Vec::new(),
                asked_for_callers: 0,
                boot: "first".to_owned(),
                unreadable: Vec::new(),
                loss: None,
                links: BTreeMap::new(),
                disks: BTreeMap::new(),
                config: BTreeMap::new(),
                records: BTreeMap::new(),
                soon: BTreeMap::new(),
                permissions: BTreeMap::new(),
                configuration: "",
                planned_by: BTreeMap::new(),
                planned_by_others: 0,
                dialect,
                guest: Guest::Obeys,
                unplugs_asked: 0,
                hollow: BTreeSet::new(),
                opened: BTreeMap::new(),
                name: "web".to_owned(),
                named: DOMAIN,
                end: None,
                running: true,
                defined: true,
                confined: false,
                profiled: false,
                shares_closed: false,
                mounts_closed: false,
                connect_fails: None,
                inspect_fails: None,
                stored: 1 << 20,
                shown: BTreeMap::new(),
                io: BTreeMap::new(),
                io_failed: BTreeSet::new(),
                io_unreported: false,
                resumes: 0,
                iotune: BTreeMap::new(),
                format: ImageFormat::Raw,
                extend_fails: None,
                disconnect_fails: None,
                flush_fails: false,
                hypervisor_down: false,
                head_starts: Vec::new(),
                head_start_takes: Duration::ZERO,
                head_starts_running: 0,
                hypervisor_slow: false,
                disk_full: false,
                plug_fails: None,
                unplug_fails: None,
                domain_fails: None,
                unrecorded: Vec::new(),
                recorded_meanwhile: Vec::new(),
                mounts_listed: false,
                host_unseen: false,
                condition: Condition {
                    write_failure: None,
                    unreadable_permissions: Vec::new(),
                    room: Ok(Room {
                        directory: "/var/lib/volattach".into(),
                        free: 1 << 30,
                        size: 1 << 31,
                    }),
                },
                work: Settings::built_in().limits.work,
                plugs: 0,
                mute: BTreeSet::new(),
                kept_waiting: 0,
            })),
            san: Arc::default(),
            gate: Gate::default(),
            answers: Arc::default(),
            workers: Registry::default(),
            events: broadcast::channel(64).0,
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn san(&self) -> MutexGuard<'_, San> {
        self.san.lock().unwrap()
    }

    /// Starts a daemon's process with the SAN and shares for storage.
    pub fn engine_of_san(&self) -> Engine {
        let backends: [Arc<dyn Backend>; 2] = [
            Arc::new(san::SanBackend::new(self)),
            Arc::new(storage::FakeBackend::new(self, "smbfs")),
        ];
        let journal = Arc::new(storage::FakeJournal::new(self));
        self.engine_of(journal, backends, Duration::from_millis(20))
    }

    /// Waits until all of these servers answer.
    pub async fn answered(&self, servers: &[String]) {
        loop {
            let answers = self.answers.notified();
            tokio::pin!(answers);
            answers.as_mut().enable();
            {
                let mut state = self.state();
                if !servers.iter().any(|server| state.mute.contains(server)) {
                    return;
                }
                state.kept_waiting += 1;
            }
            answers.await;
        }
    }

    /// Lets all servers answer again.
    pub fn answer(&self) {
        self.state().mute.clear();
        self.answers.notify_waiters();
    }

    /// The records as the journal shows them.
    pub fn records(&self) -> Vec<Record> {
        let state = self.state();
        let mut records = state.records.clone();
        records.extend(state.soon.clone());
        records
            .values()
            .map(|bytes| serde_json::from_slice(bytes).unwrap())
            .collect()
    }

    /// Connects what a claim is of.
    pub fn connected(&self, claim: &Claim) {
        let mut state = self.state();
        state
            .connections
            .insert(claim.to_string(), Presence::Present);
    }

    /// Changes what the journal has on disk of an attachment.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Record)) {
        let mut state = self.state();
        state.sync();
        let bytes = state.records.get_mut(id).unwrap();
        let mut record = serde_json::from_slice(bytes).unwrap();
        change(&mut record);
        *bytes = serde_json::to_vec(&record).unwrap();
    }

    /// Sets when the journal on disk says that something of an attachment happened, as under another wall clock.
    pub fn set_time(&self, id: &str, field: &str, time: SystemTime) {
        let mut state = self.state();
        state.sync();
        let bytes = state.records.get_mut(id).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        assert!(record[field].is_object(), "no {field}: {record}");
        record[field] = serde_json::to_value(time).unwrap();
        *bytes = serde_json::to_vec(&record).unwrap();
    }

    /// Holds a device open until the returned guard is dropped.
    pub fn open(&self, device: &Path) -> Open {
        self.state().open.push(device.to_owned());
        Open {
            world: self.clone(),
            device: device.to_owned(),
        }
    }

    /// Removes each block device, and gives its name to a new device unless somebody holds the old device open.
    pub fn reuse_names(&self) {
        let mut state = self.state();
        let names: Vec<PathBuf> = state.sequences.keys().cloned().collect();
        for name in names {
            state.sequences.remove(&name);
            if !state.open.contains(&name) {
                state.sequence(&name);
            }
        }
    }

    /// Restarts the host: nothing is connected, no domain runs, and the next devices get other names.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.sync();
        state.boot += "+";
        state.connections.clear();
        state.sequences.clear();
        state.links.clear();
        state.disks.clear();
        state.running = false;
        state.first_device += 1;
    }

    /// Starts the domain with the disks of its persistent configuration; fails if a named device does not exist.
    pub fn start(&self) {
        self.boot();
        self.report(DomainEvent::Started { domain: DOMAIN });
    }

    fn boot(&self) {
        let mut state = self.state();
        state.running = true;
        for (alias, disk) in state.config.clone() {
            let opened = state.leads_to(&disk.source);
            assert!(
                opened.is_some() || !disk.source.starts_with("/dev"),
                "the domain does not start: no {:?}",
                disk.source
            );
            state.opened.insert(alias.clone(), opened);
            state.disks.insert(alias, disk);
        }
    }

    /// The guest lets go of a disk by itself.
    pub fn let_go(&self, alias: &str) {
        self.state().disks.remove(alias);
        self.report(DomainEvent::DiskGone {
            domain: DOMAIN,
            alias: alias.to_owned(),
        });
    }

    /// A request to a disk fails, and the domain is paused for it.
    pub fn stop_io(&self, alias: &str) {
        self.state().io_failed.insert(alias.to_owned());
        self.report(DomainEvent::IoStopped { domain: DOMAIN });
    }

    /// Somebody resumes the domain.
    pub fn resume(&self) {
        self.state().io_failed.clear();
        self.report(DomainEvent::Resumed { domain: DOMAIN });
    }

    /// The hypervisor reports an event.
    pub fn report(&self, event: DomainEvent) {
        let _ = self.events.send(event); // nobody listens
    }

    /// The domain stops, and exists on with its persistent configuration.
    pub fn stop(&self, end: DomainEnd) {
        {
            let mut state = self.state();
            state.running = false;
            state.disks.clear();
            state.end = Some(end);
        }
        let domain = DOMAIN;
        self.report(DomainEvent::Stopped { domain, end });
    }

    /// The persistent configuration of the stopped domain is removed, and the domain with it.
    pub fn undefine(&self) {
        {
            let mut state = self.state();
            state.defined = false;
            state.config.clear();
            // A migration removes the configuration last.
            if state.end != Some(DomainEnd::Migrated) {
                state.end = Some(DomainEnd::Undefined);
            }
        }
        self.report(DomainEvent::Undefined { domain: DOMAIN });
    }

    /// The domain gets another name.
    pub fn rename(&self, name: &str) {
        self.state().name = name.to_owned();
        self.report(DomainEvent::Defined { domain: DOMAIN });
    }

    /// A daemon's process on this host, with what it was configured with. The one before it is dead.
    pub fn engine(&self) -> Engine {
        self.engine_with(Duration::from_millis(20))
    }

    /// The same, with another patience for guests.
    pub fn engine_with(&self, unplug_timeout: Duration) -> Engine {
        let journal = Arc::new(storage::FakeJournal::new(self));
        self.engine_of(journal, self.backends(), unplug_timeout)
    }

    /// The same, over another journal.
    pub fn engine_on(&self, journal: Arc<dyn Journal>) -> Engine {
        self.engine_of(journal, self.backends(), Duration::from_millis(20))
    }

    /// Has an engine of this world go by the configuration as it is now.
    pub fn reload(&self, engine: &Engine) {
        engine.retune(Tuning {
            backends: Backends::new(self.backends(), Quarantine::new(self.workers.clone())),
            unplug_timeout: Duration::from_millis(20),
            work: self.state().work,
        });
    }

    fn backends(&self) -> [Arc<dyn Backend>; 5] {
        let protocols = ["smbfs", "nfs", "local", "nvmeof", "iscsi"];
        protocols.map(|it| Arc::new(storage::FakeBackend::new(self, it)) as Arc<dyn Backend>)
    }

    /// The same, over a real hypervisor: of this world there are journal and storage alone.
    pub fn engine_over(&self, hypervisor: Arc<dyn Hypervisor>) -> Engine {
        let journal = Arc::new(storage::FakeJournal::new(self));
        self.engine_with_all(
            journal,
            self.backends(),
            hypervisor,
            Duration::from_secs(60),
        )
    }

    fn engine_of(
        &self,
        journal: Arc<dyn Journal>,
        backends: impl IntoIterator<Item = Arc<dyn Backend>>,
        unplug_timeout: Duration,
    ) -> Engine {
        let hypervisor = Arc::new(hypervisor::FakeHypervisor::new(self));
        self.engine_with_all(journal, backends, hypervisor, unplug_timeout)
    }

    fn engine_with_all(
        &self,
        journal: Arc<dyn Journal>,
        backends: impl IntoIterator<Item = Arc<dyn Backend>>,
        hypervisor: Arc<dyn Hypervisor>,
        unplug_timeout: Duration,
    ) -> Engine {
        self.state().soon.clear();
        self.state().open.clear();
        let (work, boot) = {
            let state = self.state();
            (state.work, state.boot.clone())
        };
        let parts = Parts {
            journal,
            // Of no host: the tests' own may have LVM.
            lvm: Lvm::new("/nonexistent"),
            hypervisor,
            key: HostKey::new([7; 32]),
            boot: Some(boot),
        };
        let tuning = Tuning {
            backends: Backends::new(backends, Quarantine::new(self.workers.clone())),
            unplug_timeout,
            work,
        };
        Engine::new(parts, tuning)
    }
}

/// Root, on the unix socket.
pub fn by_root<T>(request: T) -> Admitted<T> {
    admit(root(), VolumeOwner::default(), request)
}

/// By an administrator, about what is nobody's or this owner's.
pub fn admit<T>(actor: Actor, owner: VolumeOwner, request: T) -> Admitted<T> {
    let objects = [VolumeOwner::default(), owner].map(|owner| Object {
        owner,
        ..Object::default()
    });
    let admission = admission();
    let caller = admission.caller(actor).now_or_never().unwrap();
    let caller = Arc::new(caller);
    let admitted = caller.admit(Rpc::AttachVolume, None, objects.into(), request);
    admitted.now_or_never().unwrap().unwrap()
}

/// By the rules in code.
pub fn admission() -> Admission {
    let policy = PolicyStore::open(PolicyFiles::default(), |_| {}).unwrap();
    Admission::new(policy, None)
}

/// Root, on the unix socket.
pub fn root() -> Actor {
    local_peer(0)
}

/// A user of this host, in a group of their own, on the unix socket.
pub fn local_peer(uid: u32) -> Actor {
    let gid = uid;
    Actor {
        via: Via::LocalPeer {
            uid,
            gid,
            pid: None,
        },
        user: Some(Identity {
            user_id: format!("uid:{uid}"),
            roles: vec!["admin".into()],
            groups: vec![format!("gid:{gid}")],
            ..Identity::default()
        }),
        service: None,
        until: None,
    }
}

/// Connection info for a volume on one share.
pub fn smb(name: &str) -> ConnectionInfo {
    ConnectionInfo {
        common: Common::default(),
        protocol: Protocol::Smb(SmbVolume {
            host: "files".into(),
            share: "vols".into(),
            folder: String::new(),
            name: name.into(),
            format: ImageFormat::Raw,
            credentials: SmbCredentials::Password {
                username: "bob".into(),
                password: Secret::from("hunter2"),
                domain: None,
            },
            options: vec![],
        }),
    }
}

/// Connection info for a volume on one NFS export.
pub fn nfs(name: &str) -> ConnectionInfo {
    ConnectionInfo {
        common: Common::default(),
        protocol: Protocol::Nfs(NfsVolume {
            host: "files".into(),
            path: "/vols".into(),
            name: name.into(),
            format: ImageFormat::Raw,
            options: vec![],
        }),
    }
}

/// Connection info for a file of this host.
pub fn local(name: &str) -> ConnectionInfo {
    ConnectionInfo {
        common: Common::default(),
        protocol: Protocol::Local(LocalVolume {
            device_path: format!("/volumes/{name}").into(),
            format: ImageFormat::Raw,
        }),
    }
}

/// Connection info for a namespace of one subsystem: the name's digits are its number.
pub fn nvme(name: &str) -> ConnectionInfo {
    ConnectionInfo {
        common: Common::default(),
        protocol: Protocol::Nvme(NvmeVolume {
            nqn: "nqn.x".into(),
            portals: vec!["10.0.0.1:4420".parse().unwrap()],
            uuid: None,
            nguid: None,
            nsid: name.trim_start_matches('v').parse().ok(),
            host_nqn: None,
            format: ImageFormat::Raw,
        }),
    }
}

fn found<'a>(disks: &'a BTreeMap<String, DiskPlan>, plan: &DiskPlan) -> Option<&'a DiskPlan> {
    let there = disks.get(&plan.alias)?;
    (AttachmentId::names(&plan.alias) || there.source == plan.source).then_some(there)
}

/// Connection info for a LUN by two portals of one target, with a login: the name's digits are its number.
pub fn iscsi(name: &str) -> ConnectionInfo {
    let path = |portal: &str| IscsiPath {
        portal: portal.parse().unwrap(),
        target: "iqn.x".into(),
        lun: name.trim_start_matches('v').parse().unwrap(),
    };
    ConnectionInfo {
        common: Common::default(),
        protocol: Protocol::Iscsi(IscsiVolume {
            paths: vec![path("10.0.0.1:3260"), path("[fd00::1]:3260")],
            chap: Some(Chap {
                username: "bob".into(),
                password: Secret::from("hunter2"),
                target: Some(("files".into(), Secret::from("hunter2back"))),
            }),
            identity: None,
            enforce_multipath: true,
            discovery: None,
        }),
    }
}

/// The changes of all attachments from now on.
pub struct Changes(Feed);

impl Changes {
    pub async fn of(engine: &Engine) -> Self {
        let request = WatchRequest {
            filter: Filter::default(),
            after: None,
        };
        let mut feed = engine.watch(by_root(request)).await.unwrap();
        while !feed.next().await.unwrap().up_to_date {}
        Self(feed)
    }

    /// The next change.
    pub async fn next(&mut self) -> Attachment {
        loop {
            if let Some(event) = self.0.next().await.unwrap().event {
                return event.attachment;
            }
        }
    }
}

/// The end of an attachment.
pub fn end(id: &str) -> EndRequest {
    EndRequest {
        id: id.parse().unwrap(),
        force: false,
    }
}

/// An attach to the world's domain.
pub fn attach(id: &str, volume: &str, info: ConnectionInfo) -> AttachRequest {
    AttachRequest {
        id: id.parse().unwrap(),
        volume: volume.parse().unwrap(),
        domain: DOMAIN.to_string().parse().unwrap(),
        info,
        access: Some(Access::ReadWrite),
        require_rw: false,
        boot: false,
        facts: None,
        disk: DiskOptions::default(),
    }
}

/// A connect to the host alone.
pub fn connect(id: &str, volume: &str, info: ConnectionInfo) -> ConnectRequest {
    ConnectRequest {
        id: id.parse().unwrap(),
        volume: volume.parse().unwrap(),
        info,
        access: Some(Access::ReadWrite),
        require_rw: false,
        boot: false,
        facts: None,
        disk: DiskOptions::default(),
    }
}
