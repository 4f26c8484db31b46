//! What holds of any connection info that was taken.

use serde_json::Value;

use super::{ConnectionInfo, Protocol, SmbCredentials};
use crate::model::AccessSource;
use crate::model::chain;

/// Any text as Cinder's JSON: a value that keeps what the backends rely on, or an error of one line. Never may what says
/// read-only be lost.
pub(crate) fn cinder_json(text: &str) {
    let info = match ConnectionInfo::from_cinder_json(text) {
        Ok(info) => info,
        Err(error) => {
            let said = chain(&error);
            assert!(!said.contains(char::is_control), "{said:?}");
            return;
        }
    };
    assert_eq!(ConnectionInfo::from_cinder_json(text).as_ref(), Ok(&info));
    assert!(!info.canonical().is_empty());
    says_read_only(text, &info);
    match info.protocol {
        Protocol::Smb(volume) => {
            let path = [volume.share.as_str(), &volume.folder, &volume.name].join("/");
            assert!(!volume.host.is_empty() && !volume.share.is_empty() && !volume.name.is_empty());
            assert!(!volume.name.starts_with('/') && !volume.share.contains('/'));
            assert!(path.split('/').all(|part| part != "." && part != ".."));
            assert!(!path.contains(|c: char| c == '\\' || c.is_control()));
        }
        Protocol::Local(volume) => {
            assert!(volume.device_path.is_absolute());
            let path = volume.device_path.to_string_lossy();
            assert!(!path.split('/').any(|part| part == "..") && !path.contains(char::is_control));
        }
        Protocol::Nfs(volume) => {
            assert!(volume.path.starts_with('/') && !volume.name.starts_with('/'));
            let whole = format!("{}/{}", volume.path, volume.name);
            assert!(!whole.split('/').any(|part| part == ".."));
            assert!(!whole.contains(char::is_control));
        }
        Protocol::Iscsi(volume) => {
            assert!(!volume.paths.is_empty());
            for path in volume.paths {
                assert!(path.lun < 32768 && !path.target.contains(['/', ' ', '\n', '\0']));
                assert!(!path.target.is_empty() && path.target != "." && path.target != "..");
            }
        }
        Protocol::Nvme(volume) => {
            let names = [Some(&volume.nqn), volume.host_nqn.as_ref()];
            for name in names.into_iter().flatten() {
                assert!(name.starts_with("nqn.") && name.len() <= 223);
                assert!(!name.contains(|c: char| c == ',' || c.is_control()));
            }
            assert!(volume.portals.iter().all(|portal| portal.port() != 0));
            assert!(!volume.portals.is_empty());
            assert!(volume.uuid.is_some() || volume.nguid.is_some() || volume.nsid.is_some());
        }
    }
}

/// Checks that each of three keys, on either level of the document, makes the volume read-only.
fn says_read_only(text: &str, info: &ConnectionInfo) {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    for level in [Some(&document), document.get("data")]
        .into_iter()
        .flatten()
    {
        let has = |source| info.common.read_only_by.contains(&source);
        if level.get("access_mode").and_then(Value::as_str) == Some("ro") {
            assert!(has(AccessSource::AccessMode));
        }
        if level.get("attach_mode").and_then(Value::as_str) == Some("ro") {
            assert!(has(AccessSource::AttachMode));
        }
        if level.get("readonly").and_then(Value::as_bool) == Some(true) {
            assert!(has(AccessSource::Readonly));
        }
    }
}

/// Any text as the options of an SMB volume: a value or an error, and what was accepted has but one meaning.
pub(crate) fn smb_options(options: &str) {
    let json = serde_json::json!({
        "driver_volume_type": "smbfs", "export": "//nas/vols", "name": "volume", "options": options,
    });
    let Ok(info) = ConnectionInfo::from_cinder_json(&json.to_string()) else {
        return;
    };
    let read_only = info
        .common
        .read_only_by
        .contains(&AccessSource::MountOptions);
    // A quote, a doubled comma or a space may make it a part of a user's name or a password; without them an option is one.
    if !options.contains(['"', '\'', '\\']) && !options.contains(",,") {
        let mut parts = options.split(',').map(|part| {
            let words: Vec<_> = part
                .split([' ', '\t'])
                .filter(|word| !word.is_empty())
                .collect();
            words == ["ro"] || words.ends_with(&["-o", "ro"])
        });
        assert!(read_only || !parts.any(|ro| ro), "{options:?}");
    }
    let Protocol::Smb(volume) = info.protocol else {
        return;
    };
    for option in &volume.options {
        let (name, value) = (option.0.as_str(), option.1.as_deref());
        let plain = |text: &str| !text.contains([',', '=', '/', '\\', ' ', '"', '\'', '\n', '\0']);
        assert!(plain(name) && value.is_none_or(plain), "{name}");
        assert!(!matches!(
            name,
            "ro" | "rw" | "suid" | "dev" | "exec" | "credentials" | "ip" | "prefixpath"
        ));
    }
    if let SmbCredentials::Password {
        username, password, ..
    } = volume.credentials
    {
        assert!(!username.is_empty() && !username.contains(['\\', '/']));
        assert!(password.expose().encode_utf16().count() <= 128);
    }
}
