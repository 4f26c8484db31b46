//! Every reason, as a caller meets it.

use std::io::Write;
use std::time::Duration;

use tempfile::NamedTempFile;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use volattach::api::status::code;
use volattach::api::v1;
use volattach::auth::{Keystone, PeerCredentials};
use volattach::config::Settings;
use volattach::libvirt::DomainEnd;
use volattach::model::{Dialect, ImageFormat, Reason};
use volattach::reconcile;
use volattach::sys::worker::PER_SERVER;

use crate::fakes::{Fault, Guest, World};
use crate::limits;
use crate::server::{
    Client, Server, attach, cancel, cinder, connect, detach, extend, forget, get, info, io_tune,
    soon,
};

/// How a reason reaches a caller.
enum Met {
    /// As a call's status.
    Status(Status),
    /// As an attachment's error.
    Attachment(Box<v1::Attachment>),
    /// Not at all.
    Never,
}

async fn refused(client: &mut Client, request: v1::AttachVolumeRequest) -> Met {
    Met::Status(client.attach_volume(request).await.unwrap_err())
}

async fn refused_info(client: &mut Client, json: &str) -> Met {
    let mut request = attach("a1");
    request.connection_info = info(json);
    refused(client, request).await
}

async fn refused_options(client: &mut Client, options: &str) -> Met {
    let json = serde_json::json!({ "driver_volume_type": "smbfs", "data": {
        "export": "//files/vols", "name": "v1", "options": options,
    }});
    refused_info(client, &json.to_string()).await
}

async fn refused_disk(client: &mut Client, disk: v1::DiskOptions) -> Met {
    let mut request = attach("a1");
    request.disk = Some(disk);
    refused(client, request).await
}

async fn attached(client: &mut Client, id: &str) -> v1::Attachment {
    let answer = client.attach_volume(attach(id)).await.unwrap();
    answer.into_inner().attachment.unwrap()
}

async fn detach_refused(client: &mut Client, id: &str) -> Met {
    Met::Status(client.detach_volume(detach(id)).await.unwrap_err())
}

async fn extend_refused(client: &mut Client, bytes: u64) -> Met {
    Met::Status(client.extend_volume(extend("a1", bytes)).await.unwrap_err())
}

/// Lets the reason happen. There is no other arm: a new reason does not compile until it is met here.
async fn meet(reason: Reason) -> Met {
    let server = Server::start().await;
    let mut client = server.client().await;
    let client = &mut client;
    let world = &server.world;
    match reason {
        Reason::InvalidRequest => refused(client, v1::AttachVolumeRequest::default()).await,
        Reason::InvalidConnectionInfo => refused_info(client, "{}").await,
        Reason::ProtocolUnsupported => {
            refused_info(client, r#"{"driver_volume_type":"rbd","data":{}}"#).await
        }
        Reason::MountOptionRefused => refused_options(client, "-o suid").await,
        Reason::MountOptionInvalid => refused_options(client, "-o vers=nine").await,
        Reason::CredentialsInvalid => {
            let long = format!("-o username=bob,password={}", "x".repeat(129));
            refused_options(client, &long).await
        }
        Reason::EncryptionUnsupported => {
            let json = cinder("v1").replace("\"name\"", "\"encrypted\":true,\"name\"");
            refused_info(client, &json).await
        }
        Reason::FormatUnsupported => {
            let json = cinder("v1").replace("\"name\"", "\"format\":\"vdi\",\"name\"");
            refused_info(client, &json).await
        }
        Reason::AttachmentConflict => {
            attached(client, "a1").await;
            let mut other = attach("a1");
            other.access = v1::Access::ReadOnly.into();
            refused(client, other).await
        }
        Reason::OperationInProgress => {
            world.gate.arm(0, Fault::Die);
            let mut first = client.clone();
            let first = tokio::spawn(async move { first.attach_volume(attach("a1")).await });
            soon(world.gate.died()).await;
            let met = refused(client, attach("a1")).await;
            first.abort();
            met
        }
        Reason::AttachmentNotFound => {
            Met::Status(client.get_attachment(get("a1")).await.unwrap_err())
        }
        Reason::AttachmentKind => {
            attached(client, "a1").await;
            let request = v1::DisconnectVolumeRequest {
                attachment_id: "a1".into(),
                force: false,
            };
            Met::Status(client.disconnect_volume(request).await.unwrap_err())
        }
        Reason::UndoFailed | Reason::CleanupRequired => {
            world.state().inspect_fails = Some(Reason::VolumeNotFound);
            world.state().disconnect_fails = Some(Reason::UnmountFailed);
            let first = refused(client, attach("a1")).await;
            match reason {
                Reason::UndoFailed => first,
                _ => refused(client, attach("a1")).await,
            }
        }
        Reason::VolumeInUse => {
            attached(client, "a1").await;
            let mut other = attach("a1");
            other.attachment_id = "a2".into();
            refused(client, other).await
        }
        Reason::ReadWriteRefused => {
            let mut request = attach("a1");
            request.access = v1::Access::ReadOnly.into();
            request.require_rw = true;
            refused(client, request).await
        }
        Reason::DomainNotFound => {
            let mut request = attach("a1");
            request.domain = "nobody".into();
            refused(client, request).await
        }
        Reason::DomainState => {
            world.state().running = false;
            refused(client, attach("a1")).await
        }
        Reason::RateLimited | Reason::TooManyCalls | Reason::TooManyWatches => {
            Met::Status(limits::met(reason).await)
        }
        Reason::TooMuchWork => Met::Status(limits::met_work().await),
        Reason::DeadlinePassed => Met::Status(limits::met_deadline().await),
        Reason::SelinuxBoolean => {
            world.state().shares_closed = true;
            // Nothing to a domain that is not confined.
            attached(client, "a1").await;
            client.detach_volume(detach("a1")).await.unwrap();
            world.state().confined = true;
            let plan = v1::PlanAttachRequest {
                request: Some(attach("a1")),
            };
            assert!(client.plan_attach(plan).await.is_err());
            // Nor to a connect, which is to no domain.
            client.connect_volume(connect("c1")).await.unwrap();
            // It comes before anything is connected.
            world.state().connect_fails = Some(Reason::Internal);
            refused(client, attach("a1")).await
        }
        Reason::TargetInUse => {
            let target = attached(client, "a1").await.target;
            let mut other = attach("a2");
            other.disk = Some(v1::DiskOptions {
                target,
                ..Default::default()
            });
            refused(client, other).await
        }
        Reason::DiskOptionInvalid => {
            let bus = v1::DiskOptions {
                bus: "ide".into(),
                ..Default::default()
            };
            refused_disk(client, bus).await
        }
        Reason::BusFull | Reason::HypervisorUnavailable | Reason::HypervisorError => {
            world.state().plug_fails = Some(reason);
            refused(client, attach("a1")).await
        }
        Reason::UnplugPending => {
            attached(client, "a1").await;
            world.state().guest = Guest::Ignores;
            detach_refused(client, "a1").await
        }
        Reason::UnplugRefused => {
            attached(client, "a1").await;
            world.state().guest = Guest::Refuses;
            detach_refused(client, "a1").await
        }
        Reason::DetachCancelled => cancelled_wait().await,
        Reason::BlockJobActive => {
            attached(client, "a1").await;
            world.state().unplug_fails = Some(reason);
            detach_refused(client, "a1").await
        }
        Reason::DiskLost => {
            attached(client, "a1").await;
            world.state().disks.clear();
            reconcile::once(&server.engine).await;
            let answer = client.get_attachment(get("a1")).await.unwrap();
            Met::Attachment(Box::new(answer.into_inner()))
        }
        Reason::DomainGone => {
            attached(client, "a1").await;
            world.stop(DomainEnd::Migrated);
            reconcile::once(&server.engine).await;
            let answer = client.get_attachment(get("a1")).await.unwrap();
            Met::Attachment(Box::new(answer.into_inner()))
        }
        Reason::VolumeNotGrown => {
            attached(client, "a1").await;
            extend_refused(client, 2 << 20).await
        }
        Reason::ShrinkRefused => {
            attached(client, "a1").await;
            extend_refused(client, 1).await
        }
        Reason::ResizeUnsupported => {
            // Its size stands in the image.
            world.state().format = ImageFormat::Vpc;
            client.connect_volume(connect("a1")).await.unwrap();
            extend_refused(client, 0).await
        }
        Reason::IoStopped => {
            attached(client, "a1").await;
            world.stop_io("ua-volattach-a1");
            reconcile::once(&server.engine).await;
            let answer = client.get_attachment(get("a1")).await.unwrap();
            Met::Attachment(Box::new(answer.into_inner()))
        }
        Reason::IoTuneUnsupported => {
            world.state().dialect = Dialect::Xen;
            attached(client, "a1").await;
            let request = io_tune("a1", v1::IoTune::default());
            Met::Status(client.set_io_tune(request).await.unwrap_err())
        }
        Reason::ServerQuarantined => {
            silence(client, world).await;
            refused(client, attach("a1")).await
        }
        Reason::WorkersStuck => {
            let mut entries = Vec::new();
            for _ in 0..PER_SERVER {
                let entry = world.workers.enter(&"files (smbfs)".into()).unwrap();
                entry.outlived();
                entries.push(entry);
            }
            attached(client, "a1").await;
            world.state().silent.insert("files".into());
            detach_refused(client, "a1").await
        }
        Reason::NameResolution
        | Reason::ServerUnreachable
        | Reason::ServerTimeout
        | Reason::ProtocolVersion
        | Reason::LogonFailure
        | Reason::ShareNotFound
        | Reason::MountFailed
        | Reason::LoginFailed
        | Reason::DeviceNotFound
        | Reason::DeviceIdentity
        | Reason::MultipathFailed
        | Reason::Internal => {
            world.state().connect_fails = Some(reason);
            refused(client, attach("a1")).await
        }
        Reason::VolumeNotFound
        | Reason::VolumePathUnsafe
        | Reason::VolumeNotRegular
        | Reason::VolumeUnreadable
        | Reason::ImageReferencesFile
        | Reason::ImageMalformed => {
            world.state().inspect_fails = Some(reason);
            refused(client, attach("a1")).await
        }
        Reason::UnmountFailed | Reason::DeviceBusy => {
            attached(client, "a1").await;
            world.state().disconnect_fails = Some(reason);
            detach_refused(client, "a1").await
        }
        Reason::PermissionDenied => {
            let stranger = PeerCredentials {
                uid: 4711,
                gid: 4711,
                groups: vec![],
                pid: None,
            };
            let server = Server::start_for_strangers(Some(stranger)).await;
            refused(&mut server.client().await, attach("a1")).await
        }
        Reason::Unauthenticated => {
            Met::Status(client.attach_volume(with_token()).await.unwrap_err())
        }
        Reason::IdentityUnavailable => {
            let (keystone, _password) = absent_keystone();
            let server = Server::start_with_keystone(keystone).await;
            let mut client = server.client().await;
            Met::Status(client.attach_volume(with_token()).await.unwrap_err())
        }
        Reason::ShuttingDown => {
            server.api.drain().await;
            refused(client, attach("a1")).await
        }
        Reason::ForgetRefused => {
            attached(client, "a1").await;
            Met::Status(
                client
                    .forget_attachment(forget("a1", true))
                    .await
                    .unwrap_err(),
            )
        }
        Reason::Forgotten => forgotten(client, world).await,
        Reason::WatchExpired => Met::Status(watch_from_elsewhere(client).await),
        Reason::JournalFailed => journal_failure().await,
        // A daemon with such a configuration serves no calls.
        Reason::ConfigurationInvalid => Met::Never,
    }
}

/// Has the server of `attach` fall silent, and lets two calls find that out.
pub(crate) async fn silence(client: &mut Client, world: &World) {
    world.state().silent.insert("files".into());
    for _ in 0..2 {
        let silent = client.attach_volume(attach("a0")).await.unwrap_err();
        let info = silent.get_details_error_info().unwrap();
        assert_eq!(info.reason, Reason::ServerTimeout.as_str());
    }
}

#[tokio::test]
async fn a_call_refused_for_a_silent_server_says_when_to_try_again() {
    let server = Server::start().await;
    let mut client = server.client().await;
    silence(&mut client, &server.world).await;
    let refused = client.attach_volume(attach("a1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let retry = refused.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
    for words in [
        "files (smbfs) has not answered since 2",
        "SERVER_TIMEOUT",
        "tried in 1 s",
    ] {
        assert!(refused.message().contains(words), "{refused:?}");
    }
    let shown = client.get_attachment(get("a1")).await.unwrap_err();
    assert_eq!(shown.code(), Code::NotFound, "nothing was begun");
}

fn with_token() -> tonic::Request<v1::AttachVolumeRequest> {
    let mut request = tonic::Request::new(attach("a1"));
    let token = "hunter2".parse().unwrap();
    request.metadata_mut().insert("x-auth-token", token);
    request
}

/// One where nobody listens, and the file with the agent's password.
fn absent_keystone() -> (Keystone, NamedTempFile) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut password = NamedTempFile::new().unwrap();
    password.write_all(b"hunter2\n").unwrap();
    let text = format!(
        "[keystone]\nurls = [{url:?}]\npassword_file = {:?}",
        password.path()
    );
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let settings = Settings::load(file.path()).unwrap().keystone.unwrap();
    (Keystone::new(&settings).unwrap(), password)
}

/// Fails each call into the world in turn, until the one that fails is the journal's.
async fn journal_failure() -> Met {
    for at in 0..20 {
        let server = Server::start().await;
        server.world.gate.arm(at, Fault::Fail);
        let error = server.client().await.attach_volume(attach("a1")).await;
        let struck = server.world.gate.disarm().unwrap_or_default();
        if struck.starts_with("journal.put") {
            return Met::Status(error.unwrap_err());
        }
    }
    Met::Never
}

/// Cancels a detach while its call waits for the guest.
async fn cancelled_wait() -> Met {
    for at in 0..20 {
        let server = Server::start().await;
        let mut client = server.client().await;
        attached(&mut client, "a1").await;
        server.world.state().guest = Guest::Ignores;
        server.world.gate.arm(at, Fault::Hold);
        let mut other = client.clone();
        let waiting = tokio::spawn(async move { detach_refused(&mut other, "a1").await });
        soon(server.world.gate.died()).await;
        if server.world.gate.disarm().as_deref() == Some("hypervisor.wait_unplugged Before") {
            let kept = client.cancel_detach(cancel("a1")).await.unwrap();
            let kept = kept.into_inner().attachment.unwrap();
            assert_eq!(kept.state(), v1::State::Attached);
            return soon(waiting).await.unwrap();
        }
        server.world.gate.release();
        soon(waiting).await.unwrap();
    }
    Met::Never
}

/// Watches an attachment that is forgotten.
async fn forgotten(client: &mut Client, world: &World) -> Met {
    attached(client, "a1").await;
    world.state().disconnect_fails = Some(Reason::UnmountFailed);
    client.detach_volume(detach("a1")).await.unwrap_err();
    let request = v1::WatchAttachmentsRequest::default();
    let mut changes = client
        .watch_attachments(request)
        .await
        .unwrap()
        .into_inner();
    client.forget_attachment(forget("a1", true)).await.unwrap();
    loop {
        let message = soon(changes.message()).await.unwrap().unwrap();
        let attachment = message.attachment;
        if let Some(gone) = attachment.filter(|it| it.state() == v1::State::Gone) {
            return Met::Attachment(Box::new(gone));
        }
    }
}

/// Watches from a revision of another daemon's life.
async fn watch_from_elsewhere(client: &mut Client) -> Status {
    let elsewhere = Server::start().await;
    let request = v1::WatchAttachmentsRequest::default();
    let watching = elsewhere.client().await.watch_attachments(request).await;
    let mut changes = watching.unwrap().into_inner();
    let listed = soon(changes.message()).await.unwrap().unwrap();
    let request = v1::WatchAttachmentsRequest {
        resume_after: listed.revision,
        ..Default::default()
    };
    client.watch_attachments(request).await.unwrap_err()
}

#[tokio::test]
async fn every_reason_reaches_the_caller_with_its_code() {
    let mut never = Vec::new();
    for reason in Reason::ALL {
        match meet(*reason).await {
            Met::Status(status) => {
                let shown = format!("{reason}: {status:?}");
                let info = status.get_details_error_info().expect(&shown);
                assert_eq!(info.reason, reason.as_str(), "{shown}");
                assert_eq!(info.domain, "volattach", "{shown}");
                assert_eq!(status.code(), code(*reason), "{shown}");
                assert!(!status.message().is_empty(), "{shown}");
                assert!(!shown.contains("hunter2"), "{shown}");
            }
            Met::Attachment(attachment) => {
                assert_eq!(attachment.error_reason, reason.as_str());
                assert!(!attachment.error.is_empty(), "{reason}");
            }
            Met::Never => never.push(*reason),
        }
    }
    assert_eq!(never, [Reason::ConfigurationInvalid]);
}

#[tokio::test]
async fn an_error_tells_what_it_is_about() {
    let server = Server::start().await;
    server.world.state().inspect_fails = Some(Reason::VolumeNotFound);
    let error = server.client().await.attach_volume(attach("a1")).await;
    let error = error.unwrap_err();
    let info = error.get_details_error_info().unwrap();
    assert_eq!(info.metadata["attachment_id"], "a1");
    assert_eq!(info.metadata["volume_id"], "v-a1");
    assert_eq!(info.metadata["domain"], "web");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_by_grpc_itself() {
    let server = Server::start().await;
    let mut request = attach("a1");
    request.connection_info = info(&"x".repeat(1024 * 1024));
    let error = server.client().await.attach_volume(request).await;
    assert_eq!(error.unwrap_err().code(), Code::OutOfRange);
}
