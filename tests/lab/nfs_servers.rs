//! NFS servers in the node: each the kernel's own in namespaces of its own, at an address of its own (see lab-nfs).

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    node::Node,
    process::quote,
    profile::{self, Activity},
};

/// A running server. The runner removes it after the test.
pub(crate) struct NfsServer<'node> {
    node: &'node Node,
    name: &'static str,
    /// 10.99.0.N
    pub(crate) address: String,
}

impl<'node> NfsServer<'node> {
    /// Starts a server at 10.99.0.`octet` and fd99::`octet` with one export; `options` are the export's, and
    /// `arguments` go to rpc.nfsd.
    pub(crate) fn start(
        node: &'node Node,
        name: &'static str,
        octet: u8,
        options: &str,
        arguments: &str,
    ) -> Result<Self> {
        let server = Self {
            node,
            name,
            address: format!("10.99.0.{octet}"),
        };
        let exports = format!("{} *({options},no_subtree_check)\n", server.export());
        let script = format!("lab-nfs start {name} {octet} {arguments}");
        let output = profile::span(Activity::Servers, "nfs start", || {
            node.run(&script, exports.as_bytes(), Duration::from_secs(180))
        })?;
        ensure!(
            output.status.success(),
            "starting NFS server {name}: {}{}",
            output.stdout,
            output.stderr
        );
        Ok(server)
    }

    /// Exports the same directory anew, with these options.
    pub(crate) fn export_anew(&self, options: &str) -> Result<()> {
        let exports = format!("{} *({options},no_subtree_check)\n", self.export());
        let script = format!("lab-nfs export {}", self.name);
        let output = self
            .node
            .run(&script, exports.as_bytes(), Duration::from_secs(180))?;
        ensure!(output.status.success(), "{script}: {}", output.stderr);
        Ok(())
    }

    /// What it exports. At its root, as an appliance does: of a deeper path, each directory of the way is a file system of its own
    /// for who mounts (mountd's `v4root`).
    pub(crate) fn export(&self) -> String {
        format!("/{}", self.name)
    }

    /// Where the server keeps a file, as a path in the node; that of no file is what is exported.
    pub(crate) fn path(&self, file: &str) -> String {
        format!("/srv/lab-nfs/{}/exports/{file}", self.name)
    }

    /// Makes a raw volume of 8 MiB that belongs to QEMU's user and begins with `head`.
    pub(crate) fn volume(&self, file: &str, head: &str) -> Result<()> {
        let path = quote(&self.path(file));
        let script = format!(
            "printf %s {} >{path} && truncate -s 8M {path} && chown libvirt-qemu: {path} && chmod 600 {path}",
            quote(head)
        );
        profile::span(Activity::Servers, "nfs volume", || self.node.sh(&script)).map(drop)
    }

    /// Cinder's connection info for a volume on it.
    pub(crate) fn info(&self, name: &str, options: &str) -> Value {
        json!({
            "driver_volume_type": "nfs",
            "data": {
                "export": format!("{}:{}", self.address, self.export()),
                "name": name,
                "format": "raw",
                "options": options,
            },
        })
    }

    /// `kill`, `revive`, `pause`, `resume`, `silence` or `unsilence`: lab-nfs tells what each is.
    pub(crate) fn verb(&self, verb: &str) -> Result<()> {
        let script = format!("lab-nfs {verb} {}", self.name);
        profile::span(Activity::Servers, &format!("nfs {verb}"), || {
            self.node.sh(&script)
        })
        .map(drop)
    }
}
