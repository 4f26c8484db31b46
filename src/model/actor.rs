//! Who calls.

use std::fmt;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A process on this host, on the unix socket: what the kernel says of it (unix(7), SO_PEERCRED).
    LocalPeer {
        /// Its user.
        uid: u32,
        /// Its primary group.
        gid: u32,
        /// Its process, where the kernel knows it.
        pid: Option<i32>,
    },
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::LocalPeer { uid, gid, pid } = self;
        write!(f, "local peer uid {uid} gid {gid}")?;
        pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"))
    }
}
