//! What the daemon says while it runs, on standard error: one line an event, with the request's fields on each.
//!
//! Under systemd, where standard error is the journal (systemd.exec(5), `$JOURNAL_STREAM`), a line begins with its
//! priority as sd-daemon(3) has it, and the journal adds the time. The journal's native protocol would keep the fields
//! apart from the message, where `journalctl` does not show them: then no line would tell its attachment.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use nix::sys::stat::fstat;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::model::visible;

/// Which events are shown, as `tracing_subscriber::EnvFilter` has it: `debug`, `info,volattach::libvirt=trace`.
const FILTER_VARIABLE: &str = "VOLATTACH_LOG";

/// Starts the log.
///
/// # Errors
/// Where the variable that filters it is malformed.
pub(super) fn init() -> anyhow::Result<()> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(directives) => EnvFilter::try_new(&directives)
            .with_context(|| format!("{FILTER_VARIABLE}={directives:?} is no log filter"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_target(false);
    if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) {
        let layer = layer
            .with_ansi(false)
            .with_level(false)
            .without_time()
            .with_writer(ToJournal);
        registry.with(layer).try_init()
    } else {
        let layer = layer
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr);
        registry.with(layer).try_init()
    }
    .context("cannot start the log")
}

/// Whether standard error is the stream that the variable names, as `DEVICE:INODE`: it is inherited by processes whose
/// standard error was redirected since.
fn is_journal(stream: Option<&str>) -> bool {
    stream.is_some_and(|stream| {
        fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// Writes events in the form of sd-daemon(3).
struct ToJournal;

impl<'a> MakeWriter<'a> for ToJournal {
    type Writer = Entry<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Entry::new(io::stderr(), Level::INFO)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Entry::new(io::stderr(), *meta.level())
    }
}

/// One entry of the journal. A line break within an event would begin another entry with a priority and text of the event's
/// choosing, and of an entry with other control characters `journalctl` shows none of the text.
struct Entry<W> {
    to: W,
    priority: u8,
}

impl<W: Write> Entry<W> {
    fn new(to: W, level: Level) -> Self {
        // syslog(3): 3 error, 4 warning, 6 informational, 7 debug.
        let priority = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        Self { to, priority }
    }
}

impl<W: Write> Write for Entry<W> {
    /// Takes a whole event, as `tracing_subscriber::fmt` hands them over.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let text = String::from_utf8_lossy(text);
        let line = format!("<{}>{}\n", self.priority, visible(&text));
        self.to.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_entry_with_its_priority() {
        let mut written = Vec::new();
        for (level, event) in [
            (Level::ERROR, "cannot mount\n<0>forged\n"),
            (Level::INFO, "attached\u{1b}[2J\n"),
        ] {
            let mut entry = Entry::new(&mut written, level);
            entry.write_all(event.as_bytes()).unwrap();
        }
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "<3>cannot mount\\n<0>forged\n<6>attached\\u{1b}[2J\n"
        );
    }

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let stat = fstat(io::stderr()).unwrap();
        assert!(is_journal(Some(&format!(
            "{}:{}",
            stat.st_dev, stat.st_ino
        ))));
        assert!(!is_journal(Some("8:1")) && !is_journal(None));
    }
}
