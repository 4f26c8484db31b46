//! How long the guest itself stands still when a server falls silent: QEMU opens and closes images under its own lock, which each processor
//! of the guest needs as well. The guest counts; each longest gap is printed beside its limit, the deadline that the backend's settings set.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    Lab, Test,
    agent::Agent,
    guest::Second,
    nfs_servers::NfsServer,
    nvme_servers::{A, B, NvmeServer},
    process::quote,
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info},
};

/// Some 20 minutes: sixteen times the kernel gives up on a silent server.
pub(crate) const SOAK: &[Test] = &[Test {
    name: "standstill_of_the_guest",
    run: standstill,
}];

/// Longer than any kernel of ours waits for a server.
const PATIENCE: Duration = Duration::from_secs(400);

/// A way to storage.
struct Storage {
    name: &'static str,
    /// Commands in the node.
    silence: String,
    unsilence: String,
    volume: Value,
    /// A volume of the same server.
    other: Value,
    /// Seconds, as docs/backends has them for a dead server.
    limit: u32,
}

fn standstill(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let guest = Second::start_as(node, "ticks")?;
    check_guest(lab, &guest)?;
    let storages = storages(lab)?;
    let mut over = Vec::new();
    for storage in &storages {
        let moments: [(&str, Moment); 4] = [
            ("before an attach", before_attach),
            ("between the last look and the plug", before_plug),
            ("before an unplug", before_unplug),
            ("under I/O", under_io),
        ];
        for (moment, run) in moments {
            let since = guest.lines()?;
            let outcome = run(&agent, &guest, storage, lab)?;
            let gap = longest(&guest.gaps(since)?, outcome.own);
            let gap = f64::from(gap) / 100.0;
            println!(
                "standstill: {}, silent {moment}: {gap:.1} s (limit {}); {}",
                storage.name, storage.limit, outcome.call
            );
            if gap > f64::from(storage.limit) {
                over.push(format!("{} {moment}", storage.name));
            }
        }
    }
    ensure!(over.is_empty(), "longer than the deadline: {over:?}");
    Ok(())
}

/// The guest tells that it stood still for a second.
fn check_guest(lab: &Lab, guest: &Second<'_>) -> Result<()> {
    let since = guest.lines()?;
    let pid = format!("$(cat /run/libvirt/qemu/{}.pid)", Second::NAME);
    lab.node.sh(&format!(
        "kill -STOP {pid} && sleep 1.5; kill -CONT {pid}; sleep 1.5"
    ))?;
    let gap = longest(&guest.gaps(since)?, 0);
    ensure!(
        gap >= 100,
        "stopped for 1.5 s, the guest tells {gap} hundredths"
    );
    Ok(())
}

/// The longest gap, without the time for which the test itself stopped the guest: that is a gap, or the beginning of one.
fn longest(gaps: &[u32], own: u32) -> u32 {
    let first = gaps.first().map_or(0, |gap| gap.saturating_sub(own));
    first.max(gaps.get(1).copied().unwrap_or_default())
}

/// Has the server fall silent at its moment and come back; returns how the call ended.
type Moment = fn(&Agent<'_>, &Second<'_>, &Storage, &Lab) -> Result<Outcome>;

/// How a call ended.
struct Outcome {
    /// Its reason, or the state of the attachment.
    call: String,
    /// For how long the test itself stopped the guest, in hundredths of a second.
    own: u32,
}

impl From<String> for Outcome {
    fn from(call: String) -> Self {
        Self { call, own: 0 }
    }
}

/// While another volume keeps the connection.
fn before_attach(
    agent: &Agent<'_>,
    _guest: &Second<'_>,
    storage: &Storage,
    lab: &Lab,
) -> Result<Outcome> {
    agent.connect("other", "other", &storage.other, &[])??;
    lab.node.sh(&storage.silence)?;
    let ended = agent.attach_to(
        Second::NAME,
        "a",
        "v",
        &storage.volume,
        &["--timeout", "140"],
    )?;
    let ended = ended.map_or_else(|failure| failure.reason, |_| "attached".to_owned());
    lab.node.sh(&storage.unsilence)?;
    gone(lab, "detach a")?;
    gone(lab, "disconnect other")?;
    Ok(ended.into())
}

/// QEMU is stopped until the server is silent, so that its open of the image meets a silent server for sure.
fn before_plug(
    agent: &Agent<'_>,
    _guest: &Second<'_>,
    storage: &Storage,
    lab: &Lab,
) -> Result<Outcome> {
    let node = &lab.node;
    node.write("/run/lab-info", storage.volume.to_string().as_bytes())?;
    node.note("a", "v");
    let qemu = format!("$(cat /run/libvirt/qemu/{}.pid)", Second::NAME);
    let script = format!(
        "cursor=$(journalctl -q -n 0 --show-cursor | sed -n 's/^-- cursor: //p')
         stopped=$(date +%s%N)
         kill -STOP {qemu}
         volattach --timeout 140 attach --id a --volume v --domain {} --connection-info /run/lab-info >&2 &
         for _ in $(seq 600); do
             ! journalctl -q -o cat -u volattachd --after-cursor=\"$cursor\" | grep -q 'step=\"attach\"' || break
             sleep 0.05
         done
         {}
         kill -CONT {qemu}
         echo $((($(date +%s%N) - stopped) / 10000000))
         wait",
        Second::NAME,
        storage.silence,
    );
    let output = node.run(&script, b"", Duration::from_secs(240))?;
    let own = output.stdout.trim().parse()?;
    let call = match agent.call(&["show", "a"], "")? {
        Ok(shown) => shown["state"].to_string(),
        Err(failure) => failure.reason,
    };
    node.sh(&storage.unsilence)?;
    gone(lab, "detach a")?;
    Ok(Outcome { call, own })
}

fn before_unplug(
    agent: &Agent<'_>,
    guest: &Second<'_>,
    storage: &Storage,
    lab: &Lab,
) -> Result<Outcome> {
    let read_only = ["--access", "ro"];
    agent.attach_to(Second::NAME, "a", "v", &storage.volume, &read_only)??;
    guest.sees("v")?;
    lab.node.sh(&storage.silence)?;
    let ended = agent.call(&["--timeout", "140", "detach", "a"], "")?;
    let ended = ended.map_or_else(|failure| failure.reason, |_| "detached".to_owned());
    lab.node.sh(&storage.unsilence)?;
    gone(lab, "detach a")?;
    Ok(ended.into())
}

/// The guest writes all the while.
fn under_io(
    agent: &Agent<'_>,
    guest: &Second<'_>,
    storage: &Storage,
    lab: &Lab,
) -> Result<Outcome> {
    // With `stop` the guest would be paused, which is no standstill of this kind.
    let report = ["--error-policy", "report"];
    agent.attach_to(Second::NAME, "a", "v", &storage.volume, &report)??;
    ensure!(guest.sees("v")?.write == Ok(()));
    lab.node.sh(&storage.silence)?;
    // As long as the server is silent at the other moments, at least.
    lab.node.sh(&format!("sleep {}", storage.limit))?;
    lab.node.sh(&storage.unsilence)?;
    gone(lab, "detach a")?;
    Ok("the server came back".to_owned().into())
}

/// Ends the attachment, as soon as the kernel lets go of what was silent.
fn gone(lab: &Lab, command: &str) -> Result<()> {
    lab.node.wait(
        command,
        &format!("volattach --timeout 60 {command}"),
        PATIENCE,
    )
}

fn storages(lab: &Lab) -> Result<Vec<Storage>> {
    let node = &lab.node;
    let smb = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    smb.user("bob", "pw")?;
    let nfs = NfsServer::start(node, "filer", 11, "rw", "")?;
    for file in ["v.raw", "w.raw"] {
        smb.volume("vols", file, 8, "sixteen bytes...")?;
        nfs.volume(file, "sixteen bytes...")?;
    }
    let targets = Targets::new(node, &["lun1", "lun2"])?;
    targets.target("t", &[21], &[(1, "lun1"), (2, "lun2")])?;
    let nvme = NvmeServer::start(node, "subsystem", &[22])?;
    let by_smb = |file| smb_info(&smb, "vols", file, "-o username=bob,password=pw");
    let storage = |name, tool: &str, server: &str, limit| {
        let verb = |verb| format!("lab-{tool} {verb} {}", quote(server));
        (name, verb("silence"), verb("unsilence"), limit)
    };
    let each = [
        (
            storage("SMB", "smb", "nas", 45),
            by_smb("v.raw"),
            by_smb("w.raw"),
        ),
        (
            storage("NFS", "nfs", "filer", 35),
            nfs.info("v.raw", ""),
            nfs.info("w.raw", ""),
        ),
        (
            storage("iSCSI", "iscsi", "21", 35),
            iscsi_info(21, "t", 1),
            iscsi_info(21, "t", 2),
        ),
        (
            storage("NVMe/TCP", "nvme", "subsystem", 30),
            nvme.info(A),
            nvme.info(B),
        ),
    ];
    let each = each.into_iter();
    let storages = each.map(
        |((name, silence, unsilence, limit), volume, other)| Storage {
            name,
            silence,
            unsilence,
            volume,
            other,
            limit,
        },
    );
    Ok(storages.collect())
}
