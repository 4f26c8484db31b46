//! One disk of one running domain: its device in xenstore, and taking that away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
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
use crate::sys::beneath::Failed;
use crate::sys::loop_device;

/// How long the two ends of a stale device may take to let go of each other.
const CLOSE: Duration = Duration::from_secs(5);
/// How long a look into xenstore may take.
const LOOK: Duration = Duration::from_secs(5);
/// How long a loop device may take to let go of its file, or to see its new size.
const LOOP: Duration = Duration::from_secs(10);

/// A running domain and a disk of it.
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

    /// The device at the disk's target, whose ever it is.
    pub(super) async fn occupant(&self) -> Result<Option<Vbd>, HypervisorError> {
        let found = look(async |store| Vbd::at(store, self.id, &self.disk.target).await);
        found
            .await
            .map_err(|source| self.store_failed("look at", source))
    }

    /// The disk's own device.
    pub(super) async fn vbd(&self) -> Result<Option<Vbd>, HypervisorError> {
        let occupant = self.occupant().await?;
        Ok(occupant.filter(|vbd| vbd.source == self.source))
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

    /// Takes back [`Self::close`], while the guest's end is still connected: the backend's end has not moved either, as only the guest
    /// follows the state that was written.
    pub(super) async fn reopen(&self, vbd: &Vbd) -> Result<(), HypervisorError> {
        let asked = async {
            let mut store = Store::open().await?;
            let connected = XenbusState::CONNECTED.number();
            store
                .write(&format!("{}/state", vbd.backend), &connected)
                .await?;
            store.write(&format!("{}/online", vbd.backend), "1").await
        };
        asked
            .await
            .map_err(|source| self.store_failed("keep", source))
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
            let before = Vbd::at(&mut store, self.id, &vbd.target).await?;
            let guests = before.is_some_and(|vbd| vbd.may_have_unwritten());
            close(&mut store, &vbd).await?;
            let deadline = Instant::now() + CLOSE;
            let closed = XenbusState::CLOSED.number();
            while let Some(now) = store.read(&state).await? {
                if now == closed || Instant::now() >= deadline {
                    break;
                }
                sleep(POLL).await;
            }
            // It may have connected in the meantime, and then only the guest may let go.
            let now = Vbd::at(&mut store, self.id, &vbd.target).await?;
            let kept =
                |now: Vbd| !now.is_let_go() && (guests || now.state == XenbusState::CONNECTED);
            if now.is_some_and(kept) {
                return Ok(false);
            }
            for node in [&vbd.frontend, &vbd.backend, &vbd.node] {
                if !node.is_empty() {
                    store.remove(node).await?;
                }
            }
            Ok(true)
        };
        let cleared = cleared
            .await
            .map_err(|source| self.store_failed("take away", source))?;
        if !cleared {
            return Err(self.not_cleared(
                "its guest has it, and was asked to let go: ask again when it has".to_owned(),
            ));
        }
        match &vbd.device {
            Some(device) => self.release(device, &vbd.source).await,
            None => Ok(()),
        }
    }

    /// Has a loop device let go of the file, if it has it.
    async fn release(&self, device: &Path, source: &Path) -> Result<(), HypervisorError> {
        if loop_device::backing_file(device).is_none_or(|file| file != source) {
            return Ok(());
        }
        let released = ask_loop(device, loop_device::release).await;
        released.map_err(|(step, errno)| {
            let device = device.display();
            self.not_cleared(format!(
                "{step} {device}: {errno}; `losetup -d {device}` does it by hand"
            ))
        })
    }

    fn not_cleared(&self, why: String) -> HypervisorError {
        HypervisorError::NotCleared {
            domain: self.domain.clone(),
            target: self.disk.target.clone(),
            why,
        }
    }
}

/// Looks into xenstore, within [`LOOK`].
pub(super) async fn look<T>(
    what: impl AsyncFnOnce(&mut Store) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let looked = async { what(&mut Store::open().await?).await };
    timeout(LOOK, looked)
        .await
        .unwrap_or(Err(StoreError::Silent))
}

/// Asks a loop device, off the runtime's threads: what lies behind it may be on a server that is dead.
pub(super) async fn ask_loop(
    device: &Path,
    ask: fn(&Path) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let device = device.to_owned();
    let asked = spawn_blocking(move || ask(&device));
    match timeout(LOOP, asked).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) | Err(_) => Err(("wait for the loop device", Errno::ETIMEDOUT)),
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
