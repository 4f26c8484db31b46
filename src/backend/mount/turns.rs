//! Turns of mounts that the kernel makes wait for each other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// One mount at a time, in the order of asking; but of each server only one stands in line, so that a server that stalls
/// costs another's volumes one mount's deadline, and not one for each of its own volumes.
#[derive(Debug, Default)]
pub(in crate::backend) struct Turns {
    line: Arc<Mutex<()>>,
    /// Those who stand in line or wait to do so, by server.
    servers: std::sync::Mutex<HashMap<IpAddr, Weak<Mutex<()>>>>,
}

/// A mount's turn, until it is dropped.
pub(in crate::backend) struct Turn {
    _line: OwnedMutexGuard<()>,
    _server: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the turn of a mount from this server.
    pub(in crate::backend) async fn take(&self, server: IpAddr) -> Turn {
        let of_server = {
            let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers.retain(|_, mutex| mutex.strong_count() > 0);
            let known = servers.get(&server).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::default();
                servers.insert(server, Arc::downgrade(&new));
                new
            })
        };
        let of_server = of_server.lock_owned().await;
        Turn {
            _line: Arc::clone(&self.line).lock_owned().await,
            _server: of_server,
        }
    }
}
