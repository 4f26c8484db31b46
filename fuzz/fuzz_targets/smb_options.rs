//! Any text as the options of an SMB volume: a value or an error, and what was accepted has but one meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use volattach::connection::{ConnectionInfo, Protocol, SmbCredentials};

fuzz_target!(|options: &str| {
    let json = serde_json::json!({
        "driver_volume_type": "smbfs", "export": "//nas/vols", "name": "volume", "options": options,
    });
    let Ok(info) = ConnectionInfo::from_cinder_json(&json.to_string()) else {
        return;
    };
    let Protocol::Smb(volume) = info.protocol else {
        unreachable!("smbfs");
    };
    for (name, value) in &volume.options {
        let plain = |text: &str| !text.contains([',', '=', '/', '\\', ' ', '"', '\'']);
        assert!(plain(name) && value.as_deref().is_none_or(plain), "{name}");
        assert!(!matches!(
            name.as_str(),
            "ro" | "rw" | "suid" | "dev" | "exec" | "credentials"
        ));
    }
    if let SmbCredentials::Password {
        username, password, ..
    } = volume.credentials
    {
        assert!(!username.is_empty() && !username.contains(['\\', '/']));
        assert!(password.expose().encode_utf16().count() <= 128);
    }
});
