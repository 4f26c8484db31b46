//! Events of domains, and what is remembered of how domains ended.
//!
//! Events only say when to look; what a look finds decides. How a domain ended is for the words of an error alone: libvirt keeps that of
//! a domain that it still has, and an event alone has that of a domain that is gone.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Ends that are remembered, of the domains that ended last.
const REMEMBERED: usize = 1024;

/// Something that happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainEvent {
    /// The guest let go of a disk, and the disk is gone.
    DiskGone {
        /// The domain.
        domain: Uuid,
        /// The disk's alias.
        alias: String,
    },
    /// The domain runs: it booted, was restored, or arrived from another host.
    Started {
        /// The domain.
        domain: Uuid,
    },
    /// The domain runs on this host no more.
    Stopped {
        /// The domain.
        domain: Uuid,
        /// How it ended.
        end: DomainEnd,
    },
    /// The domain has a persistent configuration: a first one, a changed one, or one by another name.
    Defined {
        /// The domain.
        domain: Uuid,
    },
    /// The domain has no persistent configuration any more, and exists no more unless it runs.
    Undefined {
        /// The domain.
        domain: Uuid,
    },
    /// The domain was paused, since a request to one of its disks failed.
    IoStopped {
        /// The domain.
        domain: Uuid,
    },
    /// The domain goes on after it was paused.
    Resumed {
        /// The domain.
        domain: Uuid,
    },
    /// libvirt was reached again: events of any domain may have been missed.
    Missed,
}

impl DomainEvent {
    /// Whether a wait for that device should look again.
    pub(super) fn concerns(&self, of: Uuid, device: &str) -> bool {
        match self {
            Self::DiskGone { domain, alias } => *domain == of && alias == device,
            Self::Started { domain }
            | Self::Stopped { domain, .. }
            | Self::Defined { domain }
            | Self::Undefined { domain } => *domain == of,
            Self::IoStopped { .. } | Self::Resumed { .. } => false,
            Self::Missed => true,
        }
    }
}

/// How a domain ended on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainEnd {
    /// It was shut off: by its guest, or by somebody on this host.
    ShutOff,
    /// It crashed: its guest did, or its QEMU ended without a word.
    Crashed,
    /// It was migrated to another host.
    Migrated,
    /// Its state was saved, and it goes on from there when it is started.
    Saved,
    /// Its persistent configuration was removed.
    Undefined,
}

/// What happened to the domain, as the verb of a sentence about it.
impl fmt::Display for DomainEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShutOff => "was shut off",
            Self::Crashed => "crashed",
            Self::Migrated => "was migrated to another host",
            Self::Saved => "was saved",
            Self::Undefined => "was undefined",
        })
    }
}

/// One look at a domain for some disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedDomain {
    /// Its name now; `None`: no such domain exists on this host.
    pub name: Option<String>,
    /// Whether it runs (paused is running), if the disks are of a running domain.
    pub running: bool,
    /// How it ended last, as far as that is known and not every disk was seen in it since.
    pub end: Option<DomainEnd>,
    /// Whether every configuration in a disk's scope has the disk as [`super::Hypervisor::plug`] left it, in the order of the disks.
    pub plugged: Vec<bool>,
    /// The failed disks of a domain that is paused since a request to a disk failed; `None`: it is not paused for that.
    pub io_stop: Option<IoStop>,
}

/// Why a domain is paused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IoStop {
    /// Whether requests to a disk failed, or may have, in the order of the disks asked for.
    pub failed: Vec<bool>,
    /// Whether requests to some other disk failed.
    pub others: bool,
}

impl ObservedDomain {
    /// Whether the domain is paused since requests to the disk at that place failed.
    #[must_use]
    pub fn is_stopped_by(&self, place: usize) -> bool {
        let stop = self.io_stop.as_ref();
        stop.is_some_and(|stop| stop.failed.get(place) == Some(&true))
    }

    /// Whether the domain has left this host: it exists here no more, or runs on another host and left its configuration here.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.name.is_none() || !self.running && self.end == Some(DomainEnd::Migrated)
    }
}

/// An end that is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remembered {
    number: u64,
    domain: Uuid,
    /// How the domain ended.
    pub(super) end: DomainEnd,
}

/// The last ends, by domain, the newest last.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<LastEnds>);

#[derive(Debug, Default)]
struct LastEnds {
    ends: VecDeque<Remembered>,
    /// Number of the next end. Counted apart from the ends, so that a number is not used again once its end is forgotten.
    next: u64,
}

impl Ends {
    fn lock(&self) -> MutexGuard<'_, LastEnds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an event.
    pub(super) fn note(&self, event: &DomainEvent) {
        match event {
            DomainEvent::Stopped { domain, end } => self.put(*domain, *end),
            DomainEvent::Undefined { domain } => {
                // A migration removes the configuration last.
                if self.of(*domain).map(|it| it.end) != Some(DomainEnd::Migrated) {
                    self.put(*domain, DomainEnd::Undefined);
                }
            }
            // A disk that goes now does not go by that end.
            DomainEvent::DiskGone { domain, .. } => {
                self.lock().ends.retain(|it| it.domain != *domain);
            }
            // Xen's toolstack starts a rebooting domain before libvirt sends that it stopped.
            DomainEvent::Started { .. }
            | DomainEvent::Defined { .. }
            | DomainEvent::IoStopped { .. }
            | DomainEvent::Resumed { .. }
            | DomainEvent::Missed => {}
        }
    }

    fn put(&self, domain: Uuid, end: DomainEnd) {
        let mut last = self.lock();
        let number = last.next;
        last.next += 1;
        let ends = &mut last.ends;
        ends.retain(|it| it.domain != domain);
        if ends.len() == REMEMBERED {
            ends.pop_front();
        }
        ends.push_back(Remembered {
            number,
            domain,
            end,
        });
    }

    /// The last end of the domain.
    pub(super) fn of(&self, domain: Uuid) -> Option<Remembered> {
        let last = self.lock();
        last.ends.iter().find(|it| it.domain == domain).copied()
    }

    /// Forgets that end, which explains nothing any more: the domain has all its disks. A later one stays.
    pub(super) fn forget(&self, end: Remembered) {
        self.lock().ends.retain(|it| it.number != end.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: Uuid = Uuid::from_u128(1);

    fn stopped(domain: Uuid, end: DomainEnd) -> DomainEvent {
        DomainEvent::Stopped { domain, end }
    }

    #[test]
    fn the_last_end_counts_and_a_migration_more_than_what_it_undefines() {
        let (domain, ends) = (DOMAIN, Ends::default());
        let last = || ends.of(DOMAIN).map(|it| it.end);
        ends.note(&stopped(domain, DomainEnd::Crashed));
        ends.note(&stopped(Uuid::nil(), DomainEnd::Saved));
        assert_eq!(last(), Some(DomainEnd::Crashed));
        ends.note(&DomainEvent::Undefined { domain });
        assert_eq!(last(), Some(DomainEnd::Undefined));
        ends.note(&stopped(domain, DomainEnd::Migrated));
        ends.note(&DomainEvent::Undefined { domain });
        assert_eq!(last(), Some(DomainEnd::Migrated));
        ends.note(&DomainEvent::Started { domain });
        assert_eq!(last(), Some(DomainEnd::Migrated));
        let alias = "ua-v".to_owned();
        ends.note(&DomainEvent::DiskGone { domain, alias });
        assert_eq!(last(), None);
        assert!(ends.of(Uuid::nil()).is_some());
    }

    #[test]
    fn an_end_that_came_since_is_not_forgotten() {
        let ends = Ends::default();
        ends.note(&stopped(DOMAIN, DomainEnd::ShutOff));
        let first = ends.of(DOMAIN).unwrap();
        ends.note(&stopped(DOMAIN, DomainEnd::ShutOff));
        ends.forget(first);
        let second = ends.of(DOMAIN).unwrap();
        ends.forget(second);
        assert!(ends.of(DOMAIN).is_none());
    }

    #[test]
    fn an_end_is_not_forgotten_by_the_number_of_one_that_is_forgotten_already() {
        let ends = Ends::default();
        ends.note(&stopped(DOMAIN, DomainEnd::ShutOff));
        let first = ends.of(DOMAIN).unwrap();
        ends.forget(first);
        ends.note(&stopped(DOMAIN, DomainEnd::Crashed));
        // Two looks at the domain may both have seen the first.
        ends.forget(first);
        assert!(ends.of(DOMAIN).is_some());
    }

    #[test]
    fn only_the_newest_ends_are_remembered() {
        let ends = Ends::default();
        for number in 0..=REMEMBERED {
            let domain = Uuid::from_u128(number as u128);
            ends.note(&stopped(domain, DomainEnd::ShutOff));
        }
        assert!(ends.of(Uuid::from_u128(0)).is_none());
        assert!(ends.of(Uuid::from_u128(1)).is_some());
        assert_eq!(ends.lock().ends.len(), REMEMBERED);
    }
}
