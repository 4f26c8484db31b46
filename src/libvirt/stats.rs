//! The I/O that guests did on their disks.
//!
//! Each disk is asked about by itself, although libvirt reports all disks of all domains in one call: for the sizes in that report QEMU looks
//! at each image file under the lock that the guest's processors need (`bdrv_query_image_info` in block/qapi.c), so that a silent server
//! would stop its guests in each round (decision 025). The counters alone are in QEMU's memory; those of Xen are the backend driver's, in
//! sysfs (`libxlDomainBlockStatsVBD` in src/libxl/libxl_driver.c).

use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::parameters;
use super::view::Devices;
use crate::model::{DiskIo, DiskPlan};

/// Takes over a counter; those that are not known are passed over.
fn set(io: &mut DiskIo, name: &str, value: u64) {
    let counts = [
        (sys::VIR_DOMAIN_BLOCK_STATS_READ_BYTES, &mut io.read.bytes),
        (sys::VIR_DOMAIN_BLOCK_STATS_READ_REQ, &mut io.read.requests),
        (
            sys::VIR_DOMAIN_BLOCK_STATS_READ_TOTAL_TIMES,
            &mut io.read.nanoseconds,
        ),
        (sys::VIR_DOMAIN_BLOCK_STATS_WRITE_BYTES, &mut io.write.bytes),
        (
            sys::VIR_DOMAIN_BLOCK_STATS_WRITE_REQ,
            &mut io.write.requests,
        ),
        (
            sys::VIR_DOMAIN_BLOCK_STATS_WRITE_TOTAL_TIMES,
            &mut io.write.nanoseconds,
        ),
        (
            sys::VIR_DOMAIN_BLOCK_STATS_FLUSH_REQ,
            &mut io.flush.requests,
        ),
        (
            sys::VIR_DOMAIN_BLOCK_STATS_FLUSH_TOTAL_TIMES,
            &mut io.flush.nanoseconds,
        ),
    ];
    for (known, place) in counts {
        if known.to_bytes() == name.as_bytes() {
            *place = Some(value);
        }
    }
}

/// The I/O on these disks, in their order; `None` for a disk that the running domain does not have, or that nobody counts for, as for an
/// image that the device model of a Xen domain serves.
pub(super) fn read(domain: &Domain, disks: &[DiskPlan]) -> Result<Vec<Option<DiskIo>>, Error> {
    let none = || Ok(disks.iter().map(|_| None).collect());
    if !domain.is_active()? {
        return none();
    }
    let Ok(devices) = Devices::read(&domain.xml_desc(0)?) else {
        return none();
    };
    disks
        .iter()
        .map(|disk| match devices.find(disk) {
            Some(shown) => of_target(domain, &shown.target),
            None => Ok(None),
        })
        .collect()
}

fn of_target(domain: &Domain, target: &str) -> Result<Option<DiskIo>, Error> {
    match parameters::block_stats(domain, target) {
        Ok(counters) => {
            let mut io = DiskIo::default();
            for (name, value) in counters {
                set(&mut io, &name, value);
            }
            Ok(Some(io))
        }
        // The disk or the domain has gone since, or the disk's driver counts nothing.
        Err(error)
            if [
                sys::VIR_ERR_INVALID_ARG,
                sys::VIR_ERR_OPERATION_FAILED,
                sys::VIR_ERR_OPERATION_INVALID,
                sys::VIR_ERR_OPERATION_UNSUPPORTED,
            ]
            .contains(&error.code().to_raw()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IoCounts;

    #[test]
    fn counters_are_taken_by_libvirts_names() {
        let mut io = DiskIo::default();
        for (name, value) in [
            ("rd_bytes", 1),
            ("rd_operations", 2),
            ("rd_total_times", 3),
            ("wr_bytes", 4),
            ("wr_operations", 5),
            ("wr_total_times", 6),
            ("flush_operations", 7),
            ("flush_total_times", 8),
            ("errs", 9),
        ] {
            set(&mut io, name, value);
        }
        let counts = |bytes, requests, nanoseconds| IoCounts {
            bytes,
            requests: Some(requests),
            nanoseconds: Some(nanoseconds),
        };
        let expected = DiskIo {
            read: counts(Some(1), 2, 3),
            write: counts(Some(4), 5, 6),
            flush: counts(None, 7, 8),
        };
        assert_eq!(io, expected);
    }
}
