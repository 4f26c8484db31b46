//! What was decided for an attachment before anything is done: free of secrets, so that it can be shown, journaled
//! and compared.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Access, AttachmentId, Claim, DiskOptions, ImageFormat, Scope, Server, VolumeId, Wwid};

/// A mount that a connection needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// What is mounted: `//host/share`.
    pub source: String,
    /// The kernel's name of the file system: `cifs`.
    pub fstype: String,
    /// Mount options as mount(2) gets them, in order, secrets redacted; flags (`ro,nosuid,…`) first.
    pub options: String,
    /// The mount point.
    pub target: PathBuf,
    /// The file with the login, if the mount uses one.
    #[serde(default)]
    pub login: Option<PathBuf>,
}

/// A storage target that a connection logs in to, and which volume there it means. It outlives the daemon: with it the
/// connection is taken down after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPlan {
    /// What carries it, by the kernel's name: `tcp`.
    pub transport: String,
    /// The ways to the volume, in the connection info's order; at least one.
    pub paths: Vec<TargetPath>,
    /// The network interface it goes over, by the initiator's name for it; `None`: whichever leads there.
    pub interface: Option<String>,
    /// The volume's identity as the connection info has it; `None`: it names none.
    pub expected: Option<Wwid>,
}

/// Connection of this host to a volume's storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// No connection: the volume belongs to this host.
    None,
    /// A mount of a share.
    Mount(MountPlan),
    /// Sessions with iSCSI targets.
    Iscsi(TargetPlan),
    /// Controllers of an NVMe subsystem.
    Nvme(TargetPlan),
}

/// One way to a volume on a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TargetPath {
    /// Address and port, an IPv6 address in brackets: `10.0.0.1:3260`.
    pub portal: String,
    /// The target's name: an IQN or NQN.
    pub name: String,
    /// The volume's number on the target: a SCSI LUN or an NVMe namespace id. `None`: its identity alone tells it from others.
    pub lun: Option<u64>,
}

/// Whether a volume is a file or a block device on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A regular file.
    File,
    /// A block device.
    Block,
}

/// Decided connection of a volume to this host, before anything is touched. [`Found`](super::Found) has the findings of the connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The connection info's protocol, such as `smbfs`: the backend that made this plan.
    pub protocol: String,
    /// Claims of this connection, sorted and without duplicates. Empty: no connection is made, and the volume exists already or not at all.
    pub claims: Vec<Claim>,
    /// The connection to make.
    pub connection: Connection,
    /// Path of the volume once connected. For a target's block device: the name given by udev, used until the device is found.
    pub path: PathBuf,
    /// The directory that the volume must stay beneath, links not followed: the share's mount point or a configured root.
    pub root: PathBuf,
    /// File or block device.
    pub kind: SourceKind,
    /// The image's format: as given, never guessed.
    pub format: ImageFormat,
    /// Read-only or read-write on the host.
    pub access: Access,
    /// Whether the storage decides who owns the volume, because others may reach it through a server: libvirt must not change the owner.
    #[serde(default)]
    pub keeps_owner: bool,
}

impl HostPlan {
    /// The mount, if the plan makes one.
    #[must_use]
    pub fn mount(&self) -> Option<&MountPlan> {
        match &self.connection {
            Connection::Mount(mount) => Some(mount),
            Connection::None | Connection::Iscsi(_) | Connection::Nvme(_) => None,
        }
    }

    /// The volume's servers, by name or address, without ports; none for a volume of this host.
    #[must_use]
    pub fn servers(&self) -> Vec<String> {
        let mut servers: Vec<String> = self.reached_by().into_iter().map(|it| it.host).collect();
        servers.sort();
        servers.dedup();
        servers
    }

    /// The servers that the volume is reached by, each alone; none for a volume of this host.
    #[must_use]
    pub fn reached_by(&self) -> Vec<Server> {
        let mut servers: Vec<Server> = match &self.connection {
            Connection::None => Vec::new(),
            Connection::Mount(mount) => vec![Server {
                protocol: self.protocol.clone(),
                host: mount.server().to_owned(),
                port: mount.port(),
            }],
            Connection::Iscsi(target) | Connection::Nvme(target) => {
                let paths = target.paths.iter();
                let portals = paths.map(|path| Server::at(&self.protocol, &path.portal));
                portals.collect()
            }
        };
        servers.sort();
        servers.dedup();
        servers
    }
}

impl Server {
    /// The server at a portal, such as `10.0.0.1:3260` or `[fd00::2]:4420`.
    #[must_use]
    pub fn at(protocol: &str, portal: &str) -> Self {
        let parsed = portal.parse::<SocketAddr>().ok();
        Self {
            protocol: protocol.to_owned(),
            host: parsed.map_or_else(|| portal.to_owned(), |it| it.ip().to_string()),
            port: parsed.map(|it| it.port()),
        }
    }

    /// The portal, as [`Self::at`] takes it.
    #[must_use]
    pub fn portal(&self) -> String {
        match (self.host.parse(), self.port) {
            (Ok(address), Some(port)) => SocketAddr::new(address, port).to_string(),
            _ => self.host.clone(),
        }
    }
}

impl MountPlan {
    /// The server in the source: of `//host/share`, `host:/path` or `[fd00::5]:/path`.
    fn server(&self) -> &str {
        let source = &self.source;
        if let Some(share) = source.strip_prefix("//") {
            return share.split('/').next().unwrap_or(share);
        }
        let server = source
            .split_once(":/")
            .map_or(source.as_str(), |(server, _)| server);
        server.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port among the options.
    fn port(&self) -> Option<u16> {
        let mut options = self.options.split(',');
        options.find_map(|option| option.strip_prefix("port=")?.parse().ok())
    }
}

/// Everything that decides a disk's XML but the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Gives the alias.
    pub attachment: AttachmentId,
    /// Gives the serial by default.
    pub volume: VolumeId,
    /// The volume on this host.
    pub path: PathBuf,
    /// File or block device.
    pub kind: SourceKind,
    /// The image's format.
    pub format: ImageFormat,
    /// Read-only puts `<readonly/>` into the XML.
    pub access: Access,
    /// Its storage says who owns it: libvirt leaves that as it is.
    pub keeps_owner: bool,
    /// The caller's options, with the connection info's filled in where the caller said nothing.
    pub options: DiskOptions,
}

/// In which of libvirt's two dialects a domain's disks are written and plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Of domains that QEMU runs, by KVM or by emulation.
    #[default]
    Qemu,
    /// Of domains that Xen runs (libvirt's libxl driver).
    Xen,
}

/// A disk as it is to be plugged into one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPlan {
    /// Device alias: with the source, identifies the disk when it is looked for or unplugged.
    pub alias: String,
    /// Path of the volume on this host, as written in the XML.
    pub source: PathBuf,
    /// Sequence number of the plugged block device, if the kernel gives one: another device may have its name by now.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// The target, such as `vdb`.
    pub target: String,
    /// libvirt's XML of the disk.
    pub xml: String,
    /// Which configuration has it.
    pub scope: Scope,
    /// How it is plugged in and unplugged.
    #[serde(default)]
    pub dialect: Dialect,
    /// Options that were asked for and that this hypervisor has no such thing as.
    #[serde(default)]
    pub left_out: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_mount_has_no_port_share_or_brackets() {
        for (source, server) in [
            ("//nas/volumes", "nas"),
            ("//10.0.0.5/volumes/folder", "10.0.0.5"),
            ("//fd00::5/volumes", "fd00::5"),
            ("nas:/exports/a:/b", "nas"),
            ("[fd00::5]:/", "fd00::5"),
        ] {
            let mount = MountPlan {
                source: source.to_owned(),
                fstype: "cifs".to_owned(),
                options: String::new(),
                target: PathBuf::new(),
                login: None,
            };
            assert_eq!(mount.server(), server, "{source}");
        }
    }

    #[test]
    fn another_port_is_another_server() {
        let shown = |server: Server| server.to_string();
        for (portal, server) in [
            ("10.0.0.1:3260", "10.0.0.1:3260 (iscsi)"),
            ("[fd00::2]:4420", "[fd00::2]:4420 (iscsi)"),
            ("nas", "nas (iscsi)"),
        ] {
            assert_eq!(shown(Server::at("iscsi", portal)), server);
            assert_eq!(Server::at("iscsi", portal).portal(), portal);
        }
        let mount = |options: &str| MountPlan {
            source: "//nas/volumes".to_owned(),
            fstype: "cifs".to_owned(),
            options: options.to_owned(),
            target: PathBuf::new(),
            login: None,
        };
        assert_eq!(mount("rw,soft,port=4450,vers=3.1.1").port(), Some(4450));
        assert_eq!(mount("rw,mountport=99").port(), None);
    }
}
