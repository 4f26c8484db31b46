//! Servers that are silent, guests that do not answer, daemons that are killed: what fails, in what time, and what goes on
//! by itself afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    machine::Kind,
    process::quote,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "fault_stopped_server_fails_its_own_attach_alone",
        run: stopped_server,
    },
    Test {
        name: "fault_guest_does_not_answer_the_unplug",
        run: suspended_guest,
    },
    Test {
        name: "fault_libvirtd_restarts",
        run: libvirtd_restarts,
    },
    Test {
        name: "fault_daemon_is_killed",
        run: daemon_killed,
    },
    Test {
        name: "fault_server_stops_while_attached",
        run: server_stops,
    },
    Test {
        name: "fault_same_request_twice_and_a_conflicting_one",
        run: repeated,
    },
    Test {
        name: "fault_disk_of_the_journal_is_full",
        run: full_disk,
    },
    Test {
        name: "fault_disk_of_the_journal_errs",
        run: erring_disk,
    },
];

/// The directory of the journal.
const STATE: &str = "/var/lib/volattach";
/// Prints the daemon's status.
const STATUS: &str = "systemctl show -P StatusText volattachd.service";

const LOGIN: &str = "-o username=bob,password=pw";

fn server<'node>(lab: &'node Lab, name: &'static str, octet: u8) -> Result<SmbServer<'node>> {
    let server = SmbServer::start(&lab.node, name, octet, &["vols"], "")?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    Ok(server)
}

fn info(server: &SmbServer<'_>) -> Value {
    smb_info(server, "vols", "v.raw", LOGIN)
}

fn state(agent: &Agent<'_>, id: &str) -> Result<String> {
    let shown = agent.call(&["show", id], "")??;
    Ok(shown["state"].as_str().unwrap_or_default().to_owned())
}

/// A server that accepts connections and never answers fails at its deadline; an attach from another server that
/// began after it is done before.
fn stopped_server(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "[smb]\nprobe_timeout = \"25s\"\n")?;
    let (ill, well) = (server(lab, "ill", 11)?, server(lab, "well", 12)?);
    ill.pause()?;
    let (failed, attached) = std::thread::scope(|scope| {
        let failing = scope.spawn(|| {
            let answer = agent.attach("ill", "ill", &info(&ill), &["--timeout", "120"]);
            (answer, Instant::now())
        });
        let attaching = (|| {
            lab.node.wait(
                "the attach from the stopped server is under way",
                "volattach show ill",
                Duration::from_secs(180),
            )?;
            agent.attach("well", "well", &info(&well), &[])??;
            anyhow::Ok(Instant::now())
        })();
        (failing.join(), attaching)
    });
    let (answer, failed) = failed.map_err(|_| anyhow::anyhow!("the attach panicked"))?;
    let failure = answer?.err().context("attached from a stopped server")?;
    ensure!(failure.reason == "SERVER_TIMEOUT", "{failure:?}");
    ensure!(
        attached? < failed,
        "the good server's attach waited for the stopped one's"
    );
    ensure!(guest::sees(&lab.node, "well")?.write == Ok(()));
    agent.detach("well")??;
    ill.resume()?;
    agent.released()?;
    agent.attach("ill", "ill", &info(&ill), &[])??;
    agent.detach("ill")??;
    Ok(())
}

/// A suspended guest does not let go: the error says so, the state too, and the detach completes by itself.
pub(crate) fn suspended_guest(lab: &Lab) -> Result<()> {
    // Xen's own toolstack takes a disk by force after 10 s: not here.
    let patience = match lab.node.kind {
        Kind::Kvm | Kind::Selinux => 3,
        Kind::Xen | Kind::XenHvm => 13,
    };
    let config = format!("[detach]\nunplug_timeout = \"{patience}s\"\n");
    let agent = Agent::start(&lab.node, &config)?;
    let server = server(lab, "nas", 10)?;
    let detach = || -> Result<()> {
        agent.attach("a1", "v1", &info(&server), &[])??;
        guest::sees(&lab.node, "v1")?;
        lab.node.sh("virsh -q suspend inner")?;
        let pending = agent
            .detach("a1")?
            .err()
            .context("detached from a suspended guest")?;
        ensure!(pending.reason == "UNPLUG_PENDING", "{pending:?}");
        ensure!(pending.exit_code == 5, "{pending:?}");
        ensure!(state(&agent, "a1")? == "detaching");
        Ok(())
    };
    detach()?;
    ensure!(!lab.node.sh("virsh -q domblklist inner")?.is_empty());
    ensure!(lab.node.sh("grep -c ' cifs ' /proc/mounts")? == "1");
    lab.node.sh("virsh -q resume inner")?;
    lab.node.wait(
        "the detach completes by itself",
        "! volattach show a1",
        Duration::from_secs(180),
    )?;
    guest::gone(&lab.node, "v1")?;

    detach()?;
    agent.call(&["cancel-detach", "a1"], "")??;
    ensure!(state(&agent, "a1")? == "attached");
    lab.node.sh("virsh -q resume inner")?;
    if lab.node.kind == Kind::Kvm {
        // QEMU cannot take its request back: the guest answers it late.
        lab.node.wait(
            "the guest lets go",
            "volattach -o json show a1 | grep -q '\"state\":\"lost\"'",
            Duration::from_secs(180),
        )?;
        agent.attach("a1", "v1", &info(&server), &[])??;
    }
    ensure!(guest::sees(&lab.node, "v1")?.write == Ok(()));
    agent.detach("a1")??;
    guest::gone(&lab.node, "v1")
}

/// libvirtd restarts while a disk is attached: the guest keeps it, and the daemon finds its way back.
pub(crate) fn libvirtd_restarts(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab, "nas", 10)?;
    agent.attach("a1", "v1", &info(&server), &[])??;
    lab.node.sh("systemctl restart libvirtd")?;
    ensure!(guest::sees(&lab.node, "v1")?.write == Ok(()));
    agent.detach("a1")??;
    guest::gone(&lab.node, "v1")
}

/// The daemon is killed while a disk is attached, and in the middle of an attach and of a detach.
pub(crate) fn daemon_killed(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "[smb]\nprobe_timeout = \"60s\"\n")?;
    let server = server(lab, "nas", 10)?;
    let kill = "systemctl kill -s KILL volattachd.service";
    agent.attach("a1", "v1", &info(&server), &[])??;
    lab.node.sh(kill)?;
    ensure!(state(&agent, "a1")? == "attached");
    ensure!(guest::sees(&lab.node, "v1")?.write == Ok(()));
    agent.detach("a1")??;
    guest::gone(&lab.node, "v1")?;

    // In the middle of an attach: the server holds it there.
    server.pause()?;
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| agent.attach("a2", "v2", &info(&server), &[]));
        lab.node.wait(
            "the attach is under way",
            "volattach show a2",
            Duration::from_secs(180),
        )?;
        lab.node.sh(kill)?;
        let answer = cut
            .join()
            .map_err(|_| anyhow::anyhow!("the attach panicked"))??;
        let failure = answer.err().context("attached by a dead daemon")?;
        ensure!(failure.reason == "DAEMON_UNREACHABLE", "{failure:?}");
        anyhow::Ok(())
    })?;
    server.resume()?;
    lab.node.wait(
        "the attach is undone",
        "! volattach show a2",
        Duration::from_secs(180),
    )?;

    // In the middle of a detach: the guest holds it there.
    agent.attach("a3", "v3", &info(&server), &[])??;
    guest::sees(&lab.node, "v3")?;
    lab.node.sh("virsh -q suspend inner")?;
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| agent.detach("a3"));
        lab.node.wait(
            "the detach is under way",
            "volattach -o json show a3 | grep -q '\"state\":\"detaching\"'",
            Duration::from_secs(180),
        )?;
        lab.node.sh(kill)?;
        cut.join()
            .map_err(|_| anyhow::anyhow!("the detach panicked"))??
            .err()
            .context("detached")?;
        anyhow::Ok(())
    })?;
    lab.node.sh("virsh -q resume inner")?;
    lab.node.wait(
        "the detach completes",
        "! volattach show a3",
        Duration::from_secs(90),
    )?;
    guest::gone(&lab.node, "v3")
}

/// The server is stopped while the guest has its disk: the detach completes when the server returns, at the latest. Another
/// server's volume comes and goes meanwhile; on the host, for the guest itself may wait for the disk that is dead.
fn server_stops(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "[smb]\ndefault_options = \"echo_interval=2\"\n")?;
    let (ill, well) = (server(lab, "ill", 11)?, server(lab, "well", 12)?);
    agent.attach("ill", "ill", &info(&ill), &["--access", "ro"])??;
    guest::sees(&lab.node, "ill")?;
    ill.pause()?;
    std::thread::scope(|scope| {
        let detaching = scope.spawn(|| agent.call(&["--timeout", "140", "detach", "ill"], ""));
        let connected = agent.connect("well", "well", &info(&well), &[])??;
        let path = connected["host_path"].as_str().unwrap_or_default();
        let head = lab.node.sh(&format!("head -c 16 {}", quote(path)))?;
        ensure!(head == "sixteen bytes...", "{head:?}");
        agent.disconnect("well")??;
        ill.resume()?;
        detaching
            .join()
            .map_err(|_| anyhow::anyhow!("the detach panicked"))??
            .ok();
        anyhow::Ok(())
    })?;
    lab.node.wait(
        "nothing is attached",
        "! volattach show ill",
        Duration::from_secs(240),
    )?;
    guest::gone(&lab.node, "ill")
}

/// The same request is answered the same, another one under its id is refused.
fn repeated(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab, "nas", 10)?;
    let first = agent.attach("a1", "v1", &info(&server), &[])??;
    let second = agent.attach("a1", "v1", &info(&server), &[])??;
    ensure!(first == second, "{first} {second}");
    let other = agent.attach("a1", "v1", &info(&server), &["--access", "ro"])?;
    let conflict = other.err().context("two attachments under one id")?;
    ensure!(conflict.reason == "ATTACHMENT_CONFLICT", "{conflict:?}");
    ensure!(conflict.exit_code == 4, "{conflict:?}");
    let same_volume = agent.attach("a2", "v1", &info(&server), &[])?;
    let in_use = same_volume.err().context("one volume written twice")?;
    ensure!(in_use.reason == "VOLUME_IN_USE", "{in_use:?}");
    ensure!(guest::sees(&lab.node, "v1")?.write == Ok(()));
    agent.detach("a1")??;
    agent.detach("a1")??;
    Ok(())
}

/// A journal that cannot be written refuses calls, and says so; once there is room again, all goes on by itself.
fn full_disk(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    node.sh(&format!(
        "mkdir -p {STATE} /srv/local && truncate -s 8M /srv/local/v.raw &&
         mount -t tmpfs -o size=8M,mode=711 tmpfs {STATE}"
    ))?;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let info = json!({"driver_volume_type": "local", "data": {"device_path": "/srv/local/v.raw"}});
    agent.attach("a", "v", &info, &[])??;
    node.sh(&format!(
        "! dd if=/dev/zero of={STATE}/fill bs=4k 2>/dev/null"
    ))?;
    // What is allocated already is written still.
    let mut connected = 0;
    let failure = loop {
        let (id, volume) = (format!("c{connected}"), format!("w{connected}"));
        match agent.connect(&id, &volume, &info, &[])? {
            Ok(_) => connected += 1,
            Err(failure) => break failure,
        }
        ensure!(connected < 200, "the journal needs no room");
    };
    // The record of the refused call cannot be removed either, and waits for its end.
    ensure!(failure.reason == "UNDO_FAILED", "{failure:?}");
    let why = "cannot write the journal";
    ensure!(failure.message.contains(why), "{failure:?}");
    let status = node.sh(STATUS)?;
    ensure!(status.contains("the journal cannot be written"), "{status}");
    ensure!(state(&agent, "a")? == "attached");
    node.sh(&format!("rm {STATE}/fill"))?;
    node.wait(
        "the journal is written again",
        &format!("[ \"$({STATUS})\" = serving ]"),
        Duration::from_secs(30),
    )?;
    for number in 0..=connected {
        agent.disconnect(&format!("c{number}"))??;
    }
    agent.detach("a")??;
    node.sh(&format!(
        "systemctl stop volattachd.service && umount {STATE} && rm -r /srv/local"
    ))?;
    Ok(())
}

/// The same for a disk that errs, which a file system without a journal of its own passes on to who writes.
fn erring_disk(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let linear = node.sh(&format!(
        "set -e
         mkdir -p {STATE} /srv/local
         truncate -s 8M /srv/local/v.raw
         truncate -s 64M /srv/disk
         linear=\"0 131072 linear $(losetup -f --show /srv/disk) 0\"
         dmsetup create erring --table \"$linear\"
         mkfs.ext2 -q /dev/mapper/erring
         mount -o errors=continue /dev/mapper/erring {STATE}
         chmod 711 {STATE}
         echo \"$linear\""
    ))?;
    let table = |table: &str| {
        node.sh(&format!(
            "dmsetup suspend --nolockfs --noflush erring && dmsetup reload erring --table {} && dmsetup resume erring",
            quote(table)
        ))
    };
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let info = json!({"driver_volume_type": "local", "data": {"device_path": "/srv/local/v.raw"}});
    agent.attach("a", "v", &info, &[])??;
    table("0 131072 error")?;
    let failure = agent.connect("c", "w", &info, &[])?.err();
    let failure = failure.context("connected without a journal")?;
    let why = "cannot write the journal";
    ensure!(failure.message.contains(why), "{failure:?}");
    let status = node.sh(STATUS)?;
    ensure!(status.contains("the journal cannot be written"), "{status}");
    ensure!(state(&agent, "a")? == "attached");
    table(&linear)?;
    node.wait(
        "the journal is written again",
        &format!("[ \"$({STATUS})\" = serving ]"),
        Duration::from_secs(30),
    )?;
    agent.disconnect("c")??;
    agent.connect("c", "w", &info, &[])??;
    // The next daemon reads it all.
    node.sh("systemctl restart volattachd.service")?;
    ensure!(state(&agent, "a")? == "attached");
    ensure!(guest::sees(node, "v")?.write == Ok(()));
    agent.disconnect("c")??;
    agent.detach("a")??;
    node.sh(&format!(
        "systemctl stop volattachd.service && umount {STATE} && dmsetup remove --retry erring &&
         losetup -d $(losetup -nO NAME -j /srv/disk) && rm -r /srv/local /srv/disk"
    ))?;
    Ok(())
}
