//! Hot-plug into real QEMU guests, without a daemon: what the guest sees is what counts.
//!
//! One guest, booted once, serves all tests, one after the other. A test that fails takes its guest down with it, and
//! the next one boots another.

#![cfg(test)]

#[path = "embed/fixture.rs"]
mod fixture;
#[path = "embed/scratch.rs"]
mod scratch;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use fixture::{Guest, Guests};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use volattach::config;
use volattach::libvirt::{
    DomainEnd, DomainEvent, DomainView, Hypervisor, HypervisorError, Libvirt, Unplug, plan_disk,
};
use volattach::model::{
    Access, Bus, Cache, DiskOptions, DiskPlan, DiskSpec, DomainRef, ImageFormat, IoTune, Reason,
    Scope, SourceKind,
};

/// PCIe ports of the guest that are free for virtio disks.
const PORTS: usize = 3;
const MIB: u64 = 1 << 20;
/// For what happens within a second or two unless something is broken.
const LONG: Duration = Duration::from_secs(180);

/// What all tests share.
struct Shared {
    guests: Guests,
    /// Absent before the first test, and after one that failed.
    guest: Option<Guest>,
}

async fn shared() -> MutexGuard<'static, Shared> {
    static SHARED: OnceLock<Mutex<Shared>> = OnceLock::new();
    let start = || {
        Mutex::new(Shared {
            guests: Guests::start(fixture::QEMU_CONF),
            guest: None,
        })
    };
    SHARED.get_or_init(start).lock().await
}

/// One test's use of the guest.
struct Rig {
    guest: Guest,
    hypervisor: Libvirt,
    uuid: Uuid,
    /// Last, so that a guest dropped by a failure is gone before the next test begins.
    shared: MutexGuard<'static, Shared>,
}

impl Rig {
    async fn new() -> Self {
        let mut shared = shared().await;
        let guest = match shared.guest.take() {
            Some(guest) => guest,
            None => shared.guests.boot("guest", PORTS),
        };
        let hypervisor = hypervisor(&shared.guests);
        let uuid = guest.domain.uuid().unwrap();
        Self {
            shared,
            guest,
            hypervisor,
            uuid,
        }
    }

    /// Gives the guest back for the next test.
    fn done(mut self) {
        self.shared.guest = Some(self.guest);
    }

    fn disk(&self, volume: &str, access: Access, options: DiskOptions) -> DiskSpec {
        disk(&self.shared.guests, volume, access, options)
    }

    async fn view(&self) -> DomainView {
        self.hypervisor
            .domain(&DomainRef::Uuid(self.uuid), Scope::LiveAndConfig)
            .await
            .unwrap()
    }

    async fn plug(&self, spec: &DiskSpec) -> Result<DiskPlan, HypervisorError> {
        let plan = plan_disk(&self.view().await, spec)?;
        self.hypervisor.plug(self.uuid, &plan).await?;
        Ok(plan)
    }

    async fn unplug(&self, plan: &DiskPlan) {
        self.hypervisor
            .request_unplug(self.uuid, plan)
            .await
            .unwrap();
        let outcome = self.wait(plan, LONG).await;
        assert_eq!(outcome, Unplug::Gone, "{}", plan.target);
        assert!(!self.has(plan).await);
    }

    async fn wait(&self, plan: &DiskPlan, within: Duration) -> Unplug {
        let deadline = Instant::now() + within;
        self.hypervisor
            .wait_unplugged(self.uuid, plan, deadline)
            .await
            .unwrap()
    }

    async fn size(&self, plan: &DiskPlan) -> Option<u64> {
        self.hypervisor.size(self.uuid, plan).await.unwrap()
    }

    async fn has(&self, plan: &DiskPlan) -> bool {
        self.hypervisor.has_disk(self.uuid, plan).await.unwrap()
    }
}

fn hypervisor(guests: &Guests) -> Libvirt {
    Libvirt::new(&config::Libvirt {
        uri: guests.uri().to_owned(),
        call_timeout: Duration::from_secs(60),
    })
}

fn disk(guests: &Guests, volume: &str, access: Access, options: DiskOptions) -> DiskSpec {
    DiskSpec {
        attachment: volume.parse().unwrap(),
        volume: volume.parse().unwrap(),
        path: guests.image(&format!("{volume}.raw"), MIB),
        kind: SourceKind::File,
        format: ImageFormat::Raw,
        access,
        keeps_owner: false,
        options: DiskOptions {
            // Wherever the temporary directory lies: tmpfs knows no O_DIRECT on older kernels.
            cache: Some(Cache::Writeback),
            ..options
        },
    }
}

fn on(bus: Bus) -> DiskOptions {
    DiskOptions {
        bus: Some(bus),
        ..DiskOptions::default()
    }
}

fn scoped(scope: Scope) -> DiskOptions {
    DiskOptions {
        scope,
        ..DiskOptions::default()
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, HypervisorError>) -> Reason {
    result.unwrap_err().reason()
}

/// Plugs a disk in, lets the guest try to write it, unplugs it: what the guest said, and the image afterwards.
async fn round_trip(volume: &str, bus: Bus, access: Access) -> (String, Vec<u8>) {
    let rig = Rig::new().await;
    let spec = rig.disk(volume, access, on(bus));
    let mut events = rig.hypervisor.events();
    let seen = rig.guest.lines();

    let plan = rig.plug(&spec).await.unwrap();
    assert!(rig.has(&plan).await);
    let said = rig
        .guest
        .wait_for(&format!("GUEST disk={} ", plan.target), seen);
    rig.unplug(&plan).await;
    rig.guest
        .wait_for(&format!("GUEST gone={}", plan.target), seen);
    let event = timeout(LONG, events.recv()).await.unwrap().unwrap();
    assert_eq!(
        event,
        DomainEvent::DiskGone {
            domain: rig.uuid,
            alias: plan.alias
        }
    );
    let image = fs::read(&spec.path).unwrap();
    rig.done();
    (said, image)
}

const NOTHING: &str = "head=00000000000000000000000000000000";

#[tokio::test]
async fn a_read_only_virtio_disk_is_read_only_in_the_guest() {
    let (said, image) = round_trip("ro-virtio", Bus::Virtio, Access::ReadOnly).await;
    assert_eq!(
        said,
        format!(
            "GUEST disk=vda size=2048 ro=1 serial=ro-virtio {NOTHING} write=failed:Operation not permitted"
        )
    );
    assert!(image.iter().all(|byte| *byte == 0), "the image was written");
}

#[tokio::test]
async fn a_read_only_scsi_disk_is_read_only_in_the_guest() {
    let (said, image) = round_trip("ro-scsi", Bus::Scsi, Access::ReadOnly).await;
    let expected = format!("GUEST disk=sda size=2048 ro=1 serial=ro-scsi {NOTHING} write=failed:");
    assert!(said.starts_with(&expected), "{said}");
    assert!(image.iter().all(|byte| *byte == 0), "the image was written");
}

#[tokio::test]
async fn what_the_guest_writes_is_in_the_image() {
    for (volume, bus, target) in [
        ("rw-virtio", Bus::Virtio, "vda"),
        ("rw-scsi", Bus::Scsi, "sda"),
    ] {
        let (said, image) = round_trip(volume, bus, Access::ReadWrite).await;
        assert_eq!(
            said,
            format!("GUEST disk={target} size=2048 ro=0 serial={volume} {NOTHING} write=ok")
        );
        let written = format!("volattach-guest-was-here {volume}\n");
        assert!(image[4096..].starts_with(written.as_bytes()));
    }
}

#[tokio::test]
async fn what_a_guest_writes_is_counted_for_its_disk() {
    let rig = Rig::new().await;
    let spec = rig.disk("counted", Access::ReadWrite, on(Bus::Virtio));
    let seen = rig.guest.lines();
    let plan = rig.plug(&spec).await.unwrap();
    let shown = format!("GUEST disk={} ", plan.target);
    rig.guest.wait_for(&shown, seen);
    let other = DiskPlan {
        alias: "ua-volattach-other".to_owned(),
        ..plan.clone()
    };
    let disks = [other, plan.clone()];
    let io = rig.hypervisor.disk_io(rig.uuid, &disks).await.unwrap();
    let [None, Some(io)] = io[..] else {
        panic!("{io:?}");
    };
    // 4 KiB is what the guest writes of each disk that it sees (tests/lab/guest/init).
    assert_eq!((io.write.bytes, io.write.requests), (Some(4096), Some(1)));
    assert!(
        io.read.bytes >= Some(16) && io.read.nanoseconds > Some(0),
        "{io:?}"
    );
    assert!(io.flush.requests.is_some(), "{io:?}");
    let unknown = Uuid::from_u128(1);
    let io = rig.hypervisor.disk_io(unknown, &disks).await.unwrap();
    assert_eq!(io, [None, None]);
    rig.unplug(&plan).await;
    rig.done();
}

#[tokio::test]
async fn a_guest_that_does_not_answer_keeps_its_disk_until_it_does() {
    let rig = Rig::new().await;
    let plan = rig
        .plug(&rig.disk("slow", Access::ReadWrite, on(Bus::Virtio)))
        .await
        .unwrap();
    rig.guest
        .wait_for("GUEST disk=vda ", rig.guest.lines().saturating_sub(1));
    let mut events = rig.hypervisor.events();

    rig.guest.domain.suspend().unwrap();
    rig.hypervisor
        .request_unplug(rig.uuid, &plan)
        .await
        .unwrap();
    assert_eq!(
        rig.wait(&plan, Duration::from_secs(1)).await,
        Unplug::Pending
    );
    assert!(rig.has(&plan).await);
    rig.hypervisor
        .request_unplug(rig.uuid, &plan)
        .await
        .unwrap();
    assert!(events.try_recv().is_err());

    let wait = rig.wait(&plan, LONG);
    rig.guest.domain.resume().unwrap();
    assert_eq!(wait.await, Unplug::Gone);
    let (domain, alias) = (rig.uuid, plan.alias);
    for expected in [
        DomainEvent::Resumed { domain },
        DomainEvent::DiskGone { domain, alias },
    ] {
        let event = timeout(LONG, events.recv()).await.unwrap().unwrap();
        assert_eq!(event, expected);
    }
    rig.done();
}

/// A disk that the XML shows no more is gone once libvirt is done with it: its last act is to give the image back.
#[tokio::test]
async fn a_disk_is_gone_when_libvirts_job_has_ended() {
    let rig = Rig::new().await;
    let spec = |volume: &str| rig.disk(volume, Access::ReadOnly, on(Bus::Virtio));
    let gone = rig.plug(&spec("gone")).await.unwrap();
    rig.unplug(&gone).await;
    let kept = rig.plug(&spec("kept")).await.unwrap();
    rig.guest
        .wait_for("GUEST disk=", rig.guest.lines().saturating_sub(1));
    rig.guest.domain.suspend().unwrap();
    // By this call libvirt waits 5 s for the guest, in a job.
    let job = {
        let (domain, xml) = (rig.guest.domain.clone(), kept.xml.clone());
        std::thread::spawn(move || {
            domain.detach_device_flags(&xml, virt_sys::VIR_DOMAIN_AFFECT_LIVE)
        })
    };
    let mut before_its_end = 0;
    while !job.is_finished() {
        assert!(!rig.has(&gone).await);
        before_its_end += 1;
    }
    // Some before it has begun, and the one that waited for it.
    assert!(
        before_its_end < 100,
        "{before_its_end} answers within the job"
    );
    rig.guest.domain.resume().unwrap();
    let _ = job.join();
    assert_eq!(rig.wait(&kept, LONG).await, Unplug::Gone);
    rig.done();
}

#[tokio::test]
async fn places_that_are_taken_and_full_buses_are_told() {
    let rig = Rig::new().await;
    let spec = |volume: &str| rig.disk(volume, Access::ReadOnly, on(Bus::Virtio));
    let stale = rig.view().await;
    let mut plugged = vec![rig.plug(&spec("first")).await.unwrap()];

    // Whoever holds no lock plans on a stale view: libvirt itself refuses.
    let late = plan_disk(&stale, &spec("late")).unwrap();
    assert_eq!(late.target, "vda");
    assert_eq!(
        reason(rig.hypervisor.plug(rig.uuid, &late).await),
        Reason::TargetInUse
    );
    let twice = plan_disk(&stale, &spec("first")).unwrap();
    let twice = DiskPlan {
        xml: twice.xml.replace("\"vda\"", "\"vdz\""),
        ..twice
    };
    assert_eq!(
        reason(rig.hypervisor.plug(rig.uuid, &twice).await),
        Reason::VolumeInUse
    );
    assert_eq!(reason(rig.plug(&spec("first")).await), Reason::VolumeInUse);
    let hint = DiskOptions {
        target: Some("vda".into()),
        ..DiskOptions::default()
    };
    let hinted = rig.disk("hinted", Access::ReadOnly, hint);
    assert_eq!(reason(rig.plug(&hinted).await), Reason::TargetInUse);

    let scsi = rig
        .plug(&rig.disk("unit", Access::ReadOnly, on(Bus::Scsi)))
        .await
        .unwrap();
    let address = rig.view().await.live.find(&scsi).unwrap().address;
    let same_unit = DiskOptions {
        address,
        ..on(Bus::Scsi)
    };
    let same_unit = rig.disk("same-unit", Access::ReadOnly, same_unit);
    assert_eq!(reason(rig.plug(&same_unit).await), Reason::TargetInUse);
    let late = plan_disk(&stale, &same_unit).unwrap();
    let late = DiskPlan {
        xml: late.xml.replace("\"sda\"", "\"sdb\""),
        ..late
    };
    assert_eq!(
        reason(rig.hypervisor.plug(rig.uuid, &late).await),
        Reason::TargetInUse
    );

    for n in 1..PORTS {
        plugged.push(rig.plug(&spec(&format!("fill{n}"))).await.unwrap());
    }
    let full = rig.plug(&spec("overflow")).await.unwrap_err();
    assert_eq!(full.reason(), Reason::BusFull, "{full}");
    plugged.push(scsi);
    for plan in &plugged {
        rig.unplug(plan).await;
    }
    rig.done();
}

#[tokio::test]
async fn what_qemu_cannot_open_is_told() {
    let rig = Rig::new().await;
    let spec = rig.disk("bad", Access::ReadOnly, on(Bus::Scsi));
    for (path, format, expected) in [
        (
            PathBuf::from("/nonexistent"),
            ImageFormat::Raw,
            Reason::VolumeNotFound,
        ),
        (
            PathBuf::from("/tmp"),
            ImageFormat::Raw,
            Reason::VolumeNotRegular,
        ),
        (
            spec.path.clone(),
            ImageFormat::Qcow2,
            Reason::ImageMalformed,
        ),
    ] {
        let spec = DiskSpec {
            path,
            format,
            ..spec.clone()
        };
        assert_eq!(reason(rig.plug(&spec).await), expected);
    }
    // QEMU's own lock on the image.
    let writer = DiskSpec {
        access: Access::ReadWrite,
        ..spec.clone()
    };
    let writer = rig.plug(&writer).await.unwrap();
    let second = DiskSpec {
        attachment: "second".parse().unwrap(),
        volume: "second".parse().unwrap(),
        access: Access::ReadWrite,
        ..spec
    };
    assert_eq!(reason(rig.plug(&second).await), Reason::VolumeInUse);
    rig.unplug(&writer).await;
    rig.done();
}

#[tokio::test]
async fn every_disk_option_is_one_that_libvirt_takes() {
    use volattach::model::{DetectZeroes, Discard, IoMode, IoTune};
    let rig = Rig::new().await;
    let options = DiskOptions {
        io: Some(IoMode::Threads),
        discard: Some(Discard::Unmap),
        detect_zeroes: Some(DetectZeroes::Unmap),
        serial: Some("A-z_0.+".into()),
        shareable: true,
        iotune: Some(IoTune {
            read_bytes_sec: Some(100 << 20),
            write_bytes_sec: Some(100 << 20),
            total_iops_sec: Some(10_000),
            total_iops_sec_max: Some(20_000),
            size_iops_sec: Some(4096),
            ..IoTune::default()
        }),
        logical_block_size: Some(512),
        physical_block_size: Some(4096),
        address: Some("drive:0:0:0:255".parse().unwrap()),
        ..on(Bus::Scsi)
    };
    let seen = rig.guest.lines();
    let plan = rig
        .plug(&rig.disk("options", Access::ReadWrite, options))
        .await
        .unwrap();
    let said = rig.guest.wait_for("GUEST disk=sda ", seen);
    assert!(said.contains("serial=A-z_0.+ "), "{said}");
    let xml = rig.guest.domain.xml_desc(0).unwrap();
    for shown in [
        "<shareable/>",
        "unit='255'",
        "detect_zeroes='unmap'",
        "<total_iops_sec_max>20000<",
    ] {
        assert!(xml.contains(shown), "{shown} in {xml}");
    }
    rig.unplug(&plan).await;
    limits_change(&rig).await;
    rig.done();
}

#[tokio::test]
async fn the_persistent_configuration_is_changed_where_asked() {
    let rig = Rig::new().await;
    let disks = async || {
        let view = rig.view().await;
        (view.live.disks.len(), view.config.disks.len())
    };
    let both = rig.disk("both", Access::ReadOnly, scoped(Scope::LiveAndConfig));
    let both = rig.plug(&both).await.unwrap();
    assert_eq!(disks().await, (1, 1));
    let config = rig.disk("config", Access::ReadOnly, scoped(Scope::Config));
    let config = rig.plug(&config).await.unwrap();
    assert_eq!(disks().await, (1, 2));
    rig.unplug(&config).await;
    assert_eq!(disks().await, (1, 1));
    let plugged = async || rig.hypervisor.is_plugged(rig.uuid, &both).await.unwrap();
    assert!(plugged().await);
    let live = DiskPlan {
        scope: Scope::Live,
        ..both.clone()
    };
    rig.unplug(&live).await;
    assert_eq!(disks().await, (0, 1));
    assert!(
        rig.has(&both).await && !plugged().await,
        "half of it is lost"
    );
    rig.unplug(&both).await;
    assert_eq!(disks().await, (0, 0));
    rig.done();
}

#[tokio::test]
async fn a_domain_that_is_stopped_or_gone_has_no_live_disks() {
    let shared = shared().await;
    let hypervisor = hypervisor(&shared.guests);
    let second = shared.guests.define("second", false, 1);
    let uuid = second.domain.uuid().unwrap();
    let name = DomainRef::Name("second".into());
    let live = disk(
        &shared.guests,
        "live",
        Access::ReadOnly,
        scoped(Scope::Live),
    );

    let view = hypervisor
        .domain(&name, Scope::LiveAndConfig)
        .await
        .unwrap();
    assert!(!view.running && view.persistent);
    assert_eq!(reason(plan_disk(&view, &live)), Reason::DomainState);

    second.domain.create().unwrap();
    let view = hypervisor
        .domain(&name, Scope::LiveAndConfig)
        .await
        .unwrap();
    let on_scsi = disk(&shared.guests, "live", Access::ReadOnly, on(Bus::Scsi));
    assert_eq!(reason(plan_disk(&view, &on_scsi)), Reason::BusFull);
    let plan = plan_disk(&view, &live).unwrap();
    hypervisor.plug(uuid, &plan).await.unwrap();
    second.domain.suspend().unwrap();
    hypervisor.request_unplug(uuid, &plan).await.unwrap();

    let mut events = hypervisor.events();
    let wait = hypervisor.wait_unplugged(uuid, &plan, Instant::now() + LONG);
    second.domain.destroy().unwrap();
    assert_eq!(wait.await.unwrap(), Unplug::Gone);
    let event = timeout(LONG, events.recv()).await.unwrap().unwrap();
    assert_eq!(
        event,
        DomainEvent::Stopped {
            domain: uuid,
            end: DomainEnd::ShutOff
        }
    );
    assert_eq!(
        reason(hypervisor.plug(uuid, &plan).await),
        Reason::DomainState
    );

    drop(second);
    assert!(!hypervisor.has_disk(uuid, &plan).await.unwrap());
    hypervisor.request_unplug(uuid, &plan).await.unwrap();
    assert_eq!(
        reason(hypervisor.plug(uuid, &plan).await),
        Reason::DomainNotFound
    );
    assert_eq!(
        reason(hypervisor.domain(&name, Scope::LiveAndConfig).await),
        Reason::DomainNotFound
    );
}

#[tokio::test]
async fn a_volume_that_grew_is_seen_grown_by_a_guest_that_may_write_it() {
    let rig = Rig::new().await;
    for (bus, target) in [(Bus::Virtio, "vda"), (Bus::Scsi, "sda")] {
        let spec = rig.disk(&format!("grows-{bus}"), Access::ReadWrite, on(bus));
        let seen = rig.guest.lines();
        let plan = rig.plug(&spec).await.unwrap();
        rig.guest.wait_for(&format!("GUEST disk={target} "), seen);
        assert_eq!(rig.size(&plan).await, Some(MIB));
        let before = fs::read(&spec.path).unwrap();

        // Not a whole number of sectors: the guest sees the last one whole.
        for (bytes, shown) in [(3 * MIB, 3 * MIB), (4 * MIB + 1, 4 * MIB + 512)] {
            let file = fs::File::options().write(true).open(&spec.path).unwrap();
            file.set_len(bytes).unwrap();
            for _ in 0..2 {
                let resized = rig.hypervisor.resize(rig.uuid, &plan, bytes).await;
                assert_eq!(resized.unwrap(), Some(shown));
            }
            assert_eq!(rig.size(&plan).await, Some(shown));
            assert_eq!(file.metadata().unwrap().len(), bytes);
            let told = format!("GUEST resized={target} size={}", shown / 512);
            rig.guest.wait_for(&told, seen);
        }
        // A smaller one is no order to shrink.
        let smaller = rig.hypervisor.resize(rig.uuid, &plan, MIB).await;
        assert_eq!(smaller.unwrap(), Some(4 * MIB + 512));
        assert_eq!(fs::metadata(&spec.path).unwrap().len(), 4 * MIB + 1);
        let after = fs::read(&spec.path).unwrap();
        assert_eq!(after[..before.len()], before, "the image was written");
        rig.unplug(&plan).await;
        assert_eq!(rig.size(&plan).await, None);
        let gone = rig.hypervisor.resize(rig.uuid, &plan, MIB).await;
        assert_eq!(gone.unwrap(), None);
    }
    rig.done();
}

/// QEMU limits a disk as it is told, and again otherwise. Not a test of its own: an embedded libvirt takes no more connections in one process.
async fn limits_change(rig: &Rig) {
    let mut options = on(Bus::Virtio);
    let first = IoTune {
        total_iops_sec: Some(500),
        total_iops_sec_max: Some(1000),
        total_iops_sec_max_length: Some(3),
        group_name: Some("tenant-1".to_owned()),
        ..IoTune::default()
    };
    options.iotune = Some(first.clone());
    options.scope = Scope::LiveAndConfig;
    let spec = rig.disk("limited", Access::ReadWrite, options);
    let plan = rig.plug(&spec).await.unwrap();
    let limits = || async { rig.hypervisor.io_tune(rig.uuid, &plan).await.unwrap() };
    assert_eq!(limits().await, Some(first.clone()));

    let other = IoTune {
        read_bytes_sec: Some(1 << 20),
        write_bytes_sec: Some(2 << 20),
        write_iops_sec: Some(100),
        size_iops_sec: Some(4096),
        ..IoTune::default()
    };
    // The persistent configuration can still be started: libvirt refuses a group without limits.
    let definable = |xml: &str| {
        let connect = rig.guest.domain.connect().unwrap();
        connect.define_domain_xml(xml).unwrap();
    };
    for tune in [other.clone(), first, IoTune::default(), other] {
        let set = rig.hypervisor.set_io_tune(rig.uuid, &plan, &tune).await;
        assert_eq!(set.unwrap(), Some(()));
        assert_eq!(limits().await, Some(tune));
        let domain = &rig.guest.domain;
        definable(&domain.xml_desc(virt_sys::VIR_DOMAIN_XML_INACTIVE).unwrap());
    }
    let domain = &rig.guest.domain;
    let xml = domain.xml_desc(virt_sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
    assert!(xml.contains("<read_bytes_sec>1048576<"), "{xml}");
    assert!(!xml.contains("total_iops_sec"), "{xml}");

    // A disk joins a group by the group's own limits alone.
    let grouped = |limit: u64| {
        let mut options = on(Bus::Virtio);
        options.iotune = Some(IoTune {
            total_iops_sec: Some(limit),
            group_name: Some("tenant-2".to_owned()),
            ..IoTune::default()
        });
        options
    };
    let first = rig.disk("first", Access::ReadWrite, grouped(500));
    let first = rig.plug(&first).await.unwrap();
    let second = rig.disk("second", Access::ReadWrite, grouped(700));
    let refused = rig.plug(&second).await;
    assert_eq!(reason(refused), Reason::DiskOptionInvalid);
    rig.unplug(&first).await;

    rig.unplug(&plan).await;
    assert_eq!(limits().await, None);
    let none = IoTune::default();
    let gone = rig.hypervisor.set_io_tune(rig.uuid, &plan, &none).await;
    assert_eq!(gone.unwrap(), None);
}

#[tokio::test]
async fn a_new_size_is_told_to_no_guest_that_may_only_read() {
    let rig = Rig::new().await;
    for bus in [Bus::Virtio, Bus::Scsi] {
        let spec = rig.disk(&format!("fixed-{bus}"), Access::ReadOnly, on(bus));
        let plan = rig.plug(&spec).await.unwrap();
        let file = fs::File::options().write(true).open(&spec.path).unwrap();
        let same = rig.hypervisor.resize(rig.uuid, &plan, MIB).await;
        assert_eq!(same.unwrap(), Some(MIB));
        file.set_len(2 * MIB).unwrap();
        let refused = rig.hypervisor.resize(rig.uuid, &plan, 2 * MIB).await;
        assert_eq!(reason(refused), Reason::ResizeUnsupported);
        // libvirt and QEMU themselves refuse, not this project alone.
        let flags = virt_sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES;
        let domain = &rig.guest.domain;
        domain
            .block_resize(&plan.target, 2 * MIB, flags)
            .unwrap_err();
        assert_eq!(rig.size(&plan).await, Some(MIB));
        rig.unplug(&plan).await;
        let plan = rig.plug(&spec).await.unwrap();
        assert_eq!(rig.size(&plan).await, Some(2 * MIB));
        rig.unplug(&plan).await;
    }
    rig.done();
}

#[tokio::test]
async fn qemu_grows_an_image_that_it_has_open() {
    let rig = Rig::new().await;
    let mut spec = rig.disk("image", Access::ReadWrite, on(Bus::Virtio));
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .args([spec.path.as_os_str(), "1M".as_ref()])
        .status();
    assert!(made.unwrap().success(), "qemu-img create");
    spec.format = ImageFormat::Qcow2;
    let seen = rig.guest.lines();
    let plan = rig.plug(&spec).await.unwrap();
    rig.guest.wait_for("GUEST disk=vda size=2048 ", seen);
    let grown = rig.hypervisor.resize(rig.uuid, &plan, 5 * MIB).await;
    assert_eq!(grown.unwrap(), Some(5 * MIB));
    rig.guest.wait_for("GUEST resized=vda size=10240", seen);
    rig.unplug(&plan).await;
    let header = fs::read(&spec.path).unwrap();
    // The virtual size, by docs/interop/qcow2.txt of QEMU.
    assert_eq!(header[24..32], (5 * MIB).to_be_bytes());
    rig.done();
}
