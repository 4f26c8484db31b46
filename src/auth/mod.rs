//! Who calls.
//!
//! ```text
//!   x-auth-token or x-service-token ──▶ Keystone alone says who it is, good or bad
//!   neither, on the unix socket     ──▶ the kernel's word, and [auth.local]
//!   neither, by TLS                 ──▶ a name in the client's certificate, and [auth.certificates]
//! ```
//!
//! Invariants: fails closed: a caller whose credentials are not known is nobody, and a scheme that fails ends it: nobody
//! who brings a bad token is taken for a local peer. Nothing that a caller says of itself counts. Nothing here asks the
//! name service while a call waits. A token is kept nowhere but in its call: what is known of it is found by a keyed hash.

mod certificate;
mod error;
mod http;
mod keystone;
mod local;
mod tls;

pub use certificate::PeerCertificate;
pub use error::AuthError;
pub use http::{Answer, HttpClient, HttpError};
pub use keystone::{Keystone, KeystoneError, SetupError, Trouble};
pub use local::{LocalPeers, PeerCredentials};
pub use tls::{ClientFiles, TlsError, TlsServer};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use certificate::Certificates;

use crate::model::{Actor, Secret};

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A process of this host, on the unix socket.
    Local(PeerCredentials),
    /// The holder of a client certificate, by TLS.
    Certificate(Arc<PeerCertificate>),
}

/// For the log: who a caller is by the connection, whatever else is brought.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(peer) => {
                write!(f, "uid {} gid {}", peer.uid, peer.gid)?;
                peer.pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"))
            }
            Self::Certificate(certificate) => write!(f, "certificate of {certificate}"),
        }
    }
}

/// What a call brings to tell who makes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The other end of the connection.
    pub peer: Option<&'a Peer>,
    /// Every value of the metadata `x-auth-token`: the user's token is one.
    pub user_tokens: &'a [Secret],
    /// Every value of the metadata `x-service-token`.
    pub service_tokens: &'a [Secret],
}

/// Tells who calls.
#[derive(Debug)]
pub struct Authenticator {
    local: LocalPeers,
    certificates: Certificates,
    tls: Option<Arc<TlsServer>>,
    keystone: Option<Keystone>,
}

impl Authenticator {
    /// One that knows these local peers, and nobody else.
    #[must_use]
    pub fn new(local: LocalPeers) -> Self {
        Self {
            local,
            certificates: Certificates::default(),
            tls: None,
            keystone: None,
        }
    }

    /// It knows the holders of certificates too: by name, the roles of each.
    #[must_use]
    pub fn with_certificates(
        mut self,
        tls: Arc<TlsServer>,
        roles: BTreeMap<String, Vec<String>>,
    ) -> Self {
        self.tls = Some(tls);
        self.certificates = Certificates::new(roles);
        self
    }

    /// It knows the bearers of that Keystone's tokens too.
    #[must_use]
    pub fn with_keystone(mut self, keystone: Keystone) -> Self {
        self.keystone = Some(keystone);
        self
    }

    /// It knows of Keystone's tokens what the earlier one knows, which asked by the same settings.
    #[must_use]
    pub fn remembering(mut self, earlier: &Self) -> Self {
        if let (Some(keystone), Some(earlier)) = (&mut self.keystone, &earlier.keystone) {
            keystone.remember(earlier);
        }
        self
    }

    /// Who makes the call.
    ///
    /// # Errors
    /// Where nobody who may call does, or Keystone cannot be asked.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Actor, AuthError> {
        if !presented.user_tokens.is_empty() || !presented.service_tokens.is_empty() {
            let keystone = self.keystone.as_ref().ok_or(AuthError::NoKeystone)?;
            return keystone
                .authenticate(presented.user_tokens, presented.service_tokens)
                .await;
        }
        match presented.peer {
            Some(Peer::Local(peer)) => self.local.authenticate(peer),
            Some(Peer::Certificate(peer)) => {
                let tls = self.tls.as_ref().ok_or(AuthError::UnknownPeer)?;
                tls.verify(peer).map_err(AuthError::CertificateEnded)?;
                self.certificates.authenticate(peer)
            }
            None => Err(AuthError::UnknownPeer),
        }
    }
}
