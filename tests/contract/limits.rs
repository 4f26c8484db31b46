//! What a caller may ask for, and what it is told that asks for more.

use std::time::Duration;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use volattach::api::v1;
use volattach::config::{Limits, Settings};
use volattach::model::{Reason, WorkLimits};

use crate::fakes::Fault;
use crate::server::{Client, Server, attach, channel, detach, get, info, soon};

fn limits() -> Limits {
    Settings::built_in().limits
}

async fn list(client: &mut Client) -> Result<(), Status> {
    let request = v1::ListAttachmentsRequest::default();
    client.list_attachments(request).await.map(drop)
}

async fn watch(
    client: &mut Client,
) -> Result<tonic::Streaming<v1::WatchAttachmentsResponse>, Status> {
    let request = v1::WatchAttachmentsRequest::default();
    let watching = client.watch_attachments(request).await;
    watching.map(tonic::Response::into_inner)
}

/// A server of one turn for each storage server, which a call has whose storage server does not answer.
async fn busy() -> Server {
    let server = Server::start_with(Limits {
        calls_per_second: 1_000_000,
        burst: 1_000_000,
        work: WorkLimits {
            per_server: 1,
            ..limits().work
        },
        ..limits()
    })
    .await;
    server.world.state().mute.insert("files".into());
    let mut client = server.client().await;
    tokio::spawn(async move { client.attach_volume(attach("busy")).await });
    asked(&server, 1).await;
    server
}

/// Waits until storage servers that do not answer were asked so often.
async fn asked(server: &Server, times: usize) {
    soon(async {
        while server.world.state().kept_waiting < times {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// An attach of a caller who waits so long.
fn attach_within(id: &str, time: Duration) -> tonic::Request<v1::AttachVolumeRequest> {
    let mut request = tonic::Request::new(attach(id));
    request.set_timeout(time);
    request
}

/// The status of a call that is one too many for its storage server.
pub(crate) async fn met_work() -> Status {
    let server = busy().await;
    let client = server.client().await;
    let call = |id: &'static str| {
        let mut client = client.clone();
        Box::pin(async move { client.attach_volume(attach(id)).await })
    };
    // Two wait, and the third is answered.
    let calls = ["a1", "a2", "a3"].map(call);
    let (refused, _, _) = soon(futures::future::select_all(calls)).await;
    refused.unwrap_err()
}

/// The status of a call whose deadline passes while it waits.
pub(crate) async fn met_deadline() -> Status {
    let server = busy().await;
    let mut client = server.client().await;
    list(&mut client).await.unwrap();
    tokio::time::pause();
    let late = client.attach_volume(attach_within("a1", Duration::from_secs(10)));
    let late = late.await.unwrap_err();
    tokio::time::resume();
    late
}

/// Calls whose callers give up soon leave no more work behind than may be under way, and a call's deadline goes with it.
#[tokio::test]
async fn who_gives_up_leaves_bounded_work_behind() {
    let server = busy().await;
    let mut client = server.client().await;
    for number in 0..20 {
        let request = attach_within(&format!("a{number}"), Duration::from_millis(50));
        let late = client.attach_volume(request).await.unwrap_err();
        let codes = [Code::DeadlineExceeded, Code::Cancelled];
        assert!(codes.contains(&late.code()), "{late:?}");
    }
    assert_eq!(server.world.records().len(), 1);
    server.world.answer();
    soon(async {
        // ABORTED as long as the attach is under way.
        while client.detach_volume(detach("busy")).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut later = server.client().await;
    later.attach_volume(attach("later")).await.unwrap();
    assert_eq!(server.world.records().len(), 1);
}

#[tokio::test]
async fn a_deadline_goes_with_its_call() {
    let server = Server::start().await;
    server.world.state().mute.insert("files".into());
    let mut client = server.client().await;
    // A slow machine may need more than one call to come so far.
    let mut calls = 0;
    while server.world.state().kept_waiting == 0 {
        calls += 1;
        let request = attach_within(&format!("a{calls}"), Duration::from_millis(300));
        client.attach_volume(request).await.unwrap_err();
    }
    server.world.answer();
    soon(async {
        while !server.world.records().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.world.state().plugs, 0, "the guest saw the disk");
}

/// Work is counted as work, and not among the calls of its caller besides: who waits for a dead storage server may still ask.
#[tokio::test]
async fn work_takes_no_part_of_the_calls() {
    let server = Server::start_with(Limits {
        calls: 1,
        ..limits()
    })
    .await;
    server.world.state().mute.insert("files".into());
    let mut client = server.client().await;
    let mut stuck = client.clone();
    let stuck = tokio::spawn(async move { stuck.attach_volume(attach("a1")).await });
    asked(&server, 1).await;
    list(&mut client).await.unwrap();
    client.get_attachment(get("a1")).await.unwrap();
    server.world.answer();
    stuck.await.unwrap().unwrap();
}

/// The status of a caller who is over a limit.
pub(crate) async fn met(reason: Reason) -> Status {
    let server = Server::start_with(Limits {
        calls_per_second: 1,
        burst: 3,
        calls: 1,
        watches: 1,
        ..limits()
    })
    .await;
    let mut client = server.client().await;
    match reason {
        Reason::TooManyCalls => {
            server.world.gate.arm(0, Fault::Die);
            let plan = v1::PlanAttachRequest {
                request: Some(attach("a1")),
            };
            let mut first = client.clone();
            let first = tokio::spawn(async move { first.plan_attach(plan).await });
            soon(server.world.gate.died()).await;
            let refused = list(&mut client).await.unwrap_err();
            first.abort();
            refused
        }
        Reason::TooManyWatches => {
            let _watching = watch(&mut client).await.unwrap();
            watch(&mut client).await.unwrap_err()
        }
        _ => loop {
            // The bucket fills while it is emptied; never as fast as this.
            if let Err(refused) = list(&mut client).await {
                return refused;
            }
        },
    }
}

#[tokio::test]
async fn who_is_over_a_limit_is_told_when_to_try_again() {
    for reason in [
        Reason::RateLimited,
        Reason::TooManyCalls,
        Reason::TooManyWatches,
        Reason::TooMuchWork,
    ] {
        let status = match reason {
            Reason::TooMuchWork => met_work().await,
            reason => met(reason).await,
        };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, reason.as_str());
        let after = details.retry_info().unwrap().retry_delay.unwrap();
        assert!(
            after > Duration::ZERO && after <= Duration::from_secs(1),
            "{after:?}"
        );
    }
}

/// What was counted is counted no more when it ends: by an answer, by an error, by a caller who goes away.
#[tokio::test]
async fn what_ends_counts_no_more() {
    let server = Server::start_with(Limits {
        burst: 1000,
        calls: 1,
        watches: 1,
        ..limits()
    })
    .await;
    let mut client = server.client().await;
    for _ in 0..3 {
        list(&mut client).await.unwrap();
        client.get_attachment(get("absent")).await.unwrap_err();
        drop(watch(&mut client).await.unwrap());
        // The server learns of it when the next frame comes.
        soon(async {
            while watch(&mut client).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Connections are closed that are more than one user's share; one that ends makes room.
#[tokio::test]
async fn a_user_has_so_many_connections() {
    let server = Server::start_with(Limits {
        connections_per_user: 2,
        ..limits()
    })
    .await;
    let first = channel(server.socket.clone()).await;
    let second = channel(server.socket.clone()).await;
    for held in [&first, &second] {
        list(&mut Client::new(held.clone())).await.unwrap();
    }
    let mut third = UnixStream::connect(&server.socket).await.unwrap();
    let mut said = Vec::new();
    // Closed: by an end or a reset.
    let _ = soon(third.read_to_end(&mut said)).await;
    assert!(said.is_empty());
    drop(first);
    soon(async {
        loop {
            let mut stream = UnixStream::connect(&server.socket).await.unwrap();
            let mut byte = [0];
            let greeted = async {
                stream.write_all(PREFACE).await?;
                stream.read(&mut byte).await
            };
            if matches!(greeted.await, Ok(1)) {
                break;
            }
        }
    })
    .await;
}

/// What a client of HTTP/2 sends first: the preface, and an empty SETTINGS frame (RFC 9113 3.4, 6.5).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A peer that began well and then never answers is asked for a sign of life, and let go.
#[tokio::test(start_paused = true)]
async fn a_dead_connection_goes_away() {
    let server = Server::start().await;
    let mut dead = UnixStream::connect(&server.socket).await.unwrap();
    dead.write_all(PREFACE).await.unwrap();
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(600), dead.read_to_end(&mut said)).await;
    assert!(end.is_ok(), "still open");
    // A PING came before (RFC 9113 6.7): length 8, type 6.
    assert!(
        said.windows(4).any(|frame| frame == [0, 0, 8, 6]),
        "{said:?}"
    );
}

/// So many calls on one connection: the others wait at the client's, as it was told (RFC 9113 5.1.2).
#[tokio::test]
async fn a_connection_has_so_many_streams() {
    let server = Server::start_with(Limits {
        streams: 7,
        ..limits()
    })
    .await;
    let mut stream = UnixStream::connect(&server.socket).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut said = [0; 256];
    let length = soon(stream.read(&mut said)).await.unwrap();
    // SETTINGS_MAX_CONCURRENT_STREAMS (3) and SETTINGS_MAX_HEADER_LIST_SIZE (6), RFC 9113 6.5.2.
    for setting in [[0, 3, 0, 0, 0, 7], [0, 6, 0, 0, 0x40, 0]] {
        let told = said[..length].windows(6).any(|bytes| bytes == setting);
        assert!(told, "{setting:?} in {:?}", &said[..length]);
    }
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused_and_the_next_call_is_served() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = tonic::Request::new(v1::ListAttachmentsRequest::default());
    let token = "x".repeat(64 * 1024).parse().unwrap();
    request.metadata_mut().insert("x-auth-token", token);
    assert!(client.list_attachments(request).await.is_err());
    list(&mut server.client().await).await.unwrap();
}

/// The messages of the proto.
fn messages() -> Vec<DescriptorProto> {
    let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    // The entries of a map are a message within the one that has it.
    set.file
        .into_iter()
        .flat_map(|file| file.message_type)
        .flat_map(|message| {
            let within = message.nested_type.clone();
            within.into_iter().chain([message])
        })
        .collect()
}

fn message<'a>(all: &'a [DescriptorProto], name: &str) -> &'a DescriptorProto {
    let name = name.rsplit('.').next().unwrap();
    all.iter().find(|message| message.name() == name).unwrap()
}

/// A field of type bytes (protobuf's wire type 2).
fn field(number: i32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(
        number.try_into().unwrap(),
        prost::encoding::WireType::LengthDelimited,
        &mut bytes,
    );
    prost::encoding::encode_varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

/// What makes a field too long: its name, and bytes that, put behind a request, replace or extend that one field.
fn excesses(all: &[DescriptorProto], of: &DescriptorProto, at: &str) -> Vec<(String, Vec<u8>)> {
    let inside = |field: &FieldDescriptorProto| format!("{at}{}", field.name());
    let mut found = Vec::new();
    for part in &of.field {
        let name = inside(part);
        let nested = || message(all, part.type_name());
        match (part.r#type(), part.label()) {
            (Type::String | Type::Bytes, Label::Repeated) => {
                let many = field(part.number(), b"x").repeat(10_000);
                found.push((format!("{name}, many"), many));
                let long = field(part.number(), "x".repeat(900_000).as_bytes());
                found.push((name, long));
            }
            (Type::String | Type::Bytes, _) => {
                let long = field(part.number(), "x".repeat(900_000).as_bytes());
                found.push((name, long));
            }
            (Type::Message, Label::Repeated) => {
                found.push((format!("{name}, many"), many(part, nested())));
                for (name, inner) in excesses(all, nested(), &format!("{name}.")) {
                    found.push((name, field(part.number(), &inner)));
                }
            }
            (Type::Message, _) => {
                for (name, inner) in excesses(all, nested(), &format!("{name}.")) {
                    found.push((name, field(part.number(), &inner)));
                }
            }
            _ => {}
        }
    }
    found
}

/// Ten thousand different entries that are each valid.
fn many(list: &FieldDescriptorProto, of: &DescriptorProto) -> Vec<u8> {
    let number = |name: &str| {
        let found = of.field.iter().find(|field| field.name() == name);
        found.unwrap().number()
    };
    let entry = |index: u32| {
        let (high, low) = (index / 250, index % 250 + 1);
        match of.name() {
            "IscsiPath" => [
                field(
                    number("portal"),
                    format!("10.0.{high}.{low}:3260").as_bytes(),
                ),
                field(number("target"), b"iqn.2010-10.org.openstack:v"),
            ]
            .concat(),
            "NvmePortal" => {
                let address = field(number("address"), format!("10.0.{high}.{low}").as_bytes());
                let mut port = Vec::new();
                let number = number("port").try_into().unwrap();
                prost::encoding::uint32::encode(number, &4420, &mut port);
                [address, port].concat()
            }
            "VolumeUse" => {
                let user = field(number("user_id"), format!("user-{index}").as_bytes());
                let mut access = Vec::new();
                let number = number("access").try_into().unwrap();
                prost::encoding::int32::encode(number, &1, &mut access);
                [user, access].concat()
            }
            "SpecsEntry" => {
                let key = field(number("key"), format!("spec-{index}").as_bytes());
                [key, field(number("value"), b"1")].concat()
            }
            other => panic!("what is a valid {other}?"),
        }
    };
    (0..10_000)
        .flat_map(|index| field(list.number(), &entry(index)))
        .collect()
}

/// A valid request with each form of connection info, under its name in the proto.
fn forms() -> Vec<(&'static str, v1::AttachVolumeRequest)> {
    use v1::connection_info::Form;
    let with = |form| v1::AttachVolumeRequest {
        connection_info: Some(v1::ConnectionInfo { form: Some(form) }),
        ..attach("a1")
    };
    let smb = v1::SmbVolume {
        export: "//files/vols".into(),
        name: "v1".into(),
        ..Default::default()
    };
    let nfs = v1::NfsVolume {
        export: "files:/vols".into(),
        name: "v1".into(),
        ..Default::default()
    };
    let local = v1::LocalVolume {
        device_path: "/volumes/v1".into(),
        ..Default::default()
    };
    let iscsi = v1::IscsiVolume {
        paths: vec![v1::IscsiPath {
            portal: "10.0.0.1:3260".into(),
            target: "iqn.2010-10.org.openstack:v".into(),
            lun: 1,
        }],
        ..Default::default()
    };
    let nvme = v1::NvmeVolume {
        nqn: "nqn.2014-08.org.nvmexpress:v".into(),
        portals: vec![v1::NvmePortal {
            address: "10.0.0.1".into(),
            port: 4420,
        }],
        nsid: 1,
        ..Default::default()
    };
    vec![
        ("cinder_json", attach("a1")),
        ("smb", with(Form::Smb(smb))),
        ("nfs", with(Form::Nfs(nfs))),
        ("local", with(Form::Local(local))),
        ("iscsi", with(Form::Iscsi(iscsi))),
        ("nvme", with(Form::Nvme(nvme))),
    ]
}

/// No field of a request may be as long as the message: each is refused by its own limit, a new one of the proto included.
#[tokio::test]
async fn every_field_has_a_limit() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let all = messages();
    let mut tried = 0;
    for (form, base) in forms() {
        let plan = |request| v1::PlanAttachRequest {
            request: Some(request),
        };
        client.plan_attach(plan(base.clone())).await.expect(form);
        for (name, more) in excesses(&all, message(&all, "AttachVolumeRequest"), "") {
            // Of the forms only the request's own: another would replace it.
            let other = name.strip_prefix("connection_info.");
            let own = |name: &str| name.split(['.', ',']).next() == Some(form);
            if other.is_some_and(|name| !own(name)) {
                continue;
            }
            let bytes = [base.encode_to_vec(), more].concat();
            let request = v1::AttachVolumeRequest::decode(bytes.as_slice()).unwrap();
            let refused = client.plan_attach(plan(request)).await;
            let code = refused.as_ref().map_or_else(Status::code, |_| Code::Ok);
            assert_eq!(code, Code::InvalidArgument, "{name}: {:?}", refused.err());
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
    let mut left: Vec<&str> = all.iter().map(|message| message.name()).collect();
    left.retain(|name| name.ends_with("Request"));
    macro_rules! others {
        ($($call:ident($request:ident $base:tt),)*) => {$(
            left.retain(|name| *name != stringify!($request));
            let base = v1::$request $base.encode_to_vec();
            for (name, more) in excesses(&all, message(&all, stringify!($request)), "") {
                let bytes = [base.as_slice(), &more].concat();
                let request = v1::$request::decode(bytes.as_slice()).unwrap();
                let refused = client.$call(request).await;
                let code = refused.as_ref().map_or_else(Status::code, |_| Code::Ok);
                assert_eq!(code, Code::InvalidArgument, "{}: {name}", stringify!($request));
            }
        )*};
    }
    others! {
        connect_volume(ConnectVolumeRequest {
            attachment_id: "a1".into(), volume_id: "v1".into(), connection_info: attach("a1").connection_info, ..Default::default()
        }),
        detach_volume(DetachVolumeRequest { attachment_id: "a1".into(), ..Default::default() }),
        cancel_detach(CancelDetachRequest { attachment_id: "a1".into() }),
        disconnect_volume(DisconnectVolumeRequest { attachment_id: "a1".into(), ..Default::default() }),
        get_attachment(GetAttachmentRequest { attachment_id: "a1".into() }),
        forget_attachment(ForgetAttachmentRequest { attachment_id: "a1".into(), ..Default::default() }),
        list_attachments(ListAttachmentsRequest { ..Default::default() }),
        watch_attachments(WatchAttachmentsRequest { ..Default::default() }),
        extend_volume(ExtendVolumeRequest { attachment_id: "a1".into(), ..Default::default() }),
        set_io_tune(SetIoTuneRequest { attachment_id: "a1".into(), limits: None }),
        get_attachment_stats(GetAttachmentStatsRequest { attachment_id: "a1".into() }),
        get_volume_permissions(GetVolumePermissionsRequest { volume_id: "v1".into() }),
        set_volume_permissions(SetVolumePermissionsRequest { volume_id: "v1".into(), ..Default::default() }),
    }
    // Two were tried above, and two have no field.
    left.sort_unstable();
    assert_eq!(
        left,
        [
            "AttachVolumeRequest",
            "DiagnoseRequest",
            "GetConnectorRequest",
            "PlanAttachRequest"
        ]
    );
}

/// Cinder's JSON may be nested as deep as it likes, within what is read.
#[tokio::test]
async fn json_of_any_shape_is_refused_and_not_followed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let deep =
        |open: &str, close: &str| format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
    let portals = vec!["\"10.0.0.1:3260\""; 3000].join(",");
    for json in [
        deep("[", "]"),
        deep("{\"data\":", "}"),
        "[".repeat(60_000),
        format!("{{\"driver_volume_type\":\"iscsi\",\"data\":{{\"target_portals\":[{portals}]}}}}"),
        "x".repeat(900_000),
    ] {
        let mut request = attach("a1");
        request.connection_info = info(&json);
        let refused = client.attach_volume(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
}
