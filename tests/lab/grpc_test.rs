//! A foreign gRPC client, Google's own for Python, which learns the API from the running server.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest, process,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "grpc_foreign_client_by_reflection",
    run: foreign_client,
}];

/// What the client prints after these calls on the node's socket, which is `socket` here.
fn client(socket: &Path, calls: &Value) -> Result<Value> {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/grpc_client.py"))
        .arg(socket);
    let output = process::run(
        command,
        calls.to_string().as_bytes(),
        Duration::from_secs(150),
    )?;
    ensure!(output.status.success(), "the client: {}", output.stderr);
    Ok(serde_json::from_str(&output.stdout)?)
}

fn foreign_client(lab: &Lab) -> Result<()> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["vols"], "")?;
    server.user("alice", "secret")?;
    server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    Agent::start(&lab.node, "")?;
    let socket = lab.node.forward("/run/volattach/volattachd.sock")?;

    let attach = |id: &str, password: &str| {
        let login = format!("-o username=alice,password={password}");
        let info = smb_info(&server, "vols", "v.raw", &login);
        json!(["volattach.v1.VolumeAttach/AttachVolume", {
            "attachment_id": id, "volume_id": "v1", "domain": "inner", "access": "ACCESS_READ_ONLY",
            "connection_info": { "cinder_json": info.to_string() },
        }])
    };
    let of = |method: &str, id: &str| json!([format!("volattach.v1.VolumeAttach/{method}"), { "attachment_id": id }]);
    let health = |service: &str| json!(["grpc.health.v1.Health/Check", { "service": service }]);

    let said = client(
        &socket,
        &json!([
            health("volattach.v1.VolumeAttach"),
            attach("a1", "secret"),
            of("GetAttachment", "a1"),
            of("GetAttachment", "a2"),
        ]),
    )?;
    let services = said["services"].to_string();
    for service in ["volattach.v1.VolumeAttach", "grpc.health.v1.Health"] {
        ensure!(services.contains(&format!("{service:?}")), "{services}");
    }
    let [healthy, attached, got, missing] = &said["answers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    else {
        anyhow::bail!("{said}");
    };
    ensure!(healthy["message"]["status"] == "SERVING", "{healthy}");
    let attachment = &attached["message"]["attachment"];
    ensure!(
        attachment["state"] == "STATE_ATTACHED" && attachment["access"] == "ACCESS_READ_ONLY",
        "{attached}"
    );
    ensure!(&got["message"] == attachment, "{got}");
    let disk = guest::sees(&lab.node, "v1")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");

    ensure!(missing["code"] == "NOT_FOUND", "{missing}");
    ensure!(
        missing["info"]
            == json!({
                "reason": "ATTACHMENT_NOT_FOUND", "domain": "volattach", "metadata": { "attachment_id": "a2" },
            }),
        "{missing}"
    );

    let said = client(
        &socket,
        &json!([
            of("DetachVolume", "a1"),
            of("DetachVolume", "a1"),
            attach("a2", "wrong"),
            ["volattach.v1.VolumeAttach/ListAttachments", {}],
        ]),
    )?;
    ensure!(said["answers"][0] == json!({ "message": {} }), "{said}");
    ensure!(said["answers"][1] == json!({ "message": {} }), "{said}");
    let refused = &said["answers"][2];
    ensure!(
        refused["code"] == "FAILED_PRECONDITION"
            && refused["info"]["reason"] == "LOGON_FAILURE"
            && refused["info"]["domain"] == "volattach"
            && refused["info"]["metadata"]["volume_id"] == "v1",
        "{refused}"
    );
    ensure!(said["answers"][3] == json!({ "message": {} }), "{said}");
    guest::gone(&lab.node, "v1")
}
