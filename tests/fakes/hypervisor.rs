//! A hypervisor with one domain, whose disks are the world's.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::time::Instant;
use uuid::Uuid;
use volattach::libvirt::{
    Devices, DomainEvent, DomainView, Hypervisor, HypervisorError, HypervisorLoad, IoStop,
    LibvirtError, ObservedDomain, Unplug, UnplugRequest, is_in_background,
};
use volattach::model::{Dialect, DiskIo, DiskPlan, Domain, DomainRef, IoTune, Reason, Scope};

use super::gate::{Failed, Moment};
use super::{DOMAIN, Guest, OTHER_DOMAIN, State, World};

pub struct FakeHypervisor {
    world: World,
}

impl FakeHypervisor {
    pub fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
        }
    }

    /// What the guest sees of the disk.
    fn shown(&self, disk: &DiskPlan) -> Option<u64> {
        let state = self.world.state();
        let there = state.running && state.disk(disk).is_some();
        there.then(|| state.shown[&disk.alias])
    }

    async fn pass(&self, call: &str, moment: Moment) -> Result<(), HypervisorError> {
        if !is_in_background() {
            self.world.state().asked_for_callers += 1;
        }
        if self.world.state().hypervisor_down {
            return Err(fail(Reason::HypervisorUnavailable));
        }
        if self.world.state().hypervisor_slow {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let passed = self.world.gate.pass(call, moment).await;
        passed.map_err(|Failed| fail(Reason::HypervisorUnavailable))
    }
}

/// An error of that reason.
fn fail(reason: Reason) -> HypervisorError {
    match reason {
        Reason::HypervisorUnavailable => HypervisorError::Unavailable {
            uri: "fake:///".into(),
            why: "the connection was closed".into(),
            source: None,
        },
        reason => HypervisorError::Failed {
            action: "plug a disk in".into(),
            domain: "web".into(),
            reason,
            hint: "see libvirt's log",
            source: LibvirtError {
                code: 1,
                message: "internal error".into(),
            },
        },
    }
}

/// The failed disks of a domain that is paused for that.
fn io_stop(state: &State, domain: Uuid, disks: &[DiskPlan]) -> Option<IoStop> {
    let failed = &state.io_failed;
    let stopped = state.running && domain == DOMAIN && !failed.is_empty();
    if stopped && state.io_unreported {
        return Some(IoStop {
            failed: vec![true; disks.len()],
            others: false,
        });
    }
    stopped.then(|| IoStop {
        failed: disks.iter().map(|it| failed.contains(&it.alias)).collect(),
        others: failed
            .iter()
            .any(|it| disks.iter().all(|disk| disk.alias != *it)),
    })
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    fn dialect(&self) -> Dialect {
        self.world.state().dialect
    }

    fn load(&self) -> HypervisorLoad {
        HypervisorLoad {
            connected: true,
            ..HypervisorLoad::default()
        }
    }

    async fn domain(&self, name: &DomainRef, _scope: Scope) -> Result<DomainView, HypervisorError> {
        self.pass("hypervisor.domain", Moment::Before).await?;
        let state = self.world.state();
        if let Some(reason) = state.domain_fails {
            return Err(fail(reason));
        }
        let uuid = match name {
            DomainRef::Uuid(uuid) if [DOMAIN, state.named].contains(uuid) => Some(*uuid),
            DomainRef::Name(name) if *name == state.name => Some(state.named),
            _ => None,
        };
        let Some(uuid) = uuid.filter(|_| state.defined) else {
            return Err(HypervisorError::DomainNotFound {
                domain: name.to_string(),
            });
        };
        let written = |disks: &BTreeMap<String, DiskPlan>| -> String {
            let disks = disks.values().filter(|_| uuid == DOMAIN);
            disks.map(|disk| disk.xml.as_str()).collect()
        };
        let running = state.running.then_some(&state.disks);
        let kind = match state.dialect {
            Dialect::Qemu => "kvm",
            Dialect::Xen => "xen",
        };
        let label = |model: &str, on: bool| match on {
            true => format!("<seclabel type='dynamic' model='{model}' relabel='yes'/>"),
            false => String::new(),
        };
        let labels = label("selinux", state.confined) + &label("apparmor", state.profiled);
        let read = |disks: &BTreeMap<String, DiskPlan>| {
            let disks = written(disks);
            Devices::read(&format!(
                "<domain type='{kind}'><name>{}</name><uuid>{uuid}</uuid>\
                 <os><type machine='pc-i440fx-7.2'>hvm</type></os><devices>{disks}</devices>{labels}</domain>",
                state.name
            ))
            .unwrap()
        };
        let live = running.map(read).unwrap_or_default();
        let config = read(&state.config);
        let domain = Domain {
            uuid,
            name: state.name.clone(),
        };
        Ok(DomainView {
            domain,
            dialect: state.dialect,
            id: state.running.then_some(3),
            paused: false,
            elsewhere: Vec::new(),
            device_model: true,
            running: state.running,
            persistent: true,
            ended: state.end.filter(|_| !state.running),
            profiles: false,
            live,
            config,
        })
    }

    async fn domains(&self) -> Result<Vec<Uuid>, HypervisorError> {
        self.pass("hypervisor.domains", Moment::Before).await?;
        let defined = self.world.state().defined;
        Ok(defined.then_some(DOMAIN).into_iter().collect())
    }

    async fn has_disk(&self, domain: Uuid, disk: &DiskPlan) -> Result<bool, HypervisorError> {
        self.pass("hypervisor.has_disk", Moment::Before).await?;
        let state = self.world.state();
        let there = state.disk(disk).or(state.configured(disk));
        Ok(state.defined && domain == DOMAIN && there.is_some())
    }

    async fn observe(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<ObservedDomain, HypervisorError> {
        self.pass("hypervisor.observe", Moment::Before).await?;
        let mut state = self.world.state();
        state.domains_asked.push((domain, disks.len()));
        let is_plugged = |disk: &DiskPlan| {
            let live = state.disk(disk).is_some() && !state.hollow.contains(&disk.alias);
            let config = state.configured(disk).is_some();
            let whole = match disk.scope {
                Scope::Live => live,
                Scope::Config => config,
                Scope::LiveAndConfig => config && (live || !state.running),
            };
            domain == OTHER_DOMAIN || state.defined && domain == DOMAIN && whole
        };
        let exists = domain == OTHER_DOMAIN || state.defined && domain == DOMAIN;
        Ok(ObservedDomain {
            name: exists.then(|| state.name.clone()),
            // As libvirt's view of the persistent configuration alone.
            running: exists && state.running && disks.iter().any(|disk| disk.scope.live()),
            end: state.end,
            plugged: disks.iter().map(is_plugged).collect(),
            io_stop: io_stop(&state, domain, disks),
        })
    }

    async fn plug(&self, _domain: Uuid, disk: &DiskPlan) -> Result<(), HypervisorError> {
        self.pass("hypervisor.plug", Moment::Before).await?;
        {
            let mut state = self.world.state();
            assert_eq!(disk.dialect, state.dialect, "a disk of another dialect");
            if let Some(reason) = state.plug_fails.take() {
                return Err(fail(reason));
            }
            let taken = state
                .disks
                .values()
                .any(|there| there.target == disk.target && there.alias != disk.alias);
            assert!(!taken, "two disks at one target: {}", disk.target);
            state.plugs += 1;
            let stored = state.stored;
            state.shown.insert(disk.alias.clone(), stored);
            if disk.scope.config() {
                let was = state.config.insert(disk.alias.clone(), disk.clone());
                assert!(was.is_none(), "configured twice: {}", disk.alias);
            }
            if disk.scope.live() {
                let opened = state.leads_to(&disk.source);
                state.opened.insert(disk.alias.clone(), opened);
                let was = state.disks.insert(disk.alias.clone(), disk.clone());
                assert!(was.is_none(), "plugged twice: {}", disk.alias);
            }
        }
        self.pass("hypervisor.plug", Moment::After).await
    }

    async fn request_unplug(
        &self,
        _domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<UnplugRequest, HypervisorError> {
        self.pass("hypervisor.request_unplug", Moment::Before)
            .await?;
        {
            let mut state = self.world.state();
            state.unplugs_asked += 1;
            if let Some(reason) = state.unplug_fails.take() {
                return Err(fail(reason));
            }
            if state.configured(disk).is_some() {
                state.config.remove(&disk.alias);
            }
            if state.guest == Guest::Obeys && state.disk(disk).is_some() {
                state.disks.remove(&disk.alias);
                state.hollow.remove(&disk.alias);
            }
        }
        self.pass("hypervisor.request_unplug", Moment::After)
            .await?;
        Ok(match self.world.state().guest {
            Guest::Busy => UnplugRequest::Busy,
            Guest::Obeys | Guest::Ignores | Guest::Refuses => UnplugRequest::Sent,
        })
    }

    async fn withdraw_unplug(
        &self,
        _domain: Uuid,
        _disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        self.pass("hypervisor.withdraw_unplug", Moment::Before)
            .await?;
        Ok(true)
    }

    async fn wait_unplugged(
        &self,
        _domain: Uuid,
        disk: &DiskPlan,
        deadline: Instant,
    ) -> Result<Unplug, HypervisorError> {
        self.pass("hypervisor.wait_unplugged", Moment::Before)
            .await?;
        let there = || self.world.state().disk(disk).is_some();
        let mut events = self.world.events.subscribe();
        if self.world.state().guest == Guest::Refuses && there() {
            return Ok(Unplug::Refused);
        }
        while there() {
            tokio::select! {
                _ = events.recv() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(Unplug::Pending),
            }
        }
        Ok(Unplug::Gone)
    }

    async fn size(&self, _domain: Uuid, disk: &DiskPlan) -> Result<Option<u64>, HypervisorError> {
        self.pass("hypervisor.size", Moment::Before).await?;
        Ok(self.shown(disk))
    }

    async fn resize(
        &self,
        _domain: Uuid,
        disk: &DiskPlan,
        bytes: u64,
    ) -> Result<Option<u64>, HypervisorError> {
        self.pass("hypervisor.resize", Moment::Before).await?;
        match self.shown(disk) {
            Some(shown)
                if shown < bytes
                    && disk.dialect == Dialect::Qemu
                    && disk.xml.contains("<readonly") =>
            {
                return Err(HypervisorError::ReadOnlyDisk {
                    domain: "web".into(),
                    target: disk.target.clone(),
                    shown,
                    bytes,
                });
            }
            Some(shown) if shown < bytes => {
                self.world.state().shown.insert(disk.alias.clone(), bytes);
            }
            _ => {}
        }
        self.pass("hypervisor.resize", Moment::After).await?;
        Ok(self.shown(disk))
    }

    async fn set_io_tune(
        &self,
        _domain: Uuid,
        disk: &DiskPlan,
        tune: &IoTune,
    ) -> Result<Option<()>, HypervisorError> {
        self.pass("hypervisor.set_io_tune", Moment::Before).await?;
        if disk.dialect == Dialect::Xen {
            return Err(HypervisorError::NoIoTune {
                domain: "web".into(),
                target: disk.target.clone(),
            });
        }
        let there = {
            let mut state = self.world.state();
            let live = state.running && state.disk(disk).is_some();
            let there = live || state.configured(disk).is_some();
            if there {
                state.iotune.insert(disk.alias.clone(), tune.clone());
            }
            there
        };
        self.pass("hypervisor.set_io_tune", Moment::After).await?;
        Ok(there.then_some(()))
    }

    async fn io_tune(
        &self,
        _domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<Option<IoTune>, HypervisorError> {
        self.pass("hypervisor.io_tune", Moment::Before).await?;
        let state = self.world.state();
        let live = state.running && state.disk(disk).is_some();
        let there = live || state.configured(disk).is_some();
        let tune = state.iotune.get(&disk.alias).cloned();
        Ok(there.then(|| tune.unwrap_or_default()))
    }

    async fn disk_io(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<Vec<Option<DiskIo>>, HypervisorError> {
        self.pass("hypervisor.disk_io", Moment::Before).await?;
        let state = self.world.state();
        let there = state.running && domain == DOMAIN;
        let io = |disk: &DiskPlan| {
            let io = state.io.get(&disk.alias).copied().unwrap_or_default();
            (there && state.disk(disk).is_some()).then_some(io)
        };
        Ok(disks.iter().map(io).collect())
    }

    async fn resume(&self, domain: Uuid, disks: &[DiskPlan]) -> Result<bool, HypervisorError> {
        self.pass("hypervisor.resume", Moment::Before).await?;
        let resumes = {
            let mut state = self.world.state();
            // The hypervisor itself knows.
            state.io_unreported = false;
            io_stop(&state, domain, disks).is_some_and(|stop| !stop.others)
        };
        if resumes {
            self.world.state().resumes += 1;
            self.world.resume();
        }
        self.pass("hypervisor.resume", Moment::After).await?;
        Ok(resumes)
    }

    fn events(&self) -> broadcast::Receiver<DomainEvent> {
        self.world.events.subscribe()
    }
}
