//! NVMe controllers of other programs, and a kernel without native multipath.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    iscsi_test::{host_path, refused},
    node::Node,
    nvme_servers::{A, B, NvmeServer},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "identity_controller_by_another_host_name",
        run: other_host,
    },
    Test {
        name: "identity_paths_that_the_kernel_does_not_join",
        run: unjoined,
    },
];

/// The host NQNs of the existing controllers, sorted.
fn host_names(node: &Node) -> Result<Vec<String>> {
    let told = node.sh("cat /sys/class/nvme/nvme*/hostnqn 2>/dev/null | sort")?;
    Ok(told.lines().map(str::to_owned).collect())
}

/// Connection info of the volume by one portal alone.
fn by(server: &NvmeServer<'_>, volume: &str, octet: u8) -> Value {
    let mut info = server.info(volume);
    info["data"]["portals"] = json!([[format!("10.99.0.{octet}"), "4420", "tcp"]]);
    info
}

/// A controller by another host NQN has the rights of that NQN: no attachment uses the controller as a path, and it stays.
fn other_host(lab: &Lab) -> Result<()> {
    const OTHER: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let server = NvmeServer::start(node, "tgt", &[20])?;
    let info = server.info(B);
    let nqn = info["data"]["target_nqn"].as_str().unwrap_or_default();
    let id = OTHER.rsplit(':').next().unwrap_or_default();
    node.sh(&format!(
        "printf 'transport=tcp,traddr=10.99.0.20,trsvcid=4420,nqn={nqn},hostnqn={OTHER},hostid={id}' >/dev/nvme-fabrics"
    ))?;
    agent.attach("a1", "volume-b", &info, &[])??;
    let disk = guest::sees(node, "volume-b")?;
    ensure!(
        disk.head == guest::hex("volume B........") && disk.write == Ok(()),
        "{disk:?}"
    );
    let own = node.sh("cat /etc/nvme/hostnqn")?;
    let mut both = vec![OTHER.to_owned(), own];
    both.sort();
    ensure!(host_names(node)? == both, "{:?}", host_names(node)?);
    agent.detach("a1")??;
    ensure!(host_names(node)? == [OTHER], "{:?}", host_names(node)?);
    node.sh("for it in /sys/class/nvme/nvme*/delete_controller; do echo 1 >$it; done")?;
    Ok(())
}

/// Each portal has a device of its own without native multipath: several portals are refused, and each attachment has its portal's device.
fn unjoined(lab: &Lab) -> Result<()> {
    const UNLOAD: &str = "modprobe -r nvmet_tcp nvmet nvme_tcp nvme_fabrics nvme_core";
    let node = &lab.node;
    node.sh(&format!(
        "{UNLOAD}; modprobe nvme_core multipath=N && grep -x N /sys/module/nvme_core/parameters/multipath"
    ))?;
    let agent = Agent::start(node, "")?;
    let server = NvmeServer::start(node, "tgt", &[20, 21])?;
    let read_only = ["--access", "ro"];
    let several = agent.attach("a1", "volume-a", &server.info(A), &read_only)?;
    let several = refused(several, "MULTIPATH_FAILED")?;
    ensure!(
        several.message.contains("nvme_core.multipath=Y"),
        "{several:?}"
    );
    ensure!(host_names(node)?.is_empty(), "{:?}", host_names(node)?);

    let first = agent.attach("a1", "volume-a", &by(&server, A, 20), &read_only)??;
    let second = agent.connect("c1", "volume-a", &by(&server, A, 21), &read_only)??;
    let devices = [&first, &second].map(host_path);
    ensure!(devices[0] != devices[1], "{devices:?}");
    agent.disconnect("c1")??;
    ensure!(guest::sees(node, "volume-a")?.head == guest::hex("volume A........"));
    node.sh(&format!(
        "test -b {} && ! test -e {}",
        devices[0], devices[1]
    ))?;
    agent.detach("a1")??;
    ensure!(host_names(node)?.is_empty(), "{:?}", host_names(node)?);
    server.verb("stop {}")?;
    node.sh(UNLOAD)?;
    Ok(())
}
