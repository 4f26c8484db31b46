//! What the settings come to for one server.

use std::path::Path;

use super::{Smb, SmbKerberos, SmbServer};
use crate::model::mount_options::{EffectiveOption, MountOption, Origin, SMB};

impl Smb {
    /// The overrides for a server, by its name or address as connection info writes it.
    #[must_use]
    pub fn server(&self, host: &str) -> Option<&SmbServer> {
        self.servers.get(&host.to_lowercase())
    }

    /// The versions that may be used with a server, newest first.
    #[must_use]
    pub fn versions_for(&self, host: &str) -> &[String] {
        self.server(host)
            .and_then(|server| server.versions.as_deref())
            .unwrap_or(&self.versions)
    }

    /// Whether every volume on a server is read-only.
    #[must_use]
    pub fn read_only(&self, host: &str) -> bool {
        self.server(host).is_some_and(|server| server.read_only)
    }

    /// As whom this host logs in to a server with Kerberos, and which layer says so.
    #[must_use]
    pub fn kerberos(&self, host: &str) -> Option<(&SmbKerberos, Origin)> {
        let of_server = self
            .server(host)
            .and_then(|server| server.kerberos.as_ref());
        match of_server {
            Some(kerberos) => Some((kerberos, Origin::ServerDefault)),
            None => Some((self.kerberos.as_ref()?, Origin::Default)),
        }
    }

    /// The directory of this host that a share is, where the deployer says so.
    #[must_use]
    pub fn local_share(&self, host: &str, share: &str) -> Option<&Path> {
        self.local_shares
            .get(&(host.to_lowercase(), share.to_ascii_lowercase()))
            .map(|directory| directory.as_path())
    }

    /// The mount options for a volume on a server, and where each comes from; `given` are its connection info's.
    ///
    /// From the weakest to the strongest: built in, `smb.default_options` (with `smb.uid` and `smb.gid`), the server's
    /// `default_options`, connection info, the server's `mandatory_options`, `smb.mandatory_options`, and what cannot
    /// be changed. `vers` is among them only where connection info asks for one; credentials, addresses and
    /// mount flags never are.
    #[must_use]
    pub fn effective_options(&self, host: &str, given: &[MountOption]) -> Vec<EffectiveOption> {
        let server = self.server(host);
        let owner = [
            ("uid".to_owned(), Some(self.uid.to_string())),
            ("gid".to_owned(), Some(self.gid.to_string())),
        ];
        SMB.merge([
            (Origin::BuiltIn, &*built_in()),
            (Origin::Default, &owner),
            (Origin::Default, &self.default_options),
            (
                Origin::ServerDefault,
                server.map_or(&[], |server| &*server.default_options),
            ),
            (Origin::ConnectionInfo, given),
            (
                Origin::ServerMandatory,
                server.map_or(&[], |server| &*server.mandatory_options),
            ),
            (Origin::Mandatory, &self.mandatory_options),
            (Origin::Fixed, &*fixed()),
        ])
    }
}

fn option(name: &str, value: &str) -> MountOption {
    (name.to_owned(), Some(value.to_owned()))
}

fn flag(name: &str) -> MountOption {
    (name.to_owned(), None)
}

/// Where nobody says otherwise.
fn built_in() -> Vec<MountOption> {
    vec![
        option("port", "445"), // named, or the kernel tries 445 and then waits for 139 as well
        option("file_mode", "0600"),
        option("dir_mode", "0700"),
        flag("soft"), // `hard` blocks until the server is back, and cannot be killed
        option("echo_interval", "10"), // a dead server is noticed after three of these
        // QEMU's image locks are shared byte-range locks, and a share's are mandatory: one on a byte of the first
        // sector makes the guest's own writes to it fail (fs/smb/client/file.c, cifs_find_fid_lock_conflict).
        flag("nobrl"),
    ]
}

/// What nobody can change.
fn fixed() -> Vec<MountOption> {
    vec![
        flag("forceuid"),
        flag("forcegid"),
        option("iocharset", "utf8"),
        // Without it a second mount of a server may silently get the first one's connection and options.
        flag("nosharesock"),
        // Files are closed when they are closed, not a second later: with a close still to come, unmounting a share whose
        // server is dead runs into a kernel BUG (Linux 6.1.192: "Dentry still in use", then fs/super.c), after which
        // no share of the host can be unmounted any more. Known since Linux 6.1, see the SMB backend.
        option("closetimeo", "0"),
    ]
}
