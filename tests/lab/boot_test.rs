//! A guest that boots from a volume: firmware, boot loader, kernel and all of it from an SMB share and an NFS export.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Lab, Test,
    agent::Agent,
    nfs_servers::NfsServer,
    node::Node,
    process::quote,
    servers::{SmbServer, smb_info},
};

/// Some three minutes: each guest's firmware reads its kernel through an emulated processor.
pub(crate) const SOAK: &[Test] = &[Test {
    name: "boot_from_volumes_on_servers",
    run: boot,
}];

const PATIENCE: Duration = Duration::from_secs(300);

/// A disk with a boot loader (extlinux), and the lab's guest as the system that it starts.
const DISK: &str = "/srv/lab-boot/boot.raw";

fn boot(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    make_disk(node)?;
    let agent = Agent::start(node, "")?;
    let smb = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    smb.user("bob", "pw")?;
    let nfs = NfsServer::start(node, "filer", 11, "rw", "")?;
    let on_smb = smb.path("vols", "boot.raw");
    let on_nfs = nfs.path("boot.raw");
    node.sh(&format!(
        "cp {DISK} {smb} && chmod 666 {smb} && cp {DISK} {nfs} && chown libvirt-qemu: {nfs} && rm -r /srv/lab-boot",
        smb = quote(&on_smb),
        nfs = quote(&on_nfs)
    ))?;
    let smb = smb_info(&smb, "vols", "boot.raw", "-o username=bob,password=pw");
    for (id, info, path) in [
        ("smb", smb, on_smb),
        ("nfs", nfs.info("boot.raw", ""), on_nfs),
    ] {
        boots(node, &agent, id, &info, &path).with_context(|| format!("from {id}"))?;
    }
    Ok(())
}

fn make_disk(node: &Node) -> Result<()> {
    node.sh(&format!(
        "set -e
         mkdir -p /srv/lab-boot/root
         cd /srv/lab-boot
         truncate -s 64M {DISK}
         echo ',,L,*' | sfdisk -q {DISK}
         loop=$(losetup -Pf --show {DISK})
         udevadm settle
         mkfs.ext4 -q -O ^64bit ${{loop}}p1
         mount ${{loop}}p1 root
         cp /usr/local/share/lab/guest/vmlinuz /usr/local/share/lab/guest/initrd.img root/
         printf 'DEFAULT lab\\nLABEL lab\\n KERNEL /vmlinuz\\n INITRD /initrd.img\\n APPEND %s\\n' \\
             \"$(cat /usr/local/share/lab/guest/cmdline)\" >root/extlinux.conf
         extlinux --install root >&2
         umount root
         losetup -d $loop
         dd if=/usr/lib/EXTLINUX/mbr.bin of={DISK} conv=notrunc status=none"
    ))
    .map(drop)
}

/// Connects the volume, and starts a domain with the disk of the answer. Without `x` in the volume's permissions, nobody boots from it.
fn boots(node: &Node, agent: &Agent<'_>, id: &str, info: &Value, path: &str) -> Result<()> {
    let options = |permissions| {
        let owner = ["--user", "uid:0", "--permissions", permissions];
        [owner.as_slice(), &["--boot-order", "1"]].concat()
    };
    let refused = agent.connect(id, id, info, &options("660"))?.err();
    let refused = refused.context("a volume without x was connected to boot from")?;
    ensure!(refused.reason == "PERMISSION_DENIED", "{refused:?}");

    let connected = agent.connect(id, id, info, &options("770"))??;
    let disk = connected["disk_xml"].as_str().context("no disk XML")?;
    ensure!(disk.contains("<boot order=\"1\"/>"), "{disk}");
    node.write("/run/lab-disk.xml", disk.as_bytes())?;
    node.sh(
        "set -e
         [ -e /dev/kvm ] && type=kvm || type=qemu
         sed -e '/<!--/d; /<kernel>/d; /<initrd>/d; /<cmdline>/d' -e \"s/TYPE/$type/; s/NAME/booted/\" \\
             -e '/<devices>/r /run/lab-disk.xml' /usr/local/share/lab/guest-kvm.xml >/run/booted.xml
         virsh -q define /run/booted.xml
         virsh -q start booted",
    )?;
    let result = node.wait(
        "the guest has booted and writes to its disk",
        "tr -d '\\r' </var/log/lab/booted.console | grep -q '^GUEST disk=vda .* write=ok$'",
        PATIENCE,
    );
    let console = node.sh("tail -n 20 /var/log/lab/booted.console")?;
    node.sh("virsh -q destroy booted; virsh -q undefine booted; rm -f /var/log/lab/booted.console /run/booted.xml /run/lab-disk.xml")?;
    result.with_context(|| format!("its console ends with: {console}"))?;
    let pattern = format!("volattach-guest-was-here {id}");
    let written = node.sh(&format!(
        "dd if={} bs=4096 skip=1 count=1 status=none | tr -d '\\0'",
        quote(path)
    ))?;
    ensure!(written.trim() == pattern, "{written}");
    agent.call(&["disconnect", id], "")??;
    Ok(())
}
