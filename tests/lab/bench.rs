//! `make bench`, its part in the lab: what AttachVolume of an SMB volume costs over what it cannot do without, mount(2)
//! and libvirt's own call.
//!
//! Both are timed in the node by this same program (bench_client.rs), so that the way into the node is not, and only
//! their ratio says anything: the node's processors may be emulated.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    agent::{self, Agent},
    bench_client::{Job, Pair},
    leftovers,
    node::Node,
    process::quote,
    servers::{self, SmbServer},
};

const PAIRS: usize = 50;
/// Pairs between two signs of progress.
const AT_A_TIME: usize = 10;
/// AttachVolume over the bare calls, the median of the pairs' ratios.
const LIMIT: f64 = 1.15;
/// Where the client is in the node.
const CLIENT: &str = "usr/local/bin/lab-bench-client";

/// Runs the benchmark; fails where the ratio is over its limit.
pub(crate) fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let package = agent::package(directory.path())?;
    add_client(directory.path(), &package)?;
    let node = Node::start(&package)?;
    let server = SmbServer::start(&node, "nas", 10, &["vols"], "")?;
    server.user("alice", "secret")?;
    server.volume("vols", "bench.raw", 16, "")?;
    Agent::start(&node, "")?;

    let mut pairs = Vec::new();
    while pairs.len() < PAIRS {
        let job = Job {
            address: server.address.clone(),
            share: "vols".into(),
            file: "bench.raw".into(),
            user: "alice".into(),
            password: "secret".into(),
            pairs: AT_A_TIME,
        };
        let script = format!("/{CLIENT} --bench-client");
        let output = node.run(
            &script,
            &serde_json::to_vec(&job)?,
            Duration::from_secs(600),
        )?;
        ensure!(output.status.success(), "{}", output.stderr);
        let done: Vec<Pair> = serde_json::from_str(&output.stdout).context("the client's times")?;
        pairs.extend(done);
        eprintln!("lab: {} of {PAIRS} pairs", pairs.len());
    }
    let left = leftovers::find(&node)?;
    ensure!(left.is_empty(), "left over:\n{}", left.join("\n"));
    servers::remove_all(&node)?;

    let ratio = median(pairs.iter().map(|pair| pair.ours / pair.bare));
    println!(
        "AttachVolume of an SMB volume in the lab over bare mount(2) and libvirt call, median of {} pairs: {ratio:.3} (limit {LIMIT})",
        pairs.len()
    );
    ensure!(ratio <= LIMIT, "over the limit");
    Ok(())
}

/// Puts this program into the package too.
fn add_client(directory: &Path, package: &Path) -> Result<()> {
    let script = format!(
        "set -e
         install -D -m 755 {own} {directory}/{CLIENT}
         tar -r --owner=0 --group=0 -f {package} -C {directory} ./{CLIENT}",
        own = quote(&std::env::current_exe()?.to_string_lossy()),
        directory = quote(&directory.to_string_lossy()),
        package = quote(&package.to_string_lossy()),
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    ensure!(status.success(), "packaging the client: {status}");
    Ok(())
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
