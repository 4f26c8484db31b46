//! The sockets that callers reach the daemon on: a unix socket of its own, or one that systemd listens on for it, and
//! TCP where the configuration says so.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::socket::{
    AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use nix::unistd::{Gid, Group};

use crate::config::Listen;

/// The `FileDescriptorName=` of the socket unit.
const ACTIVATED_NAME: &str = "volattachd";

/// Where calls come in.
pub(super) struct Socket {
    /// Listening, non-blocking.
    pub(super) listener: UnixListener,
    /// TCP, for TLS: listening, non-blocking.
    pub(super) tcp: Vec<TcpListener>,
    /// Removes the socket's file when dropped; `None`: systemd has it, and listens on.
    _file: Option<SocketFile>,
}

/// Takes the unix socket that systemd passed on, or makes the configured one; makes those for TLS.
///
/// # Errors
/// Where what systemd passed on is not one listening unix socket, or another process answers on the configured path
/// or has a configured address.
pub(super) fn open(listen: &Listen, passed: Vec<(String, OwnedFd)>) -> anyhow::Result<Socket> {
    let mut socket = match take(passed)? {
        Some(listener) => Socket {
            listener,
            tcp: Vec::new(),
            _file: None,
        },
        None => bind(listen)?,
    };
    socket.listener.set_nonblocking(true)?;
    for address in listen.tls.iter().flat_map(|tls| &tls.addresses) {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address} (listen.tls.addresses)"))?;
        listener.set_nonblocking(true)?;
        socket.tcp.push(listener);
    }
    Ok(socket)
}

fn take(passed: Vec<(String, OwnedFd)>) -> anyhow::Result<Option<UnixListener>> {
    let mut found = None;
    for (name, fd) in passed {
        if name != ACTIVATED_NAME || found.is_some() {
            bail!(
                "systemd passed on a socket named {name:?}: exactly one is expected, with \
                 FileDescriptorName={ACTIVATED_NAME} in its unit"
            );
        }
        if !is_unix_listener(&fd)? {
            bail!(
                "systemd passed on something else than a listening unix stream socket: use ListenStream=/PATH"
            );
        }
        found = Some(UnixListener::from(fd));
    }
    Ok(found)
}

fn is_unix_listener(fd: &OwnedFd) -> anyhow::Result<bool> {
    let what = "cannot look at the socket that systemd passed on";
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd())
        .context(what)?
        .family();
    Ok(family == Some(AddressFamily::Unix)
        && getsockopt(&fd.as_fd(), sockopt::SockType).context(what)?
            == nix::sys::socket::SockType::Stream
        && getsockopt(&fd.as_fd(), sockopt::AcceptConn).context(what)?)
}

fn bind(listen: &Listen) -> anyhow::Result<Socket> {
    let path = &listen.socket;
    let (listener, file) = bind_unix(path, "listen.socket")?;
    let group = Group::from_name(&listen.group)
        .with_context(|| format!("cannot look up the group {:?}", listen.group))?;
    if let Some(group) = group {
        open_to(path, group.gid).with_context(|| {
            format!(
                "cannot give {} to the group {:?}",
                path.display(),
                listen.group
            )
        })?;
    }
    Ok(Socket {
        listener,
        tcp: Vec::new(),
        _file: Some(file),
    })
}

/// Listens on a unix socket, whose file is its owner's alone by the process's umask; `key`: that of the configuration.
///
/// # Errors
/// Where another process answers on the path, something else is there, or it cannot be made.
pub(super) fn bind_unix(path: &Path, key: &str) -> anyhow::Result<(UnixListener, SocketFile)> {
    if let Some(directory) = path.parent() {
        make_directory(directory).with_context(|| {
            format!("cannot make the socket's directory {}", directory.display())
        })?;
    }
    remove_stale(path, key)?;
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on {} ({key})", path.display()))?;
    let file = SocketFile::of(path)?;
    Ok((listener, file))
}

fn make_directory(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

fn open_to(path: &Path, group: Gid) -> anyhow::Result<()> {
    // An owner may give a file to a group that it is in itself: so this thread is for a moment (CAP_SETGID), which spares the
    // daemon CAP_CHOWN.
    let own = nix::unistd::setfsgid(group);
    let given = nix::unistd::chown(path, None, Some(group));
    nix::unistd::setfsgid(own);
    given?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o660))?)
}

/// Removes a socket file that nobody listens on, as a daemon that was killed leaves behind.
fn remove_stale(path: &Path, key: &str) -> anyhow::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
    };
    if !found.file_type().is_socket() {
        bail!(
            "cannot listen on {}: it is there and no socket",
            path.display()
        );
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale socket {}", path.display())),
        Ok(_) => bail!(
            "cannot listen on {}: another process answers there; stop it, or set another {key}",
            path.display()
        ),
        Err(error) => Err(error)
            .with_context(|| format!("cannot tell whether anybody listens on {}", path.display())),
    }
}

/// The socket's file, as long as it is the one that was made.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let found = fs::symlink_metadata(path)
            .with_context(|| format!("cannot look at {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            inode: (found.dev(), found.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have taken the path over.
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(dir: &Path) -> Listen {
        let own = Group::from_gid(Gid::current()).unwrap().unwrap();
        Listen {
            socket: dir.join("run/volattachd.sock"),
            group: own.name,
            tls: None,
        }
    }

    #[test]
    fn the_socket_is_for_owner_and_group_and_goes_with_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let listen = listen(dir.path());
        let socket = open(&listen, vec![]).unwrap();
        let mode = fs::symlink_metadata(&listen.socket).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o660);
        drop(socket);
        assert!(!listen.socket.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let listen = listen(dir.path());
        fs::create_dir(listen.socket.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&listen.socket).unwrap());
        let live = open(&listen, vec![]).unwrap();
        let error = open(&listen, vec![]).err().unwrap();
        assert!(
            error.to_string().contains("another process answers"),
            "{error}"
        );
        drop(live);
        fs::write(&listen.socket, "precious").unwrap();
        assert!(open(&listen, vec![]).is_err());
        assert_eq!(fs::read(&listen.socket).unwrap(), b"precious");
    }

    #[test]
    fn what_systemd_passes_on_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let unix = || -> OwnedFd {
            UnixListener::bind(dir.path().join(uuid::Uuid::new_v4().to_string()))
                .unwrap()
                .into()
        };
        let named = |fd| (ACTIVATED_NAME.to_owned(), fd);
        let listen = listen(dir.path());

        let socket = open(&listen, vec![named(unix())]).unwrap();
        assert!(!listen.socket.exists());
        drop(socket);

        let connected = UnixStream::pair().unwrap().0;
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        for wrong in [
            vec![named(connected.into())],
            vec![named(tcp.into())],
            vec![("other".to_owned(), unix())],
            vec![named(unix()), named(unix())],
        ] {
            assert!(open(&listen, wrong).is_err());
        }
    }
}
