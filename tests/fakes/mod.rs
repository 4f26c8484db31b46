//! A world of fakes behind the three traits, for tests of everything above them.
//!
//! The [`World`] is what a real host would be: its mounts, its domain's disks, its journal's file. It outlives the
//! [`Engine`]s made on it, as a host outlives a daemon's process. Every call into the world passes the [`Gate`], where a test
//! may let it fail or let the process die, before the call has its effect, half-way, or after.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod gate;
mod hypervisor;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::broadcast;
use uuid::Uuid;
use volattach::admission::{Admission, Admitted, Object};
use volattach::attach::{AttachRequest, ConnectRequest, EndRequest, Engine, Parts};
use volattach::backend::{Backend, Backends, Presence};
use volattach::connection::{
    Chap, Common, ConnectionInfo, IscsiPath, IscsiVolume, LocalVolume, NfsVolume, NvmeVolume,
    Protocol, SmbCredentials, SmbVolume,
};
use volattach::journal::Record;
use volattach::libvirt::DeviceGone;
use volattach::model::{
    Access, Actor, Dialect, DiskOptions, DiskPlan, HostKey, Identity, ImageFormat, Reason, Secret,
    Via, VolumeOwner,
};
use volattach::policy::{PolicyFiles, PolicyStore, Rpc};

pub use gate::{Fault, Gate};

/// The one domain of the world.
pub const DOMAIN: Uuid = Uuid::from_u128(0x6f2a_7f52_3b1f_4d6c_9f0e_0d9f_6f6a_3c11);

/// How the domain's guest answers an unplug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// It lets go.
    Obeys,
    /// It does nothing.
    Ignores,
    /// It says no.
    Refuses,
}

/// What is there.
pub struct State {
    /// Connections, by what is shared or by path.
    pub connections: BTreeMap<String, Presence>,
    /// The domain's disks, by alias.
    pub disks: BTreeMap<String, DiskPlan>,
    /// Records as the journal's file has them.
    pub records: BTreeMap<String, Vec<u8>>,
    /// Records that the file will have, and that the process's end takes back.
    pub soon: BTreeMap<String, Vec<u8>>,
    /// Permissions as the journal's file has them.
    pub permissions: BTreeMap<String, Vec<u8>>,
    /// What the deployer configured for mounts.
    pub configuration: &'static str,
    /// What runs the domain.
    pub dialect: Dialect,
    /// How the guest behaves.
    pub guest: Guest,
    /// How often the guest was asked to let go.
    pub unplugs_asked: usize,
    /// The aliases of disks that the domain shows and its guest has no more.
    pub hollow: BTreeSet<String>,
    /// Whether the domain runs.
    pub running: bool,
    /// Whether the domain exists.
    pub defined: bool,
    /// Whether SELinux confines the domain.
    pub confined: bool,
    /// Whether SELinux keeps confined domains from shares.
    pub shares_closed: bool,
    /// The reason with which the next connect fails.
    pub connect_fails: Option<Reason>,
    /// The reason with which the next inspect fails.
    pub inspect_fails: Option<Reason>,
    /// The size of every volume on its storage, in bytes.
    pub stored: u64,
    /// The sizes of the domain's disks as its guest sees them, by alias.
    pub shown: BTreeMap<String, u64>,
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
    /// The reason with which the next plug fails.
    pub plug_fails: Option<Reason>,
}

/// A host.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    pub gate: Gate,
    events: broadcast::Sender<DeviceGone>,
}

impl State {
    /// What is to be written soon is.
    pub fn sync(&mut self) {
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
                disks: BTreeMap::new(),
                records: BTreeMap::new(),
                soon: BTreeMap::new(),
                permissions: BTreeMap::new(),
                configuration: "",
                dialect,
                guest: Guest::Obeys,
                unplugs_asked: 0,
                hollow: BTreeSet::new(),
                running: true,
                defined: true,
                confined: false,
                shares_closed: false,
                connect_fails: None,
                inspect_fails: None,
                stored: 1 << 20,
                shown: BTreeMap::new(),
                format: ImageFormat::Raw,
                extend_fails: None,
                disconnect_fails: None,
                flush_fails: false,
                hypervisor_down: false,
                plug_fails: None,
            })),
            gate: Gate::default(),
            events: broadcast::channel(64).0,
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
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

    /// The guest lets go of a disk by itself.
    pub fn let_go(&self, alias: &str) {
        self.state().disks.remove(alias);
        let _ = self.events.send(DeviceGone {
            domain: DOMAIN,
            alias: Some(alias.to_owned()),
        });
    }

    /// A daemon's process on this host, with what it was configured with. The one before it is dead.
    pub fn engine(&self) -> Engine {
        self.engine_with(Duration::from_millis(20))
    }

    /// The same, with another patience for guests.
    pub fn engine_with(&self, unplug_timeout: Duration) -> Engine {
        self.state().soon.clear();
        let backends: [Arc<dyn Backend>; 5] = [
            Arc::new(storage::FakeBackend::new(self, "smbfs")),
            Arc::new(storage::FakeBackend::new(self, "nfs")),
            Arc::new(storage::FakeBackend::new(self, "local")),
            Arc::new(storage::FakeBackend::new(self, "nvmeof")),
            Arc::new(storage::FakeBackend::new(self, "iscsi")),
        ];
        Engine::new(Parts {
            journal: Arc::new(storage::FakeJournal::new(self)),
            backends: Backends::new(backends),
            hypervisor: Arc::new(hypervisor::FakeHypervisor::new(self)),
            key: HostKey::new([7; 32]),
            unplug_timeout,
        })
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
