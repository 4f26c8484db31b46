//! Guests that are paused since requests to their volumes failed, and go on once these are there again.
//!
//! ```text
//!          a request fails                     each failed volume is there again
//!   runs ─────────────────▶ paused, IO_STOPPED ───────────────────────────────▶ runs
//!                               ▲      │
//!                               └──────┘ not yet: tried again, after growing pauses
//! ```
//!
//! Invariants: a domain goes on only if the hypervisor reports, at that moment, that it is paused for failed requests alone, and each disk that
//! failed is an attachment's and was read through its connection just before; a domain that somebody paused while it ran
//! stays paused. The table of paused domains is in memory: after a restart, the first look at each domain fills it again.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::Error;
use super::engine::Engine;
use super::inner::Inner;
use crate::journal::{Key, Record, Step};
use crate::libvirt::{ObservedDomain, in_background};
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
    /// Whether the log has why it stays paused.
    reported: bool,
    /// Whether it was found paused: else it is suspected alone.
    found: bool,
}

/// Domains that are paused.
pub(super) struct PausedDomains(HashSet<Uuid>);

impl PausedDomains {
    /// Whether the record's guest is paused.
    pub(super) fn has(&self, record: &Record) -> bool {
        let domain = record.domain.as_ref();
        domain.is_some_and(|domain| self.0.contains(&domain.uuid))
    }
}

impl Guest {
    fn new() -> Self {
        Self {
            next: Some(Instant::now() + FIRST),
            pause: FIRST,
            resumed: None,
            again: false,
            reported: false,
            found: false,
        }
    }

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

    /// Adds a domain that may be paused, unless it is in the table.
    pub(super) fn suspect(&self, domain: Uuid) {
        self.lock().entry(domain).or_insert_with(Guest::new);
        self.noted.notify_one();
    }

    /// The domains that were found paused, and have not gone on since.
    pub(super) fn paused(&self) -> PausedDomains {
        let guests = self.lock();
        let paused = guests
            .iter()
            .filter(|(_, it)| it.found && it.resumed.is_none());
        PausedDomains(paused.map(|(domain, _)| *domain).collect())
    }

    /// Notes that the domain that is being tried is paused.
    fn found(&self, domain: Uuid) {
        if let Some(guest) = self.lock().get_mut(&domain) {
            guest.found = true;
        }
    }

    /// Notes that the domain was found paused.
    pub(super) fn note(&self, domain: Uuid) {
        let mut guests = self.lock();
        let guest = guests.entry(domain).or_insert_with(Guest::new);
        guest.found = true;
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

    /// Notes how a try ended; returns whether the log lacks why the domain stays paused.
    fn tried(&self, domain: Uuid, outcome: Tried) -> bool {
        let mut guests = self.lock();
        let Some(guest) = guests.get_mut(&domain) else {
            return false;
        };
        let again = std::mem::take(&mut guest.again);
        match outcome {
            Tried::Runs if again => guest.next = Some(Instant::now() + FIRST),
            Tried::Runs => {
                guests.remove(&domain);
                return false;
            }
            Tried::Resumed if again => guest.paused_again(Instant::now()),
            Tried::Resumed => guest.resumed = Some(Instant::now()),
            Tried::Waits => {
                guest.next = Some(Instant::now() + guest.pause);
                guest.pause = (guest.pause * 2).min(LONGEST.max(guest.pause));
                return !std::mem::replace(&mut guest.reported, true);
            }
        }
        guest.reported = false;
        false
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
    /// Has domains that are paused for failed requests go on once their volumes are there again. Never ends.
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
                    let (outcome, why) = match tried {
                        Ok(outcome) => (outcome, None),
                        Err(error) => (Tried::Waits, Some(error)),
                    };
                    if outcome == Tried::Resumed {
                        self.0.figures.resumed.add();
                        tracing::warn!(%domain, "the guest goes on: its volumes can be read again");
                    }
                    if stopped.tried(domain, outcome) {
                        let why = why.map_or_else(|| "a disk failed that no attachment here has".to_owned(), |error| error.chain());
                        tracing::warn!(%domain, why, "the guest stays paused for now");
                    }
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
        records.retain(|record| record.progress(Step::Attach).is_some());
        let disks: Vec<DiskPlan> = records.iter().map(|record| record.disk.clone()).collect();
        let hypervisor = &self.parts.hypervisor;
        let seen = hypervisor.observe(domain, &disks).await?;
        let Some(stop) = &seen.io_stop else {
            return Ok(Tried::Runs);
        };
        self.stopped.found(domain);
        if stop.others {
            return Ok(Tried::Waits);
        }
        let mut read = Vec::new();
        for (place, record) in records.iter().enumerate() {
            // Without news of which disks failed, each that the domain has may have.
            if seen.is_stopped_by(place) && seen.plugged.get(place) == Some(&true) {
                self.read_again(record).await?;
                read.push(record.disk.clone());
            }
        }
        Ok(match hypervisor.resume(domain, &read).await? {
            true => Tried::Resumed,
            false => Tried::Waits,
        })
    }

    /// Reads a volume through its connection, unless a call works on the attachment.
    async fn read_again(&self, record: &Record) -> Result<(), Error> {
        if self.busy.has(&record.id) {
            let (id, state) = (record.id.clone(), "another call");
            return Err(Error::InProgress { id, state });
        }
        let _turn = self.work.try_reconcile(record)?;
        let backend = self.backends().get(&record.host.plan.protocol)?;
        Ok(backend.read(&record.host).await?)
    }
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
    async fn a_suspect_is_paused_once_it_was_found_so() {
        let stopped = StoppedGuests::default();
        let is_paused = || stopped.paused().0.contains(&DOMAIN);
        stopped.suspect(DOMAIN);
        assert!(!is_paused());
        stopped.note(DOMAIN);
        assert!(is_paused());
        stopped.due().await;
        stopped.tried(DOMAIN, Tried::Resumed);
        assert!(!is_paused());
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
