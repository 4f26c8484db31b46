//! Plain counters and histograms, which any layer keeps and `app` shows.
//!
//! Invariants: to count never waits for more than a map's lock, and to read takes no lock for longer than a copy; keys are of types with
//! few values (names of calls, phases, reasons), so that memory and labels are bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of a histogram's buckets, in seconds: from a commit on a fast disk to a detach that waits for its guest.
pub const BOUNDS: [f64; 12] = [
    0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number of things that exist now.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// One more exists.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer exists.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// One more exists, until the drop.
    pub fn enter(&self) -> Entered<'_> {
        self.up();
        Entered(self)
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that a [`Level`] counts, until the drop.
#[derive(Debug)]
pub struct Entered<'l>(&'l Level);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.down();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters by key.
#[derive(Debug)]
pub struct Tally<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Copy> Tally<K> {
    /// Adds one to a key.
    pub fn add(&self, key: K) {
        *lock(&self.0).entry(key).or_default() += 1;
    }

    /// The keys that were counted, and how often.
    #[must_use]
    pub fn read(&self) -> BTreeMap<K, u64> {
        lock(&self.0).clone()
    }
}

/// How long things took: how many of them no longer than each of [`BOUNDS`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// By the first bound that was long enough, and beyond the last.
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len())] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// All of them together, in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound of each bucket, the last without one, and how many the bucket has that the one before does not.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS.into_iter().chain([f64::MAX]);
        bounds.zip(self.buckets)
    }
}

/// Histograms by key.
#[derive(Debug)]
pub struct Timings<K>(Mutex<BTreeMap<K, Histogram>>);

impl<K> Default for Timings<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Copy> Timings<K> {
    /// Notes how long something took.
    pub fn note(&self, key: K, took: Duration) {
        lock(&self.0).entry(key).or_default().note(took);
    }

    /// The keys that were noted, each with its histogram.
    #[must_use]
    pub fn read(&self) -> BTreeMap<K, Histogram> {
        lock(&self.0).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_is_long_enough() {
        let timings = Timings::default();
        for millis in [0, 1, 2, 60_000, 60_001] {
            timings.note("a", Duration::from_millis(millis));
        }
        let all = timings.read();
        let filled: Vec<_> = all["a"].buckets().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(0.001, 2), (0.005, 1), (60.0, 1), (f64::MAX, 1)]);
        assert_eq!((all["a"].count(), all["a"].sum()), (5, 120.004));
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn a_level_falls_with_what_it_counts() {
        let level = Level::default();
        let entered = level.enter();
        level.up();
        assert_eq!(level.get(), 2);
        drop(entered);
        level.down();
        assert_eq!(level.get(), 0);
    }
}
