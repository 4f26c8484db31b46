//! Hostile input over the real server and fakes of what is beneath: every string field of every request, by the descriptor.
//! What needs a compute node is in tests/lab/hostile_test.rs; docs/hostile-input.md lists both.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::Value;
use volattach::api::v1;

use crate::call::{call, reason};
use crate::fields::{Case, cases};
use crate::server::{self, Server, cinder, soon};

/// What is valid beside a hostile field.
fn valid(field: &str) -> Option<Value> {
    let text = match field {
        "ConnectionInfo.cinder_json" => cinder("h"),
        "SmbVolume.export" => "//files/vols".into(),
        "NfsVolume.export" => "files:/vols".into(),
        "LocalVolume.device_path" => "/dev/vg/h".into(),
        "SmbVolume.name" | "NfsVolume.name" => "h".into(),
        "SmbCredentials.username" | "IscsiChap.username" => "bob".into(),
        "SmbCredentials.password" | "IscsiChap.password" => "hunter2".into(),
        "IscsiPath.portal" => "10.0.0.1:3260".into(),
        "IscsiPath.target" => "iqn.a".into(),
        "NvmeVolume.nqn" => "nqn.2014-08.org.nvmexpress:h".into(),
        "NvmeVolume.uuid" => "7c9e6679-7425-40de-944b-e07fc1f90ae7".into(),
        "NvmePortal.address" => "10.0.0.1".into(),
        "NvmePortal.port" => return Some(Value::U32(4420)),
        "VolumeFacts.permissions" => "777".into(),
        "VolumeUse.access" => return Some(Value::EnumNumber(1)),
        name if name.ends_with(".attachment_id") || name.ends_with(".volume_id") => "h".into(),
        name if name.ends_with(".domain")
            && !name.starts_with("Smb")
            && !name.starts_with("Attachment") =>
        {
            "web".into()
        }
        _ => return None,
    };
    Some(Value::String(text))
}

/// Sends each; gives what each came to, and holds the server to still answering, and to having nothing that was refused.
async fn answers(server: &Server, cases: Vec<Case>) -> BTreeMap<String, String> {
    let channel = server.channel().await;
    let mut client = server.client().await;
    let mut found = BTreeMap::new();
    for case in cases {
        let (_, method) = case.method.rsplit_once('/').unwrap();
        let name = format!("{method} {}", case.field);
        let came = match soon(call(&channel, &case)).await {
            Ok(_) => "taken".to_owned(),
            Err(status) => reason(&status),
        };
        // What was taken goes again, so that the next is the first.
        if came == "taken" {
            let disconnect = v1::DisconnectVolumeRequest {
                attachment_id: "h".into(),
                force: false,
            };
            let detached = soon(client.detach_volume(server::detach("h"))).await;
            let disconnected = soon(client.disconnect_volume(disconnect)).await;
            assert!(detached.is_ok() || disconnected.is_ok(), "{name}");
        }
        assert!(
            server.world.records().is_empty(),
            "{name}: {:?}",
            server.world.records()
        );
        found.insert(name, came);
    }
    found
}

#[tokio::test]
async fn every_string_field_holds_against_every_hostile_text() {
    let server = Server::start().await;
    let mut table: BTreeMap<String, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    for (what, text) in [
        (
            "markup",
            "\"/><disk type='file'><source file='/etc/shadow'/></disk>]]>&lt;<!ENTITY x SYSTEM 'file:///etc/shadow'>",
        ),
        ("line", "h\nFORGED: attached"),
        ("escape", "h\u{1b}[2J\u{1b}]0;FORGED\u{7}"),
        ("c1", "h\u{9b}2J"),
        ("direction", "h\u{202e}FORGED\u{2066}"),
        ("nul", "h\0FORGED"),
        ("options", "h,suid,uid=0"),
        ("traversal", "../../etc/shadow"),
        ("device", "/etc/shadow"),
    ] {
        for (field, came) in answers(&server, cases(text, &valid).unwrap()).await {
            table
                .entry(field)
                .or_default()
                .entry(came)
                .or_default()
                .push(what);
        }
    }
    let lines: Vec<String> = table
        .iter()
        .map(|(field, came)| {
            let came: Vec<String> = came
                .iter()
                .map(|(reason, texts)| format!("{reason}: {}", texts.join(" ")))
                .collect();
            format!("{field}: {}", came.join("; "))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test]
async fn no_length_and_no_bytes_get_further_than_the_fields_check() {
    let server = Server::start().await;
    let reasons =
        |found: BTreeMap<String, String>| -> BTreeSet<String> { found.into_values().collect() };
    let under_the_limit = "a".repeat((1 << 20) - 2048);
    let found = reasons(answers(&server, cases(&under_the_limit, &valid).unwrap()).await);
    assert!(
        !found.contains("taken") && !found.contains("Internal"),
        "{found:?}"
    );
    let over = "a".repeat(10 << 20);
    let found = reasons(answers(&server, cases(&over, &valid).unwrap()).await);
    assert_eq!(found, ["OutOfRange".to_owned()].into());
    let text = "QQQQQQQQ";
    let broken = cases(text, &valid)
        .unwrap()
        .into_iter()
        .map(|case| case.broken(text).unwrap())
        .collect();
    let found = reasons(answers(&server, broken).await);
    assert_eq!(found, ["Internal".to_owned()].into());
}

#[tokio::test]
async fn json_of_any_shape_is_refused_in_words() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let login = "\"driver_volume_type\":\"smbfs\",\"data\":{\"export\":\"//files/vols\"";
    for (text, expected) in [
        ("[".repeat(10_000), "INVALID_CONNECTION_INFO"),
        ("{\"a\":".repeat(10_000), "INVALID_CONNECTION_INFO"),
        // Of a key given twice the later counts.
        (
            format!("{{{login},\"name\":\"v\",\"name\":\"../w\"}}}}"),
            "VOLUME_PATH_UNSAFE",
        ),
        (
            format!("{{{login},\"name\":1e999}}}}"),
            "INVALID_CONNECTION_INFO",
        ),
        (
            format!("{{{login},\"name\":{}}}}}", "9".repeat(10_000)),
            "INVALID_CONNECTION_INFO",
        ),
        (
            format!("{{{login},\"name\":\"\\ud800\"}}}}"),
            "INVALID_CONNECTION_INFO",
        ),
        (
            format!(
                "{{{login},\"name\":[{}]}}}}",
                "\"v\",".repeat(5000) + "\"v\""
            ),
            "INVALID_CONNECTION_INFO",
        ),
        (
            format!("{{{login},\"name\":\"v\"}}}}{}", " ".repeat(100_000)),
            "INVALID_CONNECTION_INFO",
        ),
    ] {
        let json = |field: &str| match field {
            "ConnectionInfo.cinder_json" => Some(Value::String(text.clone())),
            other => valid(other),
        };
        // With a hostile field elsewhere there are cases enough: only that of the JSON itself is wanted.
        let case = cases(&text, &json)
            .unwrap()
            .into_iter()
            .find(|case| case.field == "connection_info.cinder_json")
            .unwrap();
        let status = soon(call(&channel, &case)).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{text:.100}");
    }
}
