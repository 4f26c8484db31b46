//! Many attaches at once over many guests, and all detached again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tonic::Code;
use tonic::transport::Channel;
use virt::domain::Domain;
use virt_sys::VIR_DOMAIN_AFFECT_LIVE;
use volattach::api::v1::volume_attach_client::VolumeAttachClient;
use volattach::api::v1::{
    AttachVolumeRequest, ConnectionInfo, DetachVolumeRequest, LocalVolume, connection_info::Form,
};

use super::fixture::{Guest, Guests};
use super::node::Volattachd;
use super::{LIMITS, connect};

const GUESTS: usize = 20;
/// Disks of each guest.
const EACH: usize = 25;
/// Disks in all.
pub(super) const DISKS: usize = GUESTS * EACH;
/// How long guests are waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// Threads of the bare calls: as many as volattach has turns at libvirt.
const THREADS: usize = 12;

/// Attaches per second over those of the bare calls.
pub(super) fn throughput(own: &Guests) -> f64 {
    let guests: Vec<Guest> = (0..GUESTS)
        .map(|number| {
            let guest = own.define(&name(number), false, EACH);
            guest.domain.create().unwrap();
            guest
        })
        .collect();
    for guest in &guests {
        guest.wait_for("GUEST up", 0);
    }
    let images: Vec<PathBuf> = (0..DISKS)
        .map(|number| own.image(&format!("many{number}.raw"), 1 << 20))
        .collect();
    let volumes = images[0].parent().unwrap();
    let dir = volumes.join("many");
    fs::create_dir(&dir).unwrap();
    let daemon = Volattachd::start(&dir, volumes, own.uri(), LIMITS);
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let over = AtomicBool::new(false);
    let (ours, xmls) = thread::scope(|scope| {
        let peak = scope.spawn(|| peak(&daemon, &over));
        let measuring = Measuring(&over);
        let measured = client.block_on(async {
            let client = connect(&daemon.socket).await;
            by_api(&client, &guests, &images).await
        });
        drop(measuring);
        println!(
            "{DISKS} attaches at once, then as many detaches: at most {}",
            peak.join().unwrap()
        );
        measured
    });
    drop(daemon);
    by_libvirt(&guests, &xmls).as_secs_f64() / ours.as_secs_f64()
}

/// Ends the look at the daemon, also where a call fails.
struct Measuring<'a>(&'a AtomicBool);

impl Drop for Measuring<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn name(guest: usize) -> String {
    format!("guest{guest}")
}

/// How long all attaches took, and the disks' XML.
async fn by_api(
    client: &VolumeAttachClient<Channel>,
    guests: &[Guest],
    images: &[PathBuf],
) -> (Duration, Vec<String>) {
    let seen: Vec<usize> = guests.iter().map(Guest::lines).collect();
    let begun = Instant::now();
    let attaches = images.iter().enumerate().map(|(number, image)| {
        let domain = &guests[number % GUESTS].domain;
        let (mut client, request) = (client.clone(), request(number, domain, image));
        async move { client.attach_volume(request).await.unwrap() }
    });
    let answers = join_all(attaches).await;
    let took = begun.elapsed();
    wait_for_all(guests, &seen, "GUEST disk=");
    let detaches = (0..images.len()).map(|number| {
        let request = DetachVolumeRequest {
            attachment_id: id(number),
            force: false,
        };
        let mut client = client.clone();
        // Two processors emulate twenty guests, one of which may not answer in time; the daemon asks it again meanwhile.
        async move {
            while let Err(status) = client.detach_volume(request.clone()).await {
                let is_pending = [Code::DeadlineExceeded, Code::Aborted].contains(&status.code());
                assert!(is_pending && begun.elapsed() < PATIENCE, "{status}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    join_all(detaches).await;
    wait_for_all(guests, &seen, "GUEST gone=");
    let xmls = answers.into_iter();
    let xmls = xmls.map(|answer| answer.into_inner().attachment.unwrap().disk_xml);
    (took, xmls.collect())
}

fn id(number: usize) -> String {
    format!("many{number}")
}

fn request(number: usize, domain: &Domain, image: &Path) -> AttachVolumeRequest {
    AttachVolumeRequest {
        attachment_id: id(number),
        volume_id: id(number),
        domain: domain.uuid_string().unwrap(),
        connection_info: Some(ConnectionInfo {
            form: Some(Form::Local(LocalVolume {
                device_path: image.display().to_string(),
                ..Default::default()
            })),
        }),
        ..Default::default()
    }
}

/// How long the same attaches took by libvirt alone, the disks at the same places.
fn by_libvirt(guests: &[Guest], xmls: &[String]) -> Duration {
    let seen: Vec<usize> = guests.iter().map(Guest::lines).collect();
    let each = |call: fn(&Guest, &str)| {
        let next = std::sync::atomic::AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let Some((number, xml)) = {
                        let number = next.fetch_add(1, Relaxed);
                        xmls.get(number).map(|xml| (number, xml))
                    } {
                        call(&guests[number % GUESTS], xml);
                    }
                });
            }
        });
    };
    let begun = Instant::now();
    each(|guest, xml| {
        let done = guest
            .domain
            .attach_device_flags(xml, VIR_DOMAIN_AFFECT_LIVE);
        done.unwrap();
    });
    let took = begun.elapsed();
    wait_for_all(guests, &seen, "GUEST disk=");
    each(|guest, xml| {
        let done = guest
            .domain
            .detach_device_flags(xml, VIR_DOMAIN_AFFECT_LIVE);
        done.unwrap();
    });
    wait_for_all(guests, &seen, "GUEST gone=");
    took
}

/// Waits until each guest has said so of each of its disks, after its first `seen` lines.
fn wait_for_all(guests: &[Guest], seen: &[usize], start: &str) {
    let deadline = Instant::now() + PATIENCE;
    let count = |guest: &Guest, seen: usize| {
        let lines = guest.console_lines().into_iter().skip(seen);
        lines.filter(|line| line.starts_with(start)).count()
    };
    for (guest, seen) in guests.iter().zip(seen) {
        while count(guest, *seen) < EACH {
            assert!(Instant::now() < deadline, "in vain: {start} {EACH} times");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What the daemon uses at most until `over`.
fn peak(daemon: &Volattachd, over: &AtomicBool) -> String {
    let (mut threads, mut workers, mut resident_kib) = (0, 0, 0);
    while !over.load(Relaxed) {
        threads = threads.max(daemon.status("Threads:"));
        resident_kib = resident_kib.max(daemon.status("VmRSS:"));
        workers = workers.max(children(daemon.pid()));
        thread::sleep(Duration::from_millis(20));
    }
    format!(
        "{threads} threads, {workers} worker processes, {:.1} MiB resident",
        resident_kib as f64 / 1024.0
    )
}

/// The number of that process' children.
fn children(parent: u32) -> usize {
    let parent = parent.to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_child = |stat: &String| {
        let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
        rest.split(' ').nth(1) == Some(parent.as_str())
    };
    let stats = processes.filter_map(|it| fs::read_to_string(it.path().join("stat")).ok());
    stats.filter(is_child).count()
}
