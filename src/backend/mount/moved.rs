//! Detects that a server's name has moved to another address since its share was mounted. If the old address still answers, a mount from
//! there shows the data left behind.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Mounter, beside, blocking};
use crate::backend::BackendError;
use crate::model::{HostVolume, MountPlan};
use crate::sys::mountinfo::Mounts;

/// Time limit for resolving a server's name if its share is mounted already.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

impl Mounter {
    /// Inspects the volume of a share that is already mounted for others.
    ///
    /// # Errors
    /// A connection error if the server's name has moved: the mount stays for its present users. No such error if no further mount is
    /// possible beside it, so that a name with ever changing addresses refuses nobody. A name that does not resolve proves nothing.
    pub(in crate::backend) async fn join(&self, volume: &HostVolume) -> Result<u64, BackendError> {
        if let Some(mount) = volume.plan.mount()
            && let Some(name) = name(mount)
            && beside(&volume.plan).is_some()
            && let Ok(Ok(now)) =
                tokio::time::timeout(LOOK_TIMEOUT, self.resolver.resolve(name, 0)).await
            && let Some(was) = self.addresses.left(mount, &now).await?
        {
            return Err(BackendError::ServerLost {
                path: volume.path().to_owned(),
                why: format!(
                    "its share is mounted from {was}, which is no address of {name} any more"
                ),
                silent: false,
            });
        }
        self.inspect(volume).await
    }
}

/// Addresses from which the kernel has mounted shares.
#[derive(Debug)]
pub(super) struct Addresses {
    table: PathBuf,
    /// Sources that were mounted from one address and are served from another, such as the root of a domain's DFS: the addresses of their
    /// names prove nothing.
    redirected: Mutex<BTreeSet<String>>,
}

impl Addresses {
    /// Reads a mount table, which is the kernel's except in tests.
    pub(super) fn new(table: &str) -> Self {
        Self {
            table: table.into(),
            redirected: Mutex::default(),
        }
    }

    /// Address from which the kernel has a mount; `None`: the kernel does not show the address.
    async fn of(&self, mount: &MountPlan) -> Result<Option<IpAddr>, BackendError> {
        let (table, target) = (self.table.clone(), mount.target.clone());
        let look = move || Ok(shown(&std::fs::read(table).unwrap_or_default(), &target));
        blocking(|| "read the mount table".to_owned(), look).await
    }

    /// Notes whether a mount is served from another address than the one asked; an address that stands for a server does not move.
    pub(super) async fn note(&self, mount: &MountPlan, asked: IpAddr) -> Result<(), BackendError> {
        if name(mount).is_some() {
            let shown = self.of(mount).await?;
            let mut redirected = self.lock();
            match shown.is_some_and(|it| it != asked.to_canonical()) {
                true => redirected.insert(mount.source.clone()),
                false => redirected.remove(&mount.source),
            };
        }
        Ok(())
    }

    /// The address of a mount, if its server's name does not have this address any more; `None`: the server has not moved.
    async fn left(
        &self,
        mount: &MountPlan,
        now: &[SocketAddr],
    ) -> Result<Option<IpAddr>, BackendError> {
        if self.lock().contains(&mount.source) {
            return Ok(None);
        }
        let is_it = |was: &IpAddr| now.iter().any(|it| it.ip().to_canonical() == *was);
        Ok(self.of(mount).await?.filter(|was| !is_it(was)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.redirected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name of a share's server; `None`: the server is given by address, which does not move.
fn name(mount: &MountPlan) -> Option<&str> {
    let host = match mount.fstype.as_str() {
        "cifs" => mount.source.strip_prefix("//")?.split('/').next()?,
        _ if mount.source.starts_with('[') => return None,
        _ => mount.source.split(':').next()?,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    // A link-local address has a scope.
    let address = address.split('%').next().unwrap_or_default();
    (!host.is_empty() && address.parse::<IpAddr>().is_err()).then_some(host)
}

/// The option `addr` of the uppermost mount at the target, in which cifs and nfs show the address (fs/smb/client/cifsfs.c, fs/nfs/super.c).
fn shown(table: &[u8], target: &Path) -> Option<IpAddr> {
    let mounts = Mounts::parse(table)?;
    let id = mounts.at(target).last()?.id.to_string();
    let mut lines = table.split(|b| *b == b'\n');
    let line = lines.find(|line| line.split(|b| *b == b' ').next() == Some(id.as_bytes()))?;
    let options = line.rsplit(|b| *b == b' ').next()?;
    // The last `addr`: options given by users come before it.
    let value = options
        .rsplit(|b| *b == b',')
        .find_map(|option| option.strip_prefix(b"addr="))?;
    let address = std::str::from_utf8(value).ok()?.split('%').next()?;
    let address: IpAddr = address.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(fstype: &str, source: &str) -> MountPlan {
        MountPlan {
            source: source.into(),
            fstype: fstype.into(),
            options: "rw".into(),
            target: "/m/abc".into(),
            login: None,
        }
    }

    #[test]
    fn a_server_has_a_name_or_an_address() {
        for (fstype, source, host) in [
            ("cifs", "//files/vols/a", Some("files")),
            ("cifs", "//10.0.0.5/vols", None),
            ("cifs", "//fd00::5/vols", None),
            ("cifs", "//[fd00::5]/vols", None),
            ("cifs", "//fe80::5%eth0/vols", None),
            ("nfs", "files.example.org:/a:b", Some("files.example.org")),
            ("nfs", "10.0.0.5:/", None),
            ("nfs", "[fd00::5]:/a", None),
            ("nfs", "[fe80::5%eth0]:/a", None),
        ] {
            assert_eq!(name(&plan(fstype, source)), host, "{source}");
        }
    }

    fn table(options: &str) -> String {
        format!(
            "27 1 254:0 / / rw - ext4 /dev/root rw\n\
             40 27 0:50 / /m/abc rw - cifs //files/vols {options}\n\
             41 27 0:51 / /m/b rw - nfs4 files:/vols rw,addr=10.0.0.9\n"
        )
    }

    #[test]
    fn the_kernel_says_from_where_a_mount_is() {
        for (options, address) in [
            (
                "rw,username=a,addr=1.1.1.1,addr=10.0.0.5,port=445",
                Some("10.0.0.5"),
            ),
            (
                "rw,mountaddr=10.0.0.6,addr=::ffff:10.0.0.5",
                Some("10.0.0.5"),
            ),
            ("rw,addr=fe80::5%3", Some("fe80::5")),
            ("rw,addr=x", None),
            ("rw", None),
        ] {
            let found = shown(table(options).as_bytes(), Path::new("/m/abc"));
            assert_eq!(found, address.map(|it| it.parse().unwrap()), "{options}");
        }
        assert_eq!(shown(table("rw").as_bytes(), Path::new("/m")), None);
    }

    #[tokio::test]
    async fn a_mount_is_left_behind_where_its_address_is_none_of_its_servers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table("rw,addr=10.0.0.5")).unwrap();
        let addresses = Addresses::new(file.path().to_str().unwrap());
        let plan = plan("cifs", "//files/vols");
        let left = async |now: &[&str]| {
            let now: Vec<_> = now.iter().map(|it| it.parse().unwrap()).collect();
            addresses.left(&plan, &now).await.unwrap()
        };
        let note = async |asked| addresses.note(&plan, asked).await.unwrap();
        let old: IpAddr = "10.0.0.5".parse().unwrap();
        assert_eq!(left(&["10.0.0.6:1", "[fd00::5]:1"]).await, Some(old));
        assert_eq!(left(&["10.0.0.6:1", "10.0.0.5:1"]).await, None);
        assert_eq!(left(&["[::ffff:10.0.0.5]:1"]).await, None);
        // The server that was asked redirects to another one.
        note("10.0.0.6".parse().unwrap()).await;
        assert_eq!(left(&["10.0.0.6:1"]).await, None);
        note(old).await;
        assert_eq!(left(&["10.0.0.6:1"]).await, Some(old));
    }
}
