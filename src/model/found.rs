//! What connecting a volume found, beside what was decided.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{HostPlan, TargetPath, Wwid};

/// The block device that a volume came to, which told who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its node, such as `/dev/sdb`: a name that the kernel gives again.
    pub path: PathBuf,
    /// Its own word, fresh, the same on every path.
    pub identity: Wwid,
    /// The number of the device that told so (`diskseq`, Linux 5.15): the kernel gives it to no other until the next boot. `None`:
    /// not known.
    #[serde(default)]
    pub sequence: Option<u64>,
}

/// The block device of this host to which the name of a local volume led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDevice {
    /// Its device number (`dev_t`), which the kernel gives again.
    pub number: u64,
    /// As [`Device::sequence`].
    #[serde(default)]
    pub sequence: Option<u64>,
    /// In which boot of this host it was found (`/proc/sys/kernel/random/boot_id`): the numbers say nothing in the next one.
    #[serde(default)]
    pub boot: Option<String>,
    /// What the kernel holds for its identity; `None`: it has none, as a loop device or a partition.
    #[serde(default)]
    pub identity: Option<Wwid>,
    /// Whether the volume was connected to it, by which the identity is the volume's.
    #[serde(default)]
    pub connected: bool,
}

/// What a connect found, which no plan could know and by which the connection is taken down again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Found {
    /// The volume's block device, once a target's was connected.
    #[serde(default)]
    pub device: Option<Device>,
    /// The ways to the volume, where the plan's one portal told of others.
    #[serde(default)]
    pub paths: Vec<TargetPath>,
    /// The portals to which others than volattach had connections before this attachment connected: those stay. `None`: nobody looked.
    #[serde(default)]
    pub others: Option<Vec<String>>,
    /// The disks that were at the volume's paths before this attachment connected, and that volattach had not made, by their number: those
    /// stay.
    #[serde(default)]
    pub disks_of_others: Vec<u64>,
    /// What the file with the login said when the share was mounted, as a keyed hash tells it from what it says later; `None`: there is
    /// no such file, or this attachment found the share mounted and nobody knew with what.
    #[serde(default)]
    pub login: Option<String>,
    /// Whether the volume's block device is read-only for attachments alone, and writable when the last of them has gone.
    #[serde(default)]
    pub protected: bool,
    /// The block device of a local volume. `None`: it is a file, or an earlier build attached it.
    #[serde(default)]
    pub local: Option<LocalDevice>,
}

/// A volume on this host, connected or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVolume {
    /// What was decided.
    pub plan: HostPlan,
    /// What was found.
    pub found: Found,
}

impl From<HostPlan> for HostVolume {
    /// One of which nothing is found yet.
    fn from(plan: HostPlan) -> Self {
        Self {
            plan,
            found: Found::default(),
        }
    }
}

impl HostVolume {
    /// Where it is, once connected.
    #[must_use]
    pub fn path(&self) -> &Path {
        let device = self.found.device.as_ref();
        device.map_or(&self.plan.path, |device| &device.path)
    }

    /// The identity that its device has told, where there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Wwid> {
        let local = self.found.local.as_ref().filter(|local| local.connected);
        let device = self.found.device.as_ref().map(|device| &device.identity);
        device.or_else(|| local?.identity.as_ref())
    }

    /// The number of the block device that it was verified on, where there is one.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        let local = self.found.local.as_ref();
        match &self.found.device {
            Some(device) => device.sequence,
            None => local?.sequence,
        }
    }
}
