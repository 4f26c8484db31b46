//! What SELinux lets this host's guests do: its booleans, as the kernel has them.

use super::Host;

/// There where SELinux is: `1` while its policy is enforced (security/selinux/selinuxfs.c).
const ENFORCE: &str = "sys/fs/selinux/enforce";
/// A file for each boolean of the loaded policy: its current value, then the one that is pending.
const BOOLEANS: &str = "sys/fs/selinux/booleans";

impl Host {
    /// Whether SELinux is enforced with this boolean of its policy off, so that what the boolean would let is denied. A policy
    /// without such a boolean says nothing.
    #[must_use]
    pub fn selinux_boolean_is_off(&self, boolean: &str) -> bool {
        if self.line(ENFORCE) != "1" {
            return false;
        }
        let values = self.line(format!("{BOOLEANS}/{boolean}"));
        values.split_whitespace().next() == Some("0")
    }
}

#[cfg(test)]
mod tests {
    use crate::host::Host;

    #[test]
    fn a_boolean_counts_where_the_policy_is_enforced() {
        let off = |enforce: Option<&str>, values: Option<&str>| {
            let root = tempfile::tempdir().unwrap();
            let selinux = root.path().join("sys/fs/selinux");
            std::fs::create_dir_all(selinux.join("booleans")).unwrap();
            let write = |name: &str, text: Option<&str>| {
                if let Some(text) = text {
                    std::fs::write(selinux.join(name), text).unwrap();
                }
            };
            write("enforce", enforce);
            write("booleans/virt_use_samba", values);
            Host::beneath(root.path()).selinux_boolean_is_off("virt_use_samba")
        };
        assert!(off(Some("1"), Some("0 0")));
        // What is pending is not in force yet.
        assert!(off(Some("1"), Some("0 1")));
        assert!(!off(Some("1"), Some("1 0")));
        assert!(!off(Some("1"), Some("1 1")));
        assert!(!off(Some("0"), Some("0 0")), "permissive");
        assert!(!off(None, Some("0 0")), "no SELinux");
        assert!(!off(Some("1"), None), "no such boolean");
    }
}
