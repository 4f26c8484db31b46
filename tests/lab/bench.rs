//! `make bench`, its part in the lab: SMB attaches against bare calls, connects against os-brick's.

mod client;
mod peers;
mod smb;

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

pub(crate) use client::run as run_client;

use super::{agent, cache, leftovers, machine::Kind, node::Node, process::quote, servers};

/// Where the client is in the node.
const CLIENT: &str = "usr/local/bin/lab-bench-client";

/// Runs the benchmarks; fails where a ratio is over its limit.
pub(crate) fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let package = agent::package(directory.path())?;
    add_programs(directory.path(), &package)?;
    let node = Node::start(Kind::Kvm, &package)?;
    let smb = smb::run(&node)?;
    let peers = peers::run(&node)?;
    ensure!(smb && peers, "over the limit");
    Ok(())
}

/// Puts this program and os-brick into the package too.
fn add_programs(directory: &Path, package: &Path) -> Result<()> {
    let script = format!(
        "set -e
         install -D -m 755 {own} {directory}/{CLIENT}
         install -D -m 755 -t {directory}/opt/os-brick tests/lab/bench/os_brick_client.py
         tar -r --owner=0 --group=0 -f {package} -C {directory} ./{CLIENT} ./opt
         tar -r --owner=0 --group=0 -f {package} --transform s,^.,./opt/os-brick/lib, -C {os_brick} .",
        own = quote(&std::env::current_exe()?.to_string_lossy()),
        directory = quote(&directory.to_string_lossy()),
        package = quote(&package.to_string_lossy()),
        os_brick = quote(&cache::script("os_brick.sh", &[])?.to_string_lossy()),
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    ensure!(status.success(), "packaging the clients: {status}");
    Ok(())
}

/// Has the client in the node do a job.
fn client<T: DeserializeOwned>(node: &Node, job: &client::Job) -> Result<T> {
    let script = format!("/{CLIENT} --bench-client");
    let job = serde_json::to_vec(job)?;
    let output = node.run(&script, &job, Duration::from_secs(600))?;
    ensure!(output.status.success(), "{}", output.stderr);
    serde_json::from_str(&output.stdout).context("the client's times")
}

fn nothing_left(node: &Node) -> Result<()> {
    let left = leftovers::find(node, leftovers::SESSIONS_END)?;
    ensure!(left.is_empty(), "left over:\n{}", left.join("\n"));
    servers::remove_all(node)
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
