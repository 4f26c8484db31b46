//! What a node as Debian installs it does by itself: AppArmor confines guests, and LVM, md and kpartx look into disks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    nfs_servers::NfsServer,
    node::Node,
    nvme_servers::{A, NvmeServer},
    process::quote,
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info, multipath_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "apparmor_own_volume_alone",
        run: own_volume_alone,
    },
    Test {
        name: "guests_disks_are_left_alone",
        run: left_alone,
    },
];

const HEAD: &str = "sixteen bytes...";

/// Rules that an administrator adds to every guest's profile; at first there are none.
const RULES: &str = "/etc/apparmor.d/local/abstractions/libvirt-qemu";

/// Names that AppArmor would read as patterns.
const PATTERNS: [&str; 6] = [
    "v*.raw",
    "v?x.raw",
    "v[1].raw",
    "v{a,b}.raw",
    "a\"b.raw",
    "a\\b.raw",
];

fn local(path: &str) -> Value {
    json!({"driver_volume_type": "local", "data": {"device_path": path}})
}

/// What the inner guest's profile opens beside what it had before any volume.
fn opened(node: &Node, before: &str) -> Result<String> {
    node.sh(&format!(
        "grep -vxF {} \"/etc/apparmor.d/libvirt/libvirt-$(virsh domuuid inner).files\" | sed 's/^ *//' || true",
        quote(before)
    ))
}

/// Makes the map `lab*map` over a loop device, and gives its link, in whose name udev has escaped the pattern.
fn device(node: &Node) -> Result<String> {
    node.sh(&format!(
        "printf %s '{HEAD}' >/srv/confined/disk && truncate -s 8M /srv/confined/disk
         dmsetup create 'lab*map' --table \"0 16384 linear $(losetup -f --show /srv/confined/disk) 0\"
         udevadm settle
         ls /dev/mapper/lab*map"
    ))
}

fn own_volume_alone(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    node.sh("mkdir -p /srv/confined /usr/local/lib/confined")?;
    let result = confined(node);
    node.sh(&format!(
        "dmsetup remove --retry 'lab*map' 2>/dev/null; losetup -d $(losetup -nO NAME -j /srv/confined/disk) 2>/dev/null
         rm -rf /srv/confined /usr/local/lib/confined; : >{RULES}"
    ))?;
    result
}

fn confined(node: &Node) -> Result<()> {
    let config =
        "[local]\nroots = [\"/srv/confined\", \"/usr/local/lib/confined\", \"/dev/mapper\"]\n";
    let agent = Agent::start(node, config)?;
    let label = node.sh("virsh dumpxml inner | grep \"<seclabel.* model='apparmor'\"")?;
    ensure!(label.contains("type='dynamic'"), "{label}");
    let nfs = NfsServer::start(node, "nas", 10, "rw", "")?;
    let smb = SmbServer::start(node, "win", 11, &["vols"], "")?;
    smb.user("bob", "pw")?;
    smb.volume("vols", "v.raw", 8, HEAD)?;
    for name in PATTERNS.iter().chain(&["v.raw"]) {
        nfs.volume(name, HEAD)?;
        for folder in ["/srv/confined", "/usr/local/lib/confined"] {
            let path = quote(&format!("{folder}/{name}"));
            node.sh(&format!(
                "printf %s '{HEAD}' >{path} && truncate -s 8M {path}"
            ))?;
        }
    }
    let files = "cat /etc/apparmor.d/libvirt/libvirt-$(virsh domuuid inner).files";
    let before = node.sh(files)?;

    // Whose path would open other files too, or not the volume, is refused before anything is connected.
    for name in PATTERNS {
        for info in [nfs.info(name, ""), local(&format!("/srv/confined/{name}"))] {
            let refused = agent.attach("a1", "v", &info, &[])?.err();
            let refused = refused.with_context(|| format!("{name} was attached"))?;
            ensure!(
                refused.reason == "VOLUME_PATH_UNSAFE",
                "{name}: {refused:?}"
            );
        }
        ensure!(
            node.sh("! grep /var/lib/volattach/mnt/ /proc/mounts")?
                .is_empty()
        );
    }

    // The guest's profile has the volume that it was given, and no more.
    let map = device(node)?;
    ensure!(map.contains("\\x2a"), "{map}");
    let login = "-o username=bob,password=pw";
    for (id, info) in [
        ("nfs", nfs.info("v.raw", "")),
        ("smb", smb_info(&smb, "vols", "v.raw", login)),
        ("local", local("/srv/confined/v.raw")),
        ("device", local(&map)),
    ] {
        let made = agent.attach(id, id, &info, &[])??;
        let disk = guest::sees(node, id)?;
        ensure!(
            disk.head == guest::hex(HEAD) && disk.write == Ok(()),
            "{disk:?}"
        );
        let path = made["host_path"].as_str().context("no path")?;
        let path = node.sh(&format!("readlink -f {}", quote(path)))?;
        let opens = opened(node, &before)?;
        ensure!(opens == format!("\"{path}\" rwk,"), "{id}: {opens}");
        agent.detach(id)??;
        guest::gone(node, id)?;
        let opens = opened(node, &before)?;
        ensure!(opens.is_empty(), "{id} is detached: {opens}");
    }

    // What libvirt does not take into a profile, and what AppArmor itself denies, is told as such.
    node.write(RULES, b"audit deny /srv/confined/denied.raw rw,\n")?;
    node.sh("cp /srv/confined/v.raw /srv/confined/denied.raw")?;
    for (path, words) in [
        ("/usr/local/lib/confined/v.raw", "system's own directories"),
        ("/srv/confined/denied.raw", "AppArmor confines the domain"),
    ] {
        let denied = agent.attach("denied", "denied", &local(path), &[])?.err();
        let denied = denied.with_context(|| format!("{path} was attached"))?;
        ensure!(
            denied.reason == "VOLUME_UNREADABLE" && denied.message.contains(words),
            "{denied:?}"
        );
    }
    node.sh("journalctl -k -q -g 'apparmor=.DENIED.*/srv/confined/denied.raw' | grep -q .")?;
    Ok(())
}

/// Makes the file /srv/layout-VOLUME of what a guest would write by the layout; nothing of it is active on the node afterwards.
const LAYOUT: &str = r#"
set -e
vg=guest_$1 file=/srv/layout-$1
truncate -s 24M $file
case $2 in
partition*) # one of type 83h from sector 2048 on, of 47104 sectors
    printf '\0\0\0\0\203\0\0\0\0\10\0\0\0\270\0\0' | dd of=$file bs=1 seek=446 conv=notrunc status=none
    printf '\125\252' | dd of=$file bs=1 seek=510 conv=notrunc status=none
    ;;
esac
device=$(losetup -P -f --show $file)
udevadm settle
part=$device
case $2 in partition*) part=${device}p1 ;; esac
case $2 in
*lvm)
    pvcreate -qq -y "$part"
    vgcreate -qq "$vg" "$part"
    lvcreate -qq -y -Wn -Zn -l 50%VG -n lv "$vg"
    vgchange -qq -an "$vg"
    ;;
*md)
    mdadm -q --create /dev/md/guest --run --force --metadata=1.2 --level=1 --raid-devices=1 "$part"
    udevadm settle
    mdadm -q --stop /dev/md/guest
    ;;
esac
losetup -d "$device"
"#;

/// The servers' own disks are on other machines, in truth: this host finds nothing there.
const SERVERS_DISKS: &str = "/run/udev/rules.d/62-lab.rules";

/// What the host has made of guests' disks, a line each.
const TAKEN: &str = r#"
dmsetup ls --target linear | grep -vx 'No devices found'
grep '^md' /proc/mdstat
ls /sys/block/*/holders/ 2>/dev/null | grep -E '^(md|dm-)' | while read -r holder; do
    case $(cat "/sys/block/$holder/dm/uuid" 2>/dev/null) in mpath-*) ;; *) echo "holder: $holder" ;; esac
done
systemctl list-units --all --plain --no-legend 'lvm-activate-*'
exit 0
"#;

/// A guest's volume group and its array, on the whole disk and in a partition, by iSCSI over one path and over a map, and by NVMe: the host makes nothing of
/// them, and the volume comes and goes.
fn left_alone(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let reload = "udevadm control --reload && udevadm settle";
    node.write(SERVERS_DISKS, b"KERNEL==\"loop*\", ENV{ID_FS_TYPE}=\"\"\n")?;
    node.sh(reload)?;
    let result = volumes_come_and_go(node).and_then(|()| without_rules(node));
    let of_the_host = layout(node, "host", "lvm");
    node.sh(&format!("rm {SERVERS_DISKS}; {reload}"))?;
    result?;
    of_the_host?;
    takes_its_own(node)
}

/// Makes the file /srv/layout-VOLUME.
fn layout(node: &Node, volume: &str, layout: &str) -> Result<()> {
    let script = format!("bash -s {volume} {layout}");
    let made = node.run(&script, LAYOUT.as_bytes(), Duration::from_secs(120))?;
    ensure!(made.status.success(), "{layout}: {}", made.stderr);
    Ok(())
}

/// The host that leaves guests' disks alone acts on a disk of its own: it activates the volume group there.
fn takes_its_own(node: &Node) -> Result<()> {
    let device = node.sh("losetup -f --show /srv/layout-host")?;
    let active = "dmsetup ls --target linear | grep -q '^guest_host-lv'";
    node.wait("the host's own LV", active, Duration::from_secs(180))?;
    ensure!(!node.sh(TAKEN)?.is_empty(), "an active LV is not seen");
    node.sh(&format!(
        "vgchange -qq -an guest_host && losetup -d {device} && rm /srv/layout-host && udevadm settle
         systemctl reset-failed; systemctl stop 'lvm-activate-*'"
    ))?;
    let taken = node.sh(TAKEN)?;
    ensure!(taken.is_empty(), "{taken}");
    Ok(())
}

/// A host without the rules is told of.
fn without_rules(node: &Node) -> Result<()> {
    let mask = "/etc/udev/rules.d/63-volattach.rules";
    let doctor = || node.sh("volattach doctor || true");
    let before = doctor()?;
    ensure!(!before.contains("LVM"), "{before}");
    node.sh(&format!("ln -s /dev/null {mask}"))?;
    let without = doctor();
    node.sh(&format!("rm {mask}"))?;
    let without = without?;
    ensure!(without.contains("LVM may activate"), "{without}");
    Ok(())
}

fn volumes_come_and_go(node: &Node) -> Result<()> {
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &[])?;
    targets.target("t", &[21, 22], &[])?;
    targets.run(&["multipathd"])?;
    let nvme = NvmeServer::empty(node, "nv", &[31])?;
    let one = |lun| iscsi_info(21, "t", lun);
    let map = |lun| multipath_info(&[(21, "t"), (22, "t")], lun);
    for (volume, layout, info) in [
        ("va", "lvm", one(1)),
        ("vb", "partition-md", one(2)),
        ("vc", "partition-lvm", map(3)),
        ("vd", "md", map(4)),
        ("ve", "partition-lvm", nvme.info(A)),
    ] {
        self::layout(node, volume, layout)?;
        let file = format!("/srv/layout-{volume}");
        match info["data"]["target_luns"].as_array() {
            _ if info["driver_volume_type"] == "nvmeof" => {
                nvme.verb(&format!("volume {{}} 7 24 {A} <{file}"))?;
            }
            luns => {
                let lun = luns.map_or(&info["data"]["target_lun"], |luns| &luns[0]);
                targets.run(&["volume", volume, "24", ""])?;
                let path = targets.path(volume);
                node.sh(&format!("dd if={file} of={path} bs=1M conv=notrunc,fsync"))?;
                targets.run(&["map", "t", &lun.to_string(), volume])?;
            }
        }
        node.sh(&format!("rm {file}"))?;
        // The guest only reads: the witness would write where LVM has its metadata.
        agent.attach("a1", volume, &info, &["--access", "ro"])??;
        guest::sees(node, volume)?;
        // As when the disk has just come, or was written and closed: udev looks into it.
        node.sh(
            "udevadm trigger --action=add --subsystem-match=block --sysname-match='sd*' --sysname-match='dm-*' \
             --sysname-match='nvme*'
             udevadm settle",
        )?;
        let idle = "systemctl list-jobs | grep -q 'No jobs'";
        node.wait("systemd has no job", idle, Duration::from_secs(180))?;
        let taken = node.sh(TAKEN)?;
        ensure!(taken.is_empty(), "{layout}: the host has taken\n{taken}");
        agent.detach("a1")??;
        guest::gone(node, volume)?;
    }
    Ok(())
}
