//! volattachd in the node as its package installs it, before anything is attached.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Lab, Test, agent::Agent, process::wait_for};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "agent_serves_as_installed",
        run: serves_as_installed,
    },
    Test {
        name: "agent_tells_what_the_host_can_connect_to",
        run: connector,
    },
];

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

/// What the daemon tells in its sandbox is what the host's own tools tell outside of it, and follows multipathd.
fn connector(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let connector = agent.call(&["connector"], "")??;
    for (key, script) in [
        ("host", "uname -n"),
        ("platform", "uname -m"),
        ("system uuid", "cat /sys/class/dmi/id/product_uuid || true"),
        (
            "initiator",
            "sed -n s/^InitiatorName=//p /etc/iscsi/initiatorname.iscsi",
        ),
        ("nqn", "cat /etc/nvme/hostnqn || true"),
        ("nvme_hostid", "cat /etc/nvme/hostid || true"),
    ] {
        let told = connector[key].as_str().unwrap_or_default();
        let expected = node.sh(script)?;
        ensure!(told == expected.trim(), "{key} is {expected}: {connector}");
    }
    ensure!(connector["multipath"] == false, "{connector}");
    let multipathd = "modprobe dm_multipath && systemd-run -q --collect --unit=lab-multipathd -p Type=notify multipathd -d -s";
    for (script, runs) in [(multipathd, true), ("systemctl stop lab-multipathd", false)] {
        node.sh(script)?;
        wait_for("the daemon's new word", Duration::from_secs(180), || {
            let connector = agent.call(&["connector"], "")??;
            Ok((connector["multipath"] == runs).then_some(()))
        })?;
    }
    Ok(())
}
