//! Findings of a connect, kept beside the plan.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Connection, HostPlan, PathCount, TargetPath, Wwid};

/// Block device that a target's volume came to, with the identity that the device reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Device node, such as `/dev/sdb`; the kernel reuses the name.
    pub path: PathBuf,
    /// Identity that the device itself reported during the connect, the same on every path.
    pub identity: Wwid,
    /// Sequence number (`diskseq`, Linux 5.15) of the device that reported the identity: unique until the next boot. `None`: unknown.
    #[serde(default)]
    pub sequence: Option<u64>,
}

/// Block device of this host that the name of a local volume led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDevice {
    /// Device number (`dev_t`); the kernel reuses the number.
    pub number: u64,
    /// Sequence number, as in [`Device::sequence`].
    #[serde(default)]
    pub sequence: Option<u64>,
    /// Boot of this host (`/proc/sys/kernel/random/boot_id`) in which the device was found: both numbers are void in the next boot.
    #[serde(default)]
    pub boot: Option<String>,
    /// Identity that the kernel holds for the device. `None`: the kernel holds none, as for a loop device or a partition.
    #[serde(default)]
    pub identity: Option<Wwid>,
    /// Whether the volume was connected to this device: only then is the identity the volume's.
    #[serde(default)]
    pub connected: bool,
}

impl LocalDevice {
    /// Whether a name that led to this device now leads to the same one. Numbers are void after a reboot of the host: then the identity
    /// decides, or the name alone for a device that had none.
    #[must_use]
    pub fn is_same(&self, now: &Self) -> bool {
        if self.boot == now.boot {
            return (self.number, self.sequence) == (now.number, now.sequence);
        }
        self.identity.is_none() || self.identity == now.identity
    }

    /// Whether a device may take this one's place in an attachment: the same identity may come back by another number, as a logical volume
    /// that was deactivated does.
    #[must_use]
    pub fn may_be(&self, now: &Self) -> bool {
        match &self.identity {
            Some(_) => self.identity == now.identity,
            None => self.is_same(now),
        }
    }
}

/// Findings of a connect, unknown to any plan, by which the connection is taken down again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Found {
    /// Block device of the volume, once connected to a target.
    #[serde(default)]
    pub device: Option<Device>,
    /// Paths to the volume, if the plan's only portal reported more.
    #[serde(default)]
    pub paths: Vec<TargetPath>,
    /// Boot of this host (`/proc/sys/kernel/random/boot_id`) in which the numbers below, those of the device and what was done to it are valid.
    /// `None`: an earlier build attached the volume.
    #[serde(default)]
    pub boot: Option<String>,
    /// NVMe controllers, by inode number in sysfs, that existed before this attachment connected and that volattach had not made: those
    /// controllers stay.
    #[serde(default)]
    pub controllers_of_others: Vec<u64>,
    /// Disks, by sequence number, that existed at the volume's paths before this attachment connected and that volattach had not made:
    /// those disks stay.
    #[serde(default)]
    pub disks_of_others: Vec<u64>,
    /// Keyed hash of the login file when the share was mounted, to notice a later change. `None`: no login file exists, or the share was
    /// already mounted with an unknown login.
    #[serde(default)]
    pub login: Option<String>,
    /// Whether the block device is read-only, or about to be, only because of attachments, and becomes writable again after the last of
    /// them.
    #[serde(default)]
    pub protected: bool,
    /// Block device of a local volume. `None`: the volume is a file, or an earlier build attached it.
    #[serde(default)]
    pub local: Option<LocalDevice>,
}

impl Found {
    /// The device of a target's volume, if it is [`Self::protected`].
    #[must_use]
    pub fn protected_device(&self) -> Option<&Device> {
        self.device.as_ref().filter(|_| self.protected)
    }

    /// Takes over from a new survey of a connected volume this boot, the controllers and disks of others, and the numbers of the same local
    /// device, which a reboot changes.
    pub fn renew(&mut self, now: &Self) {
        self.boot.clone_from(&now.boot);
        self.controllers_of_others
            .clone_from(&now.controllers_of_others);
        self.disks_of_others.clone_from(&now.disks_of_others);
        if let (Some(local), Some(now_local)) = (&mut self.local, &now.local)
            && local.is_same(now_local)
        {
            *local = LocalDevice {
                connected: local.connected,
                ..now_local.clone()
            };
            self.protected |= now.protected;
        }
    }
}

/// A volume on this host, connected or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVolume {
    /// The plan, decided before the connect.
    pub plan: HostPlan,
    /// Findings of the connect.
    pub found: Found,
}

impl From<HostPlan> for HostVolume {
    /// A volume with a plan and no findings yet.
    fn from(plan: HostPlan) -> Self {
        Self {
            plan,
            found: Found::default(),
        }
    }
}

impl HostVolume {
    /// Whether the findings are of that boot of this host. In another boot the kernel's names and numbers belong to other devices, and nothing
    /// that volattach made still exists. True for a local volume, whose device tells its own boot, and for findings of an earlier build.
    #[must_use]
    pub fn is_of(&self, boot: &str) -> bool {
        let found = &self.found;
        found.local.is_some() || found.boot.as_ref().is_none_or(|it| it == boot)
    }

    /// Takes the findings into a boot of this host: forgets the name of the device in another, and that the device was made read-only there. The
    /// rest is found anew by the next connect ([`Found::renew`]).
    pub fn enter(&mut self, boot: &str) {
        if self.is_of(boot) {
            self.found.boot = Some(boot.to_owned());
            return;
        }
        self.found.protected = false;
        if let Some(device) = &mut self.found.device {
            device.path.clone_from(&self.plan.path);
            device.sequence = None;
        }
    }

    /// Path of the volume, once connected.
    #[must_use]
    pub fn path(&self) -> &Path {
        let device = self.found.device.as_ref();
        device.map_or(&self.plan.path, |device| &device.path)
    }

    /// Identity of the connected device, if any.
    #[must_use]
    pub fn identity(&self) -> Option<&Wwid> {
        let local = self.found.local.as_ref().filter(|local| local.connected);
        let device = self.found.device.as_ref().map(|device| &device.identity);
        device.or_else(|| local?.identity.as_ref())
    }

    /// Count of the paths to a volume on a target, if all of them work. `None`: the volume has no paths.
    #[must_use]
    pub fn all_paths(&self) -> Option<PathCount> {
        let (Connection::Iscsi(target) | Connection::Nvme(target)) = &self.plan.connection else {
            return None;
        };
        let paths = target.paths.len().max(self.found.paths.len());
        let planned = u32::try_from(paths).unwrap_or(u32::MAX);
        Some(PathCount {
            working: planned,
            planned,
        })
    }

    /// Sequence number of the block device on which the volume was verified, if any.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        let local = self.found.local.as_ref();
        match &self.found.device {
            Some(device) => device.sequence,
            None => local?.sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A survey after a reboot: the numbers are new, and the device must be made read-only again.
    #[test]
    fn a_survey_renews_the_numbers_of_the_same_device_alone() {
        let device = |number, boot: &str, identity: &str| LocalDevice {
            number,
            sequence: Some(number),
            boot: Some(boot.to_owned()),
            identity: Some(Wwid::as_spelled(identity.to_owned())),
            connected: false,
        };
        let was = Found {
            local: Some(LocalDevice {
                connected: true,
                ..device(1, "a", "LVM-x")
            }),
            ..Found::default()
        };
        for (identity, renewed) in [("LVM-x", true), ("LVM-y", false)] {
            let now = Found {
                local: Some(device(2, "b", identity)),
                controllers_of_others: vec![3],
                protected: true,
                ..Found::default()
            };
            let mut found = was.clone();
            found.renew(&now);
            let local = found.local.unwrap();
            assert_eq!((local.number == 2, found.protected), (renewed, renewed));
            assert!(local.connected);
            assert_eq!(found.controllers_of_others, [3]);
        }
    }
}
