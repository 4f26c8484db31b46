//! Volumes on SMB shares: mounted by mount(2), one mount for all volumes with the same export, credentials, options
//! and access.
//!
//! Invariants: no server is talked to in the daemon but by a probe with a deadline; a mount or unmount, and any look at
//! a file on a share, is a worker's job; one CIFS mount is under way at a time, so that the worker to kill when one
//! hangs is the one that makes the others wait (the kernel serialises them); a mount point's name is a keyed hash of
//! what makes mounts the same, so that two that differ are never mixed up and the name tells nothing. A share that the
//! deployer says is of this very host is no connection at all: its volumes are looked at as local ones are.

mod credentials;
mod dialect;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod kernel;
mod logins;
mod negotiate;
mod probe;
mod share;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use nix::errno::Errno;
use zeroize::Zeroizing;

use super::mount::probe::Outcome;
use super::mount::{self, Meaning, Mounter, Turns, for_kernel, host};
use super::{
    Backend, BackendError, Connected, Description, HeadStart, Owners, Pinned, Presence, Release,
    Unrecorded, file, local,
};
use crate::config::{self, Shares};
use crate::connection::{Protocol, SmbCredentials, SmbVolume};
use crate::host::Host;
use crate::model::{
    Access, Claim, Connection, ErrorPolicy, Found, HostKey, HostPlan, HostVolume, MountPlan, Scope,
    Server, SourceKind, TargetPath,
};
use crate::sys::worker::Workers;
use dialect::Dialect;
use logins::Logins;
use share::Share;

/// The name in connection info (`driver_volume_type`).
const PROTOCOL: &str = "smbfs";

/// By which the kernel asks for Kerberos tickets: its own word for the path (security/keys/request_key.c). Where it is
/// missing, a mount fails as where the share is.
const REQUEST_KEY: &str = "/sbin/request-key";

/// The backend for SMB shares.
#[derive(Debug, Clone)]
pub struct SmbBackend {
    settings: config::Smb,
    mount_base: PathBuf,
    key: HostKey,
    host: Arc<Host>,
    mounter: Mounter,
    logins: Arc<Logins>,
    /// The kernel mounts one CIFS share at a time (fs/smb/client/fs_context.c: `cifs_mount_mutex`).
    turns: Arc<Turns>,
}

impl SmbBackend {
    /// Mounts beneath `mount_base`, in directories named under the host's key. Touches nothing.
    #[must_use]
    pub fn new(
        settings: config::Smb,
        mount_base: PathBuf,
        key: HostKey,
        workers: Workers,
        host: Arc<Host>,
    ) -> Self {
        Self {
            settings,
            mount_base,
            key,
            host,
            mounter: Mounter::new(workers, None),
            logins: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// The same backend by other settings: both know of the same mounts, and make one at a time.
    #[must_use]
    pub fn with_settings(&self, settings: config::Smb) -> Self {
        Self {
            settings,
            ..self.clone()
        }
    }

    /// Who logs in, with the credentials file read where one is named.
    async fn login<'a>(
        &self,
        volume: &'a SmbVolume,
    ) -> Result<Cow<'a, SmbCredentials>, BackendError> {
        match &volume.credentials {
            SmbCredentials::File(path) => self.read_login(path).await.map(Cow::Owned),
            given => Ok(Cow::Borrowed(given)),
        }
    }

    async fn read_login(&self, path: &Path) -> Result<SmbCredentials, BackendError> {
        let (file, directories) = (path.to_owned(), self.settings.credentials_dirs.clone());
        let read = move || credentials::read(&file, &directories);
        tokio::task::spawn_blocking(read)
            .await
            .map_err(host(|| format!("read {}", path.display())))?
    }

    /// Keyed hash of a login from a credentials file: differs for another login, and does not reveal the login.
    fn said(&self, login: &SmbCredentials) -> String {
        match login {
            SmbCredentials::Password {
                username,
                password,
                domain,
            } => self.key.tag(&[
                username.as_bytes(),
                password.expose().as_bytes(),
                domain.as_deref().unwrap_or_default().as_bytes(),
            ]),
            // No credentials file holds any other kind of login.
            _ => String::new(),
        }
    }

    /// A plan for a share of this very host, where the deployer says that it is one.
    fn local_plan(&self, volume: &SmbVolume, access: Access) -> Option<HostPlan> {
        let root = self.settings.local_share(&volume.host, &volume.share)?;
        Some(HostPlan {
            protocol: PROTOCOL.to_owned(),
            claims: Vec::new(),
            connection: Connection::None,
            path: root.join(&volume.folder).join(&volume.name),
            root: root.to_owned(),
            kind: SourceKind::File,
            format: volume.format,
            access,
            keeps_owner: true,
        })
    }

    /// The share of the plan, with the login as the connection info gives it.
    fn mounting<'a>(
        &'a self,
        plan: &HostPlan,
        info: &'a Protocol,
    ) -> Result<Mounting<'a>, BackendError> {
        let volume = self.volume(info)?;
        Ok(Mounting {
            backend: self,
            share: Share::new(&self.settings, volume, plan.access)?,
            login: Cow::Borrowed(&volume.credentials),
        })
    }

    fn volume<'a>(&self, info: &'a Protocol) -> Result<&'a SmbVolume, BackendError> {
        match info {
            Protocol::Smb(volume) => Ok(volume),
            _ => Err(BackendError::foreign(PROTOCOL)),
        }
    }
}

/// A share on its way to be mounted.
struct Mounting<'a> {
    backend: &'a SmbBackend,
    share: Share<'a>,
    /// Who logs in: with what a credentials file says.
    login: Cow<'a, SmbCredentials>,
}

impl mount::Share for Mounting<'_> {
    type Offer = Dialect;

    fn host(&self) -> &str {
        &self.share.volume.host
    }

    fn port(&self) -> Result<u16, BackendError> {
        self.share.port()
    }

    fn versions(&self) -> String {
        dialect::names(&self.share.dialects)
    }

    fn settings(&self) -> &Shares {
        &self.backend.settings.shares
    }

    fn turns(&self) -> Option<&Turns> {
        Some(&self.backend.turns)
    }

    async fn probe(&self, address: SocketAddr) -> Outcome<Vec<Dialect>> {
        probe::probe(
            address,
            self.share.source_address(),
            &self.share.dialects,
            self.settings().probe_timeout,
        )
        .await
    }

    fn data(
        &self,
        address: SocketAddr,
        dialect: &Dialect,
    ) -> Result<Zeroizing<String>, BackendError> {
        self.share.data(&for_kernel(address), *dialect, &self.login)
    }

    fn meaning(&self, errno: Errno, target: &Path, dialect: &Dialect) -> Meaning {
        failure::meaning(errno, &self.share, target, *dialect)
    }
}

#[async_trait]
impl Backend for SmbBackend {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn error_policy(&self) -> ErrorPolicy {
        self.settings.shares.error_policy
    }

    async fn check_confined(&self, plan: &HostPlan) -> Result<(), BackendError> {
        mount::selinux::check(&self.host, plan).await
    }

    fn read_only(&self, info: &Protocol) -> bool {
        matches!(info, Protocol::Smb(volume) if self.settings.shares.read_only(&volume.host))
    }

    fn recall(&self, volumes: &[HostVolume]) {
        for volume in volumes {
            self.logins.note(volume);
        }
    }

    fn plan(&self, info: &Protocol, access: Access) -> Result<HostPlan, BackendError> {
        let volume = self.volume(info)?;
        if let Some(plan) = self.local_plan(volume, access) {
            return Ok(plan);
        }
        let share = Share::new(&self.settings, volume, access)?;
        let id = share.id(&self.key);
        let target = self.mount_base.join(&id);
        Ok(HostPlan {
            protocol: PROTOCOL.to_owned(),
            claims: vec![Claim::Mount(format!("smb:{id}"))],
            path: target.join(&volume.name),
            root: target.clone(),
            connection: Connection::Mount(MountPlan {
                source: share.source(),
                fstype: "cifs".to_owned(),
                options: share.shown(),
                target,
                login: match &volume.credentials {
                    SmbCredentials::File(path) => Some(path.clone()),
                    _ => None,
                },
            }),
            kind: SourceKind::File,
            format: volume.format,
            access,
            keeps_owner: true,
        })
    }

    fn describe(&self, info: &Protocol, plan: &HostPlan) -> Description {
        let volume = self.volume(info);
        if let (None, Ok(volume)) = (plan.mount(), &volume) {
            return Description {
                connect: format!(
                    "nothing to mount: {} is of this host, beneath {} (smb.local_shares)",
                    share::source(volume),
                    plan.root.display()
                ),
                inspect: file::describe(plan),
                settings: Vec::new(),
            };
        }
        let share = volume.and_then(|volume| Share::new(&self.settings, volume, plan.access));
        // Whoever has a plan has one that could be made.
        let Ok(share) = share else {
            return Description::default();
        };
        Description {
            connect: share.describe(&self.settings, &plan.root),
            inspect: file::describe(plan),
            settings: share.settings(),
        }
    }

    async fn sign_of_life(&self, server: &Server) -> Result<(), BackendError> {
        let shares = &self.settings.shares;
        let within = shares.probe_timeout;
        let (names, _) = shares.versions_for(&server.host);
        let names = names.iter().filter_map(|name| Dialect::from_name(name));
        let dialects: Vec<Dialect> = names.collect();
        let ask = |address| probe::probe(address, None, &dialects, within);
        self.mounter
            .sign_of_life(server, share::PORT, within, ask)
            .await
    }

    async fn unrecorded(&self, recorded: &[HostVolume]) -> Result<Vec<Unrecorded>, BackendError> {
        mount::unrecorded(&self.mount_base, &["cifs", "smb3"], recorded).await
    }

    async fn find(&self, volume: &HostVolume) -> Result<Presence, BackendError> {
        match volume.plan.mount() {
            Some(mount) => self.mounter.find(mount, volume.plan.access).await,
            None => local::find(&volume.plan).await,
        }
    }

    async fn find_all(&self, volumes: Vec<HostVolume>) -> Vec<Result<Presence, BackendError>> {
        self.mounter.find_all(volumes, local::presence).await
    }

    /// Returns the login of an existing mount, for the joiner's record: the attachment that made the mount may be detached first. Mount
    /// points belong to volattach alone, so nothing else needs a survey.
    async fn survey(&self, plan: &HostPlan) -> Result<Found, BackendError> {
        Ok(Found {
            login: plan.mount().and_then(|it| self.logins.at(&it.target)),
            ..Found::default()
        })
    }

    async fn head_start(&self, plan: &HostPlan, info: &Protocol) -> HeadStart {
        match self.mounting(plan, info) {
            Ok(mounting) if plan.mount().is_some() => {
                self.mounter.head_start(&mounting, plan).await
            }
            Ok(_) => HeadStart::default(), // a share of this very host
            Err(_) => HeadStart::default(), // the connect reports the error
        }
    }

    async fn connect(
        &self,
        volume: &HostVolume,
        info: &Protocol,
        _owners: &dyn Owners,
        head_start: HeadStart,
    ) -> Result<Connected, BackendError> {
        let plan = &volume.plan;
        let mut found = volume.found.clone();
        if plan.mount().is_none() {
            return Ok(Connected {
                found,
                degraded: None,
                inspected: false,
            });
        }
        let mount = mount::of(plan, PROTOCOL)?;
        let mut mounting = self.mounting(plan, info)?;
        let share = &mut mounting.share;
        if !kernel::knows_closetimeo() {
            share.drop_option("closetimeo");
        }
        if share.kerberos.is_some() && !Path::new(REQUEST_KEY).exists() {
            return Err(BackendError::MountFailed {
                share: share.source(),
                target: mount.target.clone(),
                why: format!(
                    "this host has no {REQUEST_KEY}, by which the kernel asks for Kerberos tickets: \
                     install the packages keyutils and cifs-utils"
                ),
            });
        }
        mounting.login = self.login(share.volume).await?;
        let mounter = &self.mounter;
        mounter
            .connect(&mounting, volume, mount, head_start)
            .await?;
        found.login = mount.login.as_ref().map(|_| self.said(&mounting.login));
        let connected = HostVolume {
            plan: plan.clone(),
            found,
        };
        self.logins.note(&connected);
        Ok(Connected {
            found: connected.found,
            degraded: None,
            inspected: true,
        })
    }

    async fn join(&self, volume: &HostVolume) -> Result<(), BackendError> {
        if let Some(mount) = volume.plan.mount()
            && let Some(file) = &mount.login
            && let Some(said) = self.logins.at(&mount.target)
            && said != self.said(&self.read_login(file).await?)
        {
            return Err(BackendError::OtherLogin {
                share: mount.source.clone(),
                file: file.clone(),
            });
        }
        match volume.plan.mount() {
            Some(_) => self.mounter.join(volume).await.map(drop),
            None => self.inspect(volume).await,
        }
    }

    fn beside(&self, plan: &HostPlan) -> Option<HostPlan> {
        mount::beside(plan)
    }

    async fn inspect(&self, volume: &HostVolume) -> Result<(), BackendError> {
        self.extend(volume).await.map(drop)
    }

    async fn read(&self, volume: &HostVolume) -> Result<(), BackendError> {
        match volume.plan.mount() {
            Some(_) => self.mounter.read(volume).await,
            None => self.inspect(volume).await, // a directory of this host
        }
    }

    async fn pin(
        &self,
        volume: &HostVolume,
        _scope: Scope,
        _before: &Path,
    ) -> Result<Pinned, BackendError> {
        Ok(Pinned {
            path: volume.path().to_owned(),
            held: Box::new(()), // the mount stays, and the server decides which file has the name
        })
    }

    async fn extend(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        // A file is as large as its server says when it is opened.
        match volume.plan.mount() {
            Some(_) => self.mounter.inspect(volume).await,
            None => local::inspect(&volume.plan).await,
        }
    }

    async fn repairable(&self, volumes: Vec<HostVolume>) -> Vec<Vec<TargetPath>> {
        vec![Vec::new(); volumes.len()] // a volume without paths
    }

    async fn repair(
        &self,
        _volume: &HostVolume,
        _paths: &[TargetPath],
        _info: Option<&Protocol>,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    async fn disconnect(&self, volume: &HostVolume, how: &Release) -> Result<(), BackendError> {
        match volume.plan.mount() {
            Some(mount) if how.is_last(&volume.plan.claims) => {
                self.mounter.take_down(&volume.plan, mount).await?;
                self.logins.forget(&mount.target);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
