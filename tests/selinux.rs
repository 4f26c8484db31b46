//! The SELinux module's labels: whatever is installed or made at run time, and is not of a kind that every package has, has one.
//! What the module allows is looked at by tests/selinux.sh.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files of every package, under labels that the distribution's policy gives them.
const COMMON: &[&str] = &[
    "/usr/bin/volattach",
    "/usr/share/",
    "/usr/lib/sysusers.d/",
    "/usr/lib/udev/",
    "/etc/multipath/conf.d/",
];

/// Entries of Debian's policy that match too, which those of the module have to outrank.
const OUTRANKED: &[(&str, &str)] = &[("/usr/sbin(/.*)?", "bin_t")];

/// A line of volattach.fc: a regular expression of whole paths, and the type that they have; `None`: none.
struct Entry {
    pattern: String,
    label: Option<String>,
}

impl Entry {
    /// The bytes before the first special character: of several that match, the one with the most counts, then the longest
    /// (libselinux, label_file.h).
    fn rank(&self) -> (usize, usize) {
        let special = |c: char| ".^$?*+|[({\\".contains(c);
        let stem = self.pattern.find(special).unwrap_or(self.pattern.len());
        (stem, self.pattern.len())
    }

    fn matches(&self, path: &str) -> bool {
        let mut grep = Command::new("grep")
            .args(["-Exq", &self.pattern])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut grep.stdin.take().unwrap(), path.as_bytes()).unwrap();
        grep.wait().unwrap().success()
    }
}

fn entries() -> Vec<Entry> {
    let outranked = OUTRANKED.iter().map(|(pattern, label)| Entry {
        pattern: (*pattern).to_owned(),
        label: Some((*label).to_owned()),
    });
    include_str!("../selinux/volattach.fc")
        .lines()
        .filter(|line| line.starts_with('/'))
        .map(|line| {
            let context = line.split_whitespace().last().unwrap();
            Entry {
                pattern: line.split_whitespace().next().unwrap().to_owned(),
                label: context.split([':', ',']).nth(2).map(str::to_owned),
            }
        })
        .chain(outranked)
        .collect()
}

/// The type that a path has.
fn label(entries: &[Entry], path: &str) -> Option<String> {
    let fitting = entries.iter().filter(|entry| entry.matches(path));
    fitting.max_by_key(|entry| entry.rank())?.label.clone()
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn what_is_installed_has_a_label() {
    let root = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_volattachd"));
    let profile = binary.parent().unwrap().file_name().unwrap();
    let installed = Command::new("make")
        .args(["-s", "install"])
        .arg(format!("profile={}", profile.to_str().unwrap()))
        .arg(format!("DESTDIR={}", root.path().display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(installed.unwrap().success());
    let mut found = Vec::new();
    files(root.path(), &mut found);
    let entries = entries();
    let mut labels = Vec::new();
    for file in found {
        let path = format!("/{}", file.strip_prefix(root.path()).unwrap().display());
        let common = COMMON.iter().any(|kind| path.starts_with(kind));
        // The command line begins as the daemon's name does.
        let common = common && !path.starts_with("/usr/bin/volattachd");
        let label = label(&entries, &path);
        assert_eq!(label.is_none(), common, "{path}: {label:?}");
        labels.extend(label);
    }
    labels.sort();
    let (etc, exec, unit, worker) = (
        "volattachd_etc_t",
        "volattachd_exec_t",
        "volattachd_unit_t",
        "volattachd_worker_exec_t",
    );
    assert_eq!(labels, [etc, exec, unit, unit, worker]);
}

/// The value of a line of a unit.
fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut lines = unit.lines();
    lines.find_map(|line| line.strip_prefix(key)).unwrap()
}

#[test]
fn what_the_units_and_the_defaults_name_has_a_label() {
    let service = include_str!("../systemd/volattachd.service");
    let socket = include_str!("../systemd/volattachd.socket");
    let settings = volattach::config::Settings::built_in();
    let listen = setting(socket, "ListenStream=");
    assert_eq!(Path::new(listen), settings.listen.socket);
    let state = format!("/var/lib/{}", setting(service, "StateDirectory="));
    assert_eq!(Path::new(&state), settings.state_dir);
    let mounts = settings.mount_base.to_str().unwrap();
    let nodes = settings.iscsi.nodes.to_str().unwrap();
    let entries = entries();
    for (path, wanted) in [
        (setting(service, "ExecStart="), Some("volattachd_exec_t")),
        (listen, Some("volattachd_runtime_t")),
        (volattach::config::DEFAULT_PATH, Some("volattachd_etc_t")),
        (&state, Some("volattachd_var_lib_t")),
        (
            &format!("{state}/journal.redb"),
            Some("volattachd_var_lib_t"),
        ),
        (&format!("{state}/host.key"), Some("volattachd_var_lib_t")),
        (mounts, Some("volattachd_mnt_t")),
        (&format!("{mounts}/0123"), Some("volattachd_mnt_t")),
        // A share's files are not this host's to label.
        (&format!("{mounts}/0123/v1"), None),
        (
            &format!("{nodes}/iqn.x/10.0.0.1,3260,1/default"),
            Some("volattachd_nodes_t"),
        ),
        ("/etc/shadow", None),
    ] {
        assert_eq!(label(&entries, path).as_deref(), wanted, "{path}");
    }
}
