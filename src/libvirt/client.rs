//! The hypervisor behind libvirt.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep_until};
use tracing::debug;
use uuid::Uuid;
use virt::domain::Domain as VirtDomain;
use virt::error::Error;
use virt_sys as sys;

use super::documents::{lookup, read_documents, shows};
use super::error::{HypervisorError, LibvirtError};
use super::event::{DomainEnd, DomainEvent, Ends, ObservedDomain};
use super::explain::explain;
use super::pool::{CallError, Pool};
use super::profile;
use super::raw::{self, Event};
use super::size::{self, Grown};
use super::stats::{self, DiskIo};
use super::unplugs::Unplugs;
use super::view::DomainView;
use super::xen::Xen;
use super::{Hypervisor, HypervisorLoad, Unplug, UnplugRequest};
use crate::config;
use crate::model::{Dialect, DiskPlan, DomainRef, Reason, Scope};

/// How often a wait looks for itself: events get lost when libvirtd restarts.
const LOOK: Duration = Duration::from_secs(1);
/// How often where there are no events: libvirt's libxl driver has none for devices.
const XEN_LOOK: Duration = Duration::from_millis(200);
/// Events kept for a slow receiver; one that is slower still is told so, and looks for itself.
const EVENTS: usize = 256;

/// The hypervisor behind libvirt.
pub struct Libvirt {
    pool: Pool,
    xen: Xen,
    unplugs: Arc<Unplugs>,
    ends: Arc<Ends>,
    events: broadcast::Sender<Event>,
    news: broadcast::Sender<DomainEvent>,
}

impl Libvirt {
    /// Connects as soon as it can, and again whenever the connection is lost; calls meanwhile fail. Must be called
    /// within a tokio runtime.
    #[must_use]
    pub fn new(settings: &config::Libvirt) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let (news, _) = broadcast::channel(EVENTS);
        let unplugs = Arc::new(Unplugs::default());
        let ends = Arc::new(Ends::default());
        let sink = {
            let (unplugs, ends) = (Arc::clone(&unplugs), Arc::clone(&ends));
            let (events, news) = (events.clone(), news.clone());
            Arc::new(move |event: Event| {
                debug!(?event, "libvirt event");
                unplugs.note(&event);
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
            unplugs,
            ends,
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
    async fn view(
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

    /// The number of the running Xen domain whose disk this is; `None` where QEMU runs it, or the scope is not about that.
    async fn xen_number(
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
    async fn on_domain<T: Send + 'static>(
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

    async fn detach(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        flag: u32,
        action: &str,
    ) -> Result<UnplugRequest, HypervisorError> {
        let disk = disk.clone();
        let result = self
            .pool
            .run(&domain.to_string(), move |connection| {
                let domain = connection.domain(domain)?;
                match disk.dialect {
                    Dialect::Qemu => raw::detach_alias(&domain, &disk.alias, flag),
                    // It knows no aliases, and waits some seconds for the guest.
                    Dialect::Xen => domain.detach_device_flags(&disk.xml, flag).map(drop),
                }
            })
            .await;
        match result {
            Ok(()) => Ok(UnplugRequest::Sent),
            Err(CallError::Libvirt(error)) if is_under_way(&error) => Ok(UnplugRequest::Busy),
            Err(error) => Err(failed(action, &domain.to_string(), error)),
        }
    }

    /// Whether the domain has the disk, where Xen runs it. What the guest has let go of, as it was asked to, is taken away
    /// here: whoever asked may be a process that is no more.
    async fn xen_has_disk(&self, domain: Uuid, disk: &DiskPlan) -> Result<bool, HypervisorError> {
        let look = || self.view(DomainRef::Uuid(domain), disk.scope);
        let mut view = look().await?;
        if let Some(there) = &view
            && let Some(id) = there.id
            && there.live.find(disk).is_some()
            && self.xen.is_let_go(domain, id, disk).await?
        {
            let action = format!("take disk {} away", disk.target);
            let taken = self
                .detach(domain, disk, sys::VIR_DOMAIN_AFFECT_LIVE, &action)
                .await;
            view = look().await?;
            // Somebody else may have taken it away.
            if view.as_ref().is_some_and(|view| view.has(disk)) {
                taken?;
            }
        }
        match &view {
            Some(view) if view.has(disk) => Ok(true),
            // xenstore has a disk by target and source alone, which two attachments of a volume may have in turn.
            Some(view) if view.live.has_another_at(disk) => Ok(false),
            _ => {
                let id = view.and_then(|view| view.id);
                self.xen.has(domain, id, disk).await
            }
        }
    }

    /// Waits until libvirt is done with the removal of a disk that its XML shows no more. It takes the disk out of the XML first, then has QEMU
    /// close the image, and gives the image its owner and label back last: a device that goes meanwhile leaves its node in the domain's own
    /// /dev with an owner on record, and libvirt refuses the next device of that name (`qemuDomainRemoveDiskDevice` in src/qemu/qemu_hotplug.c,
    /// `virSecurityDACSetOwnership` in src/security/security_dac.c). All that is one job of the domain, behind which this call waits.
    async fn until_removed(&self, domain: Uuid, disk: &DiskPlan) -> Result<(), HypervisorError> {
        let target = disk.target.clone();
        let action = format!("see the removal of disk {} to its end", disk.target);
        let waited = self
            .on_domain(domain, &action, move |domain| {
                size::wait_for_jobs(domain, &target).map(Some)
            })
            .await;
        waited.map(drop)
    }

    /// The error, with a word on AppArmor where a QEMU that it confines could not open the volume.
    async fn denied(&self, domain: Uuid, error: HypervisorError) -> HypervisorError {
        let HypervisorError::Failed { reason, .. } = &error else {
            return error;
        };
        if *reason != Reason::VolumeUnreadable {
            return error;
        }
        let view = self.view(DomainRef::Uuid(domain), Scope::Live).await;
        match view {
            Ok(Some(view)) => profile::explain(&view, error),
            _ => error,
        }
    }

    /// Whether the wait is over: the disk is gone, or was refused.
    async fn unplugged(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<Option<Unplug>, HypervisorError> {
        if !self.has_disk(domain, disk).await? {
            self.unplugs.forget(domain, &disk.alias);
            return Ok(Some(Unplug::Gone));
        }
        let refused = self.unplugs.is_refused(domain, &disk.alias);
        Ok(refused.then_some(Unplug::Refused))
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
        })
    }

    async fn has_disk(&self, domain: Uuid, disk: &DiskPlan) -> Result<bool, HypervisorError> {
        match disk.dialect {
            Dialect::Qemu => {
                let view = self.view(DomainRef::Uuid(domain), disk.scope).await?;
                match view {
                    Some(view) if view.has(disk) => Ok(true),
                    Some(view) if view.running && disk.scope.live() => {
                        self.until_removed(domain, disk).await.map(|()| false)
                    }
                    _ => Ok(false),
                }
            }
            Dialect::Xen => self.xen_has_disk(domain, disk).await,
        }
    }

    async fn plug(&self, domain: Uuid, disk: &DiskPlan) -> Result<(), HypervisorError> {
        let action = format!("plug disk {} in", disk.target);
        let (xml, flags) = (disk.xml.clone(), flags(disk.scope));
        let planned = disk.clone();
        let xen = self.xen_number(domain, disk).await?;
        if let Some(id) = xen {
            self.xen.make_room(domain, id, disk).await?;
        }
        let plugged = self
            .pool
            .run(&domain.to_string(), move |connection| {
                let domain = connection.domain(domain)?;
                domain.attach_device_flags(&xml, flags)?;
                shows(&domain, &planned)
            })
            .await
            .map_err(|error| failed(&action, &domain.to_string(), error));
        let plugged = match plugged {
            Err(error) => Err(self.denied(domain, error).await),
            plugged => plugged,
        };
        match (plugged, xen) {
            (Ok(false), _) => Err(HypervisorError::NotShown {
                action,
                domain: domain.to_string(),
            }),
            (Ok(true), Some(id)) => self.xen.connected(domain, id, disk).await,
            (Ok(true), None) => Ok(()),
            // libvirt does not know why.
            (
                Err(HypervisorError::Failed {
                    reason: Reason::HypervisorError,
                    source,
                    ..
                }),
                Some(id),
            ) if source.code == sys::VIR_ERR_INTERNAL_ERROR => {
                Err(self.xen.failed(domain, id, disk, source).await)
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn request_unplug(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<UnplugRequest, HypervisorError> {
        let view = self.view(DomainRef::Uuid(domain), disk.scope).await?;
        let Some(view) = view else {
            return Ok(UnplugRequest::Sent);
        };
        let action = format!("unplug disk {}", disk.target);
        if disk.scope.config() && view.config.find(disk).is_some() {
            let action = format!(
                "remove disk {} from the persistent configuration",
                disk.target
            );
            self.detach(domain, disk, sys::VIR_DOMAIN_AFFECT_CONFIG, &action)
                .await?;
        }
        let xen = view.id.filter(|_| disk.dialect == Dialect::Xen);
        if disk.scope.live() && view.live.find(disk).is_some() {
            if let Some(id) = xen
                && self.xen.ask(domain, id, disk).await?
            {
                return Ok(UnplugRequest::Sent);
            }
            // Before it is asked: the refusal may come first.
            self.unplugs.ask(domain, &disk.alias);
            let asked = self
                .detach(domain, disk, sys::VIR_DOMAIN_AFFECT_LIVE, &action)
                .await;
            // The disk may have gone, or the domain stopped, since the look.
            if asked.is_ok() || self.has_disk(domain, disk).await? {
                return asked;
            }
        } else if disk.scope.live()
            && !view.live.has_another_at(disk)
            && let Some(id) = xen
        {
            self.xen.remove(domain, id, disk).await?;
        }
        Ok(UnplugRequest::Sent)
    }

    async fn withdraw_unplug(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        // A refusal that comes now is nobody's answer.
        self.unplugs.forget(domain, &disk.alias);
        match self.xen_number(domain, disk).await? {
            Some(id) => self.xen.withdraw(domain, id, disk).await,
            None => Ok(true),
        }
    }

    async fn wait_unplugged(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        deadline: Instant,
    ) -> Result<Unplug, HypervisorError> {
        // Before the first look: an event between the look and the wait must not be missed.
        let mut events = self.events.subscribe();
        loop {
            let looked = self.unplugged(domain, disk).await;
            if let Ok(Some(outcome)) = looked {
                return Ok(outcome);
            }
            let now = Instant::now();
            if now >= deadline {
                // libvirt may come back within the deadline, so only now is its absence an error.
                return looked.map(|_| Unplug::Pending);
            }
            let look = match disk.dialect {
                Dialect::Qemu => LOOK,
                Dialect::Xen => XEN_LOOK,
            };
            let next_look = sleep_until(deadline.min(now + look));
            tokio::pin!(next_look);
            loop {
                tokio::select! {
                    () = &mut next_look => break,
                    event = events.recv() => match event {
                        Ok(event) if event.concerns(domain, &disk.alias) => break,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => { next_look.as_mut().await; break }
                    },
                }
            }
        }
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

    fn events(&self) -> broadcast::Receiver<DomainEvent> {
        self.news.subscribe()
    }
}

fn failed(action: &str, domain: &str, error: CallError) -> HypervisorError {
    match error {
        CallError::Unavailable(error) => error,
        CallError::Libvirt(error) => explain(action, domain, error),
    }
}

/// Whether QEMU has been asked already and waits for the guest: two messages for one state, which last some seconds (`qmp_device_del` in
/// system/qdev-monitor.c; `pcie_cap_slot_unplug_request_cb` in hw/pci/pcie.c, while the power indicator blinks).
fn is_under_way(error: &LibvirtError) -> bool {
    ["already in the process of unplug", "guest is busy"]
        .iter()
        .any(|text| error.message.contains(text))
}

fn flags(scope: Scope) -> u32 {
    let live = if scope.live() {
        sys::VIR_DOMAIN_AFFECT_LIVE
    } else {
        0
    };
    let config = if scope.config() {
        sys::VIR_DOMAIN_AFFECT_CONFIG
    } else {
        0
    };
    live | config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of QEMU 7.2 through libvirt 9.0.
    #[test]
    fn a_busy_guest_is_one_that_was_asked_already() {
        let says = |message: &str| LibvirtError {
            code: sys::VIR_ERR_INTERNAL_ERROR,
            message: format!(
                "internal error: unable to execute QEMU command 'device_del': {message}"
            ),
        };
        for message in [
            "Device virtio-disk1 is already in the process of unplug",
            "Hot-unplug failed: guest is busy (power indicator blinking)",
        ] {
            assert!(is_under_way(&says(message)), "{message}");
        }
        assert!(!is_under_way(&says("Device 'virtio-disk1' not found")));
    }
}
