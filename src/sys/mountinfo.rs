//! The mount table: /proc/self/mountinfo (proc_pid_mountinfo(5)). Reading it asks no server.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The kernel's name of the file system, such as `cifs`; with a subtype as `fuse.sshfs`.
    pub fstype: String,
    /// What is mounted, as the file system has it.
    pub source: OsString,
    /// Whether the mount or its file system is read-only.
    pub read_only: bool,
}

/// The mount table of this process's namespace, in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// The table as it is now.
    ///
    /// # Errors
    /// Where /proc is not mounted, or a line is not as the kernel writes it.
    pub fn read() -> io::Result<Self> {
        let bytes = std::fs::read("/proc/self/mountinfo")?;
        Self::parse(&bytes).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a line of /proc/self/mountinfo is malformed",
            )
        })
    }

    /// The table in these bytes; `None` where a line is malformed.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        bytes
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(parse_line)
            .collect::<Option<_>>()
            .map(Self)
    }

    /// What is mounted on this very mount point, the uppermost last.
    pub fn at<'a>(&'a self, mount_point: &'a Path) -> impl DoubleEndedIterator<Item = &'a Mount> {
        self.0.iter().filter(move |m| m.mount_point == mount_point)
    }

    /// What is mounted on this mount point and beneath it, in the order in which it must not be unmounted.
    pub fn beneath<'a>(
        &'a self,
        directory: &'a Path,
    ) -> impl DoubleEndedIterator<Item = &'a Mount> {
        self.0
            .iter()
            .filter(move |m| m.mount_point.starts_with(directory))
    }

    /// The mount that an absolute path without links lies on.
    #[must_use]
    pub fn containing(&self, path: &Path) -> Option<&Mount> {
        // `max_by_key` gives the last of equals: of several mounts on one point the uppermost.
        self.0
            .iter()
            .filter(|m| path.starts_with(&m.mount_point))
            .max_by_key(|m| m.mount_point.components().count())
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let (mount_point, options) = (fields.nth(4)?, fields.next()?);
    // Any number of optional fields, ended by a lone hyphen.
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let (fstype, source) = (fields.next()?, fields.next()?);
    // A file system may give no options of its own, and then leaves out the blank as well.
    let super_options = fields.next().unwrap_or_default();
    let read_only = [options, super_options]
        .iter()
        .any(|list| list.split(|b| *b == b',').any(|option| option == b"ro"));
    Some(Mount {
        mount_point: PathBuf::from(OsString::from_vec(unescape(mount_point))),
        fstype: String::from_utf8(unescape(fstype)).ok()?,
        source: OsString::from_vec(unescape(source)),
        read_only,
    })
}

/// Undoes the kernel's `mangle` (fs/seq_file.c): blank, tab, newline, backslash and hash are `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// The byte that `\ooo` at the start stands for.
fn octal(bytes: &[u8]) -> Option<u8> {
    let digits = bytes.strip_prefix(b"\\")?.get(..3)?;
    let value = digits.iter().try_fold(0u16, |value, digit| {
        matches!(digit, b'0'..=b'7').then(|| value * 8 + u16::from(digit - b'0'))
    })?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
40 27 0:50 / /srv/a\\040b ro,nosuid,nodev - cifs //files/vols\\040x rw,vers=3.1.1
41 40 0:51 / /srv/a\\040b rw shared:1 master:2 - tmpfs none ro
42 27 0:52 / /srv/ab rw - fuse.sshfs bob@host: rw
43 27 0:53 / /empty rw - ramfs none
";

    #[test]
    fn the_uppermost_mount_is_last() {
        let mounts = Mounts::parse(TABLE.as_bytes()).unwrap();
        let point = Path::new("/srv/a b");
        let at: Vec<_> = mounts.at(point).collect();
        assert_eq!(at.len(), 2);
        assert_eq!(
            at[0],
            &Mount {
                mount_point: point.into(),
                fstype: "cifs".into(),
                source: "//files/vols x".into(),
                read_only: true,
            }
        );
        assert_eq!(at[1].fstype, "tmpfs");
        assert!(at[1].read_only, "a read-only superblock is read-only");
        assert_eq!(mounts.containing(&point.join("v1")), Some(at[1]));
    }

    #[test]
    fn a_path_lies_on_the_innermost_mount() {
        let mounts = Mounts::parse(TABLE.as_bytes()).unwrap();
        let fstype = |path: &str| mounts.containing(Path::new(path)).unwrap().fstype.as_str();
        assert_eq!(fstype("/srv/ab/c"), "fuse.sshfs");
        assert_eq!(fstype("/srv/abc"), "ext4", "components, not characters");
        assert_eq!(fstype("/sys"), "sysfs");
    }

    #[test]
    fn this_machines_table_parses() {
        let mounts = Mounts::read().unwrap();
        assert!(mounts.containing(Path::new("/proc/self")).is_some());
    }

    /// The kernel's `mangle`.
    fn escape(name: &[u8]) -> Vec<u8> {
        name.iter()
            .flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
                _ => vec![*byte],
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_name_survives(name in proptest::collection::vec(1u8.., 1..40)) {
            let mut line = b"1 2 0:1 / /".to_vec();
            line.extend(escape(&name));
            line.extend(b" rw - cifs ");
            line.extend(escape(&name));
            line.extend(b" rw\n");
            let mounts = Mounts::parse(&line).unwrap();
            let mut point = b"/".to_vec();
            point.extend(&name);
            let point = PathBuf::from(OsString::from_vec(point));
            let found = mounts.at(&point).next().unwrap();
            prop_assert_eq!(&found.source, &OsString::from_vec(name));
        }

        #[test]
        fn hostile_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = Mounts::parse(&bytes);
        }
    }
}
