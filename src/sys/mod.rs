//! The system below: mounts, the mount table, safe opening of files, the resolver, worker processes.
//!
//! Invariants: nothing here depends on the rest of the project but on its type for a device's identity; everything that may hang on a dead
//! server is a [`worker::Job`], which runs in a short-lived process with a deadline; a secret reaches a worker through a pipe alone.

pub mod beneath;
pub mod block;
pub mod exec;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod inherited;
pub mod loop_device;
pub mod mount;
pub mod mountinfo;
pub mod nvme;
pub mod peer;
mod resolver;
pub mod scsi;
pub mod shares;
mod stamp;
pub mod worker;

pub use inherited::inherited_sockets;
pub use resolver::Resolver;
pub use stamp::{Stamp, Watched};
