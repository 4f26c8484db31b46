//! Two that meet: volumes that tell one identity, lists of paths that overlap, records and mounts that others made.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Lab, Test,
    agent::Agent,
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

/// How long a login may take, and a disk to be found.
const LOGIN: Duration = Duration::from_secs(60);

/// Whether somebody has a disk open for longer than a look takes.
const HELD: &str = "open() { find /proc/[0-9]*/fd -lname '/dev/sd?'; }; first=$(open); sleep 1; [ -n \"$first\" ] && [ \"$first\" = \"$(open)\" ]";

/// The paths of the only map.
fn paths(node: &Node) -> Result<String> {
    node.sh("echo $(ls /sys/block/dm-*/slaves)")
}

/// Some storage makes the identity of the numbers of target and LUN: another target's volume says that it is the first one's.
/// Over one path and over several it is refused, and the first one's guest has its own disk, and no path but its own.
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
        // Alone, it is as good as any.
        agent.attach_to(Second::NAME, "b", "vb", &other, &["--access", "ro"])??;
        ensure!(second.sees("vb")?.head == head_hex("vb"));
        agent.detach("b")??;
        expect(lab, "0 sessions 0 disks 0 maps")?;
    }
    ensure!(sums()? == before, "the refused volume was written to");
    Ok(())
}

/// One LUN by two targets, and another attachment of it by one of them and a third: what both have stays for who is left.
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

/// The storage's disk goes while it is being plugged in, and another target's appears: it gets another name, and the guest nothing of it.
fn name(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &["va", "vb"])?;
    targets.target("t", &[21], &[])?;
    targets.target("u", &[22], &[(1, "vb")])?;
    let refusal = std::thread::scope(|scope| {
        let attaching = scope.spawn(|| agent.attach("a", "va", &iscsi_info(21, "t", 1), &[]));
        // The domain was looked at by now; its disk is planned anew when it has a name, and that waits for libvirt.
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

/// Node records that iscsiadm made: one of the same login, by which a login would scan every LUN; the session that it made, which is used
/// and left with its disk; and one of another interface, by which nobody logs in.
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
    // A password of an earlier time is in it.
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

/// `host:/`, the root that NFS 4 servers have, and a mount base that is a shared bind mount of itself, where the kernel lists each
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
    let agent = Agent::start(node, "")?;
    agent.attach("a", "v", &info, &[])??;
    ensure!(guest::sees(node, "v")?.write == Ok(()));
    let listed = node.sh(&format!("grep -c ' {BASE}/' /proc/self/mountinfo"))?;
    ensure!(listed == "2", "the lab does not show the fault: {listed}");
    node.sh("systemctl restart volattachd.service")?;
    let got = agent.call(&["show", "a"], "")??;
    ensure!(got["error"].is_null(), "{got}");
    agent.detach("a")??;
    let listed = node.sh(&format!("grep -c ' {BASE}/' /proc/self/mountinfo; true"))?;
    ensure!(listed == "0", "{listed} mounts are left");
    node.sh(&format!("umount {BASE}"))?;
    Ok(())
}
