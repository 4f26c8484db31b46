//! The part of the benchmarks that runs in the node: attaches an SMB volume by volattachd and by bare calls in turns, connects a
//! volume by volattachd, or mounts an NFS export by bare workers, and tells how long each took.

use std::{
    fs,
    io::{stdin, stdout},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    runtime::Runtime,
};
use tonic::transport::{Channel, Endpoint, Uri};
use virt::{connect::Connect, domain::Domain};
use virt_sys::VIR_DOMAIN_AFFECT_LIVE;
use volattach::{
    api::v1::{
        AttachVolumeRequest, Attachment, ConnectVolumeRequest, ConnectionInfo, DetachVolumeRequest,
        DisconnectVolumeRequest, PlanAttachRequest, connection_info::Form,
        volume_attach_client::VolumeAttachClient,
    },
    sys::{
        mount,
        worker::{self, InspectJob, MountJob, Workers},
    },
};

use crate::process::wait_for;

const SOCKET: &str = "/run/volattach/volattachd.sock";
const CONSOLE: &str = "/var/log/lab/inner.console";
/// Where the bare mount is.
const TARGET: &str = "/mnt/bench";
const SMB_PORT: u16 = 445;
const WORKER: &str = "/usr/sbin/volattachd-worker";
/// What is written there stands among the kernel's events.
const MARKER: &str = "/sys/kernel/tracing/trace_marker";
/// The volume's and the attachment's id.
const ID: &str = "bench";

/// What to do, on stdin.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// SMB attaches and bare calls, to the inner guest; gives a list of [`Pair`]s.
    Smb(SmbJob),
    /// Connects and disconnects of a volume, this often, by its connection info; gives a list of [`Round`]s.
    Connect { info: String, rounds: usize },
    /// Mounts and unmounts of an NFS export, each by a worker process and nothing else; gives a list of [`Round`]s.
    BareNfs {
        address: String,
        export: String,
        rounds: usize,
    },
}

/// A volume on an SMB share.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SmbJob {
    pub(crate) address: String,
    pub(crate) share: String,
    pub(crate) file: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) pairs: usize,
}

/// How long an attach took each way, in seconds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pair {
    /// AttachVolume over gRPC.
    pub(crate) ours: f64,
    /// mount(2), then virDomainAttachDeviceFlags.
    pub(crate) bare: f64,
    /// The same by bare calls with what must not be left out: the server is asked for a sign of life, a worker process mounts, and
    /// opens the volume beneath the share.
    pub(crate) careful: f64,
}

/// How long each took, in seconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) connect: f64,
    pub(crate) disconnect: f64,
}

/// Does the job; what it gives goes to stdout.
pub(crate) fn run() -> Result<()> {
    match serde_json::from_reader(stdin())? {
        Job::Smb(job) => Ok(serde_json::to_writer(stdout(), &smb(&job)?)?),
        Job::Connect { info, rounds } => {
            Ok(serde_json::to_writer(stdout(), &connects(info, rounds)?)?)
        }
        Job::BareNfs {
            address,
            export,
            rounds,
        } => {
            let times = bare_nfs(&address, &export, rounds)?;
            Ok(serde_json::to_writer(stdout(), &times)?)
        }
    }
}

fn channel(runtime: &Runtime) -> Result<Channel> {
    let connector =
        tower::service_fn(|_: Uri| async { UnixStream::connect(SOCKET).await.map(TokioIo::new) });
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(runtime.block_on(endpoint.connect_with_connector(connector))?)
}

/// Waits for udev: what it does about a disk or mount is neither's work.
fn settle() -> Result<()> {
    wait_for("udev is idle", Duration::from_secs(60), || {
        Ok((!Path::new("/run/udev/queue").exists()).then_some(()))
    })
}

fn connects(info: String, rounds: usize) -> Result<Vec<Round>> {
    let runtime = Runtime::new()?;
    let mut client = VolumeAttachClient::new(channel(&runtime)?);
    let request = ConnectVolumeRequest {
        attachment_id: ID.into(),
        volume_id: ID.into(),
        connection_info: Some(ConnectionInfo {
            form: Some(Form::CinderJson(info)),
        }),
        ..Default::default()
    };
    let mut times = Vec::new();
    for _ in 0..rounds {
        settle()?;
        fs::write(MARKER, "connect")?;
        let begun = Instant::now();
        runtime.block_on(client.connect_volume(request.clone()))?;
        let connect = begun.elapsed().as_secs_f64();
        settle()?;
        fs::write(MARKER, "disconnect")?;
        let begun = Instant::now();
        runtime.block_on(client.disconnect_volume(DisconnectVolumeRequest {
            attachment_id: ID.into(),
            force: false,
        }))?;
        times.push(Round {
            connect,
            disconnect: begun.elapsed().as_secs_f64(),
        });
    }
    Ok(times)
}

/// What a connect and a disconnect cannot do without: no sign of life, no look at the volume, no journal.
fn bare_nfs(address: &str, export: &str, rounds: usize) -> Result<Vec<Round>> {
    let runtime = Runtime::new()?;
    fs::create_dir_all(TARGET)?;
    let mount = worker::Job::Mount(MountJob {
        source: format!("{address}:{export}"),
        target: TARGET.into(),
        fstype: "nfs4".into(),
        read_only: false,
        data: format!("vers=4.2,addr={address},clientaddr={address}"),
    });
    let unmount = worker::Job::Unmount(TARGET.into());
    let timed = |job: &worker::Job| -> Result<f64> {
        settle()?;
        let begun = Instant::now();
        runtime.block_on(async {
            let mut worker = Workers::from_executable(WORKER.into()).start()?;
            worker.give(std::slice::from_ref(job)).await?;
            worker.reply(Duration::from_secs(30)).await
        })?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let round = |_| {
        let (connect, disconnect) = (timed(&mount)?, timed(&unmount)?);
        Ok(Round {
            connect,
            disconnect,
        })
    };
    (0..rounds).map(round).collect()
}

fn smb(job: &SmbJob) -> Result<Vec<Pair>> {
    let bench = Bench::new(job)?;
    // The first attach warms up, and gives what the bare calls need.
    let (_, attachment, options) = bench.ours()?;
    let bare = bench.prepare_bare(job, &attachment)?;
    for careful in [false, true] {
        let (_, bare_options) = bench.bare(&bare, careful)?;
        ensure!(
            options == bare_options,
            "the mounts differ: {options} and {bare_options}"
        );
    }
    let mut pairs = Vec::new();
    for number in 0..job.pairs {
        let mut pair = Pair::default();
        for turn in 0..3 {
            // None always comes after the same other one.
            match (number + turn) % 3 {
                0 => pair.ours = bench.ours()?.0,
                1 => pair.bare = bench.bare(&bare, false)?.0,
                _ => pair.careful = bench.bare(&bare, true)?.0,
            }
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

struct Bench {
    runtime: Runtime,
    client: VolumeAttachClient<Channel>,
    request: AttachVolumeRequest,
    domain: Domain,
    // Closed after its domain.
    _libvirt: Connect,
}

/// What the bare calls are called with.
struct Bare {
    source: String,
    data: String,
    xml: String,
    /// The server's address, and the volume's name on the share.
    server: (String, u16),
    file: String,
}

impl Bench {
    fn new(job: &SmbJob) -> Result<Self> {
        let info = json!({
            "driver_volume_type": "smbfs",
            "data": {
                "export": format!("//{}/{}", job.address, job.share),
                "name": job.file,
                "format": "raw",
                "options": format!("-o username={},password={}", job.user, job.password),
            },
        });
        let request = AttachVolumeRequest {
            attachment_id: ID.into(),
            volume_id: ID.into(),
            domain: "inner".into(),
            connection_info: Some(ConnectionInfo {
                form: Some(Form::CinderJson(info.to_string())),
            }),
            ..Default::default()
        };
        let runtime = Runtime::new()?;
        let libvirt = Connect::open(Some("qemu:///system"))?;
        Ok(Self {
            client: VolumeAttachClient::new(channel(&runtime)?),
            runtime,
            request,
            domain: libvirt.lookup_domain_by_name("inner")?,
            _libvirt: libvirt,
        })
    }

    /// An attach by volattachd, and its detach: how long the attach took, what it answered, and the mount's options.
    fn ours(&self) -> Result<(f64, Attachment, String)> {
        let mut client = self.client.clone();
        let seen = calm()?;
        let begun = Instant::now();
        let answer = self
            .runtime
            .block_on(client.attach_volume(self.request.clone()))?;
        let took = begun.elapsed().as_secs_f64();
        let attachment = answer.into_inner().attachment.context("no attachment")?;
        let mount_point = Path::new(&attachment.host_path)
            .parent()
            .context("no mount point")?;
        let options = options(mount_point)?;
        guest_says("GUEST disk=", seen)?;
        let request = DetachVolumeRequest {
            attachment_id: ID.into(),
            force: false,
        };
        self.runtime.block_on(client.detach_volume(request))?;
        guest_says("GUEST gone=", seen)?;
        Ok((took, attachment, options))
    }

    /// What the bare calls need to do the same as volattachd did for `attachment`.
    fn prepare_bare(&self, job: &SmbJob, attachment: &Attachment) -> Result<Bare> {
        let request = PlanAttachRequest {
            request: Some(self.request.clone()),
        };
        let plan = self
            .runtime
            .block_on(self.client.clone().plan_attach(request))?;
        let planned = plan.into_inner().mount.context("a plan without a mount")?;
        let flags = format!("rw,{},", mount::FLAGS);
        let data = planned
            .options
            .strip_prefix(&flags)
            .context("other flags")?;
        let path = PathBuf::from(TARGET).join(&job.file);
        fs::create_dir_all(TARGET)?;
        Ok(Bare {
            source: planned.source,
            data: data.replace("[redacted]", &job.password),
            xml: attachment
                .disk_xml
                .replace(&attachment.host_path, &path.to_string_lossy()),
            server: (job.address.clone(), SMB_PORT),
            file: job.file.clone(),
        })
    }

    /// An attach by bare calls, and its detach: how long the attach took, and the mount's options.
    fn bare(&self, bare: &Bare, careful: bool) -> Result<(f64, String)> {
        let target = Path::new(TARGET);
        let seen = calm()?;
        let begun = Instant::now();
        match careful {
            true => self.runtime.block_on(bare.mount_carefully())?,
            false => mount::mount(&bare.source, target, "cifs", false, &bare.data)?,
        }
        self.domain
            .attach_device_flags(&bare.xml, VIR_DOMAIN_AFFECT_LIVE)?;
        let took = begun.elapsed().as_secs_f64();
        let options = options(target)?;
        guest_says("GUEST disk=", seen)?;
        self.domain
            .detach_device_flags(&bare.xml, VIR_DOMAIN_AFFECT_LIVE)?;
        guest_says("GUEST gone=", seen)?;
        // QEMU closes the file a moment after the guest has let go.
        wait_for(
            "the end of the bare mount",
            Duration::from_secs(30),
            || match mount::unmount(target) {
                Ok(()) => Ok(Some(())),
                Err(nix::errno::Errno::EBUSY) => Ok(None),
                Err(error) => Err(error.into()),
            },
        )?;
        Ok((took, options))
    }
}

impl Bare {
    async fn mount_carefully(&self) -> Result<()> {
        let mut worker = Workers::from_executable(WORKER.into()).start()?;
        let (host, port) = &self.server;
        negotiate(host, *port).await?;
        let jobs = [
            worker::Job::Mount(MountJob {
                source: self.source.clone(),
                target: TARGET.into(),
                fstype: "cifs".into(),
                read_only: false,
                data: self.data.clone(),
            }),
            worker::Job::Inspect(InspectJob {
                root: TARGET.into(),
                relative: self.file.clone().into(),
                write: true,
                head: 0,
                tail: 0,
                direct: false,
                user: None,
            }),
        ];
        worker.give(&jobs).await?;
        for _ in jobs {
            worker.reply(Duration::from_secs(30)).await?;
        }
        Ok(())
    }
}

/// Asks an SMB server which of the dialects 2.0.2 to 3.0.2 it speaks (MS-SMB2, 2.2.3), and waits for its answer.
async fn negotiate(host: &str, port: u16) -> Result<()> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let mut packet = vec![0; 4 + 64 + 36];
    packet[4..10].copy_from_slice(b"\xfeSMB\x40\0");
    packet[4 + 14] = 1; // a credit
    packet[4 + 64..][..6].copy_from_slice(&[36, 0, 4, 0, 1, 0]);
    packet.extend([0x02, 0x02, 0x10, 0x02, 0x00, 0x03, 0x02, 0x03]);
    packet[3] = u8::try_from(packet.len() - 4)?;
    stream.write_all(&packet).await?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; u32::from_be_bytes(length).try_into()?];
    stream.read_exact(&mut answer).await?;
    ensure!(
        answer.get(8..12) == Some(&[0; 4]),
        "the server refuses all dialects"
    );
    Ok(())
}

/// Waits until nothing is left of the attach before, a session that a mount could join above all; gives the console's
/// length.
fn calm() -> Result<usize> {
    wait_for(
        "the end of all CIFS sessions",
        Duration::from_secs(30),
        || {
            let sessions = fs::read_to_string("/proc/fs/cifs/DebugData")?;
            Ok((!sessions.contains("ConnectionId")).then_some(()))
        },
    )?;
    Ok(fs::read(CONSOLE)?.len())
}

/// Waits for a line on the guest's console, after its first `seen` bytes.
fn guest_says(start: &str, seen: usize) -> Result<()> {
    wait_for(start, Duration::from_secs(60), || {
        let console = fs::read(CONSOLE)?;
        let new = String::from_utf8_lossy(&console[seen..]).into_owned();
        Ok(new
            .lines()
            .any(|line| line.starts_with(start))
            .then_some(()))
    })
}

/// The options of the mount at `target`, as the kernel has them.
fn options(target: &Path) -> Result<String> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let target = target.to_string_lossy();
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(1) == Some(&&*target))
        .and_then(|fields| fields.get(3).map(ToString::to_string))
        .with_context(|| format!("nothing is mounted on {target}"))
}
