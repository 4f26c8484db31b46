//! When a guest may be asked again to release a disk.
//!
//! The pauses are measured by the clock of this process, which nobody sets back. The journal has the wall-clock time of the last request for
//! the next process: a time in the future there means that the clock was set since, and the request counts as just made.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::steps::Why;
use crate::journal::{Direction, Record};
use crate::model::AttachmentId;

/// Pause after the first request, and the shortest between two that callers ask for. On some machine types a second request cancels the
/// first (PCIe's attention button, PCI Express Base 6.7.1.5: a press within 5 s takes it back).
const FIRST: Duration = Duration::from_secs(30);
/// Longest pause: each request doubles it.
const LONGEST: Duration = Duration::from_secs(240);
/// Pause after a request that a busy guest did not get: QEMU refuses others for 5 s after one that the guest got
/// (`pending_deleted_expires_ms` in hw/pci/pcie.c and hw/acpi/pcihp.c).
const BUSY: Duration = Duration::from_secs(10);

/// Times of the unplug requests that have no answer, by attachment.
#[derive(Debug, Default)]
pub(super) struct UnplugTimers(Mutex<HashMap<AttachmentId, Timer>>);

#[derive(Debug, Clone, Copy)]
struct Timer {
    /// When the request was made or, if an earlier process made it, first seen.
    since: Instant,
    /// Age of the request at that time.
    age: Duration,
    /// How long after the request the guest is asked again.
    pause: Duration,
    /// Whether the guest has refused: another request cancels nothing.
    refused: bool,
    /// Whether the attachment is being taken down: else the next attach asks again, and nobody before.
    undoing: bool,
}

impl Timer {
    fn remaining(&self, why: Why) -> Duration {
        let pause = match why {
            Why::Asked if self.refused => Duration::ZERO,
            Why::Asked => self.pause.min(FIRST),
            Why::CleanUp => self.pause,
        };
        pause.saturating_sub(self.age.saturating_add(self.since.elapsed()))
    }
}

impl UnplugTimers {
    /// Notes that the guest was asked just now, as the record has it.
    pub(super) fn asked(&self, record: &Record) {
        self.start(record, pause(record.course.unplug_requests()));
    }

    /// Notes that the guest was busy just now.
    pub(super) fn busy(&self, record: &Record) {
        self.start(record, BUSY);
    }

    /// Notes that the guest has refused.
    pub(super) fn refused(&self, id: &AttachmentId) {
        if let Some(timer) = self.lock().get_mut(id) {
            timer.refused = true;
        }
    }

    /// Forgets the requests: answered, or no longer relevant.
    pub(super) fn forget(&self, id: &AttachmentId) {
        self.lock().remove(id);
    }

    /// How long until the guest may be asked; zero: now.
    pub(super) fn remaining(&self, record: &Record, why: Why) -> Duration {
        let Some(requested) = record.course.unplug_requested() else {
            return Duration::ZERO;
        };
        let mut timers = self.lock();
        let timer = timers.entry(record.id.clone()).or_insert_with(|| Timer {
            since: Instant::now(),
            age: SystemTime::now()
                .duration_since(requested)
                .unwrap_or_default(),
            pause: pause(record.course.unplug_requests()),
            refused: false,
            undoing: false,
        });
        timer.undoing = is_undoing(record);
        timer.remaining(why)
    }

    /// The attachments whose guests are to be asked again.
    pub(super) fn due(&self) -> Vec<AttachmentId> {
        let timers = self.lock();
        let due = timers
            .iter()
            .filter(|(_, timer)| timer.undoing && timer.remaining(Why::CleanUp).is_zero());
        due.map(|(id, _)| id.clone()).collect()
    }

    fn start(&self, record: &Record, pause: Duration) {
        let timer = Timer {
            since: Instant::now(),
            age: Duration::ZERO,
            pause,
            refused: false,
            undoing: is_undoing(record),
        };
        self.lock().insert(record.id.clone(), timer);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttachmentId, Timer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_undoing(record: &Record) -> bool {
    record.course.direction() == Direction::Backward
}

/// Pause after so many requests. Records of earlier builds have no count.
fn pause(requests: u32) -> Duration {
    let doublings = requests.saturating_sub(1);
    FIRST
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_some_minutes() {
        let pauses = [0, 1, 2, 3, 4, 5, u32::MAX].map(|requests| pause(requests).as_secs());
        assert_eq!(pauses, [30, 30, 60, 120, 240, 240, 240]);
    }
}
