//! Images of every kind of format: what is declared is checked, and what is not declared is raw, whatever it begins with.

use anyhow::{Result, ensure};

use super::{Witness, local, refused};
use crate::{Lab, agent::Agent, guest};

/// Made by qemu-img where it can, by hand where not; each of 4 MiB or less.
const MAKE: &str = r#"set -e
cd /srv/local
img() { qemu-img create -q "$@" 4M >/dev/null; }
img -f raw base.raw
img -f qcow2 whole2.qcow2 -o compat=0.10
img -f qcow2 whole3.qcow2
img -f qcow2 snapshot.qcow2; qemu-img snapshot -c s snapshot.qcow2
img -f qcow2 -u -b /etc/shadow -F raw backed2.qcow2 -o compat=0.10
img -f qcow2 -u -b /etc/shadow -F raw backed3.qcow2
img -f qcow2 -u -b 'json:{"driver":"file","filename":"/etc/shadow"}' -F raw backed-json.qcow2
img -f qcow2 -o data_file=data.raw,data_file_raw=on data.qcow2
for at in 'feature 72 \x80' 'extension 116 \x7f\xff\xff\xff' 'version 7 \x09' 'clusters 23 \x3f' 'l1 40 \xff'; do
    set -- $at; cp whole3.qcow2 $1.qcow2; printf "$3" | dd of=$1.qcow2 bs=1 seek=$2 conv=notrunc status=none
done
img -f vmdk whole.vmdk
img -f vmdk -o subformat=streamOptimized stream.vmdk
img -f vmdk -o subformat=monolithicFlat flat.vmdk
img -f vmdk -o subformat=twoGbMaxExtentSparse two.vmdk
img -f vmdk -u -b base.vmdk -F vmdk parent.vmdk 2>/dev/null || { img -f vmdk base.vmdk; img -f vmdk -b base.vmdk -F vmdk parent.vmdk; }
img -f vpc dynamic.vhd
img -f vpc -o subformat=fixed fixed.vhd
cp dynamic.vhd parent.vhd
for at in 63 $(($(stat -c %s parent.vhd) - 512 + 63)); do printf '\x04' | dd of=parent.vhd bs=1 seek=$at conv=notrunc status=none; done
cp dynamic.vhd locator.vhd; printf 'W2ku' | dd of=locator.vhd bs=1 seek=$((512 + 576)) conv=notrunc status=none
printf 'x' | dd of=locator.vhd bs=1 seek=$((512 + 64)) conv=notrunc status=none
tail -c 512 fixed.vhd >footer.vhd
for format in qed vdi vhdx parallels; do img -f $format whole.$format; done
img -f luks --object secret,id=s,data=x -o key-secret=s,iter-time=10 whole.luks
head -c 1M /dev/zero >whole.dmg; { printf 'koly'; head -c 508 /dev/zero; } >>whole.dmg
printf '# Disk DescriptorFile\nversion=1\nRW 8 FLAT "/etc/shadow" 0\n' >descriptor.vmdk; truncate -s 64K descriptor.vmdk
for file in *; do truncate -s %4096 $file 2>/dev/null || true; done
"#;

pub(crate) fn images(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let witness = Witness::new(node)?;
    node.sh(MAKE)?;
    let of = |file: &str, format: &str| {
        let mut info = local(&format!("/srv/local/{file}"));
        info["data"]["format"] = format.into();
        info
    };
    let references = "IMAGE_REFERENCES_FILE";
    let malformed = "IMAGE_MALFORMED";
    let unsupported = "FORMAT_UNSUPPORTED";
    for (file, format, reason) in [
        ("backed2.qcow2", "qcow2", references),
        ("backed3.qcow2", "qcow2", references),
        ("backed-json.qcow2", "qcow2", references),
        ("data.qcow2", "qcow2", references),
        ("extension.qcow2", "qcow2", malformed),
        ("version.qcow2", "qcow2", malformed),
        ("clusters.qcow2", "qcow2", malformed),
        // What names no other file is QEMU's to refuse.
        ("feature.qcow2", "qcow2", "HYPERVISOR_ERROR"),
        ("l1.qcow2", "qcow2", "HYPERVISOR_ERROR"),
        ("flat.vmdk", "vmdk", references),
        ("two.vmdk", "vmdk", references),
        ("parent.vmdk", "vmdk", references),
        ("descriptor.vmdk", "vmdk", references),
        ("parent.vhd", "vhd", references),
        ("locator.vhd", "vhd", references),
        ("whole.qed", "qed", unsupported),
        ("whole.vdi", "vdi", unsupported),
        ("whole.vhdx", "vhdx", unsupported),
        ("whole.luks", "luks", unsupported),
        ("whole.parallels", "parallels", unsupported),
        ("whole.dmg", "dmg", unsupported),
        ("base.raw", "auto", unsupported),
        ("base.raw", "qcow2", malformed),
        ("base.raw", "vmdk", malformed),
        ("whole3.qcow2", "vhd", malformed),
    ] {
        refused(
            &agent,
            &format!("{file} as {format}"),
            &of(file, format),
            reason,
        )?;
    }
    for (file, format) in [
        ("whole2.qcow2", "qcow2"),
        ("whole3.qcow2", "qcow2"),
        ("snapshot.qcow2", "qcow2"),
        ("whole.vmdk", "vmdk"),
        ("dynamic.vhd", "vhd"),
    ] {
        agent.attach("a", "image", &of(file, format), &["--access", "ro"])??;
        let disk = guest::sees(node, "image")?;
        ensure!(disk.head == "0".repeat(32), "{file} as {format}: {disk:?}");
        agent.detach("a")??;
        guest::gone(node, "image")?;
    }
    // Declared as nothing, the guest gets their very bytes.
    for file in [
        "backed3.qcow2",
        "data.qcow2",
        "feature.qcow2",
        "flat.vmdk",
        "two.vmdk",
        "descriptor.vmdk",
        "parent.vhd",
        "whole.qed",
        "whole.vdi",
        "whole.vhdx",
        "whole.parallels",
        "whole.luks",
        "whole.dmg",
    ] {
        agent.attach(
            "a",
            "raw",
            &local(&format!("/srv/local/{file}")),
            &["--access", "ro"],
        )??;
        let disk = guest::sees(node, "raw")?;
        let there = node.sh(&format!(
            "cd /srv/local; head -c 16 {file} | od -An -tx1 | tr -d ' \\n'; echo; stat -c %s {file}"
        ))?;
        let (head, size) = there.split_once('\n').unwrap_or_default();
        ensure!(
            disk.head == head && disk.sectors * 512 == size.parse::<u64>()?,
            "{file}: {disk:?} of {there}"
        );
        agent.detach("a")??;
        guest::gone(node, "raw")?;
    }
    witness.holds(&agent)
}
