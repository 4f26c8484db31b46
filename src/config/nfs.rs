//! `[nfs]`: exports by NFS, and what the settings come to for one server.

use super::error::Problem;
use super::shares::{Schema, Shares, flag, option};
use super::tree::Section;
use crate::model::mount_options::{EffectiveOption, MountOption, NFS, NFS_VERSIONS};

const SCHEMA: Schema = Schema {
    section: "nfs",
    options: &NFS,
    versions: &NFS_VERSIONS,
    default_versions: &["4.2", "4.1", "4.0"],
};

/// `[nfs]`: exports by NFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nfs {
    /// How they are mounted.
    pub shares: Shares,
}

/// Reads the section.
pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Nfs {
    let (shares, _) = SCHEMA.decode(&mut section, problems, |_, _| ());
    section.finish(problems);
    Nfs { shares }
}

impl Nfs {
    /// The mount options for a volume on a server, and where each comes from; `given` are its connection info's.
    #[must_use]
    pub fn effective_options(&self, host: &str, given: &[MountOption]) -> Vec<EffectiveOption> {
        // Without it a second mount of an export silently gets the first one's options.
        let fixed = [flag("nosharecache")];
        self.shares
            .merge(&NFS, host, [&built_in(), &[], given, &fixed])
    }
}

/// Where nobody says otherwise.
fn built_in() -> Vec<MountOption> {
    vec![
        option("port", "2049"), // named, or the kernel asks the server's portmapper for version 3's
        // Not what the server would have: the kernel asks it for that at each mount, and modprobe for modules that it has.
        option("sec", "sys"),
        // `hard` waits for the server without end. QEMU's direct writes tell the guest of an error, and lose nothing
        // silently, which is what `soft` is warned of in nfs(5).
        flag("softerr"),
        option("timeo", "100"), // tenths of a second: with two repeats an operation fails after 30 s
        option("retrans", "2"),
        flag("nolock"), // of version 3: QEMU's image locks stay on this host, and no rpc.statd is needed
    ]
}
