//! Where a disk goes in a domain, and so its XML: pure, so that a dry run shows what an attach does.

use super::disk;
use super::error::HypervisorError;
use super::profile;
use super::view::{Devices, DiskView, DomainView};
use super::xen;
use crate::model::{Bus, Dialect, DiskAddress, DiskPlan, DiskSpec, Scope};

/// The letters a target may have after `vd` or `sd`: more disks than any bus holds.
const MAX_LETTERS: usize = 3;
/// Units tried on each SCSI controller: LUNs of target 0 that need no flat addressing (SAM-5, 4.7.7.5).
const UNITS: u32 = 256;
/// The last target and unit of a virtio-scsi controller (`VIRTIO_SCSI_MAX_TARGET`, `VIRTIO_SCSI_MAX_LUN` in QEMU's
/// include/hw/virtio/virtio-scsi.h); it has one bus.
const MAX_SCSI_TARGET: u32 = 255;
const MAX_SCSI_UNIT: u32 = 16383;

/// Decides the disk's place in the domain and writes its XML.
///
/// The view must be fresh: between taking it and plugging the disk in, nothing else may plug into the domain.
///
/// # Errors
/// Where the options cannot work or the domain has no room; nothing was touched.
pub fn plan_disk(view: &DomainView, spec: &DiskSpec) -> Result<DiskPlan, HypervisorError> {
    let scope = spec.options.scope;
    check_state(view, scope)?;
    let alias = spec.attachment.alias();
    check_absent(view, spec, &alias)?;
    profile::check(view, spec)?;
    if view.dialect == Dialect::Xen {
        xen::check_unused(view, spec)?;
    }
    let bus = bus(view.dialect, spec.options.bus)?;
    let target = match &spec.options.target {
        Some(hint) => checked_target(view, scope, bus, hint)?,
        None => free_target(view, scope, bus)?,
    };
    let address = match (bus, spec.options.address) {
        (_, Some(address)) => Some(checked_address(view, scope, bus, address)?),
        (Bus::Scsi, None) => Some(free_unit(view, scope)?),
        (Bus::Virtio | Bus::Xen, None) => None,
    };
    let (xml, left_out) = match view.dialect {
        Dialect::Qemu => (disk::write(spec, &target, address)?, Vec::new()),
        Dialect::Xen => xen::write(spec, &target, view.device_model)?,
    };
    Ok(DiskPlan {
        xml,
        alias,
        source: spec.path.clone(),
        sequence: None, // set when the disk is plugged in
        target,
        scope,
        dialect: view.dialect,
        left_out,
    })
}

/// Refuses a disk that the domain already has: by the attachment's own alias, or as another disk of the volume.
fn check_absent(view: &DomainView, spec: &DiskSpec, alias: &str) -> Result<(), HypervisorError> {
    let reads = spec.access.is_read_only();
    let is_it = |disk: &&DiskView| {
        let apart = spec.options.shareable || reads && disk.readonly;
        let same = disk.source.as_deref() == Some(&spec.path);
        disk.alias.as_deref() == Some(alias) || same && !apart
    };
    let mut disks = view
        .devices(spec.options.scope)
        .flat_map(|devices| &devices.disks);
    match disks.find(is_it) {
        None => Ok(()),
        Some(disk) => Err(HypervisorError::VolumeInUse {
            domain: view.domain.to_string(),
            disk: holder(disk),
            target: disk.target.clone(),
        }),
    }
}

/// The bus, where the domain has one such.
fn bus(dialect: Dialect, wanted: Option<Bus>) -> Result<Bus, HypervisorError> {
    match (dialect, wanted) {
        (Dialect::Qemu, None) => Ok(Bus::Virtio),
        (Dialect::Qemu, Some(bus @ (Bus::Virtio | Bus::Scsi))) => Ok(bus),
        (Dialect::Xen, None | Some(Bus::Xen)) => Ok(Bus::Xen),
        (Dialect::Qemu, Some(bus)) => Err(disk::invalid(
            "bus",
            bus,
            "only Xen's domains have it: use virtio or scsi, or leave it out",
        )),
        (Dialect::Xen, Some(bus)) => Err(disk::invalid(
            "bus",
            bus,
            "a Xen domain takes no disk while it runs but on the bus xen: leave it out",
        )),
    }
}

/// Checks that the domain's configurations in that scope can be changed now.
///
/// # Errors
/// `DOMAIN_STATE` if they cannot be changed.
pub fn check_state(view: &DomainView, scope: Scope) -> Result<(), HypervisorError> {
    let error = |state, scope, hint| {
        Err(HypervisorError::DomainState {
            domain: view.domain.to_string(),
            state,
            scope,
            hint,
        })
    };
    if scope.live() && !view.running {
        return error(
            "is not running",
            "running configuration",
            "start it first, or change its persistent configuration only",
        );
    }
    if scope.live() && view.paused {
        return error(
            "is paused",
            "running configuration",
            "resume it first: a Xen guest connects to its disks itself",
        );
    }
    if scope.config() && !view.persistent {
        return error(
            "is transient",
            "persistent configuration",
            "change its running configuration only",
        );
    }
    Ok(())
}

fn prefix(bus: Bus) -> &'static str {
    match bus {
        Bus::Virtio => "vd",
        Bus::Scsi => "sd",
        Bus::Xen => "xvd",
    }
}

/// Names a disk for errors: by alias, source or target.
pub(super) fn holder(disk: &DiskView) -> String {
    match (&disk.alias, &disk.source) {
        (Some(alias), _) => format!("disk {alias}"),
        (None, Some(source)) => format!("the disk of {}", source.display()),
        (None, None) => format!("disk {}", disk.target),
    }
}

fn find_target<'a>(view: &'a DomainView, scope: Scope, target: &str) -> Option<&'a DiskView> {
    view.devices(scope)
        .flat_map(|devices| &devices.disks)
        .find(|disk| match view.dialect {
            Dialect::Qemu => disk.target == target,
            Dialect::Xen => xen::is_same_place(&disk.target, target),
        })
}

fn checked_target(
    view: &DomainView,
    scope: Scope,
    bus: Bus,
    hint: &str,
) -> Result<String, HypervisorError> {
    let letters = hint.strip_prefix(prefix(bus)).unwrap_or_default();
    let valid = (1..=MAX_LETTERS).contains(&letters.len())
        && letters.bytes().all(|b| b.is_ascii_lowercase());
    if !valid {
        return Err(HypervisorError::DiskOptionInvalid {
            option: "target",
            value: hint.chars().take(64).collect(),
            rule: format!(
                "on the {bus} bus it is {0} and one to {MAX_LETTERS} letters, such as {0}b",
                prefix(bus)
            ),
        });
    }
    match find_target(view, scope, hint) {
        None => Ok(hint.to_owned()),
        Some(disk) => Err(HypervisorError::TargetInUse {
            domain: view.domain.to_string(),
            place: format!("target {hint}"),
            holder: holder(disk),
        }),
    }
}

/// The n-th target's letters: a to z, then aa to zz, then aaa to zzz.
fn letters(mut n: u32) -> String {
    let mut reversed = Vec::new();
    loop {
        reversed.push(char::from(b'a' + (n % 26) as u8));
        if n < 26 {
            break;
        }
        n = n / 26 - 1;
    }
    reversed.into_iter().rev().collect()
}

fn free_target(view: &DomainView, scope: Scope, bus: Bus) -> Result<String, HypervisorError> {
    (0..26 + 26 * 26 + 26 * 26 * 26)
        .map(|n| format!("{}{}", prefix(bus), letters(n)))
        .find(|target| find_target(view, scope, target).is_none())
        .ok_or_else(|| HypervisorError::BusFull {
            domain: view.domain.to_string(),
            bus,
            why: "every target name is taken".to_owned(),
        })
}

fn checked_address(
    view: &DomainView,
    scope: Scope,
    bus: Bus,
    address: DiskAddress,
) -> Result<DiskAddress, HypervisorError> {
    let invalid = |rule: &str| HypervisorError::DiskOptionInvalid {
        option: "address",
        value: address.to_string(),
        rule: rule.to_owned(),
    };
    let used = |devices: &Devices| match address {
        DiskAddress::Pci { .. } => devices.pci.contains(&address),
        DiskAddress::Drive { .. } => devices.scsi.contains(&address),
    };
    match (bus, address) {
        (Bus::Xen, _) => return Err(invalid("a Xen disk has none: its target is its place")),
        (Bus::Virtio, DiskAddress::Drive { .. }) => {
            return Err(invalid(
                "a virtio disk sits on PCI, such as pci:0000:00:07.0",
            ));
        }
        (Bus::Scsi, DiskAddress::Pci { .. }) => {
            return Err(invalid(
                "a SCSI disk sits on a controller, such as drive:0:0:0:5",
            ));
        }
        (
            Bus::Scsi,
            DiskAddress::Drive {
                controller,
                bus,
                target,
                unit,
            },
        ) => {
            if bus > 0 || target > MAX_SCSI_TARGET || unit > MAX_SCSI_UNIT {
                return Err(invalid(&format!(
                    "virtio-scsi has the bus 0, targets to {MAX_SCSI_TARGET} and units to {MAX_SCSI_UNIT}"
                )));
            }
            let known = |devices: &Devices| devices.virtio_scsi.contains(&controller);
            if !view.devices(scope).all(known) {
                return Err(invalid(
                    "the domain has no virtio-scsi controller of that index",
                ));
            }
        }
        (Bus::Virtio, DiskAddress::Pci { .. }) => {}
    }
    if view.devices(scope).any(used) {
        let at = |disk: &&DiskView| disk.address == Some(address);
        let mut disks = view.devices(scope).flat_map(|devices| &devices.disks);
        return Err(HypervisorError::TargetInUse {
            domain: view.domain.to_string(),
            place: format!("address {address}"),
            holder: disks
                .find(at)
                .map_or_else(|| "another device".to_owned(), holder),
        });
    }
    Ok(address)
}

/// The first free unit of the virtio-scsi controllers, in order.
fn free_unit(view: &DomainView, scope: Scope) -> Result<DiskAddress, HypervisorError> {
    let full = |why: &str| HypervisorError::BusFull {
        domain: view.domain.to_string(),
        bus: Bus::Scsi,
        why: why.to_owned(),
    };
    let mut controllers: Vec<u32> = view
        .devices(scope)
        .flat_map(|devices| devices.virtio_scsi.iter().copied())
        .filter(|index| {
            view.devices(scope)
                .all(|devices| devices.virtio_scsi.contains(index))
        })
        .collect();
    controllers.sort_unstable();
    controllers.dedup();
    if controllers.is_empty() {
        return Err(full(
            "it has no virtio-scsi controller; add one (model='virtio-scsi'), or use bus virtio",
        ));
    }
    controllers
        .iter()
        .flat_map(|controller| {
            (0..UNITS).map(|unit| DiskAddress::Drive {
                controller: *controller,
                bus: 0,
                target: 0,
                unit,
            })
        })
        .find(|address| !view.devices(scope).any(|devices| devices.scsi.contains(address)))
        .ok_or_else(|| full("every unit of its virtio-scsi controllers is taken; add a controller, or use bus virtio"))
}

#[cfg(test)]
mod tests;
