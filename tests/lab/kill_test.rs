//! The daemon is killed at random moments, again and again, while callers attach and detach on two domains over every backend: in the end
//! what the callers were told is what the guests see.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    guest::{self, Second},
    nfs_servers::NfsServer,
    nvme_servers::{A, B, NvmeServer},
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info},
};

/// Some ten minutes.
pub(crate) const SOAK: &[Test] = &[Test {
    name: "kill_at_random_moments_under_load",
    run: under_load,
}];

const KILLS: usize = 100;

/// Longest pause between two kills, in milliseconds, and every fourth time, so that calls are done as well: under this load an attach takes
/// seconds in the node.
const LONGEST_PAUSE: [u64; 4] = [4_000, 4_000, 4_000, 20_000];

/// How long a caller asks again, once the kills have ended, before its attachment counts as stuck: until then a busy machine may get no call done.
const PATIENCE: Duration = Duration::from_secs(300);

/// Answers after which a caller asks again: the daemon is dead, or still busy with what its predecessor left.
const ASK_AGAIN: [&str; 6] = [
    "DAEMON_UNREACHABLE",
    "OPERATION_IN_PROGRESS",
    "UNPLUG_PENDING",
    "DEVICE_BUSY",
    "UNMOUNT_FAILED",
    "SHUTTING_DOWN",
];

/// A volume that one caller attaches and detaches.
struct Volume {
    name: &'static str,
    domain: &'static str,
    info: Value,
}

/// What a caller was told last.
struct Told {
    volume: &'static str,
    domain: &'static str,
    attached: bool,
}

fn under_load(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let second = Second::start(node)?;
    node.sh("mkdir -p /srv/local && truncate -s 8M /srv/local/v.raw")?;
    let volumes = volumes(lab)?;
    let (stop, calls) = (AtomicBool::new(false), AtomicU32::new(0));
    let (killed, told) = thread::scope(|scope| {
        let callers: Vec<_> = volumes
            .iter()
            .enumerate()
            .map(|(number, volume)| {
                let (agent, stop, calls) = (&agent, &stop, &calls);
                // Half of them end with their disk attached.
                scope.spawn(move || work(agent, volume, number % 2 == 0, stop, calls))
            })
            .collect();
        let killed = kill_again_and_again(lab);
        stop.store(true, Relaxed);
        let told: Result<Vec<Told>> = callers
            .into_iter()
            .map(|caller| caller.join().map_err(|_| anyhow!("a caller panicked"))?)
            .collect();
        (killed, told)
    });
    killed?;
    let told = told?;
    println!("kill: {KILLS} kills, {} calls", calls.load(Relaxed));
    check(&agent, lab, &second, &told)?;
    for one in told.iter().filter(|one| one.attached) {
        agent.detach(one.volume)??;
    }
    check(&agent, lab, &second, &[])?;
    node.sh("rm -r /srv/local")?;
    Ok(())
}

/// Kills the daemon at random moments, and waits for the next one before each.
fn kill_again_and_again(lab: &Lab) -> Result<()> {
    let seed = std::process::id();
    println!("kill: seed {seed}");
    let mut state = u64::from(seed) | 1;
    for longest in LONGEST_PAUSE.into_iter().cycle().take(KILLS) {
        // Marsaglia's xorshift (Journal of Statistical Software 8, 14).
        for shift in [13, -7, 17] {
            state ^= match shift {
                left if left > 0 => state << left,
                right => state >> -right,
            };
        }
        thread::sleep(Duration::from_millis(state % longest));
        lab.node.sh("systemctl kill -s KILL volattachd.service
             systemctl reset-failed volattachd.service 2>/dev/null || true")?;
        lab.node.wait(
            "the next daemon",
            "systemctl is-active -q volattachd.service || { systemctl reset-failed volattachd.service; \
             systemctl start volattachd.service; }",
            Duration::from_secs(180),
        )?;
    }
    Ok(())
}

/// Attaches and detaches until told to stop, and then once more for `attached` as its end.
fn work(
    agent: &Agent<'_>,
    volume: &Volume,
    attached: bool,
    stop: &AtomicBool,
    calls: &AtomicU32,
) -> Result<Told> {
    let attach = || agent.attach_to(volume.domain, volume.name, volume.name, &volume.info, &[]);
    let detach = || agent.detach(volume.name);
    loop {
        until_told(volume.name, stop, calls, attach)?;
        if attached && stop.load(Relaxed) {
            break;
        }
        until_told(volume.name, stop, calls, detach)?;
        if !attached && stop.load(Relaxed) {
            break;
        }
    }
    Ok(Told {
        volume: volume.name,
        domain: volume.domain,
        attached,
    })
}

/// Asks until the call is done.
fn until_told(
    name: &str,
    stop: &AtomicBool,
    calls: &AtomicU32,
    call: impl Fn() -> Result<Result<Value, Failure>>,
) -> Result<()> {
    let mut calm: Option<Instant> = None;
    loop {
        if stop.load(Relaxed) {
            calm.get_or_insert_with(Instant::now);
        }
        calls.fetch_add(1, Relaxed);
        let Err(failure) = call()? else {
            return Ok(());
        };
        ensure!(
            ASK_AGAIN.contains(&failure.reason.as_str())
                && calm.is_none_or(|since| since.elapsed() < PATIENCE),
            "{name}: {failure:?}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// Holds the daemon's list and what both guests see to what the callers were told.
fn check(agent: &Agent<'_>, lab: &Lab, second: &Second<'_>, told: &[Told]) -> Result<()> {
    let attached = |domain: Option<&str>| -> BTreeSet<String> {
        let attached = told.iter().filter(|one| one.attached);
        let attached = attached.filter(|one| domain.is_none_or(|it| it == one.domain));
        attached.map(|one| one.volume.to_owned()).collect()
    };
    let list = agent.call(&["list"], "")??;
    let listed = list["attachments"].as_array().context("no list")?;
    let listed: BTreeSet<String> = listed
        .iter()
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            match (text("state").as_str(), it["error"].is_null()) {
                ("attached", true) => text("attachment_id"),
                _ => it.to_string(),
            }
        })
        .collect();
    ensure!(
        listed == attached(None),
        "told {:?}, listed {listed:?}",
        attached(None)
    );
    for one in told.iter().filter(|one| one.attached) {
        let disk = match one.domain {
            Second::NAME => second.sees(one.volume)?,
            _ => guest::sees(&lab.node, one.volume)?,
        };
        ensure!(disk.write == Ok(()), "{disk:?}");
    }
    for (domain, disks) in [
        ("inner", guest::disks(&lab.node)?),
        (Second::NAME, second.disks()?),
    ] {
        let seen: BTreeSet<String> = disks.into_values().map(|disk| disk.known_as).collect();
        ensure!(
            seen == attached(Some(domain)),
            "told {:?}, {domain} sees {seen:?}",
            attached(Some(domain))
        );
    }
    Ok(())
}

/// A volume of each kind of storage, two where they share a connection.
fn volumes(lab: &Lab) -> Result<Vec<Volume>> {
    let node = &lab.node;
    let smb = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    smb.user("bob", "pw")?;
    let nfs = NfsServer::start(node, "filer", 11, "rw", "")?;
    for file in ["v.raw", "w.raw"] {
        smb.volume("vols", file, 8, "sixteen bytes...")?;
    }
    nfs.volume("v.raw", "sixteen bytes...")?;
    let targets = Targets::new(node, &["lun1", "lun2"])?;
    targets.target("t", &[21], &[(1, "lun1"), (2, "lun2")])?;
    let nvme = NvmeServer::start(node, "subsystem", &[22])?;
    let by_smb = |file| smb_info(&smb, "vols", file, "-o username=bob,password=pw");
    let local = json!({"driver_volume_type": "local", "data": {"device_path": "/srv/local/v.raw"}});
    let volume = |(name, domain, info)| Volume { name, domain, info };
    let each = [
        ("smb-1", "inner", by_smb("v.raw")),
        ("smb-2", Second::NAME, by_smb("w.raw")),
        ("nfs", "inner", nfs.info("v.raw", "")),
        ("iscsi-1", Second::NAME, iscsi_info(21, "t", 1)),
        ("iscsi-2", "inner", iscsi_info(21, "t", 2)),
        ("nvme-1", Second::NAME, nvme.info(A)),
        ("nvme-2", "inner", nvme.info(B)),
        ("local", Second::NAME, local),
    ];
    Ok(each.map(volume).into())
}
