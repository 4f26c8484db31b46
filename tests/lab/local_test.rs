//! Volumes of the node itself: a block device by the link that udev makes for it, and a file.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Lab, Test, agent::Agent, guest, node::Node};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "local_device_and_file",
        run: device_and_file,
    },
    Test {
        name: "identity_two_attachments_of_one_volume",
        run: two_of_one,
    },
];

const MIB: u64 = 1 << 20;
const HEAD: &str = "sixteen bytes...";

/// A loop device over a file, and a link to it in a directory of its own; gone when this is dropped.
struct Device<'node> {
    node: &'node Node,
}

impl<'node> Device<'node> {
    fn new(node: &'node Node) -> Result<Self> {
        let device = Self { node };
        node.sh(&format!(
            "mkdir -p /srv/local/files /dev/lab-vg && cd /srv/local
             for file in disk files/v.raw outside.raw; do printf %s '{HEAD}' >$file; truncate -s 8M $file; done
             losetup -f disk && ln -s ..$(losetup -nO NAME -j disk | sed s,/dev,,) /dev/lab-vg/vol"
        ))?;
        Ok(device)
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // Where it was not made there is nothing to remove.
        let _ = self
            .node
            .sh("umount -q /srv/local/used; losetup -d $(readlink -f /dev/lab-vg/vol); rm -rf /dev/lab-vg /srv/local");
    }
}

fn info(path: &str) -> Value {
    json!({"driver_volume_type": "local", "data": {"device_path": path}})
}

/// Read-write and read-only, grown, and nothing that the deployer has not named.
pub(crate) fn device_and_file(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(
        node,
        "[local]\nroots = [\"/dev/lab-vg\", \"/srv/local/files\"]\n",
    )?;
    let _device = Device::new(node)?;
    agent.attach("a1", "device", &info("/dev/lab-vg/vol"), &[])??;
    let file = info("/srv/local/files/v.raw");
    agent.attach("a2", "file", &file, &["--access", "ro"])??;
    let disk = guest::sees(node, "device")?;
    ensure!(
        disk.head == guest::hex(HEAD) && disk.write == Ok(()),
        "{disk:?}"
    );
    let disk = guest::sees(node, "file")?;
    ensure!(
        disk.head == guest::hex(HEAD) && disk.read_only && disk.write.is_err(),
        "{disk:?}"
    );

    node.sh("truncate -s 12M /srv/local/disk && losetup -c $(readlink -f /dev/lab-vg/vol)")?;
    ensure!(agent.extend("a1", 12 * MIB)?? == 12 * MIB);
    guest::sees_bytes(node, "device", 12 * MIB)?;
    for id in ["a1", "a2"] {
        agent.detach(id)??;
    }
    let written = node.sh(&format!(
        "tail -c +{} /srv/local/disk | head -c 24",
        guest::WRITTEN_AT + 1
    ))?;
    ensure!(written == "volattach-guest-was-here", "{written:?}");

    let read_only = || node.sh("blockdev --getro /dev/lab-vg/vol");
    let device = info("/dev/lab-vg/vol");
    agent.attach("a1", "device", &device, &["--access", "ro"])??;
    let disk = guest::sees(node, "device")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    ensure!(read_only()? == "1", "whoever else opens it may write");
    // The name leads to another device: a repeated call gives the guest nothing of that one, and takes nothing away.
    let moves = |to: &str| {
        node.sh(&format!(
            "cd /srv/local && ln -sfn ..$(losetup -nO NAME -j {to} | sed s,/dev,,) /dev/lab-vg/vol"
        ))
    };
    node.sh("cd /srv/local && truncate -s 8M other && losetup -f other")?;
    moves("other")?;
    let moved = agent.attach("a1", "device", &device, &["--access", "ro"])?;
    moves("disk")?;
    let moved = moved.err().context("the guest got another device")?;
    ensure!(moved.reason == "DEVICE_IDENTITY", "{moved:?}");
    ensure!(guest::sees(node, "device")?.head == guest::hex(HEAD));
    node.sh("losetup -d $(losetup -nO NAME -j /srv/local/other)")?;
    agent.detach("a1")??;
    ensure!(read_only()? == "0", "nobody may write it any more");

    // A device that the node itself uses cannot be attached.
    node.sh("mkfs.ext4 -q /dev/lab-vg/vol && mkdir -p /srv/local/used && mount /dev/lab-vg/vol /srv/local/used")?;
    for access in ["rw", "ro"] {
        let used = info("/dev/lab-vg/vol");
        let refused = agent.attach("a3", "used", &used, &["--access", access])?;
        let refused = refused.err().context("a mounted device was attached")?;
        ensure!(refused.reason == "DEVICE_BUSY", "{refused:?}");
        ensure!(read_only()? == "0", "it is taken from who uses it");
    }
    node.sh("umount /srv/local/used")?;

    for (path, reason) in [
        ("/srv/local/outside.raw", "VOLUME_PATH_UNSAFE"),
        ("/srv/local/files/../outside.raw", "VOLUME_PATH_UNSAFE"),
        ("/dev/vda", "VOLUME_PATH_UNSAFE"),
        ("/srv/local/files/none", "VOLUME_NOT_FOUND"),
        ("/dev/lab-vg/none", "VOLUME_NOT_FOUND"),
    ] {
        let refused = agent.attach("a3", "refused", &info(path), &[])?.err();
        let refused = refused.with_context(|| format!("{path} was attached"))?;
        ensure!(refused.reason == reason, "{path}: {refused:?}");
    }
    Ok(())
}

/// Two readers attach one volume to one domain, and the first reader's disk is unplugged by hand: the second reader's disk is not taken for
/// the first reader's, and stays when the first attachment is detached.
pub(crate) fn two_of_one(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local/files\"]\n")?;
    let _device = Device::new(node)?;
    let attach = |id| {
        let file = info("/srv/local/files/v.raw");
        agent.attach(id, "file", &file, &["--access", "ro"])
    };
    let first = attach("x")??;
    guest::sees(node, "file")?;
    let target = first["target"].as_str().context("a disk has a target")?;
    node.sh(&format!("virsh -q detach-disk inner {target} --live"))?;
    guest::gone(node, "file")?;
    attach("y")??;
    ensure!(guest::sees(node, "file")?.head == guest::hex(HEAD));
    // The start reconciles the journal with the host.
    node.sh("systemctl restart volattachd.service")?;
    agent.shows("x", "DISK_LOST")?;
    agent.detach("x")??;
    ensure!(guest::sees(node, "file")?.head == guest::hex(HEAD));
    let left = node.sh("virsh -q domblklist inner | grep -c v.raw")?;
    ensure!(left == "1", "{left} disks are left");
    agent.detach("y")??;
    guest::gone(node, "file")
}
