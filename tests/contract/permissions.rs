//! Who may use a volume, as callers ask, are answered, and set it.

use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;
use volattach::api::v1;
use volattach::model::VolumeOwner;

use crate::cli::{failure, json as shown};
use crate::fakes::{self, admit, local_peer};
use crate::server::{Client, Server, attach, connect, soon};

/// What the control plane says of a volume of Alice's.
fn facts(permissions: &str) -> v1::VolumeFacts {
    v1::VolumeFacts {
        project_id: "p1".into(),
        user_id: "alice".into(),
        group_id: "g1".into(),
        permissions: permissions.into(),
        service_owned: true,
        attached: Vec::new(),
    }
}

fn owner() -> v1::VolumeOwner {
    v1::VolumeOwner {
        project_id: "p1".into(),
        user_id: "alice".into(),
        group_id: "g1".into(),
        service_owned: true,
    }
}

/// A user of this host, other than whoever runs this.
const OTHER: u32 = 4242;

/// Another user has the volume `v-ID` read-write.
async fn other_writes(server: &Server, id: &str) {
    let info = fakes::smb(id);
    let request = fakes::connect("other", &format!("v-{id}"), info);
    let request = admit(local_peer(OTHER), VolumeOwner::default(), request);
    server.engine.connect(request).await.unwrap();
}

async fn connected(client: &mut Client, request: v1::ConnectVolumeRequest) -> v1::Attachment {
    let answer = client.connect_volume(request).await.unwrap();
    answer.into_inner().attachment.unwrap()
}

async fn set(client: &mut Client, volume: &str, permissions: &str) -> v1::VolumePermissions {
    let request = v1::SetVolumePermissionsRequest {
        volume_id: volume.into(),
        permissions: permissions.into(),
    };
    let answer = client.set_volume_permissions(request).await;
    answer.unwrap().into_inner()
}

async fn known(client: &mut Client, volume: &str) -> v1::VolumePermissions {
    let request = v1::GetVolumePermissionsRequest {
        volume_id: volume.into(),
    };
    let answer = client.get_volume_permissions(request).await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn an_attachment_tells_for_whom_it_is_and_what_it_was_decided_by() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = connect("c1");
    request.volume = Some(facts("664"));
    let made = connected(&mut client, request).await;
    assert_eq!(made.permissions, "664");
    assert_eq!(made.owner, Some(owner()));
    assert_eq!(made.user_id, format!("uid:{}", nix::unistd::geteuid()));
    assert_eq!(made.access(), v1::Access::ReadOnly);
    assert_eq!(
        made.access_reason,
        "the volume's permissions 664 do not let others write"
    );
    let told = known(&mut client, "v-c1").await;
    assert_eq!(told.permissions, "664");
    assert_eq!(told.source(), v1::PermissionsSource::Told);
    assert_eq!((told.owner, told.set_at), (Some(owner()), None));

    let unsaid = connected(&mut client, connect("c2")).await;
    assert_eq!((unsaid.permissions.as_str(), unsaid.owner), ("", None));
    let unknown = known(&mut client, "v-c2").await;
    assert_eq!(unknown.source(), v1::PermissionsSource::Unspecified);
}

#[tokio::test]
async fn permissions_are_set_and_forgotten() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let answer = set(&mut client, "v-c1", "444").await;
    assert_eq!(answer.volume_id, "v-c1");
    assert_eq!(answer.permissions, "444");
    assert_eq!(answer.source(), v1::PermissionsSource::Set);
    assert!(answer.set_by_user_id.starts_with("uid:") && answer.set_at.is_some());
    assert_eq!(known(&mut client, "v-c1").await, answer);
    let mut request = connect("c1");
    request.volume = Some(facts("666"));
    let made = connected(&mut client, request.clone()).await;
    assert!(server.world.records()[0].rights.set_here);
    assert_eq!(made.permissions, "444");
    assert_eq!(made.access(), v1::Access::ReadOnly);
    let forgotten = set(&mut client, "v-c1", "").await;
    assert_eq!(forgotten.permissions, "");
    assert_eq!(forgotten.source(), v1::PermissionsSource::Unspecified);

    let again = connected(&mut client, request.clone()).await;
    assert_eq!(again, made, "what is attached stays as it is");
    let request_of_before = v1::DisconnectVolumeRequest {
        attachment_id: "c1".into(),
        force: false,
    };
    client.disconnect_volume(request_of_before).await.unwrap();
    request.require_rw = true;
    request.boot = true;
    let error = client.connect_volume(request.clone()).await.unwrap_err();
    let info = error.get_details_error_info().unwrap();
    assert_eq!(info.reason, "PERMISSION_DENIED", "666 boots nobody");
    request.boot = false;
    let made = connected(&mut client, request).await;
    assert_eq!(made.access(), v1::Access::ReadWrite);
}

#[tokio::test]
async fn a_use_that_is_told_counts() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = attach("a1");
    let mut said = facts("");
    said.attached = vec![v1::VolumeUse {
        user_id: "bob".into(),
        access: v1::Access::ReadWrite.into(),
    }];
    request.volume = Some(said);
    let answer = client.attach_volume(request).await.unwrap().into_inner();
    let made = answer.attachment.unwrap();
    assert_eq!(
        made.access_reason,
        "user bob has the volume attached read-write"
    );
}

#[tokio::test]
async fn what_is_said_of_a_volume_is_checked() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let one_use = |user: &str, access| v1::VolumeUse {
        user_id: user.into(),
        access,
    };
    let rw = i32::from(v1::Access::ReadWrite);
    type Spoil = fn(&mut v1::VolumeFacts);
    let wrong: [(&str, Spoil); 5] = [
        ("volume.permissions", |said| {
            said.permissions = "0640".into()
        }),
        ("volume.user_id", |said| said.user_id = "a\nb".into()),
        ("volume.project_id", |said| said.project_id = "\0".into()),
        ("volume.group_id", |said| said.group_id = "x".repeat(256)),
        ("volume.attached", |said| {
            said.attached = vec![v1::VolumeUse::default(); 1025];
        }),
    ];
    let mut requests: Vec<_> = wrong
        .iter()
        .map(|(field, spoil)| {
            let mut said = facts("640");
            spoil(&mut said);
            (*field, said)
        })
        .collect();
    for (field, one) in [
        ("volume.attached.access", one_use("bob", 0)),
        ("volume.attached.access", one_use("bob", 9)),
        ("volume.attached.user_id", one_use("\u{7f}", rw)),
    ] {
        let mut said = facts("640");
        said.attached = vec![one];
        requests.push((field, said));
    }
    for (field, said) in requests {
        let mut request = connect("c1");
        request.volume = Some(said);
        let error = client.connect_volume(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{field}: {error:?}");
        assert!(error.message().contains(field), "{field}: {error:?}");
    }
    for (volume, permissions) in [("", "640"), ("v 1", "640"), ("v1", "rw-"), ("v1", "06400")] {
        let request = v1::SetVolumePermissionsRequest {
            volume_id: volume.into(),
            permissions: permissions.into(),
        };
        let error = client.set_volume_permissions(request).await.unwrap_err();
        assert_eq!(
            error.code(),
            Code::InvalidArgument,
            "{volume} {permissions}"
        );
    }
    assert!(server.world.records().is_empty() && server.world.state().permissions.is_empty());
}

#[tokio::test]
async fn force_is_for_what_cannot_be_flushed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    connected(&mut client, connect("c1")).await;
    server.world.state().flush_fails = true;
    let detach = |force| v1::DetachVolumeRequest {
        attachment_id: "a1".into(),
        force,
    };
    let disconnect = |force| v1::DisconnectVolumeRequest {
        attachment_id: "c1".into(),
        force,
    };
    // The mount goes with the last of the two.
    client.detach_volume(detach(false)).await.unwrap();
    let error = client
        .disconnect_volume(disconnect(false))
        .await
        .unwrap_err();
    assert_eq!(
        error.get_details_error_info().unwrap().reason,
        "DEVICE_BUSY"
    );
    client.disconnect_volume(disconnect(true)).await.unwrap();
    client.attach_volume(attach("a1")).await.unwrap();
    client.detach_volume(detach(false)).await.unwrap_err();
    assert_eq!(
        shown(&server, &["detach", "a1", "--force"]).await["detached"],
        true
    );
    assert!(server.world.records().is_empty());
}

#[tokio::test]
async fn the_command_line_says_and_shows_who_may() {
    let server = Server::start().await;
    let volume = "v-c1";
    other_writes(&server, "c1").await;
    let connect = [
        "connect",
        "--id",
        "c1",
        "--volume",
        volume,
        "--connection-info",
        "-",
        "--project",
        "p1",
        "--user",
        "alice",
        "--group",
        "g1",
        "--permissions",
        "666",
        "--service-owned",
    ];
    // On Xen, nobody reads beside a writer.
    if crate::DIALECT == volattach::model::Dialect::Xen {
        let refused = failure(&server, &connect).await;
        assert_eq!(refused, (4, "VOLUME_IN_USE".to_owned()));
        return;
    }
    let refused = failure(&server, &[&connect[..], &["--require-rw"]].concat()).await;
    assert_eq!(refused, (8, "READ_WRITE_REFUSED".to_owned()));
    let refused = failure(&server, &[&connect[..], &["--boot"]].concat()).await;
    assert_eq!(refused, (8, "PERMISSION_DENIED".to_owned()));
    let made = shown(&server, &connect).await;
    assert_eq!(made["access"], "ro");
    assert_eq!(made["permissions"], "666");
    let owner = json!({
        "project_id": "p1", "user_id": "alice", "group_id": "g1", "service_owned": true,
    });
    assert_eq!(made["owner"], owner);
    assert_eq!(made["project_id"], Value::Null);
    assert_eq!(
        made["access_reason"],
        "user uid:4242 has the volume attached read-write"
    );

    let told = shown(&server, &["permissions", volume]).await;
    assert_eq!(
        told,
        json!({
            "volume_id": volume, "permissions": "666", "source": "told", "owner": owner, "set": null,
        })
    );
    let set = shown(&server, &["permissions", volume, "640"]).await;
    assert_eq!(
        (&set["permissions"], &set["source"]),
        (&json!("640"), &json!("set"))
    );
    assert_eq!(set["set"]["user_id"], made["user_id"]);
    assert_eq!(set["owner"], owner);
    let none = shown(&server, &["permissions", volume, "none"]).await;
    assert_eq!(none["source"], "told");

    let plan = [
        "plan",
        "--domain",
        "web",
        "--connection-info",
        "-",
        "--permissions",
        "640",
        "--group",
        "g1",
    ];
    let refused = failure(&server, &plan).await;
    assert_eq!(refused, (8, "PERMISSION_DENIED".to_owned()));
    let plan = shown(&server, &[&plan[..5], &["--permissions", "644"]].concat()).await;
    assert_eq!(
        (&plan["access"], &plan["permissions"]),
        (&json!("ro"), &json!("644"))
    );
}

#[tokio::test]
async fn tokens_come_from_files_that_nobody_else_reads() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start().await;
    let file = server.socket.with_extension("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    for option in ["--token-file", "--service-token-file"] {
        for (mode, expected) in [
            // It is sent: this server knows no Keystone, and takes nobody with a token for a local peer.
            (0o600, (8, "UNAUTHENTICATED")),
            (0o644, (1, "LOCAL_ERROR")),
        ] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, mode).unwrap();
            for command in ["list", "watch"] {
                let arguments = [command, option, file.to_str().unwrap()];
                let (code, reason) = soon(failure(&server, &arguments)).await;
                assert_eq!((code, reason.as_str()), expected, "{command} {option}");
            }
        }
    }
}
