//! One spelling for one connection: what equal requests have in common, secrets included.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{ConnectionInfo, LocalVolume, Protocol, SmbCredentials, SmbVolume};

impl ConnectionInfo {
    /// Everything in the connection info in one fixed spelling, **secrets included**: input for
    /// [`crate::model::HostKey::tag`] and nothing else. The spelling is remembered (hashed) in the journal, so it
    /// must not change between versions without reason: an unfinished request repeated after an upgrade would
    /// be taken for another one.
    #[must_use]
    pub fn canonical(&self) -> Zeroizing<String> {
        let common = &self.common;
        let protocol = match &self.protocol {
            Protocol::Smb(volume) => smb(volume),
            Protocol::Local(volume) => local(volume),
        };
        Zeroizing::new(
            json!({
                "read_only_by": common.read_only_by,
                "iotune": common.iotune,
                "discard": common.discard,
                "logical_block_size": common.logical_block_size,
                "physical_block_size": common.physical_block_size,
                "multiattach": common.multiattach,
                "protocol": protocol,
            })
            .to_string(),
        )
    }
}

fn smb(volume: &SmbVolume) -> Value {
    json!({
        "smb": [volume.host, volume.share, volume.folder, volume.name],
        "format": volume.format,
        "credentials": credentials(&volume.credentials),
        "options": volume.options,
    })
}

fn credentials(credentials: &SmbCredentials) -> Value {
    match credentials {
        SmbCredentials::Guest => json!("guest"),
        SmbCredentials::Password {
            username,
            password,
            domain,
        } => {
            json!({ "username": username, "password": password.expose(), "domain": domain })
        }
        SmbCredentials::File(path) => json!({ "file": path }),
        SmbCredentials::Kerberos {
            sec,
            username,
            domain,
        } => {
            json!({ "sec": sec, "username": username, "domain": domain })
        }
    }
}

fn local(volume: &LocalVolume) -> Value {
    json!({ "local": volume.device_path, "format": volume.format })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Common;
    use crate::model::{ImageFormat, Secret};

    fn info(password: &str) -> ConnectionInfo {
        ConnectionInfo {
            common: Common::default(),
            protocol: Protocol::Smb(SmbVolume {
                host: "files".into(),
                share: "vols".into(),
                folder: String::new(),
                name: "v1".into(),
                format: ImageFormat::Raw,
                credentials: SmbCredentials::Password {
                    username: "bob".into(),
                    password: Secret::from(password),
                    domain: None,
                },
                options: vec![("seal".into(), None)],
            }),
        }
    }

    #[test]
    fn equal_requests_are_spelled_alike_and_others_are_not() {
        assert_eq!(info("x").canonical(), info("x").canonical());
        assert_ne!(info("x").canonical(), info("y").canonical());
        let mut read_only = info("x");
        read_only.common.read_only_by = vec![crate::model::AccessSource::Readonly];
        assert_ne!(info("x").canonical(), read_only.canonical());
    }
}
