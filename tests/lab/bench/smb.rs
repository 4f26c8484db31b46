//! What AttachVolume of an SMB volume costs over what it cannot do without, mount(2) and libvirt's own call.
//!
//! Both are timed in the node by this same program (client.rs), so that the way into the node is not, and only
//! their ratio says anything: the node's processors may be emulated.

use anyhow::Result;

use super::{
    client::{Job, Pair, SmbJob},
    median,
};
use crate::{agent::Agent, node::Node, servers::SmbServer};

const PAIRS: usize = 50;
/// Pairs between two signs of progress.
const AT_A_TIME: usize = 10;
/// AttachVolume over the bare calls, the median of the pairs' ratios.
const LIMIT: f64 = 1.25;
/// Runs the benchmark; whether the ratio is within its limit.
pub(super) fn run(node: &Node) -> Result<bool> {
    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    server.user("alice", "secret")?;
    server.volume("vols", "bench.raw", 16, "")?;
    Agent::start(node, "")?;

    let mut pairs = Vec::new();
    while pairs.len() < PAIRS {
        let job = Job::Smb(SmbJob {
            address: server.address.clone(),
            share: "vols".into(),
            file: "bench.raw".into(),
            user: "alice".into(),
            password: "secret".into(),
            pairs: AT_A_TIME,
        });
        let done: Vec<Pair> = super::client(node, &job)?;
        pairs.extend(done);
        eprintln!("lab: {} of {PAIRS} pairs", pairs.len());
    }
    super::nothing_left(node)?;

    let ratio = median(pairs.iter().map(|pair| pair.ours / pair.bare));
    println!(
        "AttachVolume of an SMB volume in the lab over bare mount(2) and libvirt call, median of {} pairs: {ratio:.3} (limit {LIMIT})",
        pairs.len()
    );
    println!(
        "  the bare calls with a sign of life asked for, in a worker process, and the volume looked at, over those without: {:.3}",
        median(pairs.iter().map(|pair| pair.careful / pair.bare))
    );
    println!(
        "  AttachVolume over them: {:.3}",
        median(pairs.iter().map(|pair| pair.ours / pair.careful))
    );
    Ok(ratio <= LIMIT)
}
