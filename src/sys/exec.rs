//! Programs of the host, run with a deadline.
//!
//! Invariants: the environment is empty but for `PATH` and the language of messages; standard input is empty; a program past its
//! deadline is killed, and no more than a limit is read of what it says. What is on a command line is everybody's to read: no
//! secret belongs there.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// How much is read of each of a program's streams, in bytes: what it says may be what a stranger told it.
const SAID_MAX: u64 = 1024 * 1024;

/// What came of a program that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// What it said first, both streams, in one line.
    pub said: String,
    /// Its standard output, whole.
    pub output: String,
}

/// Runs a program to its end.
///
/// # Errors
/// `TimedOut` where it did not end in time and was killed; others where it could not be run.
pub async fn run(program: &str, args: &[&str], within: Duration) -> io::Result<Ended> {
    let child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (stdout, stderr) = tokio::try_join!(read(stdout), read(stderr))?;
        io::Result::Ok((stdout, stderr, child.wait().await?))
    };
    let (stdout, stderr, status) = tokio::time::timeout(within, ended)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let said = [&stderr, &stdout].map(|stream| {
        let text = String::from_utf8_lossy(stream);
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().take(512).collect::<String>()
    });
    Ok(Ended {
        code: status.code(),
        said: said.join(" ").trim().to_owned(),
        output: String::from_utf8_lossy(&stdout).into_owned(),
    })
}

/// What comes first; who says more than is read is told so by a closed pipe.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    if let Some(stream) = stream {
        stream.take(SAID_MAX).read_to_end(&mut said).await?;
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_tells_how_it_ended() {
        let script = "echo out; echo a  b >&2; env | grep -c .; exit 3";
        let ended = run("sh", &["-c", script], Duration::from_secs(30)).await;
        let ended = ended.unwrap();
        assert_eq!(ended.code, Some(3));
        // Besides the two variables, what the shell itself sets.
        assert!(ended.said.starts_with("a b out "), "{}", ended.said);
        assert!(ended.output.starts_with("out\n"), "{}", ended.output);
    }

    #[tokio::test]
    async fn a_program_that_says_too_much_is_not_listened_to() {
        let ended = run("yes", &[], Duration::from_secs(30)).await.unwrap();
        assert_eq!(ended.code, None);
        assert_eq!(ended.output.len() as u64, SAID_MAX);
    }

    #[tokio::test]
    async fn a_program_past_its_deadline_is_killed() {
        let error = run("sleep", &["60"], Duration::from_millis(20)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let error = run("no-such-program", &[], Duration::from_secs(1)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
