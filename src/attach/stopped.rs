//! Guests that are paused since requests to their volumes failed, and go on once these can be read again.
//!
//! ```text
//!          a request fails                      each failed volume is readable
//!   runs ─────────────────▶ paused, IO_STOPPED ───────────────────────────────▶ runs
//!                               ▲      │
//!                               └──────┘ not yet: tried again, after growing pauses
//! ```
//!
//! Invariants: a domain goes on only if the hypervisor says, at that moment, that it is paused for failed requests alone, and each disk that
//! failed is of an attachment here and was read through its connection just before; a domain that somebody paused stays so. What is known here
//! is in memory: after a restart, the first look at the domain finds it paused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::Error;
use super::engine::Engine;
use super::inner::Inner;
use crate::journal::{Key, Record};
use crate::libvirt::{IoStop, ObservedDomain, in_background};
use crate::model::DiskPlan;

/// Pause before the first try, and the longest: each try doubles it.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// A guest that is paused again so soon after it went on has a volume that can be read and fails other requests: pauses go on growing, to a
/// longer one.
const AT_ONCE: Duration = Duration::from_secs(60);
const LONGEST_AT_ONCE: Duration = Duration::from_secs(60);

/// A domain that is paused, or was of late.
#[derive(Debug)]
struct Guest {
    /// When it is tried next; `None`: it is being tried, or goes on.
    next: Option<Instant>,
    pause: Duration,
    /// When it went on last.
    resumed: Option<Instant>,
    /// Whether it was found paused while it was being tried.
    again: bool,
}

impl Guest {
    fn paused_again(&mut self, resumed: Instant) {
        self.pause = match resumed.elapsed() < AT_ONCE {
            true => (self.pause * 2).min(LONGEST_AT_ONCE),
            false => FIRST,
        };
        self.next = Some(Instant::now() + self.pause);
    }
}

/// The paused domains.
#[derive(Debug, Default)]
pub(super) struct StoppedGuests {
    guests: Mutex<HashMap<Uuid, Guest>>,
    noted: Notify,
}

impl StoppedGuests {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the domain is paused, as far as that is not known.
    pub(super) fn note(&self, domain: Uuid) {
        let now = Instant::now();
        let mut guests = self.lock();
        let guest = guests.entry(domain).or_insert(Guest {
            next: Some(now + FIRST),
            pause: FIRST,
            resumed: None,
            again: false,
        });
        match guest.resumed.take() {
            Some(resumed) => guest.paused_again(resumed),
            None => guest.again = guest.next.is_none(),
        }
        self.noted.notify_one();
    }

    /// Waits for the next domain whose time has come, and takes it.
    async fn due(&self) -> Uuid {
        loop {
            let next = {
                let mut guests = self.lock();
                guests.retain(|_, guest| guest.resumed.is_none_or(|it| it.elapsed() < AT_ONCE));
                let next = guests
                    .iter_mut()
                    .filter_map(|(domain, guest)| Some((guest.next?, *domain, guest)))
                    .min_by_key(|(next, domain, _)| (*next, *domain));
                match next {
                    Some((next, domain, guest)) if next <= Instant::now() => {
                        guest.next = None;
                        return domain;
                    }
                    next => next.map(|(next, _, _)| next),
                }
            };
            tokio::select! {
                () = self.noted.notified() => {}
                () = until(next) => {}
            }
        }
    }

    /// Notes how a try ended.
    fn tried(&self, domain: Uuid, outcome: Tried) {
        let mut guests = self.lock();
        let Some(guest) = guests.get_mut(&domain) else {
            return;
        };
        match outcome {
            Tried::Runs => {
                guests.remove(&domain);
            }
            Tried::Resumed if std::mem::take(&mut guest.again) => {
                guest.paused_again(Instant::now());
                self.noted.notify_one();
            }
            Tried::Resumed => guest.resumed = Some(Instant::now()),
            Tried::Waits => {
                guest.next = Some(Instant::now() + guest.pause);
                guest.pause = (guest.pause * 2).min(LONGEST.max(guest.pause));
            }
        }
    }
}

/// Resolves at that time; never without one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Outcome of a try to have a domain go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// It is not paused for failed requests.
    Runs,
    /// It goes on.
    Resumed,
    /// Not yet.
    Waits,
}

impl Engine {
    /// Has domains that are paused for failed requests go on once their volumes can be read. Never ends.
    pub(crate) async fn keep_resuming(&self) {
        let stopped = &self.0.stopped;
        let mut tries = FuturesUnordered::new();
        loop {
            tokio::select! {
                domain = stopped.due() => tries.push(async move {
                    let tried = in_background(self.0.try_resume(domain)).await;
                    (domain, tried)
                }),
                Some((domain, tried)) = tries.next() => {
                    let outcome = tried.unwrap_or_else(|error| {
                        tracing::info!(%domain, reason = %error.reason(), error = %error.chain(), "the guest stays paused");
                        Tried::Waits
                    });
                    if outcome == Tried::Resumed {
                        self.0.figures.resumed.add();
                        tracing::warn!(%domain, "the guest goes on: its volumes can be read again");
                    }
                    stopped.tried(domain, outcome);
                }
            }
        }
    }
}

impl Inner {
    /// Notes what a look at a domain found.
    pub(super) fn note_stop(&self, domain: Uuid, seen: &ObservedDomain) {
        if seen.io_stop.is_some() {
            self.stopped.note(domain);
        }
    }

    /// Has the domain go on, if each volume that failed can be read through its connection.
    async fn try_resume(&self, domain: Uuid) -> Result<Tried, Error> {
        let mut records = self.parts.journal.of(Key::Domain(&domain)).await?;
        records.retain(|record| record.uses_connection());
        let disks: Vec<DiskPlan> = records.iter().map(|record| record.disk.clone()).collect();
        let hypervisor = &self.parts.hypervisor;
        let Some(stop) = hypervisor.observe(domain, &disks).await?.io_stop else {
            return Ok(Tried::Runs);
        };
        let Some(failed) = failed(&stop, &records) else {
            tracing::info!(%domain, "the guest stays paused: a disk failed that no attachment here has");
            return Ok(Tried::Waits);
        };
        let looks = failed.iter().map(|record| self.read_again(record));
        for look in join_all(looks).await {
            look?;
        }
        Ok(match hypervisor.resume(domain, &disks).await? {
            true => Tried::Resumed,
            false => Tried::Waits,
        })
    }

    /// Reads a volume through its connection.
    async fn read_again(&self, record: &Record) -> Result<(), Error> {
        let _turn = self.work.try_reconcile(record)?;
        let backend = self.backends().get(&record.host.plan.protocol)?;
        Ok(backend.inspect(&record.host).await?)
    }
}

/// The records of the failed disks; `None`: another disk failed too, or none is known to have.
fn failed<'r>(stop: &IoStop, records: &'r [Arc<Record>]) -> Option<Vec<&'r Record>> {
    let each = records.iter().zip(&stop.failed);
    let failed: Vec<_> = each
        .filter(|(_, failed)| **failed)
        .map(|(record, _)| record.as_ref())
        .collect();
    (!stop.others && !failed.is_empty()).then_some(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: Uuid = Uuid::from_u128(1);

    /// Pauses until each try of a domain, of which each ends so.
    async fn pauses(outcomes: &[Tried]) -> Vec<u64> {
        let stopped = StoppedGuests::default();
        stopped.note(DOMAIN);
        let mut pauses = Vec::new();
        for outcome in outcomes {
            let began = Instant::now();
            assert_eq!(stopped.due().await, DOMAIN);
            pauses.push(began.elapsed().as_secs());
            stopped.tried(DOMAIN, *outcome);
            if *outcome == Tried::Resumed {
                stopped.note(DOMAIN);
            }
        }
        pauses
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_ten_seconds_and_for_one_that_stops_at_once_to_a_minute() {
        let waits = pauses(&[Tried::Waits; 7]).await;
        assert_eq!(waits, [1, 1, 2, 4, 8, 10, 10]);
        let resumed = pauses(&[Tried::Resumed; 8]).await;
        assert_eq!(resumed, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_ran_for_a_minute_begins_anew() {
        let stopped = StoppedGuests::default();
        stopped.note(DOMAIN);
        stopped.due().await;
        stopped.tried(DOMAIN, Tried::Resumed);
        tokio::time::sleep(AT_ONCE * 2).await;
        stopped.note(DOMAIN);
        let began = Instant::now();
        stopped.due().await;
        assert_eq!(began.elapsed(), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_tried_is_not_tried_beside_that() {
        let stopped = StoppedGuests::default();
        stopped.note(DOMAIN);
        stopped.due().await;
        stopped.note(DOMAIN);
        let next = tokio::time::timeout(AT_ONCE, stopped.due()).await;
        assert!(next.is_err());
        // It went on, and was paused at once, before anybody heard of the first.
        stopped.tried(DOMAIN, Tried::Resumed);
        assert_eq!(stopped.due().await, DOMAIN);
    }
}
