//! The saga: plan (pure) → steps { find, run, undo } → executor.
//!
//! ```text
//! attach   ──▶ connect ──▶ inspect ──▶ attach ──▶ Attached        connect ──▶ connect ──▶ inspect ──▶ Connected
//!                 │           │           │
//!                 ▼           ▼           ▼      a step failed: undo it and those before it, last first
//! detach   ◀── disconnect ◀── · ◀────── unplug ──▶ Attached    the guest refused, or the detach was cancelled
//! ```
//!
//! Invariants:
//! - a step's intent is journaled before it runs, its outcome after; each step can `find` whether it is done, so what a
//!   crash left open is settled by looking;
//! - a refused unplug is not repeated without a call; one that the guest has not answered is, after growing pauses (`timers.rs`);
//! - an undo covers the half-done case; a failed one leaves a record that `list` shows, that a detach tries again, and
//!   that `reconcile` tries again from time to time;
//! - records name the things that attachments share as claims; other holders are looked up in the journal, under a lock per claim that is
//!   held until the outcome is journaled: the last holder, and nobody else, takes the thing down; a claim that the backend guards is locked
//!   by a connect only until its intent is journaled, since the last holder counts it from then on;
//! - access is decided by what the journal says when the new record is put there: of two who come at once, one writes;
//! - a call waits for its turn before anything is begun (`schedule.rs`), and then runs to its end even if its caller goes away;
//! - an attach or connect that comes too late for its caller is undone: the last look at its deadline is right before the plug.

mod access;
mod cancel;
mod changes;
mod diagnose;
mod early;
mod engine;
mod error;
mod expected;
mod extend;
mod feed;
mod figures;
mod forget;
mod guard;
mod inner;
mod io;
mod known;
mod limits;
mod make;
mod observe;
mod orphans;
mod owners;
mod permissions;
mod plan;
mod repair;
mod request;
mod resume;
mod round;
mod saga;
mod schedule;
mod sharing;
mod steps;
mod stopped;
mod timers;
mod work;

pub use access::KnownVolume;
pub use changes::Revision;
pub use diagnose::{Finding, Severity};
pub use engine::Engine;
pub use error::Error;
pub(crate) use error::LATER;
pub use feed::{Event, Feed, Told};
pub use figures::{Census, EngineFigures, Phase, ServerCounts};
pub use forget::{ForgetRequest, Forgotten};
pub use inner::{Parts, Tuning};
pub use io::AttachedDisk;
pub use limits::DiskStats;
pub use observe::{Observed, Reality};
pub(crate) use observe::{reports_stop, told_loss};
pub use orphans::Orphan;
pub use permissions::VolumePermissions;
pub use plan::{AttachPlan, plan_attach};
pub use request::{
    AttachRequest, ConnectRequest, EndRequest, ExtendRequest, Filter, IoLimits, IoTuneRequest,
    ListQuery, PermissionsRequest, WatchRequest,
};
pub use resume::Action;
pub(crate) use round::Looked;
pub use schedule::Full;
