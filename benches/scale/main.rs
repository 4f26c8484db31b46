//! `make bench`: whether what a call costs grows with what is attached elsewhere, over the real journal.
//!
//! Journals of several sizes take turns in one run; half of their records, and each measured connect, are of one share. Backends are fakes that
//! do nothing, so a ratio shows the journal and the engine alone; only ratios are printed, each with its limit, and one that is over its limit
//! fails the run. A real daemon is weighed too, with no records and with many.
#![allow(
    clippy::unwrap_used,
    reason = "not a part of the product: a failure shows where it happened"
)]

mod daemon;
#[allow(clippy::expect_used, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/fakes/mod.rs"]
mod fakes;
#[path = "../node/mod.rs"]
mod node;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fakes::{World, admit, by_root, connect, end, local, root, smb};
use volattach::attach::{Engine, ListQuery};
use volattach::connection::ConnectionInfo;
use volattach::journal::{Journal, Record, RedbJournal};
use volattach::model::{Claim, VolumeOwner};
use volattach::reconcile;

/// Records of the journals that take turns; the first is what the others are compared with.
const SIZES: [u32; 4] = [10, 1_000, 10_000, 100_000];
/// Turns of each journal.
const TURNS: usize = 400;
/// What a call may cost over the same call beside ten records.
const RATIO_LIMIT: f64 = 1.1;
/// Longest standstill of the runtime in a round of reconcile over 10,000 records.
const STANDSTILL_LIMIT: Duration = Duration::from_millis(50);

/// Records of the daemon that is weighed.
const WEIGHED: u32 = 10_000;
/// Its start.
const START_LIMIT: Duration = Duration::from_millis(500);
/// Its resident memory, in KiB.
const RESIDENT_LIMIT: u64 = 64 * 1024;
/// The same without records.
const IDLE_LIMIT: u64 = 28 * 1024;

/// An engine over a journal with that many records.
struct Host {
    engine: Engine,
    _dir: tempfile::TempDir,
}

/// How long the calls of one journal took.
#[derive(Default)]
struct Times {
    connect: Vec<Duration>,
    disconnect: Vec<Duration>,
    list: Vec<Duration>,
}

fn main() -> ExitCode {
    // One thread, as volattachd has.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let fits = [weigh(&runtime), runtime.block_on(measure())];
    if fits == [true, true] {
        ExitCode::SUCCESS
    } else {
        println!("bench: over the limit");
        ExitCode::FAILURE
    }
}

/// Weighs a real daemon, with no records and with many.
fn weigh(runtime: &tokio::runtime::Runtime) -> bool {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let idle = daemon::weigh(|_, _| {}).resident_kib;
    println!(
        "idle resident memory, connected to libvirtd, its figures scraped: {:.1} MiB (limit {})",
        mib(idle),
        mib(IDLE_LIMIT)
    );
    let full = daemon::weigh(|journal, volume| {
        runtime.block_on(async {
            let mut record = template(local).await;
            record.host.plan.path = volume.to_owned();
            record.host.plan.root = volume.parent().unwrap().to_owned();
            fill(journal, WEIGHED, |number| named(&record, number)).await;
        });
    });
    println!(
        "the same with {WEIGHED} records: {:.1} MiB (limit {}), and a start of {} ms (limit {})",
        mib(full.resident_kib),
        mib(RESIDENT_LIMIT),
        full.start.as_millis(),
        START_LIMIT.as_millis()
    );
    idle <= IDLE_LIMIT && full.resident_kib <= RESIDENT_LIMIT && full.start <= START_LIMIT
}

async fn measure() -> bool {
    let template = template(smb).await;
    let mut hosts = Vec::new();
    for size in SIZES {
        hosts.push(host(&template, size).await);
    }
    let mut times: [Times; SIZES.len()] = std::array::from_fn(|_| Times::default());
    for _ in 0..TURNS {
        for (host, times) in hosts.iter().zip(&mut times) {
            turn(&host.engine, times).await;
        }
    }
    let medians = |of: fn(&mut Times) -> &mut Vec<Duration>, times: &mut [Times]| {
        let medians = times.iter_mut().map(|times| median(of(times)));
        medians.collect::<Vec<_>>()
    };
    let connect = medians(|times| &mut times.connect, &mut times);
    let disconnect = medians(|times| &mut times.disconnect, &mut times);
    let list = medians(|times| &mut times.list, &mut times);
    let mut fits = true;
    // Beside ten records, a page has but ten.
    for (call, medians, sizes) in [
        ("ConnectVolume", connect.as_slice(), &SIZES[..]),
        ("DisconnectVolume", &disconnect, &SIZES),
        ("a page of a list", &list[1..], &SIZES[1..]),
    ] {
        for (took, size) in medians.iter().zip(sizes).skip(1) {
            let ratio = took.as_secs_f64() / medians[0].as_secs_f64();
            fits &= ratio <= RATIO_LIMIT;
            println!(
                "{call} beside {size} records over that beside {}, median of {TURNS}: {ratio:.3} (limit {RATIO_LIMIT})",
                sizes[0]
            );
        }
    }
    let standstill = standstill(&hosts[2].engine).await;
    println!(
        "longest standstill of the runtime in a round of reconcile over {} records: {:.1} ms (limit {})",
        SIZES[2],
        standstill.as_secs_f64() * 1e3,
        STANDSTILL_LIMIT.as_millis()
    );
    fits && standstill <= STANDSTILL_LIMIT
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A record as a connect leaves it.
async fn template(info: fn(&str) -> ConnectionInfo) -> Record {
    let world = World::new();
    let request = connect("template", "template", info("template"));
    world.engine().connect(by_root(request)).await.unwrap();
    world.records().remove(0)
}

/// The template as another attachment's record, of another volume.
fn named(template: &Record, number: u32) -> Record {
    Record {
        id: format!("r{number}").parse().unwrap(),
        volume: format!("v{number}").parse().unwrap(),
        ..template.clone()
    }
}

/// Makes a journal of that many records.
async fn fill(path: &Path, size: u32, record: impl Fn(u32) -> Record) -> RedbJournal {
    let journal = RedbJournal::open(path, false).unwrap();
    for number in 0..size {
        journal.put_soon(&record(number)).await.unwrap();
    }
    // On disk with the records before it.
    journal.remove(&"none".parse().unwrap()).await.unwrap();
    journal
}

/// A journal with that many records, half of them of the template's share and each other of a share of its own.
async fn host(template: &Record, size: u32) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let record = |number| {
        let mut record = named(template, number);
        record.host.plan.path = format!("{}/v{number}", record.host.plan.root.display()).into();
        if number % 2 == 1 {
            record.host.plan.claims = vec![Claim::Mount(format!("m{number}"))];
        }
        for claim in &record.host.plan.claims {
            world.connected(claim);
        }
        record
    };
    let journal = fill(&dir.path().join("journal.redb"), size, record).await;
    Host {
        engine: world.engine_on(Arc::new(journal)),
        _dir: dir,
    }
}

/// One connect, disconnect and page of a list.
async fn turn(engine: &Engine, times: &mut Times) {
    let request = by_root(connect("bench", "bench", smb("bench")));
    let begun = Instant::now();
    engine.connect(request).await.unwrap();
    times.connect.push(begun.elapsed());

    let begun = Instant::now();
    engine.disconnect(by_root(end("bench"))).await.unwrap();
    times.disconnect.push(begun.elapsed());

    let query = ListQuery {
        limit: 100,
        ..ListQuery::default()
    };
    let query = admit(root(), VolumeOwner::default(), query);
    let begun = Instant::now();
    engine.list(query).await.unwrap();
    times.list.push(begun.elapsed());
}

/// How long a timer was late at most while every record was settled once.
async fn standstill(engine: &Engine) -> Duration {
    const TICK: Duration = Duration::from_millis(1);
    let mut longest = Duration::ZERO;
    let round = reconcile::once(engine);
    tokio::pin!(round);
    loop {
        let begun = Instant::now();
        tokio::select! {
            () = &mut round => return longest,
            () = tokio::time::sleep(TICK) => {
                longest = longest.max(begun.elapsed().saturating_sub(TICK));
            }
        }
    }
}
