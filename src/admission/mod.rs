//! Decides whether a caller may do what it asks; without its word no work is done.
//!
//! ```text
//!   Actor ─▶ Admission::caller ─▶ Caller ─▶ admit(call, what it is about, request) ─▶ Admitted, or Denied
//!                                             1. who audits reads, and changes nothing
//!                                             2. the floor: what no policy can allow
//!                                             3. the policy's rule of the call
//! ```
//!
//! Invariants: [`Admitted`] has no public constructor, so the saga, which takes nothing else, cannot be reached around
//! this module; a user's roles never count as a service's; one call is decided by one policy, whatever becomes of its
//! files meanwhile; every decision is told, with who, what, on what, and by which rule.

mod caller;
mod object;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

pub use caller::{Caller, Denied};
pub use object::Object;

use tokio::time::Instant;

use crate::model::{Actor, VolumeId, VolumeOwner};
use crate::policy::{PolicyError, PolicyFiles, PolicyStore, ReadPolicy, Rpc};

/// What decides.
#[derive(Debug)]
pub struct Admission {
    policy: PolicyStore,
    audit_role: RwLock<Option<Arc<str>>>,
}

impl Admission {
    /// By this policy. A service alone that has `audit_role` may read everything; `None`: no service alone may do anything.
    #[must_use]
    pub fn new(policy: PolicyStore, audit_role: Option<String>) -> Self {
        Self {
            policy,
            audit_role: RwLock::new(audit_role.map(Arc::from)),
        }
    }

    /// Reads the policy of these files, for [`Self::replace`]. Waits for the disk.
    ///
    /// # Errors
    /// Where a file cannot be read or is refused, or the policy file is gone.
    pub fn read(&self, files: PolicyFiles) -> Result<ReadPolicy, PolicyError> {
        self.policy.read(files)
    }

    /// Decides by this policy from now on, and by `audit_role` as [`Self::new`] has it. Waits for the disk, where the files are looked at.
    pub fn replace(&self, policy: ReadPolicy, audit_role: Option<String>) {
        let mut role = self
            .audit_role
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *role = audit_role.map(Arc::from);
        drop(role);
        self.policy.replace(policy);
    }

    /// Looks whether the policy's files have changed, and waits for the disk.
    pub fn refresh(&self) {
        self.policy.refresh();
    }

    /// A caller, as the policy of this moment sees it.
    pub async fn caller(&self, actor: Actor) -> Caller {
        let role = self
            .audit_role
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Caller::new(actor, self.policy.current(), role.as_deref()).await
    }

    /// The same grant, as the policy of this moment sees its caller: for what goes on while the policy changes.
    pub async fn renewed(&self, grant: Grant) -> Grant {
        let granted = &grant.0;
        if granted.caller.is_by(&self.policy.current()) {
            return grant;
        }
        Grant(Arc::new(Granted {
            caller: Arc::new(self.caller(granted.caller.actor().clone()).await),
            rpc: granted.rpc,
            about: granted.about.clone(),
        }))
    }
}

/// A request that was let in.
#[derive(Debug, Clone)]
pub struct Admitted<T> {
    grant: Grant,
    request: T,
    deadline: Option<Instant>,
}

impl<T> Admitted<T> {
    /// By what it was let in.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What was asked.
    #[must_use]
    pub fn request(&self) -> &T {
        &self.request
    }

    /// The same, for a caller who waits until then; `None`: for ever.
    #[must_use]
    pub fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    /// Until when the caller waits; `None`: for ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// By what it was let in, and what was asked.
    #[must_use]
    pub fn into_parts(self) -> (Grant, T) {
        (self.grant, self.request)
    }

    /// What was asked, taken out.
    #[must_use]
    pub fn into_request(self) -> T {
        self.request
    }
}

/// What somebody was let in by: who, for which call, about what. Clones are the same grant.
#[derive(Debug, Clone)]
pub struct Grant(Arc<Granted>);

#[derive(Debug)]
struct Granted {
    caller: Arc<Caller>,
    rpc: Rpc,
    about: Vec<Object>,
}

impl Grant {
    /// Who asked.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        self.0.caller.actor()
    }

    /// Whether what the caller says of a volume counts.
    #[must_use]
    pub fn may_vouch(&self) -> bool {
        self.0.caller.may_vouch()
    }

    /// Whether what is there now is what the decision was about: between the two, another may have taken the id.
    #[must_use]
    pub fn covers(&self, owner: &VolumeOwner, volume: &VolumeId) -> bool {
        self.0.about.iter().any(|object| {
            object.owner == *owner
                && object
                    .volume
                    .as_ref()
                    .is_none_or(|decided| decided == volume)
        })
    }

    /// Whether the caller may see this one too, of the many that a list or watch is about. Not told for the audit: what is
    /// left out was not asked for.
    ///
    /// # Errors
    /// [`Denied::Undecided`], where there is no answer: who leaves it out would say that it is not there.
    pub async fn sees(&self, object: &Object) -> Result<bool, Denied> {
        match self.0.caller.decide(self.0.rpc, object).await {
            Ok(_) => Ok(true),
            Err(undecided @ Denied::Undecided { .. }) => Err(undecided),
            Err(_) => Ok(false),
        }
    }
}
