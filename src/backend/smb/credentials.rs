//! Credentials files: what `credentials=FILE` names, in mount.cifs(8)'s format.

use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::backend::BackendError;
use crate::connection::{SmbCredentials, check_password_length};
use crate::model::Secret;
use crate::sys::beneath;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 16 * 1024;

fn refused(path: &Path, why: impl Into<String>) -> BackendError {
    BackendError::CredentialsFile {
        path: path.to_owned(),
        why: why.into(),
    }
}

/// The configured directory that the file lies beneath, and the rest of its path. Pure.
pub(super) fn directory<'a>(
    path: &'a Path,
    directories: &'a [PathBuf],
) -> Result<(&'a Path, &'a Path), BackendError> {
    directories
        .iter()
        .find_map(|directory| Some((directory.as_path(), path.strip_prefix(directory).ok()?)))
        .ok_or_else(|| {
            let why = "it lies in none of the directories that smb.credentials_dirs configures";
            refused(path, why)
        })
}

/// Reads the file: opened beneath its directory without following links, and closed to others.
pub(super) fn read(path: &Path, directories: &[PathBuf]) -> Result<SmbCredentials, BackendError> {
    let (directory, relative) = directory(path, directories)?;
    let mut opened = beneath::open_beneath(directory, relative, false)
        .map_err(|(step, errno)| refused(path, format!("cannot {step}: {errno}")))?;
    if opened.kind != beneath::FileKind::Regular || opened.size > LONGEST {
        return Err(refused(path, "it is not a regular file of at most 16 KiB"));
    }
    let io = |error: std::io::Error| refused(path, error.to_string());
    if opened.file.metadata().map_err(io)?.mode() & 0o007 != 0 {
        let why = "everybody on this host may open it: take others' permissions away (chmod o=)";
        return Err(refused(path, why));
    }
    let mut text = Zeroizing::new(String::with_capacity(LONGEST as usize));
    opened.file.rewind().map_err(io)?;
    opened
        .file
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(io)?;
    parse(&text).map_err(|why| refused(path, why))
}

/// `username=`, `password=` and `domain=` lines; blank ones and those that begin with `#` say nothing.
pub(super) fn parse(text: &str) -> Result<SmbCredentials, &'static str> {
    let (mut username, mut password, mut domain) = (None, None, None);
    for line in text.lines() {
        // Blanks within and after a value belong to it.
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or("a line of it is not of the form key=value")?;
        match key.trim_end() {
            "username" | "user" => username = Some(value.to_owned()),
            "password" | "pass" => password = Some(Secret::new(value.to_owned())),
            "domain" | "dom" | "workgroup" => domain = Some(value.to_owned()),
            _ => return Err("a key of it is not username, password or domain"),
        }
    }
    let username = username.ok_or("it has no username= line")?;
    let password = password.ok_or("it has no password= line")?;
    check_password_length(&password)?;
    // The kernel does not know this spelling.
    let (domain, username) = match (domain, username.split_once('\\')) {
        (None, Some((domain, user))) => (Some(domain.to_owned()), user.to_owned()),
        (domain, _) => (domain, username),
    };
    Ok(SmbCredentials::Password {
        username,
        password,
        domain,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn password(username: &str, password: &str, domain: Option<&str>) -> SmbCredentials {
        SmbCredentials::Password {
            username: username.into(),
            password: password.into(),
            domain: domain.map(Into::into),
        }
    }

    #[test]
    fn lines_are_read_as_mount_cifs_does() {
        assert_eq!(
            parse("# for vols\n\n  username=bob\npassword= a,b=c \ndomain=LAB\n").unwrap(),
            password("bob", " a,b=c ", Some("LAB"))
        );
        assert_eq!(
            parse("user=LAB\\bob\npass=x").unwrap(),
            password("bob", "x", Some("LAB"))
        );
        for bad in [
            "",
            "username=bob",
            "password=x",
            "username=a\npassword=b\nx",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let of = |password: String| parse(&format!("username=a\npassword={password}"));
        for (longest, longer) in [
            ("é".repeat(128), "é".repeat(129)),
            ("😀".repeat(64), "😀".repeat(65)),
        ] {
            assert!(of(longest).is_ok());
            let why = of(longer).unwrap_err();
            assert!(why.contains("UTF-16"), "{why}");
        }
    }

    #[test]
    fn a_file_is_only_read_where_and_as_it_should_be() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("creds")];
        std::fs::create_dir(&dirs[0]).unwrap();
        let file = dirs[0].join("bob");
        std::fs::write(&file, "username=bob\npassword=hunter2\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(
            read(&file, &dirs).unwrap(),
            password("bob", "hunter2", None)
        );
        mode(0o604);
        let message = read(&file, &dirs).unwrap_err().to_string();
        assert!(message.contains("chmod o="), "{message}");
        assert!(!message.contains("hunter2"));
        mode(0o600);
        symlink(&file, dirs[0].join("link")).unwrap();
        symlink(&file, dir.path().join("outside")).unwrap();
        for refused in [
            "creds/link",
            "outside",
            "creds/../outside",
            "creds/absent",
            "creds",
        ] {
            assert!(read(&dir.path().join(refused), &dirs).is_err(), "{refused}");
        }
        assert!(read(&file, &[]).is_err());
    }
}
