//! Shows how far an operation has come while it runs.

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;

use super::args::Format;
use super::client::Client;
use crate::api::v1;

/// What the daemon does in a state; `None`: nothing more than was said.
fn phase(state: i32) -> Option<&'static str> {
    Some(match v1::State::try_from(state).ok()? {
        v1::State::Connecting => "connecting the volume to this host",
        v1::State::Attaching => "plugging the disk into the domain",
        v1::State::Detaching => "waiting for the guest to let go of the disk",
        v1::State::Disconnecting => "disconnecting the volume from this host",
        _ => return None,
    })
}

/// Waits for `work` on the attachment `id`, with a spinner that tells its phases on a terminal, and nothing elsewhere.
pub(super) async fn follow<T>(
    client: &Client,
    format: Format,
    id: &str,
    start: &'static str,
    work: impl Future<Output = T>,
) -> T {
    let Some(spinner) = spinner(format, start) else {
        return work.await;
    };
    let answer = tokio::select! {
        answer = work => answer,
        never = tell(client.clone(), id, &spinner) => match never {},
    };
    spinner.finish_and_clear();
    answer
}

/// Waits for `work`, whose phases no daemon tells, with a spinner on a terminal.
pub(super) async fn spin<T>(
    format: Format,
    message: &'static str,
    work: impl Future<Output = T>,
) -> T {
    let spinner = spinner(format, message);
    let answer = work.await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    answer
}

/// A spinner, if people look at a terminal.
fn spinner(format: Format, message: &'static str) -> Option<ProgressBar> {
    if format != Format::Table || !std::io::stderr().is_terminal() {
        return None;
    }
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(100));
    Some(spinner)
}

/// Tells each phase of the attachment. That it cannot be told is no reason to give up the work.
async fn tell(mut client: Client, id: &str, spinner: &ProgressBar) -> Infallible {
    let all = client.request(v1::WatchAttachmentsRequest::default());
    if let Ok(answer) = client.rpc.watch_attachments(all).await {
        let mut changes = answer.into_inner();
        while let Ok(Some(change)) = changes.message().await {
            let ours = change.attachment.filter(|a| a.attachment_id == id);
            if let Some(phase) = ours.and_then(|attachment| phase(attachment.state)) {
                spinner.set_message(phase);
            }
        }
    }
    std::future::pending().await
}
