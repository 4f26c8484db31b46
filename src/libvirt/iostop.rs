//! Domains that QEMU paused since a request to a disk failed (libvirt's `error_policy` `stop`, and `enospace` for want of space).
//!
//! Only the state's reason says so (`VIR_DOMAIN_PAUSED_IOERROR`): a domain that somebody paused is never resumed here. Which disks failed is asked
//! of a domain that is paused for that alone: QEMU then looks at each image, which a silent server may make it wait for.

use virt::domain::{Domain, DomainStateReason};
use virt::enumutil::Enum;
use virt::error::Error;
use virt_sys as sys;

use super::event::IoStop;
use super::raw;
use super::view::Devices;
use crate::model::DiskPlan;

/// Whether the domain is paused for a failed request.
fn is_stopped(domain: &Domain) -> Result<bool, Error> {
    let (_, reason) = domain.state()?;
    Ok(matches!(
        reason,
        Enum::Known(DomainStateReason::Paused(reason)) if reason.to_raw() == sys::VIR_DOMAIN_PAUSED_IOERROR
    ))
}

/// The failed disks of a domain that is paused for that; `None`: it is not.
pub(super) fn read(domain: &Domain, disks: &[DiskPlan]) -> Result<Option<IoStop>, Error> {
    if !is_stopped(domain)? {
        return Ok(None);
    }
    let failed = raw::disk_errors(domain)?;
    let devices = Devices::read(&domain.xml_desc(0)?).unwrap_or_default();
    let targets: Vec<_> = disks
        .iter()
        .map(|disk| devices.find(disk).map(|shown| shown.target.clone()))
        .collect();
    Ok(Some(IoStop {
        failed: targets
            .iter()
            .map(|target| target.as_ref().is_some_and(|it| failed.contains(it)))
            .collect(),
        others: failed
            .iter()
            .any(|failed| !targets.iter().flatten().any(|target| target == failed)),
    }))
}

/// Has the domain go on, if these disks alone keep it paused.
pub(super) fn resume(domain: &Domain, disks: &[DiskPlan]) -> Result<bool, Error> {
    match read(domain, disks)? {
        Some(stop) if !stop.others && stop.failed.contains(&true) => {
            domain.resume()?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
