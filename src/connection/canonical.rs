//! One spelling for one connection: what equal requests have in common, secrets included.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Chap, ConnectionInfo, IscsiVolume, LocalVolume, NfsVolume, NvmeVolume, Protocol,
    SmbCredentials, SmbVolume,
};
use crate::model::Wwid;

impl ConnectionInfo {
    /// Everything in the connection info in one fixed spelling, **secrets included**: input for
    /// [`crate::model::HostKey::tag`] and nothing else. The spelling is remembered (hashed) in the journal, so it
    /// must not change between versions without reason: an unfinished request repeated after an upgrade would
    /// be taken for another one.
    ///
    /// The password stands behind the rest, which is JSON without line feeds: so that it is nowhere but in the one
    /// buffer that is wiped, and never looks like part of anything else. Several passwords, which then hold no line feed, have
    /// one between them.
    #[must_use]
    pub fn canonical(&self) -> Zeroizing<String> {
        let common = &self.common;
        let (protocol, passwords) = match &self.protocol {
            Protocol::Smb(volume) => (smb(volume), vec![password(&volume.credentials)]),
            Protocol::Local(volume) => (local(volume), vec![""]),
            Protocol::Nfs(volume) => (nfs(volume), vec![""]),
            Protocol::Nvme(volume) => (nvme(volume), vec![""]),
            Protocol::Iscsi(volume) => (iscsi(volume), iscsi_passwords(volume)),
        };
        let rest = json!({
            "read_only_by": common.read_only_by,
            "iotune": common.iotune,
            "discard": common.discard,
            "logical_block_size": common.logical_block_size,
            "physical_block_size": common.physical_block_size,
            "multiattach": common.multiattach,
            "protocol": protocol,
        })
        .to_string();
        // All the room at once: growing would leave a copy of the password behind.
        let length = passwords.iter().map(|it| 1 + it.len()).sum::<usize>();
        let mut spelling = Zeroizing::new(String::with_capacity(rest.len() + length));
        spelling.push_str(&rest);
        for password in passwords {
            spelling.push('\n');
            spelling.push_str(password);
        }
        spelling
    }
}

fn password(credentials: &SmbCredentials) -> &str {
    match credentials {
        SmbCredentials::Password { password, .. } => password.expose(),
        SmbCredentials::Guest | SmbCredentials::File(_) | SmbCredentials::Kerberos { .. } => "",
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
            domain,
            password: _,
        } => json!({ "username": username, "domain": domain }),
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

fn nfs(volume: &NfsVolume) -> Value {
    json!({
        "nfs": [volume.host, volume.path, volume.name],
        "format": volume.format,
        "options": volume.options,
    })
}

fn iscsi(volume: &IscsiVolume) -> Value {
    let paths: Vec<Value> = volume
        .paths
        .iter()
        .map(|path| json!([path.portal.to_string(), path.target, path.lun]))
        .collect();
    let users = |chap: &Chap| json!([chap.username, chap.target.as_ref().map(|(name, _)| name)]);
    let mut spelling = json!({
        "iscsi": paths,
        "chap": volume.chap.as_ref().map(users),
        "identity": volume.identity.as_ref().map(Wwid::as_str),
        "enforce_multipath": volume.enforce_multipath,
    });
    if let Some(discovery) = &volume.discovery {
        spelling["discovery"] = json!(discovery.chap.as_ref().map(users));
    }
    spelling
}

/// In the order of their users.
fn iscsi_passwords(volume: &IscsiVolume) -> Vec<&str> {
    let discovery = volume.discovery.as_ref();
    let asks = discovery.and_then(|discovery| discovery.chap.as_ref());
    let first = volume.chap.is_none().then_some("");
    let chap = volume.chap.iter().chain(asks).flat_map(|chap| {
        let target = chap.target.as_ref().map(|(_, it)| it.expose());
        [Some(chap.password.expose()), target].into_iter().flatten()
    });
    first.into_iter().chain(chap).collect()
}

fn nvme(volume: &NvmeVolume) -> Value {
    json!({
        "nvme": volume.nqn,
        "portals": volume.portals,
        "volume": [json!(volume.uuid), json!(volume.nguid), json!(volume.nsid)],
        "host_nqn": volume.host_nqn,
        "format": volume.format,
    })
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

    #[test]
    fn the_spelling_stays_and_the_password_is_last_in_it_alone() {
        let spelling = info("p\n\"w").canonical();
        insta::assert_snapshot!(spelling.as_str(), @r#"
        {"discard":false,"iotune":null,"logical_block_size":null,"multiattach":false,"physical_block_size":null,"protocol":{"credentials":{"domain":null,"username":"bob"},"format":"raw","options":[["seal",null]],"smb":["files","vols","","v1"]},"read_only_by":[]}
        p
        "w
        "#);
        // Exactly full: nothing was moved, so no copy was left.
        assert_eq!(spelling.capacity(), spelling.len());
    }

    #[test]
    fn kinds_of_credentials_are_not_mixed_up() {
        let with = |credentials| {
            let mut info = info("");
            if let Protocol::Smb(volume) = &mut info.protocol {
                volume.credentials = credentials;
            }
            info.canonical().to_string()
        };
        let all = [
            info("").canonical().to_string(),
            with(SmbCredentials::Guest),
            with(SmbCredentials::File("/c/bob".into())),
            with(SmbCredentials::Kerberos {
                sec: "krb5".into(),
                username: Some("bob".into()),
                domain: None,
            }),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
