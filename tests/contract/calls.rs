//! Every call: what it does, that it may be repeated, what it lists and tells.

use std::collections::BTreeSet;

use prost_types::Timestamp;
use tonic::Code;
use volattach::api::v1;
use volattach::api::v1::State;
use volattach::reconcile;

use crate::fakes::{DOMAIN, Guest};
use crate::server::{Client, Server, attach, connect, detach, get, soon};

async fn attached(client: &mut Client, request: v1::AttachVolumeRequest) -> v1::Attachment {
    let answer = client.attach_volume(request).await.unwrap();
    answer.into_inner().attachment.unwrap()
}

async fn list(
    client: &mut Client,
    request: v1::ListAttachmentsRequest,
) -> v1::ListAttachmentsResponse {
    let answer = client.list_attachments(request).await;
    answer.unwrap().into_inner()
}

fn ids(page: &v1::ListAttachmentsResponse) -> Vec<&str> {
    let ids = page.attachments.iter();
    ids.map(|a| a.attachment_id.as_str()).collect()
}

#[tokio::test]
async fn attach_shows_everything_and_detach_leaves_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let made = attached(&mut client, attach("a1")).await;
    assert_eq!(made.attachment_id, "a1");
    assert_eq!(made.volume_id, "v-a1");
    assert_eq!(made.domain_uuid, DOMAIN.to_string());
    assert_eq!(made.domain_name, "web");
    assert_eq!(made.protocol, "smbfs");
    assert_eq!(made.access(), v1::Access::ReadWrite);
    assert_eq!(made.state(), State::Attached);
    assert_eq!(made.target, crate::TARGETS[0]);
    assert!(made.host_path.ends_with("/a1"), "{}", made.host_path);
    assert!(
        made.disk_xml.contains("ua-volattach-a1"),
        "{}",
        made.disk_xml
    );
    assert!(made.error.is_empty() && made.error_reason.is_empty());
    assert!(made.created_at.is_some() && made.updated_at.is_some());
    let shown = client.get_attachment(get("a1")).await.unwrap();
    assert_eq!(shown.into_inner(), made);

    client.detach_volume(detach("a1")).await.unwrap();
    assert!(server.world.state().disks.is_empty());
    assert!(server.world.state().connections.is_empty());
    assert!(server.world.records().is_empty());
    // An unknown id is detached already.
    client.detach_volume(detach("a1")).await.unwrap();
}

#[tokio::test]
async fn the_same_attach_again_is_the_same_answer_and_another_is_a_conflict() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = attached(&mut client, attach("a1")).await;
    assert_eq!(attached(&mut client, attach("a1")).await, first);
    assert_eq!(server.world.state().disks.len(), 1);
    let mut password = attach("a1");
    password.connection_info =
        crate::server::info(&crate::server::cinder("a1").replace("hunter2", "hunter3"));
    let mut domain = attach("a1");
    domain.domain = DOMAIN.to_string();
    let mut disk = attach("a1");
    disk.disk = Some(v1::DiskOptions {
        cache: "writeback".into(),
        ..Default::default()
    });
    for other in [password, domain, disk] {
        let error = client.attach_volume(other).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{error:?}");
    }
}

#[tokio::test]
async fn connect_gives_path_and_xml_and_disconnect_leaves_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = connect("c1");
    request.disk = Some(v1::DiskOptions {
        target: crate::TARGETS[1].into(),
        ..Default::default()
    });
    request.access = v1::Access::ReadOnly.into();
    let answer = client.connect_volume(request.clone()).await.unwrap();
    let made = answer.into_inner().attachment.unwrap();
    assert_eq!(made.state(), State::Connected);
    assert_eq!(made.access(), v1::Access::ReadOnly);
    assert_eq!(
        (made.domain_uuid.as_str(), made.domain_name.as_str()),
        ("", "")
    );
    assert!(made.host_path.ends_with("/c1"), "{}", made.host_path);
    assert!(made.disk_xml.contains("<readonly"), "{}", made.disk_xml);
    assert!(
        made.disk_xml.contains(crate::TARGETS[1]),
        "{}",
        made.disk_xml
    );
    let again = client.connect_volume(request).await.unwrap();
    assert_eq!(again.into_inner().attachment.unwrap(), made);

    for _ in 0..2 {
        let request = v1::DisconnectVolumeRequest {
            attachment_id: "c1".into(),
            force: false,
        };
        client.disconnect_volume(request).await.unwrap();
        assert!(server.world.state().connections.is_empty());
    }
}

#[tokio::test]
async fn a_plan_tells_everything_and_touches_nothing() {
    let server = Server::start().await;
    let mut request = attach("a1");
    request.access = v1::Access::ReadOnly.into();
    let request = v1::PlanAttachRequest {
        request: Some(request),
    };
    let mut client = server.client().await;
    let plan = client.plan_attach(request).await.unwrap().into_inner();
    assert_eq!(plan.access(), v1::Access::ReadOnly);
    assert_eq!(plan.access_reason, "the request asks for read-only");
    let steps: Vec<_> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["connect", "inspect", "attach"]);
    assert!(plan.steps.iter().all(|step| !step.description.is_empty()));
    let mount = plan.mount.unwrap();
    assert_eq!(
        (mount.source.as_str(), mount.fstype.as_str()),
        ("//files/vols", "cifs")
    );
    assert_eq!(mount.options, "ro,pass=[redacted]");
    assert!(plan.disk_xml.contains("<readonly"), "{}", plan.disk_xml);
    assert_eq!(plan.settings[0].origin, "built in");
    assert!(server.world.state().connections.is_empty());
    assert!(server.world.records().is_empty());

    let error = client.plan_attach(v1::PlanAttachRequest::default()).await;
    assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_connector_is_told() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let answer = client.get_connector(v1::GetConnectorRequest {}).await;
    let connector = answer.unwrap().into_inner();
    let expected = v1::Connector {
        // Whatever this machine has.
        host: sysinfo::System::host_name().unwrap(),
        ip: connector.ip.clone(),
        platform: std::env::consts::ARCH.into(),
        os_type: "linux".into(),
        system_uuid: connector.system_uuid.clone(),
        initiator: "iqn.1993-08.org.debian:01:5f2".into(),
        multipath: true,
        nqn: "nqn.2014-08.org.nvmexpress:uuid:1".into(),
        nvme_hostid: "7c9e6679-7425-40de-944b-e07fc1f90ae7".into(),
        nvme_native_multipath: true,
    };
    assert_eq!(connector, expected);
}

#[tokio::test]
async fn lists_come_in_pages_and_every_attachment_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for number in 0..7 {
        attached(&mut client, attach(&format!("a{number}"))).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListAttachmentsRequest {
            page_size: 3,
            page_token: page_token.clone(),
            ..Default::default()
        };
        let page = list(&mut client, request).await;
        seen.push(ids(&page).len());
        if page.next_page_token.is_empty() {
            break;
        }
        // What is attached before the place that the token names does not disturb it.
        if seen.len() == 1 {
            attached(&mut client, attach("a00")).await;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(seen, [3, 3, 1]);
    let all = list(&mut client, v1::ListAttachmentsRequest::default()).await;
    assert_eq!(ids(&all), ["a0", "a00", "a1", "a2", "a3", "a4", "a5", "a6"]);
    assert_eq!(all.next_page_token, "");
    let exact = v1::ListAttachmentsRequest {
        page_size: 8,
        ..Default::default()
    };
    assert_eq!(list(&mut client, exact).await.next_page_token, "");
    let bad = v1::ListAttachmentsRequest {
        page_token: "bad".into(),
        ..Default::default()
    };
    let error = client.list_attachments(bad).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn lists_are_filtered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    attached(&mut client, attach("a1")).await;
    attached(&mut client, attach("a2")).await;
    client.connect_volume(connect("c1")).await.unwrap();
    let filter = |domain: &str, volume: &str, state: State| v1::AttachmentFilter {
        domain: domain.to_owned(),
        volume_id: volume.to_owned(),
        state: state.into(),
        ..Default::default()
    };
    let of = |change: fn(&mut v1::AttachmentFilter)| {
        let mut filter = filter("", "", State::Unspecified);
        change(&mut filter);
        filter
    };
    // The domain loses the disk of a2.
    server.world.state().disks.remove("ua-volattach-a2");
    reconcile::once(&server.engine).await;
    let domain = DOMAIN.to_string();
    let filters: [(_, &[&str]); 15] = [
        (filter("", "", State::Unspecified), &["a1", "a2", "c1"]),
        (filter("web", "", State::Unspecified), &["a1", "a2"]),
        (filter(&domain, "", State::Unspecified), &["a1", "a2"]),
        (filter("other", "", State::Unspecified), &[]),
        (filter("", "v-a2", State::Unspecified), &["a2"]),
        (filter("", "", State::Connected), &["c1"]),
        (filter("", "", State::Attached), &["a1"]),
        (filter("", "", State::Lost), &["a2"]),
        (of(|it| it.protocol = "smbfs".into()), &["a1", "a2", "c1"]),
        (of(|it| it.protocol = "nfs".into()), &[]),
        (of(|it| it.server = "files".into()), &["a1", "a2", "c1"]),
        (of(|it| it.server = "file".into()), &[]),
        (of(|it| it.error_reason = "DISK_LOST".into()), &["a2"]),
        (of(|it| it.failing = true), &["a2"]),
        (of(|it| it.created_before = Some(Timestamp::default())), &[]),
    ];
    for (filter, expected) in filters {
        let request = v1::ListAttachmentsRequest {
            filter: Some(filter.clone()),
            ..Default::default()
        };
        let page = list(&mut client, request).await;
        assert_eq!(ids(&page), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn a_watch_begins_with_what_is_and_tells_every_change() {
    let server = Server::start().await;
    let mut client = server.client().await;
    attached(&mut client, attach("a1")).await;
    let filter = v1::AttachmentFilter {
        domain: "web".into(),
        ..Default::default()
    };
    let request = v1::WatchAttachmentsRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let mut changes = client
        .watch_attachments(request)
        .await
        .unwrap()
        .into_inner();
    // What the filter leaves out is not told.
    client.connect_volume(connect("c1")).await.unwrap();
    attached(&mut client, attach("a2")).await;
    server.world.state().guest = Guest::Ignores;
    client.detach_volume(detach("a2")).await.unwrap_err();
    server.world.let_go("ua-volattach-a2");
    client.detach_volume(detach("a2")).await.unwrap();

    let mut told = Vec::new();
    while told.last() != Some(&("a2".to_owned(), State::Gone)) {
        let change = soon(changes.message()).await.unwrap().unwrap();
        let Some(attachment) = change.attachment else {
            continue;
        };
        let now = (attachment.attachment_id.clone(), attachment.state());
        if told.last() != Some(&now) {
            told.push(now);
        }
    }
    let a2 = |state| ("a2".to_owned(), state);
    assert_eq!(
        told,
        [
            ("a1".to_owned(), State::Attached),
            a2(State::Connecting),
            a2(State::Attaching),
            a2(State::Attached),
            a2(State::Detaching),
            a2(State::Disconnecting),
            a2(State::Gone),
        ]
    );
}

#[tokio::test]
async fn many_callers_at_once_get_their_own_answers() {
    let server = Server::start().await;
    let calls = (0..20).map(|number| {
        let server = &server;
        async move {
            let id = format!("a{number}");
            let made = attached(&mut server.client().await, attach(&id)).await;
            assert_eq!(made.attachment_id, id);
            made.target
        }
    });
    let targets = futures::future::join_all(calls).await;
    assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), 20);
}
