//! volattach: attaches volumes to running virtual machines.
//!
//! A request flows one way: `api` → `auth` → `admission` → `attach` → { `journal`, `backend` → `sys`, `libvirt` },
//! and back as an [`model::Attachment`]. `app` and `cli` put the parts together; nothing imports them.
//! `tests/layering.rs` holds the modules to this.

pub mod admission;
pub mod api;
pub mod app;
pub mod attach;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod config;
pub mod connection;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod journal;
pub mod libvirt;
pub mod model;
pub mod policy;
pub mod reconcile;
pub mod sys;
