//! LUNs of iSCSI targets, as the guest sees them: access, logins, shared sessions, several paths, silent targets.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    guest,
    process::quote,
    targets::{Targets, head, head_hex, iscsi_info, multipath_info, with_chap},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "iscsi_access_and_a_shared_session",
        run: shared_session,
    },
    Test {
        name: "iscsi_logins",
        run: logins,
    },
    Test {
        name: "iscsi_several_paths",
        run: several_paths,
    },
    Test {
        name: "iscsi_silent_and_absent",
        run: silent_and_absent,
    },
];

/// Holds the node to so many sessions, disks of SCSI hosts, and maps, as the kernel has them.
pub(crate) fn expect(lab: &Lab, counts: &str) -> Result<()> {
    let found = lab.node.sh(COUNTS)?;
    ensure!(found == counts, "{found}, not {counts}");
    Ok(())
}

/// The same, once paths are there that an attach on a busy host does not wait for.
pub(crate) fn expect_paths(lab: &Lab, counts: &str) -> Result<()> {
    let script = format!("[ \"$({COUNTS})\" = {} ]", quote(counts));
    lab.node.wait(counts, &script, Duration::from_secs(600))
}

const COUNTS: &str = "echo $(ls /sys/class/iscsi_session | wc -l) sessions $(ls /sys/class/scsi_disk | wc -l) disks \
    $(ls -d /sys/block/dm-* 2>/dev/null | wc -l) maps";

pub(crate) fn host_path(answer: &Value) -> &str {
    answer["host_path"].as_str().unwrap_or_default()
}

pub(crate) fn refused<T>(answer: Result<T, Failure>, reason: &str) -> Result<Failure> {
    let failure = answer.err().with_context(|| format!("no {reason}"))?;
    ensure!(failure.reason == reason, "{reason}: {failure:?}");
    Ok(failure)
}

/// Read-only is read-only on the device and in the guest; a second LUN joins the session and keeps it.
pub(crate) fn shared_session(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let targets = Targets::new(&lab.node, &["va", "vb"])?;
    targets.target("t", &[21], &[(0, "va"), (300, "vb")])?;
    let before = lab.node.sh(&format!("sha256sum <{}", targets.path("va")))?;

    let mut info = iscsi_info(21, "t", 0);
    info["data"]["access_mode"] = json!("ro");
    let attached = agent.attach("a", "va", &info, &[])??;
    let device = host_path(&attached).to_owned();
    ensure!(lab.node.sh(&format!("blockdev --getro {device}"))? == "1");
    let disk = guest::sees(&lab.node, "va")?;
    ensure!(
        disk.sectors == 8 * 2048 && disk.head == head_hex("va"),
        "{disk:?}"
    );
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");

    let attached = agent.attach("b", "vb", &iscsi_info(21, "t", 300), &[])??;
    ensure!(
        lab.node
            .sh(&format!("blockdev --getro {}", host_path(&attached)))?
            == "0"
    );
    expect(lab, "1 sessions 2 disks 0 maps")?;
    agent.detach("a")??;
    expect(lab, "1 sessions 1 disks 0 maps")?;
    let disk = guest::sees(&lab.node, "vb")?;
    ensure!(
        disk.head == head_hex("vb") && disk.write == Ok(()),
        "{disk:?}"
    );

    // The daemon is killed in between: what the journal has is enough.
    lab.node.sh("systemctl kill -s KILL volattachd.service")?;
    agent.detach("b")??;
    guest::gone(&lab.node, "vb")?;
    expect(lab, "0 sessions 0 disks 0 maps")?;
    ensure!(lab.node.sh(&format!("sha256sum <{}", targets.path("va")))? == before);
    let written = lab.node.sh(&format!(
        "tail -c +{} {} | head -c {}",
        guest::WRITTEN_AT + 1,
        targets.path("vb"),
        disk.pattern().len()
    ))?;
    ensure!(written == disk.pattern().trim_end(), "{written:?}");
    Ok(())
}

/// CHAP in one direction and in both; what is wrong is refused and leaves nothing; no password is on a command line, in the log or
/// the journal, and the record is root's alone.
fn logins(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "[iscsi]\nlogin_timeout = \"3s\"\n")?;
    let targets = Targets::new(&lab.node, &["va", "vb"])?;
    targets.target("t", &[21], &[(1, "va"), (2, "vb")])?;
    let (password, back) = ("Gravel7 \"Otter\"#4", "Plum9Kestrel2Oar");
    targets.run(&["chap", "t", "alice", password])?;
    // Between the agent and iscsiadm: tells each command line.
    lab.node.sh(
        "set -e; mv /usr/sbin/iscsiadm /usr/sbin/iscsiadm.real
         printf '%s\\n' '#!/bin/sh' 'echo \"$*\" >>/run/lab-iscsiadm' 'exec /usr/sbin/iscsiadm.real \"$@\"' >/usr/sbin/iscsiadm
         chmod +x /usr/sbin/iscsiadm",
    )?;
    let info = |lun| iscsi_info(21, "t", lun);
    let result = (|| {
        agent.attach("a", "va", &with_chap(info(1), "alice", password), &[])??;
        ensure!(guest::sees(&lab.node, "va")?.write == Ok(()));
        let modes = lab
            .node
            .sh("find /etc/iscsi/nodes/* -printf '%M %u\\n' | sort -u")?;
        ensure!(modes == "-rw------- root\ndrwx------ root", "{modes}");
        let run = lab.node.sh("cat /run/lab-iscsiadm")?;
        ensure!(run.lines().count() == 1 && run.contains("--login"), "{run}");
        // Who has no credentials of its own does not get in by the session that is there.
        let failure = refused(agent.connect("b", "vb", &info(2), &[])?, "LOGON_FAILURE")?;
        ensure!(failure.message.contains("other credentials"), "{failure:?}");
        // Nor does who wants the target to prove itself, which it has not.
        let both = |lun, back: &str| {
            let mut mutual = with_chap(info(lun), "alice", password);
            mutual["data"]["auth_username_in"] = json!("target");
            mutual["data"]["auth_password_in"] = json!(back);
            mutual
        };
        let failure = refused(
            agent.connect("b", "vb", &both(2, back), &[])?,
            "LOGON_FAILURE",
        )?;
        ensure!(failure.message.contains("other credentials"), "{failure:?}");
        agent.detach("a")??;

        let wrong = "Walnut3Heron8Quay";
        let refusals = [
            info(1),
            with_chap(info(1), "alice", wrong),
            with_chap(info(1), "bob", password),
        ];
        for refusal in refusals {
            refused(agent.connect("c", "va", &refusal, &[])?, "LOGON_FAILURE")?;
            expect(lab, "0 sessions 0 disks 0 maps")?;
            lab.node.sh("! ls /etc/iscsi/nodes/* 2>/dev/null")?;
        }
        targets.run(&["chap", "t", "alice", password, "target", back])?;
        let impostor = both(1, "NotTheTargets1");
        refused(agent.connect("d", "va", &impostor, &[])?, "LOGON_FAILURE")?;
        agent.connect("d", "va", &both(1, back), &[])??;
        let one_way = with_chap(info(2), "alice", password);
        let failure = refused(agent.connect("b", "vb", &one_way, &[])?, "LOGON_FAILURE")?;
        ensure!(failure.message.contains("other credentials"), "{failure:?}");
        agent.connect("b", "vb", &both(2, back), &[])??;
        agent.disconnect("b")??;
        agent.disconnect("d")??;

        for secret in ["Gravel7", "Otter", back, wrong, "NotTheTargets1"] {
            lab.node.sh(&format!(
                "! grep -l {secret} /run/lab-iscsiadm && ! journalctl -a --no-pager | grep {secret} && \
                 ! grep -rl {secret} /var/lib/volattach /etc/iscsi /var/log"
            ))?;
        }
        Ok(())
    })();
    lab.node
        .sh("mv /usr/sbin/iscsiadm.real /usr/sbin/iscsiadm; rm -f /run/lab-iscsiadm")?;
    result
}

/// A map over two portals: one dead from the start, one that dies under I/O, one that leads to another volume.
fn several_paths(lab: &Lab) -> Result<()> {
    let agent = Agent::start(
        &lab.node,
        "[iscsi]\nprobe_timeout = \"2s\"\ndevice_timeout = \"20s\"\n",
    )?;
    let targets = Targets::new(&lab.node, &["va", "vb"])?;
    targets.target("t", &[21, 22], &[(1, "va")])?;
    targets.target("other", &[23], &[(1, "vb")])?;
    let both = multipath_info(&[(21, "t"), (22, "t")], 1);
    let failure = refused(agent.connect("m", "va", &both, &[])?, "MULTIPATH_FAILED")?;
    ensure!(failure.message.contains("start it"), "{failure:?}");
    targets.run(&["multipathd"])?;

    let attached = agent.attach("a", "va", &both, &[])??;
    let device = host_path(&attached).to_owned();
    ensure!(device.starts_with("/dev/dm-"), "{attached}");
    let disk = guest::sees(&lab.node, "va")?;
    ensure!(
        disk.head == head_hex("va") && disk.write == Ok(()),
        "{disk:?}"
    );
    expect(lab, "2 sessions 2 disks 1 maps")?;
    // One portal dies: a read goes by the other.
    targets.run(&["silence", "21"])?;
    let read = lab.node.run(
        &format!("dd if={device} iflag=direct bs=512 count=1 status=none | head -c 16; dd if={device} iflag=direct bs=512 count=1 status=none | head -c 16"),
        b"",
        Duration::from_secs(120),
    )?;
    ensure!(
        read.stdout == head("va").repeat(2),
        "{}{}",
        read.stdout,
        read.stderr
    );
    targets.run(&["unsilence", "21"])?;
    agent.released()?;
    agent.detach("a")??;
    guest::gone(&lab.node, "va")?;
    expect(lab, "0 sessions 0 disks 0 maps")?;

    // Dead from the start: the other carries the volume.
    targets.run(&["silence", "22"])?;
    let connected = agent.connect("b", "va", &both, &[])??;
    ensure!(host_path(&connected).starts_with("/dev/dm-"), "{connected}");
    expect(lab, "1 sessions 1 disks 1 maps")?;
    agent.disconnect("b")??;
    targets.run(&["unsilence", "22"])?;
    agent.released()?;

    // Paths to different volumes, and a volume that is not the one asked for.
    let mixed = multipath_info(&[(21, "t"), (23, "other")], 1);
    let failure = refused(agent.connect("c", "va", &mixed, &[])?, "DEVICE_IDENTITY")?;
    ensure!(failure.message.contains("different volumes"), "{failure:?}");
    let mut named = both.clone();
    named["data"]["wwn"] = json!(targets.run(&["wwn", "vb"])?);
    refused(agent.connect("d", "va", &named, &[])?, "DEVICE_IDENTITY")?;
    named["data"]["wwn"] = json!(targets.run(&["wwn", "va"])?);
    agent.connect("d", "va", &named, &[])??;
    agent.disconnect("d")??;
    expect(lab, "0 sessions 0 disks 0 maps")
}

/// Who waits for a LUN keeps nobody else from the target; a LUN that never appears and portals that do not answer fail by their
/// deadlines; a target that falls silent holds a detach up no longer, and what is left goes when it returns.
fn silent_and_absent(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "[iscsi]\ndevice_timeout = \"120s\"\n")?;
    let targets = Targets::new(&lab.node, &["va", "vb", "vc"])?;
    targets.target("t", &[21], &[(1, "va")])?;
    targets.target("u", &[22], &[(1, "vb")])?;
    std::thread::scope(|scope| {
        let late = scope.spawn(|| agent.connect("x", "vc", &iscsi_info(21, "t", 7), &[]));
        lab.node.wait(
            "the attach is under way",
            "ls -d /sys/class/iscsi_session/session*",
            Duration::from_secs(180),
        )?;
        // The same target and another: neither waits.
        agent.connect("a", "va", &iscsi_info(21, "t", 1), &[])??;
        agent.connect("b", "vb", &iscsi_info(22, "u", 1), &[])??;
        let shown = agent.call(&["show", "x"], "")??;
        ensure!(shown["state"] == "connecting", "{shown}");
        targets.run(&["map", "t", "7", "vc"])?;
        late.join()
            .map_err(|_| anyhow::anyhow!("the attach panicked"))???;
        anyhow::Ok(())
    })?;
    for id in ["a", "b", "x"] {
        agent.disconnect(id)??;
    }
    let agent = Agent::start(
        &lab.node,
        "[iscsi]\nprobe_timeout = \"2s\"\nlogin_timeout = \"2s\"\ndevice_timeout = \"2s\"\n",
    )?;
    refused(
        agent.connect("x", "v", &iscsi_info(21, "t", 9), &[])?,
        "DEVICE_NOT_FOUND",
    )?;
    refused(
        agent.connect("x", "v", &iscsi_info(1, "t", 1), &[])?,
        "SERVER_UNREACHABLE",
    )?;
    refused(
        agent.connect("x", "v", &iscsi_info(21, "nobody", 1), &[])?,
        "SERVER_TIMEOUT",
    )?;
    targets.run(&["silence", "21"])?;
    refused(
        agent.connect("x", "v", &iscsi_info(21, "t", 1), &[])?,
        "SERVER_TIMEOUT",
    )?;
    targets.run(&["unsilence", "21"])?;
    agent.released()?;
    expect(lab, "0 sessions 0 disks 0 maps")?;
    unwritten(lab, &agent, &targets)?;

    agent.attach("a", "va", &iscsi_info(21, "t", 1), &[])??;
    guest::sees(&lab.node, "va")?;
    targets.run(&["silence", "21"])?;
    // Within its deadlines, whatever comes of it.
    let _ = agent.call(&["--timeout", "140", "detach", "a"], "")?;
    targets.run(&["unsilence", "21"])?;
    agent.released()?;
    lab.node.wait(
        "the volume is detached",
        "volattach detach a && ! volattach show a",
        Duration::from_secs(200),
    )?;
    logged_out(lab)
}

/// What is in the host's cache of a silent target's disk does not go without a word; by force it does.
fn unwritten(lab: &Lab, agent: &Agent<'_>, targets: &Targets<'_>) -> Result<()> {
    let node = &lab.node;
    let connected = agent.connect("w", "va", &iscsi_info(21, "t", 1), &[])??;
    targets.run(&["silence", "21"])?;
    // Whoever closes a device last waits for what is written: one holds it open.
    let write = format!(
        "exec 3<>{}; dd if=/dev/zero bs=4096 count=1 status=none >&3; touch /run/written; exec sleep 1000",
        host_path(&connected)
    );
    node.sh(&format!(
        "systemd-run -q --collect --unit=writer bash -c {}
         until [ -e /run/written ]; do sleep 0.1; done; rm /run/written",
        quote(&write)
    ))?;
    let kept = refused(
        agent.call(&["--timeout", "140", "disconnect", "w"], "")?,
        "DEVICE_BUSY",
    )?;
    ensure!(kept.message.contains("by force"), "{kept:?}");
    let forced = agent.call(&["--timeout", "140", "disconnect", "--force", "w"], "")?;
    // The session may take its time to go.
    if let Err(failure) = forced {
        ensure!(failure.reason == "DEVICE_BUSY", "{failure:?}");
        ensure!(!failure.message.contains("flush"), "{failure:?}");
        ensure!(!failure.message.contains("uses it"), "{failure:?}");
    }
    targets.run(&["unsilence", "21"])?;
    agent.released()?;
    node.sh("systemctl kill -s KILL writer")?;
    node.wait(
        "the volume is disconnected",
        "volattach disconnect w && ! volattach show w",
        Duration::from_secs(200),
    )?;
    logged_out(lab)
}

/// Waits for the session that the initiator did not end at once, as its target was silent: a detach does not wait for that.
fn logged_out(lab: &Lab) -> Result<()> {
    lab.node.wait(
        "the session is gone",
        "! ls -d /sys/class/iscsi_session/session*",
        Duration::from_secs(200),
    )?;
    expect(lab, "0 sessions 0 disks 0 maps")
}
