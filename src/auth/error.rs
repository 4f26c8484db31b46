//! Why a caller is not let in.

use super::keystone::KeystoneError;
use crate::model::Reason;

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// None of those who may call.
    #[error(
        "the user with uid {uid} may not call this daemon: call as root or as a member of its group, or as the configuration's [auth.local] says"
    )]
    PeerRefused {
        /// Who called.
        uid: u32,
    },
    /// None of the names in the certificate is that of anybody who may call.
    #[error(
        "nobody may call with a certificate of {}: the configuration's [auth.certificates] names those who may",
        some(.names)
    )]
    CertificateRefused {
        /// The names in it.
        names: Vec<String>,
    },
    /// The certificate was good when the connection began, and is not any more.
    #[error("the certificate that this connection began with is no longer good: connect again")]
    CertificateEnded(#[source] rustls::Error),
    /// A token, and no Keystone to ask about it.
    #[error(
        "the call brings a token, and this daemon knows no Keystone to ask about it: configure [keystone], or call without"
    )]
    NoKeystone,
    /// A token that nobody has given out.
    #[error("what the call brings as {header} is no token: {why}")]
    NoToken {
        /// The metadata's name.
        header: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// Keystone does not know the token, or no longer.
    #[error("Keystone refuses the token in {header}: it is wrong, expired or revoked; get another")]
    TokenRefused {
        /// The metadata's name.
        header: &'static str,
    },
    /// The token of a service that is none.
    #[error(
        "the token in x-service-token is no service's: its user has none of the roles {}",
        .roles.join(", ")
    )]
    NoServiceRole {
        /// The roles of which it needs one.
        roles: Vec<String>,
    },
    /// A service's token alone.
    #[error(
        "the call brings a service's token and no user's: bring that of the user in x-auth-token"
    )]
    ServiceAlone,
    /// Keystone cannot be asked.
    #[error("cannot tell who calls")]
    Unavailable(#[source] KeystoneError),
    /// The kernel did not say who calls.
    #[error("it is not known who calls: call over the daemon's unix socket, or by TLS")]
    UnknownPeer,
    /// The group database cannot be read.
    #[error(
        "cannot look up the group {group:?} that may call the daemon: repair /etc/group or nsswitch.conf"
    )]
    GroupLookup {
        /// Its name.
        group: String,
        /// Why.
        source: std::io::Error,
    },
}

impl AuthError {
    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::PeerRefused { .. } | Self::CertificateRefused { .. } => Reason::PermissionDenied,
            Self::UnknownPeer
            | Self::CertificateEnded(_)
            | Self::NoKeystone
            | Self::NoToken { .. }
            | Self::TokenRefused { .. }
            | Self::NoServiceRole { .. }
            | Self::ServiceAlone => Reason::Unauthenticated,
            Self::Unavailable(_) => Reason::IdentityUnavailable,
            Self::GroupLookup { .. } => Reason::ConfigurationInvalid,
        }
    }
}

/// At most four names: whoever made the certificate chose how many it has.
fn some(names: &[String]) -> String {
    match names {
        [] => "no name".to_owned(),
        [.., _] if names.len() > 4 => format!("{} and others", names[..3].join(", ")),
        all => all.join(", "),
    }
}
