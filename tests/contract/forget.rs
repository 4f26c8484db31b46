//! Forgetting an attachment: the RPC, the command line, and what doctor has afterwards.

use serde_json::Value;
use tonic::Code;
use volattach::api::v1::{self, State};
use volattach::journal::Unreadable;
use volattach::model::Reason;

use crate::cli::{failure, json, run};
use crate::server::{Server, attach, detach, forget, get};

/// A server with an attachment whose share cannot be unmounted.
async fn failed() -> Server {
    let server = Server::start().await;
    let mut client = server.client().await;
    server.world.state().mounts_listed = true;
    client.attach_volume(attach("a1")).await.unwrap();
    server.world.state().disconnect_fails = Some(Reason::UnmountFailed);
    client.detach_volume(detach("a1")).await.unwrap_err();
    server.world.state().disconnect_fails = None;
    let shown = client.get_attachment(get("a1")).await.unwrap();
    assert_eq!(shown.into_inner().state(), State::Failed);
    server
}

#[tokio::test]
async fn a_call_without_confirmation_changes_nothing() {
    let server = failed().await;
    let mut client = server.client().await;
    for confirmed in [false, false, true] {
        let answer = client.forget_attachment(forget("a1", confirmed)).await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.forgotten, confirmed);
        let [mount] = &answer.left[..] else {
            panic!("{:?}", answer.left)
        };
        assert!(mount.mend.starts_with("umount "), "{mount:?}");
        assert_eq!((answer.left_out, answer.kept.as_str()), (0, ""));
    }
    let again = client.forget_attachment(forget("a1", true)).await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_command_shows_first_and_forgets_with_yes() {
    let server = failed().await;
    let (code, text, stderr) = run(&server, &["forget", "a1"]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    let mount = server.world.state().connections.keys().next().cloned();
    let mount = mount.unwrap();
    assert_eq!(
        text,
        format!(
            "a1 would leave this behind, without a record:\nerror: mount {mount}\n  mend: umount {mount}\nnothing is forgotten yet: volattach forget a1 --yes\n"
        )
    );
    let forgotten = json(&server, &["forget", "a1", "--yes"]).await;
    assert_eq!(forgotten["attachment_id"], "a1");
    assert_eq!(forgotten["forgotten"], true);
    assert_eq!(forgotten["left"][0]["mend"], format!("umount {mount}"));
    assert_eq!(forgotten["kept"], Value::Null);
    // Doctor has what was left.
    let (code, text, _) = run(&server, &["doctor"]).await;
    assert_eq!(code, 9);
    assert!(
        text.contains(&format!("no record of mount {mount}")),
        "{text}"
    );
    let gone = failure(&server, &["forget", "a1"]).await;
    assert_eq!(gone, (3, "ATTACHMENT_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn an_unreadable_record_is_forgotten_too() {
    let server = Server::start().await;
    server.world.state().unreadable = vec![Unreadable {
        id: "later".parse().unwrap(),
        volume: None,
        claims: Vec::new(),
        why: "it has version 9".to_owned(),
    }];
    let mut client = server.client().await;
    let shown = client.get_attachment(get("later")).await.unwrap_err();
    assert_eq!(shown.code(), Code::Internal);
    let (code, text, _) = run(&server, &["forget", "later", "--yes"]).await;
    assert_eq!(code, 0);
    assert_eq!(
        text,
        "no leftover is found on this host\nthe record is kept in /journal.later.forgotten\nlater is forgotten\n"
    );
    let list = client.list_attachments(v1::ListAttachmentsRequest::default());
    assert!(list.await.unwrap().into_inner().attachments.is_empty());
    let shown = client.get_attachment(get("later")).await.unwrap_err();
    assert_eq!(shown.code(), Code::NotFound);
}
