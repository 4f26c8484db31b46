//! The lab: tests on a whole compute node in a virtual machine, which assert on what the *guest* in it sees. See
//! README.md beside this file.
//!
//! Invariants: a test leaves nothing behind, which is checked after each; a test that failed costs its node;
//! nothing that the lab starts outlives it; a filter that fits no test is an error.
//!
//! It has a runner of its own: all tests that need one kind of node share one, one after the other, and its end must not be left to luck.

mod ad_test;
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
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

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

/// The tests by the node that they need. No two nodes run at once.
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
            extend_test::TESTS,
            domains_test::TESTS,
            local_test::TESTS,
            ad_test::TESTS,
            nvme_test::TESTS,
            dead_server_test::TESTS,
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

/// Runs those of the tests whose name contains `filter`.
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
    let mut lab: Option<Lab> = None;
    let mut failed = Vec::new();
    for (kind, test) in &tests {
        // Where it is of another kind, it ends here.
        let ready = match lab.take().filter(|lab| lab.node.kind == *kind) {
            Some(lab) => lab,
            None => Lab {
                node: Node::start(*kind, &package).context("starting the node")?,
            },
        };
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (test.run)(&ready)))
            .unwrap_or_else(|_| bail!("panicked"))
            .and_then(|()| nothing_left(&ready));
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("ok      {} ({seconds:.1} s)", test.name);
                lab = Some(ready);
            }
            Err(error) => {
                println!("FAILED  {} ({seconds:.1} s): {error:#}", test.name);
                let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
                    .with_file_name("lab-logs")
                    .join(test.name);
                match ready.node.fetch_logs(&logs) {
                    Ok(()) => println!("        logs: {}", logs.display()),
                    Err(error) => println!("        no logs: {error:#}"),
                }
                failed.push(test.name);
            }
        }
    }
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
