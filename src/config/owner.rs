//! Who owns the files of a mount: looked up on this host.

use nix::unistd::{Gid, Group, Uid, User};

use super::error::Fault;
use super::tree::Value;

/// The users that QEMU runs as, by distribution: Debian's and Fedora's.
const QEMU_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// A user, and its primary group where the host knows it.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: Option<u32>,
}

impl From<User> for Owner {
    fn from(user: User) -> Self {
        Self {
            uid: user.uid.as_raw(),
            gid: Some(user.gid.as_raw()),
        }
    }
}

/// The user that QEMU runs as on this host; root, with a warning, where there is none. `section` has the key to set.
pub(super) fn qemu(section: &str) -> Owner {
    // A host whose user database cannot be read has no such user either.
    let found = QEMU_USERS
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten());
    match found {
        Some(user) => user.into(),
        None => {
            tracing::warn!(
                "this host has no user libvirt-qemu or qemu: volumes are taken to be root's; set {section}.uid"
            );
            Owner {
                uid: 0,
                gid: Some(0),
            }
        }
    }
}

/// A user, by number or name.
pub(super) fn user(value: &Value) -> Result<Owner, Fault> {
    match value {
        Value::Number(number) => {
            let uid = id(*number)?;
            let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            Ok(known.map_or(Owner { uid, gid: None }, Owner::from))
        }
        Value::Text(name) => User::from_name(name)
            .ok()
            .flatten()
            .map(Owner::from)
            .ok_or_else(|| nobody("user", name)),
        _ => Err(Fault::Expected("a user's name or number")),
    }
}

/// A user that this host has, by number or name.
pub(super) fn known_user(value: &Value) -> Result<u32, Fault> {
    let uid = user(value)?.uid;
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(_)) => Ok(uid),
        _ => Err(nobody("user", &uid.to_string())),
    }
}

/// A group, by number or name.
pub(super) fn group(value: &Value) -> Result<u32, Fault> {
    match value {
        Value::Number(number) => id(*number),
        Value::Text(name) => Group::from_name(name)
            .ok()
            .flatten()
            .map(|group| Gid::as_raw(group.gid))
            .ok_or_else(|| nobody("group", name)),
        _ => Err(Fault::Expected("a group's name or number")),
    }
}

/// An id: -1 is the kernel's word for none.
fn id(number: i64) -> Result<u32, Fault> {
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or(Fault::Expected("a number from 0 to 4294967294"))
}

fn nobody(what: &'static str, name: &str) -> Fault {
    Fault::Nobody {
        what,
        name: name.chars().take(64).collect(),
    }
}
