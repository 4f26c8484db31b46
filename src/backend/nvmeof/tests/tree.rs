//! The devices and names of a host, as files in a directory.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use super::*;

/// A host with the NQN [`OWN`], and a backend that reads its controllers.
pub(super) struct Tree {
    pub(super) root: tempfile::TempDir,
    pub(super) backend: NvmeBackend,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/nvme");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("hostnqn"), OWN).unwrap();
        fs::write(etc.join("hostid"), UUID).unwrap();
        Self {
            backend: Self::backend(root.path()),
            root,
        }
    }

    fn backend(root: &Path) -> NvmeBackend {
        NvmeBackend {
            fabric: Fabric::new(root),
            own: Arc::new(Host::beneath(root)),
            ..backend()
        }
    }

    /// The backend of the next daemon, which remembers nothing.
    pub(super) fn anew_backend(&self) -> NvmeBackend {
        Self::backend(self.root.path())
    }

    pub(super) fn restart(&mut self) {
        self.backend = self.anew_backend();
    }

    /// Adds a live controller of nqn.x at that portal, under that host name.
    pub(super) fn controller(&self, name: &str, portal: &str, host: &str) {
        let portal: SocketAddr = portal.parse().unwrap();
        let path = self.root.path().join("class/nvme").join(name);
        let address = format!("traddr={},trsvcid={}", portal.ip(), portal.port());
        write(
            &path,
            &[
                ("subsysnqn", "nqn.x"),
                ("transport", "tcp"),
                ("address", &address),
                ("state", "live"),
                ("hostnqn", host),
                ("fast_io_fail_tmo", "15"),
            ],
        );
    }

    /// Adds the controller's device, as with native multipath off.
    pub(super) fn disk(&self, name: &str, controller: &str) {
        let parent = self.root.path().join("class/nvme").join(controller);
        let path = self.root.path().join("block").join(name);
        let wwid = format!("uuid.{UUID}");
        for path in [&path, &parent.join(name)] {
            write(path, &[("nsid", "7"), ("wwid", &wwid), ("size", "16")]);
        }
        std::os::unix::fs::symlink(parent, path.join("device")).unwrap();
    }

    /// Adds the device of namespace 7 above all controllers, as with native multipath.
    pub(super) fn joined_disk(&self, name: &str) {
        let subsystem = self.root.path().join("class/nvme-subsystem/nvme-subsys0");
        write(&subsystem, &[("subsysnqn", "nqn.x")]);
        let path = self.root.path().join("block").join(name);
        let wwid = format!("uuid.{UUID}");
        write(&path, &[("nsid", "7"), ("wwid", &wwid), ("size", "16")]);
        std::os::unix::fs::symlink(subsystem, path.join("device")).unwrap();
    }

    /// Has the controller lead to namespace 7.
    pub(super) fn leads(&self, controller: &str) {
        let path = self.root.path().join("class/nvme").join(controller);
        write(&path.join("nvme0c0n1"), &[("nsid", "7")]);
    }

    pub(super) fn set(&self, controller: &str, attribute: &str, value: &str) {
        let path = self.root.path().join("class/nvme").join(controller);
        write(&path, &[(attribute, value)]);
    }

    pub(super) fn gone(&self, controller: &str) {
        fs::remove_dir_all(self.root.path().join("class/nvme").join(controller)).unwrap();
    }

    /// Replaces a controller by a new one with the same name and attributes, made before the old one is removed.
    pub(super) fn anew(&self, controller: &str) {
        let path = self.root.path().join("class/nvme").join(controller);
        let old = self.root.path().join("old");
        let _ = fs::remove_dir_all(&old);
        fs::rename(&path, &old).unwrap();
        fs::create_dir(&path).unwrap();
        for entry in fs::read_dir(&old).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        }
    }

    /// Names of the controllers that a detach of the volume would end or wait for.
    pub(super) async fn ours(&self, volume: &HostVolume) -> Vec<String> {
        let paths = &target(&volume.plan).unwrap().paths;
        let ours = self.backend.ours("nqn.x", paths).await.unwrap();
        ours.all().map(|it| it.name.clone()).collect()
    }

    pub(super) async fn of_others(&self, plan: &HostPlan) -> Vec<u64> {
        let found = self.backend.survey(plan).await.unwrap();
        found.controllers_of_others
    }

    /// Number of a controller.
    pub(super) fn id(&self, controller: &str) -> u64 {
        let path = self.root.path().join("class/nvme").join(controller);
        fs::metadata(path).unwrap().ino()
    }

    pub(super) async fn release(&self, volume: &HostVolume) -> Result<(), String> {
        let released = self.backend.disconnect(volume, &Release::default()).await;
        released.map_err(|error| error.to_string())
    }
}

pub(super) fn write(path: &Path, attributes: &[(&str, &str)]) {
    fs::create_dir_all(path).unwrap();
    for (name, value) in attributes {
        fs::write(path.join(name), format!("{value}\n")).unwrap();
    }
}
