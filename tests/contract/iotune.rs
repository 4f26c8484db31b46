//! Limits on I/O that change while a guest runs, and the I/O itself.

use tonic::Status;
use tonic_types::StatusExt;
use volattach::api::v1;
use volattach::model::{DiskIo, IoCounts, IoTune};

use crate::cli::{ATTACH, failure, json, run, run_with};
use crate::fakes::Guest;
use crate::server::{Client, Server, attach, connect, detach, io_tune};

const ALIAS: &str = "ua-volattach-a1";

fn iops(limit: u64) -> v1::IoTune {
    v1::IoTune {
        total_iops_sec: limit,
        ..v1::IoTune::default()
    }
}

async fn set(client: &mut Client, limits: v1::IoTune) -> Result<Option<v1::IoTune>, Status> {
    let answer = client.set_io_tune(io_tune("a1", limits)).await;
    answer.map(|answer| answer.into_inner().iotune)
}

async fn set_qos(
    client: &mut Client,
    consumer: &str,
    specs: &[(&str, &str)],
) -> Result<Option<v1::IoTune>, Status> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let request = v1::SetIoTuneRequest {
        attachment_id: "a1".into(),
        limits: Some(v1::set_io_tune_request::Limits::QosSpecs(v1::QosSpecs {
            consumer: consumer.into(),
            specs: specs.iter().map(owned).collect(),
        })),
    };
    let answer = client.set_io_tune(request).await;
    answer.map(|answer| answer.into_inner().iotune)
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("{status:?}")).reason
}

async fn stats(client: &mut Client, id: &str) -> Result<v1::AttachmentStats, Status> {
    let request = v1::GetAttachmentStatsRequest {
        attachment_id: id.into(),
    };
    let answer = client.get_attachment_stats(request).await;
    answer.map(|answer| answer.into_inner())
}

async fn attached() -> (Server, Client) {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn limits_replace_all_earlier_ones_and_are_those_in_force() {
    let (server, mut client) = attached().await;
    let records = server.world.records();
    let bytes = v1::IoTune {
        read_bytes_sec: 7,
        group_name: "tenant".into(),
        ..v1::IoTune::default()
    };
    assert_eq!(set(&mut client, iops(500)).await.unwrap(), Some(iops(500)));
    assert_eq!(
        set(&mut client, bytes.clone()).await.unwrap(),
        Some(bytes.clone())
    );
    let shown = stats(&mut client, "a1").await.unwrap();
    assert_eq!(shown.iotune, Some(bytes));
    assert_eq!(set(&mut client, iops(0)).await.unwrap(), None);
    assert_eq!(server.world.state().iotune[ALIAS], IoTune::default());
    assert_eq!(server.world.records(), records);
}

#[tokio::test]
async fn qos_specs_count_by_the_size_that_the_guest_sees() {
    let (server, mut client) = attached().await;
    server.world.state().shown.insert(ALIAS.into(), 20 << 30);
    let specs = [
        ("total_iops_sec_per_gb", "10"),
        ("total_iops_sec_max", "150"),
        ("vendor:tier", "gold"),
    ];
    let set = set_qos(&mut client, "front-end", &specs).await.unwrap();
    assert_eq!(set, Some(iops(150)));
    let set = set_qos(&mut client, "back-end", &specs).await.unwrap();
    assert_eq!(set, None);
    let refused = set_qos(&mut client, "both", &[("total_iops_sec", "many")]).await;
    let refused = refused.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_REQUEST");
    assert!(
        refused.message().contains("qos_specs.total_iops_sec"),
        "{refused}"
    );
}

#[tokio::test]
async fn limits_by_size_need_a_guest_that_sees_the_disk() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = attach("a1");
    request.disk = Some(v1::DiskOptions {
        scope: v1::Scope::LiveAndConfig.into(),
        ..v1::DiskOptions::default()
    });
    client.attach_volume(request).await.unwrap();
    server.world.state().running = false;
    let grows = [("total_iops_sec_per_gb", "10")];
    let refused = set_qos(&mut client, "both", &grows).await.unwrap_err();
    assert_eq!(reason(&refused), "DOMAIN_STATE");
    assert_eq!(set(&mut client, iops(7)).await.unwrap(), Some(iops(7)));
}

#[tokio::test]
async fn limits_that_cannot_be_change_nothing() {
    let (server, mut client) = attached().await;
    set(&mut client, iops(500)).await.unwrap();
    let mut both = iops(5);
    both.read_iops_sec = 5;
    let refused = set(&mut client, both).await.unwrap_err();
    assert_eq!(reason(&refused), "DISK_OPTION_INVALID");
    let missing = v1::SetIoTuneRequest {
        attachment_id: "a1".into(),
        limits: None,
    };
    let refused = client.set_io_tune(missing).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_REQUEST");
    assert_eq!(server.world.state().iotune[ALIAS].total_iops_sec, Some(500));
}

#[tokio::test]
async fn counters_are_those_of_the_guest() {
    let (server, mut client) = attached().await;
    let io = DiskIo {
        write: IoCounts {
            bytes: Some(4096),
            requests: Some(1),
            nanoseconds: None,
        },
        ..DiskIo::default()
    };
    server.world.state().io.insert(ALIAS.into(), io);
    let shown = stats(&mut client, "a1").await.unwrap();
    let written = shown.io.unwrap().write.unwrap();
    assert_eq!(
        (written.bytes, written.requests, written.nanoseconds),
        (Some(4096), Some(1), None)
    );
    assert_eq!((shown.attachment_id.as_str(), shown.iotune), ("a1", None));
    assert_eq!(
        stats(&mut client, "a2")
            .await
            .map_err(|status| reason(&status)),
        Err("ATTACHMENT_NOT_FOUND".to_owned())
    );
}

#[tokio::test]
async fn without_a_disk_in_a_domain_nothing_is_limited_or_counted() {
    let (server, mut client) = attached().await;
    client.connect_volume(connect("c1")).await.unwrap();
    let refused = stats(&mut client, "c1").await.unwrap_err();
    assert_eq!(reason(&refused), "ATTACHMENT_KIND");
    // A guest that is asked for the disk still uses it.
    server.world.state().guest = Guest::Ignores;
    client.detach_volume(detach("a1")).await.unwrap_err();
    stats(&mut client, "a1").await.unwrap();
    server.world.state().disks.clear();
    assert_eq!(
        reason(&stats(&mut client, "a1").await.unwrap_err()),
        "DISK_LOST"
    );
    assert_eq!(
        reason(&set(&mut client, iops(1)).await.unwrap_err()),
        "DISK_LOST"
    );
}

#[tokio::test]
async fn limits_are_set_shown_and_ended() {
    let server = Server::start().await;
    json(&server, ATTACH).await;
    let (code, text, _) = run(&server, &["iotune", "a1"]).await;
    assert_eq!((code, text.as_str()), (0, "a1 has no limits\n"));
    let set = [
        "iotune",
        "a1",
        "--iotune",
        "total_iops_sec=500",
        "--iotune-group",
        "g",
    ];
    let expected = serde_json::json!({
        "attachment_id": "a1", "iotune": { "total_iops_sec": 500, "group_name": "g" },
    });
    assert_eq!(json(&server, &set).await, expected);
    assert_eq!(json(&server, &["iotune", "a1"]).await, expected);
    let specs = r#"{"consumer": "both", "specs": {"read_iops_sec": "7", "tier": "gold"}}"#;
    let (code, text, _) = run_with(&server, &["iotune", "a1", "--qos-specs", "-"], specs).await;
    assert_eq!((code, text.as_str()), (0, "read_iops_sec  7\n"));
    let ended = json(&server, &["iotune", "a1", "--none"]).await;
    assert_eq!(ended["iotune"], serde_json::json!({}));
    let refused = ["iotune", "a1", "--iotune", "read_iops_sec_max=7"];
    let refused = failure(&server, &refused).await;
    assert_eq!(refused, (1, "DISK_OPTION_INVALID".to_owned()));
}

#[tokio::test]
async fn stats_show_what_the_guest_did() {
    let server = Server::start().await;
    json(&server, ATTACH).await;
    let shown = json(&server, &["stats", "a1"]).await;
    assert_eq!(shown["attachment_id"], "a1");
    assert_eq!(shown["io"]["read"]["bytes"], serde_json::Value::Null);
    let (code, text, _) = run(&server, &["stats", "a1"]).await;
    assert_eq!(code, 0);
    assert!(text.starts_with("I/O    Requests  Bytes"), "{text}");
}
