//! The authenticator of the daemon's configuration, which a reload replaces.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;

/// Tells who calls, by the configuration of this moment. Clones are the same.
#[derive(Clone)]
pub(super) struct Callers(Arc<watch::Sender<Current>>);

struct Current {
    authenticator: Arc<Authenticator>,
    /// Cancelled when callers whom this authenticator has let in may be others now.
    ended: CancellationToken,
}

impl Callers {
    pub(super) fn new(authenticator: Authenticator) -> Self {
        Self(Arc::new(watch::Sender::new(Current {
            authenticator: Arc::new(authenticator),
            ended: CancellationToken::new(),
        })))
    }

    /// The authenticator for a call.
    pub(super) fn authenticator(&self) -> Arc<Authenticator> {
        Arc::clone(&self.0.borrow().authenticator)
    }

    /// Cancelled when callers who are let in from now on may be others. To be taken before the caller is looked at.
    pub(super) fn ended(&self) -> CancellationToken {
        self.0.borrow().ended.clone()
    }

    /// Lets in by this authenticator from now on; `ends_watches`: those of callers whom the earlier one let in end.
    pub(super) fn replace(&self, authenticator: Authenticator, ends_watches: bool) {
        self.0.send_modify(|current| {
            current.authenticator = Arc::new(authenticator);
            if ends_watches {
                std::mem::take(&mut current.ended).cancel();
            }
        });
    }
}
