//! Passwords: nowhere to be read, neither while a volume is attached, nor on the way there, nor after a failure.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

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
        name: "secret_is_nowhere",
        run: nowhere,
    },
    Test {
        name: "secret_is_in_no_core_file",
        run: no_core_file,
    },
];

/// The password is `PIECES[0],PIECES[1]`, so that part of it is found too, and whatever becomes of the comma.
const PIECES: [&str; 2] = ["Gravel7Otter4Lamp", "Plum9Kestrel2Oar"];
/// One that the server refuses, and one in options that are refused.
const WRONG: &str = "Walnut3Heron8Quay";
const REFUSED: [&str; 2] = ["Cobalt5Wren6Yarn", "Juniper1Finch3Ink"];
/// What is put where the others must not be.
const CONTROL: &str = "Marble6Magpie9Fern";

/// While this file is there, the server of [`holding_server`] holds each mount up.
const HOLD: &str = "/run/lab-hold";
/// This one is there once it has held one.
const HELD: &str = "/run/lab-held";

/// A server that knows each client's password before it holds the mount up.
fn holding_server(lab: &Lab) -> Result<SmbServer<'_>> {
    let hold = format!(
        "root preexec = /bin/sh -c 'if [ -e {HOLD} ]; then touch {HELD}; while [ -e {HOLD} ]; do sleep 0.1; done; fi'"
    );
    let server = SmbServer::start(&lab.node, "nas", 10, &["volumes"], &hold)?;
    server.user("alice", &PIECES.join(","))?;
    server.volume("volumes", "v.raw", 8, "")?;
    lab.node.sh(&format!("rm -f {HELD}; touch {HOLD}"))?;
    Ok(server)
}

fn info(server: &SmbServer<'_>, login: &str) -> Value {
    smb_info(server, "volumes", "v.raw", login)
}

fn login() -> String {
    format!("-o username=alice,password={}", PIECES.join(",,"))
}

/// Waits until a mount is held up: mount(2) has not returned, and the password is in use.
fn held(node: &Node) -> Result<()> {
    node.wait(
        "the server holds the mount up",
        &format!("[ -e {HELD} ]"),
        Duration::from_secs(180),
    )
}

/// What can be read in the node: the places where each of the labelled pieces was found, and whose processes were seen.
pub(crate) fn search(node: &Node, needles: &Value) -> Result<(Vec<String>, Vec<String>)> {
    let program = quote(include_str!("secret_search.py"));
    let output = node.run(
        &format!("python3 -c {program}"),
        needles.to_string().as_bytes(),
        Duration::from_secs(120),
    )?;
    ensure!(output.status.success(), "the search: {}", output.stderr);
    let found: Value = serde_json::from_str(&output.stdout)?;
    let list =
        |key: &str| serde_json::from_value(found[key].clone()).context(output.stdout.clone());
    Ok((list("hits")?, list("processes")?))
}

/// Searches, and fails for each place but the control's.
fn search_in_vain(node: &Node, when: &str) -> Result<Vec<String>> {
    let needles = json!({
        "password": PIECES, "wrong password": [WRONG], "refused": REFUSED, "control": [CONTROL],
    });
    let (hits, processes) = search(node, &needles)?;
    let (control, found): (Vec<_>, Vec<_>) = hits
        .into_iter()
        .partition(|hit| hit.starts_with("control: "));
    ensure!(found.is_empty(), "{when}:\n{}", found.join("\n"));
    // What was not looked at proves nothing.
    for kind in [
        "arguments of sleep (plain)",
        "environment of sleep (plain)",
        "mounts of systemd (plain)",
        "journalctl -a --no-pager -o export (plain)",
        "journalctl -a --no-pager -o export (base64)",
        "/var/log/lab/control (UTF-16)",
        "/var/lib/volattach/control (hexadecimal)",
    ] {
        ensure!(
            control.contains(&format!("control: {kind}")),
            "{when}, the search is blind: no {kind} among {control:?}"
        );
    }
    ensure!(
        processes.iter().any(|name| name == "/usr/sbin/volattachd"),
        "{processes:?}"
    );
    Ok(processes)
}

/// Puts the control where passwords must not be.
fn plant(node: &Node) -> Result<()> {
    node.sh(&format!(
        "set -e
         systemd-run -q --collect --unit=lab-control -E SECRET={CONTROL} bash -c 'exec -a {CONTROL} sleep infinity'
         mkdir -p /mnt/control && mount -t tmpfs {CONTROL} /mnt/control
         echo {CONTROL} | systemd-cat -t lab
         echo -n x{CONTROL} | base64 | systemd-cat -t lab
         echo {CONTROL} | iconv -t UTF-16LE >/var/log/lab/control
         python3 -c 'print(\"{CONTROL}\".encode().hex())' >/var/lib/volattach/control"
    ))?;
    Ok(())
}

fn uproot(node: &Node) -> Result<()> {
    node.sh(
        "systemctl stop lab-control; umount /mnt/control; rmdir /mnt/control
         rm /var/log/lab/control /var/lib/volattach/control",
    )?;
    Ok(())
}

/// Fails where a piece of any password is in what was printed.
fn tells_nothing(what: &str, text: &str) -> Result<()> {
    for piece in [PIECES.as_slice(), &[WRONG], &REFUSED].concat() {
        ensure!(!text.contains(piece), "{what} tells {piece}: {text}");
    }
    Ok(())
}

/// What `volattach ARGS` prints for people, errors included.
fn printed(lab: &Lab, args: &str, stdin: &str) -> Result<String> {
    let output = lab.node.run(
        &format!("volattach {args}"),
        stdin.as_bytes(),
        Duration::from_secs(150),
    )?;
    Ok(output.stdout + &output.stderr)
}

/// With everything in the log: while a mount is under way, while the volume is attached, after refusals, after the
/// detach.
pub(crate) fn nowhere(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let server = holding_server(lab)?;
    drop_in(node, "Environment=VOLATTACH_LOG=trace")?;
    let agent = Agent::start(node, "[smb]\nmount_timeout = \"120s\"\n")?;
    plant(node)?;
    // Of another volume of the share: a guest has one volume once.
    let other_of = |login: &str| smb_info(&server, "volumes", "w.raw", login);

    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| agent.attach("a1", "v1", &info(&server, &login()), &[]));
        let searched = (|| {
            held(node)?;
            let processes = search_in_vain(node, "while the mount is under way")?;
            ensure!(
                processes.iter().any(|name| name == "volattachd-worker"),
                "{processes:?}"
            );
            tells_nothing("show", &printed(lab, "show a1", "")?)
        })();
        node.sh(&format!("rm {HOLD}"))?;
        let attached = attaching
            .join()
            .map_err(|_| anyhow::anyhow!("the attach panicked"))?;
        searched?;
        tells_nothing("attach", &attached??.to_string())
    })?;
    guest::sees(node, "v1")?;
    for command in ["show a1", "list", "-o json list"] {
        let text = printed(lab, command, "")?;
        ensure!(text.contains("a1"), "{command}: {text}");
        tells_nothing(command, &text)?;
    }
    // Plans tell the mount's options.
    for command in ["plan", "-o json plan --offline"] {
        let args = format!("{command} --volume v2 --domain inner --connection-info -");
        let text = printed(lab, &args, &other_of(&login()).to_string())?;
        ensure!(text.contains("password"), "{args}: {text}");
        tells_nothing(&args, &text)?;
    }

    let failure = agent
        .attach(
            "a2",
            "v2",
            &other_of(&format!("-o user=alice%{WRONG}")),
            &[],
        )?
        .err()
        .context("attached with the wrong password")?;
    ensure!(failure.reason == "LOGON_FAILURE", "{failure:?}");
    tells_nothing("attach", &format!("{failure:?}"))?;
    let [one, two] = REFUSED;
    let long = one.repeat(9);
    for (login, reason) in [
        (format!("password={one},suid"), "MOUNT_OPTION_REFUSED"),
        (format!("password={one},{two}"), "MOUNT_OPTION_REFUSED"),
        (format!("password=\"{one} {two}"), "MOUNT_OPTION_INVALID"),
        (
            format!("password={one},password={two}"),
            "CREDENTIALS_INVALID",
        ),
        (format!("password={long}"), "CREDENTIALS_INVALID"),
        (format!("passwd={one}"), "MOUNT_OPTION_REFUSED"),
    ] {
        let info = other_of(&format!("-o username=alice,{login}"));
        let args = "attach --id a2 --volume v2 --domain inner --connection-info -";
        let text = printed(lab, args, &info.to_string())?;
        ensure!(text.contains(reason), "{login}: {text}");
        tells_nothing(&login, &text)?;
    }
    // What the kernel would ignore.
    let nvme = json!({"driver_volume_type": "nvmeof", "data": {
        "target_nqn": "nqn.x", "ns_id": 1, "portals": [["10.99.0.1", "4420", "tcp"]],
        "dhchap_key": format!("DHHC-1:00:{one}:"), "dhchap_ctrlr_key": format!("DHHC-1:00:{two}:"),
    }});
    for command in ["attach --id a2", "plan", "plan --offline"] {
        let args = format!("{command} --volume v2 --domain inner --connection-info -");
        let text = printed(lab, &args, &nvme.to_string())?;
        ensure!(text.contains("CREDENTIALS_INVALID"), "{args}: {text}");
        tells_nothing(&args, &text)?;
    }
    ensure!(
        !node
            .sh("journalctl -q -u volattachd -p debug..debug -n 1")?
            .is_empty(),
        "the log does not hold everything"
    );
    search_in_vain(node, "while attached, after refusals")?;
    agent.detach("a1")??;
    search_in_vain(node, "after the detach")?;
    uproot(node)?;
    no_drop_in(node)
}

/// Lets what has the process id `pid` (shell) write core files as far as that can be done from outside, and crashes it.
fn crash(pid: &str) -> String {
    format!("pid={pid}; prlimit --core=unlimited --pid $pid && kill -ABRT $pid")
}

const CORES: &str = "/var/tmp/cores";

/// Neither the daemon nor a worker leaves a core file, even if something lifts the limit that forbids it.
fn no_core_file(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let before = node.sh(&format!(
        "mkdir -p {CORES} && chmod 1777 {CORES} && cat /proc/sys/kernel/core_pattern &&
         echo '{CORES}/%e' >/proc/sys/kernel/core_pattern"
    ))?;
    // Another process does leave one.
    node.sh(&format!(
        "sleep infinity & {}; wait; [ -s {CORES}/sleep ] && rm {CORES}/sleep",
        crash("$!")
    ))?;

    let server = holding_server(lab)?;
    let agent = Agent::start(node, "[smb]\nmount_timeout = \"120s\"\n")?;
    let main = "systemctl show -p MainPID --value volattachd";
    ensure!(
        node.sh(&format!(
            "grep '^Max core file size' /proc/$({main})/limits | tr -s ' '"
        ))? == "Max core file size 0 0 bytes "
    );

    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| agent.attach("a1", "v1", &info(&server, &login()), &[]));
        let crashed = (|| {
            held(node)?;
            // The signal waits for the end of mount(2).
            node.sh(&crash("$(pgrep -fx volattachd-worker)"))
        })();
        node.sh(&format!("rm {HOLD}"))?;
        let attached = attaching
            .join()
            .map_err(|_| anyhow::anyhow!("the attach panicked"))?;
        crashed?;
        let failure = attached?
            .err()
            .context("attached by a worker that crashed")?;
        tells_nothing("attach", &format!("{failure:?}"))?;
        ensure!(failure.message.contains("SIGABRT"), "{failure:?}");
        anyhow::Ok(())
    })?;

    agent.attach("a1", "v1", &info(&server, &login()), &[])??;
    node.sh(&crash(&format!("$({main})")))?;
    node.wait(
        "the daemon is started again",
        "[ $(systemctl show -p NRestarts --value volattachd) -gt 0 ] && volattach show a1",
        Duration::from_secs(180),
    )?;
    ensure!(guest::sees(node, "v1")?.write == Ok(()));
    agent.detach("a1")??;
    let cores = node.sh(&format!(
        "ls {CORES}; rm -r {CORES}; echo {} >/proc/sys/kernel/core_pattern",
        quote(&before)
    ))?;
    ensure!(cores.is_empty(), "core files: {cores}");
    Ok(())
}
