//! Who calls.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// An authenticated caller: a user, a service on a user's behalf, or a service alone.
///
/// The halves are kept apart: what a user's token says never counts as a service's, whatever the user's roles are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// How it was found out.
    pub via: Via,
    /// The user, or whoever calls for itself: a local peer, the holder of a certificate.
    pub user: Option<Identity>,
    /// The service that calls, on the user's behalf where there is one.
    pub service: Option<Identity>,
    /// Until when this holds; `None`: as long as the connection does.
    pub until: Option<SystemTime>,
}

/// How a caller was authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// A process on this host, on the unix socket: what the kernel says of it (unix(7), SO_PEERCRED).
    LocalPeer {
        /// Its user.
        uid: u32,
        /// Its primary group.
        gid: u32,
        /// Its process, where the kernel knows it.
        pid: Option<i32>,
    },
    /// The holder of a TLS client certificate: the name in it that the configuration knows.
    Certificate(String),
    /// The bearer of Keystone's tokens.
    Keystone,
}

/// One half of a caller: who it is, where, and with which roles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Its id: Keystone's, or `uid:1000`, or a certificate's name.
    pub user_id: String,
    /// Its name, for people; empty: none is known.
    pub user_name: String,
    /// The domain of Keystone's that the user belongs to.
    pub user_domain_id: Option<String>,
    /// The project that the token is for.
    pub project_id: Option<String>,
    /// The domain of Keystone's that the project belongs to.
    pub project_domain_id: Option<String>,
    /// The domain of Keystone's that the token is for.
    pub domain_id: Option<String>,
    /// Whether the token is for the whole deployment.
    pub system: bool,
    /// Whether the project is the one for administration; where Keystone does not say so, it is not.
    pub is_admin_project: bool,
    /// Its roles, by name.
    pub roles: Vec<String>,
    /// Its groups: ids of Keystone's, or `gid:1000`.
    pub groups: Vec<String>,
}

/// The user and project that something was done for, as journals and attachments have it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Holder {
    /// The user's id, as in [`Identity::user_id`].
    pub user_id: String,
    /// The project's id; empty: none.
    pub project_id: String,
}

/// A caller as limits count it: the halves of an actor by id, as its scheme names them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallerId {
    scheme: &'static str,
    user: Option<String>,
    service: Option<String>,
}

impl From<&Actor> for CallerId {
    fn from(actor: &Actor) -> Self {
        Self {
            scheme: match actor.via {
                Via::LocalPeer { .. } => "local",
                Via::Certificate(_) => "certificate",
                Via::Keystone => "keystone",
            },
            user: actor.user.as_ref().map(|half| half.user_id.clone()),
            service: actor.service.as_ref().map(|half| half.user_id.clone()),
        }
    }
}

impl Actor {
    /// The half on whose behalf the call is: the user, else the service.
    #[must_use]
    pub fn principal(&self) -> Option<&Identity> {
        self.user.as_ref().or(self.service.as_ref())
    }

    /// Whom the call is for.
    #[must_use]
    pub fn holder(&self) -> Holder {
        let principal = self.principal();
        Holder {
            user_id: principal.map_or_else(String::new, |half| half.user_id.clone()),
            project_id: principal
                .and_then(|half| half.project_id.clone())
                .unwrap_or_default(),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.via {
            Via::LocalPeer { uid, gid, pid } => {
                write!(f, "local peer uid {uid} gid {gid}")?;
                return pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"));
            }
            Via::Certificate(name) => return write!(f, "certificate of {name}"),
            Via::Keystone => {}
        }
        let half = |f: &mut fmt::Formatter<'_>, kind: &str, half: &Identity| {
            write!(f, "{kind} {}", half.user_id)?;
            let project = half.project_id.as_ref();
            project.map_or(Ok(()), |project| write!(f, " of project {project}"))
        };
        match (&self.user, &self.service) {
            (Some(user), None) => half(f, "user", user),
            (None, Some(service)) => half(f, "service", service),
            (Some(user), Some(service)) => {
                half(f, "user", user)?;
                half(f, ", by service", service)
            }
            (None, None) => f.write_str("nobody"),
        }
    }
}
