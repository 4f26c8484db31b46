//! Unplugs that were asked for and are not done: when, and whether the guest refused.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::raw::Event;

/// Before this has passed, an unplug is not asked for again: on a PCIe port a second press of the attention button
/// within 5 s calls the first one off (PCI Express Base Specification, 6.7.1.5).
const ASK_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Asked {
    at: Instant,
    refused: bool,
}

/// Unplugs under way, by domain and alias. Those of an earlier process are not known; QEMU refuses to be asked twice
/// where it can tell.
#[derive(Debug, Default)]
pub(super) struct Unplugs(Mutex<HashMap<(Uuid, String), Asked>>);

impl Unplugs {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Uuid, String), Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an unplug is asked for now; false where it must not be, so soon after the last time.
    pub(super) fn may_ask(&self, domain: Uuid, alias: &str) -> bool {
        let mut asked = self.lock();
        let key = (domain, alias.to_owned());
        let recent = |asked: &Asked| !asked.refused && asked.at.elapsed() < ASK_AGAIN;
        if asked.get(&key).is_some_and(recent) {
            return false;
        }
        asked.insert(
            key,
            Asked {
                at: Instant::now(),
                refused: false,
            },
        );
        true
    }

    /// Whether the last unplug that was asked for was refused.
    pub(super) fn is_refused(&self, domain: Uuid, alias: &str) -> bool {
        let asked = self.lock();
        asked
            .get(&(domain, alias.to_owned()))
            .is_some_and(|asked| asked.refused)
    }

    /// The unplug is done with.
    pub(super) fn forget(&self, domain: Uuid, alias: &str) {
        self.lock().remove(&(domain, alias.to_owned()));
    }

    /// Takes note of an event.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::Removed { domain, alias } => self.forget(*domain, alias),
            Event::RemovalFailed { domain, alias } => {
                if let Some(asked) = self.lock().get_mut(&(*domain, alias.clone())) {
                    asked.refused = true;
                }
            }
            Event::Stopped { domain } => self.lock().retain(|(of, _), _| of != domain),
            Event::Undefined { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unplug_is_not_asked_for_twice_in_a_row() {
        let unplugs = Unplugs::default();
        let domain = Uuid::from_u128(1);
        let alias = "ua-v".to_owned();
        assert!(unplugs.may_ask(domain, &alias));
        assert!(!unplugs.may_ask(domain, &alias));
        assert!(unplugs.may_ask(domain, "ua-w"));

        unplugs.note(&Event::RemovalFailed {
            domain,
            alias: alias.clone(),
        });
        assert!(unplugs.is_refused(domain, &alias));
        assert!(unplugs.may_ask(domain, &alias), "a refusal ends it");
        assert!(!unplugs.is_refused(domain, &alias));

        unplugs.note(&Event::Removed {
            domain,
            alias: alias.clone(),
        });
        assert!(unplugs.may_ask(domain, &alias), "and so does success");
        unplugs.note(&Event::Stopped { domain });
        assert!(unplugs.lock().is_empty());
    }
}
