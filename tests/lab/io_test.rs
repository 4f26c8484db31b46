//! What guests write is among the figures: of the disk, and of the share that the volume lies on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Lab, Test,
    agent::{Agent, FIGURES},
    guest,
    nfs_servers::NfsServer,
    node::Node,
    process::wait_for,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "io_of_disks_and_shares_is_counted",
    run: counted,
}];

pub(crate) const XEN: &[Test] = &[Test {
    name: "xen_io_of_disks_is_counted",
    run: local,
}];

/// What the guest writes of each disk that it sees, in bytes.
const WRITTEN: f64 = 4096.0;

/// The counters are read each 15 s.
const PATIENCE: Duration = Duration::from_secs(90);

fn config(sections: &str) -> String {
    format!("metrics_listen = \"{FIGURES}\"\nmetrics_io = \"volumes\"\n{sections}")
}

fn counted(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, &config(""))?;
    let smb = SmbServer::start(node, "smb", 11, &["vols"], "")?;
    smb.user("bob", "pw")?;
    smb.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    let nfs = NfsServer::start(node, "nfs", 12, "rw", "")?;
    nfs.volume("w.raw", "sixteen bytes...")?;
    let login = "-o username=bob,password=pw";
    agent.attach("s", "vs", &smb_info(&smb, "vols", "v.raw", login), &[])??;
    agent.attach("n", "vn", &nfs.info("w.raw", ""), &[])??;
    for volume in ["vs", "vn"] {
        ensure!(guest::sees(node, volume)?.write == Ok(()));
    }
    // A round begins with the daemon, which knows what is attached from its journal.
    let agent = Agent::start(node, &config(""))?;
    let (samba, server, export) = (&smb.address, &nfs.address, nfs.export());
    written(
        &agent,
        &[
            r#"disk_bytes_total{attachment="s",volume="vs""#,
            r#"disk_bytes_total{attachment="n",volume="vn""#,
            &format!(r#"share_bytes_total{{backend="smbfs",server="{samba}",share="vols""#),
            &format!(r#"share_bytes_total{{backend="nfs",server="{server}",share="{export}""#),
        ],
    )?;
    limited(node, &agent)?;
    for (id, volume) in [("s", "vs"), ("n", "vn")] {
        agent.detach(id)??;
        guest::gone(node, volume)?;
    }
    Ok(())
}

/// Limits change while the guest has the disk, as QEMU itself reports; and the command line shows what the guest wrote.
fn limited(node: &Node, agent: &Agent<'_>) -> Result<()> {
    let shown = agent.call(&["show", "s"], "")??;
    let target = shown["target"].as_str().context("no target")?;
    let of_qemu = |limit: &str| {
        let ask = format!("virsh -q blkdeviotune inner {target} | sed -n 's/^{limit} *: *//p'");
        Ok::<_, anyhow::Error>(node.sh(&ask)?.trim().to_owned())
    };
    let set = ["iotune", "s", "--iotune", "total_iops_sec=500"];
    let set = agent.call(&set, "")??;
    ensure!(set["iotune"]["total_iops_sec"] == 500, "{set}");
    ensure!(of_qemu("total_iops_sec")? == "500");
    let specs =
        r#"{"consumer": "both", "specs": {"write_bytes_sec_per_gb": "1048576", "tier": "gold"}}"#;
    agent.call(&["iotune", "s", "--qos-specs", "-"], specs)??;
    ensure!(of_qemu("total_iops_sec")? == "0" && of_qemu("write_bytes_sec")? == "1048576");
    agent.call(&["iotune", "s", "--none"], "")??;
    ensure!(of_qemu("write_bytes_sec")? == "0");
    let stats = agent.call(&["stats", "s"], "")??;
    ensure!(stats["io"]["write"]["bytes"] == WRITTEN as u64, "{stats}");
    Ok(())
}

/// A volume without a server: the kernel of Xen's first domain counts.
fn local(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    node.sh("mkdir -p /srv/local && truncate -s 8M /srv/local/v.raw")?;
    let agent = Agent::start(node, &config("[local]\nroots = [\"/srv/local\"]\n"))?;
    let info = json!({"driver_volume_type": "local", "data": {"device_path": "/srv/local/v.raw"}});
    agent.attach("l", "vl", &info, &[])??;
    ensure!(guest::sees(node, "vl")?.write == Ok(()));
    written(&agent, &[r#"disk_bytes_total{attachment="l",volume="vl""#])?;
    agent.detach("l")??;
    guest::gone(node, "vl")?;
    node.sh("rm -r /srv/local").map(drop)
}

/// Waits until each of these has the bytes that the guest has written.
fn written(agent: &Agent<'_>, samples: &[&str]) -> Result<()> {
    wait_for("the figures of I/O", PATIENCE, || {
        let figures = agent.figures()?;
        let is_counted = |sample: &&str| {
            let sample = format!("volattach_{sample},operation=\"write\"}} ");
            let mut values = figures.lines().filter_map(|it| it.strip_prefix(&sample));
            let value = values.next().and_then(|value| value.parse::<f64>().ok());
            // The kernel may write more to a server than the guest to the disk, in blocks of its own.
            let is_share = sample.starts_with("volattach_share");
            value.is_some_and(|value| value == WRITTEN || is_share && value > WRITTEN)
        };
        Ok(samples.iter().all(is_counted).then_some(()))
    })
}
