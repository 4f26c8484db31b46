//! Servers that mean ill: each is found out in time, and told by its reason.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{HEAD, Witness, refused};
use crate::servers::{SmbServer, smb_info};
use crate::{Lab, agent::Agent, node::Node};

const SERVERS: &str = include_str!("servers.py");
const SMB: &str = include_str!("smb.py");

/// Servers of one protocol at 127.0.0.1, a port for each of their ways to lie; they end with this.
struct Liars<'node> {
    node: &'node Node,
}

impl<'node> Liars<'node> {
    fn start(node: &'node Node, protocol: &str, ways: &[(u16, &str)]) -> Result<Self> {
        node.write("/run/lab-hostile/servers.py", SERVERS.as_bytes())?;
        let liars = Self { node };
        for (port, how) in ways {
            node.sh(&format!(
                "systemd-run -q --collect --unit=lab-hostile-{port} python3 /run/lab-hostile/servers.py {protocol} {port} {how}"
            ))?;
            node.wait(
                "a server",
                &format!("ss -Hltn | grep -q ':{port} '"),
                Duration::from_secs(60),
            )?;
        }
        Ok(liars)
    }

    /// Holds that the one at that port was asked: else what was refused was none of its lies.
    fn was_asked(&self, port: u16) -> Result<()> {
        self.node
            .sh(&format!("test -s /run/lab-hostile/heard.{port}"))
            .map(drop)
    }
}

impl Drop for Liars<'_> {
    fn drop(&mut self) {
        // Where none was started there is none to end.
        let _ = self
            .node
            .sh("systemctl stop 'lab-hostile-*'; rm -rf /run/lab-hostile");
    }
}

/// Answers of RPC that are none.
pub(crate) fn nfs(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(
        node,
        "[local]\nroots = [\"/srv/local\"]\n[nfs]\nprobe_timeout = \"3s\"\n",
    )?;
    let witness = Witness::new(node)?;
    let ways = ["long", "other", "fragments", "drip", "text", "verifier"];
    let ways: Vec<(u16, &str)> = (20_490..).zip(ways).collect();
    let liars = Liars::start(node, "nfs", &ways)?;
    for (port, how) in ways {
        let info = json!({
            "driver_volume_type": "nfs",
            "data": {"export": "127.0.0.1:/vols", "name": "v", "options": format!("port={port}")},
        });
        let reason = match how {
            "drip" => "SERVER_TIMEOUT",
            _ => "PROTOCOL_VERSION",
        };
        refused(&agent, how, &info, reason)?;
        liars.was_asked(port)?;
    }
    witness.holds(&agent)
}

/// A target that tells of names which would be paths or lines, of many, and without end.
pub(crate) fn iscsi(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(
        node,
        "[local]\nroots = [\"/srv/local\"]\n[iscsi]\nlogin_timeout = \"5s\"\n",
    )?;
    let witness = Witness::new(node)?;
    node.sh("systemctl start iscsid")?;
    let files = "find /etc/iscsi /etc/cron.d -type f | sort";
    let before = node.sh(files)?;
    let ways: Vec<(u16, &str)> = (32_600..)
        .zip(["slashes", "lines", "many", "portals", "endless"])
        .collect();
    let liars = Liars::start(node, "iscsi", &ways)?;
    for (port, how) in ways {
        let info = json!({"driver_volume_type": "iscsi", "data": {
            "target_portal": format!("127.0.0.1:{port}"), "target_iqn": "iqn.2026-01.org.lab:t", "target_lun": 1,
            "enforce_multipath": true,
        }});
        let reason = match how {
            "endless" => "SERVER_TIMEOUT",
            // None of those portals is a target's.
            _ => "LOGIN_FAILED",
        };
        refused(&agent, how, &info, reason)?;
        liars.was_asked(port)?;
        let after = node.sh(files)?;
        ensure!(after == before, "{how}: {after}");
    }
    witness.holds(&agent)
}

/// impacket's server, which lies about files, statuses and lengths.
pub(crate) fn smb(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(
        node,
        "[local]\nroots = [\"/srv/local\"]\n[smb]\nmount_timeout = \"20s\"\n",
    )?;
    let witness = Witness::new(node)?;
    let server = SmbServer::start_impacket(node)?;
    server.volume("vols", "v.raw", 8, HEAD)?;
    node.write("/run/lab-hostile/smb.py", SMB.as_bytes())?;
    node.sh(&format!(
        "systemctl stop lab-smb-other; cd /srv/lab/other/shares/vols; qemu-img create -q -f qcow2 v.qcow2 4M
         echo honest >/run/lab-hostile/how
         systemd-run -q --collect --unit=lab-hostile-smb -p NetworkNamespacePath=/run/netns/other \
             python3 /run/lab-hostile/smb.py {} /srv/lab/other/shares/vols",
        server.address
    ))?;
    let _liars = Liars { node };
    let listens = "ip netns exec other ss -Hltn | grep -q ':445 '";
    node.wait("the server", listens, Duration::from_secs(60))?;
    let mut info = smb_info(
        &server,
        "vols",
        "v.qcow2",
        "username=bob,password=pw,vers=2.0,noserverino",
    );
    info["data"]["format"] = json!("qcow2");
    agent.connect("c", "honest", &info, &[])??;
    agent.disconnect("c")??;
    for (how, reason) in [
        ("tree-status", Some("MOUNT_FAILED")),
        ("create-status", Some("MOUNT_FAILED")),
        // The size is the server's to say.
        ("size", None),
        // The kernel asks for the rest.
        ("read-short", None),
        ("read-long", Some("VOLUME_UNREADABLE")),
    ] {
        node.sh(&format!("echo {how} >/run/lab-hostile/how"))?;
        let answer = agent.connect("c", "volume", &info, &[])?;
        let came = answer.as_ref().err().map(|failure| failure.reason.as_str());
        ensure!(came == reason, "{how}: {answer:?}");
        if came.is_none() {
            agent.disconnect("c")??;
        }
    }
    for (name, reason) in [
        ("a\\b", "VOLUME_PATH_UNSAFE"),
        ("a\nb", "INVALID_CONNECTION_INFO"),
    ] {
        let mut named = info.clone();
        named["data"]["name"] = json!(name);
        refused(&agent, name, &named, reason)?;
    }
    node.sh("echo honest >/run/lab-hostile/how")?;
    agent.connect("c", "honest", &info, &[])??;
    agent.disconnect("c")??;
    // The kernel ends the sessions with the server that it was kept waiting by.
    node.wait(
        "the end of all sessions",
        "! grep -q '^[0-9]*) ConnectionId' /proc/fs/cifs/DebugData",
        Duration::from_secs(60),
    )?;
    witness.holds(&agent)
}
