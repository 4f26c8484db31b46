//! What this host's kernel knows of a subsystem: its controllers and namespaces, read from /sys. Never what a device is: that
//! is asked of the device itself.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::Wwid;

/// The kernel's tree of devices; another directory in tests.
#[derive(Debug, Clone)]
pub(super) struct Fabric {
    root: PathBuf,
    /// Controllers and namespaces as they were at one moment; `None`: each look reads the tree anew.
    index: Option<Arc<Index>>,
}

/// The controllers of each subsystem, those whose subsystem the kernel does not report yet, and the namespaces of each subsystem.
#[derive(Debug, Default)]
struct Index {
    controllers: HashMap<String, Vec<Controller>>,
    beginning: Vec<Controller>,
    blocks: HashMap<String, Vec<Block>>,
}

/// A connection to a subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Controller {
    /// Inode number of its directory in /sys, unique until the next boot, while the kernel reuses the name (fs/kernfs/dir.c,
    /// `__kernfs_new_node`, Linux 5.5). 0: the controller went away meanwhile.
    pub(super) id: u64,
    /// `nvme0`
    pub(super) name: String,
    /// Where it is connected to; `None`: not by TCP.
    pub(super) portal: Option<SocketAddr>,
    /// How it is, as far as the kernel knows.
    pub(super) state: State,
    /// Whether its time-out is set, as volattach does for every controller and other tools on Debian 12 for none: the only sign of
    /// controllers made by an earlier build.
    pub(super) as_ours: bool,
    /// Name under which this host made the controller; empty: the kernel does not report the name (before Linux 5.2).
    pub(super) host: String,
    /// The namespaces that it leads to.
    pub(super) nsids: Vec<u32>,
}

/// How a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Commands get through.
    Live,
    /// It is lost, or not there yet: the kernel connects.
    Connecting,
    /// It goes away for good.
    Ending,
}

/// A namespace that can be opened: with native multipath the one above all of its paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// `nvme0n1`; its number is not the namespace's.
    pub(super) name: String,
    /// The only controller of the device, with which the device goes away; `None`: every controller that leads to the namespace (native
    /// multipath).
    pub(super) controller: Option<String>,
    /// The namespace's number.
    pub(super) nsid: u32,
    /// The identity as the kernel remembers it.
    pub(super) wwid: Wwid,
    /// The NGUID as the kernel remembers it; empty: none.
    pub(super) nguid: String,
    /// Bytes.
    pub(super) size: u64,
    /// Whether the kernel forbids writing to the device.
    pub(super) read_only: bool,
    /// Sequence number of the device, unique until the next boot (Linux 5.15).
    pub(super) sequence: Option<u64>,
}

impl Controller {
    /// Whether the controller was made under this host name. True if the kernel does not report the name.
    pub(super) fn is_by(&self, host: &str) -> bool {
        self.host.is_empty() || self.host == host
    }

    fn read(name: String, path: &Path) -> io::Result<Self> {
        let fast_io_fail = attribute(path, "fast_io_fail_tmo").unwrap_or_default();
        Ok(Self {
            id: fs::metadata(path).map_or(0, |it| it.ino()),
            portal: portal(path),
            state: match attribute(path, "state").as_deref() {
                Some("live") => State::Live,
                Some("new" | "resetting" | "connecting") => State::Connecting,
                _ => State::Ending,
            },
            host: attribute(path, "hostnqn").unwrap_or_default(),
            as_ours: fast_io_fail.parse::<u32>().is_ok(),
            nsids: list(path)?
                .iter()
                .filter_map(|(_, child)| attribute(child, "nsid")?.parse().ok())
                .collect(),
            name,
        })
    }
}

impl Block {
    /// Whether the controller is a path of this device.
    pub(super) fn goes_by(&self, controller: &Controller) -> bool {
        controller.nsids.contains(&self.nsid)
            && self
                .controller
                .as_ref()
                .is_none_or(|only| *only == controller.name)
    }
}

impl Fabric {
    /// The tree beneath that directory: `/sys`.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            index: None,
        }
    }

    /// The same tree as it is now: for a look at many volumes, which would else read every controller and namespace for each volume.
    pub(super) fn indexed(&self) -> io::Result<Self> {
        // Controllers first: a connect that has begun may have become one by the second look.
        let mut index = Index::default();
        for (nqn, controller) in self.read_controllers(|_, _| true)? {
            match is_unknown(&nqn) {
                true => index.beginning.push(controller),
                false => index.controllers.entry(nqn).or_default().push(controller),
            }
        }
        for (nqn, block) in self.read_blocks(|_| true)? {
            index.blocks.entry(nqn).or_default().push(block);
        }
        Ok(Self {
            root: self.root.clone(),
            index: Some(Arc::new(index)),
        })
    }

    /// All controllers, each with its subsystem's name.
    pub(super) fn all(&self) -> io::Result<Vec<(String, Controller)>> {
        self.read_controllers(|_, _| true)
    }

    /// The subsystem's controllers, by name.
    pub(super) fn controllers(&self, nqn: &str) -> io::Result<Vec<Controller>> {
        if let Some(index) = &self.index {
            return Ok(index.controllers.get(nqn).cloned().unwrap_or_default());
        }
        let found = self.read_controllers(|of, _| of == nqn)?;
        Ok(found
            .into_iter()
            .map(|(_, controller)| controller)
            .collect())
    }

    /// The controllers that report a subsystem's name and are wanted by that and their directory.
    fn read_controllers(
        &self,
        wanted: impl Fn(&str, &Path) -> bool,
    ) -> io::Result<Vec<(String, Controller)>> {
        let mut found = Vec::new();
        for (name, path) in list(&self.root.join("class/nvme"))? {
            if let Some(nqn) = attribute(&path, "subsysnqn")
                && wanted(&nqn, &path)
            {
                found.push((nqn, Controller::read(name, &path)?));
            }
        }
        Ok(found)
    }

    /// The controllers at these portals that the kernel connects to for the first time: of which subsystem they are, it does not
    /// tell yet (Linux 6.1 has `(efault)` for it).
    pub(super) fn beginning(&self, portals: &[SocketAddr]) -> io::Result<Vec<Controller>> {
        let at = |portal: Option<SocketAddr>| portal.is_some_and(|it| portals.contains(&it));
        if let Some(index) = &self.index {
            let begun = index.beginning.iter().filter(|it| at(it.portal));
            return Ok(begun.cloned().collect());
        }
        let found = self.read_controllers(|nqn, path| is_unknown(nqn) && at(portal(path)))?;
        Ok(found
            .into_iter()
            .map(|(_, controller)| controller)
            .collect())
    }

    /// The subsystem's namespaces, by name.
    pub(super) fn blocks(&self, nqn: &str) -> io::Result<Vec<Block>> {
        if let Some(index) = &self.index {
            return Ok(index.blocks.get(nqn).cloned().unwrap_or_default());
        }
        let found = self.read_blocks(|of| of == nqn)?;
        Ok(found.into_iter().map(|(_, block)| block).collect())
    }

    /// The namespaces of these subsystems, each with its subsystem's name.
    fn read_blocks(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<(String, Block)>> {
        let mut found = Vec::new();
        for (name, path) in list(&self.root.join("block"))? {
            // Without native multipath the device is the controller, with it the subsystem; both know the name.
            let nqn = attribute(&path.join("device"), "subsysnqn");
            let Some(nqn) = nqn.filter(|nqn| wanted(nqn)) else {
                continue;
            };
            if attribute(&path, "hidden").as_deref() == Some("1") {
                continue;
            }
            let read = || {
                let sequence = || attribute(&path, "diskseq").and_then(|text| text.parse().ok());
                let before = sequence();
                let block = Block {
                    controller: only_controller(&path),
                    nsid: attribute(&path, "nsid")?.parse().ok()?,
                    wwid: Wwid::as_spelled(attribute(&path, "wwid")?),
                    nguid: attribute(&path, "nguid").unwrap_or_default(),
                    // In sectors of 512 bytes, whatever the device's are (Documentation/ABI/stable/sysfs-block).
                    size: attribute(&path, "size")?
                        .parse::<u64>()
                        .ok()?
                        .checked_mul(512)?,
                    read_only: attribute(&path, "ro").as_deref() == Some("1"),
                    sequence: before,
                    name: name.clone(),
                };
                // Another device may have taken the name between two of these reads.
                (sequence() == before).then_some((nqn.clone(), block))
            };
            // One that goes away meanwhile is gone.
            found.extend(read());
        }
        Ok(found)
    }

    /// Whether the kernel shows a namespace as one device, however many controllers lead to it (nvme_core's parameter `multipath`).
    pub(super) fn joins_paths(&self) -> bool {
        let module = self.root.join("module/nvme_core");
        match attribute(&module.join("parameters"), "multipath") {
            Some(word) => word != "N",
            // A kernel without CONFIG_NVME_MULTIPATH has no such parameter; before the module is loaded, its value will be Y.
            None => !module.exists(),
        }
    }

    /// A file of a controller's, such as `delete_controller`.
    pub(super) fn file(&self, controller: &str, file: &str) -> PathBuf {
        self.root.join("class/nvme").join(controller).join(file)
    }
}

/// The entries that are named `nvme…`, in order; none of a directory that is not there.
fn list(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && name.starts_with("nvme")
        {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether the kernel does not report the subsystem of a controller yet.
fn is_unknown(nqn: &str) -> bool {
    !nqn.starts_with("nqn.")
}

/// An attribute; `None` where there is none, or its device went away.
fn attribute(device: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(device.join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// The only controller of a block device. The parent of the device is this controller if native multipath is off or the subsystem has no
/// more than one controller, and else the subsystem (drivers/nvme/host/multipath.c, `nvme_mpath_alloc_disk`).
fn only_controller(block: &Path) -> Option<String> {
    let parent = fs::canonicalize(block.join("device")).ok()?;
    let name = parent.file_name()?.to_str()?;
    (!name.starts_with("nvme-subsys")).then(|| name.to_owned())
}

/// The server of a controller by TCP.
fn portal(controller: &Path) -> Option<SocketAddr> {
    attribute(controller, "transport").filter(|transport| transport == "tcp")?;
    portal_in(&attribute(controller, "address")?)
}

/// The server in a controller's address: `traddr=10.0.0.1,trsvcid=4420,src_addr=10.0.0.9`.
pub(super) fn portal_in(address: &str) -> Option<SocketAddr> {
    let value = |key: &str| {
        address
            .split(',')
            .find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
    };
    let ip: IpAddr = value("traddr")?.parse().ok()?;
    Some(SocketAddr::new(ip, value("trsvcid")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, attributes: &[(&str, &str)]) {
        fs::create_dir_all(path).unwrap();
        for (name, value) in attributes {
            fs::write(path.join(name), format!("{value}\n")).unwrap();
        }
    }

    /// As Linux 6.1 has it: a subsystem with one namespace over two controllers, and a disk of another.
    fn tree() -> (tempfile::TempDir, Fabric) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (name, address, state, tmo) in [
            (
                "nvme0",
                "traddr=10.99.0.20,trsvcid=4420,src_addr=10.99.0.1",
                "live",
                "10",
            ),
            ("nvme1", "traddr=fd00::2,trsvcid=4421", "connecting", "off"),
        ] {
            let path = root.join("class/nvme").join(name);
            write(
                &path,
                &[
                    ("subsysnqn", "nqn.x"),
                    ("transport", "tcp"),
                    ("address", address),
                    ("state", state),
                    ("hostnqn", "nqn.host"),
                    ("fast_io_fail_tmo", tmo),
                ],
            );
            write(&path.join("nvme0c0n1"), &[("nsid", "7")]);
        }
        write(&root.join("class/nvme/nvme2"), &[("subsysnqn", "nqn.y")]);
        let new = [
            ("subsysnqn", "(efault)"),
            ("transport", "tcp"),
            ("address", "traddr=10.99.0.20,trsvcid=4420"),
        ];
        write(&root.join("class/nvme/nvme3"), &new);
        let subsystem = root.join("class/nvme-subsystem/nvme-subsys0");
        write(&subsystem, &[("subsysnqn", "nqn.x")]);
        for (name, hidden) in [("nvme0n1", "0"), ("nvme0c0n1", "1"), ("sda", "0")] {
            let path = root.join("block").join(name);
            write(
                &path,
                &[
                    ("hidden", hidden),
                    ("nsid", "7"),
                    ("wwid", "uuid.a"),
                    ("size", "16"),
                    ("diskseq", "12"),
                ],
            );
            symlink(&subsystem, path.join("device")).unwrap();
        }
        let fabric = Fabric::new(root);
        (dir, fabric)
    }

    #[test]
    fn controllers_are_the_subsystems() {
        let (_dir, fabric) = tree();
        let controllers = fabric.controllers("nqn.x").unwrap();
        let id = |name: &str| fs::metadata(fabric.file(name, "")).unwrap().ino();
        let nvme0 = Controller {
            id: id("nvme0"),
            name: "nvme0".into(),
            portal: Some("10.99.0.20:4420".parse().unwrap()),
            state: State::Live,
            as_ours: true,
            host: "nqn.host".into(),
            nsids: vec![7],
        };
        let nvme1 = Controller {
            id: id("nvme1"),
            name: "nvme1".into(),
            portal: Some("[fd00::2]:4421".parse().unwrap()),
            state: State::Connecting,
            as_ours: false,
            host: "nqn.host".into(),
            nsids: vec![7],
        };
        assert_eq!(controllers, [nvme0, nvme1]);
        assert_eq!(fabric.controllers("nqn.z").unwrap(), []);
        let portals = ["10.99.0.20:4420".parse().unwrap()];
        let beginning = fabric.beginning(&portals).unwrap();
        assert_eq!(beginning.len(), 1);
        assert_eq!(beginning[0].name, "nvme3");
        let others = ["10.99.0.20:4421".parse().unwrap()];
        assert!(fabric.beginning(&others).unwrap().is_empty());
        let none = tempfile::tempdir().unwrap();
        assert_eq!(Fabric::new(none.path()).controllers("nqn.x").unwrap(), []);
    }

    #[test]
    fn paths_are_joined_unless_the_kernel_says_no() {
        let (dir, fabric) = tree();
        assert!(fabric.joins_paths());
        let parameters = dir.path().join("module/nvme_core/parameters");
        for (word, joined) in [("Y", true), ("N", false)] {
            write(&parameters, &[("multipath", word)]);
            assert_eq!(fabric.joins_paths(), joined);
        }
        fs::remove_file(parameters.join("multipath")).unwrap();
        assert!(!fabric.joins_paths(), "built without");
    }

    #[test]
    fn blocks_are_those_that_can_be_opened() {
        let (_dir, fabric) = tree();
        let block = Block {
            name: "nvme0n1".into(),
            controller: None,
            nsid: 7,
            wwid: Wwid::as_spelled("uuid.a".into()),
            nguid: String::new(),
            size: 8192,
            read_only: false,
            sequence: Some(12),
        };
        assert_eq!(fabric.blocks("nqn.x").unwrap(), [block]);
        assert_eq!(fabric.blocks("nqn.y").unwrap(), []);
    }
}
