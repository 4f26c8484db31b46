//! Plugging a disk in, and the proof that it is: an event, or the domain's XML.
//!
//! libvirt's QEMU driver reports DEVICE_ADDED once QEMU has the device (`qemuDomainAttachDeviceLive` in src/qemu/qemu_driver.c). The event is under
//! way before the call returns, so waiting for it takes a fraction of a look at the domain's XML, which libvirtd writes anew each time. It
//! counts only together with the call's success.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;
use virt_sys as sys;

use super::client::{Libvirt, failed};
use super::documents::shows;
use super::error::HypervisorError;
use super::profile;
use super::raw::Event;
use crate::model::{Dialect, DiskPlan, DomainRef, Reason, Scope};

/// How long the event may take after the call. Whoever has none by then, as when the connection that carries the events is lost, looks.
const WAIT: Duration = Duration::from_millis(100);

type Device = (Uuid, String);

/// Who waits for which device of which domain.
#[derive(Debug, Default)]
pub(super) struct Plugs(Mutex<HashMap<Device, oneshot::Sender<()>>>);

/// A plug under way; dropped, nobody waits for it any more.
pub(super) struct Plug<'a> {
    plugs: &'a Plugs,
    device: Device,
    reported: oneshot::Receiver<()>,
}

impl Plugs {
    fn lock(&self) -> MutexGuard<'_, HashMap<Device, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plug that begins.
    pub(super) fn begin(&self, domain: Uuid, alias: &str) -> Plug<'_> {
        let (reporter, reported) = oneshot::channel();
        let device = (domain, alias.to_owned());
        self.lock().insert(device.clone(), reporter);
        Plug {
            plugs: self,
            device,
            reported,
        }
    }

    /// Takes note of an event. Devices that nobody here plugged in are not its business.
    pub(super) fn note(&self, event: &Event) {
        if let Event::Added { domain, alias } = event
            && let Some(waiting) = self.lock().remove(&(*domain, alias.clone()))
        {
            let _ = waiting.send(()); // the plug may have been given up
        }
    }
}

impl Plug<'_> {
    /// Waits a little for libvirt to report the device; returns whether it did.
    pub(super) async fn wait(mut self) -> bool {
        timeout(WAIT, &mut self.reported).await == Ok(Ok(()))
    }
}

impl Drop for Plug<'_> {
    fn drop(&mut self) {
        self.plugs.lock().remove(&self.device);
    }
}

impl Libvirt {
    /// [`super::Hypervisor::plug`].
    pub(super) async fn plug_in(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<(), HypervisorError> {
        let (name, action) = (domain.to_string(), format!("plug disk {} in", disk.target));
        let (xml, flags) = (disk.xml.clone(), flags(disk.scope));
        let xen = self.xen_number(domain, disk).await?;
        if let Some(id) = xen {
            self.xen.make_room(domain, id, disk).await?;
        }
        // libvirt's libxl driver reports nothing, and nobody what comes into a persistent configuration.
        let is_reported = disk.dialect == Dialect::Qemu && disk.scope == Scope::Live;
        // Before the call: the event may come before it returns.
        let plug = self.plugs.begin(domain, &disk.alias);
        let planned = disk.clone();
        let call = self.pool.run(&name, move |connection| {
            let domain = connection.domain(domain)?;
            domain.attach_device_flags(&xml, flags)?;
            Ok(is_reported || shows(&domain, &planned)?)
        });
        let plugged = match call.await.map_err(|error| failed(&action, &name, error)) {
            Ok(_) if is_reported && !plug.wait().await => {
                self.look_for(domain, disk, &action).await
            }
            Ok(shown) => Ok(shown),
            Err(error) => Err(self.denied(domain, error).await),
        };
        match (plugged, xen) {
            (Ok(false), _) => Err(HypervisorError::NotShown {
                action,
                domain: name,
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

    /// Whether the XML shows a disk that libvirt says is plugged in, and that no event has reported.
    async fn look_for(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        action: &str,
    ) -> Result<bool, HypervisorError> {
        let (name, disk) = (domain.to_string(), disk.clone());
        let look = self.pool.run(&name, move |connection| {
            shows(&connection.domain(domain)?, &disk)
        });
        let looked = look.await;
        looked.map_err(|error| failed(action, &name, error))
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

    const DOMAIN: Uuid = Uuid::from_u128(1);

    fn added(domain: Uuid, alias: &str) -> Event {
        Event::Added {
            domain,
            alias: alias.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_is_reported_by_its_own_event_alone() {
        let plugs = Plugs::default();
        let (first, second) = (plugs.begin(DOMAIN, "ua-1"), plugs.begin(DOMAIN, "ua-2"));
        plugs.note(&added(Uuid::nil(), "ua-1"));
        plugs.note(&added(DOMAIN, "ua-2"));
        assert!(second.wait().await);
        assert!(!first.wait().await);
        assert!(plugs.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_nobody_waits_for_is_none_of_a_later_plug() {
        let plugs = Plugs::default();
        drop(plugs.begin(DOMAIN, "ua-1"));
        plugs.note(&added(DOMAIN, "ua-1"));
        assert!(!plugs.begin(DOMAIN, "ua-1").wait().await);
    }
}
