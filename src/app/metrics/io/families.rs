//! The figures of I/O: their names, meanings and labels.

use std::collections::BTreeMap;
use std::fmt;

use crate::app::metrics::families::Writer;
use crate::model::{AttachmentId, VolumeId};
use crate::model::{DiskIo, IoCounts};
use crate::sys::shares::{Share, ShareIo};

/// A label whose value somebody may have chosen.
pub(in crate::app::metrics) type ChosenLabel = (&'static str, String);

/// The I/O as it was read last.
#[derive(Debug, Clone, Default)]
pub(in crate::app::metrics) struct IoSnapshot {
    /// By attachment, with the volume where it is to be shown.
    pub(in crate::app::metrics) disks: Vec<(AttachmentId, Option<VolumeId>, DiskIo)>,
    pub(in crate::app::metrics) shares: BTreeMap<Share, ShareIo>,
    /// Seconds since the oldest of the values was read; `None`: none was.
    pub(in crate::app::metrics) ages: [(&'static str, Option<u64>); 2],
    /// Those beyond the most that have figures.
    pub(in crate::app::metrics) left_out: [(&'static str, u64); 2],
}

/// prometheus-client 0.24 writes a label's value as it is (OpenMetrics 1.0, "escaped-string").
fn escaped(value: &str) -> String {
    let value = value.replace('\\', r"\\").replace('"', "\\\"");
    value.replace('\n', r"\n")
}

impl IoSnapshot {
    pub(in crate::app::metrics) fn write(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.chosen(
            "volattach_disk_bytes",
            "Bytes that guests read from and wrote to attached disks.",
            self.of_disks(|counts| counts.bytes),
        )?;
        to.chosen(
            "volattach_disk_requests",
            "Requests of guests to attached disks.",
            self.of_disks(|counts| counts.requests),
        )?;
        let seconds = self.of_disks(|counts| counts.nanoseconds);
        to.chosen(
            "volattach_disk_request_seconds",
            "How long requests of guests to attached disks took, added up.",
            seconds.map(|(labels, nanoseconds)| (labels, nanoseconds as f64 / 1e9)),
        )?;
        let bytes = self.shares.iter().flat_map(|(share, io)| {
            let each = [("read", io.read_bytes), ("write", io.written_bytes)];
            each.into_iter().filter_map(|(operation, bytes)| {
                let mut labels = of_share(share);
                labels.push(("operation", operation.to_owned()));
                Some((labels, bytes?))
            })
        });
        to.chosen(
            "volattach_share_bytes",
            "Bytes that this host read from and wrote to servers of mounted shares.",
            bytes,
        )?;
        let each = |value: fn(&ShareIo) -> Option<u64>| {
            let shares = self.shares.iter();
            shares.filter_map(move |(share, io)| Some((of_share(share), value(io)?)))
        };
        to.chosen(
            "volattach_share_operations",
            "Operations of this host on mounted shares.",
            each(|io| Some(io.operations)),
        )?;
        to.chosen(
            "volattach_share_failed_operations",
            "Operations that failed, those included that only found that a file is not there.",
            each(|io| Some(io.failed)),
        )?;
        to.chosen(
            "volattach_share_retransmissions",
            "Requests that were sent again because no answer came: NFS.",
            each(|io| io.retransmissions),
        )?;
        let ages = self.ages.iter();
        to.gauge(
            "volattach_io_age_seconds",
            "How long ago the oldest of these values was read.",
            ages.filter_map(|(source, age)| Some(([("source", *source)], (*age)?))),
        )?;
        let left_out = self.left_out.iter();
        to.gauge(
            "volattach_io_left_out",
            "Disks and shares that have no figures because there are too many.",
            left_out.map(|(source, number)| ([("source", *source)], *number)),
        )
    }

    /// A counter of each disk and operation that is counted.
    fn of_disks(
        &self,
        value: fn(&IoCounts) -> Option<u64>,
    ) -> impl Iterator<Item = (Vec<ChosenLabel>, u64)> {
        self.disks.iter().flat_map(move |(id, volume, io)| {
            let each = [("read", io.read), ("write", io.write), ("flush", io.flush)];
            each.into_iter().filter_map(move |(operation, counts)| {
                let value = value(&counts)?;
                let mut labels = vec![("attachment", id.to_string())];
                labels.extend(volume.iter().map(|volume| ("volume", volume.to_string())));
                labels.push(("operation", operation.to_owned()));
                Some((labels, value))
            })
        })
    }
}

fn of_share(share: &Share) -> Vec<ChosenLabel> {
    vec![
        ("backend", share.protocol.to_owned()),
        ("server", escaped(&share.server)),
        ("share", escaped(&share.share)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_s_value_ends_where_it_ends() {
        assert_eq!(escaped("a\\b\"c\nd"), r#"a\\b\"c\nd"#);
    }
}
