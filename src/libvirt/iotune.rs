//! Limits on a disk's I/O: checked before anything is touched, written into a disk's XML, and changed while the guest runs.

use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::disk::invalid;
use super::error::HypervisorError;
use super::parameters;
use super::view::{Devices, DiskView};
use super::xml::Element;
use crate::model::{DiskPlan, IoTune};

/// libvirt's limit of an I/O limit (`QEMU_BLOCK_IOTUNE_MAX` in src/qemu/qemu_domain.h).
const MAX_LIMIT: u64 = 1_000_000_000_000_000;

/// The beginning of the groups that disks without a named group are in: their aliases ([`crate::model::AttachmentId::alias`]).
const PRIVATE: &str = "ua-volattach-";

/// The longest name of a group, in bytes.
const MAX_GROUP: usize = 64;

/// The bytes that count as one operation.
const SIZE: &str = "size_iops_sec";

/// The quantities that are limited: each by a total or by its reads and writes.
const QUANTITIES: [&str; 2] = ["bytes_sec", "iops_sec"];

/// Checks limits by the rules of QEMU (`throttle_is_valid` in util/throttle.c) and libvirt (`qemuDomainSetBlockIoTune`).
///
/// # Errors
/// `DISK_OPTION_INVALID` with the rule that the limits break.
pub fn check_io_tune(tune: &IoTune) -> Result<(), HypervisorError> {
    let refused = |value: String, rule: &str| Err(invalid("iotune", value, rule));
    if let Some((key, value)) = tune.limits().find(|(_, value)| *value > MAX_LIMIT) {
        return refused(
            format!("{key} {value}"),
            &format!("the most is {MAX_LIMIT}"),
        );
    }
    let limit = |key: &str| tune.get(key).filter(|limit| *limit > 0);
    for quantity in QUANTITIES {
        for suffix in ["", "_max", "_max_length"] {
            let kind = format!("{quantity}{suffix}");
            let one_way = ["read", "write"]
                .iter()
                .any(|way| limit(&format!("{way}_{kind}")).is_some());
            if one_way && limit(&format!("total_{kind}")).is_some() {
                return refused(
                    format!("total_{kind}"),
                    &format!("it excludes read_{kind} and write_{kind}: leave out either"),
                );
            }
        }
        for way in ["total", "read", "write"] {
            let base = format!("{way}_{quantity}");
            let (burst, length) = (format!("{base}_max"), format!("{base}_max_length"));
            match (limit(&base), limit(&burst), limit(&length)) {
                (None, Some(_), _) => {
                    return refused(burst, &format!("a burst needs the limit {base}"));
                }
                (Some(steady), Some(peak), _) if peak < steady => {
                    return refused(
                        format!("{burst} {peak}"),
                        &format!("it must not be below {base}, which is {steady}"),
                    );
                }
                (_, None, Some(_)) => {
                    return refused(length, &format!("it needs the burst {burst}"));
                }
                (_, Some(peak), Some(seconds)) if peak.saturating_mul(seconds) > MAX_LIMIT => {
                    return refused(
                        format!("{length} {seconds}"),
                        &format!("times {burst} it must not exceed {MAX_LIMIT}"),
                    );
                }
                _ => {}
            }
        }
    }
    let is_operations =
        |(key, limit): (&str, u64)| key.ends_with("_iops_sec") && key != SIZE && limit > 0;
    if limit(SIZE).is_some() && !tune.limits().any(is_operations) {
        return refused(SIZE.to_owned(), "it needs a limit of operations");
    }
    check_group(tune)
}

fn check_group(tune: &IoTune) -> Result<(), HypervisorError> {
    let Some(group) = &tune.group_name else {
        return Ok(());
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if group.is_empty() || group.len() > MAX_GROUP || !group.chars().all(allowed) {
        let rule = format!("use 1 to {MAX_GROUP} of the characters A-Z a-z 0-9 - _ .");
        return Err(invalid("iotune.group_name", group, rule));
    }
    if group.starts_with(PRIVATE) {
        let rule = format!("names that begin with {PRIVATE} are those of single disks");
        return Err(invalid("iotune.group_name", group, rule));
    }
    if tune.limits().all(|(_, limit)| limit == 0) {
        let rule = "a group needs at least one limit";
        return Err(invalid("iotune.group_name", group, rule));
    }
    Ok(())
}

/// The `<iotune>` of a disk's XML; `None`: no limit.
pub(super) fn element(tune: &IoTune) -> Result<Option<Element>, HypervisorError> {
    if *tune == IoTune::default() {
        return Ok(None);
    }
    check_io_tune(tune)?;
    let limits = tune
        .limits()
        .map(|(key, value)| Element::new(key).with_text(value));
    let group = tune.group_name.as_ref();
    let group = group.map(|name| Element::new("group_name").with_text(name));
    Ok(Some(
        Element::new("iotune")
            .with_children(limits)
            .with_children(group),
    ))
}

/// The disk in each configuration of its scope that has it, with the configuration's flag.
fn found_in(domain: &Domain, disk: &DiskPlan) -> Result<Vec<(u32, DiskView)>, Error> {
    let mut found = Vec::new();
    let mut look = |flag: u32, xml_flags: u32| -> Result<(), Error> {
        let devices = Devices::read(&domain.xml_desc(xml_flags)?).ok();
        let shown = devices.and_then(|devices| devices.find(disk).cloned());
        found.extend(shown.map(|shown| (flag, shown)));
        Ok(())
    };
    if disk.scope.live() && domain.is_active()? {
        look(sys::VIR_DOMAIN_AFFECT_LIVE, 0)?;
    }
    if disk.scope.config() && domain.is_persistent()? {
        look(sys::VIR_DOMAIN_AFFECT_CONFIG, sys::VIR_DOMAIN_XML_INACTIVE)?;
    }
    Ok(found)
}

/// Sets all limits of the disk in each configuration of its scope that has it; `None` where none has it.
///
/// QEMU may wait for requests under way: it empties a disk's queue when its group changes or its limits end (`bdrv_drained_begin` in
/// block/block-backend.c).
pub(super) fn set(domain: &Domain, disk: &DiskPlan, tune: &IoTune) -> Result<Option<()>, Error> {
    let found = found_in(domain, disk)?;
    // libvirt keeps the limits, and the group, that a call leaves out.
    let limits: Vec<(&str, u64)> = IoTune::KEYS
        .iter()
        .map(|key| (*key, tune.get(key).unwrap_or(0)))
        .collect();
    let is_limited = limits.iter().any(|(_, limit)| *limit > 0);
    let group = is_limited.then(|| tune.group_name.as_deref().unwrap_or(&disk.alias));
    for (flag, shown) in &found {
        parameters::set_io_tune(domain, &shown.target, &limits, group, *flag)?;
    }
    Ok((!found.is_empty()).then_some(()))
}

/// The limits in force: those of the running domain, if it has the disk, else those of its persistent configuration. `None`: neither has the disk.
///
/// From the XML, which libvirt keeps in step: asked by `virDomainGetBlockIoTune`, QEMU looks at each image for its answer (`query-block`), and waits
/// for a server that is silent.
pub(super) fn read(domain: &Domain, disk: &DiskPlan) -> Result<Option<IoTune>, Error> {
    let shown = found_in(domain, disk)?.into_iter().next();
    Ok(shown.map(|(_, shown)| {
        let mut tune = shown.tune.map(|tune| *tune).unwrap_or_default();
        // Each limited disk is in a group: without a named one, in its own.
        let own = |name: &String| name.starts_with(PRIVATE);
        let ended = tune.limits().next().is_none();
        tune.group_name = tune.group_name.filter(|name| !own(name) && !ended);
        tune
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tune(limits: &[(&str, u64)]) -> IoTune {
        let mut tune = IoTune::default();
        for (key, value) in limits {
            assert!(tune.set(key, *value), "{key}");
        }
        tune
    }

    fn refused(limits: &[(&str, u64)]) -> String {
        check_io_tune(&tune(limits)).unwrap_err().to_string()
    }

    #[test]
    fn limits_that_qemu_cannot_have_are_refused_with_their_rule() {
        let refusals = [
            refused(&[("total_bytes_sec", 1), ("read_bytes_sec", 1)]),
            refused(&[
                ("total_iops_sec", 1),
                ("total_iops_sec_max", 2),
                ("write_iops_sec_max", 2),
            ]),
            refused(&[("read_bytes_sec_max", 5)]),
            refused(&[("read_bytes_sec", 5), ("read_bytes_sec_max", 4)]),
            refused(&[("read_iops_sec", 5), ("read_iops_sec_max_length", 4)]),
            refused(&[
                ("read_iops_sec", 5),
                ("read_iops_sec_max", 1_000_000_000_000),
                ("read_iops_sec_max_length", 1_001),
            ]),
            refused(&[("total_bytes_sec", MAX_LIMIT + 1)]),
            refused(&[("total_bytes_sec", 1), ("size_iops_sec", 4096)]),
        ];
        insta::assert_snapshot!(refusals.join("\n"));
    }

    #[test]
    fn a_group_has_a_name_and_a_limit() {
        let grouped = |name: &str, limits| IoTune {
            group_name: Some(name.to_owned()),
            ..tune(limits)
        };
        assert!(check_io_tune(&grouped("tenant-1", &[("total_iops_sec", 5)])).is_ok());
        for (name, limits) in [
            ("tenant-1", &[][..]),
            ("tenant-1", &[("total_iops_sec", 0)]),
            ("", &[("total_iops_sec", 5)]),
            ("a b", &[("total_iops_sec", 5)]),
            ("<x>", &[("total_iops_sec", 5)]),
            ("ua-volattach-a2", &[("total_iops_sec", 5)]),
        ] {
            assert!(
                check_io_tune(&grouped(name, limits)).is_err(),
                "{name:?} {limits:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_limits_are_checked_without_overflow(values in proptest::collection::vec(any::<u64>(), IoTune::KEYS.len())) {
            let limits: Vec<_> = IoTune::KEYS.iter().copied().zip(values).collect();
            let _ = check_io_tune(&tune(&limits));
        }
    }
}
