//! Turns of disconnects: an unmount may leave its worker stuck, and the first disconnects from a server that dies run before anybody knows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::Server;
use crate::sys::worker::PER_SERVER;

/// Turns by server: a few, and one more with each disconnect that succeeds while others wait or run, so that a healthy server's are soon all
/// under way. Forgotten when nobody has or waits for one.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Server, Weak<Semaphore>>>);

/// A turn of a server's, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Semaphore>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for a turn of the server.
    pub(super) async fn take(&self, server: &Server) -> Turn {
        let turns = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turns| turns.strong_count() > 0);
            let known = all.get(server).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::new(Semaphore::new(PER_SERVER));
                all.insert(server.clone(), Arc::downgrade(&new));
                new
            })
        };
        // The semaphore is never closed.
        let permit = turns.clone().acquire_owned().await.ok();
        Turn {
            turns,
            _permit: permit,
        }
    }
}

impl Turn {
    /// Notes that the disconnect succeeded: the server has one turn more.
    pub(super) fn succeeded(&self) {
        self.turns.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_server_has_a_few_turns_and_one_more_with_each_success() {
        let (turns, server) = (Turns::default(), Server::at("nvmeof", "10.0.0.1:4420"));
        let other = Server::at("nvmeof", "10.0.0.2:4420");
        let take = || turns.take(&server).now_or_never();
        let mut held: Vec<Turn> = std::iter::from_fn(take).take(100).collect();
        assert_eq!(held.len(), PER_SERVER);
        assert!(turns.take(&other).now_or_never().is_some());
        for round in 1..=PER_SERVER {
            held.remove(0).succeeded();
            held.extend(std::iter::from_fn(take).take(100));
            assert_eq!(held.len(), PER_SERVER + round);
        }
        drop(held.pop()); // a failure
        held.extend(std::iter::from_fn(take).take(100));
        assert_eq!(held.len(), 2 * PER_SERVER);
        drop(held);
        let held: Vec<Turn> = std::iter::from_fn(take).take(100).collect();
        assert_eq!(held.len(), PER_SERVER, "begins anew");
    }
}
