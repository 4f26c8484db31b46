//! `make demo`: an SMB volume, read-only, and another, read-write, on the inner guest and off again, for a newcomer to
//! watch. The last line is a verdict in JSON, computed from what was observed: by the guest, in the volumes, and by the
//! search for leftovers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{self, Agent},
    guest::{self, Disk},
    leftovers,
    machine::Kind,
    node::Node,
    process::quote,
    runner,
    servers::{self, SmbServer},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "demo_verdict_follows_what_was_observed",
    run: verdict_follows_what_was_observed,
}];

const MEBIBYTES: u32 = 16;

/// The two attachments: id, volume, access.
const READ_ONLY: (&str, &str, &str) = ("att-ro", "vol-ro", "ro");
const READ_WRITE: (&str, &str, &str) = ("att-rw", "vol-rw", "rw");

/// What was observed. Nothing of it is there before it was.
#[derive(Clone, Debug, Default)]
struct Observed {
    /// Id, access and state, as listed while attached.
    listed: Vec<[String; 3]>,
    /// The disks as the guest sees them.
    read_only: Option<Disk>,
    read_write: Option<Disk>,
    /// Both detached, by the daemon's word and by the guest's.
    detached: bool,
    gone: bool,
    /// The volumes afterwards, on the server: whether the one is as before, and the other holds the guest's line.
    unchanged: bool,
    written: bool,
    leftovers: Option<Vec<String>>,
}

/// The last line.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verdict {
    attached: bool,
    guest_sees_readonly: bool,
    guest_write_rejected: bool,
    guest_write_accepted_rw: bool,
    detached: bool,
    /// `null`: nobody could look.
    left_over: Option<usize>,
}

const GOOD: Verdict = Verdict {
    attached: true,
    guest_sees_readonly: true,
    guest_write_rejected: true,
    guest_write_accepted_rw: true,
    detached: true,
    left_over: Some(0),
};

impl Observed {
    fn verdict(&self) -> Verdict {
        let expected = [READ_ONLY, READ_WRITE].map(|(id, _, access)| [id, access, "attached"]);
        let (ro, rw) = (self.read_only.as_ref(), self.read_write.as_ref());
        Verdict {
            attached: self.listed == expected,
            // A guest that calls every disk read-only has not seen that this one is.
            guest_sees_readonly: ro.is_some_and(|disk| disk.read_only)
                && rw.is_some_and(|disk| !disk.read_only),
            guest_write_rejected: ro.is_some_and(|disk| disk.write.is_err()) && self.unchanged,
            guest_write_accepted_rw: rw.is_some_and(|disk| disk.write.is_ok()) && self.written,
            // What never came cannot go.
            detached: self.detached && self.gone && ro.is_some() && rw.is_some(),
            left_over: self.leftovers.as_ref().map(Vec::len),
        }
    }
}

/// Runs the demonstration, and prints the verdict whatever happens; fails unless all is well.
pub(crate) fn run() -> Result<()> {
    let mut observed = Observed::default();
    let done = demonstrate(&mut observed);
    if let Err(error) = &done {
        eprintln!("lab: {error:#}");
    }
    let verdict = observed.verdict();
    println!("\n{}", serde_json::to_string(&verdict)?);
    ensure!(done.is_ok() && verdict == GOOD, "the demo failed");
    Ok(())
}

fn demonstrate(observed: &mut Observed) -> Result<()> {
    heading("A compute node: a virtual machine with systemd, libvirt, KVM and a running guest");
    let directory = tempfile::tempdir()?;
    let node = Node::start(Kind::Kvm, &agent::package(directory.path())?)?;
    let screen = Screen { node: &node };
    let done = volumes_come_and_go(&screen, observed);

    heading("What is left over: mounts, sessions, disks, processes, records");
    let left = leftovers::find(&node, leftovers::SESSIONS_END);
    let left = left.map(|left| {
        left.iter().for_each(|line| println!("{line}"));
        println!("{} found", left.len());
        observed.leftovers = Some(left);
    });
    let done = done.and(left);
    if done.is_err() || observed.verdict() != GOOD {
        let logs = runner::target().join("lab-logs/demo");
        node.fetch_logs(&logs)?;
        eprintln!("lab: logs: {}", logs.display());
    }
    done?;
    servers::remove_all(&node)
}

fn volumes_come_and_go(screen: &Screen<'_>, observed: &mut Observed) -> Result<()> {
    let node = screen.node;
    screen.run("uname -sr; virsh -q list")?;

    heading("An SMB server with two volumes");
    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    server.user("alice", "secret")?;
    for (_, volume, _) in [READ_ONLY, READ_WRITE] {
        server.volume(
            "vols",
            &format!("{volume}.raw"),
            MEBIBYTES,
            "made by Cinder",
        )?;
    }
    screen.run("smbclient -U alice%secret -c ls //10.99.0.10/vols | grep raw")?;
    let path = |volume: &str| quote(&server.path("vols", &format!("{volume}.raw")));
    let checksum = || node.sh(&format!("sha256sum <{}", path(READ_ONLY.1)));
    let before = checksum()?;

    heading("volattachd, installed from its package");
    let agent = Agent::start(node, "")?;
    screen.run(
        "systemctl show volattachd.service -p Type -p ActiveState -p SubState -p FragmentPath",
    )?;
    screen.run("ls -l /run/volattach/volattachd.sock")?;

    heading("Attaching them, one read-only");
    for (_, volume, access) in [READ_ONLY, READ_WRITE] {
        let info = connection_info(&server.address, volume, access);
        let text = format!("{info:#}\n");
        node.write(&format!("/root/{volume}.json"), text.as_bytes())?;
    }
    screen.run("cat vol-ro.json")?;
    for (id, volume, _) in [READ_ONLY, READ_WRITE] {
        screen.run(&format!(
            "volattach attach --id {id} --volume {volume} --domain inner --connection-info {volume}.json"
        ))?;
    }
    screen.run("volattach list")?;
    observed.listed = listed(&agent)?;
    screen.run("findmnt -t cifs -o TARGET,SOURCE,VFS-OPTIONS")?;

    heading("What the guest says on its console, of each disk that it sees and of a write to it");
    observed.read_only = guest::sees(node, READ_ONLY.1).map_err(tell).ok();
    observed.read_write = guest::sees(node, READ_WRITE.1).map_err(tell).ok();
    screen.run("grep GUEST.disk /var/log/lab/inner.console")?;

    heading("Detaching them");
    let first = screen.run(&format!("volattach detach {}", READ_ONLY.0))?;
    let second = screen.run(&format!("volattach detach {}", READ_WRITE.0))?;
    screen.run("volattach list")?;
    observed.detached = first && second && listed(&agent)?.is_empty();
    observed.gone = [READ_ONLY, READ_WRITE]
        .iter()
        .all(|(_, volume, _)| guest::gone(node, volume).map_err(tell).is_ok());
    screen.run("grep GUEST.gone /var/log/lab/inner.console")?;

    heading("The volumes afterwards, on the server");
    observed.unchanged = checksum()? == before;
    println!(
        "{}: {} byte for byte",
        READ_ONLY.1,
        if observed.unchanged {
            "unchanged"
        } else {
            "CHANGED"
        }
    );
    let (path, from) = (path(READ_WRITE.1), guest::WRITTEN_AT + 1); // tail counts from one
    let line = node.sh(&format!(
        "tail -c +{from} {path} | head -c 80 | tr -d '\\0'"
    ))?;
    println!("{}: {line:?} at byte {}", READ_WRITE.1, guest::WRITTEN_AT);
    let disk = observed.read_write.as_ref();
    observed.written = disk.is_some_and(|disk| disk.pattern().trim_end() == line);
    Ok(())
}

/// As Cinder's SMB driver makes it.
fn connection_info(address: &str, volume: &str, access: &str) -> Value {
    json!({
        "driver_volume_type": "smbfs",
        "data": {
            "export": format!("//{address}/vols"),
            "name": format!("{volume}.raw"),
            "format": "raw",
            "options": "-o username=alice,password=secret",
            "access_mode": access,
        },
    })
}

/// Id, access and state of each attachment.
fn listed(agent: &Agent<'_>) -> Result<Vec<[String; 3]>> {
    let answer = match agent.call(&["list"], "")? {
        Ok(answer) => answer,
        Err(failure) => anyhow::bail!("volattach list: {failure:?}"),
    };
    let text =
        |attachment: &Value, key: &str| attachment[key].as_str().unwrap_or_default().to_owned();
    Ok(answer["attachments"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|attachment| ["attachment_id", "access", "state"].map(|key| text(attachment, key)))
        .collect())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// Shows what went wrong, where the demonstration goes on.
fn tell(error: anyhow::Error) -> anyhow::Error {
    println!("{error:#}");
    error
}

/// Commands in the node, for all to see.
struct Screen<'node> {
    node: &'node Node,
}

impl Screen<'_> {
    /// Shows a command and what it prints; whether it succeeded.
    fn run(&self, command: &str) -> Result<bool> {
        println!("lab:~# {command}");
        let output = self.node.run(command, b"", Duration::from_secs(150))?;
        print!("{}{}", output.stdout, output.stderr);
        Ok(output.status.success())
    }
}

/// Each thing that can go amiss is in the verdict, and nothing observed is nothing good.
fn verdict_follows_what_was_observed(_: &Lab) -> Result<()> {
    let disk = |read_only, write| {
        Some(Disk {
            known_as: String::new(),
            name: "vda".into(),
            sectors: 1,
            read_only,
            serial: String::new(),
            head: String::new(),
            write,
        })
    };
    let failed = || Err("Operation not permitted".to_owned());
    let all = Observed {
        listed: [READ_ONLY, READ_WRITE]
            .map(|(id, _, access)| [id, access, "attached"].map(String::from))
            .into(),
        read_only: disk(true, failed()),
        read_write: disk(false, Ok(())),
        detached: true,
        gone: true,
        unchanged: true,
        written: true,
        leftovers: Some(Vec::new()),
    };
    ensure!(all.verdict() == GOOD, "{:?}", all.verdict());

    // What goes amiss, and the fields that tell.
    type Amiss = fn(&mut Observed);
    let cases: [(Amiss, &[&str]); 13] = [
        (|seen| seen.listed.truncate(1), &["attached"]),
        (|seen| seen.listed[0][1] = "rw".into(), &["attached"]),
        (|seen| seen.listed[1][2] = "failed".into(), &["attached"]),
        (
            |seen| seen.read_only = None,
            &["guest_sees_readonly", "guest_write_rejected", "detached"],
        ),
        (
            |seen| {
                seen.read_only
                    .iter_mut()
                    .for_each(|disk| disk.read_only = false)
            },
            &["guest_sees_readonly"],
        ),
        (
            |seen| {
                seen.read_write
                    .iter_mut()
                    .for_each(|disk| disk.read_only = true)
            },
            &["guest_sees_readonly"],
        ),
        (
            |seen| {
                seen.read_only
                    .iter_mut()
                    .for_each(|disk| disk.write = Ok(()))
            },
            &["guest_write_rejected"],
        ),
        (|seen| seen.unchanged = false, &["guest_write_rejected"]),
        (|seen| seen.written = false, &["guest_write_accepted_rw"]),
        (|seen| seen.detached = false, &["detached"]),
        (|seen| seen.gone = false, &["detached"]),
        (|seen| seen.leftovers = None, &["left_over"]),
        (
            |seen| seen.leftovers = Some(vec!["mount: x".into()]),
            &["left_over"],
        ),
    ];
    let good = serde_json::to_value(GOOD)?;
    for (number, (amiss, fields)) in cases.iter().enumerate() {
        let mut observed = all.clone();
        amiss(&mut observed);
        let verdict = serde_json::to_value(observed.verdict())?;
        for (field, value) in good.as_object().into_iter().flatten() {
            let tells = fields.contains(&field.as_str());
            ensure!(
                (verdict[field] != *value) == tells,
                "case {number}: {verdict}"
            );
        }
    }

    let nothing = serde_json::to_string(&Observed::default().verdict())?;
    ensure!(
        nothing
            == r#"{"attached":false,"guest_sees_readonly":false,"guest_write_rejected":false,"guest_write_accepted_rw":false,"detached":false,"left_over":null}"#,
        "{nothing}"
    );
    Ok(())
}
