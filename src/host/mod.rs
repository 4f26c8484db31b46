//! This host, as control planes and storage want to know it.
//!
//! Invariant: telling takes no subprocess and no network, and nothing but small files of this host's own (proc(5), sysfs(5),
//! /etc), at most every few seconds; so it may be asked for before each attach.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sysinfo::{Product, System};

/// How old an answer may be. Names stay for as long as a host is up, but its address may change, and multipathd may be started.
const FRESH: Duration = Duration::from_secs(3);

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
    /// The NVMe host's qualified name; empty where it has none yet.
    pub nqn: String,
    /// The NVMe host's identifier, a UUID; empty where it has none yet.
    pub nvme_hostid: String,
    /// Whether the kernel itself joins the paths to an NVMe volume.
    pub nvme_native_multipath: bool,
}

/// This host, or a directory that looks like one.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    known: Mutex<Option<(Instant, Connector)>>,
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

    fn read(&self) -> Connector {
        Connector {
            host: System::host_name().unwrap_or_default(),
            ip: address().unwrap_or_default(),
            platform: std::env::consts::ARCH.to_owned(),
            os_type: std::env::consts::OS.to_owned(),
            system_uuid: Product::uuid().unwrap_or_default(),
            initiator: initiator(&self.text("etc/iscsi/initiatorname.iscsi")),
            multipath: self.multipathd_runs(),
            nqn: self.line("etc/nvme/hostnqn"),
            nvme_hostid: self.line("etc/nvme/hostid"),
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
            ("etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1\n"),
            ("etc/nvme/hostid", "7c9e6679\n"),
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
            nvme_hostid: "7c9e6679".into(),
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
    fn an_answer_is_kept_for_a_while() {
        let root = root(&[("etc/nvme/hostid", "a")]);
        let host = Host::beneath(root.path());
        let first = host.connector();
        fs::write(root.path().join("etc/nvme/hostid"), "b").unwrap();
        assert_eq!(host.connector(), first);
        let old = Instant::now().checked_sub(FRESH).unwrap();
        *host.known.lock().unwrap() = Some((old, first));
        assert_eq!(host.connector().nvme_hostid, "b");
    }
}
