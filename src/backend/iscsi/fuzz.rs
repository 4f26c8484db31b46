//! What holds of what the initiator, the kernel and multipathd say, and of what the initiator is given to read.

use std::net::SocketAddr;
use std::path::Path;

use super::{discover, multipathd, record::Record, sysfs};
use crate::connection::{ConnectionInfo, MAX_PATHS, Protocol};
use crate::model::TargetPath;

/// Any text as what iscsiadm found: only ways to the target that was asked about, each once, the given one first, and no more
/// of them than a target may have.
pub(crate) fn iscsiadm(answer: &str) {
    let given = TargetPath {
        portal: "10.0.0.1:3260".into(),
        name: "iqn.a".into(),
        lun: Some(3),
    };
    let paths = discover::paths(&given, answer);
    assert!(paths.first() == Some(&given) && paths.len() <= MAX_PATHS);
    for (at, path) in paths.iter().enumerate() {
        assert!(path.name == given.name && path.lun == given.lun);
        assert!(path.portal.parse::<SocketAddr>().is_ok() && !paths[..at].contains(path));
    }
}

/// Any text as connection info and, behind a NUL, as the deployer's settings and an interface's: in the record each line is one
/// setting, and what this agent decides comes last.
pub(crate) fn iscsi_record(text: &str) {
    let mut parts = text.split('\0');
    let info = parts.next().unwrap_or_default();
    let (settings, interface) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let Ok(ConnectionInfo {
        protocol: Protocol::Iscsi(volume),
        ..
    }) = ConnectionInfo::from_cinder_json(info)
    else {
        return;
    };
    for path in &volume.paths {
        let record = Record {
            target: &path.target,
            portal: path.portal,
            interface: "default",
            chap: volume.chap.as_ref(),
            login_timeout: 10,
        };
        let file = record.file(Path::new("/nodes"));
        assert_eq!(file.components().count(), 4, "{}", file.display());
        let text = record.text(settings, interface);
        let last = |key: &str| {
            let mut values = text
                .lines()
                .filter_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            values.next_back().map(ToOwned::to_owned)
        };
        assert!(text.lines().all(|line| line.contains(" = ")));
        assert_eq!(last("node.startup").as_deref(), Some("manual"));
        assert_eq!(last("node.session.scan").as_deref(), Some("manual"));
        assert_eq!(last("node.name").as_deref(), Some(path.target.as_str()));
        match &volume.chap {
            None => assert_eq!(
                last("node.session.auth.authmethod").as_deref(),
                Some("None")
            ),
            Some(chap) => {
                assert_eq!(
                    last("node.session.auth.username").as_ref(),
                    Some(&chap.username)
                );
                assert_eq!(
                    last("node.session.auth.password").as_deref(),
                    Some(chap.password.expose())
                );
            }
        }
    }
}

/// Any text as the name of a SCSI disk's directory: four numbers, or none.
pub(crate) fn iscsi_sysfs(name: &str) {
    if let Some(lun) = sysfs::lun(Path::new(name)) {
        let last = Path::new(name)
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let numbers: Vec<&str> = last.split(':').collect();
        assert!(numbers.len() == 4 && numbers[3].parse() == Ok(lun));
    }
}

/// Any text as multipathd's configuration: it rechecks only where nothing in it says that it does not.
pub(crate) fn multipathd(text: &str) {
    if multipathd::all_recheck(text) {
        assert!(text.contains("recheck_wwid ") && !text.contains("\nrecheck_wwid no\n"));
    }
}
