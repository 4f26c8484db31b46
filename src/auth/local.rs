//! Processes of this host: who they are by the kernel's word, and the roles that the deployer gives them.
//!
//! A peer's groups are those of SO_PEERCRED and SO_PEERGROUPS (unix(7); kernel `net/core/sock.c`): what the process had
//! when it connected, exactly what opened the socket file to it. Reading `/proc/PID/status` instead would race with
//! the process' end, and getgrouplist(3) would miss groups given by systemd's `SupplementaryGroups=` and may wait for a
//! directory server.

use std::os::fd::AsFd;

use nix::unistd::{Gid, Group, Uid};

use super::AuthError;
use crate::config::{LocalRoles, Settings};
use crate::model::{Actor, Identity, Via};

/// The role of those who may call where the deployer says nothing: they may do everything.
const DEFAULT_ROLE: &str = "admin";

/// What the kernel says of the process at the other end of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its process, where it is visible from this one.
    pub pid: Option<i32>,
}

impl PeerCredentials {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Where the socket is not a connected unix socket.
    pub fn of(socket: &impl AsFd) -> std::io::Result<Self> {
        let credentials =
            nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: crate::sys::peer::groups(socket)?,
            pid: (credentials.pid() > 0).then(|| credentials.pid()),
        })
    }

    /// Every group that it is in.
    fn all_groups(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.gid).chain(self.groups.iter().copied())
    }
}

/// Which local processes may call, and with which roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPeers(LocalRoles);

impl LocalPeers {
    /// Those of `[auth.local]`; without it root, the daemon's own user and `listen.group`. A group that this host lacks
    /// lets nobody in.
    ///
    /// # Errors
    /// Where the group database cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, AuthError> {
        if let Some(roles) = &settings.auth.local {
            return Ok(Self(roles.clone()));
        }
        let group = settings.listen.group.as_str();
        let found = Group::from_name(group).map_err(|source| AuthError::GroupLookup {
            group: group.to_owned(),
            source: source.into(),
        })?;
        if found.is_none() {
            tracing::warn!(
                group,
                "no such group: only root and the daemon's own user may call"
            );
        }
        Ok(Self::with_ids(
            Uid::effective().as_raw(),
            found.map(|group| Gid::as_raw(group.gid)),
        ))
    }

    /// Those of a daemon that runs as `own_uid`, with the group `group`, where the deployer says nothing.
    #[must_use]
    pub fn with_ids(own_uid: u32, group: Option<u32>) -> Self {
        let role = || vec![DEFAULT_ROLE.to_owned()];
        Self(LocalRoles {
            users: [0, own_uid].into_iter().map(|uid| (uid, role())).collect(),
            groups: group.into_iter().map(|gid| (gid, role())).collect(),
        })
    }

    /// Lets the peer in, with the roles of its user and of all its groups, or not.
    ///
    /// # Errors
    /// Where it is none of those who may call.
    pub fn authenticate(&self, peer: &PeerCredentials) -> Result<Actor, AuthError> {
        let by_group = peer.all_groups().filter_map(|gid| self.0.groups.get(&gid));
        let entries = self.0.users.get(&peer.uid).into_iter().chain(by_group);
        let mut roles: Vec<String> = entries.flatten().cloned().collect();
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() {
            return Err(AuthError::PeerRefused { uid: peer.uid });
        }
        Ok(Actor {
            via: Via::LocalPeer {
                uid: peer.uid,
                gid: peer.gid,
                pid: peer.pid,
            },
            user: Some(Identity {
                user_id: format!("uid:{}", peer.uid),
                roles,
                groups: peer.all_groups().map(|gid| format!("gid:{gid}")).collect(),
                ..Identity::default()
            }),
            service: None,
            until: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> PeerCredentials {
        PeerCredentials {
            uid,
            gid,
            groups: groups.to_vec(),
            pid: Some(1),
        }
    }

    #[test]
    fn root_the_own_user_and_the_group_are_let_in_and_nobody_else() {
        let peers = LocalPeers::with_ids(200, Some(50));
        for good in [
            peer(0, 0, &[]),
            peer(200, 7, &[]),
            peer(1000, 50, &[]),
            peer(1000, 7, &[8, 50]),
        ] {
            let user = peers.authenticate(&good).unwrap().user.unwrap();
            assert_eq!(user.roles, ["admin"], "{good:?}");
        }
        // A uid that equals the group's number is not in the group.
        for bad in [peer(1000, 7, &[8]), peer(50, 7, &[]), peer(1, 200, &[])] {
            let error = peers.authenticate(&bad).unwrap_err();
            assert_eq!(error.reason(), Reason::PermissionDenied);
        }
        let no_group = LocalPeers::with_ids(200, None);
        assert!(no_group.authenticate(&peer(1000, 50, &[50])).is_err());
    }

    #[test]
    fn configured_roles_are_those_of_the_user_and_of_its_groups() {
        let mut settings = Settings::built_in();
        let roles = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        settings.auth.local = Some(LocalRoles {
            users: [(1000, roles(&["member", "reader"]))].into(),
            groups: [(50, roles(&["reader"])), (60, roles(&["auditor"]))].into(),
        });
        let peers = LocalPeers::new(&settings).unwrap();
        let let_in = |peer| peers.authenticate(&peer).unwrap().user.unwrap();
        let user = let_in(peer(1000, 60, &[50]));
        assert_eq!(user.roles, ["auditor", "member", "reader"]);
        assert_eq!(user.user_id, "uid:1000");
        assert_eq!(user.groups, ["gid:60", "gid:50"]);
        assert_eq!(let_in(peer(7, 7, &[50])).roles, ["reader"]);
        // Nobody is let in by the default any more, root and the daemon's own user included.
        let own = Uid::effective().as_raw();
        for bad in [peer(0, 0, &[]), peer(own, 7, &[]), peer(50, 7, &[])] {
            assert!(peers.authenticate(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_kernel_tells_of_the_peer() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let told = PeerCredentials::of(&ours).unwrap();
        let mut groups: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(Gid::as_raw)
            .collect();
        let mut told_groups = told.groups.clone();
        groups.sort_unstable();
        told_groups.sort_unstable();
        assert_eq!(told_groups, groups);
        assert_eq!(told.uid, Uid::effective().as_raw());
        assert_eq!(told.pid, i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn a_group_that_is_not_there_lets_nobody_in() {
        let mut settings = Settings::built_in();
        settings.listen.group = "no-such-group-volattach".to_owned();
        let peers = LocalPeers::new(&settings).unwrap();
        assert!(peers.0.groups.is_empty());
    }
}
