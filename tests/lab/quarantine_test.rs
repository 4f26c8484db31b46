//! A dead server with many attachments: its calls fail at once, its workers are few, another server's calls are as quick as before, and all
//! is well once the server answers.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "quarantine_of_a_server_with_many_attachments",
    run: many_attachments,
}];

/// Attachments of the server that dies, each by a mount of its own.
const MANY: usize = 50;

/// Workers that may be stuck for one server (docs/errors.md, `WORKERS_STUCK`).
const STUCK: usize = 4;

/// Calls for one server that are at work at a time (`limits.work_per_server`).
const TURNS: usize = 32;

/// Other calls' workers that may run meanwhile.
const OTHERS: usize = 2;

/// Counts the daemon's workers all the time, and keeps the highest number.
const COUNT: &str = "systemd-run -q --collect --unit=lab-count bash -c '
    most=0
    while sleep 0.1; do
        now=$(pgrep -fc ^volattachd-worker)
        [ $now -le $most ] || { most=$now; echo $most >/run/lab-most-workers; }
    done'";

fn many_attachments(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[smb]\nprobe_timeout = \"4s\"\n")?;
    let start = |name, octet| {
        let server = SmbServer::start(node, name, octet, &["vols"], "")?;
        server.user("bob", "pw")?;
        server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
        anyhow::Ok(server)
    };
    let (ill, well) = (start("ill", 11)?, start("well", 12)?);
    // Other options, another mount.
    let info = |server, number: usize| {
        let options = format!("-o username=bob,password=pw,actimeo={number}");
        smb_info(server, "vols", "v.raw", &options)
    };
    let volume = |number: usize| format!("ill-{number}");
    each(|number| {
        let id = volume(number);
        agent.connect(&id, &id, &info(&ill, number), &["--access", "ro"])??;
        Ok(())
    })?;
    let undisturbed = attach_and_detach(lab, &agent, &info(&well, 0))?;

    node.sh(COUNT)?;
    ill.silence()?;
    // Two silences in a row, and whoever asks then does not wait.
    for reason in ["SERVER_TIMEOUT", "SERVER_TIMEOUT", "SERVER_QUARANTINED"] {
        let failure = agent.connect("late", "late", &info(&ill, MANY), &[])?.err();
        let failure = failure.context("connected to a silent server")?;
        ensure!(failure.reason == reason, "not {reason}: {failure:?}");
    }
    let doctor = node.run("volattach doctor", b"", Duration::from_secs(180))?;
    ensure!(
        doctor.stdout.contains("has not answered since"),
        "{}",
        doctor.stdout
    );
    // Each unmount of a dead server hangs in the kernel.
    node.sh(&format!(
        "systemd-run -q --collect --unit=lab-disconnects bash -c '
             for i in $(seq 0 {}); do volattach --timeout 100 disconnect ill-$i & done; wait'",
        MANY - 1
    ))?;
    node.wait(
        "all turns of the dead server are taken",
        &format!(
            "[ $(volattach -o json list | grep -o '\"state\":\"connected\"' | wc -l) -le {} ]",
            MANY - TURNS
        ),
        Duration::from_secs(120),
    )?;
    let disturbed = attach_and_detach(lab, &agent, &info(&well, 0))?;
    node.wait(
        "the calls have ended",
        "! systemctl is-active -q lab-disconnects",
        Duration::from_secs(180),
    )?;
    println!(
        "quarantine: an attach and detach of another server took {:.2} times as long beside {MANY} calls to a dead one",
        disturbed.as_secs_f64() / undisturbed.as_secs_f64()
    );
    let most = node.sh("systemctl stop lab-count; cat /run/lab-most-workers")?;
    println!("quarantine: at most {most} workers, of which {STUCK} may be stuck");
    ensure!(most.parse::<usize>()? <= STUCK + OTHERS, "{most} workers");

    ill.unsilence()?;
    agent.released()?;
    node.wait(
        "nothing is wrong",
        "volattach doctor",
        Duration::from_secs(300),
    )?;
    let (id, again) = ("again", info(&ill, MANY + 1));
    agent.attach(id, id, &again, &[])??;
    ensure!(guest::sees(node, id)?.write == Ok(()));
    agent.detach(id)??;
    each(|number| {
        agent.disconnect(&volume(number))??;
        Ok(())
    })
}

/// Does so for each attachment, four at a time.
fn each(call: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let call = &call;
        let parts: Vec<_> = (0..4)
            .map(|part| scope.spawn(move || (part..MANY).step_by(4).try_for_each(call)))
            .collect();
        parts.into_iter().try_for_each(|part| {
            let ended = part.join();
            ended.map_err(|_| anyhow::anyhow!("a call panicked"))?
        })
    })
}

fn attach_and_detach(lab: &Lab, agent: &Agent<'_>, info: &serde_json::Value) -> Result<Duration> {
    let begun = Instant::now();
    agent.attach("well", "well", info, &[])??;
    ensure!(guest::sees(&lab.node, "well")?.write == Ok(()));
    agent.detach("well")??;
    guest::gone(&lab.node, "well")?;
    Ok(begun.elapsed())
}
