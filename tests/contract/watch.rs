//! Watches that break, resume and fall behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;
use volattach::api::v1::{self, State};
use volattach::model::Reason;

use crate::cli::volattach;
use crate::server::{Client, Server, attach, detach, soon};

type Changes = Streaming<v1::WatchAttachmentsResponse>;

async fn begin(client: &mut Client, request: v1::WatchAttachmentsRequest) -> Changes {
    let watching = client.watch_attachments(request).await;
    watching.unwrap().into_inner()
}

fn after(revision: &str) -> v1::WatchAttachmentsRequest {
    v1::WatchAttachmentsRequest {
        resume_after: revision.to_owned(),
        ..Default::default()
    }
}

/// Reads up to the message that ends what was missed; the attachments by id, and its revision.
async fn catch_up(changes: &mut Changes) -> (Vec<(String, State)>, String) {
    let mut told = Vec::new();
    loop {
        let message = soon(changes.message()).await.unwrap().unwrap();
        match message.attachment {
            Some(it) => told.push((it.attachment_id.clone(), it.state())),
            None => return (told, message.revision),
        }
    }
}

#[tokio::test]
async fn a_watch_resumes_after_its_last_revision() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a1", "a2", "a3"] {
        client.attach_volume(attach(id)).await.unwrap();
    }
    let mut changes = begin(&mut client, after("")).await;
    let (listed, revision) = catch_up(&mut changes).await;
    assert_eq!(listed.len(), 3);
    // Live: each message has a revision of its own.
    client.detach_volume(detach("a1")).await.unwrap();
    let first = soon(changes.message()).await.unwrap().unwrap();
    assert!(!first.revision.is_empty() && first.revision != revision);
    drop(changes);

    client.attach_volume(attach("a4")).await.unwrap();
    let mut changes = begin(&mut client, after(&first.revision)).await;
    let (missed, now) = catch_up(&mut changes).await;
    let expected = [("a1", State::Gone), ("a4", State::Attached)];
    assert_eq!(missed, expected.map(|(id, state)| (id.to_owned(), state)));
    let mut changes = begin(&mut client, after(&now)).await;
    assert_eq!(catch_up(&mut changes).await, (Vec::new(), now));
}

#[tokio::test]
async fn what_is_no_revision_is_an_invalid_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let error = client.watch_attachments(after("x")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(
        error.get_details_error_info().unwrap().reason,
        "INVALID_REQUEST"
    );
}

#[tokio::test]
async fn an_attachment_that_leaves_the_filter_is_told() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    let request = v1::WatchAttachmentsRequest {
        filter: Some(v1::AttachmentFilter {
            state: State::Attached.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut changes = begin(&mut client, request).await;
    let attached = ("a1".to_owned(), State::Attached);
    assert_eq!(catch_up(&mut changes).await.0, [attached]);
    // What never was attached is not told of.
    server.world.state().inspect_fails = Some(Reason::VolumeNotFound);
    client.attach_volume(attach("a2")).await.unwrap_err();
    client.detach_volume(detach("a1")).await.unwrap();
    let message = soon(changes.message()).await.unwrap().unwrap();
    let attachment = message.attachment.unwrap();
    assert_eq!(
        (attachment.attachment_id.as_str(), attachment.state()),
        ("a1", State::Detaching)
    );
    assert!(message.left_filter);
    // Told once.
    client.attach_volume(attach("a3")).await.unwrap();
    let message = soon(changes.message()).await.unwrap().unwrap();
    assert_eq!(message.attachment.unwrap().attachment_id, "a3");
    assert!(!message.left_filter);
}

/// A watcher of one volume, of which nothing changes, is sent a revision now and then: it does not come back with one that is long past.
#[tokio::test]
async fn a_watcher_of_others_changes_gets_their_revision() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("kept")).await.unwrap();
    let request = v1::WatchAttachmentsRequest {
        filter: Some(v1::AttachmentFilter {
            volume_id: "v-kept".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut changes = begin(&mut client, request).await;
    let (_, before) = catch_up(&mut changes).await;
    for _ in 0..300 {
        client.attach_volume(attach("a1")).await.unwrap();
        client.detach_volume(detach("a1")).await.unwrap();
    }
    let message = soon(changes.message()).await.unwrap().unwrap();
    assert_eq!(message.attachment, None);
    assert_ne!(message.revision, before);
}

/// Watches without reading while far more happens than anything between can hold.
#[tokio::test]
async fn a_slow_watcher_is_told_the_present_state_and_keeps_its_place() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("kept")).await.unwrap();
    let mut changes = begin(&mut client, after("")).await;
    for _ in 0..700 {
        client.attach_volume(attach("a1")).await.unwrap();
        client.detach_volume(detach("a1")).await.unwrap();
    }
    client.attach_volume(attach("last")).await.unwrap();
    let mut view = BTreeMap::new();
    while view.get("last") != Some(&State::Attached) {
        let message = soon(changes.message()).await.unwrap().unwrap();
        if let Some(attachment) = message.attachment {
            view.insert(attachment.attachment_id.clone(), attachment.state());
        }
    }
    assert_eq!(view["kept"], State::Attached);
    assert_eq!(view["a1"], State::Gone);
}

/// A socket that leads to a server, and can be led to another: that breaks all connections.
pub(crate) struct Relay {
    pub(crate) socket: PathBuf,
    pub(crate) to: watch::Sender<PathBuf>,
    _dir: tempfile::TempDir,
}

impl Relay {
    pub(crate) fn new(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let (to, leads) = watch::channel(server.socket.clone());
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                let mut leads = leads.clone();
                let socket = leads.borrow_and_update().clone();
                tokio::spawn(async move {
                    let Ok(mut server) = UnixStream::connect(socket).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut caller, &mut server) => {}
                        _ = leads.changed() => {}
                    }
                });
            }
        });
        Self {
            socket,
            to,
            _dir: dir,
        }
    }

    pub(crate) fn lead_to(&self, server: &Server) {
        self.to.send_replace(server.socket.clone());
    }
}

/// The command line resumes after the connection broke, and begins anew, and says so, with another daemon.
#[tokio::test]
async fn the_command_resumes_and_tells_when_it_begins_anew() {
    let (server, restarted) = (Server::start().await, Server::start().await);
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    let relay = Relay::new(&server);
    let mut command = volattach(&server, &["watch", "-o", "json"]);
    command.env("VOLATTACH_SOCKET", &relay.socket);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(next().await["attachment_id"], "a1");
    client.attach_volume(attach("a2")).await.unwrap();
    while next().await["state"] != "attached" {}

    relay.lead_to(&server);
    client.attach_volume(attach("a3")).await.unwrap();
    loop {
        let change = next().await;
        assert_eq!(change["attachment_id"], "a3", "a1 and a2 are known");
        if change["state"] == "attached" {
            break;
        }
    }

    let mut client = restarted.client().await;
    client.attach_volume(attach("a3")).await.unwrap();
    relay.lead_to(&restarted);
    assert!(next().await["anew"]["message"].is_string());
    assert_eq!(next().await["attachment_id"], "a3");
    child.kill().await.unwrap();
}

/// A daemon that takes the connection and does not answer is one that is away.
#[tokio::test]
async fn the_command_gives_up_on_a_daemon_that_does_not_answer() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    let relay = Relay::new(&server);
    let mut command = volattach(&server, &["watch", "-o", "json", "--timeout", "1"]);
    command.env("VOLATTACH_SOCKET", &relay.socket);
    command.stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    soon(lines.next_line()).await.unwrap().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let deaf = dir.path().join("s");
    let _listener = UnixListener::bind(&deaf).unwrap();
    relay.to.send_replace(deaf);
    let ended = soon(child.wait_with_output()).await.unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success());
    assert!(
        stderr.contains("the daemon did not answer within 1 s"),
        "{stderr}"
    );
}
