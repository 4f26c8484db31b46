//! Growing volumes: who sees what afterwards, and that what fails changes nothing.

use tonic::Status;
use tonic_types::StatusExt;
use volattach::model::{ImageFormat, Reason};

use crate::fakes::{Fault, Guest};
use crate::server::{Client, Server, attach, connect, detach, extend, soon};

pub(super) const MIB: u64 = 1 << 20;

pub(super) async fn call(client: &mut Client, id: &str, bytes: u64) -> Result<u64, Status> {
    let answer = client.extend_volume(extend(id, bytes)).await;
    answer.map(|answer| answer.into_inner().size_bytes)
}

pub(super) async fn refused(client: &mut Client, id: &str, bytes: u64) -> String {
    let status = call(client, id, bytes).await.unwrap_err();
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("{status:?}")).reason
}

/// A server with volume `v-a1` of that format attached, which its guest sees at 1 MiB and its storage at `stored`.
pub(super) async fn attached(format: ImageFormat, stored: u64) -> (Server, Client) {
    let server = Server::start().await;
    server.world.state().format = format;
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    server.world.state().stored = stored;
    (server, client)
}

/// What the guest sees of `v-a1`.
pub(super) fn shown(server: &Server) -> u64 {
    server.world.state().shown["ua-volattach-a1"]
}

#[tokio::test]
async fn the_guest_sees_what_the_storage_has() {
    let (server, mut client) = attached(ImageFormat::Raw, 4 * MIB).await;
    let records = server.world.records();
    // To the size asked for; to a smaller one, which storages round up; to whatever is there; and each again.
    for (wanted, stored) in [(4 * MIB, 4), (4 * MIB, 4), (5 * MIB, 6), (0, 8), (0, 8)] {
        server.world.state().stored = stored * MIB;
        assert_eq!(call(&mut client, "a1", wanted).await.unwrap(), stored * MIB);
        assert_eq!(shown(&server), stored * MIB);
    }
    assert_eq!(server.world.records(), records);
}

#[tokio::test]
async fn what_no_running_domain_has_is_seen_by_the_host_alone() {
    let (server, mut client) = attached(ImageFormat::Raw, 4 * MIB).await;
    server.world.state().running = false;
    assert_eq!(call(&mut client, "a1", 0).await.unwrap(), 4 * MIB);
    assert_eq!(shown(&server), MIB);

    client.connect_volume(connect("c1")).await.unwrap();
    assert_eq!(call(&mut client, "c1", 4 * MIB).await.unwrap(), 4 * MIB);
    let more = refused(&mut client, "c1", 5 * MIB).await;
    assert_eq!(more, "VOLUME_NOT_GROWN");
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    for (stored, wanted, expected) in [
        (2 * MIB, 2 * MIB + 1, "VOLUME_NOT_GROWN"),
        (2 * MIB, u64::MAX, "VOLUME_NOT_GROWN"),
        (2 * MIB, MIB - 1, "SHRINK_REFUSED"),
        (MIB / 2, 0, "SHRINK_REFUSED"),
        (MIB / 2, MIB, "VOLUME_NOT_GROWN"),
    ] {
        let (server, mut client) = attached(ImageFormat::Raw, stored).await;
        let records = server.world.records();
        let reason = refused(&mut client, "a1", wanted).await;
        assert_eq!(reason, expected, "{wanted} of {stored}");
        assert_eq!(shown(&server), MIB);
        assert_eq!(server.world.records(), records);
    }
}

#[tokio::test]
async fn only_what_is_attached_is_extended() {
    let (server, mut client) = attached(ImageFormat::Raw, 2 * MIB).await;
    assert_eq!(refused(&mut client, "", 0).await, "INVALID_REQUEST");
    assert_eq!(refused(&mut client, "a b", 0).await, "INVALID_REQUEST");
    let unknown = refused(&mut client, "a2", 0).await;
    assert_eq!(unknown, "ATTACHMENT_NOT_FOUND");

    let disks = std::mem::take(&mut server.world.state().disks);
    assert_eq!(refused(&mut client, "a1", 0).await, "DISK_LOST");
    server.world.state().disks = disks;

    server.world.state().guest = Guest::Ignores;
    client.detach_volume(detach("a1")).await.unwrap_err();
    let detaching = refused(&mut client, "a1", 0).await;
    assert_eq!(detaching, "OPERATION_IN_PROGRESS");
    server.world.state().guest = Guest::Obeys;
    server.world.let_go("ua-volattach-a1");
    server.world.state().disconnect_fails = Some(Reason::UnmountFailed);
    client.detach_volume(detach("a1")).await.unwrap_err();
    assert_eq!(refused(&mut client, "a1", 0).await, "CLEANUP_REQUIRED");
}

#[tokio::test]
async fn one_call_at_a_time_works_on_an_attachment() {
    let (server, mut client) = attached(ImageFormat::Raw, 2 * MIB).await;
    server.world.gate.arm(0, Fault::Die);
    let mut other = client.clone();
    let first = tokio::spawn(async move { call(&mut other, "a1", 0).await });
    soon(server.world.gate.died()).await;
    let second = refused(&mut client, "a1", 0).await;
    assert_eq!(second, "OPERATION_IN_PROGRESS");
    first.abort();
}

#[tokio::test]
async fn a_host_that_cannot_see_the_new_size_says_why() {
    let (server, mut client) = attached(ImageFormat::Raw, 2 * MIB).await;
    for reason in [
        Reason::ServerTimeout,
        Reason::VolumeNotFound,
        Reason::VolumeUnreadable,
        Reason::VolumePathUnsafe,
    ] {
        server.world.state().extend_fails = Some(reason);
        let told = refused(&mut client, "a1", 0).await;
        assert_eq!(told, reason.as_str());
        assert_eq!(shown(&server), MIB);
    }
}

/// Every call into the world fails in its turn; repeated, the call succeeds.
#[tokio::test]
async fn what_failed_half_way_is_repeated() {
    let mut struck = Vec::new();
    for at in 0.. {
        let (server, mut client) = attached(ImageFormat::Raw, 2 * MIB).await;
        let records = server.world.records();
        server.world.gate.arm(at, Fault::Fail);
        let failed = call(&mut client, "a1", 2 * MIB).await;
        let Some(at) = server.world.gate.disarm() else {
            assert_eq!(failed.unwrap(), 2 * MIB);
            break;
        };
        failed.unwrap_err();
        let unchanged = shown(&server) == MIB;
        assert_eq!(unchanged, at != "hypervisor.resize After", "{at}");
        assert_eq!(call(&mut client, "a1", 2 * MIB).await.unwrap(), 2 * MIB);
        assert_eq!(server.world.records(), records);
        struck.push(at);
    }
    assert_eq!(
        struck,
        [
            "backend.find Before",
            "hypervisor.observe Before",
            "hypervisor.size Before",
            "backend.extend Before",
            "hypervisor.resize Before",
            "hypervisor.resize After",
        ]
    );
}
