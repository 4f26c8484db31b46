//! iSCSI targets in the node (see lab-iscsi).

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    guest,
    node::Node,
    process::quote,
    profile::{self, Activity},
};

/// The lab's targets and volumes. The runner removes them after the test.
pub(crate) struct Targets<'node> {
    node: &'node Node,
}

impl<'node> Targets<'node> {
    /// Volumes of 8 MiB, each beginning with its name.
    pub(crate) fn new(node: &'node Node, volumes: &[&str]) -> Result<Self> {
        let targets = Self { node };
        for volume in volumes {
            targets.run(&["volume", volume, "8", &head(volume)])?;
        }
        Ok(targets)
    }

    /// `lab-iscsi` with these words; what it prints.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
        let script = format!("lab-iscsi {}", quoted.join(" "));
        profile::span(Activity::Servers, &format!("iscsi {}", words[0]), || {
            self.node.sh(&script)
        })
    }

    /// Makes a target with a portal at each 10.99.0.N, and gives it volumes by LUN.
    pub(crate) fn target(&self, name: &str, portals: &[u8], luns: &[(u16, &str)]) -> Result<()> {
        let octets: Vec<String> = portals.iter().map(u8::to_string).collect();
        let mut words = vec!["target", name];
        words.extend(octets.iter().map(String::as_str));
        self.run(&words)?;
        for (lun, volume) in luns {
            self.run(&["map", name, &lun.to_string(), volume])?;
        }
        Ok(())
    }

    /// The path of a volume's bytes in the node.
    pub(crate) fn path(&self, volume: &str) -> String {
        format!("/srv/lab-iscsi/{volume}")
    }
}

/// What a volume begins with: 16 bytes.
pub(crate) fn head(volume: &str) -> String {
    format!("{volume:.<16}")
}

/// The same as the guest tells it.
pub(crate) fn head_hex(volume: &str) -> String {
    guest::hex(&head(volume))
}

pub(crate) fn iqn(target: &str) -> String {
    format!("iqn.2026-01.org.lab:{target}")
}

/// Cinder's connection info for a LUN by the portal 10.99.0.N.
pub(crate) fn iscsi_info(portal: u8, target: &str, lun: u16) -> Value {
    json!({
        "driver_volume_type": "iscsi",
        "data": {
            "target_discovered": false,
            "target_portal": format!("10.99.0.{portal}:3260"),
            "target_iqn": iqn(target),
            "target_lun": lun,
        },
    })
}

/// The same by several portals, each with its target.
pub(crate) fn multipath_info(paths: &[(u8, &str)], lun: u16) -> Value {
    let portals: Vec<_> = paths
        .iter()
        .map(|(n, _)| format!("10.99.0.{n}:3260"))
        .collect();
    let names: Vec<_> = paths.iter().map(|(_, target)| iqn(target)).collect();
    json!({
        "driver_volume_type": "iscsi",
        "data": {
            "target_portals": portals,
            "target_iqns": names,
            "target_luns": vec![lun; paths.len()],
        },
    })
}

/// With CHAP.
pub(crate) fn with_chap(mut info: Value, username: &str, password: &str) -> Value {
    info["data"]["auth_method"] = json!("CHAP");
    info["data"]["auth_username"] = json!(username);
    info["data"]["auth_password"] = json!(password);
    info
}
