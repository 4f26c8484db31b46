//! What `[smb]` and `[nfs]` have alike: how shares are mounted, and what that comes to for one server.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Fault, Problem};
use super::tree::Section;
use super::{owner, value};
use crate::model::mount_options::{EffectiveOption, MountOption, Origin, Table, Versions};
use crate::model::{ErrorPolicy, server_name};

/// `[smb]` and `[nfs]`: how shares are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// The versions tried where connection info asks for none; default for SMB 3.1.1, 3.0.2, 3.0, 2.1, for NFS 4.2, 4.1,
    /// 4.0. SMB `1.0` and NFS `3` only work when named here.
    pub versions: Vec<String>,
    /// The owner of every file on an SMB mount, and the user that must be able to open a volume on an NFS one; default:
    /// the user `libvirt-qemu` (or `qemu`), looked up.
    pub uid: u32,
    /// The group likewise; default: that user's.
    pub gid: u32,
    /// How long a server may take to answer which version it speaks; default 3 s.
    pub probe_timeout: Duration,
    /// What becomes of a guest's failed requests; default `stop`.
    pub error_policy: ErrorPolicy,
    /// How long a mount may take once the server has answered; then its worker is killed; default 10 s.
    pub mount_timeout: Duration,
    /// Options for every server, which connection info may override.
    pub default_options: Vec<MountOption>,
    /// Options for every server, which nothing overrides.
    pub mandatory_options: Vec<MountOption>,
    /// Per server, by the host name or address as connection info writes it, in lower case.
    pub servers: BTreeMap<String, ShareServer>,
}

/// `[smb.servers."NAME"]` and `[nfs.servers."NAME"]`: what differs for one server; `None` and empty take the section's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShareServer {
    /// The versions allowed.
    pub versions: Option<Vec<String>>,
    /// Every volume on this server is read-only.
    pub read_only: bool,
    /// Before the section's `default_options`.
    pub default_options: Vec<MountOption>,
    /// Before the section's `mandatory_options`.
    pub mandatory_options: Vec<MountOption>,
}

/// What differs from one protocol to the other.
pub(super) struct Schema {
    /// The section's name.
    pub(super) section: &'static str,
    /// The options that may be set.
    pub(super) options: &'static Table,
    /// The versions that may be named.
    pub(super) versions: &'static Versions,
    /// Those tried where none is.
    pub(super) default_versions: &'static [&'static str],
}

impl Schema {
    /// Reads what the protocols have alike, and by `own` what a server of this one has besides.
    pub(super) fn decode<T>(
        &self,
        section: &mut Section,
        problems: &mut Vec<Problem>,
        own: impl Fn(&mut Section, &mut Vec<Problem>) -> T,
    ) -> (Shares, BTreeMap<String, T>) {
        let versions = section.read(problems, "versions", value::versions(self.versions));
        let user = section.read(problems, "uid", owner::user);
        let group = section.read(problems, "gid", owner::group);
        let user = user.unwrap_or_else(|| owner::qemu(self.section));
        let probe_timeout = section.read(problems, "probe_timeout", value::duration);
        let error_policy = section.read(problems, "error_policy", value::error_policy);
        let mount_timeout = section.read(problems, "mount_timeout", value::duration);
        let default_options = self.options(section, problems, "default_options");
        let mandatory_options = self.options(section, problems, "mandatory_options");
        let servers = section.section(problems, "servers");
        let (servers, of_servers) = decode_servers(servers, problems, |section, problems| {
            let server = ShareServer {
                versions: section.read(problems, "versions", value::versions(self.versions)),
                read_only: section
                    .read(problems, "read_only", value::flag)
                    .unwrap_or(false),
                default_options: self.options(section, problems, "default_options"),
                mandatory_options: self.options(section, problems, "mandatory_options"),
            };
            (server, own(section, problems))
        });
        let default_versions = || self.default_versions.iter().map(|v| (*v).to_owned());
        let shares = Shares {
            versions: versions.unwrap_or_else(|| default_versions().collect()),
            uid: user.uid,
            // A number that is nobody's on this host is its own group's, as useradd(8) makes them.
            gid: group.or(user.gid).unwrap_or(user.uid),
            error_policy: error_policy.unwrap_or(ErrorPolicy::Stop),
            probe_timeout: probe_timeout.unwrap_or(Duration::from_secs(3)),
            mount_timeout: mount_timeout.unwrap_or(Duration::from_secs(10)),
            default_options,
            mandatory_options,
            servers,
        };
        (shares, of_servers)
    }

    fn options(
        &self,
        section: &mut Section,
        problems: &mut Vec<Problem>,
        key: &'static str,
    ) -> Vec<MountOption> {
        section
            .read(problems, key, value::mount_options(self.options))
            .unwrap_or_default()
    }
}

/// Tables by the names of servers, each read by `decode`.
fn decode_servers<S, T>(
    servers: Section,
    problems: &mut Vec<Problem>,
    decode: impl Fn(&mut Section, &mut Vec<Problem>) -> (S, T),
) -> (BTreeMap<String, S>, BTreeMap<String, T>) {
    let (mut decoded, mut own) = (BTreeMap::new(), BTreeMap::new());
    for (name, at, mut section) in servers.sections(problems) {
        let key = section.path().to_owned();
        let (server, of_server) = decode(&mut section, problems);
        section.finish(problems);
        let fault = match server_name(&name) {
            Err(_) => Some(Fault::Expected(
                "a server's name or address, without a port",
            )),
            Ok(name) => {
                own.insert(name.clone(), of_server);
                decoded.insert(name, server).map(|_| {
                    Fault::Expected("each server once: this is another spelling of one above")
                })
            }
        };
        problems.extend(fault.map(|fault| Problem { at, key, fault }));
    }
    (decoded, own)
}

impl Shares {
    fn server(&self, host: &str) -> Option<&ShareServer> {
        self.servers.get(&host.to_lowercase())
    }

    /// The versions that may be used with a server, and which layer says so.
    #[must_use]
    pub fn versions_for(&self, host: &str) -> (&[String], Origin) {
        let of_server = self.server(host).and_then(|s| s.versions.as_deref());
        match of_server {
            Some(versions) => (versions, Origin::ServerDefault),
            None => (&self.versions, Origin::Default),
        }
    }

    /// Whether every volume on a server is read-only.
    #[must_use]
    pub fn read_only(&self, host: &str) -> bool {
        self.server(host).is_some_and(|server| server.read_only)
    }

    /// The mount options for a volume on a server, and where each comes from, from the weakest to the strongest: built
    /// in, `defaults` and the section's `default_options`, the server's, connection info's (`given`), the server's
    /// `mandatory_options`, the section's, and what cannot be changed. `vers` is among them only where connection info
    /// asks for one; credentials, addresses, transport and mount flags never are.
    pub(super) fn merge(
        &self,
        known: &Table,
        host: &str,
        [built_in, defaults, given, fixed]: [&[MountOption]; 4],
    ) -> Vec<EffectiveOption> {
        let none = ShareServer::default();
        let server = self.server(host).unwrap_or(&none);
        known.merge([
            (Origin::BuiltIn, built_in),
            (Origin::Default, defaults),
            (Origin::Default, &self.default_options),
            (Origin::ServerDefault, &server.default_options),
            (Origin::ConnectionInfo, given),
            (Origin::ServerMandatory, &server.mandatory_options),
            (Origin::Mandatory, &self.mandatory_options),
            (Origin::Fixed, fixed),
        ])
    }
}

/// An option with a value.
pub(super) fn option(name: &str, value: &str) -> MountOption {
    (name.to_owned(), Some(value.to_owned()))
}

/// An option without one.
pub(super) fn flag(name: &str) -> MountOption {
    (name.to_owned(), None)
}
