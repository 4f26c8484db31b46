//! What is known of tokens, for a while, and the questions about them that are under way.
//!
//! Tokens are not kept: an entry is found by a hash under a key that this process made for itself and forgets with it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use crate::model::{HostKey, Secret};

/// The most tokens that are known at a time; a thousand take a megabyte.
const MAX_ENTRIES: usize = 1024;

/// What is known, until the earlier of two times.
struct Entry<T> {
    value: T,
    /// By the clock on the wall, which Keystone's times are of.
    until: SystemTime,
    /// By a clock that nobody sets.
    kept_until: Instant,
}

/// Values by token.
pub(super) struct Cache<T> {
    key: HostKey,
    /// How long a value is kept at most.
    time: Duration,
    entries: Mutex<HashMap<String, Entry<T>>>,
}

impl<T: Clone> Cache<T> {
    pub(super) fn new(key: HostKey, time: Duration) -> Self {
        Self {
            key,
            time,
            entries: Mutex::default(),
        }
    }

    /// By what a token is known, where it was asked about in that way.
    pub(super) fn name(&self, token: &Secret, way: &str) -> String {
        self.key.tag(&[way.as_bytes(), token.expose().as_bytes()])
    }

    /// What is known, and still holds.
    pub(super) fn get(&self, name: &str) -> Option<T> {
        let entries = self.lock();
        let entry = entries.get(name)?;
        entry.holds().then(|| entry.value.clone())
    }

    /// Keeps what was asked about at `asked` and holds `until`.
    pub(super) fn put(&self, name: &str, value: T, asked: Instant, until: SystemTime) {
        let entry = Entry {
            value,
            until,
            kept_until: asked + self.time,
        };
        if !entry.holds() {
            return;
        }
        let mut entries = self.lock();
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, entry| entry.holds());
        }
        if entries.len() >= MAX_ENTRIES {
            let first = entries.iter().min_by_key(|(_, entry)| entry.kept_until);
            if let Some(name) = first.map(|(name, _)| name.clone()) {
                entries.remove(&name);
            }
        }
        entries.insert(name.to_owned(), entry);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry<T>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Entry<T> {
    fn holds(&self) -> bool {
        SystemTime::now() < self.until && Instant::now() < self.kept_until
    }
}

/// Questions under way: whoever asks what is being asked waits for the same answer.
///
/// One that all who wait for it have given up on is no longer under way.
pub(super) struct Flights<T>(Mutex<HashMap<String, WeakShared<BoxFuture<'static, T>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// The answer to the question of that name, which `ask` asks where nobody does.
    pub(super) fn join(
        &self,
        name: &str,
        ask: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Shared<BoxFuture<'static, T>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = flights.get(name).and_then(WeakShared::upgrade);
        if let Some(flight) = under_way.filter(|flight| flight.peek().is_none()) {
            return flight;
        }
        flights.retain(|_, flight| flight.upgrade().is_some());
        let flight = ask().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(name.to_owned(), weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn cache(time: Duration) -> Cache<u32> {
        Cache::new(HostKey::new([1; 32]), time)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_entry_ends_at_the_earlier_of_its_two_bounds() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let cache = cache(MINUTE);
        cache.put("good", 1, now, wall + MINUTE);
        assert_eq!(cache.get("good"), Some(1));
        cache.put("expired", 1, now, wall);
        assert_eq!(cache.get("expired"), None);
        cache.put("old", 1, now.checked_sub(MINUTE).unwrap(), wall + MINUTE);
        assert_eq!(cache.get("old"), None);

        let none = self::cache(Duration::ZERO);
        none.put("good", 1, now, wall + MINUTE);
        assert_eq!(none.get("good"), None, "0 does not mean for ever");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let cache = cache(MINUTE);
        for number in 0..2 * MAX_ENTRIES {
            let asked = now + Duration::from_micros(number as u64);
            cache.put(&number.to_string(), 1, asked, wall + MINUTE);
        }
        assert_eq!(cache.lock().len(), MAX_ENTRIES);
        assert_eq!(cache.get("0"), None);
        assert_eq!(cache.get(&(2 * MAX_ENTRIES - 1).to_string()), Some(1));
    }

    #[test]
    fn a_name_tells_nothing_of_the_token() {
        let cache = cache(MINUTE);
        let token = Secret::from("gAAAA-token");
        let name = cache.name(&token, "a");
        assert!(!name.contains("token"));
        assert_ne!(name, cache.name(&token, "b"));
        assert_ne!(name, cache.name(&Secret::from("gAAAA-token2"), "a"));
    }

    #[tokio::test]
    async fn those_who_ask_the_same_wait_for_one_answer() {
        let flights = Flights::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let asked = asked.clone();
            async move {
                tokio::task::yield_now().await;
                asked.fetch_add(1, Ordering::SeqCst)
            }
            .boxed()
        };
        let (first, second) = (flights.join("a", ask), flights.join("a", ask));
        let other = flights.join("b", ask);
        assert_eq!(futures::join!(first, second), (0, 0));
        assert_eq!(other.await, 1);
        // A question that is answered, or that nobody waits for, is asked anew.
        drop(flights.join("a", ask));
        assert_eq!(flights.join("a", ask).await, 2);
        assert_eq!(flights.0.lock().unwrap().len(), 1);
    }
}
