//! Several domains of one node: volumes of one share and of one target go to guests of their own, and one volume to both; and the end
//! of one of them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest::{self, Second},
    machine::Kind,
    nfs_servers::NfsServer,
    nvme_servers::{A, B, NvmeServer},
    process::wait_for,
    servers::{SmbServer, smb_info},
    targets::{Targets, head_hex, iscsi_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "domains_share_connections_and_volumes",
        run: two_domains,
    },
    Test {
        name: "domains_end_is_shown_at_once",
        run: end_of_domain,
    },
];

/// Time for what libvirt reports to be shown: a part of the minute between two rounds.
const SOON: Duration = Duration::from_secs(20);

/// What the two guests use of one connection.
struct Pair {
    /// What the connection is, in words.
    what: &'static str,
    /// The volume of the inner guest, and that of the second.
    volumes: [&'static str; 2],
    info: [Value; 2],
    /// What each volume begins with, as a guest tells it.
    heads: [String; 2],
    /// Counts the connections.
    count: &'static str,
}

/// What belongs to a guest is that guest's alone, and what they share stays for the one that is left.
fn two_domains(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let second = Second::start(node)?;
    let smb = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    smb.user("alice", "secret")?;
    smb.volume("vols", "one.raw", 8, "smb-volume-one..")?;
    smb.volume("vols", "two.raw", 8, "smb-volume-two..")?;
    let nfs = NfsServer::start(node, "filer", 11, "rw", "")?;
    nfs.volume("one.raw", "nfs-volume-one..")?;
    nfs.volume("two.raw", "nfs-volume-two..")?;
    let targets = Targets::new(node, &["lun1", "lun2"])?;
    targets.target("t", &[21], &[(1, "lun1"), (2, "lun2")])?;
    let subsystem = NvmeServer::start(node, "subsystem", &[22])?;
    let by_smb = |name| smb_info(&smb, "vols", name, "-o username=alice,password=secret");

    for pair in [
        Pair {
            what: "one SMB mount",
            volumes: ["smb-1", "smb-2"],
            info: [by_smb("one.raw"), by_smb("two.raw")],
            heads: [
                guest::hex("smb-volume-one.."),
                guest::hex("smb-volume-two.."),
            ],
            count: "findmnt -rnt cifs | wc -l",
        },
        Pair {
            what: "one NFS mount",
            volumes: ["nfs-1", "nfs-2"],
            info: [nfs.info("one.raw", ""), nfs.info("two.raw", "")],
            heads: [
                guest::hex("nfs-volume-one.."),
                guest::hex("nfs-volume-two.."),
            ],
            count: "findmnt -rnt nfs,nfs4 | wc -l",
        },
        Pair {
            what: "one iSCSI session",
            volumes: ["iscsi-1", "iscsi-2"],
            info: [iscsi_info(21, "t", 1), iscsi_info(21, "t", 2)],
            heads: [head_hex("lun1"), head_hex("lun2")],
            count: "ls /sys/class/iscsi_session | wc -l",
        },
        Pair {
            what: "one NVMe controller",
            volumes: ["nvme-1", "nvme-2"],
            info: [subsystem.info(A), subsystem.info(B)],
            heads: [
                guest::hex("volume A........"),
                guest::hex("volume B........"),
            ],
            count: "ls /sys/class/nvme | wc -l",
        },
    ] {
        let connections = || -> Result<String> { Ok(node.sh(pair.count)?.trim().to_owned()) };
        agent.attach("a1", pair.volumes[0], &pair.info[0], &[])??;
        agent.attach_to(Second::NAME, "a2", pair.volumes[1], &pair.info[1], &[])??;
        let seen = [
            guest::sees(node, pair.volumes[0])?,
            second.sees(pair.volumes[1])?,
        ];
        for (disk, head) in seen.iter().zip(&pair.heads) {
            ensure!(
                disk.head == *head && disk.write == Ok(()),
                "{}: {disk:?}",
                pair.what
            );
        }
        let others = guest::disks(node)?;
        ensure!(others.len() == 1, "{}: {others:?}", pair.what);
        ensure!(connections()? == "1", "{}: {}", pair.what, connections()?);
        agent.detach("a1")??;
        ensure!(connections()? == "1", "{} is in use", pair.what);
        agent.detach("a2")??;
        ensure!(connections()? == "0", "{} is left", pair.what);
    }

    // One volume for both, as a cluster's file system wants it: by consent alone.
    let mut shared = by_smb("one.raw");
    agent.attach("a1", "shared", &shared, &[])??;
    let refused = agent.attach_to(Second::NAME, "a2", "shared", &shared, &[])?;
    let refused = refused.err().map(|failure| failure.reason);
    ensure!(refused.as_deref() == Some("VOLUME_IN_USE"), "{refused:?}");
    agent.detach("a1")??;
    shared["data"]["multiattach"] = json!(true);
    agent.attach("a1", "shared", &shared, &["--shareable"])??;
    agent.attach_to(Second::NAME, "a2", "shared", &shared, &["--shareable"])??;
    for disk in [guest::sees(node, "shared")?, second.sees("shared")?] {
        ensure!(disk.write == Ok(()), "{disk:?}");
    }
    agent.detach("a1")??;
    agent.detach("a2")??;
    Ok(())
}

/// A domain that ends, then gets another name (which libvirt's libxl driver has no call for), then is undefined: its attachment shows each
/// at once, and no other's does. The detach of what is gone clears the host.
pub(crate) fn end_of_domain(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let second = Second::start(node)?;
    node.sh("mkdir -p /srv/local && truncate -s 8M /srv/local/one.raw /srv/local/two.raw")?;
    let info = |name| {
        let path = format!("/srv/local/{name}.raw");
        json!({"driver_volume_type": "local", "data": {"device_path": path}})
    };
    agent.attach_to(Second::NAME, "a1", "one", &info("one"), &[])??;
    agent.attach("a2", "two", &info("two"), &[])??;
    second.sees("one")?;
    let shows = |reason: &str, words: &str| {
        wait_for(&format!("a1 shows: {words}"), SOON, || {
            let shown = agent.call(&["show", "a1"], "")??;
            let error = &shown["error"];
            let message = error["message"].as_str().unwrap_or_default();
            Ok((error["reason"] == reason && message.contains(words)).then_some(()))
        })
    };
    let (end, words) = match node.kind {
        Kind::Kvm | Kind::Selinux => (
            "kill -9 \"$(cat /run/libvirt/qemu/second.pid)\"",
            "crashed, and no longer has the disk",
        ),
        Kind::Xen | Kind::XenHvm => (
            "virsh -q destroy second",
            "was shut off, and no longer has the disk",
        ),
    };
    node.sh(end)?;
    shows("DISK_LOST", words)?;
    let mut name = Second::NAME;
    if node.kind == Kind::Kvm {
        node.sh("virsh -q domrename second third")?;
        name = "third";
        wait_for("a1 shows the new name", SOON, || {
            let shown = agent.call(&["show", "a1"], "")??;
            Ok((shown["domain"]["name"] == name).then_some(()))
        })?;
    }
    node.sh(&format!("virsh -q undefine {name}"))?;
    shows("DOMAIN_GONE", "was undefined")?;
    let other = agent.call(&["show", "a2"], "")??;
    ensure!(other["state"] == "attached", "{other}");
    agent.detach("a1")??;
    agent.detach("a2")??;
    guest::gone(node, "two")?;
    node.sh("rm -r /srv/local")?;
    Ok(())
}
