//! What surrounds the calls: who may call, health, reflection, the end of the daemon.

use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::{v1 as reflection, v1alpha};
use tonic_types::StatusExt;
use volattach::api::{SERVICE_NAME, v1};
use volattach::auth::PeerCredentials;

use crate::fakes::Fault;
use crate::server::{Client, Server, attach, cancel, channel, connect, detach, extend, get, soon};

/// The status of every call, made with whatever request. A call that is missing here fails the test below.
async fn all_calls(client: &mut Client) -> Vec<(&'static str, Code)> {
    macro_rules! codes {
        ($($name:literal: $call:ident($request:expr),)*) => {
            vec![$((
                $name,
                client.$call($request).await.err().map_or(Code::Ok, |status| status.code()),
            ),)*]
        };
    }
    codes! {
        "AttachVolume": attach_volume(attach("a1")),
        "DetachVolume": detach_volume(detach("a1")),
        "CancelDetach": cancel_detach(cancel("a1")),
        "ConnectVolume": connect_volume(connect("c1")),
        "DisconnectVolume": disconnect_volume(v1::DisconnectVolumeRequest::default()),
        "GetAttachment": get_attachment(get("a1")),
        "ListAttachments": list_attachments(v1::ListAttachmentsRequest::default()),
        "WatchAttachments": watch_attachments(v1::WatchAttachmentsRequest::default()),
        "PlanAttach": plan_attach(v1::PlanAttachRequest::default()),
        "GetConnector": get_connector(v1::GetConnectorRequest {}),
        "ExtendVolume": extend_volume(extend("a1", 0)),
        "SetIoTune": set_io_tune(v1::SetIoTuneRequest::default()),
        "GetAttachmentStats": get_attachment_stats(v1::GetAttachmentStatsRequest::default()),
        "GetVolumePermissions": get_volume_permissions(v1::GetVolumePermissionsRequest::default()),
        "SetVolumePermissions": set_volume_permissions(v1::SetVolumePermissionsRequest::default()),
        "Diagnose": diagnose(v1::DiagnoseRequest {}),
        "ForgetAttachment": forget_attachment(v1::ForgetAttachmentRequest::default()),
    }
}

fn methods_of_the_proto() -> Vec<String> {
    use prost::Message;
    let set = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| &service.method);
    methods.map(|method| method.name().to_owned()).collect()
}

#[tokio::test]
async fn a_stranger_may_call_nothing() {
    let stranger = PeerCredentials {
        uid: 4711,
        gid: 4711,
        groups: vec![4712],
        pid: None,
    };
    let refused = Code::PermissionDenied;
    for (peer, expected) in [(Some(stranger), refused), (None, Code::Unauthenticated)] {
        let server = Server::start_for_strangers(peer).await;
        let answers = all_calls(&mut server.client().await).await;
        let names: Vec<_> = answers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, methods_of_the_proto());
        for (name, code) in answers {
            assert_eq!(code, expected, "{name}");
        }
        assert!(server.world.records().is_empty());
    }
}

#[tokio::test]
async fn a_connection_that_the_daemon_accepts_knows_its_peer() {
    let server = Server::start().await;
    let (socket, serving) = server.also_listen().await;
    let mut client = Client::new(channel(socket).await);
    client
        .get_connector(v1::GetConnectorRequest {})
        .await
        .unwrap();
    serving.abort();
}

async fn health(server: &Server, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(server.channel().await)
        .check(request)
        .await;
    let answer: HealthCheckResponse = answer.unwrap().into_inner();
    answer.status()
}

#[tokio::test]
async fn health_follows_the_drain() {
    let server = Server::start().await;
    for service in ["", SERVICE_NAME] {
        assert_eq!(health(&server, service).await, ServingStatus::Serving);
    }
    server.api.drain().await;
    for service in ["", SERVICE_NAME] {
        assert_eq!(health(&server, service).await, ServingStatus::NotServing);
    }
}

#[tokio::test]
async fn a_drain_ends_watches_and_new_calls_but_not_those_under_way() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request = v1::WatchAttachmentsRequest::default();
    let mut changes = client
        .watch_attachments(request)
        .await
        .unwrap()
        .into_inner();
    let listed = soon(changes.message()).await.unwrap().unwrap();
    assert_eq!(listed.attachment, None);

    // A call that stands still in the world is under way while the drain begins.
    server.world.gate.arm(0, Fault::Die);
    let mut other = client.clone();
    let under_way = tokio::spawn(async move { other.attach_volume(attach("a1")).await });
    soon(server.world.gate.died()).await;
    server.api.drain().await;

    let end = soon(changes.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(
        end.get_details_error_info().unwrap().reason,
        "SHUTTING_DOWN"
    );
    for (name, code) in all_calls(&mut client).await {
        assert_eq!(code, Code::Unavailable, "{name}");
    }
    assert!(!under_way.is_finished());
    under_way.abort();
}

#[tokio::test]
async fn reflection_lists_the_services_and_knows_the_proto() {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    let server = Server::start().await;
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let ask = |message| reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "volattach.v1.VolumeAttach".into(),
        )),
        ask(MessageRequest::FileByFilename(
            "google/protobuf/timestamp.proto".into(),
        )),
    ]);
    let answers = client.server_reflection_info(requests).await.unwrap();
    let mut answers = answers.into_inner();
    let mut next = async || {
        let answer = soon(answers.message()).await.unwrap().unwrap();
        answer.message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(services) = next().await else {
        panic!("no list of services");
    };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    for name in [
        SERVICE_NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    for _ in 0..2 {
        let answer = next().await;
        assert!(
            matches!(answer, MessageResponse::FileDescriptorResponse(_)),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn reflection_answers_older_clients_too() {
    use v1alpha::server_reflection_request::MessageRequest;
    let server = Server::start().await;
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = soon(answers.unwrap().into_inner().message()).await;
    assert!(answer.unwrap().is_some());
}
