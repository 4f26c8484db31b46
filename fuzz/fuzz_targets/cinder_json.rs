//! Any text as Cinder's JSON: a value or an error, and what was accepted keeps what the backends rely on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use volattach::connection::{ConnectionInfo, Protocol};

fuzz_target!(|text: &str| {
    match ConnectionInfo::from_cinder_json(text) {
        Err(error) => {
            let _ = error.to_string();
        }
        Ok(info) => match info.protocol {
            Protocol::Smb(volume) => {
                let path = [volume.share.as_str(), &volume.folder, &volume.name].join("/");
                assert!(
                    !volume.host.is_empty() && !volume.share.is_empty() && !volume.name.is_empty()
                );
                assert!(!volume.name.starts_with('/') && !volume.share.contains('/'));
                assert!(path.split('/').all(|part| part != "." && part != ".."));
                assert!(!path.contains(|c: char| c == '\\' || c.is_control()));
            }
            Protocol::Local(volume) => {
                assert!(volume.device_path.is_absolute());
                assert!(!volume.device_path.to_string_lossy().contains("/../"));
            }
            Protocol::Nfs(volume) => {
                assert!(volume.path.starts_with('/') && !volume.name.starts_with('/'));
                let whole = format!("{}/{}", volume.path, volume.name);
                assert!(!whole.split('/').any(|part| part == ".."));
            }
            Protocol::Iscsi(volume) => {
                assert!(!volume.paths.is_empty());
                for path in volume.paths {
                    assert!(path.lun < 32768 && !path.target.contains(['/', ' ']));
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
                assert!(
                    volume.uuid.is_some() || volume.nguid.is_some() || volume.nsid.is_some()
                );
            }
        },
    }
});
