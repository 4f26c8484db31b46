//! The command `watch`: goes on after a broken connection and a restart of the daemon.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::args::{FilterArgs, Format, Global};
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::api::v1;
use crate::model::Reason;

/// Time between two tries to reach a daemon that is away.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) type Changes = Streaming<v1::WatchAttachmentsResponse>;

/// A watch, and how far it came.
struct Watch<'a> {
    global: &'a Global,
    filter: v1::AttachmentFilter,
    /// Revision of the last message that had one; empty: none yet.
    revision: String,
}

/// Watches what matches, from a revision on; empty: everything as it is.
pub(super) async fn ask(
    client: &Client,
    filter: v1::AttachmentFilter,
    revision: String,
) -> Result<Changes, Failure> {
    let message = client.request_of_stream(v1::WatchAttachmentsRequest {
        filter: Some(filter),
        resume_after: revision,
    });
    let answer = client.rpc.clone().watch_attachments(message).await;
    client.answer(answer)
}

/// Prints attachments as they are, then each change, until this process is ended or the daemon is away for longer than `--timeout`.
pub(super) async fn run(global: &Global, filter: FilterArgs) -> Result<(), Failure> {
    let mut watch = Watch {
        global,
        filter: filter.into(),
        revision: String::new(),
    };
    let (mut client, mut changes) = watch.begin().await?;
    loop {
        let end = watch.follow(&client, changes).await;
        // The grant of a watch ends before the caller's right to watch does.
        let ended = end.ends_connection() || end.is(Reason::Unauthenticated);
        match end.is(Reason::WatchExpired) {
            true => watch.revision.clear(),
            false if ended => {}
            false => return Err(end),
        }
        // Nobody is left to tell where this cannot be written.
        let _ = output::to_stderr(&format!("resuming the watch: {}", end.message()));
        (client, changes) = watch.resume().await?;
    }
}

impl Watch<'_> {
    async fn begin(&self) -> Result<(Client, Changes), Failure> {
        timeout(self.global.timeout, self.ask())
            .await
            .unwrap_or_else(|_| Err(Failure::unanswered(self.global.timeout)))
    }

    async fn ask(&self) -> Result<(Client, Changes), Failure> {
        let client = Client::connect(self.global).await?;
        let filter = self.filter.clone();
        let changes = ask(&client, filter, self.revision.clone()).await?;
        Ok((client, changes))
    }

    /// Prints what comes, and returns why nothing more does.
    async fn follow(&mut self, client: &Client, mut changes: Changes) -> Failure {
        loop {
            let message = match changes.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Failure::local("the daemon ended the watch"),
                Err(status) => return client.failure(&status),
            };
            if let Some(attachment) = &message.attachment {
                let left = message.left_filter;
                let line = output::change(self.global.output, attachment, left);
                if let Err(failure) = output::to_stdout(&line) {
                    return failure;
                }
            }
            // After the line is out, so that what was not printed is sent again.
            if !message.revision.is_empty() {
                self.revision = message.revision;
            }
        }
    }

    /// Watches again from where it was, or anew if the daemon does not know what changed since.
    async fn resume(&mut self) -> Result<(Client, Changes), Failure> {
        let deadline = Instant::now() + self.global.timeout;
        let mut anew = self.revision.is_empty();
        loop {
            match self.begin().await {
                Ok(begun) => {
                    if anew {
                        self.tell_anew()?;
                    }
                    return Ok(begun);
                }
                Err(failure) if failure.is(Reason::WatchExpired) && !anew => {
                    self.revision.clear();
                    anew = true;
                }
                Err(failure) if failure.ends_connection() && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Tells that everything is printed again, where the reader of the lines sees it.
    fn tell_anew(&self) -> Result<(), Failure> {
        let why = "the daemon does not know what changed meanwhile: everything follows as it is, and what does not follow is gone";
        match self.global.output {
            Format::Table => {
                // Nobody is left to tell where this cannot be written.
                let _ = output::to_stderr(why);
                Ok(())
            }
            Format::Json => output::to_stdout(&json!({ "anew": { "message": why } }).to_string()),
        }
    }
}
