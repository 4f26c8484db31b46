//! SMB servers in the node: each a Samba of its own at an address of its own (see lab-smb).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    node::Node,
    process::quote,
    profile::{self, Activity},
};

/// A running server. The runner removes it after the test.
pub(crate) struct SmbServer<'node> {
    node: &'node Node,
    name: &'static str,
    /// 10.99.0.N, or the domain controller's name
    pub(crate) address: String,
}

impl<'node> SmbServer<'node> {
    /// Starts a server at 10.99.0.`octet` with these shares, read-write for all its users; `global` are further
    /// lines for smb.conf's `[global]`.
    pub(crate) fn start(
        node: &'node Node,
        name: &'static str,
        octet: u8,
        shares: &[&str],
        global: &str,
    ) -> Result<Self> {
        let address = format!("10.99.0.{octet}");
        Self::run(node, "start", name, octet, &address, shares, global)
    }

    /// Starts the domain controller of the Active Directory domain LAB.TEST, with these shares. Its user alice has the
    /// password Al1ce-pass, and her keytab is /srv/ad/alice.keytab.
    pub(crate) fn start_ad(node: &'node Node, shares: &[&str]) -> Result<Self> {
        Self::run(node, "start-ad", "dc", 20, "dc1.lab.test", shares, "")
    }

    /// Starts impacket's server at 10.99.0.30, with the share `vols` and the user bob, whose password is pw.
    pub(crate) fn start_impacket(node: &'node Node) -> Result<Self> {
        let address = "10.99.0.30";
        Self::run(node, "start-impacket", "other", 30, address, &["vols"], "")
    }

    fn run(
        node: &'node Node,
        verb: &str,
        name: &'static str,
        octet: u8,
        address: &str,
        shares: &[&str],
        global: &str,
    ) -> Result<Self> {
        let server = Self {
            node,
            name,
            address: address.to_owned(),
        };
        let mut conf = format!("{global}\n");
        let mut script = String::from("set -e\n");
        for share in shares {
            let path = server.path(share, "");
            conf += &format!("[{share}]\npath = {path}\nread only = no\n");
            script += &format!("mkdir -p {}\n", quote(&path));
        }
        script += &format!("lab-smb {verb} {name} {octet}");
        let output = profile::span(Activity::Servers, &format!("smb {verb}"), || {
            node.run(&script, conf.as_bytes(), Duration::from_secs(180))
        })?;
        ensure!(
            output.status.success(),
            "starting SMB server {name}: {}{}",
            output.stdout,
            output.stderr
        );
        Ok(server)
    }

    /// Makes a user, or gives it another password.
    pub(crate) fn user(&self, user: &str, password: &str) -> Result<()> {
        let script = format!("lab-smb user {} {}", self.name, quote(user));
        let output = profile::span(Activity::Servers, "smb user", || {
            self.node
                .run(&script, password.as_bytes(), Duration::from_secs(180))
        })?;
        ensure!(
            output.status.success(),
            "user {user} of {}: {}{}",
            self.name,
            output.stdout,
            output.stderr
        );
        Ok(())
    }

    /// Where the server keeps a file of a share, as a path in the node.
    pub(crate) fn path(&self, share: &str, file: &str) -> String {
        format!("/srv/lab/{}/shares/{share}/{file}", self.name)
    }

    /// Makes a raw volume of `mebibytes` on a share; it begins with `head`.
    pub(crate) fn volume(&self, share: &str, file: &str, mebibytes: u32, head: &str) -> Result<()> {
        let path = quote(&self.path(share, file));
        let script = format!(
            "mkdir -p \"$(dirname {path})\" && printf %s {} >{path} && truncate -s {mebibytes}M {path}",
            quote(head)
        );
        profile::span(Activity::Servers, "smb volume", || self.node.sh(&script)).map(drop)
    }

    /// `kill`, `revive`, or one of those below: lab-smb tells what each is.
    pub(crate) fn verb(&self, verb: &str) -> Result<()> {
        let script = format!("lab-smb {verb} {}", self.name);
        profile::span(Activity::Servers, &format!("smb {verb}"), || {
            self.node.sh(&script)
        })
        .map(drop)
    }

    /// SIGSTOP: connections are accepted (by the server's kernel) and never answered.
    pub(crate) fn pause(&self) -> Result<()> {
        self.verb("pause")
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) -> Result<()> {
        self.verb("resume")
    }

    /// No packet is answered any more, as by a machine without power.
    pub(crate) fn silence(&self) -> Result<()> {
        self.verb("silence")
    }

    /// The end of [`Self::silence`].
    pub(crate) fn unsilence(&self) -> Result<()> {
        self.verb("unsilence")
    }
}

/// Cinder's connection info for a volume on a server.
pub(crate) fn smb_info(server: &SmbServer<'_>, share: &str, name: &str, options: &str) -> Value {
    json!({
        "driver_volume_type": "smbfs",
        "data": {
            "export": format!("//{}/{share}", server.address),
            "name": name,
            "format": "raw",
            "options": options,
        },
    })
}

/// Removes every server, whatever state it is in. One that does not go tells at which command, and what waits in the kernel.
pub(crate) fn remove_all(node: &Node) -> Result<()> {
    let script = "stop() { bash -x /usr/local/sbin/lab-$1 stop $2; }
         for kind in smb nfs nvme; do
             for name in $(lab-$kind list); do stop $kind \"$name\"; done
         done
         ! [ -e /srv/lab-iscsi ] || stop iscsi";
    profile::span(Activity::Servers, "removal", || node.sh(script))
        .with_context(|| {
            let waiting = node.sh(
                "ps -eo pid,ppid,stat,wchan:32,args | grep -E '^( *[0-9]+){2} D|lab-'
                 for task in /proc/[0-9]*; do
                     ! grep -q '^State:.D' $task/status || tail -n +1 $task/stack
                 done",
            );
            waiting.unwrap_or_else(|error| format!("{error:#}"))
        })
        .map(drop)
}
