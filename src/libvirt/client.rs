//! The hypervisor behind libvirt.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tracing::debug;
use uuid::Uuid;
use virt::domain::Domain as VirtDomain;
use virt::error::Error;
use virt_sys as sys;

use super::documents::{lookup, read_documents};
use super::error::HypervisorError;
use super::event::{DomainEnd, DomainEvent, Ends, IoStop, ObservedDomain};
use super::explain::explain;
use super::iostop::{self, FailedDisks, Resumed};
use super::iotune;
use super::plug::Plugs;
use super::pool::{CallError, Pool};
use super::raw::Event;
use super::size::{self, Grown};
use super::stats;
use super::unplug::Unplugs;
use super::view::DomainView;
use super::xen::Xen;
use super::{Hypervisor, HypervisorLoad, Unplug, UnplugRequest};
use crate::config;
use crate::model::{Dialect, DiskIo, DiskPlan, DomainRef, IoTune, Scope};

/// Events kept for a slow receiver; one that is slower still is told so, and looks for itself.
const EVENTS: usize = 256;

/// The hypervisor behind libvirt.
pub struct Libvirt {
    pub(super) pool: Pool,
    pub(super) xen: Xen,
    pub(super) plugs: Arc<Plugs>,
    pub(super) unplugs: Arc<Unplugs>,
    ends: Arc<Ends>,
    failed: Arc<FailedDisks>,
    pub(super) events: broadcast::Sender<Event>,
    news: broadcast::Sender<DomainEvent>,
}

impl Libvirt {
    /// Connects as soon as it can, and again whenever the connection is lost; calls meanwhile fail. Must be called
    /// within a tokio runtime.
    #[must_use]
    pub fn new(settings: &config::Libvirt) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let (news, _) = broadcast::channel(EVENTS);
        let (plugs, unplugs) = (Arc::new(Plugs::default()), Arc::new(Unplugs::default()));
        let ends = Arc::new(Ends::default());
        let failed = Arc::new(FailedDisks::default());
        let sink = {
            let (plugs, unplugs) = (Arc::clone(&plugs), Arc::clone(&unplugs));
            let (ends, failed) = (Arc::clone(&ends), Arc::clone(&failed));
            let (events, news) = (events.clone(), news.clone());
            Arc::new(move |event: Event| {
                debug!(?event, "libvirt event");
                if let Event::Added { .. } = event {
                    return plugs.note(&event);
                }
                unplugs.note(&event);
                failed.note(&event);
                if let Event::Domain(event) = &event {
                    // Before anybody looks because of the event.
                    ends.note(event);
                    let _ = news.send(event.clone()); // nobody listening is fine
                }
                let _ = events.send(event);
            })
        };
        Self {
            pool: Pool::new(settings, sink),
            xen: Xen::new(news.clone()),
            plugs,
            unplugs,
            ends,
            failed,
            events,
            news,
        }
    }

    /// Gives the calls that begin from now on so long.
    pub fn set_call_timeout(&self, timeout: Duration) {
        self.pool.set_call_timeout(timeout);
    }

    /// The domain's devices in each configuration of the scope; `None` where there is no such domain. Of a running Xen domain
    /// with the disks that libvirt does not know.
    pub(super) async fn view(
        &self,
        name: DomainRef,
        scope: Scope,
    ) -> Result<Option<DomainView>, HypervisorError> {
        let label = name.to_string();
        let result = self
            .pool
            .run(&label, move |connection| {
                read_documents(connection, &name, scope)
            })
            .await;
        let mut view = match result {
            Ok(documents) => documents.view()?,
            Err(CallError::Libvirt(error)) if error.code == sys::VIR_ERR_NO_DOMAIN => {
                return Ok(None);
            }
            Err(error) => return Err(failed("look at the disks", &label, error)),
        };
        if view.dialect == Dialect::Xen {
            self.xen.complete(&mut view).await?;
        }
        Ok(Some(view))
    }

    /// The failed disks of a domain that QEMU paused for that.
    async fn io_stop(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<Option<IoStop>, HypervisorError> {
        let state = self.on_domain(domain, "ask for the state", |domain| {
            iostop::is_stopped(domain).map(Some)
        });
        let is_stopped = state.await? == Some(true);
        Ok(is_stopped.then(|| self.failed.of(domain, disks)))
    }

    /// The number of the running Xen domain whose disk this is; `None` where QEMU runs it, or the scope is not about that.
    pub(super) async fn xen_number(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<Option<u32>, HypervisorError> {
        match disk.dialect {
            Dialect::Xen if disk.scope.live() => {
                self.on_domain(domain, "look at", |domain| Ok(domain.id()))
                    .await
            }
            _ => Ok(None),
        }
    }

    /// Runs a call on the domain; `None` where there is no such domain.
    pub(super) async fn on_domain<T: Send + 'static>(
        &self,
        domain: Uuid,
        action: &str,
        call: impl FnOnce(&VirtDomain) -> Result<Option<T>, Error> + Send + 'static,
    ) -> Result<Option<T>, HypervisorError> {
        let name = domain.to_string();
        let result = self
            .pool
            .run(&name, move |connection| call(&lookup(connection, domain)?))
            .await;
        match result {
            Ok(found) => Ok(found),
            Err(CallError::Libvirt(error)) if error.code == sys::VIR_ERR_NO_DOMAIN => Ok(None),
            Err(error) => Err(failed(action, &name, error)),
        }
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    fn dialect(&self) -> Dialect {
        self.pool.dialect()
    }

    fn load(&self) -> HypervisorLoad {
        self.pool.load()
    }

    async fn domain(&self, name: &DomainRef, scope: Scope) -> Result<DomainView, HypervisorError> {
        let view = self.view(name.clone(), scope).await?;
        let mut view = view.ok_or_else(|| HypervisorError::DomainNotFound {
            domain: name.to_string(),
        })?;
        if view.dialect == Dialect::Xen {
            self.xen.add_others(&mut view).await?;
        }
        Ok(view)
    }

    async fn domains(&self) -> Result<Vec<Uuid>, HypervisorError> {
        let all = "every domain";
        let listed = self.pool.run(all, |connection| {
            let domains = connection.connect().list_all_domains(0)?;
            domains.iter().map(VirtDomain::uuid).collect()
        });
        listed
            .await
            .map_err(|error| failed("list the domains", all, error))
    }

    async fn observe(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<ObservedDomain, HypervisorError> {
        // Before the look: an end that comes meanwhile is not explained away by what the look found.
        let earlier_end = self.ends.of(domain);
        let any = |part: fn(Scope) -> bool| disks.iter().any(|disk| part(disk.scope));
        let scope = match (any(Scope::live), any(Scope::config)) {
            (true, true) => Scope::LiveAndConfig,
            (true, false) => Scope::Live,
            (false, _) => Scope::Config,
        };
        let view = self.view(DomainRef::Uuid(domain), scope).await?;
        let mut plugged = Vec::with_capacity(disks.len());
        for disk in disks {
            let shown = view.as_ref().filter(|view| view.shows(disk));
            plugged.push(match shown.map(|view| view.id) {
                Some(Some(id)) if disk.dialect == Dialect::Xen && disk.scope.live() => {
                    self.xen.is_connected(domain, id, disk).await?
                }
                shown => shown.is_some(),
            });
        }
        let running = view.as_ref().is_some_and(|view| view.running);
        // Whether it runs is not known where no disk is of the running domain alone.
        let is_qemu = |view: &DomainView| view.dialect == Dialect::Qemu;
        let io_stop = match view.as_ref().is_some_and(is_qemu) {
            true => self.io_stop(domain, disks).await?,
            false => None,
        };
        if let Some(end) = earlier_end
            && running
            && plugged.iter().all(|is_plugged| *is_plugged)
        {
            self.ends.forget(end);
        }
        let kept = view.as_ref().and_then(|view| view.ended);
        let last = self.ends.of(domain).map(|last| last.end);
        // A persistent configuration that exists outlives every other end.
        let explains =
            |end: &DomainEnd| scope.live() || view.is_none() || *end == DomainEnd::Undefined;
        Ok(ObservedDomain {
            end: kept.or(last).filter(explains),
            name: view.map(|view| view.domain.name),
            running,
            plugged,
            io_stop,
        })
    }

    async fn has_disk(&self, domain: Uuid, disk: &DiskPlan) -> Result<bool, HypervisorError> {
        self.still_has(domain, disk).await
    }

    async fn plug(&self, domain: Uuid, disk: &DiskPlan) -> Result<(), HypervisorError> {
        self.plug_in(domain, disk).await
    }

    async fn request_unplug(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<UnplugRequest, HypervisorError> {
        self.ask_for(domain, disk).await
    }

    async fn withdraw_unplug(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        self.withdraw(domain, disk).await
    }

    async fn wait_unplugged(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        deadline: Instant,
    ) -> Result<Unplug, HypervisorError> {
        self.wait_for(domain, disk, deadline).await
    }

    async fn size(&self, domain: Uuid, disk: &DiskPlan) -> Result<Option<u64>, HypervisorError> {
        if let Some(id) = self.xen_number(domain, disk).await? {
            return self.xen.size(domain, id, disk).await;
        }
        let disk = disk.clone();
        self.on_domain(domain, "ask for a disk's size", move |domain| {
            size::shown(domain, &disk)
        })
        .await
    }

    async fn resize(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        bytes: u64,
    ) -> Result<Option<u64>, HypervisorError> {
        if let Some(id) = self.xen_number(domain, disk).await? {
            return self.xen.grow(domain, id, disk, bytes).await;
        }
        let action = format!("grow disk {}", disk.target);
        let planned = disk.clone();
        let grown = self
            .on_domain(domain, &action, move |domain| {
                size::grow(domain, &planned, bytes)
            })
            .await?;
        let (domain, target) = (domain.to_string(), disk.target.clone());
        match grown {
            None => Ok(None),
            Some(Grown::To(shown)) if shown >= bytes => Ok(Some(shown)),
            Some(Grown::To(shown)) => Err(HypervisorError::NotResized {
                domain,
                target,
                shown,
                bytes,
            }),
            Some(Grown::ReadOnly(shown)) => Err(HypervisorError::ReadOnlyDisk {
                domain,
                target,
                shown,
                bytes,
            }),
        }
    }

    async fn set_io_tune(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        tune: &IoTune,
    ) -> Result<Option<()>, HypervisorError> {
        if disk.dialect == Dialect::Xen {
            return Err(HypervisorError::NoIoTune {
                domain: domain.to_string(),
                target: disk.target.clone(),
            });
        }
        let action = format!("limit the I/O of disk {}", disk.target);
        let (disk, tune) = (disk.clone(), tune.clone());
        self.on_domain(domain, &action, move |domain| {
            iotune::set(domain, &disk, &tune)
        })
        .await
    }

    async fn io_tune(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<Option<IoTune>, HypervisorError> {
        if disk.dialect == Dialect::Xen {
            return Ok(Some(IoTune::default()));
        }
        let action = format!("read the limits of disk {}", disk.target);
        let disk = disk.clone();
        self.on_domain(domain, &action, move |domain| iotune::read(domain, &disk))
            .await
    }

    async fn disk_io(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<Vec<Option<DiskIo>>, HypervisorError> {
        let asked = disks.to_vec();
        let read = self
            .on_domain(domain, "read the counters of the disks", move |domain| {
                stats::read(domain, &asked).map(Some)
            })
            .await?;
        Ok(read.unwrap_or_else(|| vec![None; disks.len()]))
    }

    async fn resume(&self, domain: Uuid, disks: &[DiskPlan]) -> Result<bool, HypervisorError> {
        let asked = disks.to_vec();
        let resumed = self
            .on_domain(domain, "resume the guest", move |domain| {
                iostop::resume(domain, &asked).map(Some)
            })
            .await?;
        Ok(match resumed {
            Some(Resumed::Runs) => true,
            Some(Resumed::FailedDisks(aliases)) => {
                self.failed.learn(domain, aliases);
                false
            }
            Some(Resumed::NotStopped) | None => false,
        })
    }

    fn events(&self) -> broadcast::Receiver<DomainEvent> {
        self.news.subscribe()
    }
}

/// The failure of a call.
pub(super) fn failed(action: &str, domain: &str, error: CallError) -> HypervisorError {
    match error {
        CallError::Unavailable(error) => error,
        CallError::Libvirt(error) => explain(action, domain, error),
    }
}
