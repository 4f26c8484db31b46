//! One disk of one running domain: its device in xenstore, and taking that away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;
use uuid::Uuid;

use super::POLL;
use super::store::{Store, StoreError};
use super::vbd::{Vbd, XenbusState};
use crate::libvirt::error::{HypervisorError, LibvirtError};
use crate::libvirt::explain::explain_hotplug;
use crate::libvirt::view::DiskView;
use crate::libvirt::xml::Element;
use crate::model::{Dialect, DiskPlan};
use crate::sys::loop_device;

/// How long the two ends of a stale device may take to let go of each other.
const CLOSE: Duration = Duration::from_secs(5);

/// A running domain and a disk of it, for messages.
pub(super) struct Place<'a> {
    pub(super) domain: String,
    id: u32,
    disk: &'a DiskPlan,
    /// The volume on this host.
    pub(super) source: PathBuf,
}

impl<'a> Place<'a> {
    pub(super) fn new(domain: Uuid, id: u32, disk: &'a DiskPlan) -> Self {
        let source = Element::read(&disk.xml)
            .ok()
            .and_then(|xml| DiskView::of(&xml, Dialect::Xen).source);
        Self {
            domain: domain.to_string(),
            id,
            disk,
            source: source.unwrap_or_default(),
        }
    }

    /// The disk's device, whoever made it.
    pub(super) async fn vbd(&self) -> Result<Option<Vbd>, HypervisorError> {
        let found = async {
            let mut store = Store::open().await?;
            Vbd::at(&mut store, self.id, &self.disk.target).await
        };
        found
            .await
            .map_err(|source| self.store_failed("look at", source))
    }

    pub(super) fn store_failed(&self, verb: &str, source: StoreError) -> HypervisorError {
        HypervisorError::Xenstore {
            action: format!(
                "{verb} disk {} of domain {} in xenstore",
                self.disk.target, self.domain
            ),
            source,
        }
    }

    pub(super) fn not_connected(
        &self,
        why: String,
        device: Option<&Vbd>,
        source: Option<LibvirtError>,
    ) -> HypervisorError {
        let error = device.and_then(|vbd| vbd.error.as_deref());
        let (reason, hint) = explain_hotplug(error.unwrap_or_default());
        HypervisorError::NotConnected {
            place: format!("{} into domain {}", self.disk.target, self.domain),
            why: match error {
                Some(error) => format!("{why}: {error:?}"),
                None => why,
            },
            reason,
            hint,
            source,
        }
    }

    /// Asks the guest to let go of the disk.
    pub(super) async fn close(&self, vbd: &Vbd) -> Result<(), HypervisorError> {
        let asked = async { close(&mut Store::open().await?, vbd).await };
        asked
            .await
            .map_err(|source| self.store_failed("unplug", source))
    }

    /// Has both ends let go, as a toolstack does (libxl's `libxl__initiate_device_generic_remove` and
    /// `libxl__device_destroy`), removes the device's nodes, and the loop device that its hot-plug script made.
    pub(super) async fn clear(&self, vbd: Vbd) -> Result<(), HypervisorError> {
        info!(
            target = vbd.target,
            state = %vbd.state,
            error = vbd.error,
            "taking away a disk that libvirt does not know"
        );
        let cleared = async {
            let mut store = Store::open().await?;
            let state = format!("{}/state", vbd.backend);
            close(&mut store, &vbd).await?;
            let deadline = Instant::now() + CLOSE;
            let closed = XenbusState::CLOSED.number();
            while let Some(now) = store.read(&state).await? {
                if now == closed || Instant::now() >= deadline {
                    break;
                }
                sleep(POLL).await;
            }
            for node in [&vbd.frontend, &vbd.backend, &vbd.node] {
                if !node.is_empty() {
                    store.remove(node).await?;
                }
            }
            Ok(())
        };
        cleared
            .await
            .map_err(|source| self.store_failed("take away", source))?;
        match &vbd.device {
            Some(device) => self.release(device, &vbd.source),
            None => Ok(()),
        }
    }

    /// Has a loop device let go of the file, if it has it.
    fn release(&self, device: &Path, source: &Path) -> Result<(), HypervisorError> {
        if loop_device::backing_file(device).is_none_or(|file| file != source) {
            return Ok(());
        }
        loop_device::release(device).map_err(|(step, errno)| HypervisorError::NotCleared {
            domain: self.domain.clone(),
            target: self.disk.target.clone(),
            why: format!(
                "{step} {}: {errno}; `losetup -d {}` does it by hand",
                device.display(),
                device.display()
            ),
        })
    }
}

/// Asks both ends to let go of each other.
async fn close(store: &mut Store, vbd: &Vbd) -> Result<(), StoreError> {
    let state = format!("{}/state", vbd.backend);
    let closed = XenbusState::CLOSED.number();
    if store.read(&state).await?.is_none_or(|now| now == closed) {
        return Ok(());
    }
    store.write(&format!("{}/online", vbd.backend), "0").await?;
    store.write(&state, &XenbusState::CLOSING.number()).await
}
