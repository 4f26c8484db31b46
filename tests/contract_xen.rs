//! The API as its callers see it, where Xen runs the domain.

#![cfg(test)]

#[path = "contract/calls.rs"]
mod calls;
#[path = "contract/cli.rs"]
mod cli;
#[path = "contract/extend.rs"]
mod extend;
mod fakes;
#[path = "contract/limits.rs"]
mod limits;
#[path = "contract/permissions.rs"]
mod permissions;
#[path = "contract/reasons.rs"]
mod reasons;
#[path = "contract/server.rs"]
mod server;
#[path = "contract/services.rs"]
mod services;
mod socket;
#[path = "contract/xen.rs"]
mod xen;

use volattach::model::Dialect;

/// What runs the fakes' domain.
const DIALECT: Dialect = Dialect::Xen;
/// The targets of its first disks.
const TARGETS: [&str; 3] = ["xvda", "xvdb", "xvdc"];
