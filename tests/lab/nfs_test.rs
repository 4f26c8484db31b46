//! Volumes on NFS exports, as the guest sees them, and what fails when their server does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    guest,
    nfs_servers::NfsServer,
    process::quote,
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "nfs_volumes_as_the_guest_sees_them",
        run: volumes,
    },
    Test {
        name: "nfs_versions_and_addresses",
        run: versions,
    },
    Test {
        name: "nfs_what_cannot_be_attached",
        run: refusals,
    },
    Test {
        name: "nfs_server_dies_while_attached",
        run: server_dies,
    },
];

const HEAD: &str = "sixteen bytes...";

/// [`HEAD`] as the guest tells it.
const HEAD_SEEN: &str = "7369787465656e2062797465732e2e2e";

/// What the node's kernel has mounted beneath the mount base: type and options.
fn mounts(lab: &Lab) -> Result<Vec<String>> {
    let mounts = lab
        .node
        .sh("awk '$2 ~ \"^/var/lib/volattach/mnt/\" {print $3, $4}' /proc/mounts")?;
    Ok(mounts.lines().map(str::to_owned).collect())
}

fn failure(answer: Result<Value, Failure>, what: &str, reason: &str) -> Result<Failure> {
    let failure = answer.err().with_context(|| format!("{what}: it worked"))?;
    ensure!(failure.reason == reason, "{what}: {failure:?}");
    Ok(failure)
}

/// Read-only wherever it can be; what the guest writes is on the server; one mount for all with the same access; and the
/// server's owners stay as they are, also where root is root.
pub(crate) fn volumes(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = NfsServer::start(&lab.node, "nas", 10, "rw,no_root_squash", "")?;
    for volume in ["ro.raw", "rw.raw", "more.raw"] {
        server.volume(volume, HEAD)?;
    }
    let checksum = || {
        lab.node
            .sh(&format!("sha256sum <{}", server.path("ro.raw")))
    };
    let before = checksum()?;
    let mut read_only = server.info("ro.raw", "");
    read_only["data"]["access_mode"] = json!("ro");
    agent.attach("a1", "read-only", &read_only, &[])??;
    agent.attach("a2", "read-write", &server.info("rw.raw", ""), &[])??;
    agent.connect("c1", "one-more", &server.info("more.raw", ""), &[])??;

    let disk = guest::sees(&lab.node, "read-only")?;
    ensure!(
        disk.sectors == 8 * 2048 && disk.head == HEAD_SEEN,
        "{disk:?}"
    );
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    let disk = guest::sees(&lab.node, "read-write")?;
    ensure!(disk.head == HEAD_SEEN, "{disk:?}");
    ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");
    let mut mounted = mounts(lab)?;
    mounted.sort();
    ensure!(mounted.len() == 2, "{mounted:?}");
    ensure!(mounted[0].starts_with("nfs4 ro,") && mounted[1].starts_with("nfs4 rw,"));
    for mount in &mounted {
        for option in [
            "nosuid",
            "nodev",
            "noexec",
            "nosymfollow",
            "vers=4.2",
            "softerr",
            "nosharecache",
        ] {
            ensure!(mount.contains(option), "{option}: {mount}");
        }
    }
    for id in ["a1", "a2"] {
        agent.detach(id)??;
    }
    guest::gone(&lab.node, "read-write")?;
    ensure!(mounts(lab)?.len() == 1, "{:?}", mounts(lab)?);
    agent.disconnect("c1")??;
    ensure!(mounts(lab)?.is_empty(), "{:?}", mounts(lab)?);

    ensure!(checksum()? == before, "the read-only volume has changed");
    let (pattern, from) = (disk.pattern(), guest::WRITTEN_AT + 1);
    let found = lab.node.sh(&format!(
        "tail -c +{from} {} | head -c {}",
        server.path("rw.raw"),
        pattern.len()
    ))?;
    ensure!(found == pattern.trim_end(), "{found:?}");
    let owners = lab.node.sh(&format!("stat -c %U {}*", server.path("")))?;
    ensure!(
        owners.lines().all(|owner| owner == "libvirt-qemu"),
        "{owners}"
    );
    Ok(())
}

/// Each version for real, the newest in common where none is asked for, and IPv6.
fn versions(lab: &Lab) -> Result<()> {
    let config = "[nfs]\nversions = [\"4.2\", \"4.1\", \"4.0\", \"3\"]\n";
    let agent = Agent::start(&lab.node, config)?;
    let server = NfsServer::start(&lab.node, "nas", 10, "rw", "")?;
    server.volume("v.raw", HEAD)?;
    let connect = |info: &Value, kind: &str, option: &str| {
        agent.connect("c1", "v", info, &[])??;
        let mounted = mounts(lab)?;
        ensure!(
            mounted.len() == 1 && mounted[0].starts_with(kind) && mounted[0].contains(option),
            "not {option}: {mounted:?}"
        );
        agent.disconnect("c1")??;
        anyhow::Ok(())
    };
    for version in ["4.2", "4.1", "4.0"] {
        let option = format!("vers={version}");
        connect(
            &server.info("v.raw", &option),
            "nfs4 ",
            &format!("{option},"),
        )?;
    }
    let mut by_ipv6 = server.info("v.raw", "");
    by_ipv6["data"]["export"] = json!(format!("[fd99::10]:{}", server.export()));
    connect(&by_ipv6, "nfs4 ", "proto=tcp6,")?;

    // As the guest sees it too: version 3 has other locks.
    agent.attach("a1", "by-3", &server.info("v.raw", "vers=3"), &[])??;
    let disk = guest::sees(&lab.node, "by-3")?;
    ensure!(disk.write == Ok(()) && disk.head == HEAD_SEEN, "{disk:?}");
    let mounted = mounts(lab)?;
    ensure!(
        mounted[0].starts_with("nfs ") && mounted[0].contains("vers=3,"),
        "{mounted:?}"
    );
    agent.detach("a1")??;

    for (name, octet, arguments, kind, option) in [
        ("older", 11, "-N 4.2", "nfs4 ", "vers=4.1,"),
        ("oldest", 12, "-N 4", "nfs ", "vers=3,"),
    ] {
        let server = NfsServer::start(&lab.node, name, octet, "rw", arguments)?;
        server.volume("v.raw", HEAD)?;
        connect(&server.info("v.raw", ""), kind, option)?;
        let asked = agent.connect("c1", "v", &server.info("v.raw", "vers=4.2"), &[])?;
        failure(
            asked,
            "a version that the server has not",
            "PROTOCOL_VERSION",
        )?;
    }
    Ok(())
}

/// The exact reason each, and nothing left over.
fn refusals(lab: &Lab) -> Result<()> {
    // Longer than the kernel looks for a host that is not there (3 s).
    let agent = Agent::start(&lab.node, "[nfs]\nprobe_timeout = \"8s\"\n")?;
    let server = NfsServer::start(&lab.node, "nas", 10, "rw,root_squash", "")?;
    server.volume("v.raw", HEAD)?;
    lab.node.sh(&format!(
        "cd {} && mkdir folder && ln -s /etc/shadow link && cp v.raw roots.raw && chmod 600 roots.raw &&
         cp v.raw readable.raw && chmod 644 readable.raw &&
         qemu-img create -q -f qcow2 -u -b /etc/shadow -F raw backed.qcow2 4M && chmod 644 backed.qcow2",
        server.path("")
    ))?;
    let refused = |info: &Value, what: &str, reason: &str| {
        let refused = failure(agent.attach("a1", "v", info, &[])?, what, reason)?;
        ensure!(mounts(lab)?.is_empty(), "{what}: {:?}", mounts(lab)?);
        anyhow::Ok(refused)
    };
    // Root may do nothing there, and QEMU's user not what the file forbids it.
    let told = refused(
        &server.info("roots.raw", ""),
        "root's own",
        "VOLUME_UNREADABLE",
    )?;
    let uid = lab.node.sh("id -u libvirt-qemu")?;
    ensure!(
        told.message.contains(&format!("uid {uid}")) && told.message.contains("anonuid"),
        "{told:?}"
    );
    let readable = server.info("readable.raw", "");
    refused(&readable, "to be written", "VOLUME_UNREADABLE")?;
    agent.connect("c1", "v", &readable, &["--access", "ro"])??;
    agent.disconnect("c1")??;
    agent.connect("c1", "v", &server.info("v.raw", ""), &[])??;
    agent.disconnect("c1")??;

    for (name, reason) in [
        ("absent.raw", "VOLUME_NOT_FOUND"),
        ("link", "VOLUME_PATH_UNSAFE"),
        ("../../../../etc/shadow", "VOLUME_PATH_UNSAFE"),
        ("folder", "VOLUME_NOT_REGULAR"),
    ] {
        refused(&server.info(name, ""), name, reason)?;
    }
    let mut backed = server.info("backed.qcow2", "ro");
    backed["data"]["format"] = json!("qcow2");
    refused(&backed, "a backing file", "IMAGE_REFERENCES_FILE")?;
    let mut elsewhere = server.info("v.raw", "");
    elsewhere["data"]["export"] = json!(format!("{}:/srv/nothing", server.address));
    refused(&elsewhere, "no such export", "SHARE_NOT_FOUND")?;
    elsewhere["data"]["export"] = json!("fd99::10:/srv");
    let told = refused(&elsewhere, "no brackets", "INVALID_CONNECTION_INFO")?;
    ensure!(told.message.contains("brackets"), "{told:?}");
    elsewhere["data"]["export"] = json!("10.99.0.77:/srv");
    refused(&elsewhere, "nobody there", "SERVER_UNREACHABLE")?;
    for option in ["suid", "addr=10.99.0.11", "bg", "made-up=1", "ro,context=x"] {
        refused(
            &server.info("v.raw", option),
            option,
            "MOUNT_OPTION_REFUSED",
        )?;
    }
    let guarded = NfsServer::start(&lab.node, "guarded", 12, "rw,sec=krb5", "")?;
    guarded.volume("v.raw", HEAD)?;
    let told = refused(
        &guarded.info("v.raw", ""),
        "Kerberos alone",
        "LOGON_FAILURE",
    )?;
    ensure!(told.message.contains("sec=krb5"), "{told:?}");
    refused(
        &server.info("v.raw", "vers=3"),
        "not allowed here",
        "PROTOCOL_VERSION",
    )?;
    refused(
        &server.info("v.raw", "port=2050"),
        "a closed port",
        "SERVER_UNREACHABLE",
    )?;
    Ok(())
}

/// A server dies while the guest has its disk: the detach completes when it returns, at the latest; another server's volume comes and
/// goes meanwhile. (dead_server_test.rs has what else may fail.)
fn server_dies(lab: &Lab) -> Result<()> {
    // Operations on a dead server fail after 6 s.
    let config = "[nfs]\ndefault_options = \"timeo=20\"\n[detach]\nunplug_timeout = \"2s\"\n";
    let agent = Agent::start(&lab.node, config)?;
    let ill = NfsServer::start(&lab.node, "ill", 11, "rw", "")?;
    let well = NfsServer::start(&lab.node, "well", 12, "rw", "")?;
    for server in [&ill, &well] {
        server.volume("v.raw", HEAD)?;
    }
    agent.attach("ill", "ill", &ill.info("v.raw", ""), &[])??;
    ensure!(guest::sees(&lab.node, "ill")?.write == Ok(()));
    ill.verb("kill")?;
    if let Err(pending) = agent.detach("ill")? {
        ensure!(pending.reason == "UNPLUG_PENDING", "{pending:?}");
    }
    let connected = agent.connect("well", "well", &well.info("v.raw", ""), &[])??;
    let path = connected["host_path"].as_str().unwrap_or_default();
    // Not as root, whom the server takes for nobody.
    let head = lab.node.sh(&format!(
        "runuser -u libvirt-qemu -- head -c 16 {}",
        quote(path)
    ))?;
    ensure!(head == HEAD, "{head:?}");
    agent.disconnect("well")??;
    ill.verb("revive")?;
    lab.node.wait(
        "the detach completes by itself",
        "! volattach show ill",
        Duration::from_secs(240),
    )?;
    guest::gone(&lab.node, "ill")
}
