//! `[smb]`: shares by SMB, and what the settings come to for one server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{Fault, Problem};
use super::shares::{Schema, Shares, flag, option};
use super::tree::Section;
use super::{owner, value};
use crate::model::mount_options::{EffectiveOption, MountOption, Origin, SMB, SMB_VERSIONS};

const SCHEMA: Schema = Schema {
    section: "smb",
    options: &SMB,
    versions: &SMB_VERSIONS,
    default_versions: &["3.1.1", "3.0.2", "3.0", "2.1"],
};

/// `[smb]`: shares by SMB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smb {
    /// How they are mounted.
    pub shares: Shares,
    /// Directories that `credentials=FILE` may name files in; default none.
    pub credentials_dirs: Vec<PathBuf>,
    /// As whom this host logs in where connection info asks for Kerberos; `None`: as nobody.
    pub kerberos: Option<SmbKerberos>,
    /// Instead of that, by server.
    pub server_kerberos: BTreeMap<String, SmbKerberos>,
    /// Shares of this very host, by host (as [`crate::model::server_name`] spells it) and share (in lower case), and the
    /// directory that each is: used as they are, without a mount; default none.
    pub local_shares: BTreeMap<(String, String), PathBuf>,
}

/// `[smb.kerberos]`: as whom this host logs in with Kerberos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbKerberos {
    /// `name@REALM`: whose key is taken from the keytab where the user has no credential cache.
    pub principal: String,
    /// The user of this host whose credential cache, or else keytab, has the credentials; default 0, root.
    pub cruid: u32,
}

/// Reads the section.
pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Smb {
    let (shares, of_servers) = SCHEMA.decode(&mut section, problems, decode_kerberos);
    let credentials_dirs = section.read(problems, "credentials_dirs", value::paths);
    let kerberos = decode_kerberos(&mut section, problems);
    let local_shares = section.section(problems, "local_shares");
    section.finish(problems);
    Smb {
        shares,
        credentials_dirs: credentials_dirs.unwrap_or_default(),
        kerberos,
        server_kerberos: of_servers
            .into_iter()
            .filter_map(|(server, kerberos)| Some((server, kerberos?)))
            .collect(),
        local_shares: decode_local_shares(local_shares, problems),
    }
}

/// Reads the table `kerberos` of the section.
fn decode_kerberos(of: &mut Section, problems: &mut Vec<Problem>) -> Option<SmbKerberos> {
    let mut section = of.section(problems, "kerberos");
    let mut named = false;
    let principal = section.read(problems, "principal", |value| {
        named = true;
        value::principal(value)
    });
    let cruid = section.read(problems, "cruid", |value| match named {
        true => owner::known_user(value),
        false => Err(Fault::Expected("a principal beside it")),
    });
    section.finish(problems);
    principal.map(|principal| SmbKerberos {
        principal,
        cruid: cruid.unwrap_or(0),
    })
}

fn decode_local_shares(
    section: Section,
    problems: &mut Vec<Problem>,
) -> BTreeMap<(String, String), PathBuf> {
    let mut decoded = BTreeMap::new();
    for (name, at, key, path) in section.values(problems, value::path) {
        let fault = match value::share(&name) {
            None => Some(Fault::Expected("a share, such as \"//host/share\"")),
            Some(share) => decoded
                .insert(share, path)
                .map(|_| Fault::Expected("each share once: this is another spelling of one above")),
        };
        problems.extend(fault.map(|fault| Problem { at, key, fault }));
    }
    decoded
}

impl Smb {
    /// As whom this host logs in to a server with Kerberos, and which layer says so.
    #[must_use]
    pub fn kerberos(&self, host: &str) -> Option<(&SmbKerberos, Origin)> {
        match self.server_kerberos.get(&host.to_lowercase()) {
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
    #[must_use]
    pub fn effective_options(&self, host: &str, given: &[MountOption]) -> Vec<EffectiveOption> {
        let owner = [
            option("uid", &self.shares.uid.to_string()),
            option("gid", &self.shares.gid.to_string()),
        ];
        self.shares
            .merge(&SMB, host, [&built_in(), &owner, given, &fixed()])
    }
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
