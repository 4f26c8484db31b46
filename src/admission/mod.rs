//! Decides whether a caller may do what it asks; without its word no work is done.
//!
//! Invariant: [`Admitted`] has no public constructor, so the saga, which takes nothing else, cannot be reached around
//! this module.

use crate::model::Actor;

/// A request that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted<T> {
    actor: Actor,
    request: T,
}

impl<T> Admitted<T> {
    /// Who asked.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What was asked.
    #[must_use]
    pub fn request(&self) -> &T {
        &self.request
    }

    /// What was asked, taken out.
    #[must_use]
    pub fn into_request(self) -> T {
        self.request
    }
}

/// Lets in every caller that `auth` let through: root and the configured group.
#[must_use]
pub fn admit<T>(actor: Actor, request: T) -> Admitted<T> {
    Admitted { actor, request }
}
