//! Servers that fell silent, and when each is asked for a sign of life: pure, and told the time.
//!
//! ```text
//!                silence          another, of an operation begun after the first
//!   (unknown) ───────────▶ Suspect ───────────▶ Quarantined ◀──────┐
//!       ▲                     │                  │   │ probe: silence, the pause grows
//!       │     an answer       │    an answer     │   └─────────────┘
//!       └─────────────────────┴◀─────────────────┘
//! ```
//!
//! The first probe comes at once: a server that gives a sign of life while one of its volumes hangs is kept from nobody. A suspicion is
//! forgotten after [`MEMORY`]. A silence counts only if its operation began after the one before was noted: fifty calls that wait for a
//! server at the same time are one silence.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::Server;

/// Pauses after the first silent probe, the second and so on; the last repeats.
pub(super) const PAUSES: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(60),
];

/// Time after which a suspicion is forgotten.
pub(super) const MEMORY: Duration = Duration::from_secs(600);

/// A server that is quarantined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The server.
    pub server: Server,
    /// Time of the first silence, UTC.
    pub since: SystemTime,
    /// The first error, in words.
    pub why: String,
    /// Time until the next probe.
    pub after: Duration,
}

/// A silence: an operation that ran into its deadline.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    /// Beginning of the operation.
    pub(super) began: Instant,
    /// Wall clock at its end.
    pub(super) at: SystemTime,
    /// Its error, in words.
    pub(super) why: String,
    /// Whether another server may be the silent one: the operation used several.
    pub(super) shared: bool,
}

#[derive(Debug)]
enum Case {
    Suspect {
        noted: Instant,
        first: Silence,
    },
    Quarantined {
        first: Silence,
        /// Number of probes so far.
        probes: usize,
        next: Instant,
        /// Whether the server is being asked.
        asked: bool,
    },
}

/// All servers that anything is known of.
#[derive(Debug, Default)]
pub(super) struct Cases(BTreeMap<Server, Case>);

/// The pause after so many silent probes.
fn pause(probes: usize) -> Duration {
    PAUSES[probes.clamp(1, PAUSES.len()) - 1]
}

impl Cases {
    /// The server's quarantine; `None`: it may be used.
    pub(super) fn quarantined(&self, server: &Server, now: Instant) -> Option<Quarantined> {
        match self.0.get(server)? {
            Case::Quarantined { first, next, .. } => Some(Quarantined {
                server: server.clone(),
                since: first.at,
                why: first.why.clone(),
                after: next.saturating_duration_since(now),
            }),
            Case::Suspect { .. } => None,
        }
    }

    /// All quarantined servers.
    pub(super) fn all(&self, now: Instant) -> Vec<Quarantined> {
        let servers = self.0.keys();
        servers
            .filter_map(|server| self.quarantined(server, now))
            .collect()
    }

    /// Notes a silence; whether the server is quarantined from now on.
    pub(super) fn silent(&mut self, server: &Server, silence: Silence, now: Instant) -> bool {
        self.forget(now);
        let (case, is_new) = match self.0.remove(server) {
            None => {
                let first = silence;
                (Case::Suspect { noted: now, first }, false)
            }
            Some(Case::Suspect { noted, first }) if silence.began >= noted => {
                let case = Case::Quarantined {
                    first,
                    probes: 0,
                    next: now,
                    asked: false,
                };
                (case, true)
            }
            Some(other) => (other, false),
        };
        self.0.insert(server.clone(), case);
        is_new
    }

    /// Notes that an operation on the server ended with an answer; whether that ends a quarantine. `shared`: another server may have
    /// answered, so that only a suspicion by an operation on several servers is over.
    pub(super) fn answered(&mut self, server: &Server, shared: bool) -> bool {
        let is_over = |case: &Case| match case {
            Case::Suspect { first, .. } => !shared || first.shared,
            Case::Quarantined { .. } => !shared,
        };
        if !self.0.get(server).is_some_and(is_over) {
            return false;
        }
        matches!(self.0.remove(server), Some(Case::Quarantined { .. }))
    }

    /// The servers to ask now, each of which counts as being asked.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Server> {
        let mut due = Vec::new();
        for (server, case) in &mut self.0 {
            if let Case::Quarantined {
                next,
                probes,
                asked,
                ..
            } = case
                && !*asked
                && *next <= now
            {
                *asked = true;
                *probes += 1;
                // Until the answer is in, for who asks when to try again.
                *next = now + pause(*probes);
                due.push(server.clone());
            }
        }
        due
    }

    /// Time when the next server is due; `None`: none is.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = self.0.values().filter_map(|case| match case {
            Case::Quarantined {
                next, asked: false, ..
            } => Some(*next),
            _ => None,
        });
        next.min()
    }

    /// Notes the outcome of a probe; whether it ends the quarantine.
    pub(super) fn probed(&mut self, server: &Server, answers: bool, now: Instant) -> bool {
        let Some(Case::Quarantined {
            next,
            probes,
            asked,
            ..
        }) = self.0.get_mut(server)
        else {
            return false;
        };
        if !*asked {
            return false; // the probe is of an earlier quarantine
        }
        if answers {
            self.0.remove(server);
            return true;
        }
        *asked = false;
        *next = now + pause(*probes);
        false
    }

    /// Forgets what is too old to mean anything.
    fn forget(&mut self, now: Instant) {
        let is_new = |at: &Instant| now.saturating_duration_since(*at) < MEMORY;
        self.0.retain(|_, case| match case {
            Case::Suspect { noted, .. } => is_new(noted),
            Case::Quarantined { .. } => true,
        });
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
