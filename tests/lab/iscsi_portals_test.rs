//! The ways to an iSCSI target: IPv6, an interface of the initiator's, portals that one of them tells of, and sessions that others use.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    iscsi_test::{expect, expect_paths, host_path, refused},
    node::Node,
    targets::{Targets, head, head_hex, iscsi_info, multipath_info, with_chap},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "iscsi_lun_by_discovered_portals",
        run: portals,
    },
    Test {
        name: "iscsi_missing_path_is_made",
        run: missing_path,
    },
];

/// Rounds of reconcile, each a minute after the last.
pub(crate) const SOAK: &[Test] = &[Test {
    name: "iscsi_lost_paths_are_made_again",
    run: lost_paths,
}];

/// Longest time that a path needs to be made: reconcile's pauses after failures grow to eight minutes.
const MADE: Duration = Duration::from_secs(600);

/// multipathd's configuration for the disks that it is to leave alone.
const EXCLUDED: &str = "/etc/multipath/conf.d/lab.conf";

/// With one portal, and the wish for more.
fn discovering(login: Option<(&str, &str)>) -> Value {
    let mut info = iscsi_info(21, "t", 1);
    info["data"]["enforce_multipath"] = json!(true);
    if let Some((username, password)) = login {
        info["data"]["discovery_auth_method"] = json!("CHAP");
        info["data"]["discovery_auth_username"] = json!(username);
        info["data"]["discovery_auth_password"] = json!(password);
    }
    info
}

fn portals(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    node.write(
        "/etc/iscsi/ifaces/storage0",
        b"iface.iscsi_ifacename = storage0\niface.net_ifacename = storage\niface.transport_name = tcp\n",
    )?;
    let agent = Agent::start(node, "[iscsi]\ninterface = \"storage0\"\n")?;
    let targets = Targets::new(node, &["va", "vb"])?;
    targets.target("t", &[21, 22], &[(1, "va"), (2, "vb")])?;
    targets.run(&["portal6", "t", "21"])?;
    // What is somebody else's stays so: multipathd makes maps of whatever it sees.
    let wwn = targets.run(&["wwn", "vb"])?;
    let excluded = format!("blacklist {{\n    wwid \"3{}\"\n}}\n", wwn.trim());
    node.write(EXCLUDED, excluded.as_bytes())?;
    targets.run(&["multipathd"])?;

    // By IPv6, over an interface of the deployer's.
    let mut by_ipv6 = iscsi_info(21, "t", 1);
    by_ipv6["data"]["target_portal"] = json!("[fd99::21]:3260");
    agent.attach("a", "va", &by_ipv6, &[])??;
    ensure!(guest::sees(node, "va")?.head == head_hex("va"));
    let session = node.sh(
        "cd /sys/class/iscsi_session/session*; cat ifacename device/connection*/iscsi_connection/*/persistent_address",
    )?;
    ensure!(session == "storage0\nfd99::21", "{session}");
    // It goes too where another interface is configured by then.
    let agent = Agent::start(node, "")?;
    agent.detach("a")??;
    expect(lab, "0 sessions 0 disks 0 maps")?;

    // One portal tells of the others, to who has the password.
    let (password, wrong) = ("Cobalt5Wren6Yarn", "Juniper1Finch3Ink");
    targets.run(&["discovery", "asker", password])?;
    for login in [None, Some(("asker", wrong)), Some(("other", password))] {
        let failure = refused(
            agent.connect("d", "va", &discovering(login), &[])?,
            "LOGON_FAILURE",
        )?;
        ensure!(failure.message.contains("discovery of"), "{failure:?}");
        expect(lab, "0 sessions 0 disks 0 maps")?;
    }
    let attached = agent.attach("a", "va", &discovering(Some(("asker", password))), &[])??;
    ensure!(host_path(&attached).starts_with("/dev/dm-"), "{attached}");
    expect_paths(lab, "3 sessions 3 disks 1 maps")?;
    let disk = guest::sees(node, "va")?;
    ensure!(
        disk.head == head_hex("va") && disk.write == Ok(()),
        "{disk:?}"
    );
    let found = node.sh(&format!(
        "find /etc/iscsi/send_targets -type f; grep -rlE '{password}|{wrong}' /etc/iscsi /var/lib/volattach /var/log /run/systemd; \
         journalctl -a --no-pager | grep -E '{password}|{wrong}'; true"
    ))?;
    ensure!(found.is_empty(), "{found}");
    // Somebody else has the other LUN's disk, by one of the sessions.
    let session = "$(grep -l 10.99.0.21 /sys/class/iscsi_session/session*/device/connection*/iscsi_connection/*/persistent_address)";
    node.sh(&format!(
        "host=$(readlink -f {session} | grep -o 'host[0-9]*' | head -n 1); echo '0 0 2' >/sys/class/scsi_host/$host/scan"
    ))?;
    expect(lab, "3 sessions 4 disks 1 maps")?;
    agent.detach("a")??;
    expect(lab, "1 sessions 1 disks 0 maps")?;
    node.sh("echo 1 | tee /sys/class/scsi_disk/*/device/delete")?;

    // Nobody is asked; and the last of two by different portals takes down what both came by.
    targets.run(&["discovery"])?;
    let read_only = ["--access", "ro"];
    agent.connect("x", "va", &discovering(None), &read_only)??;
    expect_paths(lab, "3 sessions 3 disks 1 maps")?;
    let other = multipath_info(&[(22, "t")], 1);
    agent.connect("y", "va", &other, &read_only)??;
    agent.disconnect("x")??;
    expect(lab, "3 sessions 3 disks 1 maps")?;
    agent.disconnect("y")??;
    expect(lab, "0 sessions 0 disks 0 maps")?;
    node.sh(&format!("rm /etc/iscsi/ifaces/storage0 {EXCLUDED}"))?;
    Ok(())
}

/// A path whose portal is down at the attach is made when the portal is back. Nobody attaches again for that, although the target asks for a
/// password.
fn missing_path(lab: &Lab) -> Result<()> {
    let (agent, _targets) = one_of_two(lab)?;
    agent.detach("a")??;
    guest::gone(&lab.node, "va")?;
    expect(lab, "0 sessions 0 disks 0 maps")
}

/// The same, and paths that are lost later. The volume can be read all the time.
fn lost_paths(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let (agent, targets) = one_of_two(lab)?;
    let shown = agent.call(&["show", "a"], "")??;
    let device = host_path(&shown);
    // The connection breaks: iscsid makes the session again.
    targets.run(&["silence", "22"])?;
    shows(node, 1)?;
    reads(node, device)?;
    targets.run(&["unsilence", "22"])?;
    shows(node, 2)?;

    // Somebody ends the session while its portal is down: the daemon makes it again.
    targets.run(&["silence", "22"])?;
    node.sh(
        "session=$(grep -l 10.99.0.22 /sys/class/iscsi_session/session*/device/connection*/iscsi_connection/*/persistent_address | \
         grep -oE 'session[0-9]+' | head -n 1); timeout 120 iscsiadm -m session -r ${session#session} --logout",
    )?;
    shows(node, 1)?;
    reads(node, device)?;
    targets.run(&["unsilence", "22"])?;
    shows(node, 2)?;
    expect(lab, "2 sessions 2 disks 1 maps")?;
    reads(node, device)?;
    agent.detach("a")??;
    guest::gone(node, "va")?;
    expect(lab, "0 sessions 0 disks 0 maps")
}

/// Attaches a volume while one of its two portals is down, and has its path made.
fn one_of_two(lab: &Lab) -> Result<(Agent<'_>, Targets<'_>)> {
    let node = &lab.node;
    let agent = Agent::start(node, "[iscsi]\nprobe_timeout = \"2s\"\n")?;
    let targets = Targets::new(node, &["va"])?;
    targets.target("t", &[21, 22], &[(1, "va")])?;
    let password = "Cobalt5Wren6Yarn";
    targets.run(&["chap", "t", "alice", password])?;
    targets.run(&["multipathd"])?;
    let info = with_chap(
        multipath_info(&[(21, "t"), (22, "t")], 1),
        "alice",
        password,
    );
    targets.run(&["silence", "22"])?;
    let attached = agent.attach("a", "va", &info, &[])??;
    let device = host_path(&attached);
    ensure!(device.starts_with("/dev/dm-"), "{attached}");
    ensure!(
        attached["paths"] == json!({"working": 1, "planned": 2}),
        "{attached}"
    );
    ensure!(guest::sees(node, "va")?.head == head_hex("va"));
    targets.run(&["unsilence", "22"])?;
    shows(node, 2)?;
    expect(lab, "2 sessions 2 disks 1 maps")?;
    reads(node, device)?;
    Ok((agent, targets))
}

/// Waits until the attachment shows so many of two paths.
fn shows(node: &Node, working: u32) -> Result<()> {
    node.wait(
        &format!("{working} of 2 paths work"),
        &format!(
            "volattach -o json show a | tr -d ' \\n' | grep -F '\"paths\":{{\"planned\":2,\"working\":{working}}}'"
        ),
        MADE,
    )
}

/// Reads the volume by the map, past every cache.
fn reads(node: &Node, device: &str) -> Result<()> {
    let read = node.run(
        &format!("dd if={device} iflag=direct bs=512 count=1 status=none | head -c 16"),
        b"",
        Duration::from_secs(120),
    )?;
    ensure!(read.stdout == head("va"), "{}{}", read.stdout, read.stderr);
    Ok(())
}
