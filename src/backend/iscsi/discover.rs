//! The other portals of a target, as one of them tells (SendTargets, RFC 3720 appendix D), by iscsiadm.
//!
//! What is found is not kept: of what iscsiadm writes down by itself, every target that the portal has would be logged in to at the
//! host's next boot. The configuration of the question, with its password, is there for as long as the question takes.

use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use super::login::{Initiator, SPARE, address, meaning};
use super::record;
use crate::backend::{BackendError, mount};
use crate::connection::{Chap, MAX_PATHS};
use crate::model::TargetPath;

impl Initiator {
    /// The ways to the volume: that one, and the same by the target's other portals.
    pub(super) async fn discover(
        &self,
        path: &TargetPath,
        chap: Option<&Chap>,
    ) -> Result<Vec<TargetPath>, BackendError> {
        // There is one configuration a portal, so whoever asks there takes turns.
        let question = TargetPath {
            name: format!("discovery of {}", path.name),
            ..path.clone()
        };
        let gate = self.gate(&TargetPath {
            name: String::new(),
            ..path.clone()
        });
        let _turn = gate.0.lock().await;
        let address = address(path)?;
        self.probe(&question, address).await?;
        let nodes = &self.settings.nodes;
        let file = nodes
            .with_file_name("send_targets")
            .join(format!("{},{}", address.ip(), address.port()))
            .join("st_config");
        let timeout = self.settings.login_timeout.as_secs().max(1);
        let text = configuration(address, timeout, chap);
        let (nodes, conf) = (nodes.clone(), file.clone());
        let write = move || record::write(&nodes, &conf, &text);
        mount::blocking(|| format!("write {}", file.display()), write).await?;
        let within = self.settings.login_timeout + SPARE;
        let interface = &self.settings.interface;
        let args: Vec<&str> = "-m discoverydb -t sendtargets -o nonpersistent --discover"
            .split(' ')
            .chain(["-p", &path.portal, "-I", interface])
            .collect();
        let ended = self.iscsiadm(&args, within).await;
        let conf = file.clone();
        let remove = move || record::remove(&conf);
        mount::blocking(|| format!("remove {}", file.display()), remove).await?;
        match ended {
            Ok(ended) if ended.code == Some(0) => Ok(paths(path, &ended.output)),
            ended => Err(meaning(&question, address, chap, ended, within)),
        }
    }
}

/// What iscsiadm is to ask with (open-iscsi, usr/idbm.c: `idbm_recinfo_discovery`).
fn configuration(portal: SocketAddr, timeout: u64, chap: Option<&Chap>) -> Zeroizing<String> {
    // All the room at once: growing would leave copies of the passwords behind.
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let mut add = |key: &str, value: &str| {
        for piece in ["discovery.", key, " = ", value, "\n"] {
            text.push_str(piece);
        }
    };
    add("startup", "manual");
    add("type", "sendtargets");
    add("sendtargets.address", &portal.ip().to_string());
    add("sendtargets.port", &portal.port().to_string());
    add("sendtargets.timeo.login_timeout", &timeout.to_string());
    add("sendtargets.reopen_max", "1");
    for (key, value) in record::login(chap) {
        add(&format!("sendtargets.auth.{key}"), value);
    }
    text
}

/// The given path, then those to the same target in iscsiadm's answer: lines of `address:port,group name`. Addresses that mean
/// something on one link or one host alone are left out.
pub(super) fn paths(given: &TargetPath, answer: &str) -> Vec<TargetPath> {
    let mut paths = vec![given.clone()];
    for line in answer.lines() {
        let Some((portal, name)) = line.split_once(' ') else {
            continue;
        };
        let portal = portal.rsplit_once(',').map_or(portal, |(portal, _)| portal);
        let Ok(portal) = portal.parse::<SocketAddr>() else {
            continue;
        };
        let of_one_link = match portal.ip() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let path = TargetPath {
            portal: portal.to_string(),
            ..given.clone()
        };
        let reachable = !of_one_link && !portal.ip().is_unspecified();
        if name != given.name || !reachable || paths.contains(&path) {
            continue;
        }
        if paths.len() == MAX_PATHS {
            tracing::warn!(
                target = given.name,
                portal = given.portal,
                "the target names more portals than are taken: {MAX_PATHS}"
            );
            break;
        }
        paths.push(path);
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    #[test]
    fn the_portals_of_the_target_are_taken_each_once() {
        let given = TargetPath {
            portal: "10.0.0.1:3260".into(),
            name: "iqn.a".into(),
            lun: Some(3),
        };
        let answer = "10.0.0.1:3260,1 iqn.a\n10.0.0.2:3260,1 iqn.a\n[fd00::2]:3261,2 iqn.a\n10.0.0.2:3260,1 iqn.a\n\
                      10.0.0.3:3260,1 iqn.b\n[fe80::1]:3260,1 iqn.a\n0.0.0.0:3260,1 iqn.a\nname:3260,1 iqn.a\nx\n";
        let portals: Vec<String> = paths(&given, answer)
            .into_iter()
            .map(|it| it.portal)
            .collect();
        assert_eq!(
            portals,
            ["10.0.0.1:3260", "10.0.0.2:3260", "[fd00::2]:3261"]
        );
        assert_eq!(paths(&given, ""), std::slice::from_ref(&given));
        let endless: String = (1..=9999)
            .map(|port| format!("10.0.0.9:{port},1 iqn.a\n"))
            .collect();
        assert_eq!(paths(&given, &endless).len(), MAX_PATHS);
    }

    #[test]
    fn a_question_has_its_own_login() {
        let chap = Chap {
            username: "u".into(),
            password: Secret::from("hunter2"),
            target: None,
        };
        let text = configuration("[fd00::2]:3260".parse().unwrap(), 10, Some(&chap));
        insta::assert_snapshot!(text.as_str(), @r"
        discovery.startup = manual
        discovery.type = sendtargets
        discovery.sendtargets.address = fd00::2
        discovery.sendtargets.port = 3260
        discovery.sendtargets.timeo.login_timeout = 10
        discovery.sendtargets.reopen_max = 1
        discovery.sendtargets.auth.authmethod = CHAP
        discovery.sendtargets.auth.username = u
        discovery.sendtargets.auth.password = hunter2
        ");
    }
}
