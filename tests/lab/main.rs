//! The lab: tests on a whole compute node in a virtual machine, which assert on what the *guest* in it sees. See
//! README.md beside this file.
//!
//! Invariants: a test leaves nothing behind, which is checked after each; a test that failed costs its node; none is repeated
//! but where the emulation itself ended its node, which is told; nothing that the lab starts outlives it; a filter that fits no
//! test is an error.
//!
//! It has a runner of its own (runner.rs): tests that need one kind of node share one, one after the other, and its end must not be
//! left to luck.

mod ad_test;
mod address_test;
mod agent;
mod agent_test;
mod alerts_test;
mod bench;
mod boot_test;
mod cache;
mod cinder_cloud;
mod cinder_test;
mod confined_test;
mod dead_server_test;
mod demo;
mod domains_test;
mod extend_test;
mod fault_test;
mod grpc_test;
mod guest;
mod hostile_test;
mod identity_host_test;
mod identity_nvme_test;
mod identity_test;
mod io_test;
mod iscsi_portals_test;
mod iscsi_stale_test;
mod iscsi_test;
#[allow(clippy::unwrap_used, clippy::expect_used, dead_code)] // as of pki; the tests of tokens use the rest
#[path = "../keystone/fixture.rs"]
mod keystone;
mod kill_test;
mod leftovers;
mod local_test;
mod machine;
mod nfs_servers;
mod nfs_test;
mod node;
mod nvme_paths_test;
mod nvme_servers;
mod nvme_test;
mod package_test;
mod paused_test;
mod permission_test;
#[allow(clippy::unwrap_used)] // Clippy sees no tests here: the runner is the lab's own.
#[path = "../pki/mod.rs"]
mod pki;
mod process;
mod profile;
mod prometheus;
mod qemu;
mod quarantine_test;
mod refusal_test;
mod runner;
mod secret_test;
mod self_test;
mod selinux_test;
mod servers;
mod smb_servers_test;
mod smb_test;
mod standstill_test;
mod targets;
mod unit_test;
mod xen_kill_test;
mod xen_self_test;
mod xen_test;

use std::process::ExitCode;

use anyhow::Result;

use machine::Kind;
use node::Node;
use runner::run;

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
            // The longest first: they would keep one node busy when the other has nothing left to do.
            dead_server_test::TESTS,
            quarantine_test::TESTS,
            alerts_test::TESTS,
            hostile_test::TESTS,
            nvme_test::TESTS,
            nvme_paths_test::TESTS,
            agent_test::TESTS,
            smb_test::TESTS,
            smb_servers_test::TESTS,
            demo::TESTS,
            refusal_test::TESTS,
            fault_test::TESTS,
            secret_test::TESTS,
            grpc_test::TESTS,
            unit_test::TESTS,
            package_test::TESTS,
            iscsi_test::TESTS,
            iscsi_stale_test::TESTS,
            iscsi_portals_test::TESTS,
            identity_test::TESTS,
            identity_host_test::TESTS,
            identity_nvme_test::TESTS,
            nfs_test::TESTS,
            address_test::TESTS,
            extend_test::TESTS,
            domains_test::TESTS,
            permission_test::TESTS,
            local_test::TESTS,
            ad_test::TESTS,
            confined_test::TESTS,
            io_test::TESTS,
            paused_test::TESTS,
        ],
    ),
    (
        Kind::Xen,
        &[
            xen_self_test::TESTS,
            xen_test::TESTS,
            xen_kill_test::TESTS,
            io_test::XEN,
        ],
    ),
    (Kind::XenHvm, &[xen_test::HVM]),
];

/// Those that take too long for every run.
const SOAK: &[(Kind, &[&[Test]])] = &[
    (
        Kind::Kvm,
        &[
            kill_test::SOAK,
            standstill_test::SOAK,
            paused_test::SOAK,
            boot_test::SOAK,
            iscsi_portals_test::SOAK,
            nvme_paths_test::SOAK,
            package_test::SOAK,
            cinder_test::SOAK,
        ],
    ),
    (Kind::Selinux, &[selinux_test::SOAK]),
    (Kind::Xen, &[xen_test::SOAK]),
    (Kind::XenHvm, &[xen_test::HVM_SOAK]),
];

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
        ["--shell", "selinux"] => shell(Kind::Selinux),
        ["--demo"] => demo::run(),
        ["--bench"] => bench::run(),
        ["--bench-client"] => bench::run_client(), // in the node, for --bench
        ["--soak"] => run(each(SOAK), "", None),
        ["--soak", filter] => run(each(SOAK), filter, None),
        [] => run(each(TESTS), "", None),
        ["--shuffle", seed] => run(each(TESTS), "", Some(seed)),
        ["--shuffle", seed, filter] => run(each(TESTS), filter, Some(seed)),
        [filter] if !filter.starts_with('-') => run(each(TESTS), filter, None),
        _ => Err(anyhow::anyhow!(
            "usage: lab [[--shuffle SEED] [FILTER] | --list | --shell [kvm | xen | selinux] | --soak [FILTER] | --demo | --bench]"
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

/// Starts a node and says how to log in, until the end of stdin.
fn shell(kind: Kind) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut node = Node::start(kind, &agent::package(directory.path())?)?;
    println!("{}", node.login_command()?);
    eprintln!("lab: the node ends with the end of input (Ctrl-D)");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
