//! Taking a disk out: the guest is asked, and lets go or refuses in its own time.
//!
//! A refusal comes as an event, perhaps before anybody waits for it, so those of unplugs that this process asked for are kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;
use virt_sys as sys;

use super::client::{Libvirt, failed};
use super::error::{HypervisorError, LibvirtError};
use super::event::DomainEvent;
use super::pool::CallError;
use super::raw::{self, Event};
use super::{Unplug, UnplugRequest, size};
use crate::model::{Dialect, DiskPlan, DomainRef};

/// How often a wait looks for itself: events get lost when libvirtd restarts.
const LOOK: Duration = Duration::from_secs(1);
/// How often where there are no events: libvirt's libxl driver has none for devices.
const XEN_LOOK: Duration = Duration::from_millis(200);

/// Unplugs under way, by domain and alias, and whether each was refused.
#[derive(Debug, Default)]
pub(super) struct Unplugs(Mutex<HashMap<(Uuid, String), bool>>);

impl Unplugs {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Uuid, String), bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unplug is asked for now; what became of an earlier one counts no more.
    pub(super) fn ask(&self, domain: Uuid, alias: &str) {
        self.lock().insert((domain, alias.to_owned()), false);
    }

    /// Whether the unplug that was asked for last was refused.
    pub(super) fn is_refused(&self, domain: Uuid, alias: &str) -> bool {
        let asked = self.lock();
        asked.get(&(domain, alias.to_owned())).copied() == Some(true)
    }

    /// The unplug is done with.
    pub(super) fn forget(&self, domain: Uuid, alias: &str) {
        self.lock().remove(&(domain, alias.to_owned()));
    }

    /// Takes note of an event. Refusals of what this process did not ask for are not its business.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::Domain(DomainEvent::DiskGone { domain, alias }) => self.forget(*domain, alias),
            Event::RemovalFailed { domain, alias } => {
                if let Some(refused) = self.lock().get_mut(&(*domain, alias.clone())) {
                    *refused = true;
                }
            }
            Event::Domain(DomainEvent::Stopped { domain, .. }) => {
                self.lock().retain(|(of, _), _| of != domain);
            }
            Event::Domain(_) | Event::Added { .. } | Event::IoError { .. } => {}
        }
    }
}

impl Libvirt {
    /// [`super::Hypervisor::has_disk`].
    pub(super) async fn still_has(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
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

    /// [`super::Hypervisor::request_unplug`].
    pub(super) async fn ask_for(
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
            if asked.is_ok() || self.still_has(domain, disk).await? {
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

    /// [`super::Hypervisor::withdraw_unplug`].
    pub(super) async fn withdraw(
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

    /// [`super::Hypervisor::wait_unplugged`].
    pub(super) async fn wait_for(
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

    /// Whether the wait is over: the disk is gone, or was refused.
    async fn unplugged(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<Option<Unplug>, HypervisorError> {
        if !self.still_has(domain, disk).await? {
            self.unplugs.forget(domain, &disk.alias);
            return Ok(Some(Unplug::Gone));
        }
        let refused = self.unplugs.is_refused(domain, &disk.alias);
        Ok(refused.then_some(Unplug::Refused))
    }
}

/// Whether QEMU has been asked already and waits for the guest: two messages for one state, which last some seconds (`qmp_device_del` in
/// system/qdev-monitor.c; `pcie_cap_slot_unplug_request_cb` in hw/pci/pcie.c, while the power indicator blinks).
fn is_under_way(error: &LibvirtError) -> bool {
    ["already in the process of unplug", "guest is busy"]
        .iter()
        .any(|text| error.message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::DomainEnd;

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

    #[test]
    fn a_refusal_counts_until_it_is_asked_again() {
        let unplugs = Unplugs::default();
        let domain = Uuid::from_u128(1);
        let failed = |alias: &str| Event::RemovalFailed {
            domain,
            alias: alias.to_owned(),
        };
        unplugs.ask(domain, "ua-v");
        unplugs.note(&failed("ua-v"));
        unplugs.note(&failed("ua-other"));
        assert!(unplugs.is_refused(domain, "ua-v"));
        assert!(!unplugs.is_refused(domain, "ua-other"));
        assert!(!unplugs.is_refused(Uuid::nil(), "ua-v"));

        unplugs.ask(domain, "ua-v");
        assert!(!unplugs.is_refused(domain, "ua-v"));
        let end = DomainEnd::ShutOff;
        unplugs.note(&Event::Domain(DomainEvent::Stopped { domain, end }));
        assert!(unplugs.lock().is_empty());
    }
}
