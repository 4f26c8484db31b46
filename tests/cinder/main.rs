//! `make cinder-test`: the command line between a real Cinder, which asks a real Keystone, and the daemon's API over fakes.

#![cfg(test)]

mod access;
#[path = "../fakes/mod.rs"]
mod fakes;
mod faults;
mod fixture;
#[path = "../keystone/fixture.rs"]
#[allow(dead_code)] // the tests of tokens use the rest
mod keystone;
mod lifecycle;
mod matrix;
#[path = "../contract/server.rs"]
#[allow(dead_code)] // the tests of the API use the rest
mod server;
#[path = "../socket/mod.rs"]
mod socket;
mod tenant;
mod tokens;

use volattach::model::Dialect;

/// What runs the fakes' domain.
const DIALECT: Dialect = Dialect::Qemu;
const GIB: u64 = 1 << 30;

/// Prints a line although the test that prints it succeeds.
fn report(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}"); // unlike eprintln!, which the harness keeps to itself
}
