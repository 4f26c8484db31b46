//! What the kernel has of iSCSI sessions, their SCSI disks and the maps over them. It is asked what is there and where, never who
//! a disk is: what it knows of that is as old as the scan.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::model::{TargetPath, Wwid};
use crate::sys::scsi;

/// The kernel's files. To be read on a blocking thread ([`super::read`]): with thousands of sessions, finding one takes
/// longer than the runtime may stand still.
#[derive(Debug, Clone)]
pub(super) struct Sysfs {
    root: PathBuf,
    /// Sessions and maps as they were at one moment; `None`: each look reads the kernel's files anew.
    index: Option<Arc<Index>>,
}

/// All sessions, by target, and all maps.
#[derive(Debug, Default)]
struct Index {
    sessions: HashMap<String, Vec<Session>>,
    maps: HashMap<Wwid, Map>,
}

/// An iSCSI session (drivers/scsi/scsi_transport_iscsi.c).
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// The number by which iscsiadm calls it.
    pub(super) id: u32,
    /// Where the target was logged in to.
    pub(super) portal: SocketAddr,
    /// The SCSI host's number.
    pub(super) host: u32,
    /// Inode number of the SCSI host's directory; the kernel reuses the host's number (see [`crate::sys::worker::SysfsJob::directory`]).
    pub(super) host_id: Option<u64>,
    /// Its device's directory, beneath which its disks are.
    device: PathBuf,
    /// Its attributes' directory.
    class: PathBuf,
}

/// A SCSI disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its directory, named host:channel:target:LUN.
    pub(super) dir: PathBuf,
    /// Inode number of the directory; the kernel reuses the name (see [`crate::sys::worker::SysfsJob::directory`]).
    pub(super) id: u64,
    /// Its block device's name, such as `sdb`; none while the kernel still looks at it.
    pub(super) block: Option<String>,
}

/// A multipath map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    /// Its block device's name: `dm-0`.
    pub(super) block: String,
    /// The WWID it was made for.
    pub(super) wwid: Wwid,
}

impl Sysfs {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, index: None }
    }

    /// The same files, with their sessions and maps as they are now: for a look at many volumes, which would else read every session and
    /// map for each volume.
    pub(super) fn indexed(&self) -> Self {
        let mut index = Index::default();
        for (target, session) in self.read_sessions(|_| true) {
            index.sessions.entry(target).or_default().push(session);
        }
        for map in self.read_maps() {
            index.maps.entry(map.wwid.clone()).or_insert(map);
        }
        Self {
            root: self.root.clone(),
            index: Some(Arc::new(index)),
        }
    }

    /// The session with that target by that portal, over whichever of the initiator's interfaces: the configured one may be another
    /// by now.
    pub(super) fn session(&self, path: &TargetPath) -> Option<Session> {
        let portal = path.portal.parse::<SocketAddr>().ok()?;
        let mut sessions = self.sessions(&path.name).into_iter();
        sessions.find(|session| session.portal == portal)
    }

    /// All sessions with that target.
    pub(super) fn sessions(&self, target: &str) -> Vec<Session> {
        if let Some(index) = &self.index {
            return index.sessions.get(target).cloned().unwrap_or_default();
        }
        let sessions = self.read_sessions(|name| name == target);
        sessions.map(|(_, session)| session).collect()
    }

    /// The sessions with these targets, each with its target's name.
    fn read_sessions(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (String, Session)> {
        let names = list(&self.root.join("class/iscsi_session"));
        names.into_iter().filter_map(move |name| {
            let class = self.root.join("class/iscsi_session").join(&name);
            let id = name.strip_prefix("session")?.parse().ok()?;
            let device = class.join("device");
            let by = format!("connection{id}:0");
            let connection = device.join(&by).join("iscsi_connection").join(&by);
            let target = read(&class, "targetname");
            if !wanted(&target) {
                return None;
            }
            let address = read(&connection, "persistent_address").parse().ok()?;
            let port = read(&connection, "persistent_port").parse().ok()?;
            let real = fs::canonicalize(&device).ok()?;
            let host = real.parent()?.file_name()?.to_str()?.strip_prefix("host")?;
            let host = host.parse().ok()?;
            let host_id = fs::metadata(self.host(host)).ok().map(|it| it.ino());
            let session = Session {
                id,
                portal: SocketAddr::new(address, port),
                host,
                host_id,
                device: real,
                class,
            };
            Some((target, session))
        })
    }

    /// The file by which a session's host is told to scan.
    pub(super) fn scan_file(&self, session: &Session) -> PathBuf {
        self.host(session.host).join("scan")
    }

    fn host(&self, number: u32) -> PathBuf {
        self.root.join(format!("class/scsi_host/host{number}"))
    }

    /// The map for that WWID.
    pub(super) fn map(&self, wwid: &Wwid) -> Option<Map> {
        match &self.index {
            Some(index) => index.maps.get(wwid).cloned(),
            None => self.read_maps().find(|map| map.wwid == *wwid),
        }
    }

    fn read_maps(&self) -> impl Iterator<Item = Map> {
        let blocks = list(&self.root.join("block")).into_iter();
        blocks.filter_map(|block| self.as_map(block))
    }

    /// The map that has a block device as one of its paths.
    pub(super) fn map_over(&self, block: &str) -> Option<Map> {
        let holders = list(&self.root.join("block").join(block).join("holders"));
        holders.into_iter().find_map(|holder| self.as_map(holder))
    }

    fn as_map(&self, block: String) -> Option<Map> {
        let dir = self.root.join("block").join(&block);
        let uuid = block.starts_with("dm-").then(|| read(&dir, "dm/uuid"))?;
        // libmultipath/devmapper.h: UUID_PREFIX.
        let wwid = Wwid::as_spelled(uuid.strip_prefix("mpath-")?.to_owned());
        Some(Map { block, wwid })
    }

    /// The partitions of a map, each a map of its own; empty if anything else uses the map. kpartx makes them by a rule of udev's, and
    /// multipathd removes them with the map (multipath-tools, libmultipath/devmapper.c, `dm_flush_map`).
    pub(super) fn partitions_of(&self, map: &Map) -> Vec<String> {
        let holders = list(&self.root.join("block").join(&map.block).join("holders"));
        let is_partition = |holder: &String| {
            let uuid = read(&self.root.join("block").join(holder), "dm/uuid");
            // kpartx/kpartx.c: PARTNUM_UUID, followed by the map's own UUID.
            let number = uuid
                .strip_prefix("part")
                .and_then(|rest| rest.strip_suffix(&format!("-mpath-{}", map.wwid)));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        match holders.iter().all(is_partition) {
            true => holders,
            false => Vec::new(),
        }
    }

    /// The block devices that a map goes to.
    pub(super) fn paths_of(&self, map: &Map) -> Vec<String> {
        list(&self.root.join("block").join(&map.block).join("slaves"))
    }

    /// The number of a block device, which the kernel gives no other one until the next boot (Linux 5.15).
    pub(super) fn sequence(&self, block: &str) -> Option<u64> {
        let dir = self.root.join("block").join(block);
        read(&dir, "diskseq").parse().ok()
    }

    /// Those of all block devices. `None` with an index: at that moment, a device noted since may not have existed.
    pub(super) fn sequences(&self) -> Option<HashSet<u64>> {
        let blocks = || list(&self.root.join("block")).into_iter();
        let read = || blocks().filter_map(|it| self.sequence(&it)).collect();
        self.index.is_none().then(read)
    }

    /// Whether the kernel lets nobody write the block device.
    pub(super) fn read_only(&self, block: &str) -> bool {
        read(&self.root.join("block").join(block), "ro") == "1"
    }
}

/// What may be in this host's cache of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cached {
    /// What was written to the disk, and must reach it.
    Writes,
    /// The same, but it may be lost where it cannot be flushed.
    Expendable,
    /// Nothing: a map was written to, or nobody ever wrote, or it is nobody's loss.
    Nothing,
}

impl Session {
    /// Whether the target answers, as far as the kernel knows.
    pub(super) fn logged_in(&self) -> bool {
        read(&self.class, "state") == "LOGGED_IN"
    }

    /// Who logged in to the target, with which password, and the same of the target to this host; empty: nobody was asked.
    pub(super) fn login(&self) -> io::Result<[Zeroizing<String>; 4]> {
        let read = |file: &str| -> io::Result<_> {
            let mut given = Zeroizing::new(fs::read_to_string(self.class.join(file))?);
            if given.ends_with('\n') {
                given.pop();
            }
            Ok(match given.as_str() {
                "(null)" => Zeroizing::default(),
                _ => given,
            })
        };
        Ok([
            read("username")?,
            read("password")?,
            read("username_in")?,
            read("password_in")?,
        ])
    }

    /// The disks of the session.
    pub(super) fn units(&self) -> Vec<Unit> {
        let targets = list(&self.device).into_iter();
        targets
            .filter(|name| name.starts_with("target"))
            .flat_map(|target| {
                let dir = self.device.join(target);
                list(&dir).into_iter().map(move |name| dir.join(name))
            })
            .filter(|dir| lun(dir).is_some())
            .filter_map(|dir| {
                Some(Unit {
                    id: fs::metadata(&dir).ok()?.ino(),
                    block: list(&dir.join("block")).into_iter().next(),
                    dir,
                })
            })
            .collect()
    }

    /// Where the disk at that LUN is, or will be: the kernel has one target a session, on channel 0.
    pub(super) fn unit_dir(&self, number: u64) -> PathBuf {
        let target = read(&self.class, "target_id").parse().unwrap_or(0u32);
        let target = format!("{}:0:{target}", self.host);
        let unit = format!("{target}:{number}");
        self.device.join(format!("target{target}")).join(unit)
    }

    /// The disk at that LUN.
    pub(super) fn unit(&self, number: u64) -> Option<Unit> {
        self.units()
            .into_iter()
            .find(|unit| lun(&unit.dir) == Some(number))
    }
}

impl Unit {
    /// The identity it had when it was scanned last, by anybody. Good for one thing: another one now says that it is another volume.
    pub(super) fn identity_at_scan(&self) -> Option<Wwid> {
        scsi::identity(&fs::read(self.dir.join("vpd_pg83")).ok()?)
    }

    /// Whether the target reported that no volume is at this LUN when the LUN was scanned (SPC-5, 6.6.2: a peripheral qualifier other than
    /// 0). Such a unit gets no disk, and the kernel does not ask again.
    pub(super) fn is_vacant(&self) -> bool {
        let inquiry = fs::read(self.dir.join("inquiry")).unwrap_or_default();
        inquiry.first().is_some_and(|first| first >> 5 != 0)
    }

    pub(super) fn is_there(&self) -> bool {
        fs::metadata(&self.dir).is_ok_and(|it| it.ino() == self.id)
    }
}

/// The LUN of a directory named host:channel:target:LUN.
pub(super) fn lun(dir: &Path) -> Option<u64> {
    let name = dir.file_name()?.to_str()?;
    let numbers = name.split(':').map(|number| number.parse::<u64>().ok());
    let numbers: Option<Vec<u64>> = numbers.collect();
    match numbers?.as_slice() {
        [_, _, _, lun] => Some(*lun),
        _ => None,
    }
}

/// An attribute; empty where it is not there (any more).
fn read(dir: &Path, file: &str) -> String {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

fn list(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
