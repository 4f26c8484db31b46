//! How large the guest sees a disk, having it see a larger one, and what waits as that does.

use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::raw;
use super::view::{Devices, DiskView};
use crate::model::DiskPlan;

/// What growing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grown {
    /// The size in bytes that the guest sees now.
    To(u64),
    /// The domain may only read the disk, which libvirt and QEMU grow for no guest; the size that it sees.
    ReadOnly(u64),
}

/// The disk as the running domain has it.
fn live(domain: &Domain, disk: &DiskPlan) -> Result<Option<DiskView>, Error> {
    if !domain.is_active()? {
        return Ok(None);
    }
    let devices = Devices::read(&domain.xml_desc(0)?);
    Ok(devices.ok().and_then(|devices| devices.find(disk).cloned()))
}

/// The size in bytes that the guest sees; `None` where the domain does not run, or has no such disk.
pub(super) fn shown(domain: &Domain, disk: &DiskPlan) -> Result<Option<u64>, Error> {
    live(domain, disk)?
        .map(|disk| raw::capacity(domain, &disk.target))
        .transpose()
}

/// Has the guest see the disk at `bytes`, where it sees it smaller.
pub(super) fn grow(domain: &Domain, plan: &DiskPlan, bytes: u64) -> Result<Option<Grown>, Error> {
    let Some(disk) = live(domain, plan)? else {
        return Ok(None);
    };
    let shown = raw::capacity(domain, &disk.target)?;
    if shown >= bytes {
        return Ok(Some(Grown::To(shown)));
    }
    if disk.readonly {
        return Ok(Some(Grown::ReadOnly(shown)));
    }
    domain.block_resize(&disk.target, bytes, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)?;
    raw::capacity(domain, &disk.target).map(|shown| Some(Grown::To(shown)))
}

/// Waits until no job of the domain is under way, by asking for the size of a disk: libvirt looks whether there is such a disk only within a
/// job of its own (`qemuDomainGetBlockInfo` in src/qemu/qemu_driver.c).
pub(super) fn wait_for_jobs(domain: &Domain, target: &str) -> Result<(), Error> {
    match raw::capacity(domain, target) {
        Err(error)
            if [sys::VIR_ERR_INVALID_ARG, sys::VIR_ERR_OPERATION_INVALID]
                .contains(&error.code().to_raw()) =>
        {
            Ok(()) // there is no such disk, or the domain has stopped
        }
        result => result.map(drop),
    }
}
