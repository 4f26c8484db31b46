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
//! forgotten after [`MEMORY`], and so is a quarantine that no call has run into for that long: probes of a server that nobody needs have no
//! other end, and the next call finds out anew. A silence counts only if its operation began after the one before was noted: fifty calls that wait for a
//! server at the same time are one silence.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::{Reason, Server};

/// Pauses after the first silent probe, the second and so on; the last repeats.
pub(super) const PAUSES: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(60),
];

/// Time after which a suspicion is forgotten, and a quarantine that nobody asks for.
pub(super) const MEMORY: Duration = Duration::from_secs(600);

/// A server that is quarantined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The server.
    pub server: Server,
    /// Time of the first silence, UTC.
    pub since: SystemTime,
    /// The first error's reason. Its words are in the log alone: they name the volume of the caller who had it.
    pub why: Reason,
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
    /// Its error's reason.
    pub(super) why: Reason,
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
        /// When a call was last silent or refused.
        wanted: Instant,
        /// Number of probes so far.
        probes: usize,
        next: Instant,
        /// Whether the server is being asked.
        asked: bool,
    },
}

/// A quarantine that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// Whether a probe was silent. Else the server answers while something behind it hangs: no news for what failed.
    pub(super) lasted: bool,
}

/// All servers that anything is known of.
#[derive(Debug, Default)]
pub(super) struct Cases(BTreeMap<Server, Case>);

/// The pause after so many silent probes.
fn pause(probes: usize) -> Duration {
    PAUSES[probes.clamp(1, PAUSES.len()) - 1]
}

impl Cases {
    /// The server's quarantine, which a call runs into; `None`: it may be used.
    pub(super) fn refusal(&mut self, server: &Server, now: Instant) -> Option<Quarantined> {
        if let Case::Quarantined { wanted, .. } = self.0.get_mut(server)? {
            *wanted = now;
        }
        self.quarantined(server, now)
    }

    /// Whether a server is suspect or quarantined.
    pub(super) fn has(&self, server: &Server) -> bool {
        self.0.contains_key(server)
    }

    /// The server's quarantine; `None`: it may be used.
    pub(super) fn quarantined(&self, server: &Server, now: Instant) -> Option<Quarantined> {
        match self.0.get(server)? {
            Case::Quarantined { first, next, .. } => Some(Quarantined {
                server: server.clone(),
                since: first.at,
                why: first.why,
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

    /// All servers that are suspect or quarantined, and whether each is quarantined.
    pub(super) fn ill(&mut self, now: Instant) -> BTreeMap<Server, bool> {
        self.forget(now);
        let each = self.0.iter();
        each.map(|(server, case)| (server.clone(), matches!(case, Case::Quarantined { .. })))
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
                    wanted: now,
                    probes: 0,
                    next: now,
                    asked: false,
                };
                (case, true)
            }
            Some(mut other) => {
                if let Case::Quarantined { wanted, .. } = &mut other {
                    *wanted = now;
                }
                (other, false)
            }
        };
        self.0.insert(server.clone(), case);
        is_new
    }

    /// Notes that an operation on the server ended with an answer; returns the quarantine that this ends. `shared`: another server may have
    /// answered, so that only a suspicion by an operation on several servers is over.
    pub(super) fn answered(&mut self, server: &Server, shared: bool) -> Option<Ended> {
        let is_over = |case: &Case| match case {
            Case::Suspect { first, .. } => !shared || first.shared,
            Case::Quarantined { .. } => !shared,
        };
        if !self.0.get(server).is_some_and(is_over) {
            return None;
        }
        self.end(server)
    }

    fn end(&mut self, server: &Server) -> Option<Ended> {
        match self.0.remove(server)? {
            Case::Suspect { .. } => None,
            Case::Quarantined { probes, .. } => Some(Ended { lasted: probes > 1 }),
        }
    }

    /// The servers to ask now, at most so many, each of which counts as being asked.
    pub(super) fn due(&mut self, now: Instant, most: usize) -> Vec<Server> {
        self.forget(now);
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
                && due.len() < most
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

    /// Notes the outcome of a probe; returns the quarantine that this ends.
    pub(super) fn probed(&mut self, server: &Server, answers: bool, now: Instant) -> Option<Ended> {
        let Some(Case::Quarantined {
            next,
            probes,
            asked,
            ..
        }) = self.0.get_mut(server)
        else {
            return None;
        };
        if !*asked {
            return None; // the probe is of an earlier quarantine
        }
        if answers {
            return self.end(server);
        }
        *asked = false;
        *next = now + pause(*probes);
        None
    }

    /// Forgets what is too old to mean anything.
    fn forget(&mut self, now: Instant) {
        let is_new = |at: &Instant| now.saturating_duration_since(*at) < MEMORY;
        self.0.retain(|_, case| match case {
            Case::Suspect { noted, .. } => is_new(noted),
            Case::Quarantined { wanted, asked, .. } => *asked || is_new(wanted),
        });
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
