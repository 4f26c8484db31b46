//! volattachd in the node as its package installs it, before anything is attached.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Lab, Test, agent::Agent};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "agent_serves_as_installed",
    run: serves_as_installed,
}];

/// The daemon runs under its unit, answers, and has the mode and owner of its socket right.
fn serves_as_installed(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    ensure!(
        agent
            .call(&["list"], "")?
            .is_ok_and(|answer| answer == json!({ "attachments": [] }))
    );
    let socket = lab
        .node
        .sh("stat -c '%a %U %G' /run/volattach/volattachd.sock")?;
    ensure!(socket == "660 root volattach", "{socket}");
    let missing = agent.detach("never-attached")?;
    ensure!(missing.is_ok(), "{missing:?}");
    Ok(())
}
