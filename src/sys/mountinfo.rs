//! The mount table: /proc/self/mountinfo (proc_pid_mountinfo(5)). Reading it asks no server.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Id of the mount in its namespace.
    pub id: u32,
    /// Id of the mount on which this mount lies; for the outermost mount, its own id or an id that the table lacks.
    pub parent: u32,
    /// Major and minor number of its superblock: mounts of the same superblock have the same.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The kernel's name of the file system, such as `cifs`; with a subtype as `fuse.sshfs`.
    pub fstype: String,
    /// What is mounted, as the file system has it.
    pub source: OsString,
    /// Whether the mount or its file system is read-only.
    pub read_only: bool,
    /// Whether each file has an SELinux label of its own, which can be set (`seclabel`, security/selinux/hooks.c: `selinux_sb_show_options`).
    pub labelled: bool,
}

/// The mount table of this process's namespace, in the kernel's order.
///
/// Some mounts cannot be reached: a mount beneath a directory that another mount then covers stays in the table. So does the copy of a
/// mount that the kernel makes on each peer of a shared mount (mount_namespaces(7)): if a directory is a shared bind mount of itself, the
/// table has every mount in it twice, with the same path. Each lookup therefore walks the path as the kernel does, from the outermost mount
/// inwards.
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

    /// All mounts, including those that no path leads to.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// What is mounted on this very mount point, the uppermost last.
    #[must_use]
    pub fn at(&self, mount_point: &Path) -> Vec<&Mount> {
        let mut chain = self.chain(mount_point);
        chain.retain(|mount| mount.mount_point == mount_point);
        chain
    }

    /// What is mounted on this mount point and beneath it, in the order in which it must not be unmounted.
    #[must_use]
    pub fn beneath(&self, directory: &Path) -> Vec<&Mount> {
        let mut reached: Vec<(usize, &Mount)> = self
            .0
            .iter()
            .filter(|mount| mount.mount_point.starts_with(directory))
            .filter_map(|mount| {
                let chain = self.chain(&mount.mount_point);
                let depth = chain.iter().position(|there| there.id == mount.id)?;
                Some((depth, mount))
            })
            .collect();
        // The mount beneath another one has a smaller depth.
        reached.sort_by_key(|(depth, _)| *depth);
        reached.into_iter().map(|(_, mount)| mount).collect()
    }

    /// The mount that an absolute path without links lies on.
    #[must_use]
    pub fn containing(&self, path: &Path) -> Option<&Mount> {
        self.chain(path).pop()
    }

    /// The mounts that the kernel passes on its way to the path, the outermost first.
    fn chain(&self, path: &Path) -> Vec<&Mount> {
        let leads = |mount: &&Mount| path.starts_with(&mount.mount_point);
        let nearest = |mount: &&Mount| mount.mount_point.components().count();
        let outermost = |mount: &&Mount| {
            mount.parent == mount.id || !self.0.iter().any(|other| other.id == mount.parent)
        };
        let mut chain: Vec<&Mount> = Vec::new();
        let mut next = self.0.iter().filter(outermost).find(leads);
        while let Some(mount) = next {
            chain.push(mount);
            if chain.len() > self.0.len() {
                break; // no table of the kernel's is circular
            }
            let on_it = |other: &&Mount| other.parent == mount.id && other.id != mount.id;
            next = self
                .0
                .iter()
                .filter(on_it)
                .filter(leads)
                .min_by_key(nearest);
        }
        chain
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let device = device(fields.next()?)?;
    let (mount_point, options) = (fields.nth(1)?, fields.next()?);
    // Any number of optional fields, ended by a lone hyphen.
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let (fstype, source) = (fields.next()?, fields.next()?);
    // A file system may give no options of its own, and then leaves out the blank as well.
    let super_options = fields.next().unwrap_or_default();
    let has = |list: &[u8], wanted: &[u8]| list.split(|b| *b == b',').any(|it| it == wanted);
    Some(Mount {
        id,
        parent,
        device,
        mount_point: PathBuf::from(OsString::from_vec(unescape(mount_point))),
        fstype: String::from_utf8(unescape(fstype)).ok()?,
        source: OsString::from_vec(unescape(source)),
        read_only: has(options, b"ro") || has(super_options, b"ro"),
        labelled: has(super_options, b"seclabel"),
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// `98:0`
fn device(field: &[u8]) -> Option<(u32, u32)> {
    let mut numbers = field.splitn(2, |b| *b == b':').map(number);
    Some((numbers.next()??, numbers.next()??))
}

/// Undoes the kernel's `mangle` (fs/seq_file.c): blank, tab, newline, backslash and hash are `\` and three octal digits.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
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
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,seclabel
40 27 0:50 / /srv/a\\040b ro,nosuid,nodev - cifs //files/vols\\040x rw,vers=3.1.1
41 40 0:51 / /srv/a\\040b rw shared:1 master:2 - tmpfs none ro
42 27 0:52 / /srv/ab rw - fuse.sshfs bob@host: rw
43 27 0:53 / /empty rw - ramfs none
";

    #[test]
    fn the_uppermost_mount_is_last() {
        let mounts = Mounts::parse(TABLE.as_bytes()).unwrap();
        let point = Path::new("/srv/a b");
        let at = mounts.at(point);
        assert_eq!(at.len(), 2);
        assert_eq!(
            at[0],
            &Mount {
                id: 40,
                parent: 27,
                device: (0, 50),
                mount_point: point.into(),
                fstype: "cifs".into(),
                source: "//files/vols x".into(),
                read_only: true,
                labelled: false,
            }
        );
        assert_eq!(at[1].fstype, "tmpfs");
        assert!(at[1].read_only, "a read-only superblock is read-only");
        assert_eq!(mounts.containing(&point.join("v1")), Some(at[1]));
        assert_eq!(mounts.beneath(Path::new("/srv")).len(), 3);
    }

    /// The kernel's table after `mount --bind /srv/mnt /srv/mnt` on a shared root, with a mount in it.
    #[test]
    fn a_copy_that_nothing_leads_to_is_not_there() {
        let mounts = Mounts::parse(
            b"27 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
              50 27 254:0 /srv/mnt /srv/mnt rw shared:1 - ext4 /dev/root rw\n\
              51 50 0:60 / /srv/mnt/a rw shared:9 - nfs4 files:/vols rw\n\
              52 27 0:60 / /srv/mnt/a rw shared:9 - nfs4 files:/vols rw\n",
        )
        .unwrap();
        let point = Path::new("/srv/mnt/a");
        let ids = |found: Vec<&Mount>| found.iter().map(|mount| mount.id).collect::<Vec<_>>();
        assert_eq!(ids(mounts.at(point)), [51]);
        assert_eq!(ids(mounts.beneath(Path::new("/srv/mnt"))), [50, 51]);
        assert_eq!(mounts.containing(&point.join("v")).unwrap().id, 51);
    }

    #[test]
    fn a_path_lies_on_the_innermost_mount() {
        let mounts = Mounts::parse(TABLE.as_bytes()).unwrap();
        let fstype = |path: &str| mounts.containing(Path::new(path)).unwrap().fstype.as_str();
        assert_eq!(fstype("/srv/ab/c"), "fuse.sshfs");
        assert_eq!(fstype("/srv/abc"), "ext4", "components, not characters");
        assert_eq!(fstype("/sys"), "sysfs");
        assert!(mounts.containing(Path::new("/x")).unwrap().labelled);
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
            let found = mounts.iter().next().unwrap();
            prop_assert_eq!(&found.mount_point, &point);
            prop_assert_eq!(&found.source, &OsString::from_vec(name));
        }

        #[test]
        fn hostile_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = Mounts::parse(&bytes);
        }
    }
}
