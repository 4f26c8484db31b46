//! `make keystone-test`: tokens, asked about at a real Keystone.

#![cfg(test)]

mod ask;
mod bounds;
#[path = "../fakes/mod.rs"]
mod fakes;
mod fixture;
mod hostile;
mod log;
mod matrix;
#[path = "../pki/mod.rs"]
mod pki;
mod proxy;
mod rules;
#[path = "../socket/mod.rs"]
mod socket;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use fixture::{Keystone, Lifetimes};
use volattach::auth::{self, Authenticator, LocalPeers, Peer, PeerCredentials, Presented};
use volattach::config::{self, HttpUrl};
use volattach::model::{Actor, Reason, Secret};

/// The Keystone of all tests that neither stop it nor need other lifetimes; it ends with the last of them.
fn shared() -> Arc<Keystone> {
    static SHARED: Mutex<Weak<Keystone>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let keystone = Arc::new(Keystone::start(Lifetimes::default()));
        *shared = Arc::downgrade(&keystone);
        keystone
    })
}

fn authenticator(settings: &config::Keystone) -> Authenticator {
    let keystone = auth::Keystone::new(settings).unwrap();
    Authenticator::new(LocalPeers::with_ids(0, None)).with_keystone(keystone)
}

/// Who calls with these tokens, on a socket on which root would be let in without any.
async fn who(
    authenticator: &Authenticator,
    user: &[&str],
    service: &[&str],
) -> Result<Actor, Reason> {
    let root = Peer::Local(PeerCredentials {
        uid: 0,
        gid: 0,
        groups: vec![],
        pid: None,
    });
    let secrets = |tokens: &[&str]| tokens.iter().map(|t| Secret::from(*t)).collect::<Vec<_>>();
    let (user_tokens, service_tokens) = (secrets(user), secrets(service));
    let presented = Presented {
        peer: Some(&root),
        user_tokens: &user_tokens,
        service_tokens: &service_tokens,
    };
    let known = authenticator.authenticate(presented).await;
    known.map_err(|error| error.reason())
}

/// Asks who calls until the answer is this one.
async fn becomes(
    authenticator: &Authenticator,
    user: &[&str],
    service: &[&str],
    wanted: Result<(), Reason>,
) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = who(authenticator, user, service).await.map(|_| ());
        if now == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "it stays {now:?}, not {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn local(port: u16) -> HttpUrl {
    HttpUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap()
}
