//! Whether LVM on this host would activate the volume groups that guests make on their disks, which would keep the disks in use.

use std::path::PathBuf;
use std::time::Duration;

use crate::sys::exec;

/// How long LVM may take to tell its configuration.
const WITHIN: Duration = Duration::from_secs(3);

/// The rules that hide from LVM what guests write on their disks.
const OURS: [&str; 2] = ["59-volattach.rules", "63-volattach.rules"];

/// The disks that LVM may use, where it has a list of them; without this file it has none, whatever its configuration says (lvmdevices(8)).
const DEVICES: &str = "etc/lvm/devices/system.devices";

/// Where udev looks for rules, the first first (udev(7)).
const RULES: [&str; 4] = [
    "etc/udev/rules.d",
    "run/udev/rules.d",
    "usr/local/lib/udev/rules.d",
    "usr/lib/udev/rules.d",
];

/// What is asked, as lvm.conf(5) names it.
const SETTINGS: [&str; 4] = [
    "global/event_activation",
    "devices/use_devicesfile",
    "devices/global_filter",
    "devices/filter",
];

/// LVM on this host.
#[derive(Debug, Clone)]
pub struct Lvm {
    root: PathBuf,
}

impl Lvm {
    /// Of the host whose files are beneath `root`; touches nothing.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Why guests' disks are not safe from it. `None`: they are, or the host has no LVM.
    pub async fn activates(&self) -> Option<String> {
        let lvm = self.clone();
        let looked = tokio::task::spawn_blocking(move || lvm.look()).await;
        // A look that was cut off has seen nothing: it is no finding.
        let (program, has_list) = looked.ok().flatten()?;
        let arguments = [&["--type", "full"][..], &SETTINGS].concat();
        let ended = exec::run(&program.to_string_lossy(), &arguments, WITHIN).await;
        match ended {
            Ok(ended) if ended.code == Some(0) => activates(&ended.output, has_list).then(|| {
                "it acts on each disk that appears (event_activation = 1), and neither a filter nor a devices file keeps it from guests'".to_owned()
            }),
            Ok(ended) => Some(format!("lvmconfig, which would say, failed: {}", ended.said)),
            Err(error) => Some(format!("lvmconfig, which would say, cannot be run: {error}")),
        }
    }

    /// The program to ask, and whether LVM has a list of devices. `None`: the host has no LVM, or the rules.
    fn look(&self) -> Option<(PathBuf, bool)> {
        let program = self.root.join("usr/sbin/lvmconfig");
        let asked = program.exists() && !OURS.iter().all(|rule| self.has_rule(rule));
        asked.then(|| (program, self.root.join(DEVICES).exists()))
    }

    /// Whether udev has the rule: the first file of that name counts, and one that is empty or leads to /dev/null is none.
    fn has_rule(&self, rule: &str) -> bool {
        let files = RULES.map(|folder| self.root.join(folder).join(rule));
        let first = files.iter().find(|file| file.symlink_metadata().is_ok());
        first.is_some_and(|file| {
            file.metadata()
                .is_ok_and(|file| file.is_file() && file.len() > 0)
        })
    }
}

/// Whether LVM with that configuration, as lvmconfig(8) tells it, acts on whatever comes.
fn activates(told: &str, has_list: bool) -> bool {
    let value = |name: &str| {
        told.lines().find_map(|line| {
            let (key, value) = line.trim().split_once('=')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let rejects_the_rest =
        |name: &str| value(name).is_some_and(|filter| filter.contains("\"r|.*|\""));
    let is_kept = has_list && value("use_devicesfile") == Some("1")
        || rejects_the_rest("global_filter")
        || rejects_the_rest("filter");
    value("event_activation") != Some("0") && !is_kept
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_filter_or_a_devices_file_keeps_lvm_from_guests_disks() {
        // lvmconfig of LVM 2.03.16.
        let debian = "event_activation=1\nuse_devicesfile=0\n";
        assert!(activates(debian, true));
        assert!(activates("", false));
        assert!(activates(
            "filter=[\"a|.*|\"]\nglobal_filter=[ \"r|/dev/loop.*|\" ]",
            false
        ));
        // Without the file there is no list.
        assert!(activates("use_devicesfile=1", false));
        assert!(!activates("use_devicesfile=1", true));
        for told in [
            "event_activation=0",
            "filter=[\"a|/dev/sda|\",\"r|.*|\"]",
            "global_filter = [\"a|/dev/nvme0n1|\", \"r|.*|\"]",
        ] {
            assert!(!activates(told, false), "{told}");
        }
    }

    proptest! {
        #[test]
        fn whatever_it_tells_is_read(told in ".*", has_list: bool) {
            activates(&told, has_list);
        }
    }

    #[tokio::test]
    async fn a_host_without_the_rules_is_asked() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let lvm = Lvm::new(root.path());
        assert_eq!(lvm.activates().await, None, "it has no LVM");
        for folder in [
            "usr/sbin",
            "usr/lib/udev/rules.d",
            "etc/udev/rules.d",
            "etc/lvm/devices",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let program = at("usr/sbin/lvmconfig");
        symlink("/bin/false", &program).unwrap();
        assert!(lvm.activates().await.unwrap().contains("failed"));
        fs::remove_file(&program).unwrap();
        // It says nothing, so its defaults hold.
        symlink("/bin/true", &program).unwrap();
        assert!(lvm.activates().await.unwrap().contains("event_activation"));

        fs::write(at("usr/lib/udev/rules.d/59-volattach.rules"), "#").unwrap();
        assert!(lvm.activates().await.is_some(), "one rule is missing");
        fs::write(at("usr/lib/udev/rules.d/63-volattach.rules"), "#").unwrap();
        assert_eq!(lvm.activates().await, None);
        symlink("/dev/null", at("etc/udev/rules.d/59-volattach.rules")).unwrap();
        assert!(lvm.activates().await.is_some(), "a rule is masked");
    }
}
