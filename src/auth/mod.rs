//! Who calls: the kernel's word on the other end of the unix socket, and which of those may call at all.
//!
//! Invariants: fails closed: a caller whose credentials are not known is nobody. Nothing here asks the name service
//! while a call waits: groups come from the kernel, and the configured group is looked up once, at start.
//!
//! A peer's groups are those of SO_PEERCRED and SO_PEERGROUPS (unix(7); kernel `net/core/sock.c`): what the process had
//! when it connected, exactly what opened the socket file to it. Reading `/proc/PID/status` instead would race with
//! the process' end, and getgrouplist(3) would miss groups given by systemd's `SupplementaryGroups=` and may wait for a
//! directory server.

use std::os::fd::AsFd;

use nix::unistd::{Gid, Group, Uid};

use crate::model::{Actor, Reason};

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
}

/// Which local processes may call: root, the daemon's own user, and one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPeers {
    own_uid: u32,
    group: Option<u32>,
}

impl LocalPeers {
    /// Those of this daemon, with the group of that name; a group that this host lacks lets nobody in.
    ///
    /// # Errors
    /// Where the group database cannot be read.
    pub fn new(group: &str) -> Result<Self, AuthError> {
        let found = Group::from_name(group).map_err(|source| AuthError::GroupLookup {
            group: group.to_owned(),
            source: source.into(),
        })?;
        if found.is_none() {
            tracing::warn!(group, "no such group: only root may call");
        }
        Ok(Self::with_ids(
            Uid::effective().as_raw(),
            found.map(|group| Gid::as_raw(group.gid)),
        ))
    }

    /// Those of a daemon that runs as `own_uid`, with the group `group`.
    #[must_use]
    pub fn with_ids(own_uid: u32, group: Option<u32>) -> Self {
        Self { own_uid, group }
    }

    /// Lets the peer in, or not.
    ///
    /// # Errors
    /// Where it is none of those who may call, or its credentials are not known.
    pub fn authenticate(&self, peer: Option<&PeerCredentials>) -> Result<Actor, AuthError> {
        let peer = peer.ok_or(AuthError::UnknownPeer)?;
        let in_group = self
            .group
            .is_some_and(|group| peer.gid == group || peer.groups.contains(&group));
        if peer.uid == 0 || peer.uid == self.own_uid || in_group {
            return Ok(Actor::LocalPeer {
                uid: peer.uid,
                gid: peer.gid,
                pid: peer.pid,
            });
        }
        Err(AuthError::PeerRefused {
            uid: peer.uid,
            group: self.group,
        })
    }
}

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// None of those who may call.
    #[error(
        "the user with uid {uid} may not call this daemon: call as root or as a member of its group ({})",
        .group.map_or("which this host lacks".to_owned(), |gid| format!("gid {gid}"))
    )]
    PeerRefused {
        /// Who called.
        uid: u32,
        /// The group that may.
        group: Option<u32>,
    },
    /// The kernel did not say who calls.
    #[error("the kernel does not say who calls: call over the daemon's unix socket")]
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
            Self::PeerRefused { .. } | Self::UnknownPeer => Reason::PermissionDenied,
            Self::GroupLookup { .. } => Reason::ConfigurationInvalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(peers.authenticate(Some(&good)).is_ok(), "{good:?}");
        }
        // A uid that equals the group's number is not in the group.
        for bad in [peer(1000, 7, &[8]), peer(50, 7, &[]), peer(1, 200, &[])] {
            let error = peers.authenticate(Some(&bad)).unwrap_err();
            assert_eq!(error.reason(), Reason::PermissionDenied);
        }
        assert!(peers.authenticate(None).is_err());
        let no_group = LocalPeers::with_ids(200, None);
        assert!(no_group.authenticate(Some(&peer(1000, 50, &[50]))).is_err());
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
        let peers = LocalPeers::new("no-such-group-volattach").unwrap();
        assert_eq!(peers.group, None);
    }
}
