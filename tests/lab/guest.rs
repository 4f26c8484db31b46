//! What the inner guest says about its disks (see guest/init for the lines on its console).

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    node::Node,
    process::wait_for,
    profile::{self, Activity},
};

/// A disk as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The guest's name for it, such as `vda`.
    pub(crate) name: String,
    /// In sectors of 512 bytes.
    pub(crate) sectors: u64,
    pub(crate) read_only: bool,
    /// Its serial, as the guest tells it; on Xen, which has none, its name.
    pub(crate) serial: String,
    /// Which disk it is: its serial; on Xen the volume for which libvirt has it, if it has it for one.
    pub(crate) known_as: String,
    /// The first 16 bytes as found, in hexadecimal.
    pub(crate) head: String,
    /// Why the guest could not write, if so.
    pub(crate) write: Result<(), String>,
}

impl Disk {
    /// Whether libvirt has the disk for a volume, where that is asked.
    fn is_known(&self) -> bool {
        self.known_as != self.name
    }

    /// What the guest has written at [`WRITTEN_AT`] if it could write.
    pub(crate) fn pattern(&self) -> String {
        format!("volattach-guest-was-here {}\n", self.serial)
    }
}

/// Where in a disk the guest tries to write, in bytes.
pub(crate) const WRITTEN_AT: u64 = 4096;

/// What a disk begins with, as the guest tells it.
pub(crate) fn hex(head: &str) -> String {
    head.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The guest that every node has, running.
const INNER: &str = "inner";

/// The disks that the guest has, by its names for them.
pub(crate) fn disks(node: &Node) -> Result<BTreeMap<String, Disk>> {
    disks_of(node, INNER)
}

fn disks_of(node: &Node, domain: &str) -> Result<BTreeMap<String, Disk>> {
    let console = format!("cat /var/log/lab/{domain}.console");
    let output = node.run(&console, b"", Duration::from_secs(180))?;
    let mut disks = parse(&output.stdout)?;
    if node.kind.is_xen() {
        let xml = node.sh(&format!("virsh dumpxml {domain}"))?;
        for disk in disks.values_mut() {
            if let Some(attachment) = attachment_at(&xml, &disk.name) {
                disk.known_as = node.volume_of(&attachment).unwrap_or(attachment);
            }
        }
    }
    Ok(disks)
}

/// The id of the attachment whose disk is at that target, by the disk's serial.
fn attachment_at(domain: &str, target: &str) -> Option<String> {
    let disk = domain
        .split("<disk ")
        .find(|disk| disk.contains(&format!("<target dev='{target}'")))?;
    let (_, serial) = disk.split_once("<serial>ua-volattach-")?;
    Some(serial.split_once("</serial>")?.0.to_owned())
}

/// Waits until the guest has reported a disk with this serial.
pub(crate) fn sees(node: &Node, serial: &str) -> Result<Disk> {
    sees_in(node, INNER, serial)
}

fn sees_in(node: &Node, domain: &str, serial: &str) -> Result<Disk> {
    profile::span(Activity::Guest, "sees a disk", || {
        wait_for(
            &format!("the guest {domain} sees disk {serial:?}"),
            Duration::from_secs(180),
            || {
                Ok(disks_of(node, domain)?
                    .into_values()
                    .find(|disk| disk.known_as == serial))
            },
        )
    })
}

/// Waits until the guest sees the disk with this serial at so many bytes.
pub(crate) fn sees_bytes(node: &Node, serial: &str, bytes: u64) -> Result<()> {
    wait_for(
        &format!("the guest sees {bytes} bytes of disk {serial:?}"),
        Duration::from_secs(180),
        || {
            let mut disks = disks(node)?.into_values();
            Ok(disks
                .any(|disk| disk.known_as == serial && disk.sectors == bytes / 512)
                .then_some(()))
        },
    )
}

/// Waits until the guest has no disk with this serial. On Xen, where libvirt has forgotten which that was, nor any that libvirt
/// does not have.
pub(crate) fn gone(node: &Node, serial: &str) -> Result<()> {
    profile::span(Activity::Guest, "has lost a disk", || {
        wait_for(
            &format!("disk {serial:?} is gone from the guest"),
            Duration::from_secs(180),
            || {
                Ok(disks(node)?
                    .values()
                    .all(|disk| disk.known_as != serial && (!node.kind.is_xen() || disk.is_known()))
                    .then_some(()))
            },
        )
    })
}

/// One more guest, just like the inner one, until this is dropped.
pub(crate) struct Second<'node> {
    node: &'node Node,
}

impl<'node> Second<'node> {
    /// Its domain.
    pub(crate) const NAME: &'static str = "second";

    /// Starts it, and waits until it is up.
    pub(crate) fn start(node: &'node Node) -> Result<Self> {
        Self::start_as(node, "")
    }

    /// The same in a Xen node, where there are several kinds: pv, pv-qemu, pvh and hvm (see lab-guest).
    pub(crate) fn start_as(node: &'node Node, kind: &str) -> Result<Self> {
        let second = Self { node };
        let script = format!("lab-guest start {} {kind}", Self::NAME);
        let output = profile::span(Activity::GuestBoot, kind, || {
            node.run(&script, b"", Duration::from_secs(240))
        })?;
        ensure!(output.status.success(), "{script}: {}", output.stderr);
        Ok(second)
    }

    /// How long a guest of the kind `ticks` stood still each time since line `since` of its console, in hundredths of a second, the longest
    /// first. Less than half a second does not count.
    pub(crate) fn gaps(&self, since: u32) -> Result<Vec<u32>> {
        let script = format!(
            "tail -n +{} /var/log/lab/{}.console | tr -d '\\r' | sed -n 's/^GUEST gap=//p' | sort -rn",
            since + 1,
            Self::NAME
        );
        let gaps = self.node.sh(&script)?;
        gaps.lines().map(|gap| Ok(gap.parse()?)).collect()
    }

    /// The disks that it has, by its names for them.
    pub(crate) fn disks(&self) -> Result<BTreeMap<String, Disk>> {
        disks_of(self.node, Self::NAME)
    }

    /// The number of lines on its console.
    pub(crate) fn lines(&self) -> Result<u32> {
        let script = format!("wc -l </var/log/lab/{}.console", Self::NAME);
        Ok(self.node.sh(&script)?.parse()?)
    }

    /// As [`sees`].
    pub(crate) fn sees(&self, serial: &str) -> Result<Disk> {
        sees_in(self.node, Self::NAME, serial)
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        // Where it did not even start there is nothing to end.
        let _ = self.node.sh(&format!("lab-guest end {}", Self::NAME));
    }
}

/// Plays the console's events through.
fn parse(console: &str) -> Result<BTreeMap<String, Disk>> {
    let mut disks = BTreeMap::<String, Disk>::new();
    // A line without its end is still being written.
    let complete = console.rfind('\n').map_or("", |end| &console[..end]);
    for line in complete.lines().map(|line| line.trim_end_matches('\r')) {
        ensure!(!line.starts_with("GUEST error"), "the guest says: {line}");
        if let Some(name) = line.strip_prefix("GUEST gone=") {
            disks.remove(name);
        } else if let Some(resized) = line.strip_prefix("GUEST resized=") {
            let (name, sectors) = resized.split_once(" size=").context("no size")?;
            let disk = disks.get_mut(name);
            disk.context("an unknown disk")?.sectors = sectors.parse()?;
        } else if line.starts_with("GUEST disk=") {
            let disk = disk(line).with_context(|| format!("the guest says: {line:?}"))?;
            disks.insert(disk.name.clone(), disk);
        }
    }
    Ok(disks)
}

fn disk(line: &str) -> Option<Disk> {
    // A serial may hold anything, so it is what is between its neighbours.
    let (name, rest) = line.strip_prefix("GUEST disk=")?.split_once(" size=")?;
    let (sectors, rest) = rest.split_once(" ro=")?;
    let (read_only, rest) = rest.split_once(" serial=")?;
    let (rest, write) = rest.rsplit_once(" write=")?;
    let (serial, head) = rest.rsplit_once(" head=")?;
    Some(Disk {
        name: name.to_owned(),
        sectors: sectors.parse().ok()?,
        read_only: read_only == "1",
        serial: serial.to_owned(),
        known_as: serial.to_owned(),
        head: head.to_owned(),
        write: if write == "ok" {
            Ok(())
        } else {
            Err(write.strip_prefix("failed:")?.to_owned())
        },
    })
}
