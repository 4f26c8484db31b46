//! A libvirtd that hangs, dies and comes back: calls fail in time, and events go on afterwards.
//!
//! The libvirtd is the test's own, run without privileges; its one guest has nothing to boot, which a SCSI disk does
//! not need: QEMU unplugs it by itself.

#![cfg(test)]

mod fakes;
#[path = "libvirtd/life.rs"]
mod life;
#[path = "embed/scratch.rs"]
mod scratch;

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use scratch::Scratch;
use tokio::time::{Instant, sleep, timeout};
use virt::connect::Connect;
use volattach::config;
use volattach::libvirt::{
    DomainEvent, DomainView, Hypervisor, HypervisorError, Libvirt, Unplug, plan_disk,
    run_event_loop,
};
use volattach::model::{
    Access, Bus, DiskOptions, DiskSpec, DomainRef, ImageFormat, Reason, Scope, SourceKind,
};

/// For what happens within seconds unless something is broken.
const LONG: Duration = Duration::from_secs(60);

/// A libvirtd of the test's own.
struct Daemon {
    scratch: Scratch,
    user: Option<User>,
    child: Child,
}

impl Daemon {
    fn start(name: &str) -> Self {
        let scratch = Scratch::new(name);
        // As root it would be the machine's libvirtd, and use its directories.
        let user = Uid::effective().is_root().then(|| {
            let user = User::from_name("libvirt-qemu").unwrap();
            user.expect("the user libvirt-qemu: run `make deps`")
        });
        fs::write(scratch.root().join("libvirtd.conf"), "").unwrap();
        if let Some(user) = &user {
            chown(
                scratch.root(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )
            .unwrap();
        }
        let child = spawn(&scratch, user.as_ref());
        Self {
            scratch,
            user,
            child,
        }
    }

    fn restart(&mut self) {
        self.child = spawn(&self.scratch, self.user.as_ref());
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.scratch.root().join("libvirt/libvirt-sock")
    }

    fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket().display())
    }

    fn hypervisor(&self, call_timeout: Duration) -> Libvirt {
        run_event_loop().unwrap();
        Libvirt::new(&config::Libvirt {
            uri: self.uri(),
            call_timeout,
        })
    }

    /// The QEMU of a domain.
    fn qemu(&self, domain: &str) -> Pid {
        let file = self
            .scratch
            .root()
            .join(format!("libvirt/qemu/run/{domain}.pid"));
        let pid = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        Pid::from_raw(pid.trim().parse().unwrap())
    }

    /// A connection of the test's own.
    async fn connect(&self) -> Connect {
        run_event_loop().unwrap();
        let deadline = Instant::now() + LONG;
        loop {
            match Connect::open(Some(&self.uri())) {
                Ok(connect) => return connect,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn spawn(scratch: &Scratch, user: Option<&User>) -> Child {
    let root = scratch.root();
    let mut command = Command::new("/usr/sbin/libvirtd");
    command
        .arg("--config")
        .arg(root.join("libvirtd.conf"))
        .arg("--pid-file")
        .arg(root.join("libvirtd.pid"))
        .env("HOME", root)
        .env("XDG_RUNTIME_DIR", root)
        .env("XDG_CONFIG_HOME", root.join("config"))
        .env("XDG_CACHE_HOME", root.join("cache"))
        .current_dir(root)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.spawn().unwrap()
}

/// Tries until libvirt answers.
async fn domain(hypervisor: &Libvirt) -> DomainView {
    let name = DomainRef::Name("idle".into());
    let deadline = Instant::now() + LONG;
    loop {
        match hypervisor.domain(&name, Scope::LiveAndConfig).await {
            Ok(view) => return view,
            Err(HypervisorError::Unavailable { .. }) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn unavailable(hypervisor: &Libvirt) {
    let name = DomainRef::Name("idle".into());
    let call = timeout(LONG, hypervisor.domain(&name, Scope::LiveAndConfig));
    let error = call.await.expect("an answer in time").unwrap_err();
    assert_eq!(error.reason(), Reason::HypervisorUnavailable, "{error}");
}

const IDLE: &str = "<domain type='qemu'>
    <name>idle</name>
    <memory unit='MiB'>32</memory>
    <os><type arch='x86_64' machine='q35'>hvm</type></os>
    <devices>
      <emulator>/usr/bin/qemu-system-x86_64</emulator>
      <controller type='usb' model='none'/>
      <controller type='scsi' index='0' model='virtio-scsi'/>
      <memballoon model='none'/>
    </devices>
  </domain>";

fn spec(daemon: &Daemon) -> DiskSpec {
    DiskSpec {
        attachment: "a1".parse().unwrap(),
        volume: "v1".parse().unwrap(),
        path: daemon.scratch.image("v1.raw", 1 << 20),
        kind: SourceKind::File,
        format: ImageFormat::Raw,
        access: Access::ReadOnly,
        keeps_owner: false,
        options: DiskOptions {
            bus: Some(Bus::Scsi),
            ..DiskOptions::default()
        },
    }
}

#[tokio::test]
async fn a_hung_qemu_is_left_alone_and_holds_up_nobody() {
    let daemon = Daemon::start("hung-qemu");
    let connect = daemon.connect().await;
    for name in ["hangs", "idle"] {
        let xml = IDLE.replace("<name>idle<", &format!("<name>{name}<"));
        connect.define_domain_xml(&xml).unwrap().create().unwrap();
    }
    let hypervisor = daemon.hypervisor(Duration::from_secs(2));
    let idle = domain(&hypervisor).await;
    let name = DomainRef::Name("hangs".into());
    let view = hypervisor.domain(&name, Scope::Live).await.unwrap();
    let uuid = view.domain.uuid;
    let plan = plan_disk(&view, &spec(&daemon)).unwrap();

    let qemu = daemon.qemu("hangs");
    kill(qemu, Signal::SIGSTOP).unwrap();
    for _ in 0..3 {
        let plugged = timeout(LONG, hypervisor.plug(uuid, &plan));
        let error = plugged.await.expect("an answer in time").unwrap_err();
        assert_eq!(error.reason(), Reason::HypervisorUnavailable, "{error}");
        assert!(
            error.to_string().contains("left alone until it ends"),
            "{error}"
        );
    }
    // What came of the plug is not known: nobody is told that the disk is not there.
    assert!(hypervisor.has_disk(uuid, &plan).await.is_err());
    let other = plan_disk(&idle, &spec(&daemon)).unwrap();
    hypervisor.plug(idle.domain.uuid, &other).await.unwrap();

    kill(qemu, Signal::SIGCONT).unwrap();
    let deadline = Instant::now() + LONG;
    loop {
        match hypervisor.has_disk(uuid, &plan).await {
            Ok(there) => break assert!(there, "the plug went on"),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn libvirtd_hangs_dies_and_comes_back() {
    let mut daemon = Daemon::start("libvirtd");
    let connect = daemon.connect().await;
    let defined = connect.define_domain_xml(IDLE).unwrap();
    defined.create().unwrap();
    drop((defined, connect));

    let hypervisor = daemon.hypervisor(Duration::from_secs(15));
    let mut events = hypervisor.events();
    let view = domain(&hypervisor).await;
    let uuid = view.domain.uuid;
    let plan = plan_disk(&view, &spec(&daemon)).unwrap();
    hypervisor.plug(uuid, &plan).await.unwrap();

    // It hangs: keep-alive ends the call that waits, and the new connection of the next is waited for as long as for a call,
    // once.
    daemon.signal(Signal::SIGSTOP);
    for _ in 0..3 {
        unavailable(&hypervisor).await;
    }
    daemon.signal(Signal::SIGCONT);
    domain(&hypervisor).await;

    // It dies, is away for a while, and comes back: the guest has outlived it, and so has the disk.
    daemon.signal(Signal::SIGKILL);
    daemon.child.wait().unwrap();
    unavailable(&hypervisor).await;
    daemon.restart();
    domain(&hypervisor).await;
    assert!(hypervisor.has_disk(uuid, &plan).await.unwrap());

    hypervisor.request_unplug(uuid, &plan).await.unwrap();
    let outcome = hypervisor.wait_unplugged(uuid, &plan, Instant::now() + LONG);
    assert_eq!(outcome.await.unwrap(), Unplug::Gone);
    let gone = DomainEvent::DiskGone {
        domain: uuid,
        alias: plan.alias,
    };
    let mut missed = 0;
    loop {
        match timeout(LONG, events.recv()).await.unwrap().unwrap() {
            DomainEvent::Missed => missed += 1,
            event => break assert_eq!(event, gone),
        }
    }
    // After it hung, and after it died; the event connection may have been opened twice.
    assert!(missed >= 2, "{missed}");
}
