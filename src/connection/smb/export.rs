//! The export: `//host/share[/folder]`, with slashes or backslashes.

use crate::connection::ConnectionError;
use crate::connection::path::Key;
use crate::model::server_name;

/// The parts of an export.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// In lower case; an IPv6 address without brackets.
    pub(super) host: String,
    /// The share's name.
    pub(super) share: String,
    /// Beneath the share; empty: its root.
    pub(super) folder: String,
}

/// Takes an export apart. Different spellings of one export come out equal.
pub(super) fn parse(key: Key<'_>, text: &str) -> Result<Export, ConnectionError> {
    key.check_text(text)?;
    let text = text.replace('\\', "/");
    let Some(rest) = text.strip_prefix("//") else {
        return Err(key.invalid("does not begin with //"));
    };
    let (host, path) = rest
        .split_once('/')
        .ok_or_else(|| key.invalid("names no share"))?;
    if host.is_empty() {
        return Err(key.invalid("names no host"));
    }
    if host.contains('@') {
        return Err(key.invalid("has a user in its host: give it as the mount option username="));
    }
    let host = server_name(host).map_err(|problem| ConnectionError::Host {
        key: key.path.to_owned(),
        problem,
    })?;
    let (share, folder) = path.split_once('/').unwrap_or((path, ""));
    if share.is_empty() {
        return Err(key.invalid("names no share"));
    }
    key.check_component(share)?;
    if share.eq_ignore_ascii_case("ipc$") {
        return Err(key.invalid("names IPC$, which holds no files"));
    }
    let folder: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for component in &folder {
        key.check_component(component)?;
    }
    Ok(Export {
        host,
        share: share.to_owned(),
        folder: folder.join("/"),
    })
}
