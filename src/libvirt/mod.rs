//! The domain's side: libvirt connections, device events, disk XML, hot-plug and unplug.
//!
//! Invariants: libvirt's word is no proof (a detach that returned success may have left the disk): only the domain's
//! XML or an event (ADDED, REMOVED) is; an unplug is asked for by alias, asynchronously, and never sent again blindly; libvirt
//! calls block, so they run on blocking threads over a small pool of connections with keep-alive.

mod client;
mod connection;
mod disk;
mod documents;
mod error;
mod event;
mod explain;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod iostop;
mod iotune;
mod parameters;
mod plan;
mod plug;
mod pool;
mod profile;
mod raw;
mod size;
mod stats;
mod turns;
mod unplug;
mod view;
mod xen;
mod xml;

pub use client::Libvirt;
pub use connection::run_event_loop;
pub use error::{HypervisorError, LibvirtError};
pub use event::{DomainEnd, DomainEvent, IoStop, ObservedDomain};
pub use iotune::check_io_tune;
pub use plan::{check_state, plan_disk};
pub use turns::{in_background, is_in_background};
pub use view::{Devices, DiskView, DomainView};
pub use xen::store::StoreError;
pub use xml::XmlError;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::time::Instant;
use uuid::Uuid;

use crate::model::{Dialect, DiskIo, DiskPlan, DomainRef, IoTune, Scope};

/// What became of an unplug within the time given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplug {
    /// The disk was seen gone, or its domain is.
    Gone,
    /// The guest has not let go yet.
    Pending,
    /// The guest or QEMU refused (libvirt's DEVICE_REMOVAL_FAILED).
    Refused,
}

/// What became of an unplug request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnplugRequest {
    /// The guest was asked, or nobody needs to be.
    Sent,
    /// The guest is busy with an earlier request: ask again after some seconds.
    Busy,
}

/// Condition of the way to a hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HypervisorLoad {
    /// Whether the hypervisor is connected to.
    pub connected: bool,
    /// Calls under way.
    pub running: u64,
    /// Calls that wait for their turn.
    pub waiting: u64,
    /// Domains left alone until a call that is past its deadline ends.
    pub hanging: u64,
}

/// Where hot-plug happens.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// How its domains' disks are written, for a volume that no domain is named for. QEMU's until it was reached.
    fn dialect(&self) -> Dialect;

    /// Condition of the way to it; asks nobody, and waits for nothing.
    fn load(&self) -> HypervisorLoad;

    /// The domain as it is now, in the configurations of the scope.
    ///
    /// # Errors
    /// `DOMAIN_NOT_FOUND`, or where the hypervisor fails.
    async fn domain(&self, name: &DomainRef, scope: Scope) -> Result<DomainView, HypervisorError>;

    /// Every domain of this host, running or not.
    async fn domains(&self) -> Result<Vec<Uuid>, HypervisorError>;

    /// Whether every configuration in the disk's scope has the disk as [`Hypervisor::plug`] left it. A domain that is gone has no disks; a
    /// domain that is shut off has those of its persistent configuration.
    async fn is_plugged(&self, domain: Uuid, disk: &DiskPlan) -> Result<bool, HypervisorError> {
        let observed = self.observe(domain, std::slice::from_ref(disk)).await?;
        Ok(observed.plugged == [true])
    }

    /// The same of many disks, in their order, with the domain's name and how the domain ended, from one look at the domain.
    async fn observe(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<ObservedDomain, HypervisorError>;

    /// Whether anything of the disk is left in any configuration of its scope, or about to come.
    async fn has_disk(&self, domain: Uuid, disk: &DiskPlan) -> Result<bool, HypervisorError>;

    /// Plugs the disk in; success means that the domain's XML shows it or an event has reported it, and in a Xen domain that the guest has it.
    ///
    /// The plan is only as good as the view it was made from: whoever calls holds a lock for the domain from
    /// [`Hypervisor::domain`] through [`plan_disk`] to the end of this call, or two plugs choose the same place and
    /// the second is refused (`TARGET_IN_USE`). On an error nothing is left in the domain, except where the
    /// connection ended during the call, or the guest has not connected to a disk that was plugged in: then
    /// [`Hypervisor::has_disk`] tells.
    async fn plug(&self, domain: Uuid, disk: &DiskPlan) -> Result<(), HypervisorError>;

    /// Asks the guest to let go of the disk (and removes it from the persistent configuration, where that is in
    /// scope), and returns at once. Nothing there to unplug is success.
    ///
    /// Whoever calls remembers having asked: on a PCIe port, asking again within seconds may call off what was asked
    /// before (PCI Express Base Specification, 6.7.1.5: a second press of the attention button).
    async fn request_unplug(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<UnplugRequest, HypervisorError>;

    /// Withdraws what [`Hypervisor::request_unplug`] asked, where that is possible, and returns whether the guest keeps the disk for now.
    ///
    /// QEMU cannot withdraw a request: a guest that has not answered may still release the disk later. Xen can, until the guest begins to
    /// close the disk.
    async fn withdraw_unplug(&self, domain: Uuid, disk: &DiskPlan)
    -> Result<bool, HypervisorError>;

    /// Waits until the disk is seen gone, refused, or the deadline passes. A hypervisor that cannot be reached for a
    /// while is waited for, too, and an error only at the deadline.
    async fn wait_unplugged(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        deadline: Instant,
    ) -> Result<Unplug, HypervisorError>;

    /// The disk's size in bytes as the guest sees it; `None` where no running domain has it.
    async fn size(&self, domain: Uuid, disk: &DiskPlan) -> Result<Option<u64>, HypervisorError>;

    /// Has the guest see the disk at `bytes`, where it sees it smaller, and gives the size that it sees then: as
    /// [`Hypervisor::size`], asked again. Never makes it smaller.
    ///
    /// The hypervisor cuts or lengthens a file to the size it is told (QEMU's `block_resize`, ftruncate(2)), so `bytes` is
    /// what a raw volume has on its storage, and no other.
    ///
    /// # Errors
    /// `RESIZE_UNSUPPORTED` for a disk that the domain may only read (QEMU's), or that a device model serves (Xen's).
    async fn resize(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        bytes: u64,
    ) -> Result<Option<u64>, HypervisorError>;

    /// Sets the limits on the disk's I/O in each configuration of its scope that has the disk: all of them, so that a limit that is left out
    /// ends. `None` where no configuration has the disk. May wait for requests under way.
    ///
    /// # Errors
    /// `IO_TUNE_UNSUPPORTED` in a Xen domain. Limits that [`check_io_tune`] refuses are the hypervisor's to refuse, in its own words.
    async fn set_io_tune(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
        tune: &IoTune,
    ) -> Result<Option<()>, HypervisorError>;

    /// The limits on the disk's I/O that are in force; `None` where no configuration of its scope has the disk. Touches no storage.
    async fn io_tune(
        &self,
        domain: Uuid,
        disk: &DiskPlan,
    ) -> Result<Option<IoTune>, HypervisorError>;

    /// The I/O of a domain's guest on these disks, in their order; `None` for a disk that the running domain does not have, or that the
    /// hypervisor does not count for. Touches no storage.
    async fn disk_io(
        &self,
        domain: Uuid,
        disks: &[DiskPlan],
    ) -> Result<Vec<Option<DiskIo>>, HypervisorError>;

    /// Has a domain go on that is paused since requests to some of these disks failed, and returns whether it does. A domain that is not paused
    /// for that at this moment, or also because of another disk, is left as it is; the next [`Hypervisor::observe`] reports which disks failed.
    async fn resume(&self, domain: Uuid, disks: &[DiskPlan]) -> Result<bool, HypervisorError>;

    /// What happens to domains, in order. While libvirt cannot be reached some events are missed, and [`DomainEvent::Missed`] comes when
    /// it is reached again: look at everything then.
    fn events(&self) -> broadcast::Receiver<DomainEvent>;
}
