//! The saga: plan (pure) → steps { find, run, undo } → executor.

mod request;

pub use request::{AttachRequest, ConnectRequest};

use crate::model::{AccessDecision, Attachment, DiskPlan, DomainRef, HostPlan, State, VolumeId};

/// What an attach would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    /// Read-only or read-write, and why.
    pub access: AccessDecision,
    /// The steps in order: name, and what it does on what.
    pub steps: Vec<(&'static str, String)>,
    /// The host's side.
    pub host: HostPlan,
    /// The domain's side.
    pub disk: DiskPlan,
}

/// Which attachments a list or watch is about; `None` matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// On this domain.
    pub domain: Option<DomainRef>,
    /// Of this volume.
    pub volume: Option<VolumeId>,
    /// In this state.
    pub state: Option<State>,
}

impl Filter {
    /// Whether the attachment matches.
    #[must_use]
    pub fn matches(&self, attachment: &Attachment) -> bool {
        let domain = match (&self.domain, &attachment.domain) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(DomainRef::Uuid(uuid)), Some(domain)) => domain.uuid == *uuid,
            (Some(DomainRef::Name(name)), Some(domain)) => domain.name == *name,
        };
        domain
            && self
                .volume
                .as_ref()
                .is_none_or(|volume| *volume == attachment.volume)
            && self.state.is_none_or(|state| state == attachment.state)
    }
}
