//! What only domains of QEMU have.

use crate::call::reason;
use crate::cli::json;
use crate::extend::{MIB, attached, call, refused, shown};
use crate::server::{Server, attach, cinder, connect, detach, info};
use volattach::api::v1;
use volattach::model::{ImageFormat, Reason};

#[tokio::test]
async fn disk_options_reach_the_domain() {
    let server = Server::start().await;
    let options = [
        "--bus",
        "virtio",
        "--dev",
        "vdb",
        "--cache",
        "directsync",
        "--io",
        "native",
        "--discard",
        "unmap",
        "--detect-zeroes",
        "unmap",
        "--serial",
        "s3r1al",
        "--shareable",
        "--iotune",
        "read_iops_sec=7",
        "--iotune",
        "write_bytes_sec=8",
        "--logical-block-size",
        "512",
        "--physical-block-size",
        "4096",
        "--address",
        "pci:0000:00:15.0",
        "--boot-order",
        "2",
    ];
    let plan = [
        &["plan", "--domain", "web", "--connection-info", "-"],
        &options[..],
    ]
    .concat();
    let xml = json(&server, &plan).await["disk_xml"].to_string();
    for part in [
        "vdb",
        "directsync",
        "native",
        "unmap",
        "s3r1al",
        "shareable",
        "read_iops_sec",
        "write_bytes_sec",
        "512",
        "4096",
        "0x15",
        "boot",
    ] {
        assert!(xml.contains(part), "no {part} in {xml}");
    }
}

#[tokio::test]
async fn an_image_is_grown_by_the_hypervisor_that_has_it_open() {
    let (server, mut client) = attached(ImageFormat::Qcow2, 200 << 10).await;
    assert_eq!(call(&mut client, "a1", 0).await.unwrap(), MIB);
    for _ in 0..2 {
        assert_eq!(call(&mut client, "a1", 3 * MIB).await.unwrap(), 3 * MIB);
    }
    assert_eq!(shown(&server), 3 * MIB);
    assert_eq!(refused(&mut client, "a1", MIB).await, "SHRINK_REFUSED");

    client.connect_volume(connect("c1")).await.unwrap();
    for bytes in [0, 3 * MIB] {
        let unused = refused(&mut client, "c1", bytes).await;
        assert_eq!(unused, "RESIZE_UNSUPPORTED");
    }
    let (_server, mut client) = attached(ImageFormat::Vmdk, MIB).await;
    let vmdk = refused(&mut client, "a1", 2 * MIB).await;
    assert_eq!(vmdk, "RESIZE_UNSUPPORTED");
}

#[tokio::test]
async fn a_guest_that_may_only_read_sees_no_new_size_until_it_is_attached_again() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = attach("a1");
    request.access = v1::Access::ReadOnly.into();
    client.attach_volume(request.clone()).await.unwrap();
    assert_eq!(call(&mut client, "a1", 0).await.unwrap(), MIB);
    server.world.state().stored = 2 * MIB;
    assert_eq!(refused(&mut client, "a1", 0).await, "RESIZE_UNSUPPORTED");
    client.detach_volume(detach("a1")).await.unwrap();
    client.attach_volume(request).await.unwrap();
    assert_eq!(call(&mut client, "a1", 2 * MIB).await.unwrap(), 2 * MIB);
}

#[tokio::test]
async fn a_name_that_apparmor_would_read_as_a_pattern_is_refused_before_anything_is_connected() {
    let server = Server::start().await;
    let pattern = |id: &str| v1::AttachVolumeRequest {
        connection_info: info(&cinder("v*.raw")),
        ..attach(id)
    };
    let mut client = server.client().await;
    // It is a name like any where no profile is written.
    client.attach_volume(pattern("a1")).await.unwrap();
    client.detach_volume(detach("a1")).await.unwrap();
    server.world.state().profiled = true;
    client.attach_volume(attach("a2")).await.unwrap();
    client.detach_volume(detach("a2")).await.unwrap();
    // Before anything is connected: nothing could be. The second time by the last view of the domain.
    server.world.state().connect_fails = Some(Reason::Internal);
    for _ in 0..2 {
        let refused = client.attach_volume(pattern("a1")).await.unwrap_err();
        assert_eq!(reason(&refused), "VOLUME_PATH_UNSAFE");
    }
    assert!(server.world.state().connections.is_empty());
}
