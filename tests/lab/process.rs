//! Child processes that end with this one, and commands with a deadline.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::profile::{self, Activity};

/// A command whose process is killed when the thread that starts it ends, however that comes about: that of the runner's
/// threads whose node it belongs to.
pub(crate) fn bound(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A child that is killed when it is dropped.
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Neither fails but for a child that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command did.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` with `stdin`; kills it and fails if it has not ended within `deadline`.
pub(crate) fn run(mut command: Command, stdin: &[u8], deadline: Duration) -> Result<Output> {
    let end = Instant::now() + deadline;
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    let mut child = Guarded(child);
    let (Some(mut input), Some(output), Some(error)) = (
        child.0.stdin.take(),
        child.0.stdout.take(),
        child.0.stderr.take(),
    ) else {
        bail!("a child without pipes");
    };
    let stdin = stdin.to_vec();
    // A command may end without having read its input: that is its own business.
    thread::spawn(move || input.write_all(&stdin));
    let (stdout, stderr) = (slurp(output), slurp(error));
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break Some(status);
        }
        if Instant::now() > end {
            child.0.kill()?;
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let Some(status) = status else {
        // Another process may hold the ends of its pipes, as ssh's master does for a node that is dead.
        let said = |from: &Receiver<String>| from.recv_timeout(LAST_WORDS).unwrap_or_default();
        bail!(
            "not done after {deadline:?}; so far it wrote: {}{}",
            said(&stdout),
            said(&stderr)
        );
    };
    Ok(Output {
        status,
        stdout: stdout.recv().context("its output cannot be read")?,
        stderr: stderr.recv().context("its output cannot be read")?,
    })
}

/// How long to wait for what a command that was killed had written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Everything that comes, once there is no more.
fn slurp(mut from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is to show.
        let _ = from.read_to_end(&mut bytes);
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

/// Tries `attempt` every 50 ms until it gives a value; fails, naming `what`, when `deadline` has passed.
pub(crate) fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    profile::span(Activity::Wait, what, || {
        loop {
            if let Some(value) = attempt()? {
                return Ok(value);
            }
            if Instant::now() > end {
                bail!("{what}: not within {deadline:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    })
}

/// `text` as one word of a POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
