//! A round and a recall with a thousand iSCSI volumes by two sessions each, beside which the runtime's thread has to serve callers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use volattach::attach::{Engine, ListQuery, Parts, Tuning};
use volattach::backend::iscsi::IscsiBackend;
use volattach::backend::{Backend, Backends, Lvm, Quarantine};
use volattach::config::Settings;
use volattach::journal::{Journal, Record, RedbJournal};
use volattach::model::{Attachment, Claim, Connection, Device, HostKey, TargetPath, Wwid};
use volattach::reconcile;
use volattach::sys::worker::Workers;

use super::fakes::{self, FakeHypervisor, OTHER_DOMAIN, World, attach, by_root};

const VOLUMES: usize = 1000;
/// How late a timer may be.
const LATE: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_millis(5);

fn target(volume: usize) -> String {
    format!("iqn.2026-01.org.lab:{volume}")
}

fn portal(session: usize) -> String {
    format!("10.{}.{}.1", session / 200, session % 200)
}

/// The number of the map over a volume's disks.
fn sequence(volume: usize) -> u64 {
    (10_000 + volume) as u64
}

fn identity(volume: usize) -> String {
    format!("6001405{volume:025x}")
}

/// A kernel's tree of two sessions, two disks and a map for each volume.
fn sys(root: &Path) {
    let file = |path: String, content: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    for volume in 0..VOLUMES {
        let map = format!("block/dm-{volume}");
        let uuid = format!("mpath-3{}\n", identity(volume));
        file(format!("{map}/dm/uuid"), uuid.as_bytes());
        file(
            format!("{map}/diskseq"),
            sequence(volume).to_string().as_bytes(),
        );
        for number in [2 * volume, 2 * volume + 1] {
            let device = format!("devices/platform/host{number}/session{number}");
            let connection =
                format!("{device}/connection{number}:0/iscsi_connection/connection{number}:0");
            file(
                format!("{connection}/persistent_address"),
                portal(number).as_bytes(),
            );
            file(format!("{connection}/persistent_port"), b"3260\n");
            let class = format!("class/iscsi_session/session{number}");
            file(format!("{class}/targetname"), target(volume).as_bytes());
            file(format!("{class}/state"), b"LOGGED_IN\n");
            symlink(root.join(&device), root.join(&class).join("device")).unwrap();
            let unit = format!("{device}/target{number}:0:0/{number}:0:0:1");
            let disk = format!("sd{number}");
            fs::create_dir_all(root.join(&unit).join("block").join(&disk)).unwrap();
            fs::create_dir_all(root.join(&map).join("slaves").join(&disk)).unwrap();
            let hex = identity(volume);
            let naa = (0..16).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap());
            let page = [0, 0x83, 0, 20, 1, 3, 0, 16].into_iter().chain(naa);
            file(format!("{unit}/vpd_pg83"), &page.collect::<Vec<u8>>());
            file(
                format!("block/{disk}/diskseq"),
                number.to_string().as_bytes(),
            );
        }
    }
}

/// A record of that volume, made of another's.
fn record(of: &Record, volume: usize) -> Record {
    let mut record = of.clone();
    record.id = format!("a{volume}").parse().unwrap();
    record.volume = format!("v{volume}").parse().unwrap();
    record.domain.as_mut().unwrap().uuid = OTHER_DOMAIN;
    let claim = Claim::Lun {
        target: target(volume),
        lun: 1,
    };
    record.host.plan.claims = vec![claim];
    let path = |session| TargetPath {
        portal: format!("{}:3260", portal(session)),
        name: target(volume),
        lun: Some(1),
    };
    if let Connection::Iscsi(plan) = &mut record.host.plan.connection {
        plan.paths = vec![path(2 * volume), path(2 * volume + 1)];
    }
    record.host.found.device = Some(Device {
        path: format!("/dev/dm-{volume}").into(),
        identity: Wwid::scsi(3, &identity(volume)),
        sequence: Some(sequence(volume)),
    });
    record.disk.sequence = record.host.sequence();
    record
}

/// An engine with a record of each volume, over the iSCSI backend.
async fn engine(world: &World, dir: &Path) -> Engine {
    let made = world.engine();
    let request = attach("a", "v", fakes::iscsi("v1"));
    made.attach(by_root(request)).await.unwrap();
    let template = world.records().remove(0);
    let journal = RedbJournal::open(&dir.join("journal"), false).unwrap();
    for volume in 0..VOLUMES {
        journal.put_soon(&record(&template, volume)).await.unwrap();
    }
    let workers = Workers::from_executable(PathBuf::new());
    let settings = Settings::built_in().iscsi;
    let quarantine = Quarantine::new(workers.registry().clone());
    let backend = IscsiBackend::beneath(dir, settings, workers, quarantine.clone());
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let limits = world.state().work;
    let parts = Parts {
        journal: Arc::new(journal),
        lvm: Lvm::new(dir),
        hypervisor: Arc::new(FakeHypervisor::new(world)),
        key: HostKey::new([7; 32]),
        boot: Some(world.state().boot.clone()),
    };
    let tuning = Tuning {
        backends: Backends::new([backend], quarantine),
        unplug_timeout: Duration::from_secs(1),
        work: limits,
    };
    Engine::new(parts, tuning)
}

/// How long this thread has waited for a processor that others had (Documentation/scheduler/sched-stats.rst).
fn waited() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1);
    Duration::from_nanos(nanoseconds.map_or(0, |it| it.parse().unwrap()))
}

/// Runs it beside a ticker on the same thread; returns how long it took, and how late the ticker was at most, without the waits for a
/// processor that others had.
async fn timed(work: impl Future<Output = ()>) -> (Duration, Duration) {
    let latest = Arc::new(Mutex::new(Duration::ZERO));
    let ticker = tokio::spawn({
        let latest = latest.clone();
        async move {
            loop {
                let (began, waited_before) = (Instant::now(), waited());
                tokio::time::sleep(TICK).await;
                let others = waited() - waited_before;
                let late = began.elapsed().saturating_sub(TICK + others);
                let mut latest = latest.lock().unwrap();
                *latest = late.max(*latest);
            }
        }
    });
    tokio::task::yield_now().await;
    let began = Instant::now();
    work.await;
    let took = began.elapsed();
    tokio::time::sleep(2 * TICK).await;
    ticker.abort();
    let latest = *latest.lock().unwrap();
    (took, latest)
}

#[tokio::test]
async fn a_thousand_volumes_do_not_hold_up_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    sys(dir.path());
    let world = World::new();
    let engine = engine(&world, dir.path()).await;
    world.state().domains_asked.clear();
    let recall = timed(async { engine.recall().await.unwrap() }).await;
    let round = timed(reconcile::once(&engine)).await;
    // Every volume was found, or its domain were not asked.
    let asked = [(OTHER_DOMAIN, VOLUMES)];
    assert_eq!(world.state().domains_asked, asked);
    // Every volume loses one of its paths: that is noted without another look.
    for volume in 0..VOLUMES {
        let state = format!("class/iscsi_session/session{}/state", 2 * volume);
        fs::write(dir.path().join(state), "FAILED\n").unwrap();
    }
    world.state().domains_asked.clear();
    let degraded = timed(reconcile::once(&engine)).await;
    assert_eq!(world.state().domains_asked, asked);
    let listed = ListQuery {
        limit: VOLUMES,
        ..ListQuery::default()
    };
    let listed = engine.list(by_root(listed)).await.unwrap();
    let has_one = |it: &&Attachment| it.paths.is_some_and(|paths| paths.working == 1);
    assert_eq!(listed.iter().filter(has_one).count(), VOLUMES);
    for (what, (took, late)) in [("recall", recall), ("round", round), ("degraded", degraded)] {
        println!("{what}: {took:?} in all, the timer {late:?} late at most");
        assert!(
            took > LATE,
            "{what}: the look proves nothing within {took:?}"
        );
        assert!(late < LATE, "{what}: the timer was {late:?} late");
    }
}
