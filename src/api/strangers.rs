//! How much is told of callers who are not known: so many lines at a time, because nothing else bounds what a stranger can have written.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines in a [`WINDOW`].
const LINES: u64 = 100;

/// The time after which there may be as many again.
const WINDOW: Duration = Duration::from_secs(10);

/// Counts what is told.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    told: u64,
    left_out: u64,
}

impl Strangers {
    /// Whether the next one is told: how many before it were left out. `None`: it is left out too.
    pub(super) fn tell(&self) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| began.elapsed() >= WINDOW) {
            window.began = Some(Instant::now());
            window.told = 0;
        }
        if window.told == LINES {
            window.left_out += 1;
            return None;
        }
        window.told += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_are_told_at_a_time_and_how_many_were_not() {
        let strangers = Strangers::default();
        assert!((0..LINES).all(|_| strangers.tell() == Some(0)));
        assert!((0..7).all(|_| strangers.tell().is_none()));
        tokio::time::advance(WINDOW).await;
        assert_eq!(strangers.tell(), Some(7));
        assert_eq!(strangers.tell(), Some(0));
    }
}
