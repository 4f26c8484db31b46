//! Domains that QEMU paused since a request to a disk failed (libvirt's `error_policy` `stop`, and `enospace` for want of space).
//!
//! Only the state's reason says so (`VIR_DOMAIN_PAUSED_IOERROR`): a domain that somebody paused is never resumed here. Which disks failed is
//! known from events. QEMU is asked right before the domain goes on alone: for the answer it looks at each image (`query-block`), and waits for a
//! server that is silent (seen: longer than libvirt's 30 s, in which every other call on the domain is refused).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;
use virt::domain::{Domain, DomainStateReason};
use virt::enumutil::Enum;
use virt::error::Error;
use virt_sys as sys;

use super::event::{DomainEvent, IoStop};
use super::raw::{self, Event};
use super::view::Devices;
use crate::model::DiskPlan;

/// The disks to which requests failed since their domains ran last, by alias.
#[derive(Debug, Default)]
pub(super) struct FailedDisks(Mutex<HashMap<Uuid, BTreeSet<String>>>);

impl FailedDisks {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an event.
    pub(super) fn note(&self, event: &Event) {
        match event {
            // Without an alias, libvirt does not know the disk.
            Event::IoError { alias, .. } if alias.is_empty() => {}
            Event::IoError { domain, alias } => {
                let mut failed = self.lock();
                failed.entry(*domain).or_default().insert(alias.clone());
            }
            Event::Domain(DomainEvent::DiskGone { domain, alias }) => {
                if let Some(failed) = self.lock().get_mut(domain) {
                    failed.remove(alias);
                }
            }
            Event::Domain(
                DomainEvent::Resumed { domain }
                | DomainEvent::Started { domain }
                | DomainEvent::Stopped { domain, .. },
            ) => {
                self.lock().remove(domain);
            }
            // The domains may have gone on since.
            Event::Domain(DomainEvent::Missed) => self.lock().clear(),
            Event::Domain(_) | Event::Added { .. } | Event::RemovalFailed { .. } => {}
        }
    }

    /// Takes over what QEMU reported, by alias.
    pub(super) fn learn(&self, domain: Uuid, failed: BTreeSet<String>) {
        self.lock().insert(domain, failed);
    }

    /// Why a paused domain is paused, as far as events have reported it: without any, each of the disks may have failed.
    pub(super) fn of(&self, domain: Uuid, disks: &[DiskPlan]) -> IoStop {
        match self.lock().get(&domain) {
            None => IoStop {
                failed: vec![true; disks.len()],
                others: false,
            },
            Some(failed) => IoStop {
                failed: disks.iter().map(|it| failed.contains(&it.alias)).collect(),
                others: failed
                    .iter()
                    .any(|failed| disks.iter().all(|disk| disk.alias != *failed)),
            },
        }
    }
}

/// Whether the domain is paused for a failed request. Asks libvirt alone.
pub(super) fn is_stopped(domain: &Domain) -> Result<bool, Error> {
    let (_, reason) = domain.state()?;
    Ok(matches!(
        reason,
        Enum::Known(DomainStateReason::Paused(reason)) if reason.to_raw() == sys::VIR_DOMAIN_PAUSED_IOERROR
    ))
}

/// Outcome of a call to have a domain go on.
#[derive(Debug)]
pub(super) enum Resumed {
    /// It goes on.
    Runs,
    /// It is not paused for a failed request.
    NotStopped,
    /// Other disks keep it paused: all that failed, by alias, or by target where there is none.
    FailedDisks(BTreeSet<String>),
}

/// Has the domain go on, if these disks alone keep it paused, or none does: the one that failed may be gone.
pub(super) fn resume(domain: &Domain, disks: &[DiskPlan]) -> Result<Resumed, Error> {
    if !is_stopped(domain)? {
        return Ok(Resumed::NotStopped);
    }
    let targets = raw::disk_errors(domain)?;
    let devices = Devices::read(&domain.xml_desc(0)?).unwrap_or_default();
    let failed: BTreeSet<String> = targets
        .into_iter()
        .map(|target| {
            let mut shown = devices.disks.iter();
            let shown = shown.find(|shown| shown.target == target);
            shown.and_then(|it| it.alias.clone()).unwrap_or(target)
        })
        .collect();
    if failed
        .iter()
        .any(|failed| disks.iter().all(|disk| disk.alias != *failed))
    {
        return Ok(Resumed::FailedDisks(failed));
    }
    domain.resume()?;
    Ok(Resumed::Runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dialect, Scope};

    const DOMAIN: Uuid = Uuid::from_u128(1);

    fn disk(alias: &str) -> DiskPlan {
        DiskPlan {
            xml: String::new(),
            alias: alias.to_owned(),
            source: "/v".into(),
            sequence: None,
            target: "vda".to_owned(),
            scope: Scope::Live,
            dialect: Dialect::Qemu,
            left_out: Vec::new(),
        }
    }

    #[test]
    fn failed_disks_are_those_of_events_and_without_events_any_may_be() {
        let failed = FailedDisks::default();
        let disks = [disk("ua-a"), disk("ua-b")];
        let stop = |failed: &[bool], others| IoStop {
            failed: failed.to_vec(),
            others,
        };
        let error = |alias: &str| Event::IoError {
            domain: DOMAIN,
            alias: alias.to_owned(),
        };
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[true, true], false));
        failed.note(&error("ua-b"));
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[false, true], false));
        failed.note(&error(""));
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[false, true], false));
        failed.note(&error("virtio-disk0"));
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[false, true], true));
        let (domain, alias) = (DOMAIN, "ua-b".to_owned());
        failed.note(&Event::Domain(DomainEvent::DiskGone { domain, alias }));
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[false, false], true));
        failed.learn(DOMAIN, BTreeSet::from(["ua-b".to_owned()]));
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[false, true], false));
        failed.note(&Event::Domain(DomainEvent::Resumed { domain: DOMAIN }));
        failed.note(&error("ua-a"));
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[true, false], false));
        failed.note(&Event::Domain(DomainEvent::Missed));
        assert_eq!(failed.of(DOMAIN, &disks), stop(&[true, true], false));
    }
}
