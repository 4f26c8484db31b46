//! The lab: tests on a whole compute node in a virtual machine, which assert on what the *guest* in it sees. See
//! README.md beside this file.
//!
//! Invariants: a test leaves nothing behind, which is checked after each; a test that failed costs its node; none is repeated
//! but where the emulation itself ended its node, which is told; nothing that the lab starts outlives it; a filter that fits no
//! test is an error.
//!
//! It has a runner of its own: all tests that need one kind of node share one, one after the
//! other, and its end must not be left to luck.

mod ad_test;
mod address_test;
mod agent;
mod agent_test;
mod bench;
mod cache;
mod dead_server_test;
mod demo;
mod domains_test;
mod extend_test;
mod fault_test;
mod grpc_test;
mod guest;
mod hostile_test;
mod iscsi_portals_test;
mod iscsi_stale_test;
mod iscsi_test;
mod leftovers;
mod local_test;
mod machine;
mod nfs_servers;
mod nfs_test;
mod node;
mod nvme_servers;
mod nvme_test;
mod permission_test;
mod process;
mod qemu;
mod refusal_test;
mod secret_test;
mod self_test;
mod servers;
mod smb_servers_test;
mod smb_test;
mod targets;
mod unit_test;
mod xen_kill_test;
mod xen_self_test;
mod xen_test;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use machine::Kind;
use node::Node;

/// What a test works with.
pub(crate) struct Lab {
    pub(crate) node: Node,
}

/// A test, by the name that filters look at.
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Lab) -> Result<()>,
}

/// The tests by the node that they need.
const TESTS: &[(Kind, &[&[Test]])] = &[
    (
        Kind::Kvm,
        &[
            self_test::TESTS,
            agent_test::TESTS,
            smb_test::TESTS,
            smb_servers_test::TESTS,
            demo::TESTS,
            refusal_test::TESTS,
            fault_test::TESTS,
            secret_test::TESTS,
            grpc_test::TESTS,
            unit_test::TESTS,
            iscsi_test::TESTS,
            iscsi_stale_test::TESTS,
            iscsi_portals_test::TESTS,
            nfs_test::TESTS,
            address_test::TESTS,
            extend_test::TESTS,
            domains_test::TESTS,
            permission_test::TESTS,
            local_test::TESTS,
            ad_test::TESTS,
            nvme_test::TESTS,
            dead_server_test::TESTS,
            hostile_test::TESTS,
        ],
    ),
    (
        Kind::Xen,
        &[xen_self_test::TESTS, xen_test::TESTS, xen_kill_test::TESTS],
    ),
];

/// Those that take too long for every run.
const SOAK: &[(Kind, &[&[Test]])] = &[(Kind::Xen, &[xen_test::SOAK])];

/// A list's tests, each with the node that it needs.
fn each(
    list: &'static [(Kind, &'static [&'static [Test]])],
) -> impl Iterator<Item = (Kind, &'static Test)> {
    list.iter()
        .flat_map(|(kind, lists)| lists.iter().map(move |tests| (*kind, *tests)))
        .flat_map(|(kind, tests)| tests.iter().map(move |test| (kind, test)))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match *args.as_slice() {
        ["--list"] => {
            each(TESTS).for_each(|(_, test)| println!("{}", test.name));
            Ok(())
        }
        ["--shell"] | ["--shell", "kvm"] => shell(Kind::Kvm),
        ["--shell", "xen"] => shell(Kind::Xen),
        ["--demo"] => demo::run(),
        ["--bench"] => bench::run(),
        ["--bench-client"] => bench::run_client(), // in the node, for --bench
        ["--soak"] => run(each(SOAK), ""),
        [] => run(each(TESTS), ""),
        [filter] if !filter.starts_with('-') => run(each(TESTS), filter),
        _ => Err(anyhow::anyhow!(
            "usage: lab [FILTER | --list | --shell [kvm | xen] | --soak | --demo | --bench]"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs those of the tests whose name contains `filter`. Each kind of node has its own, and its tests run on it one after
/// the other, beside those of the other kind: an emulated node keeps little more than one core busy.
fn run(tests: impl Iterator<Item = (Kind, &'static Test)>, filter: &str) -> Result<()> {
    let tests: Vec<_> = tests
        .filter(|(_, test)| test.name.contains(filter))
        .collect();
    ensure!(
        !tests.is_empty(),
        "no test's name contains {filter:?} (--list names them)"
    );
    let directory = tempfile::tempdir()?;
    let package = agent::package(directory.path())?;
    let of = |kind| -> Vec<&'static Test> {
        let of_kind = tests.iter().filter(|(other, _)| *other == kind);
        of_kind.map(|(_, test)| *test).collect()
    };
    let failed = std::thread::scope(|scope| {
        let [kvm, xen] = [Kind::Kvm, Kind::Xen].map(|kind| {
            let (tests, package) = (of(kind), &package);
            scope.spawn(move || run_on(kind, &tests, package))
        });
        let mut failed = Vec::new();
        for thread in [kvm, xen] {
            let ended = thread.join().map_err(|_| anyhow!("the runner panicked"))?;
            failed.extend(ended?);
        }
        anyhow::Ok(failed)
    })?;
    // In the words of the standard test runner, for those who count.
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored",
        if failed.is_empty() { "ok" } else { "FAILED" },
        tests.len() - failed.len(),
        failed.len()
    );
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Runs the tests on a node of this kind, and on a new one after each that failed: the names of those. Where the emulation
/// ended a node, which says nothing of the test, that one is run once more.
fn run_on(kind: Kind, tests: &[&'static Test], package: &Path) -> Result<Vec<&'static str>> {
    let mut lab: Option<Lab> = None;
    let mut failed = Vec::new();
    for test in tests {
        let mut again = true;
        loop {
            let ready = match lab.take() {
                Some(lab) => lab,
                None => Lab {
                    node: Node::start(kind, package).context("starting the node")?,
                },
            };
            match run_one(test, ready)? {
                Outcome::Passed(kept) => lab = Some(kept),
                Outcome::NodeEnded if again => {
                    println!("        {} is run once more, on a new node", test.name);
                    again = false;
                    continue;
                }
                Outcome::Failed | Outcome::NodeEnded => failed.push(test.name),
            }
            break;
        }
    }
    Ok(failed)
}

/// What became of a test.
enum Outcome {
    /// Here is the node for the next one.
    Passed(Lab),
    Failed,
    /// The emulation ended the node.
    NodeEnded,
}

fn run_one(test: &Test, mut ready: Lab) -> Result<Outcome> {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (test.run)(&ready)))
        .unwrap_or_else(|_| bail!("panicked"))
        .and_then(|()| nothing_left(&ready));
    let seconds = start.elapsed().as_secs_f64();
    let Err(error) = result else {
        println!("ok      {} ({seconds:.1} s)", test.name);
        return Ok(Outcome::Passed(ready));
    };
    let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("lab-logs")
        .join(test.name);
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
    Ok(match by_emulation {
        true => Outcome::NodeEnded,
        false => Outcome::Failed,
    })
}

/// Holds a test to leaving nothing, and takes its servers away.
fn nothing_left(lab: &Lab) -> Result<()> {
    let left = leftovers::find(&lab.node)?;
    ensure!(left.is_empty(), "left over:\n{}", left.join("\n"));
    servers::remove_all(&lab.node)
}

/// Starts a node and says how to log in, until the end of stdin.
fn shell(kind: Kind) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut node = Node::start(kind, &agent::package(directory.path())?)?;
    println!("{}", node.login_command()?);
    eprintln!("lab: the node ends with the end of input (Ctrl-D)");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
