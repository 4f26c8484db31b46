//! Domains that Xen runs: what differs from QEMU's in the disk's XML, in whether a disk really arrived, and in what a failed
//! attach leaves.
//!
//! Invariants: libvirt's success is believed only when the backend in xenstore is connected to the guest's frontend; a
//! backend that nobody goes on with is taken away, for it keeps every later disk from its target; a disk that a guest may have
//! unwritten data for is never taken from it by force, as libvirt's own detach does after ten seconds; a disk is not gone
//! while its backend is there, nor while the loop device that the hot-plug script made has its file.

mod disk;
mod store;
mod vbd;

pub(super) use disk::{check_unused, is_same_place, write};
pub use store::StoreError;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use uuid::Uuid;

use self::store::Store;
use self::vbd::{SECTOR, Vbd, XenbusState};
use super::error::{HypervisorError, LibvirtError};
use super::explain::explain_hotplug;
use super::view::{DiskView, DomainView};
use super::xml::Element;
use crate::model::{Dialect, DiskPlan, Reason};
use crate::sys::loop_device;

/// How long the guest's frontend may take to connect to its new disk.
const CONNECT: Duration = Duration::from_secs(30);
/// How long the two ends of a stale device may take to let go of each other.
const CLOSE: Duration = Duration::from_secs(5);
/// How long a toolstack may be at an attach of which we have no answer: it gives its hot-plug script 40 s
/// (`LIBXL_HOTPLUG_TIMEOUT`).
const SETTLE: Duration = Duration::from_secs(45);
/// How long a grown disk's new size may take to be seen: the backend looks at least each second.
const GROW: Duration = Duration::from_secs(10);
/// How often xenstore is looked at in a wait.
const POLL: Duration = Duration::from_millis(50);

/// What Xen's toolstack knows and libvirt does not.
#[derive(Debug, Default)]
pub(super) struct Xen {
    /// The devices by which dom0 serves disks that are being unplugged, by domain and alias.
    leaving: Mutex<HashMap<(Uuid, String), PathBuf>>,
}

/// A running domain and a disk of it, for messages.
struct Place<'a> {
    domain: String,
    id: u32,
    disk: &'a DiskPlan,
    source: PathBuf,
}

impl<'a> Place<'a> {
    fn new(domain: Uuid, id: u32, disk: &'a DiskPlan) -> Self {
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
    async fn vbd(&self) -> Result<Option<Vbd>, HypervisorError> {
        let found = async {
            let mut store = Store::open().await?;
            Vbd::at(&mut store, self.id, &self.disk.target).await
        };
        found
            .await
            .map_err(|source| self.store_failed("look at", source))
    }

    fn store_failed(&self, verb: &str, source: StoreError) -> HypervisorError {
        HypervisorError::Xenstore {
            action: format!(
                "{verb} disk {} of domain {} in xenstore",
                self.disk.target, self.domain
            ),
            source,
        }
    }

    fn not_connected(
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
}

impl Xen {
    fn leaving(&self) -> MutexGuard<'_, HashMap<(Uuid, String), PathBuf>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what libvirt shows of a running domain: its device model, and disks that others have given it.
    pub(super) async fn complete(&self, view: &mut DomainView) -> Result<(), HypervisorError> {
        let Some(id) = view.id else { return Ok(()) };
        let looked = async {
            let mut store = Store::open().await?;
            let state = format!("/local/domain/0/device-model/{id}/state");
            let state = store.read(&state).await?;
            let disks = Vbd::all(&mut store, id).await?;
            Ok((state.is_some_and(|state| state == "running"), disks))
        };
        let (device_model, disks) = looked.await.map_err(|source| HypervisorError::Xenstore {
            action: format!("look at domain {} in xenstore", view.domain),
            source,
        })?;
        view.device_model = device_model;
        let known = |target: &str| view.live.disks.iter().any(|disk| disk.target == target);
        let unknown: Vec<_> = disks
            .into_iter()
            .filter(|vbd| !vbd.is_stale() && !known(&vbd.target))
            .map(Vbd::disk)
            .collect();
        view.live.disks.extend(unknown);
        Ok(())
    }

    /// Takes away what a failed attach has left at the disk's target.
    pub(super) async fn make_room(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<(), HypervisorError> {
        let place = Place::new(domain, id, disk);
        match place.vbd().await? {
            Some(vbd) if vbd.is_stale() => self.clear(&place, vbd).await,
            _ => Ok(()),
        }
    }

    /// Why libvirt failed to plug the disk in, in the hot-plug script's words where it has left any; what it left is taken away.
    pub(super) async fn failed(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
        source: LibvirtError,
    ) -> HypervisorError {
        let place = Place::new(domain, id, disk);
        let left = match place.vbd().await {
            Ok(left) => left.filter(|vbd| vbd.is_of(&place.source)),
            Err(error) => return error,
        };
        let error =
            place.not_connected("Xen's toolstack failed".into(), left.as_ref(), Some(source));
        if let Some(vbd) = left
            && let Err(error) = self.clear(&place, vbd).await
        {
            warn!(error = &error as &dyn std::error::Error, "left over");
        }
        error
    }

    /// Waits until the guest is connected to the disk.
    pub(super) async fn connected(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<(), HypervisorError> {
        let place = Place::new(domain, id, disk);
        let deadline = Instant::now() + CONNECT;
        loop {
            let vbd = place.vbd().await?;
            match &vbd {
                Some(vbd) if vbd.state == XenbusState::CONNECTED => return Ok(()),
                Some(vbd) if !vbd.is_stale() && Instant::now() < deadline => sleep(POLL).await,
                Some(failed) => {
                    let why = format!(
                        "libvirt reported success, but the disk's backend is {} after {} s at most",
                        failed.state,
                        CONNECT.as_secs()
                    );
                    return Err(place.not_connected(why, vbd.as_ref(), None));
                }
                None => {
                    let why = "libvirt reported success, but Xen has no such disk".to_owned();
                    return Err(place.not_connected(why, None, None));
                }
            }
        }
    }

    /// Whether Xen still has the disk that libvirt does not show, or dom0 its file. What the guest has let go of is taken away.
    pub(super) async fn has(
        &self,
        domain: Uuid,
        id: Option<u32>,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        let place = Place::new(domain, id.unwrap_or_default(), disk);
        if id.is_some()
            && let Some(vbd) = place.vbd().await?.filter(|vbd| vbd.is_of(&place.source))
        {
            if !vbd.is_let_go() {
                return Ok(true);
            }
            self.clear(&place, vbd).await?;
        }
        let key = (domain, disk.alias.clone());
        let Some(device) = self.leaving().get(&key).cloned() else {
            return Ok(false);
        };
        let has_file = loop_device::backing_file(&device).is_some_and(|file| file == place.source);
        if !has_file {
            self.leaving().remove(&key);
        }
        Ok(has_file)
    }

    /// Asks the guest to let go of the disk, as libxl does before it loses patience. `false`: there is nobody to ask, and
    /// the toolstack may take it away.
    pub(super) async fn ask(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        let place = Place::new(domain, id, disk);
        let Some(vbd) = place.vbd().await?.filter(|vbd| vbd.is_of(&place.source)) else {
            return Ok(false);
        };
        if let Some(device) = &vbd.device
            && loop_device::backing_file(device).is_some()
        {
            let key = (domain, disk.alias.clone());
            self.leaving().insert(key, device.clone());
        }
        if !vbd.is_guests() {
            return Ok(false);
        }
        let asked = async { close(&mut Store::open().await?, &vbd).await };
        asked
            .await
            .map_err(|source| place.store_failed("unplug", source))?;
        Ok(true)
    }

    /// Whether the guest has let go of the disk, as it was asked to, and the toolstack may take it away.
    pub(super) async fn is_let_go(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        let place = Place::new(domain, id, disk);
        let vbd = place.vbd().await?;
        Ok(vbd.is_some_and(|vbd| vbd.is_of(&place.source) && vbd.is_let_go()))
    }

    /// Waits while a toolstack is at the attach of the disk that libvirt does not show: its caller may be a process that is no
    /// more.
    pub(super) async fn settle(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<(), HypervisorError> {
        let place = Place::new(domain, id, disk);
        let deadline = Instant::now() + SETTLE;
        while let Some(vbd) = place.vbd().await?.filter(|vbd| vbd.is_of(&place.source))
            && !vbd.is_guests()
            && !vbd.is_stale()
            && Instant::now() < deadline
        {
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Takes away the disk of which libvirt knows nothing, once the guest has let go of it.
    pub(super) async fn remove(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<(), HypervisorError> {
        let place = Place::new(domain, id, disk);
        match place.vbd().await? {
            Some(vbd) if vbd.is_of(&place.source) && !vbd.is_guests() => {
                self.clear(&place, vbd).await
            }
            Some(_) => self.ask(domain, id, disk).await.map(drop),
            None => Ok(()),
        }
    }

    /// The size in bytes that the guest sees; `None` where it has no such disk.
    pub(super) async fn size(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<Option<u64>, HypervisorError> {
        let place = Place::new(domain, id, disk);
        Ok(place.vbd().await?.and_then(|vbd| vbd.bytes))
    }

    /// Has the guest see the disk at `bytes`, where it sees it smaller; gives what it sees then. The kernel's backend tells the
    /// guest by itself what its device comes to, and a loop device has to be told to look.
    pub(super) async fn grow(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
        bytes: u64,
    ) -> Result<Option<u64>, HypervisorError> {
        let place = Place::new(domain, id, disk);
        let deadline = Instant::now() + GROW;
        let mut told = false;
        loop {
            let Some(vbd) = place.vbd().await? else {
                return Ok(None);
            };
            let shown = vbd.bytes.unwrap_or_default();
            // A file's last bytes that are no whole sector are nobody's.
            if shown >= bytes - bytes % SECTOR {
                return Ok(Some(shown));
            }
            let refused = |reason, why| HypervisorError::NotGrown {
                domain: place.domain.clone(),
                target: disk.target.clone(),
                reason,
                why,
            };
            if !vbd.is_kernels() {
                let why = "its device model cannot be told to; detach and attach the volume";
                return Err(refused(Reason::ResizeUnsupported, why.to_owned()));
            }
            if let Some(device) = vbd.device.as_deref()
                && loop_device::backing_file(device).is_some()
                && !told
            {
                loop_device::grow(device).map_err(|(step, errno)| {
                    let why = format!("{step} {}: {errno}", device.display());
                    refused(Reason::HypervisorError, why)
                })?;
                told = true;
            }
            if Instant::now() >= deadline {
                let seconds = GROW.as_secs();
                let why = format!("the guest sees {shown} bytes, not {bytes}, after {seconds} s");
                return Err(refused(Reason::HypervisorError, why));
            }
            sleep(POLL).await;
        }
    }

    /// Has both ends let go, as a toolstack does (libxl's `libxl__initiate_device_generic_remove` and
    /// `libxl__device_destroy`), removes the device's nodes, and the loop device that its hot-plug script made.
    async fn clear(&self, place: &Place<'_>, vbd: Vbd) -> Result<(), HypervisorError> {
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
            .map_err(|source| place.store_failed("take away", source))?;
        match &vbd.device {
            Some(device) => release(place, device, &vbd.source),
            None => Ok(()),
        }
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

/// Has a loop device let go of the file, if it has it.
fn release(place: &Place<'_>, device: &Path, source: &Path) -> Result<(), HypervisorError> {
    if loop_device::backing_file(device).is_none_or(|file| file != source) {
        return Ok(());
    }
    loop_device::release(device).map_err(|(step, errno)| HypervisorError::NotCleared {
        domain: place.domain.clone(),
        target: place.disk.target.clone(),
        why: format!(
            "{step} {}: {errno}; `losetup -d {}` does it by hand",
            device.display(),
            device.display()
        ),
    })
}
