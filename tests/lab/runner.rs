//! Runs tests on nodes, side by side and in any order, and holds each to leaving nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::{
    Lab, Test, agent, leftovers,
    machine::Kind,
    node::Node,
    profile::{self, Profile},
    servers,
};

/// The nodes that run at the same time: each does the tests of its kinds, one kind after the other, and is a new node for each.
/// An emulated node keeps little more than one core busy, and those of Xen are done first: a second KVM node takes its tests
/// from the same queue then.
const NODES: [&[Kind]; 2] = [
    &[Kind::Kvm],
    &[Kind::XenHvm, Kind::Xen, Kind::Selinux, Kind::Kvm],
];

/// The node of a machine with one processor, where two would each be too slow for the tests' deadlines.
const ONE_NODE: [&[Kind]; 1] = [&[Kind::XenHvm, Kind::Xen, Kind::Selinux, Kind::Kvm]];

/// The tests that are left to do, by the node that they need.
type Queues = BTreeMap<Kind, Mutex<VecDeque<&'static Test>>>;

/// What one of the [`NODES`] did.
#[derive(Default)]
struct Done {
    /// Which tests failed, and why, a line each: a log of the whole run may have kept its end alone.
    failed: Vec<String>,
    profiles: Vec<Profile>,
}

/// Runs those of the tests whose name contains `filter`, in their own order or, with a seed, in one that the seed makes.
pub(crate) fn run(
    tests: impl Iterator<Item = (Kind, &'static Test)>,
    filter: &str,
    shuffle: Option<&str>,
) -> Result<()> {
    let mut tests: Vec<_> = tests
        .filter(|(_, test)| test.name.contains(filter))
        .collect();
    ensure!(
        !tests.is_empty(),
        "no test's name contains {filter:?} (--list names them)"
    );
    if let Some(seed) = shuffle {
        println!("lab: in the order of SHUFFLE={seed}");
        tests.sort_by_cached_key(|(_, test)| Sha256::digest(format!("{seed}\n{}", test.name)));
    }
    let number = tests.len();
    let mut queues = Queues::new();
    for (kind, test) in tests {
        let queue = queues.entry(kind).or_default();
        let queue = queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(test);
    }
    let directory = tempfile::tempdir()?;
    let package = agent::package(directory.path())?;
    let (queues, package) = (&queues, package.as_path());
    let mut all = Done::default();
    std::thread::scope(|scope| {
        let nodes: &[&[Kind]] = match std::thread::available_parallelism()?.get() {
            1 => &ONE_NODE,
            _ => &NODES,
        };
        let nodes: Vec<_> = nodes
            .iter()
            .map(|kinds| scope.spawn(move || run_on_each(kinds, queues, package)))
            .collect();
        for node in nodes {
            let done = node.join().map_err(|_| anyhow!("the runner panicked"))??;
            all.failed.extend(done.failed);
            all.profiles.extend(done.profiles);
        }
        anyhow::Ok(())
    })?;
    let times = target().join("test-logs/lab-times.tsv");
    profile::write(&all.profiles, &times)?;
    println!(
        "\n{}\nall of it: {}",
        profile::table(&all.profiles)?,
        times.display()
    );
    // In the words of the standard test runner, for those who count.
    let failed = all.failed;
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored",
        if failed.is_empty() { "ok" } else { "FAILED" },
        number - failed.len(),
        failed.len()
    );
    ensure!(failed.is_empty(), "failed:\n  {}", failed.join("\n  "));
    Ok(())
}

fn run_on_each(kinds: &[Kind], queues: &Queues, package: &Path) -> Result<Done> {
    let mut done = Done::default();
    for kind in kinds {
        if let Some(queue) = queues.get(kind) {
            run_on(*kind, queue, package, &mut done)?;
        }
    }
    Ok(done)
}

/// Runs the queue's tests on a node of this kind, and on a new one after each that failed. Where the emulation ended a node, which
/// says nothing of the test, that one is run once more.
fn run_on(
    kind: Kind,
    queue: &Mutex<VecDeque<&'static Test>>,
    package: &Path,
    done: &mut Done,
) -> Result<()> {
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    let mut lab: Option<Lab> = None;
    while let Some(test) = next() {
        let mut again = true;
        loop {
            let start = Instant::now();
            let ready = match lab.take() {
                Some(lab) => lab,
                None => Lab {
                    node: Node::start(kind, package).context("starting the node")?,
                },
            };
            let outcome = run_one(test, ready)?;
            let profile = profile::take(kind, test.name, start.elapsed());
            done.profiles.push(profile);
            match outcome {
                Outcome::Passed(kept) => lab = Some(*kept),
                Outcome::NodeEnded(_) if again => {
                    println!("        {} is run once more, on a new node", test.name);
                    again = false;
                    continue;
                }
                Outcome::Failed(why) | Outcome::NodeEnded(why) => {
                    done.failed.push(format!("{}: {why}", test.name));
                }
            }
            break;
        }
    }
    Ok(())
}

/// Where logs are kept, also if what is built goes elsewhere.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

/// The outcome of a test.
enum Outcome {
    /// With the node, for the next test.
    Passed(Box<Lab>),
    /// With the reason, in a line.
    Failed(String),
    /// The emulation ended the node; with what the test then failed by.
    NodeEnded(String),
}

fn run_one(test: &Test, mut ready: Lab) -> Result<Outcome> {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (test.run)(&ready)))
        .unwrap_or_else(|_| bail!("panicked"))
        .and_then(|()| nothing_left(&ready));
    let seconds = start.elapsed().as_secs_f64();
    let Err(error) = result else {
        println!("ok      {} ({seconds:.1} s)", test.name);
        return Ok(Outcome::Passed(Box::new(ready)));
    };
    let logs = target().join("lab-logs").join(test.name);
    let fetched = ready.node.fetch_logs(&logs);
    let end = ready.node.ended()?;
    let by_emulation = end.as_ref().is_some_and(|end| end.by_emulation);
    let word = if by_emulation { "ENDED " } else { "FAILED" };
    println!("{word}  {} ({seconds:.1} s): {error:#}", test.name);
    match fetched {
        Ok(()) => println!("        logs: {}", logs.display()),
        Err(error) => println!("        no logs: {error:#}"),
    }
    if let Some(end) = end {
        println!("        the node itself ended: {}", end.told);
    }
    let why = format!("{error:#}").replace('\n', "; ");
    let why = why.chars().take(300).collect();
    Ok(match by_emulation {
        true => Outcome::NodeEnded(why),
        false => Outcome::Failed(why),
    })
}

/// Holds a test to leaving nothing, and takes its servers away.
fn nothing_left(lab: &Lab) -> Result<()> {
    let left = leftovers::find(&lab.node, leftovers::SESSIONS_END)?;
    ensure!(left.is_empty(), "left over:\n{}", left.join("\n"));
    servers::remove_all(&lab.node)
}
