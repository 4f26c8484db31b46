//! A volume that changes places with a link while attaches run: what volattach mounts follows none, though libvirt and QEMU open
//! the checked path a moment later. Of the host's own files, none is taken where others than root may rename.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{HEAD, Witness};
use crate::{Lab, agent::Agent, guest, nfs_servers::NfsServer, node::Node, process::quote};

const SWAP: &str = include_str!("swap.py");
/// What no guest may see.
const SECRET: &str = "SECRET, SECRET!!";
/// How long each loop runs.
const SECONDS: u64 = 8;

/// Attaches while the pairs change places: what came of each attach, by how often. A guest never has anything but the volume.
fn race(
    lab: &Lab,
    agent: &Agent<'_>,
    info: &Value,
    pairs: &[&str],
) -> Result<BTreeMap<String, usize>> {
    let node: &Node = &lab.node;
    let pairs: Vec<String> = pairs.iter().map(|path| quote(path)).collect();
    let script = format!(
        "python3 /run/lab-hostile/swap.py {SECONDS} {}",
        pairs.join(" ")
    );
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    thread::scope(|scope| {
        let swapping = scope.spawn(|| node.run(&script, b"", Duration::from_secs(120)));
        let mut number = 0;
        while !swapping.is_finished() {
            number += 1;
            let volume = format!("v{number}");
            let came = match agent.attach("a", &volume, info, &["--access", "ro"])? {
                Ok(_) => {
                    let open = node.sh(
                        "ls -l /proc/$(cat /run/libvirt/qemu/inner.pid)/fd | grep -c secret; true",
                    )?;
                    let disk = guest::sees(node, &volume)?;
                    agent.detach("a")??;
                    guest::gone(node, &volume)?;
                    let stolen = disk.head == guest::hex(SECRET) || open != "0";
                    if stolen {
                        "STOLEN".to_owned()
                    } else {
                        ensure!(disk.head == guest::hex(HEAD), "{disk:?}");
                        "the volume".to_owned()
                    }
                }
                Err(failure) => failure.reason,
            };
            *found.entry(came).or_default() += 1;
        }
        let swapped = swapping.join().ok().context("the swapping panicked")??;
        ensure!(swapped.status.success(), "{}", swapped.stderr);
        println!("        {found:?} in {} swaps", swapped.stdout.trim());
        Ok(found)
    })
}

pub(crate) fn swap(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let witness = Witness::new(node)?;
    node.write("/run/lab-hostile/swap.py", SWAP.as_bytes())?;
    node.sh(&format!(
        "mkdir -p /srv/secret && printf %s '{SECRET}' >/srv/secret/v
         truncate -s 8M /srv/secret/v; chmod 600 /srv/secret/v"
    ))?;
    let export = NfsServer::start(node, "nfs", 40, "rw,no_root_squash", "")?;
    export.volume("v", HEAD)?;
    node.sh(&format!(
        "ln -s /srv/secret/v {}",
        quote(&export.path("link"))
    ))?;

    let found = race(
        lab,
        &agent,
        &export.info("v", ""),
        &[&export.path("v"), &export.path("link")],
    )?;
    ensure!(!found.contains_key("STOLEN"), "{found:?}");
    // It was the swapping that kept the others from it.
    agent.attach("a", "calm", &export.info("v", ""), &["--access", "ro"])??;
    ensure!(guest::sees(node, "calm")?.head == guest::hex(HEAD));
    agent.detach("a")??;

    // Whoever may rename on the host itself has no volume attached: it would be opened by its path again.
    node.sh(
        "mkdir -p /srv/local/theirs && cd /srv/local/theirs && truncate -s 8M v && ln -s /srv/secret/v link
         chown -R -h nobody /srv/local/theirs",
    )?;
    let theirs = super::local("/srv/local/theirs/v");
    let pair = ["/srv/local/theirs/v", "/srv/local/theirs/link"];
    let found = race(lab, &agent, &theirs, &pair)?;
    ensure!(found.keys().eq(["VOLUME_PATH_UNSAFE"]), "{found:?}");
    node.sh("rm -r /srv/local/theirs")?;
    node.sh("rm -r /srv/secret /run/lab-hostile")?;
    witness.holds(&agent)
}
