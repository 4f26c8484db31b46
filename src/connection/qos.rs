//! Limits that a Cinder volume type sets: its QoS specs.

use serde_json::{Map, Value};

use super::ConnectionError;
use super::cinder::Fields;
use crate::model::IoTune;

/// A GiB, by which Cinder counts a volume's size.
const GIB: u64 = 1 << 30;

/// The limits that Cinder knows by GiB (`_parse_connection_options` in cinder/volume/manager.py of Cinder 29.0.0).
const BY_SIZE: [&str; 6] = [
    "read_iops_sec",
    "read_bytes_sec",
    "write_iops_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "total_bytes_sec",
];

/// The QoS specs of a volume type, as far as they are this host's to enforce.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QosSpecs {
    fixed: IoTune,
    by_size: Vec<BySize>,
}

/// A limit that grows with the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BySize {
    key: &'static str,
    per_gib: u64,
    least: u64,
    most: Option<u64>,
}

impl QosSpecs {
    /// Reads QoS specs from what Cinder's API has of them. Specs that are not known are the storage's, and left out.
    ///
    /// # Errors
    /// If a known spec is no whole number.
    pub fn new(
        consumer: &str,
        specs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConnectionError> {
        let specs = specs
            .into_iter()
            .map(|(key, value)| (key, Value::from(value)));
        let specs: Map<String, Value> = specs.collect();
        Self::read(consumer, &Fields::new("qos_specs.", &specs))
    }

    /// The same from a document.
    pub(super) fn read(consumer: &str, specs: &Fields<'_>) -> Result<Self, ConnectionError> {
        let mut read = Self::default();
        if consumer == "back-end" {
            return Ok(read);
        }
        for key in IoTune::KEYS {
            // 0 is libvirt's word for no limit.
            if let Some(limit) = specs.number(key)?.filter(|limit| *limit != 0) {
                read.fixed.set(key, limit);
            }
        }
        for key in BY_SIZE {
            if let Some(per_gib) = specs.number(&format!("{key}_per_gb"))? {
                let least = specs.number(&format!("{key}_per_gb_min"))?.unwrap_or(0);
                let most = specs.number(&format!("{key}_max"))?;
                read.by_size.push(BySize {
                    key,
                    per_gib,
                    least,
                    most,
                });
            }
        }
        Ok(read)
    }

    /// Whether the limits depend on the volume's size.
    #[must_use]
    pub fn needs_size(&self) -> bool {
        !self.by_size.is_empty()
    }

    /// The limits that do not depend on the size. Cinder has the others computed in the connection info that it gives.
    pub(super) fn fixed(self) -> IoTune {
        self.fixed
    }

    /// The limits on a volume of that size. A GiB that was begun counts whole.
    #[must_use]
    pub fn limits(self, bytes: u64) -> IoTune {
        let gib = bytes.div_ceil(GIB);
        let mut limits = self.fixed;
        for BySize {
            key,
            per_gib,
            least,
            most,
        } in self.by_size
        {
            let limit = per_gib.saturating_mul(gib).max(least);
            limits.set(key, limit.min(most.unwrap_or(limit)));
            // Cinder uses it up: what is the bound of the growing limit is no burst.
            limits.clear(&format!("{key}_max"));
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(consumer: &str, specs: &[(&str, &str)]) -> Result<QosSpecs, ConnectionError> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        QosSpecs::new(consumer, specs.iter().map(owned))
    }

    fn limits(given: &[(&str, &str)], gib: u64) -> Vec<(&'static str, u64)> {
        let specs = specs("front-end", given).unwrap();
        let limits = specs.limits(gib * GIB);
        limits.limits().collect()
    }

    // Expected values: the same specs through Cinder 29.0.0's `_parse_connection_options`.
    #[test]
    fn limits_by_size_are_cinders() {
        let growing = [
            ("total_iops_sec_per_gb", "10"),
            ("total_iops_sec_per_gb_min", "100"),
            ("total_iops_sec_max", "300"),
        ];
        assert_eq!(limits(&growing, 1), [("total_iops_sec", 100)]);
        assert_eq!(limits(&growing, 20), [("total_iops_sec", 200)]);
        assert_eq!(limits(&growing, 500), [("total_iops_sec", 300)]);
        assert_eq!(
            limits(&growing[..1], u64::MAX / GIB),
            [("total_iops_sec", 171_798_691_830)]
        );
        let burst = [("total_iops_sec", "10"), ("total_iops_sec_max", "30")];
        assert_eq!(
            limits(&burst, 7),
            [("total_iops_sec", 10), ("total_iops_sec_max", 30)]
        );
    }

    #[test]
    fn a_begun_gib_counts_whole() {
        let specs = specs("both", &[("read_bytes_sec_per_gb", "3")]).unwrap();
        assert!(specs.needs_size());
        assert_eq!(specs.limits(GIB + 1).read_bytes_sec, Some(6));
    }

    #[test]
    fn specs_of_the_storage_are_no_limits_here() {
        let all = [
            ("total_iops_sec", "10"),
            ("read_iops_sec_per_gb", "1"),
            ("vendor:tier", "gold"),
        ];
        assert_eq!(specs("back-end", &all).unwrap(), QosSpecs::default());
        assert!(!specs("both", &all[2..]).unwrap().needs_size());
    }

    #[test]
    fn what_is_no_number_is_refused_by_name() {
        let refused = specs("both", &[("total_iops_sec_per_gb", "ten")]).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("qos_specs.total_iops_sec_per_gb"),
            "{refused}"
        );
    }
}
