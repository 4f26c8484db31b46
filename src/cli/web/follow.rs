//! Follows one daemon: its attachments by the watch, its findings by asking from time to time.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};

use super::board::{Board, Host, Known, Link, Trouble};
use crate::api::v1::{self, State};
use crate::cli::args::Global;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{Health, health};
use crate::cli::watch::{self, Changes};
use crate::model::Reason;

/// Time between two questions for findings, if nothing goes wrong meanwhile. The ages on the page are as old at most.
const ROUND: Duration = Duration::from_secs(60);

/// Time between two questions for findings, if something does.
const SOON: Duration = Duration::from_secs(5);

/// Time before a daemon is tried again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A watch, and how far it came.
struct Follower {
    board: Arc<Board>,
    host: usize,
    global: Arc<Global>,
    /// Revision of the last message that had one; empty: none yet.
    revision: String,
}

/// Keeps the board up to date with one daemon.
pub(super) async fn run(board: Arc<Board>, host: usize, global: Arc<Global>) {
    let mut follower = Follower {
        board: board.clone(),
        host,
        global,
        revision: String::new(),
    };
    let mut pause = PAUSES.0;
    loop {
        let tried = timeout(follower.global.timeout, follower.begin()).await;
        let begun = tried.unwrap_or_else(|_| Err(Failure::unanswered(follower.global.timeout)));
        let end = match begun {
            Ok((client, changes)) => {
                pause = PAUSES.0;
                // Its end is not shown yet: a watch has to be begun anew each hour.
                tokio::select! {
                    end = follower.follow(&client, changes) => end,
                    never = diagnose(&board, host, &client) => match never {},
                }
            }
            Err(failure) => {
                follower.change(|known| {
                    let before = match &known.link {
                        Link::Down(before) => Some(before),
                        _ => None,
                    };
                    known.link = Link::Down(Trouble::new(&failure, before));
                });
                failure
            }
        };
        if end.is(Reason::WatchExpired) {
            follower.revision.clear();
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

impl Follower {
    fn change(&self, change: impl FnOnce(&mut Known)) {
        self.board.change(self.host, change);
    }

    async fn begin(&self) -> Result<(Client, Changes), Failure> {
        let Some(host) = self.board.hosts().get(self.host) else {
            return Err(Failure::local("there is no such host"));
        };
        let client = Client::stay(&host.place, &self.global).await?;
        let all = v1::AttachmentFilter::default();
        let changes = watch::ask(&client, all, self.revision.clone()).await?;
        Ok((client, changes))
    }

    /// Takes in what comes, and returns why nothing more does.
    async fn follow(&mut self, client: &Client, mut changes: Changes) -> Failure {
        // Attachments as they are come one by one, and count together: those that do not come are gone.
        let mut anew = self.revision.is_empty().then(BTreeMap::new);
        loop {
            let message = match changes.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Failure::local("the daemon ended the watch"),
                Err(status) => return client.failure(&status),
            };
            if let Some(attachment) = message.attachment {
                match &mut anew {
                    Some(anew) => take(anew, attachment, message.left_filter),
                    None => self.take(attachment, message.left_filter),
                }
            }
            if message.revision.is_empty() {
                continue;
            }
            self.revision = message.revision;
            self.change(|known| {
                known.link = Link::Up;
                if let Some(anew) = anew.take() {
                    known.attachments = Some(anew);
                }
            });
        }
    }

    /// One change. The findings are asked for soon if what is wrong with the attachment changed.
    fn take(&self, attachment: v1::Attachment, left: bool) {
        let id = attachment.attachment_id.clone();
        let wrong = health(&attachment) != Health::Sound;
        let mut was_wrong = false;
        self.change(|known| {
            let attachments = known.attachments.get_or_insert_default();
            let before = attachments.get(&id);
            was_wrong = before.is_some_and(|before| health(before) != Health::Sound);
            take(attachments, attachment, left);
        });
        if let Some(host) = self.host().filter(|_| wrong || was_wrong) {
            host.diagnose.notify_one();
        }
    }

    fn host(&self) -> Option<&Host> {
        self.board.hosts().get(self.host)
    }
}

fn take(
    attachments: &mut BTreeMap<String, v1::Attachment>,
    mut attachment: v1::Attachment,
    left: bool,
) {
    let id = attachment.attachment_id.clone();
    if left || attachment.state() == State::Gone {
        attachments.remove(&id);
        return;
    }
    // The page does not show it, and it is the largest part.
    attachment.disk_xml = String::new();
    attachments.insert(id, attachment);
}

/// Asks for the findings again and again.
async fn diagnose(board: &Board, host: usize, client: &Client) -> Infallible {
    loop {
        let message = client.request(v1::DiagnoseRequest {});
        let answer = client.rpc.clone().diagnose(message).await;
        let answer = client.answer(answer);
        board.change(host, |known| match answer {
            Ok(diagnosis) => {
                known.diagnosis = Some((diagnosis, SystemTime::now()));
                known.undiagnosed = None;
            }
            Err(failure) => {
                let trouble = Trouble::new(&failure, known.undiagnosed.as_ref());
                known.undiagnosed = Some(trouble);
            }
        });
        sleep(SOON).await;
        if let Some(host) = board.hosts().get(host) {
            // Either is a reason to ask.
            let _ = timeout(ROUND - SOON, host.diagnose.notified()).await;
        }
    }
}
