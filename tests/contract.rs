//! The API as its callers see it: the real server on a unix socket, over fakes of the three traits.

#![cfg(test)]

#[path = "hostile/call.rs"]
mod call;
#[path = "contract/calls.rs"]
mod calls;
#[path = "contract/cinder.rs"]
mod cinder;
#[path = "contract/cli.rs"]
mod cli;
#[path = "contract/doctor.rs"]
mod doctor;
#[path = "contract/extend.rs"]
mod extend;
mod fakes;
#[path = "hostile/fields.rs"]
mod fields;
#[path = "contract/figures.rs"]
mod figures;
#[path = "contract/forget.rs"]
mod forget;
#[path = "contract/hostile.rs"]
mod hostile;
#[path = "contract/iotune.rs"]
mod iotune;
#[path = "contract/limits.rs"]
mod limits;
#[path = "contract/page.rs"]
mod page;
#[path = "contract/permissions.rs"]
mod permissions;
#[path = "contract/qemu.rs"]
mod qemu;
#[path = "contract/reasons.rs"]
mod reasons;
#[path = "contract/server.rs"]
mod server;
#[path = "contract/services.rs"]
mod services;
mod socket;
#[path = "contract/watch.rs"]
mod watch;

use volattach::model::Dialect;

/// What runs the fakes' domain.
const DIALECT: Dialect = Dialect::Qemu;
/// The targets of its first disks.
const TARGETS: [&str; 3] = ["vda", "vdb", "vdc"];
