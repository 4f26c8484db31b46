//! This host, as control planes and storage want to know it.
//!
//! Invariant: telling takes no subprocess and no network, and nothing but small files of this host's own (proc(5), sysfs(5),
//! /etc), at most every few seconds; so it may be asked for before each attach. Nothing is written but, once, the names that
//! an NVMe host needs.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod nvme;
mod selinux;

pub use nvme::NvmeHost;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sysinfo::{Product, System};
use uuid::Uuid;

/// How old an answer may be. Names stay for as long as a host is up, but its address may change, and multipathd may be started.
const FRESH: Duration = Duration::from_secs(3);

/// There while the kernel has NVMe over fabrics.
const NVME_FABRICS: &str = "sys/module/nvme_fabrics";

/// What this host can connect to: the connector properties of os-brick, under os-brick's names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connector {
    /// The host's name.
    pub host: String,
    /// The address by which other hosts reach it; empty where no route leads anywhere.
    pub ip: String,
    /// The machine, such as `x86_64`.
    pub platform: String,
    /// The operating system, such as `linux`.
    pub os_type: String,
    /// The machine's UUID; empty where the firmware tells none, or not to this user.
    pub system_uuid: String,
    /// The iSCSI initiator's name; empty where there is none (open-iscsi is not installed).
    pub initiator: String,
    /// Whether multipathd runs, which joins the paths to a SCSI volume.
    pub multipath: bool,
    /// The NVMe host's qualified name; empty where the kernel has no NVMe over fabrics.
    pub nqn: String,
    /// The NVMe host's identifier, a UUID; empty likewise.
    pub nvme_hostid: String,
    /// Whether the kernel itself joins the paths to an NVMe volume.
    pub nvme_native_multipath: bool,
}

/// This boot of the host, for findings that are void in the next (proc_sys_kernel(5), `random/boot_id`). `None`: /proc is not readable.
#[must_use]
pub fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// This host, or a directory that looks like one.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    known: Mutex<Option<(Instant, Connector)>>,
    /// Held while the NVMe host's names are read, and made where they are not there.
    naming: Mutex<()>,
}

impl Host {
    /// This host.
    #[must_use]
    pub fn this() -> Self {
        Self::beneath("/")
    }

    /// A host whose files lie beneath `root`; its name, address and UUID are this host's all the same.
    #[must_use]
    pub fn beneath(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            known: Mutex::default(),
            naming: Mutex::default(),
        }
    }

    /// What this host can connect to, as it was at most three seconds ago.
    #[must_use]
    pub fn connector(&self) -> Connector {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((read, connector)) if read.elapsed() < FRESH => connector.clone(),
            _ => {
                let connector = self.read();
                *known = Some((Instant::now(), connector.clone()));
                connector
            }
        }
    }

    /// What this host is called by NVMe storage, in /etc/nvme/hostnqn and hostid; what is not there yet is made.
    ///
    /// # Errors
    /// Where a file cannot be read or made, or holds something else.
    pub fn nvme(&self) -> io::Result<NvmeHost> {
        let _held = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = Product::uuid().ok();
        let machine = machine.and_then(|uuid| Uuid::try_parse(&uuid).ok());
        NvmeHost::read_or_make(&self.root.join(nvme::DIRECTORY), machine)
    }

    /// The NVMe host's names, where this is one.
    fn told_nvme(&self) -> Option<NvmeHost> {
        if !self.root.join(NVME_FABRICS).exists() {
            return None;
        }
        let names = self.nvme();
        names
            .inspect_err(|error| tracing::warn!(%error, "this host has no name for NVMe storage"))
            .ok()
    }

    fn read(&self) -> Connector {
        let (nqn, nvme_hostid) = self
            .told_nvme()
            .map(|names| (names.nqn, names.id.to_string()))
            .unwrap_or_default();
        Connector {
            host: System::host_name().unwrap_or_default(),
            ip: address().unwrap_or_default(),
            platform: std::env::consts::ARCH.to_owned(),
            os_type: std::env::consts::OS.to_owned(),
            system_uuid: Product::uuid().unwrap_or_default(),
            initiator: initiator(&self.text("etc/iscsi/initiatorname.iscsi")),
            multipath: self.multipathd_runs(),
            nqn,
            nvme_hostid,
            nvme_native_multipath: self.line("sys/module/nvme_core/parameters/multipath") == "Y",
        }
    }

    /// A file's text; empty where there is none.
    fn text(&self, path: impl AsRef<Path>) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// The one line of a file.
    fn line(&self, path: impl AsRef<Path>) -> String {
        self.text(path).trim().to_owned()
    }

    /// Whether multipathd runs: it is still the process that its pid file names. (Its socket is no proof, for systemd listens
    /// there and would start it.)
    fn multipathd_runs(&self) -> bool {
        let pid = self.line("run/multipathd.pid").parse::<u32>();
        pid.is_ok_and(|pid| self.line(format!("proc/{pid}/comm")) == "multipathd")
    }
}

/// The name in initiatorname.iscsi of open-iscsi.
fn initiator(text: &str) -> String {
    let mut names = text.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("InitiatorName=")?
            .split('#')
            .next()
    });
    names.next().unwrap_or_default().trim().to_owned()
}

/// The address that this host has on the way to elsewhere: the kernel chooses it when a datagram socket is connected,
/// which sends nothing. The addresses asked for are of no host (RFC 5737, RFC 3849).
fn address() -> Option<String> {
    let ways = [
        (
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9)),
        ),
        (
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9)),
        ),
    ];
    ways.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback() && !ip.is_unspecified()).then(|| ip.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_told() {
        let connector = Host::this().connector();
        let name = nix::sys::utsname::uname().unwrap();
        assert_eq!(connector.host, name.nodename().to_str().unwrap());
        assert_eq!(connector.platform, name.machine().to_str().unwrap());
        assert_eq!(connector.os_type, "linux");
        if !connector.ip.is_empty() {
            let ip: std::net::IpAddr = connector.ip.parse().unwrap();
            // Only an address of this host can be bound.
            UdpSocket::bind((ip, 0)).unwrap();
        }
    }

    /// A directory with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_host_with_everything_tells_it() {
        let root = root(&[
            (
                "etc/iscsi/initiatorname.iscsi",
                "## DO NOT EDIT\n#InitiatorName=iqn.old\nInitiatorName=iqn.1993-08.org.debian:01:5f2 # ours\n",
            ),
            ("run/multipathd.pid", "712\n"),
            ("proc/712/comm", "multipathd\n"),
            ("sys/module/nvme_fabrics/refcnt", "0\n"),
            ("etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1\n"),
            ("etc/nvme/hostid", "7c9e6679-7425-40de-944b-e07fc1f90ae7\n"),
            ("sys/module/nvme_core/parameters/multipath", "Y\n"),
        ]);
        let connector = Host::beneath(root.path()).connector();
        let expected = Connector {
            host: connector.host.clone(),
            ip: connector.ip.clone(),
            platform: std::env::consts::ARCH.into(),
            os_type: "linux".into(),
            system_uuid: connector.system_uuid.clone(),
            initiator: "iqn.1993-08.org.debian:01:5f2".into(),
            multipath: true,
            nqn: "nqn.2014-08.org.nvmexpress:uuid:1".into(),
            nvme_hostid: "7c9e6679-7425-40de-944b-e07fc1f90ae7".into(),
            nvme_native_multipath: true,
        };
        assert_eq!(connector, expected);
    }

    #[test]
    fn what_a_host_has_not_is_empty() {
        let root = root(&[]);
        let connector = Host::beneath(root.path()).connector();
        let expected = Connector {
            host: connector.host.clone(),
            ip: connector.ip.clone(),
            platform: connector.platform.clone(),
            system_uuid: connector.system_uuid.clone(),
            os_type: "linux".into(),
            ..Connector::default()
        };
        assert_eq!(connector, expected);
        // open-iscsi as it is installed, before its first start.
        assert_eq!(initiator("GenerateName=yes\n"), "");
    }

    #[test]
    fn a_pid_file_is_no_proof() {
        for (pid, comm) in [("712", "bash"), ("713", "multipathd"), ("x", "multipathd")] {
            let root = root(&[("run/multipathd.pid", pid), ("proc/712/comm", comm)]);
            assert!(!Host::beneath(root.path()).connector().multipath, "{pid}");
        }
    }

    #[test]
    fn an_nvme_host_without_names_is_given_them() {
        let root = root(&[
            ("sys/module/nvme_fabrics/refcnt", "0\n"),
            ("etc/hostname", "x"),
        ]);
        let host = Host::beneath(root.path());
        let connector = host.connector();
        let names = host.nvme().unwrap();
        assert_eq!(
            (connector.nqn, connector.nvme_hostid),
            (names.nqn.clone(), names.id.to_string())
        );
        // What is no name is told to nobody.
        fs::write(root.path().join("etc/nvme/hostnqn"), "iqn.x").unwrap();
        assert!(host.nvme().is_err());
        assert_eq!(Host::beneath(root.path()).connector().nqn, "");
    }

    #[test]
    fn an_answer_is_kept_for_a_while() {
        let root = root(&[("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.a")]);
        let host = Host::beneath(root.path());
        let first = host.connector();
        let changed = root.path().join("etc/iscsi/initiatorname.iscsi");
        fs::write(changed, "InitiatorName=iqn.b").unwrap();
        assert_eq!(host.connector(), first);
        let old = Instant::now().checked_sub(FRESH).unwrap();
        *host.known.lock().unwrap() = Some((old, first));
        assert_eq!(host.connector().initiator, "iqn.b");
    }
}
