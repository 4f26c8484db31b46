//! Servers that fail: killed, stopped, unreachable; before a connect, with I/O under way, and during a disconnect. Every call ends
//! with its reason, a volume of another server comes and goes in the guest meanwhile, and all recovers when the servers return.
//!
//! Three servers fail at once, each in its own way, so that what they keep waiting waits at the same time. How long the kernel
//! waits for a dead server is its own business, up to three minutes: what this waits for has deadlines beyond that.

use std::{thread::ScopedJoinHandle, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    nfs_servers::NfsServer,
    process::quote,
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "dead_servers_smb",
        run: smb,
    },
    Test {
        name: "dead_servers_nfs",
        run: nfs,
    },
    Test {
        name: "dead_servers_iscsi",
        run: iscsi,
    },
];

/// A way to fail.
struct Fault {
    name: &'static str,
    begin: &'static str,
    end: &'static str,
    /// Why nothing can be connected anew.
    reason: &'static str,
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: "killed",
        begin: "kill",
        end: "revive",
        reason: "SERVER_UNREACHABLE",
    },
    Fault {
        name: "stopped",
        begin: "pause",
        end: "resume",
        reason: "SERVER_TIMEOUT",
    },
    Fault {
        name: "lost",
        begin: "silence",
        end: "unsilence",
        reason: "SERVER_TIMEOUT",
    },
];

/// What a volume begins with.
const HEAD: &str = "sixteen bytes...";

/// Longer than any kernel of ours waits for a server, by which time all is as it was.
const PATIENCE: Duration = Duration::from_secs(300);

type Verb<'lab> = Box<dyn Fn(&str) -> Result<()> + Sync + 'lab>;

/// A server that is going to fail.
struct Server<'lab> {
    fault: &'static Fault,
    /// Has it fail, or come back.
    verb: Verb<'lab>,
    /// A volume that is written to.
    written: Value,
    /// One that is connected and not touched; by a mount of its own, where there are mounts.
    idle: Value,
    /// What is tried while it is dead, and why it fails.
    refused: Vec<(Value, &'static str)>,
}

/// Waits for calls that were made at the same time.
fn all(calls: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    calls
        .into_iter()
        .try_for_each(|call| call.join().unwrap_or_else(|_| bail!("a call panicked")))
}

/// What the tests have in common. `writer` writes to the volumes; `left` is why a disconnect may fail.
fn survive(
    lab: &Lab,
    agent: &Agent<'_>,
    servers: &[Server<'_>],
    well: &Value,
    writer: &str,
    left: &str,
) -> Result<()> {
    let node = &lab.node;
    let refused = |info: &Value, reason: &str, what: &str| -> Result<()> {
        let id = format!("refused-{what}");
        let answer = agent.connect(&id, &id, info, &["--timeout", "140"])?;
        let failure = answer.err().with_context(|| format!("{id}: connected"))?;
        // What a call does in two steps may find the server silent in the first, and left alone in the second.
        let is_known = failure.reason == reason || failure.reason == "SERVER_QUARANTINED";
        ensure!(is_known, "{id}: {failure:?}");
        Ok(())
    };
    let disconnected = |id: &str| -> Result<()> {
        if let Err(failure) = agent.call(&["--timeout", "140", "disconnect", id], "")? {
            let is_known = failure.reason == left || failure.reason == "WORKERS_STUCK";
            ensure!(is_known, "{id}: {failure:?}");
        }
        Ok(())
    };
    let undisturbed = || -> Result<()> {
        agent.attach("well", "well", well, &[])??;
        let disk = guest::sees(node, "well")?;
        ensure!(disk.write == Ok(()), "{disk:?}");
        agent.detach("well")??;
        guest::gone(node, "well")
    };
    let every = |verb: fn(&Fault) -> &'static str| -> Result<()> {
        servers
            .iter()
            .try_for_each(|server| (server.verb)(verb(server.fault)))
    };

    // Before the connect.
    every(|fault| fault.begin)?;
    std::thread::scope(|scope| {
        let mut calls = vec![scope.spawn(undisturbed)];
        for Server { fault, written, .. } in servers {
            calls.push(scope.spawn(|| refused(written, fault.reason, fault.name)));
        }
        all(calls)
    })?;
    every(|fault| fault.end)?;
    agent.released()?;

    // With I/O under way, and in the first moment of a disconnect.
    for Server { fault, written, .. } in servers {
        let name = fault.name;
        let connected = agent.connect(name, name, written, &[])??;
        let path = quote(connected["host_path"].as_str().unwrap_or_default());
        node.sh(&format!(
            "systemd-run -q --collect --unit=lab-io-{name} --uid={writer} -p RuntimeDirectory=io-{name} bash -c \
             \"while dd if=/dev/zero of={path} bs=64k count=1 oflag=direct conv=notrunc,nocreat status=none; do \
             echo >>/run/io-{name}/done; sleep 0.1; done\""
        ))?;
    }
    for Server { fault, idle, .. } in servers {
        let id = format!("idle-{}", fault.name);
        agent.connect(&id, &id, idle, &[])??;
        let script = format!("[ -s /run/io-{}/done ]", fault.name);
        node.wait("I/O is under way", &script, Duration::from_secs(180))?;
    }
    every(|fault| fault.begin)?;
    std::thread::scope(|scope| {
        let mut calls = vec![scope.spawn(undisturbed)];
        for server in servers {
            let name = server.fault.name;
            calls.push(scope.spawn(move || disconnected(&format!("idle-{name}"))));
            for (number, (info, reason)) in server.refused.iter().enumerate() {
                let what = format!("{name}-{number}");
                calls.push(scope.spawn(move || refused(info, reason, &what)));
            }
        }
        all(calls)
    })?;
    std::thread::scope(|scope| {
        let ending = |server: &Server<'_>| scope.spawn(|| disconnected(server.fault.name));
        all(servers.iter().map(ending).collect())
    })?;

    // They return.
    every(|fault| fault.end)?;
    // What is not under way any more has failed.
    node.sh("systemctl kill -s KILL 'lab-io-*' || true")?;
    for Server { fault, .. } in servers {
        for id in [fault.name.to_owned(), format!("idle-{}", fault.name)] {
            node.wait(
                &format!("{id} is disconnected"),
                &format!("volattach --timeout 40 disconnect {id}"),
                PATIENCE,
            )?;
        }
    }
    node.wait(
        "nothing is connected",
        "! ls /sys/class/iscsi_session/* && ! grep /var/lib/volattach/mnt/ /proc/mounts",
        PATIENCE,
    )?;
    agent.released()?;
    for Server { fault, written, .. } in servers {
        agent.attach(fault.name, fault.name, written, &[])??;
        let disk = guest::sees(node, fault.name)?;
        ensure!(disk.write == Ok(()), "{disk:?}");
        agent.detach(fault.name)??;
    }
    Ok(())
}

/// Starts a server for each fault, and one that stays well.
fn start_all<S>(start: impl Fn(&'static str, u8) -> Result<S>) -> Result<(Vec<S>, S)> {
    let ill = FAULTS.iter().zip(11..);
    let ill = ill.map(|(fault, octet)| start(fault.name, octet));
    Ok((ill.collect::<Result<_>>()?, start("well", 14)?))
}

fn smb(lab: &Lab) -> Result<()> {
    let config = "[smb]\nprobe_timeout = \"8s\"\ndefault_options = \"echo_interval=2\"\n";
    let agent = Agent::start(&lab.node, config)?;
    let start = |name, octet| {
        let server = SmbServer::start(&lab.node, name, octet, &["vols"], "")?;
        server.user("bob", "pw")?;
        for volume in ["v.raw", "w.raw"] {
            server.volume("vols", volume, 8, HEAD)?;
        }
        anyhow::Ok(server)
    };
    let info = |server: &SmbServer<'_>, name: &str, more: &str| {
        let login = format!("-o username=bob,password=pw{more}");
        smb_info(server, "vols", name, &login)
    };
    let (ill, well) = start_all(start)?;
    let servers: Vec<_> = ill
        .iter()
        .zip(&FAULTS)
        .map(|(server, fault)| Server {
            fault,
            verb: Box::new(|verb| server.verb(verb)),
            written: info(server, "v.raw", ""),
            idle: info(server, "w.raw", ",actimeo=2"),
            refused: vec![
                (info(server, "w.raw", ",actimeo=3"), fault.reason),
                (info(server, "w.raw", ""), fault.reason),
            ],
        })
        .collect();
    survive(
        lab,
        &agent,
        &servers,
        &info(&well, "v.raw", ""),
        "libvirt-qemu",
        "UNMOUNT_FAILED",
    )
}

fn nfs(lab: &Lab) -> Result<()> {
    // Operations on a dead server fail after 6 s.
    let config = "[nfs]\nprobe_timeout = \"8s\"\ndefault_options = \"timeo=20\"\n";
    let agent = Agent::start(&lab.node, config)?;
    let start = |name, octet| {
        let server = NfsServer::start(&lab.node, name, octet, "rw", "")?;
        for volume in ["v.raw", "w.raw"] {
            server.volume(volume, HEAD)?;
        }
        anyhow::Ok(server)
    };
    let (ill, well) = start_all(start)?;
    let servers: Vec<_> = ill
        .iter()
        .zip(&FAULTS)
        .map(|(server, fault)| Server {
            fault,
            verb: Box::new(|verb| server.verb(verb)),
            written: server.info("v.raw", ""),
            idle: server.info("w.raw", "actimeo=2"),
            refused: vec![
                (server.info("w.raw", "actimeo=3"), fault.reason),
                (server.info("w.raw", ""), fault.reason),
            ],
        })
        .collect();
    survive(
        lab,
        &agent,
        &servers,
        &well.info("v.raw", ""),
        "libvirt-qemu",
        "UNMOUNT_FAILED",
    )
}

/// LIO is in the kernel, where no process can be stopped: a target that is stopped is here one whose port takes connections and
/// gives no answer, after the sessions that there were have ended.
fn iscsi(lab: &Lab) -> Result<()> {
    let config =
        "[iscsi]\nprobe_timeout = \"8s\"\nlogin_timeout = \"8s\"\ndevice_timeout = \"10s\"\n";
    let agent = Agent::start(&lab.node, config)?;
    let volumes: Vec<String> = FAULTS
        .iter()
        .flat_map(|fault| (0..3).map(|lun| format!("{}-{lun}", fault.name)))
        .collect();
    let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
    let targets = Targets::new(&lab.node, &[&volumes[..], &["well"]].concat())?;
    for ((fault, octet), volumes) in FAULTS.iter().zip(21..).zip(volumes.chunks(3)) {
        let luns: Vec<_> = (0..).zip(volumes.iter().copied()).collect();
        targets.target(fault.name, &[octet], &luns)?;
    }
    targets.target("well", &[24], &[(0, "well")])?;
    let targets = &targets;
    let servers: Vec<_> = FAULTS
        .iter()
        .zip(21u8..)
        .map(|(fault, octet)| {
            let info = |lun| iscsi_info(octet, fault.name, lun);
            Server {
                fault,
                verb: Box::new(move |verb| {
                    let octet = octet.to_string();
                    let words = match verb.strip_suffix("silence") {
                        Some(_) => vec![verb, &octet],
                        None => vec![verb, fault.name, &octet],
                    };
                    targets.run(&words).map(drop)
                }),
                written: info(0),
                idle: info(1),
                refused: vec![(info(2), "SERVER_TIMEOUT")],
            }
        })
        .collect();
    survive(
        lab,
        &agent,
        &servers,
        &iscsi_info(24, "well", 0),
        "root",
        "DEVICE_BUSY",
    )
}
