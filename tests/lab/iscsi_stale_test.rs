//! LUNs that turn into another volume while this host still has the disk (OSSA-2023-003): the guest that gets the next volume sees
//! that one, and whoever had the old one does not see a byte of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    iscsi_test::{expect, host_path, refused},
    node::Node,
    process::{quote, wait_for},
    targets::{Targets, head, head_hex, iscsi_info, multipath_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "iscsi_lun_turns_into_another_volume",
        run: under_a_guest,
    },
    Test {
        name: "iscsi_map_goes_to_one_volume",
        run: under_a_map,
    },
];

/// Reads the first bytes of a device by QEMU's own open file, whatever has become of the device since.
const QEMU_READS: &str = r#"
import ctypes, mmap, os, sys
qemu = int(open("/run/libvirt/qemu/inner.pid").read())
files = {fd: os.readlink(f"/proc/{qemu}/fd/{fd}") for fd in os.listdir(f"/proc/{qemu}/fd")}
[fd] = [fd for fd, path in files.items() if path.split(" ")[0] == sys.argv[1]]
PIDFD_GETFD = 438
own = ctypes.CDLL(None).syscall(PIDFD_GETFD, os.pidfd_open(qemu), int(fd), 0)
assert own >= 0
block = mmap.mmap(-1, 4096)
try:
    if os.preadv(own, [block], 0):
        print(block[:16].decode())
except OSError:
    pass
"#;

/// Listens where multipathd would, and answers that all is as it must be.
const IMPOSTOR: &str = r#"
import contextlib, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("\0/org/kernel/linux/storage/multipathd")
listener.listen()
while True:
    client, _ = listener.accept()
    answer = b'defaults {\n\trecheck_wwid "yes"\n}\n\0'
    with client, contextlib.suppress(ConnectionError): # Whoever does not believe it may hang up at any time.
        client.recv(4096)
        client.sendall(len(answer).to_bytes(8, "little") + answer)
"#;

/// What QEMU, and so the guest, reads at the beginning of a disk that was plugged as `device`; empty: nothing.
fn qemu_reads(node: &Node, device: &str) -> Result<String> {
    let script = quote(QEMU_READS);
    // The links of files that are closed meanwhile cannot be read.
    node.sh(&format!(
        "for i in 1 2 3; do python3 -c {script} {device} && break; done"
    ))
}

/// The text that is in a volume where the guest writes.
fn written(lab: &Lab, targets: &Targets<'_>, volume: &str) -> Result<String> {
    let (from, path) = (guest::WRITTEN_AT + 1, targets.path(volume));
    lab.node.sh(&format!(
        "tail -c +{from} {path} | head -c 512 | tr -d '\\0'"
    ))
}

/// One path, the old disk still plugged into the guest. Meanwhile somebody waits in vain for a LUN of another target.
fn under_a_guest(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let targets = Targets::new(&lab.node, &["va", "vb", "vc"])?;
    targets.target("t", &[21], &[(3, "va")])?;
    targets.target("empty", &[22], &[])?;
    let info = iscsi_info(21, "t", 3);
    let of = |volume: &str| {
        let mut named = info.clone();
        named["data"]["wwn"] = json!(targets.run(&["wwn", volume])?);
        anyhow::Ok(named)
    };
    let attached = agent.attach("a", "va", &info, &[])??;
    let old = host_path(&attached).to_owned();
    ensure!(guest::sees(&lab.node, "va")?.head == head_hex("va"));
    targets.run(&["unmap", "t", "3"])?;
    targets.run(&["map", "t", "3", "vb"])?;
    // The trap: the old disk reads the new volume, and the kernel says that it is the old one.
    ensure!(
        qemu_reads(&lab.node, &old)? == head("vb"),
        "the lab does not show the fault"
    );
    refused(agent.extend("a", 0)?, "DEVICE_IDENTITY")?;
    // Somebody else on this host has the kernel look anew: now the kernel too says that it is the new one, and the next daemon
    // knows better only by its journal.
    let disk = old.replace("/dev/", "/sys/block/");
    lab.node.sh(&format!("echo 1 >{disk}/device/rescan"))?;
    lab.node.sh("systemctl restart volattachd.service")?;

    std::thread::scope(|scope| {
        let never = scope.spawn(|| agent.connect("never", "vx", &iscsi_info(22, "empty", 9), &[]));
        // Another one was asked for. The old disk goes, so that nobody reads the new volume by it.
        let failure = refused(agent.attach("c", "vc", &of("vc")?, &[])?, "DEVICE_IDENTITY")?;
        ensure!(failure.message.contains("must be"), "{failure:?}");
        lab.node.sh("! ls /sys/class/scsi_disk/* 2>/dev/null")?;
        ensure!(qemu_reads(&lab.node, &old)?.is_empty());

        let attached = agent.attach("b", "vb", &of("vb")?, &[])??;
        let disk = guest::sees(&lab.node, "vb")?;
        ensure!(
            disk.head == head_hex("vb") && disk.write == Ok(()),
            "{disk:?}"
        );
        ensure!(qemu_reads(&lab.node, &old)?.is_empty());
        ensure!(qemu_reads(&lab.node, host_path(&attached))? == head("vb"));
        ensure!(agent.extend("b", 0)?? == 8 << 20);

        let never = never.join();
        let never = never.map_err(|_| anyhow::anyhow!("the connect panicked"))??;
        let failure = refused(never, "DEVICE_NOT_FOUND")?;
        ensure!(failure.message.contains("within 30 s"), "{failure:?}");
        anyhow::Ok(())
    })?;
    // The one that lost its LUN goes without touching the other's.
    agent.detach("a")??;
    guest::gone(&lab.node, "va")?;
    // libvirt 9.0 cannot take its label off a device that is gone, and would refuse the domain the next one of that name.
    lab.node
        .sh("nsenter -m -t $(cat /run/libvirt/qemu/inner.pid) rm /dev/sda")?;
    expect(lab, "1 sessions 1 disks 0 maps")?;
    ensure!(guest::sees(&lab.node, "vb")?.head == head_hex("vb"));
    // Once more, and nobody is attached before it is detached.
    targets.run(&["unmap", "t", "3"])?;
    targets.run(&["map", "t", "3", "vc"])?;
    agent.detach("b")??;
    guest::gone(&lab.node, "vb")?;
    expect(lab, "0 sessions 0 disks 0 maps")?;
    for (volume, text) in [
        ("va", "volattach-guest-was-here va"),
        ("vb", "volattach-guest-was-here vb"),
        ("vc", ""),
    ] {
        let found = written(lab, &targets, volume)?;
        ensure!(found.trim_end() == text, "{volume} has {found:?}");
    }
    Ok(())
}

/// A map under the guest: a path that comes back as another volume is never read by it, and when both are another volume, the
/// map loses them to the one that is attached next.
fn under_a_map(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &["va", "vb"])?;
    targets.target("t", &[21], &[(1, "va")])?;
    targets.target("u", &[22], &[(1, "va")])?;
    let remap = |target: &str| {
        targets.run(&["unmap", target, "1"])?;
        targets.run(&["map", target, "1", "vb"])
    };
    let both = multipath_info(&[(21, "t"), (22, "u")], 1);
    // Whoever listens in multipathd's place is not believed.
    let script = quote(IMPOSTOR);
    node.sh(&format!(
        "systemd-run -q --collect --uid=nobody --unit=lab-impostor python3 -c {script}"
    ))?;
    node.wait(
        "the impostor listens",
        "grep storage/multipathd /proc/net/unix",
        Duration::from_secs(180),
    )?;
    let failure = refused(agent.connect("m", "va", &both, &[])?, "MULTIPATH_FAILED")?;
    ensure!(failure.message.contains("in its place"), "{failure:?}");
    node.sh("systemctl stop lab-impostor")?;
    // Without the setting that this package brings, multipathd would mix them.
    let setting = "/etc/multipath/conf.d/volattach.conf";
    node.sh(&format!("mv {setting} /run/"))?;
    targets.run(&["multipathd"])?;
    let failure = refused(agent.connect("m", "va", &both, &[])?, "MULTIPATH_FAILED")?;
    ensure!(failure.message.contains("recheck_wwid"), "{failure:?}");
    node.sh(&format!(
        "mv /run/volattach.conf {setting} && multipathd reconfigure"
    ))?;
    node.wait(
        "multipathd has its setting",
        "multipathd show config local | grep 'recheck_wwid \"yes\"'",
        Duration::from_secs(180),
    )?;

    let attached = agent.attach("a", "va", &both, &[])??;
    let old = host_path(&attached).to_owned();
    let map = old.trim_start_matches("/dev/").to_owned();
    ensure!(guest::sees(node, "va")?.head == head_hex("va"));
    let read = |what: &str| {
        let seen = qemu_reads(node, &old)?;
        ensure!(seen == head("va"), "{what}: the guest reads {seen:?}");
        anyhow::Ok(())
    };
    // One path goes, and comes back as the other volume.
    let portal = "/sys/kernel/config/target/iscsi/iqn.2026-01.org.lab:u/tpgt_1/enable";
    node.sh(&format!("echo 0 >{portal}"))?;
    node.wait(
        "multipathd sees the path fail",
        "multipathd show paths raw format '%t' | grep failed",
        Duration::from_secs(120),
    )?;
    read("one path")?;
    remap("u")?;
    node.sh(&format!("echo 1 >{portal}"))?;
    wait_for(
        "multipathd lets go of the path",
        Duration::from_secs(120),
        || {
            read("a path comes back")?;
            let paths = node.sh(&format!("ls /sys/block/{map}/slaves | wc -l"))?;
            Ok((paths == "1").then_some(()))
        },
    )?;
    read("a path came back")?;
    refused(agent.extend("a", 0)?, "DEVICE_IDENTITY")?;
    let failure = refused(agent.connect("c", "vc", &both, &[])?, "DEVICE_IDENTITY")?;
    // The message depends on the path that answers first: that of the other volume, or that which reports the identity of a's volume.
    let why = ["different volumes", "as does volume va"];
    let said = |why: &&str| failure.message.contains(*why);
    ensure!(why.iter().any(said), "{failure:?}");
    read("another attach")?;

    // The other path too, without a word, between two looks of multipathd: now the map reads the new volume.
    node.sh("systemctl kill -s STOP lab-multipathd")?;
    remap("t")?;
    node.sh("systemctl kill -s CONT lab-multipathd")?;
    ensure!(
        qemu_reads(node, &old)? == head("vb"),
        "the lab does not show the fault"
    );
    let mut read_only = both.clone();
    read_only["data"]["access_mode"] = json!("ro");
    let attached = agent.attach("b", "vb", &read_only, &[])??;
    let new = host_path(&attached).to_owned();
    let disk = guest::sees(node, "vb")?;
    ensure!(
        disk.head == head_hex("vb") && disk.read_only && disk.write.is_err(),
        "{disk:?}"
    );
    ensure!(node.sh(&format!("blockdev --getro {new}"))? == "1");
    ensure!(qemu_reads(node, &old)?.is_empty());
    agent.detach("a")??;
    guest::gone(node, "va")?;
    expect(lab, "2 sessions 2 disks 1 maps")?;
    ensure!(qemu_reads(node, &new)? == head("vb"));
    agent.detach("b")??;
    expect(lab, "0 sessions 0 disks 0 maps")?;
    ensure!(written(lab, &targets, "vb")?.is_empty());
    Ok(())
}
