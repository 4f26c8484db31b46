//! Overlaps: volumes that report one identity, lists of paths with a common path, records, sessions and mounts that others made.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Lab, Test,
    agent::{Agent, FIGURES},
    guest::{self, Second},
    iscsi_test::{expect, host_path, refused},
    nfs_servers::NfsServer,
    node::Node,
    targets::{Targets, head_hex, iqn, iscsi_info, multipath_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "identity_two_volumes_that_tell_one",
        run: twins,
    },
    Test {
        name: "identity_lists_of_paths_that_overlap",
        run: overlap,
    },
    Test {
        name: "identity_name_stays_while_it_is_plugged_in",
        run: name,
    },
    Test {
        name: "identity_records_and_sessions_of_others",
        run: record_of_others,
    },
    Test {
        name: "identity_mounts_of_a_root_and_on_a_shared_base",
        run: mounts,
    },
];

/// Maximum wait for a login, and for a disk to appear.
const LOGIN: Duration = Duration::from_secs(60);

/// Shell test that a process holds a disk open for longer than a short look: in two samples one second apart.
const HELD: &str = "open() { find /proc/[0-9]*/fd -lname '/dev/sd?'; }; first=$(open); sleep 1; [ -n \"$first\" ] && [ \"$first\" = \"$(open)\" ]";

/// The paths of the one map.
fn paths(node: &Node) -> Result<String> {
    node.sh("echo $(ls /sys/block/dm-*/slaves)")
}

/// A volume of another target reports the first volume's identity, as by storage that derives it from the numbers of target and LUN. The
/// second volume is refused over one path and over several; the first volume's guest keeps its disk, with its own paths only.
fn twins(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let second = Second::start(node)?;
    let targets = Targets::new(node, &["va", "vb"])?;
    node.sh(
        "cd /sys/kernel/config/target/core/iblock_0 && cut -d' ' -f6 va/wwn/vpd_unit_serial >vb/wwn/vpd_unit_serial",
    )?;
    targets.target("t", &[21, 22], &[(1, "va")])?;
    targets.target("u", &[23, 24], &[(1, "vb")])?;
    let sums = || node.sh("cd /srv/lab-iscsi && sha256sum vb");
    let before = sums()?;
    for several in [false, true] {
        let (first, other, counts) = match several {
            false => (
                iscsi_info(21, "t", 1),
                iscsi_info(23, "u", 1),
                "1 sessions 1 disks 0 maps",
            ),
            true => {
                targets.run(&["multipathd"])?;
                (
                    multipath_info(&[(21, "t"), (22, "t")], 1),
                    multipath_info(&[(23, "u"), (24, "u")], 1),
                    "2 sessions 2 disks 1 maps",
                )
            }
        };
        let attached = agent.attach("a", "va", &first, &[])??;
        let device = host_path(&attached).to_owned();
        ensure!(guest::sees(node, "va")?.head == head_hex("va"));
        let own = several.then(|| paths(node)).transpose()?;
        let refusal = agent.attach_to(Second::NAME, "b", "vb", &other, &[])?;
        let failure = refused(refusal, "DEVICE_IDENTITY")?;
        ensure!(failure.message.contains("as does volume va"), "{failure:?}");
        expect(lab, counts)?;
        ensure!(own == several.then(|| paths(node)).transpose()?);
        let read = node.sh(&format!("head -c 16 {device} | tr -d '\\0'"))?;
        ensure!(
            read == super::targets::head("va"),
            "{device} reads {read:?}"
        );
        agent.detach("a")??;
        expect(lab, "0 sessions 0 disks 0 maps")?;
        // The second volume attaches when it is alone.
        agent.attach_to(Second::NAME, "b", "vb", &other, &["--access", "ro"])??;
        ensure!(second.sees("vb")?.head == head_hex("vb"));
        agent.detach("b")??;
        expect(lab, "0 sessions 0 disks 0 maps")?;
    }
    ensure!(sums()? == before, "the refused volume was written to");
    Ok(())
}

/// One attachment reaches a LUN by two targets, another by one of them and a third: the common path stays for the remaining attachment.
fn overlap(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &["va"])?;
    for (name, octet) in [("t", 21), ("u", 22), ("w", 23)] {
        targets.target(name, &[octet], &[(1, "va")])?;
    }
    targets.run(&["multipathd"])?;
    let first = multipath_info(&[(21, "t"), (22, "u")], 1);
    let second = multipath_info(&[(21, "t"), (23, "w")], 1);
    let read_only = ["--access", "ro"];
    for left in ["a", "c"] {
        agent.attach("a", "va", &first, &read_only)??;
        agent.connect("c", "va", &second, &read_only)??;
        ensure!(guest::sees(node, "va")?.head == head_hex("va"));
        expect(lab, "3 sessions 3 disks 1 maps")?;
        match left {
            "a" => agent.disconnect("c")??,
            _ => agent.detach("a")??,
        };
        expect(lab, "2 sessions 2 disks 1 maps")?;
        match left {
            "a" => agent.detach("a")??,
            _ => agent.disconnect("c")??,
        };
        expect(lab, "0 sessions 0 disks 0 maps")?;
    }
    Ok(())
}

/// The disk goes away while libvirt plugs it in, and a disk of another target appears: it gets another name, and does not reach the guest.
fn name(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &["va", "vb"])?;
    targets.target("t", &[21], &[])?;
    targets.target("u", &[22], &[(1, "vb")])?;
    let refusal = std::thread::scope(|scope| {
        let attaching = scope.spawn(|| agent.attach("a", "va", &iscsi_info(21, "t", 1), &[]));
        // The domain was inspected before the login; the disk is planned anew once its device has a name, which waits for libvirt.
        node.wait("the login", "ls /sys/class/iscsi_session/session*", LOGIN)?;
        node.sh("systemctl kill -s STOP --kill-whom=main libvirtd")?;
        let other = || -> Result<()> {
            targets.run(&["map", "t", "1", "va"])?;
            node.wait("the plug", HELD, LOGIN)?;
            let device = node.sh("find /proc/[0-9]*/fd -lname '/dev/sd?' -printf '%l' -quit")?;
            let block = device.trim_start_matches("/dev/");
            node.sh(&format!("echo 1 >/sys/block/{block}/device/delete"))?;
            let connected = agent.connect("b", "vb", &iscsi_info(22, "u", 1), &[])??;
            ensure!(host_path(&connected) != device, "{device} is another's");
            Ok(())
        };
        let other = other();
        node.sh("systemctl kill -s CONT --kill-whom=main libvirtd")?;
        let attached = attaching.join();
        other?;
        attached.map_err(|_| anyhow::anyhow!("the attach panicked"))?
    })?;
    ensure!(refusal.is_err(), "{refusal:?}");
    ensure!(guest::disks(node)?.is_empty(), "{:?}", guest::disks(node)?);
    agent.disconnect("b")??;
    expect(lab, "0 sessions 0 disks 0 maps")
}

/// Node records that iscsiadm made: a record of the same login, by which a login would scan every LUN, is refused; its session is used and
/// left with its disk; a record of another interface, by which nobody logs in, is ignored.
fn record_of_others(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &["va"])?;
    targets.target("t", &[21], &[(1, "va")])?;
    let info = iscsi_info(21, "t", 1);
    let record = format!("iscsiadm -m node -T {} -p 10.99.0.21:3260", iqn("t"));
    node.sh(&format!(
        "{record} -o new && {record} -o update -n node.session.scan -v auto"
    ))?;
    // The record holds an outdated password.
    for (key, value) in [
        ("authmethod", "CHAP"),
        ("username", "u"),
        ("password", "stale-password"),
    ] {
        node.sh(&format!(
            "{record} -o update -n node.session.auth.{key} -v {value}"
        ))?;
    }
    let failure = refused(agent.connect("c", "va", &info, &[])?, "LOGIN_FAILED")?;
    ensure!(failure.message.contains("-o delete"), "{failure:?}");
    node.sh(&format!(
        "{record} -o delete && {record} -o new && {record} -o update -n node.session.scan -v auto && {record} --login"
    ))?;
    node.wait(
        "the disk of others",
        "ls /sys/class/iscsi_session/session*/device/target*/*/block/sd?",
        LOGIN,
    )?;
    agent.attach("a", "va", &info, &[])??;
    ensure!(guest::sees(node, "va")?.write == Ok(()));
    agent.detach("a")??;
    expect(lab, "1 sessions 1 disks 0 maps")?;
    // Read-only as long as somebody here reads it, whoever of two goes first, also after a restart.
    for id in ["a", "b"] {
        agent.connect(id, "va", &info, &["--access", "ro"])??;
    }
    node.sh("systemctl restart volattachd.service")?;
    for (id, read_only) in [("a", "1"), ("b", "0")] {
        agent.disconnect(id)??;
        let now = node.sh("cat /sys/block/sd?/ro")?;
        ensure!(now == read_only, "after {id}: {now}");
    }
    expect(lab, "1 sessions 1 disks 0 maps")?;
    node.sh(&format!("{record} --logout && {record} -o delete"))?;

    node.sh(&format!(
        "iscsiadm -m iface -I lab0 -o new && {record},1 -I lab0 -o new"
    ))?;
    agent.connect("c", "va", &info, &[])??;
    expect(lab, "1 sessions 1 disks 0 maps")?;
    agent.disconnect("c")??;
    node.sh(&format!(
        "{record},1 -I lab0 -o delete && iscsiadm -m iface -I lab0 -o delete"
    ))?;
    expect(lab, "0 sessions 0 disks 0 maps")
}

/// Mounts of `host:/`, the root of an NFS 4 server, on a mount base that is a shared bind mount of itself, on which the kernel lists each
/// mount twice.
fn mounts(lab: &Lab) -> Result<()> {
    const BASE: &str = "/var/lib/volattach/mnt";
    let node = &lab.node;
    let server = NfsServer::start(node, "nas", 10, "rw,fsid=0", "")?;
    server.volume("v.raw", "sixteen bytes...")?;
    let mut info = server.info("v.raw", "");
    info["data"]["export"] = json!(format!("{}:/", server.address));
    node.sh(&format!(
        "mkdir -p {BASE} && chmod 711 {BASE} && mount --bind {BASE} {BASE} && mount --make-shared {BASE}"
    ))?;
    let agent = Agent::start(node, &format!("metrics_listen = \"{FIGURES}\"\n"))?;
    agent.attach("a", "v", &info, &[])??;
    ensure!(guest::sees(node, "v")?.write == Ok(()));
    let listed = node.sh(&format!("grep -c ' {BASE}/' /proc/self/mountinfo"))?;
    ensure!(listed == "2", "the lab does not show the fault: {listed}");
    node.sh("systemctl restart volattachd.service")?;
    agent.has_looked()?;
    let got = agent.call(&["show", "a"], "")??;
    ensure!(got["error"].is_null(), "{got}");
    agent.detach("a")??;
    let listed = node.sh(&format!("grep -c ' {BASE}/' /proc/self/mountinfo; true"))?;
    ensure!(listed == "0", "{listed} mounts are left");
    node.sh(&format!("umount {BASE}"))?;
    Ok(())
}
