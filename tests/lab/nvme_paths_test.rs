//! Paths to NVMe/TCP volumes that are missing at an attach or lost later, and made again.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    node::Node,
    nvme_servers::{A, NvmeServer},
    permission_test::{LATER_AT, write_through},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "nvme_missing_path_is_made",
    run: missing,
}];

/// Rounds of reconcile, each a minute after the last.
pub(crate) const SOAK: &[Test] = &[Test {
    name: "nvme_lost_paths_are_made_again",
    run: lost,
}];

/// The kernel gives a closed portal up after five tries.
const CONFIG: &str = "[nvmeof]\nkeep_alive_tmo = \"2s\"\nreconnect_delay = \"1s\"\nfast_io_fail_tmo = \"2s\"\nctrl_loss_tmo = \"5s\"\n";

/// A round of reconcile a minute, and a pause of two after one that failed.
const ROUNDS: Duration = Duration::from_secs(300);

/// The attachment has so many paths, and works.
fn has_paths(attachment: &Value, working: u32) -> Result<()> {
    let paths = json!({"working": working, "planned": 2});
    ensure!(
        attachment["paths"] == paths && attachment["state"] == "attached",
        "{attachment}"
    );
    Ok(())
}

/// Waits until the attachment shows so many paths.
fn shows(node: &Node, working: u32) -> Result<()> {
    node.wait(
        &format!("{working} of 2 paths"),
        &format!("volattach show a1 | grep -q '^Paths *{working} of 2$'"),
        ROUNDS,
    )
}

/// Waits until the host has so many controllers.
fn has_controllers(node: &Node, count: usize) -> Result<()> {
    node.wait(
        &format!("{count} controllers"),
        &format!("[ $(ls -d /sys/class/nvme/nvme* 2>/dev/null | wc -l) = {count} ]"),
        Duration::from_secs(120),
    )
}

/// Has the guest's disk written, and sees that at the server.
fn writes(node: &Node, image: &str, byte: u8) -> Result<()> {
    write_through(node, "inner", "a1", byte)?;
    let stored = format!("tail -c +{} {image} | head -c 1", LATER_AT + 1);
    node.wait(
        "the guest's write at the server",
        &format!("sync; [ \"$({stored})\" = {} ]", char::from(byte)),
        Duration::from_secs(180),
    )
}

/// A portal that is down at the attach is connected when it is back.
fn missing(lab: &Lab) -> Result<()> {
    let (agent, _server) = one_of_two(lab)?;
    agent.detach("a1")??;
    guest::gone(&lab.node, "volume-a")?;
    has_controllers(&lab.node, 0)
}

/// One that the kernel gave up is connected again, also by the next daemon; the guest reads and writes all the while, by whichever path there is.
fn lost(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let (_agent, server) = one_of_two(lab)?;
    let image = server.verb("file {} 7")?;
    // The path that was made again is the only one.
    server.verb("close {} 20")?;
    has_controllers(node, 1)?;
    writes(node, &image, b'A')?;
    shows(node, 1)?;
    let doctor = node.sh("volattach doctor; true")?;
    ensure!(doctor.contains("1 of 2 paths"), "{doctor}");

    server.verb("open {} 20")?;
    let agent = Agent::start(node, CONFIG)?;
    shows(node, 2)?;
    server.verb("close {} 21")?;
    writes(node, &image, b'B')?;
    server.verb("open {} 21")?;
    agent.detach("a1")??;
    guest::gone(node, "volume-a")?;
    has_controllers(node, 0)
}

/// Attaches a volume while one of its two portals is down, and has its path made.
fn one_of_two(lab: &Lab) -> Result<(Agent<'_>, NvmeServer<'_>)> {
    let node = &lab.node;
    let agent = Agent::start(node, CONFIG)?;
    let server = NvmeServer::start(node, "tgt", &[20, 21])?;
    server.verb("close {} 21")?;
    let attached = agent.attach("a1", "volume-a", &server.info(A), &[])??;
    has_paths(&attached, 1)?;
    ensure!(guest::sees(node, "volume-a")?.write == Ok(()));
    has_controllers(node, 1)?;
    server.verb("open {} 21")?;
    shows(node, 2)?;
    has_controllers(node, 2)?;
    Ok((agent, server))
}
