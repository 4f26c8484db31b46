//! What guests see of requests that their storage failed: with `stop` they are paused and go on, with `report` they get errors.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest::{self, Second},
    nfs_servers::NfsServer,
    node::Node,
    process::quote,
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "paused_for_want_of_space",
    run: want_of_space,
}];

/// Some 20 minutes: six times a server is silent for longer than the kernel waits for it.
pub(crate) const SOAK: &[Test] = &[Test {
    name: "paused_while_servers_are_away",
    run: servers_away,
}];

/// Longer than any kernel of ours waits for a server, and any pause between two tries to resume a guest.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long servers are silent, in seconds.
const AWAY: u32 = 90;

/// The error of an attachment; `None`: it has none.
fn error(agent: &Agent<'_>, id: &str) -> Result<Option<String>> {
    let shown = agent.call(&["show", id], "")??;
    Ok(shown["error"]["reason"].as_str().map(ToOwned::to_owned))
}

/// Waits until `volattach list --error` has that attachment.
fn told(node: &Node, id: &str) -> Result<()> {
    let listed = format!("volattach list --error IO_STOPPED | grep -q '^{id} '");
    node.wait(&format!("{id} is told to be stopped"), &listed, PATIENCE)
}

/// A volume of this host on a file system that is full: the guest's first write pauses it, and is made once there is room.
fn want_of_space(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    node.sh(
        "mkdir -p /srv/full /srv/lab-full && truncate -s 4M /srv/lab-full/disk && mkfs.ext4 -q -F -I 1024 -m 0 -O ^has_journal /srv/lab-full/disk &&
         mount -o loop /srv/lab-full/disk /srv/full && truncate -s 8M /srv/full/v.raw &&
         { dd if=/dev/zero of=/srv/full/filler bs=1k status=none 2>/dev/null || true; } && sync",
    )?;
    let result = full(node);
    // What the guest still has of it would keep it from being unmounted.
    let _ = node.run("volattach detach f", b"", PATIENCE)?;
    node.sh("umount /srv/full && rm -r /srv/full /srv/lab-full")?;
    result
}

fn full(node: &Node) -> Result<()> {
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/full\"]\n")?;
    let info = json!({"driver_volume_type": "local", "data": {"device_path": "/srv/full/v.raw"}});
    agent.attach("f", "vf", &info, &[])??;
    told(node, "f")?;
    let state = node.sh("virsh domstate --reason inner")?;
    ensure!(state.contains("paused (I/O error)"), "{state}");
    let doctor = node.run("volattach doctor", b"", PATIENCE)?;
    ensure!(
        doctor.status.code() == Some(9)
            && doctor
                .stdout
                .contains("is paused since a request to volume vf failed"),
        "{}",
        doctor.stdout
    );
    node.sh("rm /srv/full/filler")?;
    let seen = guest::sees(node, "vf")?;
    ensure!(seen.write == Ok(()), "{seen:?}");
    node.wait(
        "the guest is told to go on",
        "! volattach list --error IO_STOPPED | grep -q '^f '",
        PATIENCE,
    )?;
    ensure!(error(&agent, "f")?.is_none());
    let written =
        node.sh("dd if=/srv/full/v.raw bs=4096 skip=1 count=1 status=none | tr -d '\\0'")?;
    ensure!(written.trim() == seen.pattern().trim(), "{written}");
    agent.detach("f")??;
    guest::gone(node, "vf")
}

/// A way to storage.
struct Storage {
    name: &'static str,
    silence: String,
    unsilence: String,
    info: Value,
    /// The volume's bytes in the node.
    path: String,
}

fn servers_away(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/end\"]\n")?;
    node.sh("mkdir -p /srv/end && truncate -s 1M /srv/end/end.raw")?;
    for storage in storages(node)? {
        for policy in ["stop", "report"] {
            away(&agent, node, &storage, policy)
                .with_context(|| format!("{} with {policy}", storage.name))?;
        }
    }
    node.sh("rm -r /srv/end").map(drop)
}

/// A guest keeps writing to a file while its server is silent, and the daemon is killed meanwhile.
fn away(agent: &Agent<'_>, node: &Node, storage: &Storage, policy: &str) -> Result<()> {
    node.sh(&format!("mkfs.ext4 -q -F {}", quote(&storage.path)))?;
    let _guest = Second::start_as(node, "files")?;
    let options = ["--error-policy", policy];
    agent.attach_to(Second::NAME, "a", "v", &storage.info, &options)??;
    let says = |what: &str, words: &str| {
        let script = format!(
            "tr -d '\\r' </var/log/lab/{}.console | grep -q '{words}'",
            Second::NAME
        );
        node.wait(&format!("the guest {what}"), &script, PATIENCE)
    };
    says("writes", "^GUEST wrote=3$")?;
    node.sh(&storage.silence)?;
    match policy {
        "stop" => told(node, "a")?,
        _ => says("gets an error", "^GUEST unwritten=")?,
    }
    node.sh("pkill -KILL -x volattachd && systemctl reset-failed volattachd.service; systemctl start volattachd.service")?;
    node.sh(&format!("sleep {AWAY}"))?;
    let before = written(node)?;
    node.sh(&storage.unsilence)?;
    if policy == "stop" {
        says("goes on", &format!("^GUEST wrote={}$", before + 3))?;
        node.wait(
            "the guest is told to go on",
            "! volattach list --error IO_STOPPED | grep -q '^a '",
            PATIENCE,
        )?;
        let console = node.sh(&format!("cat /var/log/lab/{}.console", Second::NAME))?;
        ensure!(!console.contains("GUEST unwritten="), "{console}");
        let end =
            json!({"driver_volume_type": "local", "data": {"device_path": "/srv/end/end.raw"}});
        agent.attach_to(Second::NAME, "end", "end", &end, &[])??;
        says("unmounts", "^GUEST unmounted$")?;
        agent.detach("end")??;
        agent.detach("a")??;
        let checked = node.run(
            &format!("e2fsck -fn {}", quote(&storage.path)),
            b"",
            PATIENCE,
        )?;
        ensure!(
            checked.status.success(),
            "{}{}",
            checked.stdout,
            checked.stderr
        );
    } else {
        ensure!(error(agent, "a")?.is_none());
        // Its file system is broken, and stays in use: the guest ends with it.
        node.sh(&format!("virsh -q destroy {}", Second::NAME))?;
        node.wait("detached", "volattach --timeout 60 detach a", PATIENCE)?;
    }
    println!(
        "paused: {} with {policy}: written {before} times before",
        storage.name
    );
    Ok(())
}

/// How often the guest has written.
fn written(node: &Node) -> Result<u32> {
    let last = node.sh(&format!(
        "tr -d '\\r' </var/log/lab/{}.console | sed -n 's/^GUEST wrote=//p' | tail -n 1",
        Second::NAME
    ))?;
    Ok(last.trim().parse()?)
}

fn storages(node: &Node) -> Result<Vec<Storage>> {
    let smb = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    smb.user("bob", "pw")?;
    smb.volume("vols", "v.raw", 8, "")?;
    let nfs = NfsServer::start(node, "filer", 11, "rw", "")?;
    nfs.volume("v.raw", "")?;
    let targets = Targets::new(node, &["lun1"])?;
    targets.target("t", &[21], &[(1, "lun1")])?;
    let storage = |name, tool: &str, server: &str, info, path| {
        let verb = |verb| format!("lab-{tool} {verb} {}", quote(server));
        Storage {
            name,
            silence: verb("silence"),
            unsilence: verb("unsilence"),
            info,
            path,
        }
    };
    Ok(vec![
        storage(
            "NFS",
            "nfs",
            "filer",
            nfs.info("v.raw", ""),
            nfs.path("v.raw"),
        ),
        storage(
            "SMB",
            "smb",
            "nas",
            smb_info(&smb, "vols", "v.raw", "-o username=bob,password=pw"),
            smb.path("vols", "v.raw"),
        ),
        storage(
            "iSCSI",
            "iscsi",
            "21",
            iscsi_info(21, "t", 1),
            targets.path("lun1"),
        ),
    ])
}
