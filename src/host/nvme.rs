//! What this host is called by NVMe storage: nvme-cli's files, so that all tools of the host give one answer.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use uuid::Uuid;

/// Where nvme-cli keeps the host's names (nvme-gen-hostnqn(1)), beneath the root.
pub(super) const DIRECTORY: &str = "etc/nvme";
/// Before the UUID of a host (NVM Express Base Specification 2.0c, 4.5.1).
const PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// The host's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeHost {
    /// The host NQN: storage lets in who it knows by it.
    pub nqn: String,
    /// The host identifier: the same of all connections of a host.
    pub id: Uuid,
}

impl NvmeHost {
    /// Reads the names from hostnqn and hostid in that directory, and makes those that are not there, for good: of the machine's
    /// UUID, as nvme-cli does, or else of a random one.
    pub(super) fn read_or_make(directory: &Path, machine: Option<Uuid>) -> io::Result<Self> {
        let nqn = read(&directory.join("hostnqn"))?;
        let id = read(&directory.join("hostid"))?;
        let id = match id {
            Some(text) => Uuid::try_parse(&text).map_err(|_| malformed("hostid", "a UUID"))?,
            // The UUID that the name ends in, as nvme-cli has it.
            None => nqn
                .as_deref()
                .and_then(|nqn| Uuid::try_parse(nqn.strip_prefix(PREFIX)?).ok())
                .or(machine.filter(|uuid| !uuid.is_nil() && !uuid.is_max()))
                .unwrap_or_else(Uuid::new_v4),
        };
        let nqn = nqn.unwrap_or_else(|| format!("{PREFIX}{id}"));
        if !nqn.starts_with("nqn.") || nqn.contains([',', ' ']) || nqn.len() > 223 {
            return Err(malformed("hostnqn", "an NQN of at most 223 bytes"));
        }
        make(directory, "hostnqn", &nqn)?;
        make(directory, "hostid", &id.to_string())?;
        Ok(Self { nqn, id })
    }
}

fn malformed(file: &str, expected: &str) -> io::Error {
    let text = format!("/{DIRECTORY}/{file} holds something else than {expected}: correct it");
    io::Error::new(ErrorKind::InvalidData, text)
}

/// The file's line; `None` where it is not there, or empty.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|line| !line.is_empty())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the file, whole or not at all, for everybody to read, where it is not there.
fn make(directory: &Path, name: &str, line: &str) -> io::Result<()> {
    let path = directory.join(name);
    if read(&path)?.is_some() {
        return Ok(());
    }
    match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let part = directory.join(format!("{name}.part"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&part)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    writeln!(file, "{line}")?;
    file.sync_all()?;
    fs::rename(part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_or_make(directory: &Path) -> io::Result<NvmeHost> {
        NvmeHost::read_or_make(directory, None)
    }

    #[test]
    fn names_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("nvme");
        let host = read_or_make(&etc).unwrap();
        assert_eq!(host.nqn, format!("{PREFIX}{}", host.id));
        assert_eq!(read_or_make(&etc).unwrap(), host);
        let mode = fs::metadata(etc.join("hostnqn")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(&etc).unwrap().count(), 2);
    }

    #[test]
    fn they_are_made_of_the_machines_uuid() {
        let machine = Uuid::from_u128(7);
        for (given, taken) in [(machine, true), (Uuid::nil(), false), (Uuid::max(), false)] {
            let dir = tempfile::tempdir().unwrap();
            let host = NvmeHost::read_or_make(dir.path(), Some(given)).unwrap();
            assert_eq!(host.id == given, taken, "{given}");
            assert_eq!(host.nqn, format!("{PREFIX}{}", host.id));
        }
    }

    #[test]
    fn what_is_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let id = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
        fs::write(dir.path().join("hostnqn"), format!("{PREFIX}{id}\n")).unwrap();
        let host = NvmeHost::read_or_make(dir.path(), Some(Uuid::from_u128(7))).unwrap();
        assert_eq!(host.id.to_string(), id);
        fs::write(dir.path().join("hostnqn"), "nqn.x\n").unwrap();
        assert_eq!(read_or_make(dir.path()).unwrap().nqn, "nqn.x");
        assert_eq!(read_or_make(dir.path()).unwrap().id.to_string(), id);
        for wrong in ["iqn.x", "nqn.x,dhchap_secret=y"] {
            fs::write(dir.path().join("hostnqn"), wrong).unwrap();
            assert!(read_or_make(dir.path()).is_err(), "{wrong}");
        }
        fs::write(dir.path().join("hostnqn"), "nqn.x\n").unwrap();
        fs::write(dir.path().join("hostid"), "1").unwrap();
        assert!(read_or_make(dir.path()).is_err());
    }
}
