//! What holds of any id, name, address or number of permissions that was taken.

use std::fmt::Display;
use std::str::FromStr;

use super::{AttachmentId, Bus, DiskAddress, DomainRef, Permissions, VolumeId};

/// What was taken means the same when it is written out and read again; what was refused is told in one line.
fn round_trip<T: FromStr<Err: Display> + ToString + PartialEq>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            assert!(
                written
                    .parse::<T>()
                    .ok()
                    .is_some_and(|again| again == value),
                "{written:?}"
            );
            Some(value)
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains(char::is_control), "{said:?}");
            None
        }
    }
}

/// Any text as each of the words that requests are made of.
pub(crate) fn words(text: &str) {
    let plain = |id: &str| {
        id.len() <= 64
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if let Some(id) = round_trip::<AttachmentId>(text) {
        assert!(plain(id.as_str()) && id.as_str() == text);
    }
    if let Some(id) = round_trip::<VolumeId>(text) {
        assert!(plain(id.as_str()) && id.as_str() == text);
    }
    round_trip::<Bus>(text);
    round_trip::<DiskAddress>(text);
    if round_trip::<Permissions>(text).is_some() {
        assert!(text.len() == 3 && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit)));
    }
    if let Ok(DomainRef::Name(name)) = text.parse() {
        assert!(!name.is_empty() && !name.contains('/') && !name.contains(char::is_control));
    }
    if let Ok(host) = super::server::server_name(text) {
        assert_eq!(super::server::server_name(&host), Ok(host.clone()));
        assert!(!host.contains(['/', '@', ',', '\\', ' ']) && !host.contains(char::is_control));
    }
}
