//! Servers whose name has several addresses: each is tried until one answers.

use anyhow::{Context, Result, ensure};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    nfs_servers::NfsServer,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "addresses_are_tried_in_turn",
    run: in_turn,
}];

const HEAD: &str = "sixteen bytes...";

/// Nobody has the first address of either name. It is the nearest to the node's own, 10.99.0.1, and so comes first (RFC 6724,
/// rule 9: longest matching prefix).
const HOSTS: &str = "10.99.0.3 nas.lab files.lab\n10.99.0.12 nas.lab\n10.99.0.13 files.lab\n\
                     10.99.0.3 gone.lab\n10.99.0.77 gone.lab\n";

fn in_turn(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let smb = SmbServer::start(node, "nas", 12, &["vols"], "")?;
    smb.user("bob", "pw")?;
    smb.volume("vols", "v.raw", 8, HEAD)?;
    let nfs = NfsServer::start(node, "files", 13, "rw", "")?;
    nfs.volume("v.raw", HEAD)?;
    node.sh(&format!(
        "cp /etc/hosts /run/hosts && printf %s '{HOSTS}' >>/etc/hosts &&
         getent ahostsv4 nas.lab | head -n 1 | grep -q '^10.99.0.3 ' && getent ahostsv4 nas.lab | grep -q '^10.99.0.12 '"
    ))?;
    let mut by_smb = smb_info(&smb, "vols", "v.raw", "-o username=bob,password=pw");
    by_smb["data"]["export"] = "//nas.lab/vols".into();
    let mut by_nfs = nfs.info("v.raw", "");
    by_nfs["data"]["export"] = format!("files.lab:{}", nfs.export()).into();
    for (id, info) in [("by-smb", &by_smb), ("by-nfs", &by_nfs)] {
        agent.attach(id, id, info, &[])??;
        let disk = guest::sees(node, id)?;
        ensure!(disk.head == guest::hex(HEAD), "{id}: {disk:?}");
        agent.detach(id)??;
    }
    by_smb["data"]["export"] = "//gone.lab/vols".into();
    let refused = agent.attach("gone", "v", &by_smb, &[])?;
    let failure = refused.err().context("attached from nowhere")?;
    ensure!(failure.reason == "SERVER_UNREACHABLE", "{failure:?}");
    for address in ["10.99.0.3:445", "10.99.0.77:445"] {
        ensure!(failure.message.contains(address), "{failure:?}");
    }
    node.sh("mv /run/hosts /etc/hosts").map(drop)
}
