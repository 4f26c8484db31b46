//! The systemd unit as it is installed: what of the daemon outlives its process, and what confines it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Lab, Test,
    agent::{Agent, drop_in, no_drop_in},
    guest,
    node::Node,
    process::quote,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "unit_mounts_outlive_the_daemon",
        run: mounts_outlive_the_daemon,
    },
    Test {
        name: "unit_watchdog_restarts_a_stuck_daemon",
        run: watchdog,
    },
    Test {
        name: "unit_stop_lets_calls_end",
        run: stop_lets_calls_end,
    },
    Test {
        name: "unit_reload",
        run: reload,
    },
    Test {
        name: "unit_callers",
        run: callers,
    },
    Test {
        name: "unit_confinement",
        run: confinement,
    },
];

/// What systemd says of the service.
fn property(node: &Node, name: &str) -> Result<String> {
    node.sh(&format!(
        "systemctl show -p {name} --value volattachd.service"
    ))
}

fn server(lab: &Lab) -> Result<SmbServer<'_>> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["vols"], "")?;
    server.user("alice", "secret")?;
    server.volume("vols", "v.raw", 8, "")?;
    Ok(server)
}

fn info(server: &SmbServer<'_>) -> Value {
    smb_info(server, "vols", "v.raw", "-o username=alice,password=secret")
}

/// The host and the running guest's QEMU, which has a mount namespace of its own, both see the mount.
fn mount_is_seen(node: &Node, when: &str) -> Result<()> {
    let seen = node.sh(
        "qemu=$(cat /run/libvirt/qemu/inner.pid)
         [ \"$(readlink /proc/$qemu/ns/mnt)\" != \"$(readlink /proc/1/ns/mnt)\" ] && echo apart
         for pid in 1 $qemu; do grep -c ' /var/lib/volattach/mnt/.* - cifs ' /proc/$pid/mountinfo; done",
    )?;
    ensure!(seen == "apart\n1\n1", "{when}: {seen}");
    Ok(())
}

/// The mount stays for host and guest when the daemon is restarted and when it is stopped; the guest works with its disk
/// while there is no daemon; and a call starts one.
fn mounts_outlive_the_daemon(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let server = server(lab)?;
    let agent = Agent::start(node, "")?;
    agent.attach("a1", "v1", &info(&server), &[])??;
    let disk = guest::sees(node, "v1")?;
    mount_is_seen(node, "attached")?;
    node.sh("systemctl restart volattachd.service")?;
    mount_is_seen(node, "after a restart")?;

    node.sh("systemctl stop volattachd.service")?;
    ensure!(property(node, "ActiveState")? == "inactive");
    mount_is_seen(node, "after a stop")?;
    // The guest looks at its disks, and writes, when it is reset.
    let written = format!(
        "grep -aqF {} {}",
        quote(disk.pattern().trim_end()),
        quote(&server.path("vols", "v.raw"))
    );
    node.sh(&format!(
        "{written} && echo -n before the reset >{path} && truncate -s 8M {path} && ! {written} && virsh -q reset inner",
        path = quote(&server.path("vols", "v.raw"))
    ))?;
    node.wait("the guest writes", &written, Duration::from_secs(120))?;
    let head: String = "before the reset"
        .bytes()
        .map(|b| format!("{b:02x}"))
        .collect();
    node.wait(
        "the guest reads",
        &format!("grep -q 'serial=v1 head={head} write=ok' /var/log/lab/inner.console"),
        Duration::from_secs(180),
    )?;

    ensure!(property(node, "ActiveState")? == "inactive");
    let listed = agent.call(&["list"], "")??;
    ensure!(listed["attachments"][0]["state"] == "attached", "{listed}");
    ensure!(property(node, "ActiveState")? == "active");
    agent.detach("a1")??;
    guest::gone(node, "v1")
}

/// Readiness and signs of life are told to systemd, which replaces a daemon that gives none; nothing is lost by it.
fn watchdog(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let server = server(lab)?;
    let agent = Agent::start(node, "")?;
    ensure!(property(node, "Type")? == "notify");
    ensure!(property(node, "WatchdogUSec")? == "1min");
    // What it has told with its readiness.
    ensure!(property(node, "StatusText")? == "serving");

    drop_in(node, "WatchdogSec=4\nTimeoutAbortSec=1")?;
    node.sh("systemctl restart volattachd.service")?;
    agent.attach("a1", "v1", &info(&server), &[])??;
    let sign = property(node, "WatchdogTimestampMonotonic")?;
    node.wait(
        "a sign of life",
        &format!(
            "[ $(systemctl show -p WatchdogTimestampMonotonic --value volattachd.service) != {sign} ]"
        ),
        Duration::from_secs(180),
    )?;
    ensure!(property(node, "NRestarts")? == "0");
    node.sh("kill -STOP $(systemctl show -p MainPID --value volattachd.service)")?;
    node.wait(
        "a new daemon",
        "[ $(systemctl show -p NRestarts --value volattachd.service) = 1 ] && systemctl is-active -q volattachd.service",
        Duration::from_secs(180),
    )?;
    let shown = agent.call(&["show", "a1"], "")??;
    ensure!(shown["state"] == "attached", "{shown}");
    ensure!(guest::sees(node, "v1")?.write == Ok(()));
    no_drop_in(node)?;
    agent.detach("a1")??;
    guest::gone(node, "v1")
}

/// A daemon that is told to stop in the middle of a call answers it, takes no other, and ends well.
fn stop_lets_calls_end(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let server = server(lab)?;
    let agent = Agent::start(node, "[smb]\nprobe_timeout = \"50s\"\n")?;
    server.pause()?;
    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| agent.attach("a1", "v1", &info(&server), &[]));
        let stopped = (|| {
            node.wait(
                "the attach is under way",
                "volattach show a1",
                Duration::from_secs(180),
            )?;
            node.sh("systemctl stop --no-block volattachd.service")?;
            node.wait(
                "the daemon drains",
                "systemctl show -p StatusText volattachd.service | grep -q 'waiting for the calls under way'",
                Duration::from_secs(180),
            )?;
            let refused = agent.call(&["list"], "")?;
            let refused = refused.err().context("a daemon that stops takes a call")?;
            ensure!(refused.reason == "SHUTTING_DOWN", "{refused:?}");
            Ok(())
        })();
        server.resume()?;
        let attached = attaching
            .join()
            .map_err(|_| anyhow::anyhow!("the attach panicked"))?;
        stopped?;
        ensure!(attached??["state"] == "attached");
        anyhow::Ok(())
    })?;
    node.wait(
        "the daemon's end",
        "[ $(systemctl show -p ActiveState --value volattachd.service) = inactive ]",
        Duration::from_secs(180),
    )?;
    ensure!(property(node, "Result")? == "success");
    ensure!(property(node, "ExecMainStatus")? == "0");
    agent.detach("a1")??;
    guest::gone(node, "v1")
}

/// Members of the group are served, others are refused: by the socket's mode, and by the daemon where that lets them by.
fn callers(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    Agent::start(node, "")?;
    node.sh("useradd -M member -G volattach && useradd -M stranger")?;
    let list = |user: &str| -> Result<(Option<i32>, String)> {
        let script = format!("runuser -u {user} -- volattach list");
        let output = node.run(&script, b"", Duration::from_secs(180))?;
        Ok((output.status.code(), output.stderr))
    };
    let (code, error) = list("member")?;
    ensure!(code == Some(0), "{error}");
    for (mode, why) in [
        ("660", "may not open the daemon's socket"),
        ("666", "may not call this daemon"),
    ] {
        node.sh(&format!("chmod {mode} /run/volattach/volattachd.sock"))?;
        let (code, error) = list("stranger")?;
        ensure!(
            code == Some(8) && error.contains(why) && error.contains("PERMISSION_DENIED"),
            "{mode}: {code:?} {error}"
        );
    }
    node.sh("chmod 660 /run/volattach/volattachd.sock; userdel member; userdel stranger")
        .map(drop)
}

/// The daemon has the six capabilities of its unit, a filter of system calls, and can gain nothing: as the kernel tells it.
fn privileges(node: &Node) -> Result<()> {
    let status =
        node.sh("cat /proc/$(systemctl show -p MainPID --value volattachd.service)/status")?;
    // DAC_OVERRIDE (1), DAC_READ_SEARCH (2), KILL (5), SETGID (6), SETUID (7), SYS_ADMIN (21): capabilities(7).
    let rights = "00000000002000e6";
    let none = "0000000000000000";
    for (name, value) in [
        ("CapInh", none),
        ("CapPrm", rights),
        ("CapEff", rights),
        ("CapBnd", rights),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        ensure!(
            status.contains(&format!("{name}:\t{value}\n")),
            "{name}: {status}"
        );
    }
    Ok(())
}

/// `systemctl reload` puts a configuration in force that can be used, and fails for any other; the daemon goes on.
fn reload(lab: &Lab) -> Result<()> {
    const CONFIG: &str = "/etc/volattach/volattachd.toml.d/test.toml";
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    node.sh("mkdir -p /srv/reload && truncate -s 1M /srv/reload/v.raw")?;
    let info = r#"{"driver_volume_type":"local","data":{"device_path":"/srv/reload/v.raw"}}"#;
    let connect = |id: &str| {
        let args = [
            "connect",
            "--id",
            id,
            "--volume",
            id,
            "--connection-info",
            "-",
        ];
        agent.call(&args, info)
    };
    let process = property(node, "MainPID")?;
    ensure!(connect("r1")?.is_err_and(|failure| failure.message.contains("local.roots")));

    node.write(CONFIG, b"[local]\nroots = [\"/srv/reload\"]\n")?;
    node.sh("systemctl reload volattachd.service")?;
    let is_read = "journalctl -q -u volattachd --no-pager | grep -q 'read again and is in use'";
    node.wait(
        "the configuration is read",
        is_read,
        Duration::from_secs(180),
    )?;
    connect("r1")??;

    node.write(CONFIG, b"[local]\nroot = []\n")?;
    let reloaded = node.run(
        "systemctl reload volattachd.service",
        b"",
        Duration::from_secs(180),
    )?;
    ensure!(reloaded.status.code() == Some(1), "{}", reloaded.stderr);
    let log = node.sh("journalctl -q -u volattachd -n 20 --no-pager")?;
    ensure!(log.contains("local.root: unknown key"), "{log}");
    ensure!(property(node, "ActiveState")? == "active");
    ensure!(property(node, "MainPID")? == process, "it was restarted");
    agent.call(&["disconnect", "r1"], "")??;
    // The next test on this node may be one that purges the package, which a configuration with a mistake stands in the way of.
    node.write(CONFIG, b"")?;
    node.sh("rm -r /srv/reload").map(drop)
}

/// The daemon has the privileges of its unit and no more; a unit that is confined too far, and a configuration with a mistake in it,
/// are told in words.
fn confinement(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let server = server(lab)?;
    let agent = Agent::start(node, "")?;
    privileges(node)?;

    drop_in(node, "CapabilityBoundingSet=~CAP_SYS_ADMIN")?;
    node.sh("systemctl restart volattachd.service")?;
    let failure = agent
        .attach("a1", "v1", &info(&server), &[])?
        .err()
        .context("mounted without CAP_SYS_ADMIN")?;
    ensure!(
        failure.reason == "MOUNT_FAILED" && failure.message.contains("it needs CAP_SYS_ADMIN"),
        "{failure:?}"
    );
    let log = node.sh("journalctl -q -p warning -u volattachd -n 20 --no-pager")?;
    ensure!(log.contains("lacks CAP_SYS_ADMIN"), "{log}");
    no_drop_in(node)?;
    node.sh("systemctl restart volattachd.service")?;

    node.write("/run/typo.toml", b"[smb]\nprobe_timeuot = \"3s\"\n")?;
    let checked = node.run(
        "volattachd --check-config --config /run/typo.toml",
        b"",
        Duration::from_secs(180),
    )?;
    ensure!(checked.status.code() == Some(1), "{}", checked.stdout);
    ensure!(
        checked.stderr.contains("probe_timeout"),
        "{}",
        checked.stderr
    );
    Ok(())
}
