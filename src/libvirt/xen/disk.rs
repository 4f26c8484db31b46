//! A disk's XML for a domain of Xen: what libvirt's libxl driver makes something of (`libxlMakeDisk`), and nothing else.
//!
//! The rest it would take and forget without a word. So what the guest would miss is refused, and what merely tunes is left
//! out, which the plan says.

use crate::libvirt::disk::{disk_and_source, invalid, written};
use crate::libvirt::error::HypervisorError;
use crate::libvirt::plan::holder;
use crate::libvirt::view::DomainView;
use crate::libvirt::xml::Element;
use crate::model::{Bus, DiskSpec, ImageFormat, IoTune};

/// Writes the disk's XML for this target, and names the options that are left out of it.
///
/// `device_model`: whether a device model runs for the domain.
pub(in crate::libvirt) fn write(
    spec: &DiskSpec,
    target: &str,
    device_model: bool,
) -> Result<(String, Vec<String>), HypervisorError> {
    let options = &spec.options;
    if let Some(order) = options.boot_order {
        let rule = "libvirt boots Xen's domains by <os><boot> alone: leave it out";
        return Err(invalid("boot_order", order, rule));
    }
    let driver = Element::new("driver")
        .with("name", driver(spec, device_model)?)
        .with("type", spec.format.as_str())
        .with_some("discard", options.discard);
    let (disk, source) = disk_and_source(spec)?;
    let alias = spec.attachment.alias();
    let disk = disk
        .with_children([
            driver,
            source,
            Element::new("target")
                .with("dev", target)
                .with("bus", Bus::Xen),
        ])
        .with_children(spec.access.is_read_only().then(|| Element::new("readonly")))
        // What the disk is known by: libvirt 9.0's libxl driver keeps no alias, and Xen shows the guest no serial.
        .with_children([Element::new("serial").with_text(alias)]);
    let tuned = [
        ("cache", options.cache.is_some()),
        ("io", options.io.is_some()),
        ("detect_zeroes", options.detect_zeroes.is_some()),
        ("serial", options.serial.is_some()),
        ("shareable", options.shareable),
        (
            "iotune",
            options
                .iotune
                .as_ref()
                .is_some_and(|tune| *tune != IoTune::default()),
        ),
        ("error_policy", options.error_policy.is_some()),
        ("rerror_policy", options.rerror_policy.is_some()),
        ("logical_block_size", options.logical_block_size.is_some()),
        ("physical_block_size", options.physical_block_size.is_some()),
    ];
    let left_out = tuned
        .iter()
        .filter(|(_, asked)| *asked)
        .map(|(name, _)| (*name).to_owned())
        .collect();
    Ok((written(&disk, spec)?, left_out))
}

/// The driver that serves the volume's format: dom0's kernel (`phy`) serves what is raw, and the domain's device model, where
/// it has one, images.
///
/// Of a disk of the device model's that is read-only, or whose image is not what its format says, libvirt reports success,
/// and no disk appears: the first is refused here, the second by whoever inspects the image.
fn driver(spec: &DiskSpec, device_model: bool) -> Result<&'static str, HypervisorError> {
    let refused = |why| {
        Err(HypervisorError::FormatUnsupported {
            format: spec.format,
            why,
        })
    };
    match spec.format {
        ImageFormat::Raw => Ok("phy"),
        ImageFormat::Qcow2 | ImageFormat::Vpc if spec.access.is_read_only() => {
            refused("Xen's device model serves no image read-only: attach a raw one")
        }
        ImageFormat::Qcow2 | ImageFormat::Vpc if device_model => Ok("qemu"),
        ImageFormat::Qcow2 | ImageFormat::Vpc => refused(
            "it takes a device model (QEMU), and none runs for the domain: attach a raw image, or use a domain that has one \
             (HVM, or with a <graphics> device)",
        ),
        ImageFormat::Vmdk => {
            refused("Xen serves raw volumes, and qcow2 and vpc images where a device model runs")
        }
    }
}

/// Refuses a volume that the domain has already under another name, or another domain of the host while one of them writes:
/// Xen knows no locks, and its hot-plug script means to look, but compares hexadecimal to decimal numbers.
pub(in crate::libvirt) fn check_unused(
    view: &DomainView,
    spec: &DiskSpec,
) -> Result<(), HypervisorError> {
    let own = view
        .devices(spec.options.scope)
        .flat_map(|devices| &devices.disks)
        .map(|disk| (view.domain.to_string(), disk));
    let others = view
        .elsewhere
        .iter()
        .filter(|_| spec.options.scope.live() && !spec.options.shareable)
        .map(|(number, disk)| (format!("number {number}"), disk));
    let mut same = own
        .chain(others)
        .filter(|(_, disk)| disk.source.as_deref() == Some(&spec.path));
    match same.find(|(_, disk)| !(disk.readonly && spec.access.is_read_only())) {
        None => Ok(()),
        Some((domain, disk)) => Err(HypervisorError::VolumeInUse {
            domain,
            disk: holder(disk),
            target: disk.target.clone(),
        }),
    }
}

/// Whether two targets are one disk to the guest: `xvda`, an emulated `hda` or `sda`, and a partition `xvda1` (Xen's
/// docs/man/xen-vbd-interface.7).
pub(in crate::libvirt) fn is_same_place(a: &str, b: &str) -> bool {
    fn letters(target: &str) -> &str {
        let letters = ["xvd", "hd", "sd", "vd"]
            .iter()
            .find_map(|prefix| target.strip_prefix(prefix));
        letters
            .unwrap_or(target)
            .trim_end_matches(|c: char| c.is_ascii_digit())
    }
    letters(a) == letters(b)
}

#[cfg(test)]
mod tests;
