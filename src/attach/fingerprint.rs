//! Whether a repeated request is the same one: a keyed hash of all of it, secrets included.

use crate::model::HostKey;

use super::{AttachRequest, ConnectRequest};

/// The fingerprint of an attach.
pub(super) fn of_attach(key: &HostKey, request: &AttachRequest) -> String {
    let AttachRequest {
        id,
        volume,
        domain,
        info,
        access,
        disk,
    } = request;
    let rest = serde_json::json!([access, disk]).to_string();
    key.tag(&[
        b"attach",
        id.as_str().as_bytes(),
        volume.as_str().as_bytes(),
        domain.to_string().as_bytes(),
        rest.as_bytes(),
        info.canonical().as_bytes(),
    ])
}

/// The fingerprint of a connect.
pub(super) fn of_connect(key: &HostKey, request: &ConnectRequest) -> String {
    let ConnectRequest {
        id,
        volume,
        info,
        access,
        disk,
    } = request;
    let rest = serde_json::json!([access, disk]).to_string();
    key.tag(&[
        b"connect",
        id.as_str().as_bytes(),
        volume.as_str().as_bytes(),
        rest.as_bytes(),
        info.canonical().as_bytes(),
    ])
}
