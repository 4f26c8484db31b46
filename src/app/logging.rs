//! What the daemon says while it runs, on standard error: one line an event, with the request's fields on each.
//!
//! Under systemd, where standard error is the journal (systemd.exec(5), `$JOURNAL_STREAM`), a line begins with its
//! priority as sd-daemon(3) has it, and the journal adds the time. The journal's native protocol would keep the fields
//! apart from the message, where `journalctl` does not show them: then no line would tell its attachment.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use anyhow::Context;
use nix::sys::stat::fstat;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, dynamic_filter_fn, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

#[cfg(feature = "otlp")]
use super::otlp::Spans;
use crate::model::visible;

/// Which events are shown, as `tracing_subscriber::EnvFilter` has it: `debug`, `info,volattach::libvirt=trace`. Not those of the audit,
/// which are always.
const FILTER_VARIABLE: &str = "VOLATTACH_LOG";

/// The target of the audit's events.
const AUDIT: &str = "audit";

/// Events of the audit that may wait for their file.
const QUEUED: usize = 4096;

/// The log that was started. Clones are the same log.
#[derive(Clone)]
pub(super) struct Log {
    audit: AuditFile,
    #[cfg(feature = "otlp")]
    pub(super) spans: Spans,
}

/// A file that takes the audit's events, a JSON object a line.
pub(super) struct OpenAudit(SyncSender<Vec<u8>>);

impl OpenAudit {
    /// Opens the file, to write at its end. A file that is made is its owner's alone.
    ///
    /// # Errors
    /// Where the file cannot be opened for that.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let action = || format!("cannot write the audit to {} (audit_file)", path.display());
        let mut options = OpenOptions::new();
        let options = options.append(true).create(true);
        let mut file = options.open(path).with_context(action)?;
        let (events, lines) = mpsc::sync_channel::<Vec<u8>>(QUEUED);
        // On a thread of its own: a disk that hangs keeps no call waiting.
        let write = move || {
            let mut is_broken = false;
            for line in lines {
                // What comes after half a line begins another.
                let start = if is_broken { &b"\n"[..] } else { b"" };
                let written = file.write_all(&[start, &line].concat());
                is_broken = written.is_err();
                if let Err(error) = written {
                    tracing::error!(%error, "the audit cannot be written to its file");
                }
            }
        };
        let thread = thread::Builder::new().name("audit".to_owned());
        thread.spawn(write).with_context(action)?;
        Ok(Self(events))
    }
}

impl Log {
    /// Writes the audit to this file too, from now on; `None`: to none. What waits for an earlier file gets there.
    pub(super) fn audit_to(&self, file: Option<OpenAudit>) {
        let mut events = self.audit.0.write().unwrap_or_else(PoisonError::into_inner);
        *events = file.map(|file| file.0);
    }
}

/// Starts the log.
///
/// # Errors
/// Where the variable that filters it is malformed.
pub(super) fn init() -> anyhow::Result<Log> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(directives) => EnvFilter::try_new(&directives)
            .with_context(|| format!("{FILTER_VARIABLE}={directives:?} is no log filter"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
    let log = Log {
        audit: AuditFile::default(),
        #[cfg(feature = "otlp")]
        spans: Spans::new(),
    };
    let file = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(log.audit.clone());
    // Where there is no file nothing is written as JSON.
    let audit = log.audit.clone();
    let to_file = dynamic_filter_fn(move |it, _| is_audit(it) && audit.is_open())
        .with_callsite_filter(|it| match is_audit(it) {
            true => Interest::sometimes(),
            false => Interest::never(),
        });
    let log_and_audit = tracing_subscriber::registry()
        .with(layer(journal).with_filter(filter.and(filter_fn(|it| it.target() != AUDIT))))
        .with(layer(journal).with_filter(filter_fn(is_audit)))
        .with(file.with_filter(to_file));
    #[cfg(feature = "otlp")]
    let log_and_audit = log_and_audit.with(log.spans.layer());
    log_and_audit.try_init().context("cannot start the log")?;
    Ok(log)
}

/// Whether something is for the audit: its events, and the spans of ours that tell which request they belong to.
fn is_audit(it: &Metadata<'_>) -> bool {
    match it.is_span() {
        true => it.target().starts_with("volattach"),
        false => it.target() == AUDIT,
    }
}

/// What shows events on standard error.
fn layer<S>(journal: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let layer = tracing_subscriber::fmt::layer().with_target(false);
    match journal {
        true => layer
            .with_ansi(false)
            .with_level(false)
            .without_time()
            .with_writer(ToJournal)
            .boxed(),
        false => layer
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .boxed(),
    }
}

/// The way to the audit's file, once there is one. What does not get there is told in the log, where the event itself is too.
#[derive(Clone, Default)]
struct AuditFile(Arc<RwLock<Option<SyncSender<Vec<u8>>>>>);

impl AuditFile {
    fn events(&self) -> RwLockReadGuard<'_, Option<SyncSender<Vec<u8>>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.events().is_some()
    }
}

impl MakeWriter<'_> for AuditFile {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for AuditFile {
    /// Takes a whole event. Where too many wait, `tracing_subscriber` tells the error on standard error.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if let Some(events) = self.events().as_ref() {
            events
                .try_send(event.to_vec())
                .map_err(|_| io::Error::other("the audit's file takes no more: its disk hangs"))?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
