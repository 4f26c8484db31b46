//! Domains that Xen runs: what differs from QEMU's in the disk's XML, in whether a disk really arrived, and in what a failed
//! attach leaves.
//!
//! Invariants: libvirt's success is believed only when the backend in xenstore is connected to the guest's frontend; a
//! backend that nobody goes on with is taken away, for it keeps every later disk from its target; a disk that a guest may have
//! unwritten data for is never taken from it by force, as libvirt's own detach does after ten seconds; a disk is not gone
//! while its backend is there, nor while the loop device that the hot-plug script made has its file.

mod disk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod place;
pub(super) mod store;
mod vbd;

pub(super) use disk::{check_unused, is_same_place, write};

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};
use tracing::warn;
use uuid::Uuid;

use self::place::{Place, ask_loop, look};
use self::store::StoreError;
use self::vbd::{SECTOR, Vbd, XenbusState};
use super::DomainEvent;
use super::error::{HypervisorError, LibvirtError};
use super::view::DomainView;
use crate::model::{DiskPlan, Reason};
use crate::sys::loop_device;

/// How long the guest's frontend may take to connect to its new disk.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a grown disk's new size may take to be seen: the backend looks at least each second.
const GROW: Duration = Duration::from_secs(10);
/// How often xenstore is looked at in a wait.
const POLL: Duration = Duration::from_millis(50);
/// How often a disk is looked at whose guest was asked long ago to let go of it.
const WATCH: Duration = Duration::from_secs(1);

/// A disk: its domain and alias.
type Key = (Uuid, String);

/// What Xen's toolstack knows and libvirt does not.
#[derive(Debug)]
pub(super) struct Xen {
    /// The devices by which dom0 serves disks that are being unplugged.
    leaving: Mutex<HashMap<Key, PathBuf>>,
    /// Disks that a task waits for to be let go of.
    watched: Arc<Mutex<HashSet<Key>>>,
    news: broadcast::Sender<DomainEvent>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn looking(view: &DomainView, source: StoreError) -> HypervisorError {
    HypervisorError::Xenstore {
        action: format!("look at domain {} in xenstore", view.domain),
        source,
    }
}

impl Xen {
    /// `news`: takes the events of disks that guests have let go of at last.
    pub(super) fn new(news: broadcast::Sender<DomainEvent>) -> Self {
        Self {
            leaving: Mutex::default(),
            watched: Arc::default(),
            news,
        }
    }

    /// Corrects what libvirt shows of a running domain: its device model, and the disks that Xen has for it. One that libvirt alone
    /// shows keeps its target from others, and is nobody's.
    pub(super) async fn complete(&self, view: &mut DomainView) -> Result<(), HypervisorError> {
        let Some(id) = view.id else { return Ok(()) };
        let looked = look(async |store| {
            let state = format!("/local/domain/0/device-model/{id}/state");
            let state = store.read(&state).await?;
            Ok((state, Vbd::all(store, id).await?))
        });
        let (state, disks) = looked.await.map_err(|source| looking(view, source))?;
        view.device_model = state.is_some_and(|state| state == "running");
        for disk in &mut view.live.disks {
            let there = disks
                .iter()
                .any(|vbd| vbd.target == disk.target && Some(&vbd.source) == disk.source.as_ref());
            if !there && disk.source.take().is_some() && disk.alias.take().is_some() {
                warn!(domain = %view.domain, target = disk.target, "libvirt shows a disk that Xen does not have");
            }
        }
        let known = |target: &str| view.live.disks.iter().any(|disk| disk.target == target);
        let unknown: Vec<_> = disks
            .into_iter()
            .filter(|vbd| !vbd.is_stale() && !known(&vbd.target))
            .map(Vbd::disk)
            .collect();
        view.live.disks.extend(unknown);
        Ok(())
    }

    /// Adds the disks of the other domains, for a plan.
    pub(super) async fn add_others(&self, view: &mut DomainView) -> Result<(), HypervisorError> {
        let Some(id) = view.id else { return Ok(()) };
        let looked = look(async |store| vbd::elsewhere(store, id).await).await;
        view.elsewhere = looked.map_err(|source| looking(view, source))?;
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
        match place.occupant().await? {
            Some(vbd) if vbd.is_stale() => place.clear(vbd).await,
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
            Ok(left) => left,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "no word of why");
                None
            }
        };
        let error =
            place.not_connected("Xen's toolstack failed".into(), left.as_ref(), Some(source));
        // A disk that the guest has is the undo's to ask it for.
        if let Some(vbd) = left.filter(|vbd| !vbd.may_have_unwritten())
            && let Err(error) = place.clear(vbd).await
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
        let start = Instant::now();
        loop {
            let vbd = place.vbd().await?;
            match &vbd {
                Some(vbd) if vbd.state == XenbusState::CONNECTED => return Ok(()),
                Some(vbd) if !vbd.is_stale() && start.elapsed() < CONNECT => sleep(POLL).await,
                Some(failed) => {
                    let why = format!(
                        "libvirt reported success, but the disk's backend is {} after {} s: does the guest run, with a driver for \
                         Xen's disks (xen-blkfront)?",
                        failed.state,
                        start.elapsed().as_secs()
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

    /// Whether the guest has the disk.
    pub(super) async fn is_connected(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        let vbd = Place::new(domain, id, disk).vbd().await?;
        Ok(vbd.is_some_and(|vbd| vbd.state == XenbusState::CONNECTED))
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
            && let Some(vbd) = place.vbd().await?
        {
            if !vbd.is_let_go() {
                return Ok(true);
            }
            self.note(domain, disk, &vbd);
            place.clear(vbd).await?;
        }
        let key = (domain, disk.alias.clone());
        let Some(device) = lock(&self.leaving).get(&key).cloned() else {
            return Ok(false);
        };
        let has_file = loop_device::backing_file(&device).is_some_and(|file| file == place.source);
        if !has_file {
            lock(&self.leaving).remove(&key);
        }
        Ok(has_file)
    }

    /// Remembers the loop device of a disk that goes.
    fn note(&self, domain: Uuid, disk: &DiskPlan, vbd: &Vbd) {
        if let Some(device) = &vbd.device
            && loop_device::backing_file(device).is_some()
        {
            let key = (domain, disk.alias.clone());
            lock(&self.leaving).insert(key, device.clone());
        }
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
        let Some(vbd) = place.vbd().await? else {
            return Ok(false);
        };
        self.note(domain, disk, &vbd);
        if !vbd.may_have_unwritten() {
            return Ok(false);
        }
        place.close(&vbd).await?;
        Ok(true)
    }

    /// Takes back what [`Self::ask`] asked, and returns whether the guest keeps the disk: it does until its end begins to close.
    pub(super) async fn withdraw(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<bool, HypervisorError> {
        let place = Place::new(domain, id, disk);
        let Some(vbd) = place.vbd().await? else {
            return Ok(false);
        };
        if vbd.state == XenbusState::CLOSING && vbd.guest == XenbusState::CONNECTED {
            place.reopen(&vbd).await?;
            return Ok(true);
        }
        Ok(vbd.online && vbd.state == XenbusState::CONNECTED)
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
        let asked = vbd.filter(|vbd| !vbd.online);
        Ok(match asked {
            Some(vbd) if vbd.is_let_go() => {
                self.note(domain, disk, &vbd);
                true
            }
            Some(_) => {
                self.watch(domain, id, disk);
                false
            }
            None => false,
        })
    }

    /// Tells of the disk when its guest has let go of it at last: libvirt's libxl driver has no such event.
    fn watch(&self, domain: Uuid, id: u32, disk: &DiskPlan) {
        let key = (domain, disk.alias.clone());
        if !lock(&self.watched).insert(key.clone()) {
            return;
        }
        let (watched, news, disk) = (Arc::clone(&self.watched), self.news.clone(), disk.clone());
        tokio::spawn(async move {
            let place = Place::new(domain, id, &disk);
            let has = |vbd: Vbd| !vbd.is_let_go();
            // A store that cannot be read now may be read later.
            while place.vbd().await.map_or(true, |vbd| vbd.is_some_and(has)) {
                sleep(WATCH).await;
            }
            lock(&watched).remove(&key);
            let (domain, alias) = key;
            let _ = news.send(DomainEvent::DiskGone { domain, alias }); // nobody listening is fine
        });
    }

    /// Takes away the disk of which libvirt knows nothing, once the guest has let go of it.
    ///
    /// libvirt's libxl driver answers no question about a domain while it attaches something to it: what it does not show when
    /// it has answered, it is done with, also where its caller is a process that is no more.
    pub(super) async fn remove(
        &self,
        domain: Uuid,
        id: u32,
        disk: &DiskPlan,
    ) -> Result<(), HypervisorError> {
        let place = Place::new(domain, id, disk);
        match place.vbd().await? {
            Some(vbd) if !vbd.may_have_unwritten() => {
                self.note(domain, disk, &vbd);
                place.clear(vbd).await
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
            if !vbd.served_by_kernel() {
                let why = "its device model cannot be told to; detach and attach the volume";
                return Err(refused(Reason::ResizeUnsupported, why.to_owned()));
            }
            if let Some(device) = vbd.device.as_deref()
                && loop_device::backing_file(device).is_some()
                && !told
            {
                ask_loop(device, loop_device::grow)
                    .await
                    .map_err(|(step, errno)| {
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
}
