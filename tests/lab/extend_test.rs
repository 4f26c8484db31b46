//! Volumes that their storage has grown, as the guest sees them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    nfs_servers::NfsServer,
    process::quote,
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info, multipath_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "extend_smb",
        run: smb,
    },
    Test {
        name: "extend_iscsi",
        run: iscsi,
    },
    Test {
        name: "extend_nfs",
        run: nfs,
    },
];

const MIB: u64 = 1 << 20;

/// Grown on the server; then nobody sees it, the host's cache included, until it is extended; then the guest does. A guest
/// that may only read sees it once the volume is attached again.
fn smb(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    server.user("bob", "pw")?;
    for volume in ["rw.raw", "ro.raw", "host.raw", "image.qcow2"] {
        server.volume("vols", volume, 4, "sixteen bytes...")?;
    }
    let image = quote(&server.path("vols", "image.qcow2"));
    node.sh(&format!("qemu-img create -q -f qcow2 {image} 4M"))?;
    let info = |volume: &str| smb_info(&server, "vols", volume, "-o username=bob,password=pw");
    let grow = |volume: &str, mebibytes: u64| {
        let path = quote(&server.path("vols", volume));
        node.sh(&format!("truncate -s {mebibytes}M {path}"))
    };
    let size = |volume: &str| -> Result<u64> {
        let path = quote(&server.path("vols", volume));
        Ok(node.sh(&format!("stat -c %s {path}"))?.trim().parse()?)
    };

    agent.attach("rw", "grows", &info("rw.raw"), &[])??;
    let scsi = ["--bus", "scsi", "--access", "ro"];
    agent.attach("ro", "reads", &info("ro.raw"), &scsi)??;
    agent.connect("host", "host", &info("host.raw"), &[])??;
    let mut qcow2 = info("image.qcow2");
    qcow2["data"]["format"] = "qcow2".into();
    agent.attach("image", "image", &qcow2, &[])??;
    ensure!(guest::sees(node, "grows")?.write == Ok(()));
    ensure!(guest::sees(node, "reads")?.read_only);
    guest::sees_bytes(node, "image", 4 * MIB)?;

    // Nothing has grown yet: that is told, and nothing changes.
    ensure!(agent.extend("rw", 0)?? == 4 * MIB);
    for (id, bytes, reason) in [
        ("rw", 5 * MIB, "VOLUME_NOT_GROWN"),
        ("host", 5 * MIB, "VOLUME_NOT_GROWN"),
        ("rw", MIB, "SHRINK_REFUSED"),
        ("image", MIB, "SHRINK_REFUSED"),
        ("none", 0, "ATTACHMENT_NOT_FOUND"),
    ] {
        let refused = agent.extend(id, bytes)?.err();
        let refused = refused.with_context(|| format!("{id} was extended to {bytes}"))?;
        ensure!(refused.reason == reason, "{id} {bytes}: {refused:?}");
    }
    ensure!(size("rw.raw")? == 4 * MIB && size("host.raw")? == 4 * MIB);

    for mebibytes in [6, 9] {
        for volume in ["rw.raw", "ro.raw", "host.raw"] {
            grow(volume, mebibytes)?;
        }
        let bytes = mebibytes * MIB;
        for wanted in [bytes, 0] {
            ensure!(agent.extend("rw", wanted)?? == bytes);
            ensure!(agent.extend("host", wanted)?? == bytes);
        }
        guest::sees_bytes(node, "grows", bytes)?;
        ensure!(agent.extend("image", bytes)?? == bytes);
        guest::sees_bytes(node, "image", bytes)?;
        let refused = agent.extend("ro", bytes)?.err();
        let refused = refused.context("a disk that may only be read has grown")?;
        ensure!(refused.reason == "RESIZE_UNSUPPORTED", "{refused:?}");
        guest::sees_bytes(node, "reads", 4 * MIB)?;
        for volume in ["rw.raw", "ro.raw", "host.raw"] {
            ensure!(size(volume)? == bytes, "{volume} has {}", size(volume)?);
        }
    }
    agent.detach("ro")??;
    guest::gone(node, "reads")?;
    agent.attach("ro", "reads", &info("ro.raw"), &scsi)??;
    guest::sees_bytes(node, "reads", 9 * MIB)?;
    ensure!(agent.extend("ro", 9 * MIB)?? == 9 * MIB);

    for id in ["rw", "ro", "image"] {
        agent.detach(id)??;
    }
    agent.disconnect("host")??;
    let shown = node.sh(&format!("qemu-img info --output=json {image}"))?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    ensure!(shown["virtual-size"] == 9 * MIB, "{shown}");
    Ok(())
}

/// LUNs over a map and over one path alone: the paths, the map and the guest take the new size, and nobody before.
fn iscsi(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let targets = Targets::new(node, &["va", "vb"])?;
    targets.target("t", &[21, 22], &[(1, "va"), (2, "vb")])?;
    targets.run(&["multipathd"])?;
    let both = multipath_info(&[(21, "t"), (22, "t")], 1);
    let map = agent.attach("map", "va", &both, &[])??;
    let single = agent.connect("single", "vb", &iscsi_info(21, "t", 2), &[])??;
    guest::sees_bytes(node, "va", 8 * MIB)?;
    let size = |made: &serde_json::Value| -> Result<u64> {
        let device = made["host_path"].as_str().context("no path")?;
        let size = node.sh(&format!("blockdev --getsize64 {}", quote(device)))?;
        Ok(size.trim().parse()?)
    };
    let bytes = 12 * MIB;
    for (id, volume) in [("map", "va"), ("single", "vb")] {
        let refused = agent.extend(id, bytes)?.err();
        let refused = refused.with_context(|| format!("{id} has not grown"))?;
        ensure!(refused.reason == "VOLUME_NOT_GROWN", "{refused:?}");
        targets.run(&["grow", volume, "12"])?;
        for wanted in [bytes, 0] {
            ensure!(agent.extend(id, wanted)?? == bytes, "{id}");
        }
    }
    ensure!(size(&map)? == bytes && size(&single)? == bytes);
    guest::sees_bytes(node, "va", bytes)?;
    agent.detach("map")??;
    agent.disconnect("single")??;
    Ok(())
}

/// The host's cache of the file's size must not outlive the growth.
fn nfs(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = NfsServer::start(&lab.node, "nas", 10, "rw", "")?;
    server.volume("v.raw", "sixteen bytes...")?;
    agent.attach("a1", "grows", &server.info("v.raw", ""), &[])??;
    guest::sees_bytes(&lab.node, "grows", 8 * MIB)?;
    for mebibytes in [10, 13] {
        let path = quote(&server.path("v.raw"));
        // The server must first have back what it delegated to the node: till then it is EAGAIN.
        lab.node.wait(
            "the file's growth",
            &format!("truncate -s {mebibytes}M {path}"),
            Duration::from_secs(180),
        )?;
        let bytes = mebibytes * MIB;
        ensure!(agent.extend("a1", bytes)?? == bytes);
        guest::sees_bytes(&lab.node, "grows", bytes)?;
    }
    agent.detach("a1")??;
    Ok(())
}
