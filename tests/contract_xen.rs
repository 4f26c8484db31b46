//! The API as its callers see it, where Xen runs the domain.

#![cfg(test)]

#[path = "contract/calls.rs"]
mod calls;
#[path = "contract/cli.rs"]
mod cli;
#[path = "contract/extend.rs"]
mod extend;
mod fakes;
#[path = "contract/reasons.rs"]
mod reasons;
#[path = "contract/server.rs"]
mod server;
#[path = "contract/services.rs"]
mod services;

use volattach::model::Dialect;

/// What runs the fakes' domain.
const DIALECT: Dialect = Dialect::Xen;
