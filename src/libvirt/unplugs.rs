//! Unplugs that this process asked for and that are not done, and whether the guest refused them: the refusal comes
//! as an event, perhaps before anybody waits for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::event::DomainEvent;
use super::raw::Event;

/// Unplugs under way, by domain and alias, and whether each was refused.
#[derive(Debug, Default)]
pub(super) struct Unplugs(Mutex<HashMap<(Uuid, String), bool>>);

impl Unplugs {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Uuid, String), bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unplug is asked for now; what became of an earlier one counts no more.
    pub(super) fn ask(&self, domain: Uuid, alias: &str) {
        self.lock().insert((domain, alias.to_owned()), false);
    }

    /// Whether the unplug that was asked for last was refused.
    pub(super) fn is_refused(&self, domain: Uuid, alias: &str) -> bool {
        let asked = self.lock();
        asked.get(&(domain, alias.to_owned())).copied() == Some(true)
    }

    /// The unplug is done with.
    pub(super) fn forget(&self, domain: Uuid, alias: &str) {
        self.lock().remove(&(domain, alias.to_owned()));
    }

    /// Takes note of an event. Refusals of what this process did not ask for are not its business.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::Domain(DomainEvent::DiskGone { domain, alias }) => self.forget(*domain, alias),
            Event::RemovalFailed { domain, alias } => {
                if let Some(refused) = self.lock().get_mut(&(*domain, alias.clone())) {
                    *refused = true;
                }
            }
            Event::Domain(DomainEvent::Stopped { domain, .. }) => {
                self.lock().retain(|(of, _), _| of != domain);
            }
            Event::Domain(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::DomainEnd;

    #[test]
    fn a_refusal_counts_until_it_is_asked_again() {
        let unplugs = Unplugs::default();
        let domain = Uuid::from_u128(1);
        let failed = |alias: &str| Event::RemovalFailed {
            domain,
            alias: alias.to_owned(),
        };
        unplugs.ask(domain, "ua-v");
        unplugs.note(&failed("ua-v"));
        unplugs.note(&failed("ua-other"));
        assert!(unplugs.is_refused(domain, "ua-v"));
        assert!(!unplugs.is_refused(domain, "ua-other"));
        assert!(!unplugs.is_refused(Uuid::nil(), "ua-v"));

        unplugs.ask(domain, "ua-v");
        assert!(!unplugs.is_refused(domain, "ua-v"));
        let end = DomainEnd::ShutOff;
        unplugs.note(&Event::Domain(DomainEvent::Stopped { domain, end }));
        assert!(unplugs.lock().is_empty());
    }
}
