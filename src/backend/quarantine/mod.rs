//! Quarantine of servers that hang: their volumes' calls fail at once until the server gives a sign of life.
//!
//! Invariants: a server is quarantined only by operations that ran into their deadlines ([`BackendError::is_silence`]), never by a prompt
//! error; whatever the server answers ends the quarantine; one probe of a server is under way at a time; another server's calls do not notice.
//! Nothing that takes things away is refused: a disconnect is tried as ever, a few of a server at a time, so that the workers that may
//! hang in it stay few.

mod guarded;
mod state;
mod turns;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

pub(super) use guarded::Guarded;
pub use state::Quarantined;
use state::{Cases, Ended, Silence};
use turns::{Turn, Turns};

use super::{BackendError, Backends};
use crate::model::{Server, chain};
use crate::sys::worker::{Registry, StuckWorker};

/// Servers let go that a slow listener may fall behind.
const BACKLOG: usize = 64;

/// Servers that are asked for a sign of life at a time.
const PROBES: usize = 64;

/// The servers that hang, and the workers that hang for them. Clones are the same.
#[derive(Debug, Clone)]
pub struct Quarantine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cases: Mutex<Cases>,
    /// Something is due earlier than before.
    changed: Notify,
    released: broadcast::Sender<Arc<str>>,
    workers: Registry,
    /// Of disconnects.
    turns: Turns,
}

impl Quarantine {
    /// No server is quarantined. `workers`: those that the backends start.
    #[must_use]
    pub fn new(workers: Registry) -> Self {
        Self(Arc::new(Shared {
            cases: Mutex::default(),
            changed: Notify::new(),
            released: broadcast::channel(BACKLOG).0,
            workers,
            turns: Turns::default(),
        }))
    }

    /// The quarantined servers.
    #[must_use]
    pub fn servers(&self) -> Vec<Quarantined> {
        self.cases().all(Instant::now())
    }

    /// The servers that are suspect or quarantined, and whether each is quarantined.
    #[must_use]
    pub fn ill(&self) -> BTreeMap<Server, bool> {
        self.cases().ill(Instant::now())
    }

    /// How many workers exist, and how many of them outlived their kill.
    #[must_use]
    pub fn workers(&self) -> (usize, usize) {
        self.0.workers.counts()
    }

    /// The workers that outlived their kill.
    #[must_use]
    pub fn stuck_workers(&self) -> Vec<StuckWorker> {
        self.0.workers.stuck()
    }

    /// Whether a server is suspect or quarantined, or has a stuck worker.
    pub(super) fn is_ill(&self, server: &Server) -> bool {
        let words = server.to_string();
        // A worker for a volume is counted under all its servers.
        let is_its = |worker: &StuckWorker| worker.server.split(", ").any(|it| it == words);
        self.cases().has(server) || self.stuck_workers().iter().any(is_its)
    }

    /// Waits for the turn of a disconnect from a server.
    async fn disconnect_turn(&self, server: &Server) -> Turn {
        self.0.turns.take(server).await
    }

    /// The servers, in words, whose quarantine ends after a silent probe, or a stuck worker of which is gone, from now on: what failed for that may succeed.
    #[must_use]
    pub fn released(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.released.subscribe()
    }

    /// Refuses what needs one of these servers if each of them is quarantined; no servers: never.
    ///
    /// # Errors
    /// `SERVER_QUARANTINED`, of the server that is asked first.
    pub(super) fn check(&self, servers: &[Server]) -> Result<(), BackendError> {
        let (mut cases, now) = (self.cases(), Instant::now());
        let mut soonest: Option<Quarantined> = None;
        for server in servers {
            let Some(quarantined) = cases.refusal(server, now) else {
                return Ok(());
            };
            if soonest
                .as_ref()
                .is_none_or(|it| it.after > quarantined.after)
            {
                soonest = Some(quarantined);
            }
        }
        soonest.map_or(Ok(()), |it| Err(it.into()))
    }

    /// Runs what uses one server alone, unless that is quarantined, and learns from the outcome.
    ///
    /// # Errors
    /// `SERVER_QUARANTINED` at once; and the operation's own.
    pub(super) async fn watch<T>(
        &self,
        server: &Server,
        operation: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        self.check(std::slice::from_ref(server))?;
        let began = Instant::now();
        let outcome = operation.await;
        match &outcome {
            Ok(_) => self.answered(server, false),
            Err(error) if error.is_silence() => self.silent(server, began, error, false),
            Err(_) => {}
        }
        outcome
    }

    /// Notes that an operation on a server ended with an answer; `shared`: or on another of its volume's servers.
    pub(super) fn answered(&self, server: &Server, shared: bool) {
        let ended = self.cases().answered(server, shared);
        if let Some(ended) = ended {
            self.release(server, ended, "it answered a call");
        }
    }

    /// Notes that an operation on a server ran into its deadline; `shared`: or on another of its volume's servers.
    pub(super) fn silent(
        &self,
        server: &Server,
        began: Instant,
        error: &BackendError,
        shared: bool,
    ) {
        tracing::debug!(%server, error = chain(error), "silent");
        let silence = Silence {
            began,
            at: SystemTime::now(),
            why: error.reason(),
            shared,
        };
        let begun = self.cases().silent(server, silence, Instant::now());
        if begun {
            tracing::warn!(%server, error = chain(error), "quarantined: the server is silent");
            self.0.changed.notify_one();
        }
    }

    fn release(&self, server: &Server, ended: Ended, why: &str) {
        tracing::info!(%server, why, "quarantine ended");
        if ended.lasted {
            self.tell(server.to_string().into());
        }
    }

    fn tell(&self, server: Arc<str>) {
        // An error only means that nobody listens.
        let _ = self.0.released.send(server);
    }

    /// Asks quarantined servers for signs of life, each when its pause is over, by the backends of that moment. Never ends.
    pub async fn keep(&self, backends: impl Fn() -> Backends) {
        let mut freed = self.0.workers.freed();
        let mut probes = FuturesUnordered::new();
        loop {
            let due = self
                .cases()
                .due(Instant::now(), PROBES.saturating_sub(probes.len()));
            probes.extend(due.into_iter().map(|server| self.probe(backends(), server)));
            let next = match probes.len() < PROBES {
                true => self.cases().next(),
                false => None, // until a probe ends
            };
            let pause = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.0.changed.notified() => {}
                Some(()) = probes.next() => {}
                // Missed: the next round looks at everything.
                Ok(server) = freed.recv() => self.tell(server),
            }
        }
    }

    async fn probe(&self, backends: Backends, server: Server) {
        let outcome = match backends.get(&server.protocol) {
            Ok(backend) => backend.sign_of_life(&server).await,
            Err(error) => Err(error),
        };
        // Not every other error: this host's own, as a name that does not resolve, is nobody's answer.
        let ended = self
            .cases()
            .probed(&server, outcome.is_ok(), Instant::now());
        if let Some(ended) = ended {
            self.release(&server, ended, "it answered a probe");
        }
    }

    fn cases(&self) -> MutexGuard<'_, Cases> {
        self.0.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Quarantined> for BackendError {
    fn from(it: Quarantined) -> Self {
        Self::Quarantined {
            server: it.server,
            since: it.since,
            why: it.why,
            after: it.after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that was silent twice, for a caller whose volume is secret.
    fn quarantined(quarantine: &Quarantine) -> Server {
        let server = Server::at("gone", "10.0.0.1:1");
        let error = BackendError::ServerLost {
            path: "/mnt/secret".into(),
            why: "nothing within 15 s".to_owned(),
            silent: true,
        };
        for _ in 0..2 {
            quarantine.silent(&server, Instant::now(), &error, false);
        }
        server
    }

    #[tokio::test]
    async fn this_hosts_own_error_is_no_sign_of_life() {
        let quarantine = Quarantine::new(Registry::default());
        let server = quarantined(&quarantine);
        // No backend can ask it.
        let backends = Backends::new([], quarantine.clone());
        let due = quarantine.cases().due(Instant::now(), PROBES);
        assert_eq!(due, std::slice::from_ref(&server));
        quarantine.probe(backends, server).await;
        assert_eq!(quarantine.servers().len(), 1);
    }

    #[test]
    fn a_refused_call_shows_nothing_of_anothers_volume() {
        let quarantine = Quarantine::new(Registry::default());
        let server = quarantined(&quarantine);
        let refused = quarantine.check(&[server]).unwrap_err().to_string();
        assert!(
            refused.contains("SERVER_TIMEOUT") && !refused.contains("secret"),
            "{refused}"
        );
    }

    #[test]
    fn a_server_is_ill_while_a_worker_of_its_volumes_is_stuck() {
        let quarantine = Quarantine::new(Registry::default());
        let (one, other) = (
            Server::at("iscsi", "10.0.0.1:3260"),
            Server::at("iscsi", "10.0.0.2:3260"),
        );
        let both = format!("{one}, {other}").into();
        let entry = quarantine.0.workers.enter(&both).unwrap();
        assert!(!quarantine.is_ill(&one));
        entry.outlived();
        assert!(quarantine.is_ill(&one) && quarantine.is_ill(&other));
        drop(entry);
        assert!(!quarantine.is_ill(&one));
    }
}
