//! multipathd, by its socket: a length, a command with its NUL, and the answer likewise (multipath-tools,
//! libmpathcmd/mpath_cmd.c). No program is started for it, and nobody waits longer than a deadline.

use std::io;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Where it listens, in Linux' abstract name space (libmpathcmd/mpath_cmd.h: `DEFAULT_SOCKET`).
const SOCKET: &str = "\0/org/kernel/linux/storage/multipathd";
/// How long an answer may take: a map is made in between.
const WITHIN: Duration = Duration::from_secs(15);
/// The longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// The daemon.
#[derive(Debug, Clone)]
pub(super) struct Multipathd {
    /// Its socket's name.
    pub(super) socket: String,
}

impl Default for Multipathd {
    fn default() -> Self {
        Self {
            socket: SOCKET.to_owned(),
        }
    }
}

impl Multipathd {
    /// Has it do something; whether it could.
    ///
    /// # Errors
    /// Where it does not run, or does not answer in time.
    pub(super) async fn ask(&self, command: &str) -> io::Result<bool> {
        let answer = self.answer(command).await?;
        Ok(answer.trim_end_matches(['\0', '\n']) == "ok")
    }

    /// Whether it asks a path that comes back who it is, and takes it out of its map where that is another volume (multipath.conf(5),
    /// `recheck_wwid`). Else reads of the map would come from either, without an error.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub(super) async fn rechecks(&self) -> io::Result<bool> {
        let answer = self.answer("show config local").await;
        answer.map(|it| all_recheck(&it))
    }

    async fn answer(&self, command: &str) -> io::Result<String> {
        tokio::time::timeout(WITHIN, exchange(&self.socket, command))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Its configuration has the option in the defaults, and may have it for devices and for all of them.
pub(super) fn all_recheck(configuration: &str) -> bool {
    let mut values = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("recheck_wwid "))
        .peekable();
    values.peek().is_some() && values.all(|value| value.trim_matches('"') == "yes")
}

async fn exchange(socket: &str, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    // A name of that space is whoever's takes it first.
    let peer = Uid::from_raw(stream.peer_cred()?.uid());
    if !peer.is_root() && peer != Uid::effective() {
        let who = format!("user {peer} listens in its place");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, who));
    }
    stream.write_all(&(command.len() + 1).to_ne_bytes()).await?;
    stream.write_all(command.as_bytes()).await?;
    stream.write_all(&[0]).await?;
    let mut length = [0; size_of::<usize>()];
    stream.read_exact(&mut length).await?;
    let length = usize::from_ne_bytes(length);
    if length > ANSWER_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_goes_out_and_its_answer_comes_back() {
        let name = format!("\0volattach-test-{}", uuid::Uuid::new_v4());
        let listener = tokio::net::UnixListener::bind(&name).unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8 + 9];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&4usize.to_ne_bytes()).await.unwrap();
            stream.write_all(b"ok\n\0").await.unwrap();
            request[8..].to_vec()
        });
        assert_eq!(exchange(&name, "del path").await.unwrap(), "ok\n\0");
        assert_eq!(served.await.unwrap(), b"del path\0");
    }

    #[test]
    fn paths_are_rechecked_only_where_every_section_says_so() {
        let yes = "defaults {\n\trecheck_wwid \"yes\"\n}\n";
        let no = "overrides {\n\trecheck_wwid \"no\"\n}\n";
        assert!(all_recheck(yes));
        assert!(!all_recheck(&format!("{yes}{no}")));
        assert!(!all_recheck("defaults {\n\tverbosity 2\n}\n"));
    }

    #[tokio::test]
    async fn nobody_there_is_an_error() {
        let error = exchange("\0volattach-test-nobody", "x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
