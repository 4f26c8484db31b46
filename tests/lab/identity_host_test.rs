//! Changes of host and storage beneath attachments: an export made anew, a server that moves, partitions of a map, a start of the host.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    iscsi_test::{expect, host_path, refused},
    nfs_servers::NfsServer,
    node::Node,
    servers::{SmbServer, smb_info},
    targets::{Targets, head_hex, iscsi_info, multipath_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "identity_export_that_is_made_anew",
        run: made_anew,
    },
    Test {
        name: "identity_server_that_moved",
        run: moved,
    },
    Test {
        name: "identity_partitions_of_a_map",
        run: partitions,
    },
    Test {
        name: "identity_after_the_hosts_next_start",
        run: next_start,
    },
];

/// The number of NFS mounts.
fn mounts(node: &Node) -> Result<String> {
    node.sh("grep -c ' nfs4* ' /proc/mounts; true")
}

/// The server exports anew, so the mount goes stale: new attachments get another mount, and the first attachment keeps the stale mount
/// until it is detached.
fn made_anew(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let server = NfsServer::start(node, "nas", 10, "rw,fsid=7", "")?;
    for volume in ["v.raw", "w.raw", "x.raw"] {
        server.volume(volume, "sixteen bytes...")?;
    }
    agent.attach("a1", "v", &server.info("v.raw", ""), &[])??;
    ensure!(guest::sees(node, "v")?.write == Ok(()));
    server.export_anew("rw,fsid=8")?;
    for (id, volume, file) in [("a2", "w", "w.raw"), ("a3", "x", "x.raw")] {
        agent.attach(id, volume, &server.info(file, ""), &[])??;
        ensure!(guest::sees(node, volume)?.write == Ok(()));
    }
    ensure!(mounts(node)? == "2", "{}", node.sh("cat /proc/mounts")?);
    agent.detach("a1")??;
    ensure!(mounts(node)? == "1", "{}", node.sh("cat /proc/mounts")?);
    for id in ["a2", "a3"] {
        agent.detach(id)??;
    }
    ensure!(mounts(node)? == "0", "{}", node.sh("cat /proc/mounts")?);
    Ok(())
}

/// The server's name moves to another address, and the old address is dead.
fn moved(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let old = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    let new = SmbServer::start(node, "nas2", 11, &["vols"], "")?;
    for (server, volume) in [(&old, "v.raw"), (&new, "w.raw")] {
        server.user("bob", "pw")?;
        server.volume("vols", volume, 8, "")?;
    }
    let name = |address: &str| {
        node.sh(&format!(
            "sed -i '/mover.lab/d' /etc/hosts && echo '{address} mover.lab' >>/etc/hosts"
        ))
    };
    let info = |file: &str| {
        let mut info = smb_info(&old, "vols", file, "-o username=bob,password=pw");
        info["data"]["export"] = json!("//mover.lab/vols");
        info
    };
    name("10.99.0.10")?;
    agent.attach("a1", "v", &info("v.raw"), &[])??;
    old.pause()?;
    name("10.99.0.11")?;
    let moved = agent.attach("a2", "w", &info("w.raw"), &[])?;
    old.resume()?;
    moved?;
    ensure!(guest::sees(node, "w")?.write == Ok(()));
    let mounts = || node.sh("grep -c ' cifs ' /proc/mounts; true");
    ensure!(mounts()? == "2", "{}", node.sh("cat /proc/mounts")?);
    for id in ["a1", "a2"] {
        agent.detach(id)??;
    }
    node.sh("sed -i '/mover.lab/d' /etc/hosts")?;
    ensure!(mounts()? == "0", "{}", node.sh("cat /proc/mounts")?);
    Ok(())
}

/// Partition maps, which kpartx makes of a guest's partition table, leave their map open to an extend, and go with the map unless this host
/// uses a partition.
fn partitions(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &["va"])?;
    targets.target("t", &[21, 22], &[(1, "va")])?;
    targets.run(&["multipathd"])?;
    let info = multipath_info(&[(21, "t"), (22, "t")], 1);
    for used in [true, false] {
        let attached = agent.attach("a", "va", &info, &[])??;
        let map = host_path(&attached);
        node.sh(&format!(
            "udevadm settle && uuid=$(dmsetup info -c --noheadings -o uuid {map}) &&
             dmsetup create part1 --uuid \"part1-$uuid\" --table \"0 2048 linear {map} 2048\" && udevadm settle"
        ))?;
        agent.extend("a", 8 << 20)??;
        if used {
            node.sh(
                "dmsetup create held --table '0 8 linear /dev/mapper/part1 0' && udevadm settle",
            )?;
            let failure = refused(agent.detach("a")?, "DEVICE_BUSY")?;
            ensure!(
                failure.message.contains("this host itself uses it"),
                "{failure:?}"
            );
            node.sh("dmsetup remove --retry held")?;
        }
        agent.detach("a")??;
        expect(lab, "0 sessions 0 disks 0 maps")?;
    }
    Ok(())
}

/// A start of the host renames its devices, and a domain starts with the devices that its persistent configuration names.
fn next_start(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let both = ["--scope", "both"];
    let info = |lun| iscsi_info(21, "t", lun);
    // The target derives a volume's serial from its name, so both serves give the same identities.
    let serve = || Targets::new(node, &["va", "vb"])?.target("t", &[21], &[(1, "va"), (2, "vb")]);
    serve()?;
    let server = NfsServer::start(node, "nas", 10, "rw", "")?;
    server.volume("n.raw", "sixteen bytes...")?;
    let agent = Agent::start(node, "")?;
    agent.attach("a", "va", &info(1), &both)??;
    agent.attach("n", "vn", &server.info("n.raw", ""), &both)??;
    ensure!(guest::sees(node, "va")?.head == head_hex("va"));
    let configured = node.sh("virsh dumpxml --inactive inner | grep -o \"dev='/dev/[^']*'\"")?;
    ensure!(configured.contains("/dev/disk/by-id/"), "{configured}");

    node.reboot()?;
    serve()?;
    let server = NfsServer::start(node, "nas", 10, "rw", "")?;
    server.volume("n.raw", "sixteen bytes...")?;
    // The package has enabled the daemon, which nobody else has started.
    node.wait(
        "the daemon is up",
        "systemctl is-active -q volattachd.service",
        Duration::from_secs(180),
    )?;
    for id in ["a", "n"] {
        agent.shows(id, "DISK_LOST")?;
    }
    // The other volume is connected first, and gets the name that the first volume had.
    let other = agent.connect("b", "vb", &info(2), &[])??;
    ensure!(host_path(&other) == "/dev/sda", "{other}");
    agent.attach("a", "va", &info(1), &both)??;
    agent.attach("n", "vn", &server.info("n.raw", ""), &both)??;
    node.sh("rm -f /var/log/lab/inner.console && virsh -q start inner")?;
    for volume in ["va", "vn"] {
        guest::sees(node, volume)?;
    }
    ensure!(guest::sees(node, "va")?.head == head_hex("va"));
    for id in ["a", "n"] {
        agent.detach(id)??;
    }
    agent.disconnect("b")??;
    let configured = node.sh("virsh dumpxml --inactive inner | grep -c '<disk '; true")?;
    ensure!(configured == "0", "{configured} disks are left");
    expect(lab, "0 sessions 0 disks 0 maps")
}
