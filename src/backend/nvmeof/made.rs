//! Which controllers volattach made: those it ends. The kernel does not tell who made one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Portals of subsystems. The next daemon has them from the journal, by what each attachment did not find there
/// ([`crate::model::Found::others`]).
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<BTreeSet<(String, SocketAddr)>>);

impl Made {
    /// Notes that volattach connects there.
    pub(super) fn note(&self, nqn: &str, portals: impl IntoIterator<Item = SocketAddr>) {
        let all = portals.into_iter().map(|portal| (nqn.to_owned(), portal));
        self.lock().extend(all);
    }

    /// Whether volattach connected there.
    pub(super) fn has(&self, nqn: &str, portal: SocketAddr) -> bool {
        self.lock().contains(&(nqn.to_owned(), portal))
    }

    /// What was there is gone.
    pub(super) fn forget(&self, nqn: &str, portals: &[SocketAddr]) {
        self.lock()
            .retain(|(of, portal)| of != nqn || !portals.contains(portal));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(String, SocketAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
