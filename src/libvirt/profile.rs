//! The AppArmor profile of a domain: libvirt writes each disk's path into it, in quotes and otherwise as it is (`vah_add_path` in
//! libvirt's src/security/virt-aa-helper.c), and AppArmor reads a path as a pattern (apparmor.d(5), "Globbing (AARE)").

use std::path::Path;

use super::error::HypervisorError;
use super::view::DomainView;
use crate::model::{Dialect, DiskSpec, Scope, SourceKind};

/// What a path may not hold: parts of patterns, what escapes one, and the quote, at which libvirt leaves the path out of the profile.
const PATTERN: [char; 8] = ['*', '?', '[', ']', '{', '}', '\\', '"'];

/// Refuses a volume whose path would open other files to the guest, or not this one.
///
/// # Errors
/// `VOLUME_PATH_UNSAFE`.
pub(super) fn check(view: &DomainView, spec: &DiskSpec) -> Result<(), HypervisorError> {
    if view.dialect != Dialect::Qemu || !view.is_profiled(spec.options.scope) {
        return Ok(());
    }
    match pattern_in(&spec.path, spec.kind) {
        None => Ok(()),
        Some(found) => Err(HypervisorError::Pattern {
            domain: view.domain.to_string(),
            path: spec.path.clone(),
            found,
        }),
    }
}

/// What to do about a volume that a QEMU with a profile could not open.
const DENIED: &str = "AppArmor confines the domain by the profile `libvirt-` and its UUID: `journalctl -k -g 'apparmor=.DENIED'` shows whether \
    that kept its QEMU from the volume. If not, check the volume's owner and mode, and those of the directories above it";

/// The error of a volume that QEMU may not open, in words of the domain's profile if the domain has one.
pub(super) fn explain(view: &DomainView, error: HypervisorError) -> HypervisorError {
    match error {
        HypervisorError::Failed {
            action,
            domain,
            reason,
            source,
            ..
        } if view.is_profiled(Scope::Live) && source.message.contains("Permission denied") => {
            HypervisorError::Failed {
                action,
                domain,
                reason,
                hint: DENIED,
                source,
            }
        }
        error => error,
    }
}

/// The first character by which AppArmor would take the path for a pattern.
fn pattern_in(path: &Path, kind: SourceKind) -> Option<char> {
    // libvirt writes what the link of a device leads to, and udev escapes with backslashes in its links' names.
    let is_harmless = |c: char| kind == SourceKind::Block && c == '\\';
    path.to_string_lossy()
        .chars()
        .find(|c| PATTERN.contains(c) && !is_harmless(*c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_a_pattern_is_found() {
        let found = |path: &str| pattern_in(Path::new(path), SourceKind::File);
        for (name, character) in [
            ("v*.raw", '*'),
            ("v?x.raw", '?'),
            ("v[1].raw", '['),
            ("v]1.raw", ']'),
            ("v{a,b}.raw", '{'),
            ("v}.raw", '}'),
            ("@{HOME}", '{'),
            ("a\\*b", '\\'),
            ("a\"b.raw", '"'),
            ("fold*er/v.raw", '*'),
        ] {
            let path = format!("/mnt/{name}");
            assert_eq!(found(&path), Some(character), "{path}");
        }
        assert_eq!(found("/mnt/a b,c^d@e'f-#!$%&()+;=~ü.raw"), None);
        let device = |path: &str| pattern_in(Path::new(path), SourceKind::Block);
        assert_eq!(device("/dev/disk/by-id/dm-name-a\\x2ab"), None);
        assert_eq!(device("/dev/x*"), Some('*'));
    }
}
