//! Node records, from which iscsiadm and iscsid log in and recover: `NODES/<target>/<address>,<port>`, lines of `key = value`
//! (open-iscsi, usr/idbm.c, the form without a portal group). Written by this agent, so that no secret is ever on a command
//! line; kept as long as the session, for iscsid reads it again to recover.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::connection::Chap;

/// The deployer's settings of the initiator.
const INITIATOR: &str = "/etc/iscsi/iscsid.conf";
/// Where the initiator's interfaces are described.
const INTERFACES: &str = "/etc/iscsi/ifaces";

/// Settings of a login in iscsid.conf that the caller decides: method, user and password. The allowed algorithms are the deployer's.
const LOGIN: [&str; 3] = [
    "node.session.auth.authmethod",
    "node.session.auth.username",
    "node.session.auth.password",
];
/// First line of each record written by iscsiadm (usr/idbm.c, `idbm_print`); volattach's records have no such line.
const OTHERS: &str = "# BEGIN RECORD";

/// One record.
pub(super) struct Record<'a> {
    pub(super) target: &'a str,
    pub(super) portal: SocketAddr,
    /// The initiator's interface: `default`, or one of those described.
    pub(super) interface: &'a str,
    pub(super) chap: Option<&'a Chap>,
    /// Seconds.
    pub(super) login_timeout: u64,
}

impl Record<'_> {
    /// Its file.
    pub(super) fn file(&self, nodes: &Path) -> PathBuf {
        let name = format!("{},{}", self.portal.ip(), self.portal.port());
        nodes.join(self.target).join(name)
    }

    /// Writes it, in one step.
    pub(super) fn write(&self, nodes: &Path) -> io::Result<()> {
        let settings = or_none(std::fs::read_to_string(INITIATOR))?;
        let interface = match self.interface {
            "default" => String::new(),
            name => std::fs::read_to_string(Path::new(INTERFACES).join(name))?,
        };
        write(nodes, &self.file(nodes), &self.text(&settings, &interface))
    }

    /// Finds a record of the same login made by another program with iscsiadm: volattach cannot decide which of the two iscsiadm would use.
    /// iscsiadm also writes to `<address>,<port>` or, if it knows the portal group, to `<address>,<port>,<group>/<interface>`.
    pub(super) fn of_others(&self, nodes: &Path) -> io::Result<Option<PathBuf>> {
        let file = self.file(nodes);
        if or_none(std::fs::read_to_string(&file))?.contains(OTHERS) {
            return Ok(Some(file));
        }
        let prefix = format!("{},{},", self.portal.ip(), self.portal.port());
        for entry in or_none(std::fs::read_dir(nodes.join(self.target)).map(Some))?
            .into_iter()
            .flatten()
        {
            let entry = entry?;
            let group = entry.file_name().to_string_lossy().starts_with(&prefix);
            let record = entry.path().join(self.interface);
            if group && record.exists() {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Removes the record, and the target's directory with the last record. A record made by another program in its place stays.
    pub(super) fn remove(&self, nodes: &Path) -> io::Result<()> {
        let file = self.file(nodes);
        match or_none(std::fs::read_to_string(&file))?.contains(OTHERS) {
            true => Ok(()),
            false => remove(&file),
        }
    }

    /// The deployer's settings, then what this agent decides: the last of a key counts.
    pub(super) fn text(&self, settings: &str, interface: &str) -> Zeroizing<String> {
        // All the room at once: growing would leave copies of the passwords behind.
        let room = settings.len() + interface.len() + 4096;
        let mut text = Zeroizing::new(String::with_capacity(room));
        let mut add = |key: &str, value: &str| {
            for piece in [key, " = ", value, "\n"] {
                text.push_str(piece);
            }
        };
        let given = |text: &str, kinds: &[&str], not: &[&str]| -> Vec<(String, String)> {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
                .filter(|(key, _)| kinds.iter().any(|kind| key.starts_with(kind)))
                .filter(|(key, _)| !not.iter().any(|kind| key.starts_with(kind)))
                .collect()
        };
        let kinds = ["node.session.", "node.conn[0]."];
        for (key, value) in given(settings, &kinds, &LOGIN) {
            add(&key, &value);
        }
        let port = self.portal.port().to_string();
        let timeout = self.login_timeout.to_string();
        for (key, value) in [
            ("node.name", self.target),
            ("node.tpgt", "-1"),
            ("node.startup", "manual"),
            ("node.leading_login", "No"),
            ("iface.iscsi_ifacename", self.interface),
            ("iface.transport_name", "tcp"),
            ("node.conn[0].address", &self.portal.ip().to_string()),
            ("node.conn[0].port", &port),
            ("node.conn[0].startup", "manual"),
            // One LUN is scanned, by this agent: no other appears on this host.
            ("node.session.scan", "manual"),
            ("node.session.nr_sessions", "1"),
            // Given up on at the deadline, not tried again behind the caller's back.
            ("node.session.initial_login_retry_max", "1"),
            ("node.conn[0].timeo.login_timeout", &timeout),
        ] {
            add(key, value);
        }
        for (key, value) in given(interface, &["iface."], &["iface.iscsi_ifacename"]) {
            add(&key, &value);
        }
        for (key, value) in login(self.chap) {
            add(&format!("node.session.auth.{key}"), value);
        }
        text
    }
}

/// A login in a record's words, without what stands before them.
pub(super) fn login(chap: Option<&Chap>) -> Vec<(&'static str, &str)> {
    let Some(chap) = chap else {
        return vec![("authmethod", "None")];
    };
    let mut words = vec![
        ("authmethod", "CHAP"),
        ("username", chap.username.as_str()),
        ("password", chap.password.expose()),
    ];
    if let Some((username, password)) = &chap.target {
        words.push(("username_in", username));
        words.push(("password_in", password.expose()));
    }
    words
}

/// Writes a file of the initiator's in one step, for root alone to read.
pub(super) fn write(nodes: &Path, file: &Path, text: &str) -> io::Result<()> {
    let mut make = std::fs::DirBuilder::new();
    make.recursive(true).mode(0o700);
    make.create(file.parent().unwrap_or(nodes))?;
    // Beside the records: among them iscsiadm would take it for one.
    let new = nodes.with_file_name(format!(".volattach-{}", uuid::Uuid::new_v4()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&new, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// Removes one, and its directory with the last.
pub(super) fn remove(file: &Path) -> io::Result<()> {
    or_none(std::fs::remove_file(file))?;
    match file.parent().map(std::fs::remove_dir) {
        Some(Err(error)) if error.kind() != io::ErrorKind::DirectoryNotEmpty => or_none(Err(error)),
        _ => Ok(()),
    }
}

/// Nothing there is nothing wrong.
fn or_none<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::Secret;

    fn chap() -> Chap {
        Chap {
            username: "u".into(),
            password: Secret::from("hunter2 #\""),
            target: Some(("t".into(), Secret::from("in"))),
        }
    }

    #[test]
    fn a_record_has_the_deployers_settings_and_this_agents() {
        let chap = chap();
        let record = Record {
            target: "iqn.2026-01.org.lab:t",
            portal: "[fd00::2]:3260".parse().unwrap(),
            interface: "storage0",
            chap: Some(&chap),
            login_timeout: 10,
        };
        let settings = "# node.session.x = no\nnode.session.timeo.replacement_timeout = 20\n\
                        iscsid.startup = x\nnode.session.auth.password = other\nnode.startup = automatic\n\
                        node.session.auth.username_in = x\nnode.session.auth.chap_algs = SHA3-256,SHA256\n";
        let interface = "iface.iscsi_ifacename = other\niface.net_ifacename = eth1\n";
        insta::assert_snapshot!(record.text(settings, interface).as_str(), @r#"
        node.session.timeo.replacement_timeout = 20
        node.session.auth.chap_algs = SHA3-256,SHA256
        node.name = iqn.2026-01.org.lab:t
        node.tpgt = -1
        node.startup = manual
        node.leading_login = No
        iface.iscsi_ifacename = storage0
        iface.transport_name = tcp
        node.conn[0].address = fd00::2
        node.conn[0].port = 3260
        node.conn[0].startup = manual
        node.session.scan = manual
        node.session.nr_sessions = 1
        node.session.initial_login_retry_max = 1
        node.conn[0].timeo.login_timeout = 10
        iface.net_ifacename = eth1
        node.session.auth.authmethod = CHAP
        node.session.auth.username = u
        node.session.auth.password = hunter2 #"
        node.session.auth.username_in = t
        node.session.auth.password_in = in
        "#);
    }

    #[test]
    fn a_record_of_others_is_found_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = dir.path();
        let record = Record {
            target: "iqn.a",
            portal: "[fd00::2]:3260".parse().unwrap(),
            interface: "default",
            chap: None,
            login_timeout: 10,
        };
        let found = || record.of_others(nodes).unwrap();
        assert_eq!(found(), None);
        record.write(nodes).unwrap();
        assert_eq!(found(), None, "its own");
        let write = |path: &str| {
            let path = nodes.join("iqn.a").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "# BEGIN RECORD 2.1.8\nnode.name = iqn.a\n").unwrap();
            path
        };
        write("fd00::2,3260,1/storage0");
        write("fd00::3,3260,1/default");
        write("fd00::2,32601,1/default");
        assert_eq!(found(), None, "of another interface, or portal");
        let grouped = write("fd00::2,3260,1/default");
        assert_eq!(found(), Some(grouped.clone()));
        std::fs::remove_file(grouped).unwrap();
        let flat = write("fd00::2,3260");
        assert_eq!(found(), Some(flat.clone()));
        record.remove(nodes).unwrap();
        assert!(flat.exists());
    }

    #[test]
    fn a_record_is_its_owners_alone_and_goes_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = dir.path().join("nodes");
        let chap = chap();
        let record = |portal: &str| Record {
            target: "iqn.a",
            portal: portal.parse().unwrap(),
            interface: "default",
            chap: Some(&chap),
            login_timeout: 10,
        };
        let (one, two) = (record("10.0.0.1:3260"), record("10.0.0.2:3260"));
        for record in [&one, &one, &two] {
            record.write(&nodes).unwrap();
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&nodes.join("iqn.a")), 0o700);
        assert_eq!(mode(&nodes.join("iqn.a/10.0.0.1,3260")), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        one.remove(&nodes).unwrap();
        assert!(nodes.join("iqn.a").exists());
        for record in [&two, &one] {
            record.remove(&nodes).unwrap();
        }
        assert!(!nodes.join("iqn.a").exists());
    }
}
