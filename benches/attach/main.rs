//! `make bench`: what an attach costs over what libvirt itself takes, alone and together with many others.
//!
//! AttachVolume over gRPC, of a local file to a real guest, and the bare libvirt call with the same XML, take turns in the
//! same run on the same guest: only their ratio says anything, so only ratios are printed. volattachd and libvirtd are
//! processes of their own, as on a node. How long the bare call takes has two peaks, a third apart, by where the host's
//! scheduler puts QEMU's threads: so the guest is kept on one CPU, is idle before each attach, and there are more pairs
//! than a median usually needs. Each attach follows a call that does nothing, by the same client: without it, half a
//! second of rest shows in the figures (caches, sleeping processors), of two processes there and of one here.
//!
//! Each number has its limit; one that is over it fails the run.
#![allow(
    clippy::unwrap_used,
    reason = "not a part of the product: a failure shows where it happened"
)]

#[allow(
    clippy::expect_used,
    dead_code,
    reason = "shared with tests/embed.rs, which uses all of it"
)]
#[path = "../../tests/embed/fixture.rs"]
mod fixture;
mod libvirt;
mod many;
#[allow(dead_code, reason = "shared with the other bench")]
#[path = "../node/mod.rs"]
mod node;
mod qemu;
#[allow(clippy::expect_used, dead_code, reason = "as above")]
#[path = "../../tests/embed/scratch.rs"]
mod scratch;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fixture::{Guest, Guests};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use virt_sys::VIR_DOMAIN_AFFECT_LIVE;
use volattach::api::v1::volume_attach_client::VolumeAttachClient;
use volattach::api::v1::{
    AttachVolumeRequest, ConnectionInfo, DetachVolumeRequest, GetAttachmentRequest, LocalVolume,
    connection_info::Form,
};

use node::Volattachd;
use qemu::Qemu;

const PAIRS: usize = 150;
/// What many attaches at once by one caller need.
const LIMITS: &str = "[limits]\nwork = 1000\nwork_per_caller = 1000\ncalls = 1000\ncalls_per_second = 1000\nburst = 1000\nstreams = 1000\n";
/// AttachVolume over the bare call.
const RATIO_LIMIT: f64 = 1.10;
/// Throughput of many attaches at once over that of the bare calls.
const THROUGHPUT_LIMIT: f64 = 0.85;

fn main() -> ExitCode {
    let (_libvirtd, guests) = libvirt::start();
    let ratio = median_of_pairs(&guests);
    println!(
        "AttachVolume of a local file over the bare libvirt call, median of {PAIRS} pairs: {ratio:.3} (limit {RATIO_LIMIT})"
    );
    let throughput = many::throughput(&guests);
    println!(
        "{} attaches at once over the bare libvirt calls from as many threads, throughput: {throughput:.3} (limit {THROUGHPUT_LIMIT})",
        many::DISKS
    );
    if ratio <= RATIO_LIMIT && throughput >= THROUGHPUT_LIMIT {
        ExitCode::SUCCESS
    } else {
        println!("bench: over the limit");
        ExitCode::FAILURE
    }
}

/// How long each pair's attach took by AttachVolume over how long by the bare call: the median.
fn median_of_pairs(guests: &Guests) -> f64 {
    let image = guests.image("volume.raw", 8 << 20);
    let guest = guests.boot("guest", 1);
    let root = image.parent().unwrap();
    let qemu = Qemu::of(root);
    qemu.keep_on_one_cpu();
    let dir = root.join("alone");
    fs::create_dir(&dir).unwrap();
    let daemon = Volattachd::start(&dir, root, guests.uri(), LIMITS);
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    client.block_on(async {
        let mut client = connect(&daemon.socket).await;
        let mut ratios = Vec::new();
        // The first pair warms up, and gives the XML.
        let (_, xml) = attach_by_api(&mut client, &guest, &image).await;
        for _ in 0..PAIRS {
            qemu.wait_idle();
            let _ = guest.domain.info().unwrap(); // libvirt's client and libvirtd are at work
            let bare = attach_bare(&guest, &xml);
            qemu.wait_idle();
            let get = GetAttachmentRequest {
                attachment_id: "none".into(),
            };
            let _ = client.get_attachment(get).await.unwrap_err(); // so are volattach's client and volattachd
            let (ours, _) = attach_by_api(&mut client, &guest, &image).await;
            ratios.push(ours.as_secs_f64() / bare.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        ratios[PAIRS / 2]
    })
}

async fn connect(socket: &Path) -> VolumeAttachClient<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    VolumeAttachClient::new(channel)
}

/// One AttachVolume and its detach; how long the attach took, and the disk's XML.
async fn attach_by_api(
    client: &mut VolumeAttachClient<Channel>,
    guest: &Guest,
    image: &Path,
) -> (Duration, String) {
    let before = guest.lines();
    let request = AttachVolumeRequest {
        attachment_id: "bench".into(),
        volume_id: "bench".into(),
        domain: guest.domain.uuid_string().unwrap(),
        connection_info: Some(ConnectionInfo {
            form: Some(Form::Local(LocalVolume {
                device_path: image.display().to_string(),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    let begun = Instant::now();
    let answer = client.attach_volume(request).await.unwrap();
    let took = begun.elapsed();
    guest.wait_for("GUEST disk=", before);
    client
        .detach_volume(DetachVolumeRequest {
            attachment_id: "bench".into(),
            force: false,
        })
        .await
        .unwrap();
    guest.wait_for("GUEST gone=", before);
    (took, answer.into_inner().attachment.unwrap().disk_xml)
}

/// One call of libvirt's and its detach; how long the attach took.
fn attach_bare(guest: &Guest, xml: &str) -> Duration {
    let before = guest.lines();
    let begun = Instant::now();
    guest
        .domain
        .attach_device_flags(xml, VIR_DOMAIN_AFFECT_LIVE)
        .unwrap();
    let took = begun.elapsed();
    // A guest that is asked to let go of a disk before it has seen it does not answer.
    guest.wait_for("GUEST disk=", before);
    guest
        .domain
        .detach_device_flags(xml, VIR_DOMAIN_AFFECT_LIVE)
        .unwrap();
    guest.wait_for("GUEST gone=", before);
    took
}
