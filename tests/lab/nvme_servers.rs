//! NVMe/TCP servers in the node: each a subsystem of the kernel's nvmet, in a network namespace of its own (see lab-nvme).

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    node::Node,
    process::quote,
    profile::{self, Activity},
};

/// Volumes' UUIDs: A begins with `volume A........`, and so on.
pub(crate) const A: &str = "7c9e6679-7425-40de-944b-e07fc1f90a0a";
pub(crate) const B: &str = "7c9e6679-7425-40de-944b-e07fc1f90a0b";
pub(crate) const C: &str = "7c9e6679-7425-40de-944b-e07fc1f90a0c";
/// B's NGUID.
pub(crate) const B_NGUID: &str = "11111111-2222-3333-4444-55555555550b";

/// A running server. The runner removes it after the test.
pub(crate) struct NvmeServer<'node> {
    node: &'node Node,
    name: &'static str,
    ports: &'static [u8],
}

impl<'node> NvmeServer<'node> {
    /// Starts one with a port at 10.99.0.N for each of `ports`, and the volumes A (namespace 7) and B (namespace 3).
    pub(crate) fn start(
        node: &'node Node,
        name: &'static str,
        ports: &'static [u8],
    ) -> Result<Self> {
        let server = Self::empty(node, name, ports)?;
        server.volume(7, A, "", "volume A........")?;
        server.volume(3, B, B_NGUID, "volume B........")?;
        Ok(server)
    }

    /// Starts one without volumes: no two on a host may have one identity.
    pub(crate) fn empty(
        node: &'node Node,
        name: &'static str,
        ports: &'static [u8],
    ) -> Result<Self> {
        let server = Self { node, name, ports };
        let ports: Vec<String> = ports.iter().map(u8::to_string).collect();
        server.verb(&format!("start {{}} {}", ports.join(" ")))?;
        Ok(server)
    }

    /// `lab-nvme` with the server's name for `{}`.
    pub(crate) fn verb(&self, verb: &str) -> Result<String> {
        let script = format!("lab-nvme {}", verb.replace("{}", self.name));
        let word = verb.split(' ').next().unwrap_or_default();
        profile::span(Activity::Servers, &format!("nvme {word}"), || {
            self.node.sh(&script)
        })
    }

    /// Makes a volume of 8 MiB that begins with `head`, and shows it as the namespace of that number; `nguid` may be empty.
    pub(crate) fn volume(&self, nsid: u32, uuid: &str, nguid: &str, head: &str) -> Result<()> {
        let script = format!(
            "printf %s {} | lab-nvme volume {} {nsid} 8 {uuid} {nguid}",
            quote(head),
            self.name
        );
        profile::span(Activity::Servers, "nvme volume", || self.node.sh(&script)).map(drop)
    }

    fn nqn(&self) -> String {
        format!("nqn.2026-01.org.lab:{}", self.name)
    }

    /// Connection info for a namespace by its UUID, over all ports.
    pub(crate) fn info(&self, uuid: &str) -> Value {
        let portals: Vec<Value> = self
            .ports
            .iter()
            .map(|port| json!([format!("10.99.0.{port}"), "4420", "tcp"]))
            .collect();
        json!({"driver_volume_type": "nvmeof", "data": {
            "target_nqn": self.nqn(), "vol_uuid": uuid, "portals": portals,
        }})
    }

    /// The older shape, over the first port: by number.
    pub(crate) fn by_number(&self, nsid: u32) -> Value {
        json!({"driver_volume_type": "nvmeof", "data": {
            "nqn": self.nqn(), "target_portal": format!("10.99.0.{}", self.ports[0]), "target_port": 4420,
            "transport_type": "tcp", "ns_id": nsid.to_string(),
        }})
    }
}
