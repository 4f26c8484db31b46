//! `make bench`: what an attach costs over what libvirt itself takes, alone and together with many others.
//!
//! AttachVolume over gRPC, of a local file to a real guest, and the bare libvirt call with the same XML, take turns in the
//! same run on the same guest: only their ratio says anything, so only ratios are printed. The daemon runs in this
//! process, as libvirt's QEMU driver does (`qemu:///embed`); its client has a thread of its own, as `volattach` has. How
//! long the bare call takes has two peaks, a third apart, by where the host's scheduler puts QEMU's threads: so the guest
//! is kept on one CPU, is idle before each attach, and there are more pairs than a median usually needs.
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
mod many;
mod qemu;
#[allow(clippy::expect_used, dead_code, reason = "as above")]
#[path = "../../tests/embed/scratch.rs"]
mod scratch;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fixture::{Embed, Guest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint, Uri};
use virt_sys::VIR_DOMAIN_AFFECT_LIVE;
use volattach::api::v1::volume_attach_client::VolumeAttachClient;
use volattach::api::v1::{
    AttachVolumeRequest, ConnectionInfo, DetachVolumeRequest, LocalVolume, connection_info::Form,
};
use volattach::app;
use volattach::config::Settings;
use volattach::sys::worker::Workers;

use qemu::Qemu;

const PAIRS: usize = 150;
/// What libvirt does to a disk on a node by default, it does here: it makes its node in the guest's namespace, gives it to
/// QEMU's user and remembers whose it was. (That user is root, who may read the kernel of the guest wherever it is.)
const QEMU_CONF: &str = r#"
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
stdio_handler = "file"
"#;
/// What many attaches at once by one caller need.
const LIMITS: &str = "[limits]\nwork = 1000\nwork_per_caller = 1000\ncalls = 1000\ncalls_per_second = 1000\nburst = 1000\nstreams = 1000\n";
/// AttachVolume over the bare call.
const RATIO_LIMIT: f64 = 1.10;
/// Throughput of many attaches at once over that of the bare calls.
const THROUGHPUT_LIMIT: f64 = 0.85;

fn main() -> ExitCode {
    let embed = Embed::start(QEMU_CONF);
    let ratio = median_of_pairs(&embed);
    println!(
        "AttachVolume of a local file over the bare libvirt call, median of {PAIRS} pairs: {ratio:.3} (limit {RATIO_LIMIT})"
    );
    let throughput = many::throughput(&embed);
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
fn median_of_pairs(embed: &Embed) -> f64 {
    let image = embed.image("volume.raw", 8 << 20);
    let guest = embed.boot("guest", 1);
    let root = image.parent().unwrap();
    let qemu = Qemu::of(root);
    qemu.keep_on_one_cpu();
    let dir = tempfile::tempdir().unwrap();
    let (stop, daemon) = serve(dir.path(), embed, root);
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    client.block_on(async {
        let mut client = connect(&dir.path().join("volattachd.sock")).await;
        let mut ratios = Vec::new();
        // The first pair warms up, and gives the XML.
        let (_, xml) = attach_by_api(&mut client, &guest, &image).await;
        for _ in 0..PAIRS {
            qemu.wait_idle();
            let bare = attach_bare(&guest, &xml);
            qemu.wait_idle();
            let (ours, _) = attach_by_api(&mut client, &guest, &image).await;
            ratios.push(ours.as_secs_f64() / bare.as_secs_f64());
        }
        stop.send(()).unwrap();
        daemon.join().unwrap().unwrap();
        ratios.sort_by(f64::total_cmp);
        ratios[PAIRS / 2]
    })
}

type Daemon = (oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>);

fn serve(dir: &Path, embed: &Embed, volumes: &Path) -> Daemon {
    let config = dir.join("volattachd.toml");
    let text = format!(
        "state_dir = {:?}\nmount_base = {:?}\nlisten = {{ socket = {:?} }}\nlibvirt = {{ uri = {:?} }}\nlocal = {{ roots = [{volumes:?}] }}\n",
        dir.join("state"),
        dir.join("mnt"),
        dir.join("volattachd.sock"),
        embed.uri(),
    ) + LIMITS;
    fs::write(&config, text).unwrap();
    let settings = Settings::load(&config).unwrap();
    let workers = Workers::from_executable(env!("CARGO_BIN_EXE_volattachd-worker").into());
    let (stop, stopped) = oneshot::channel();
    let daemon = thread::spawn(move || {
        // One thread, as volattachd has.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let stop = async {
                let _ = stopped.await;
                "the end"
            };
            app::serve(&settings, workers, Vec::new(), stop).await
        })
    });
    (stop, daemon)
}

async fn connect(socket: &Path) -> VolumeAttachClient<Channel> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => return VolumeAttachClient::new(channel),
            Err(error) => assert!(
                Instant::now() < deadline,
                "volattachd does not answer: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
        domain: "guest".into(),
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
