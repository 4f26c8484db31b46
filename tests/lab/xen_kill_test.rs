//! The daemon is killed at each step of an attach and of a detach of a Xen domain's: the next one finishes or undoes it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    node::Node,
    servers::{SmbServer, smb_info},
    smb_test::mounts,
    xen_test::Script,
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "xen_daemon_is_killed_at_each_step",
        run: at_each_step,
    },
    Test {
        name: "xen_daemon_is_killed_while_the_toolstack_attaches",
        run: while_the_toolstack_attaches,
    },
];

/// The daemon's log lines at the beginning of each step of an attach that inspects with the connect; the last line is the answer.
const ATTACH: [&str; 3] = [
    "step step=\"connect\"",
    "step step=\"attach\"",
    "done state=attached",
];
/// The same of a detach.
const DETACH: [&str; 2] = ["undo step=\"attach\"", "undo step=\"connect\""];

const KILL: &str = "systemctl kill -s KILL volattachd.service";

/// A server with the volumes `v.raw` and `w.raw`.
fn server(node: &Node) -> Result<SmbServer<'_>> {
    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    server.user("bob", "pw")?;
    for volume in ["v.raw", "w.raw"] {
        server.volume("vols", volume, 8, "sixteen bytes...")?;
    }
    Ok(server)
}

fn info(server: &SmbServer<'_>, volume: &str) -> Value {
    smb_info(server, "vols", volume, "-o username=bob,password=pw")
}

/// The arguments of `volattach` that attach volume `v`.
const ATTACH_V: &str = "attach --id a1 --volume v --domain inner --connection-info /run/lab-info";

/// Asks again until it is done.
fn again(node: &Node, args: &str) -> Result<()> {
    node.wait(args, &format!("volattach {args}"), Duration::from_secs(120))
}

/// Between each two steps. Another volume of the same share is connected all the while, and so the mount is there.
fn at_each_step(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let server = server(node)?;
    agent.connect("b1", "w", &info(&server, "w.raw"), &[])??;
    node.write(
        "/run/lab-info",
        info(&server, "v.raw").to_string().as_bytes(),
    )?;
    // The calls below bypass `agent`, which would note the volume.
    node.note("a1", "v");
    for line in ATTACH {
        agent.at_line(line, KILL, ATTACH_V)?;
        again(node, ATTACH_V)?;
        ensure!(guest::sees(node, "v")?.write == Ok(()), "after {line}");
        agent.detach("a1")??;
        guest::gone(node, "v")?;
        ensure!(mounts(lab)?.len() == 1, "after {line}: {:?}", mounts(lab)?);
    }
    for line in DETACH {
        agent.attach("a1", "v", &info(&server, "v.raw"), &[])??;
        agent.at_line(line, KILL, "detach a1")?;
        again(node, "detach a1")?;
        guest::gone(node, "v")?;
        ensure!(mounts(lab)?.len() == 1, "after {line}: {:?}", mounts(lab)?);
    }
    agent.disconnect("b1")??;
    Ok(())
}

/// libvirtd goes on with an attach whose caller is dead. The next daemon waits for what it comes to.
fn while_the_toolstack_attaches(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let server = server(node)?;
    let _script = Script::with(
        node,
        "[ $1 != add ] || { touch /run/lab-held; while [ -e /run/lab-hold ]; do sleep 0.1; done; }",
    )?;
    node.sh("rm -f /run/lab-held; touch /run/lab-hold")?;
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| agent.attach("a1", "v", &info(&server, "v.raw"), &[]));
        let held = node.wait(
            "the hot-plug script runs",
            "[ -e /run/lab-held ]",
            Duration::from_secs(180),
        );
        node.sh(KILL)?;
        let answer = cut
            .join()
            .map_err(|_| anyhow::anyhow!("the attach panicked"))??;
        ensure!(answer.is_err(), "attached by a dead daemon");
        held
    })?;
    node.wait(
        "the next daemon",
        "systemctl is-active -q volattachd.service",
        Duration::from_secs(180),
    )?;
    node.sh("rm /run/lab-hold")?;
    node.wait(
        "the next daemon finds the disk",
        "volattach -o json show a1 | grep -q '\"state\":\"attached\"'",
        Duration::from_secs(180),
    )?;
    ensure!(guest::sees(node, "v")?.write == Ok(()));
    agent.detach("a1")??;
    guest::gone(node, "v")
}
