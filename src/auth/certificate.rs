//! Holders of TLS client certificates: who they are by the names in them, and the roles that the deployer gives those.

use std::collections::BTreeMap;
use std::fmt;

use rustls::pki_types::CertificateDer;

use super::AuthError;
use crate::model::{Actor, Identity, Via};

/// A certificate that a caller has proved to hold the key of.
#[derive(Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The certificate, and those sent with it that lead to its authority.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The URIs and then the DNS names in it (RFC 5280, section 4.2.1.6), as they are written there.
    names: Vec<String>,
}

/// The names in it.
impl fmt::Display for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

impl PeerCertificate {
    /// Takes over what a TLS handshake has verified; `None`: there is no certificate.
    #[must_use]
    pub fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(chain.first()?).ok()?;
        let names = certificate
            .valid_uri_names()
            .chain(certificate.valid_dns_names())
            .map(ToOwned::to_owned)
            .collect();
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        Some(Self { chain, names })
    }
}

/// Which names may call, and with which roles.
#[derive(Debug, Default)]
pub(super) struct Certificates(BTreeMap<String, Vec<String>>);

impl Certificates {
    pub(super) fn new(roles: BTreeMap<String, Vec<String>>) -> Self {
        Self(roles)
    }

    /// Lets the holder in, as the first of the certificate's names that may call.
    pub(super) fn authenticate(&self, peer: &PeerCertificate) -> Result<Actor, AuthError> {
        let known = |name: &String| Some((name.clone(), self.0.get(name)?.clone()));
        let (name, roles) =
            peer.names
                .iter()
                .find_map(known)
                .ok_or_else(|| AuthError::CertificateRefused {
                    names: peer.names.clone(),
                })?;
        Ok(Actor {
            via: Via::Certificate(name.clone()),
            user: Some(Identity {
                user_id: name,
                roles,
                ..Identity::default()
            }),
            service: None,
            until: None,
        })
    }
}
