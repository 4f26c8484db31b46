//! What holds of any request from the wire, and of any page token.

use prost::Message;

use super::decode::{self, DecodeError};
use super::{deadline, page, revision};
use crate::connection::Protocol;
use crate::model::chain;

/// Any text as a page token: none of ours, or exactly the one that its attachment has.
pub(crate) fn page_token(text: &str) {
    if let Some(id) = page::parse(text) {
        assert_eq!(page::token(&id), text);
    }
}

/// Any text as a caller's timeout: none, or the time that its digits and unit spell.
pub(crate) fn grpc_timeout(text: &str) {
    let Some(timeout) = deadline::parse(text) else {
        return;
    };
    let (value, unit) = text.split_at(text.len() - 1);
    assert!(value.len() <= 8 && text.is_ascii(), "{text:?}");
    let unit: u128 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        _ => 1,
    };
    assert_eq!(
        Ok(timeout.as_nanos()),
        value.parse().map(|value: u128| value * unit)
    );
}

/// Any text as the token of a watch: none of ours, or exactly the one that its revision has.
pub(crate) fn watch_token(text: &str) {
    if let Some(found) = revision::parse(text) {
        assert_eq!(revision::token(found), text);
    }
}

/// Any bytes as a message: the first says which, the rest is the message. A request that was taken is valid as a whole, and
/// one that was not is told in one line.
pub(crate) fn grpc(bytes: &[u8]) {
    let Some((kind, wire)) = bytes.split_first() else {
        return;
    };
    match kind % 6 {
        0 => decoded(wire, decode::attach, |request| {
            assert!(!request.id.as_str().is_empty() && !request.volume.as_str().is_empty());
            assert!(request.disk.serial.is_none_or(|serial| serial.len() <= 64));
            taken(&request.info.protocol);
        }),
        1 => decoded(wire, decode::connect, |request| {
            taken(&request.info.protocol)
        }),
        2 => decoded(wire, decode::plan, |request| taken(&request.info.protocol)),
        3 => decoded(wire, decode::list, |query| {
            assert!((2..=1001).contains(&query.limit))
        }),
        4 => decoded(wire, decode::extend, |request| {
            assert_ne!(request.bytes, Some(0))
        }),
        _ => decoded(wire, decode::watch, drop),
    }
}

fn decoded<M: Message + Default + Clone, T>(
    wire: &[u8],
    decode: impl Fn(M) -> Result<T, DecodeError>,
    holds: impl Fn(T),
) {
    let Ok(message) = M::decode(wire) else {
        return;
    };
    // What goes out again means the same.
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(again.is_ok_and(|again| again.encode_to_vec() == message.encode_to_vec()));
    match decode(message) {
        Ok(request) => holds(request),
        Err(error) => {
            let said = chain(&error);
            assert!(!said.contains(char::is_control), "{said:?}");
        }
    }
}

/// What no field may bring to a backend, by whichever form of connection info.
fn taken(protocol: &Protocol) {
    let path = match protocol {
        Protocol::Smb(volume) => format!("{}/{}/{}", volume.share, volume.folder, volume.name),
        Protocol::Nfs(volume) => format!("{}/{}", volume.path, volume.name),
        Protocol::Local(volume) => volume.device_path.to_string_lossy().into_owned(),
        Protocol::Iscsi(volume) => {
            let targets = volume.paths.iter().map(|path| path.target.as_str());
            targets.collect::<Vec<_>>().join(" ")
        }
        Protocol::Nvme(volume) => volume.nqn.clone(),
    };
    assert!(
        !path.split('/').any(|part| part == "..") && !path.contains(char::is_control),
        "{path:?}"
    );
}
