//! The state directory: the journal and the host's key.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use crate::config::Settings;
use crate::journal::RedbJournal;
use crate::model::HostKey;

/// Search only for others: mounts lie beneath it that the hypervisor's user reads, while its own files are 0600.
const DIRECTORY_MODE: u32 = 0o711;

/// What the state directory holds.
pub(super) struct State {
    /// Also the lock on the directory: one process at a time may have it open.
    pub(super) journal: RedbJournal,
    /// Keys fingerprints and the names of mount points.
    pub(super) key: HostKey,
    /// Where mounts go, without links on the way: as the mount table names it.
    pub(super) mount_base: PathBuf,
}

/// Opens the state directory; makes it and what is in it where that is not there.
///
/// # Errors
/// Where it cannot be made or read, others may write to it, or another daemon has it open.
pub(super) fn open(settings: &Settings) -> anyhow::Result<State> {
    make_directory(&settings.state_dir)?;
    // The key is made after the first journal.
    let existed = settings.state_dir.join("host.key").try_exists()?;
    let path = settings.state_dir.join("journal.redb");
    let journal = RedbJournal::open(&path, existed).with_context(|| {
        format!(
            "cannot use the state directory {}: if another volattachd has it open, stop that one first",
            settings.state_dir.display()
        )
    })?;
    let key = host_key(&settings.state_dir)?;
    Ok(State {
        journal,
        key,
        mount_base: mount_base(&settings.mount_base)?,
    })
}

/// Makes the directory of the mount points, and follows the links that lead there. The mount table tells of mounts by the
/// directories they are really in: by any other name they would be mounted, not found, and never taken down.
fn mount_base(path: &Path) -> anyhow::Result<PathBuf> {
    make_directory(path)?;
    fs::canonicalize(path)
        .with_context(|| format!("cannot resolve the links of mount_base {}", path.display()))
}

/// Makes a directory that only its owner may list and change, unless it is there.
fn make_directory(path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
            .with_context(|| format!("cannot set the mode of {}", path.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = fs::metadata(path)
                .with_context(|| format!("cannot look at the directory {}", path.display()))?;
            if !found.is_dir() || found.mode() & 0o022 != 0 {
                bail!(
                    "{} is not a directory that its owner alone may write to: correct it with \
                     chown and chmod 0711",
                    path.display()
                );
            }
            Ok(())
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot make the directory {}", path.display()))
        }
    }
}

/// Reads the host's key, or makes one from the kernel's random numbers: written whole under another name and then
/// renamed, so that a crash leaves no half of a key. The open journal keeps a second daemon from doing the same.
fn host_key(state_dir: &Path) -> anyhow::Result<HostKey> {
    let path = state_dir.join("host.key");
    match read_key(&path) {
        Ok(key) => return Ok(key),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "cannot read the host's key {}: restore it; without it, no repeated request is recognised and \
                     mount points get other names (remove it only when nothing is attached)",
                    path.display()
                )
            });
        }
    }
    make_key(state_dir, &path)
        .with_context(|| format!("cannot make the host's key {}", path.display()))
}

fn read_key(path: &Path) -> std::io::Result<HostKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    let mut file = File::open(path)?;
    file.read_exact(bytes.as_mut_slice())?;
    if file.read(&mut [0])? != 0 {
        return Err(std::io::Error::new(
            ErrorKind::InvalidData,
            "it is longer than 32 bytes",
        ));
    }
    Ok(HostKey::new(*bytes))
}

fn make_key(state_dir: &Path, path: &Path) -> std::io::Result<HostKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    File::open("/dev/urandom")?.read_exact(bytes.as_mut_slice())?;
    let part = state_dir.join("host.key.part");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(bytes.as_slice())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    File::open(state_dir)?.sync_all()?;
    Ok(HostKey::new(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_key_stays_the_same_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = host_key(dir.path()).unwrap();
        let second = host_key(dir.path()).unwrap();
        assert_eq!(first.tag(&[b"x"]), second.tag(&[b"x"]));
        assert_eq!(mode(&dir.path().join("host.key")), 0o600);
        assert!(!dir.path().join("host.key.part").exists());
    }

    #[tokio::test]
    async fn a_host_that_has_a_key_has_had_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let [state_dir, mount_base] = ["state", "mnt"].map(|name| dir.path().join(name));
        let config = dir.path().join("volattachd.toml");
        let text = format!("state_dir = {state_dir:?}\nmount_base = {mount_base:?}\n");
        fs::write(&config, text).unwrap();
        let settings = Settings::load(&config).unwrap();
        let open = || open(&settings).unwrap().journal;
        assert_eq!(open().loss().await.unwrap(), None, "a new host");
        assert_eq!(open().loss().await.unwrap(), None);
        fs::remove_file(state_dir.join("journal.redb")).unwrap();
        let loss = open().loss().await.unwrap();
        assert!(loss.is_some_and(|loss| loss.why.contains("missing")));
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.key");
        for damaged in [&b"short"[..], &[1; 33]] {
            fs::write(&path, damaged).unwrap();
            assert!(host_key(dir.path()).is_err());
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn mounts_go_where_the_mount_table_will_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let base = mount_base(&dir.path().join("link/mnt")).unwrap();
        assert_eq!(base, real.join("mnt"));
        assert_eq!(mode(&base), 0o711);
    }

    #[test]
    fn directories_can_be_passed_through_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("state/mnt");
        make_directory(&made).unwrap();
        make_directory(&made).unwrap();
        assert_eq!((mode(&made), mode(made.parent().unwrap())), (0o711, 0o711));
        fs::set_permissions(&made, Permissions::from_mode(0o777)).unwrap();
        assert!(make_directory(&made).is_err());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(make_directory(&file).is_err());
    }
}
