//! A disk's XML, from its specification and its place in the domain (libvirt `formatdomain`, "Hard drives").
//!
//! Options that can never work are refused here, in words, before anything is touched.

use super::error::HypervisorError;
use super::iotune;
use super::xml::{Element, XmlError};
use crate::model::{
    Bus, Cache, DiskAddress, DiskOptions, DiskSpec, ErrorPolicy, ImageFormat, IoMode,
    ReadErrorPolicy, SourceKind,
};

/// The longest serial that QEMU takes for a SCSI disk (`MAX_SERIAL_LEN` in hw/scsi/scsi-disk.c). A virtio-blk disk
/// takes any, and shows the guest its first 20 bytes (virtio 1.2, 5.2.6, `VIRTIO_BLK_T_GET_ID`).
const MAX_SCSI_SERIAL: usize = 36;
/// Longer serials are refused on any bus: nothing shows them.
const MAX_SERIAL: usize = 128;
/// QEMU's limits of block sizes (`MIN_BLOCK_SIZE`, `MAX_BLOCK_SIZE` in include/hw/qdev-properties-system.h).
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=2 * 1024 * 1024;

/// An option that cannot be.
pub(super) fn invalid(
    option: &'static str,
    value: impl ToString,
    rule: impl Into<String>,
) -> HypervisorError {
    HypervisorError::DiskOptionInvalid {
        option,
        value: value.to_string().chars().take(200).collect(),
        rule: rule.into(),
    }
}

/// Writes the disk's XML for this target and address.
///
/// libvirt gives a local file to QEMU's user, as it must. What keeps its owner gets a `<seclabel>` that forbids it
/// (`virSecurityDACSetImageLabelInternal`): otherwise a volume on an export where root is root would be QEMU's while it
/// is plugged, and root's ever after.
pub(super) fn write(
    spec: &DiskSpec,
    target: &str,
    address: Option<DiskAddress>,
) -> Result<String, HypervisorError> {
    let options = &spec.options;
    check_modes(spec)?;
    let bus = options.bus.unwrap_or(Bus::Virtio);
    let serial = serial(spec, bus)?;
    let driver = Element::new("driver")
        .with("name", "qemu")
        .with("type", spec.format.as_str())
        .with("cache", options.cache.unwrap_or(Cache::None))
        .with_some("io", options.io)
        .with_some("discard", options.discard)
        .with_some("detect_zeroes", options.detect_zeroes)
        .with_some("error_policy", options.error_policy)
        .with_some("rerror_policy", reads(options));
    let (disk, source) = disk_and_source(spec)?;
    let disk = disk
        .with_children([
            driver,
            source.with_children(spec.keeps_owner.then(keep_owner)),
            // The chain ends here, whatever the header names later: libvirt would read the header again, and open the named file.
            Element::new("backingStore"),
            Element::new("target").with("dev", target).with("bus", bus),
        ])
        .with_children(options.iotune.as_ref().map_or(Ok(None), iotune::element)?)
        .with_children(blockio(options)?)
        .with_children(boot(options)?)
        .with_children(spec.access.is_read_only().then(|| Element::new("readonly")))
        .with_children(options.shareable.then(|| Element::new("shareable")))
        .with_children([
            Element::new("serial").with_text(serial),
            Element::new("alias").with("name", spec.attachment.alias()),
        ])
        .with_children(address.map(address_element));
    written(&disk, spec)
}

/// The `<disk>` for this volume, without anything in it, and its `<source>`.
pub(super) fn disk_and_source(spec: &DiskSpec) -> Result<(Element, Element), HypervisorError> {
    let path = spec.path.to_str().ok_or_else(|| {
        invalid(
            "path",
            spec.path.display(),
            "a path that is not UTF-8 cannot be given to libvirt: rename the file",
        )
    })?;
    let (kind, attribute) = match spec.kind {
        SourceKind::File => ("file", "file"),
        SourceKind::Block => ("block", "dev"),
    };
    let disk = Element::new("disk")
        .with("type", kind)
        .with("device", "disk");
    Ok((disk, Element::new("source").with(attribute, path)))
}

/// The document.
pub(super) fn written(disk: &Element, spec: &DiskSpec) -> Result<String, HypervisorError> {
    disk.write().map_err(|source| match source {
        XmlError::Character { value, .. } => invalid(
            "path",
            value,
            "it holds a character that XML cannot carry: rename the file",
        ),
        source => HypervisorError::Xml {
            what: format!("disk {}", spec.attachment.alias()),
            source,
        },
    })
}

fn keep_owner() -> Element {
    Element::new("seclabel")
        .with("model", "dac")
        .with("relabel", "no")
}

/// What becomes of failed reads. Written out where anything is said: libvirt's own default follows `error_policy`.
fn reads(options: &DiskOptions) -> Option<ReadErrorPolicy> {
    let same = options.error_policy.map(ErrorPolicy::of_reads);
    options.rerror_policy.or(same)
}

fn check_modes(spec: &DiskSpec) -> Result<(), HypervisorError> {
    let options = &spec.options;
    let cache = options.cache.unwrap_or(Cache::None);
    if options.io == Some(IoMode::Native) && !matches!(cache, Cache::None | Cache::Directsync) {
        return Err(invalid(
            "io",
            "native",
            format!("it needs cache none or directsync, and cache is {cache}"),
        ));
    }
    if options.shareable && spec.format != ImageFormat::Raw && !spec.access.is_read_only() {
        return Err(invalid(
            "shareable",
            true,
            format!(
                "several writers would corrupt a {} image: only raw can be shared for writing",
                spec.format
            ),
        ));
    }
    Ok(())
}

/// The serial: the volume's id by default. The characters are those that libvirt's QEMU driver takes
/// (`QEMU_SERIAL_PARAM_ACCEPTED_CHARS`) but the space, before which libvirt 9.0 puts a backslash that the guest sees.
fn serial(spec: &DiskSpec, bus: Bus) -> Result<String, HypervisorError> {
    let serial = spec
        .options
        .serial
        .as_deref()
        .unwrap_or(spec.volume.as_str());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if serial.is_empty() || !serial.chars().all(allowed) {
        return Err(invalid(
            "serial",
            serial,
            "use the characters A-Z a-z 0-9 - _ . +",
        ));
    }
    let longest = match bus {
        Bus::Scsi => MAX_SCSI_SERIAL,
        Bus::Virtio | Bus::Xen => MAX_SERIAL,
    };
    if serial.len() > longest {
        return Err(invalid(
            "serial",
            serial,
            format!(
                "a {bus} disk's serial has at most {longest} characters (by default it is the volume id)"
            ),
        ));
    }
    Ok(serial.to_owned())
}

fn blockio(options: &DiskOptions) -> Result<Option<Element>, HypervisorError> {
    let (logical, physical) = (options.logical_block_size, options.physical_block_size);
    for (option, size) in [
        ("logical_block_size", logical),
        ("physical_block_size", physical),
    ] {
        if let Some(size) = size
            && (!size.is_power_of_two() || !BLOCK_SIZES.contains(&size))
        {
            return Err(invalid(
                option,
                size,
                "use a power of two from 512 to 2097152 bytes",
            ));
        }
    }
    if let (Some(logical), Some(physical)) = (logical, physical)
        && logical > physical
    {
        return Err(invalid(
            "logical_block_size",
            logical,
            format!("it must not exceed physical_block_size, which is {physical}"),
        ));
    }
    let any = logical.or(physical).is_some();
    Ok(any.then(|| {
        Element::new("blockio")
            .with_some("logical_block_size", logical)
            .with_some("physical_block_size", physical)
    }))
}

fn boot(options: &DiskOptions) -> Result<Option<Element>, HypervisorError> {
    match options.boot_order {
        Some(0) => Err(invalid("boot_order", 0, "the first place is 1")),
        order => Ok(order.map(|order| Element::new("boot").with("order", order))),
    }
}

fn address_element(address: DiskAddress) -> Element {
    let element = Element::new("address");
    match address {
        DiskAddress::Pci {
            domain,
            bus,
            slot,
            function,
        } => element
            .with("type", "pci")
            .with("domain", format!("{domain:#06x}"))
            .with("bus", format!("{bus:#04x}"))
            .with("slot", format!("{slot:#04x}"))
            .with("function", format!("{function:#x}")),
        DiskAddress::Drive {
            controller,
            bus,
            target,
            unit,
        } => element
            .with("type", "drive")
            .with("controller", controller)
            .with("bus", bus)
            .with("target", target)
            .with("unit", unit),
    }
}

#[cfg(test)]
mod tests;
