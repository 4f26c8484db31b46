//! Connects and disconnects of the same volumes by volattachd and by os-brick, in the same node, in turns.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    client::{Job, Round},
    median,
};
use crate::{
    agent::Agent,
    nfs_servers::NfsServer,
    node::Node,
    targets::{Targets, iscsi_info},
};

/// Turns of each, and rounds in a turn.
const TURNS: usize = 4;
const ROUNDS: usize = 3;
/// Programs that volattachd may start for a connect.
const PROGRAMS: usize = 2;

/// os-brick's client in the node.
const OS_BRICK: &str = "/opt/os-brick/os_brick_client.py";
const EVENTS: &str = "events/sched/sched_process";

/// A volume that both connect.
struct Volume {
    /// os-brick's name of the protocol.
    protocol: &'static str,
    /// What Cinder sends.
    info: Value,
    /// os-brick's time over ours, at least: of the connect, and of the disconnect.
    connect: f64,
    disconnect: f64,
    /// The least that either can do, where there is something to compare with.
    bare: Option<Job>,
}

/// Prints the table; whether all is within its limits.
pub(super) fn run(node: &Node) -> Result<bool> {
    Agent::start(node, "")?;
    node.sh("mkdir -p /mnt/os-brick /run/os-brick")?;
    let mut good = true;
    println!(
        "os-brick's time over volattachd's, medians of {} connects and disconnects:",
        TURNS * ROUNDS
    );
    for volume in volumes(node)? {
        let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::<Round>::new());
        for _ in 0..TURNS {
            theirs.extend(os_brick(node, &volume)?);
            ours.extend(volattachd(node, &volume)?);
            if let Some(job) = &volume.bare {
                bare.extend(super::client::<Vec<Round>>(node, job)?);
            }
        }
        let times_over = |others: &[Round]| {
            let ratio = |time: fn(&Round) -> f64| {
                median(theirs.iter().map(time)) / median(others.iter().map(time))
            };
            (ratio(|r| r.connect), ratio(|r| r.disconnect))
        };
        let (connect, disconnect) = times_over(&ours);
        println!(
            "  {:<6} connect {connect:.1} (at least {}), disconnect {disconnect:.1} (at least {})",
            volume.protocol, volume.connect, volume.disconnect
        );
        good &= connect >= volume.connect && disconnect >= volume.disconnect;
        if !bare.is_empty() {
            let (connect, disconnect) = times_over(&bare);
            println!(
                "  {:<6} os-brick's over those of a bare worker's mount(2), and of another's umount(2): {connect:.1}, {disconnect:.1}",
                ""
            );
        }
        let ours = programs(node, || volattachd(node, &volume))?;
        let theirs = programs(node, || os_brick(node, &volume))?;
        println!(
            "  {:<6} programs started by a connect: volattachd {} (at most {PROGRAMS}), os-brick {}; by its disconnect: {} and {}",
            "", ours.0, theirs.0, ours.1, theirs.1
        );
        good &= ours.0 <= PROGRAMS;
    }
    super::nothing_left(node)?;
    Ok(good)
}

/// The servers with their volumes.
fn volumes(node: &Node) -> Result<Vec<Volume>> {
    let targets = Targets::new(node, &["bench"])?;
    targets.target("bench", &[21], &[(1, "bench")])?;
    targets.run(&["chap", "bench", "user", "Gravel-Otter-7"])?;
    let mut iscsi = iscsi_info(21, "bench", 1);
    iscsi["data"]["auth_method"] = json!("CHAP");
    iscsi["data"]["auth_username"] = json!("user");
    iscsi["data"]["auth_password"] = json!("Gravel-Otter-7");
    let nfs = NfsServer::start(node, "nas", 10, "rw", "")?;
    nfs.volume("bench.raw", "")?;
    Ok(vec![
        Volume {
            protocol: "ISCSI",
            info: iscsi,
            connect: 3.0,
            disconnect: 3.0,
            bare: None,
        },
        Volume {
            protocol: "NFS",
            info: nfs.info("bench.raw", ""),
            connect: 2.0,
            disconnect: 2.0,
            bare: Some(Job::BareNfs {
                address: nfs.address.clone(),
                export: nfs.export(),
                rounds: ROUNDS,
            }),
        },
    ])
}

/// The rounds of a turn by volattachd.
fn volattachd(node: &Node, volume: &Volume) -> Result<Vec<Round>> {
    let job = Job::Connect {
        info: volume.info.to_string(),
        rounds: ROUNDS,
    };
    super::client(node, &job)
}

/// The rounds of a turn by os-brick.
fn os_brick(node: &Node, volume: &Volume) -> Result<Vec<Round>> {
    let job = json!({
        "protocol": volume.protocol,
        "data": volume.info["data"],
        "rounds": ROUNDS,
    });
    let job = job.to_string();
    let output = node.run(OS_BRICK, job.as_bytes(), Duration::from_secs(300))?;
    ensure!(output.status.success(), "os-brick: {}", output.stderr);
    serde_json::from_str(&output.stdout).context("os-brick's times")
}

/// How many programs the daemon or os-brick's client starts for a connect, and for its disconnect: the most of all rounds
/// of `work`. The kernel traces who forks and who executes what; the clients mark where a connect and a disconnect begin.
fn programs(node: &Node, work: impl FnOnce() -> Result<Vec<Round>>) -> Result<(usize, usize)> {
    let tasks = node.sh(&format!(
        "cd /sys/kernel/tracing && echo 8192 >buffer_size_kb && echo >trace
         echo 1 >{EVENTS}_fork/enable && echo 1 >{EVENTS}_exec/enable
         ls /proc/$(systemctl show -p MainPID --value volattachd)/task"
    ))?;
    work()?;
    let trace = node.sh(&format!(
        "cd /sys/kernel/tracing && echo 0 >{EVENTS}_fork/enable && echo 0 >{EVENTS}_exec/enable && cat trace"
    ))?;
    let mut family: HashSet<&str> = tasks.split_whitespace().collect();
    let (mut connects, mut disconnects) = (Vec::new(), Vec::new());
    let mut connecting = true;
    for event in trace.lines() {
        let field = |name: &str| {
            let text = event.split_once(&format!(" {name}="))?.1;
            text.split_whitespace().next()
        };
        if let Some((_, mark)) = event.split_once("tracing_mark_write: ") {
            connecting = mark == "connect";
            match connecting {
                true => connects.push(0),
                false => disconnects.push(0),
            }
        } else if event.contains("sched_process_fork:") {
            if let (Some(parent), Some(child)) = (field("pid"), field("child_pid"))
                && family.contains(parent)
            {
                family.insert(child);
            }
        } else if let (Some(program), Some(pid)) = (field("filename"), field("pid")) {
            let begun = match connecting {
                true => &mut connects,
                false => &mut disconnects,
            };
            if program == OS_BRICK {
                family.insert(pid);
            } else if let Some(started) = begun.last_mut()
                && family.contains(pid)
            {
                *started += 1;
            }
        }
    }
    ensure!(
        connects.len() == ROUNDS && disconnects.len() == ROUNDS,
        "the trace lacks rounds: {connects:?}, {disconnects:?}"
    );
    let most = |counts: &[usize]| counts.iter().copied().max().unwrap_or(0);
    Ok((most(&connects), most(&disconnects)))
}
