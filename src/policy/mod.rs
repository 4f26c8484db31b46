//! Who may do what: rules in the language of oslo.policy, so that operators' policies for OpenStack hold here too.
//!
//! ```text
//!   rules in code ─┐
//!   policy.yaml ───┼─▶ Policy ─▶ decide(rule, credentials, target) ─▶ Decision
//!   policy.d/* ────┘     │
//!                        └─▶ credentials(attributes): is_admin, once per request
//! ```
//!
//! Invariants: what cannot be parsed denies, and what cannot be evaluated denies the whole decision, also beneath `not`;
//! a file in which anything is ambiguous, or whose rules refer to each other in a circle, is refused as a whole, so that a
//! [`Policy`] can always be evaluated, in bounded time and stack; a decision depends on its arguments alone, and on what the
//! servers of its `http:` checks answer: by [`Remote`], since nothing here speaks to the network.

mod check;
mod decide;
mod defaults;
mod error;
mod explain;
mod file;
mod findings;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod layout;
mod limits;
mod parse;
mod python;
mod remote;
mod rules;
mod store;
#[cfg(test)]
mod tests;
mod text;

pub use decide::{Credentials, Decision, Target, Why};
pub use defaults::{DEFAULTS, Deprecated, Privilege, Rpc, RuleDefault, Scope};
pub use error::{Place, PolicyError, Refusal};
pub use explain::Explanation;
pub use findings::Finding;
pub use python::{Attributes, Fault, Value};
pub use remote::{Question, Remote};
pub use rules::{Policy, Sources};
pub use store::{PolicyFiles, PolicyStore, ReadPolicy, Reloaded};
pub use text::{convert, sample};
