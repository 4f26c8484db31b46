//! A daemon's server without a daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use volattach::api::v1::volume_attach_client::VolumeAttachClient;
use volattach::api::{Api, PeerStream, incoming, limited, server, v1};
use volattach::attach::Engine;
use volattach::auth::{Authenticator, Keystone, LocalPeers, Peer, PeerCredentials};
use volattach::config::{Limits, Settings};
use volattach::host::Host;

use crate::fakes::{World, admission};
use crate::socket;

pub(crate) type Client = VolumeAttachClient<Channel>;

/// A server that serves until it is dropped.
pub(crate) struct Server {
    pub(crate) world: World,
    pub(crate) engine: Engine,
    pub(crate) api: Api,
    pub(crate) socket: PathBuf,
    /// Holds the socket.
    _dir: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The limits that there are, and no rate: tests are fast.
fn limits() -> Limits {
    Limits {
        calls_per_second: 1_000_000,
        burst: 1_000_000,
        ..Settings::built_in().limits
    }
}

/// A host of these files, beneath `root`.
fn host(root: PathBuf) -> Host {
    for (path, text) in [
        (
            "etc/iscsi/initiatorname.iscsi",
            "InitiatorName=iqn.1993-08.org.debian:01:5f2",
        ),
        ("run/multipathd.pid", "7"),
        ("proc/7/comm", "multipathd"),
        ("etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1"),
        ("etc/nvme/hostid", "7c9e6679-7425-40de-944b-e07fc1f90ae7"),
        ("sys/module/nvme_core/parameters/multipath", "Y"),
        ("sys/module/nvme_fabrics/refcnt", "0"),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Host::beneath(root)
}

/// Knows this process' user.
fn authenticator() -> Authenticator {
    let own_uid = nix::unistd::Uid::effective().as_raw();
    Authenticator::new(LocalPeers::with_ids(own_uid, None))
}

impl Server {
    /// Serves this process, whoever runs it.
    pub(crate) async fn start() -> Self {
        Self::start_with(limits()).await
    }

    /// The same, within these limits.
    pub(crate) async fn start_with(limits: Limits) -> Self {
        let peer = |stream| {
            let peer = PeerCredentials::of(&stream).unwrap();
            PeerStream::unix(stream, Some(Peer::Local(peer)))
        };
        Self::serve(limits, authenticator(), peer).await
    }

    /// Takes every caller for one who is nobody to it, or (`None`) whom the kernel does not tell.
    pub(crate) async fn start_for_strangers(peer: Option<PeerCredentials>) -> Self {
        let peer = move |stream| PeerStream::unix(stream, peer.clone().map(Peer::Local));
        Self::serve(limits(), authenticator(), peer).await
    }

    /// As [`Self::start`], with this Keystone to ask about tokens.
    pub(crate) async fn start_with_keystone(keystone: Keystone) -> Self {
        let authenticator = authenticator().with_keystone(keystone);
        let peer = |stream| PeerStream::unix(stream, None);
        Self::serve(limits(), authenticator, peer).await
    }

    async fn serve(
        limits: Limits,
        authenticator: Authenticator,
        peer: impl Fn(UnixStream) -> PeerStream + Send + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let world = World::of(crate::DIALECT);
        world.state().work = limits.work;
        let engine = world.engine();
        let host = Arc::new(host(dir.path().join("host")));
        let api = Api::new(
            engine.clone(),
            host,
            authenticator,
            Arc::new(admission()),
            &limits,
        )
        .await
        .unwrap();
        let server = server(&limits).add_routes(api.routes());
        let accepted = tokio_stream::wrappers::UnixListenerStream::new(listener)
            .map(move |stream| stream.map(&peer));
        let serving = tokio::spawn(async move {
            let accepted = limited(accepted, watch::channel(limits).1, PeerStream::user);
            server.serve_with_incoming(accepted).await.unwrap();
        });
        Self {
            world,
            engine,
            api,
            socket,
            _dir: dir,
            serving,
        }
    }

    /// The same server, as the daemon accepts connections.
    pub(crate) async fn also_listen(&self) -> (PathBuf, tokio::task::JoinHandle<()>) {
        let socket = self.socket.with_extension("2");
        let listener = UnixListener::bind(&socket).unwrap();
        let limits = limits();
        let server = server(&limits).add_routes(self.api.routes());
        let serving = tokio::spawn(async move {
            server
                .serve_with_incoming(limited(
                    incoming(listener),
                    watch::channel(limits).1,
                    PeerStream::user,
                ))
                .await
                .unwrap();
        });
        (socket, serving)
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(self.socket.clone()).await
    }

    pub(crate) async fn client(&self) -> Client {
        VolumeAttachClient::new(self.channel().await)
    }
}

pub(crate) async fn channel(path: PathBuf) -> Channel {
    let endpoint = Endpoint::from_static("http://server.invalid")
        // Small, so that a watch that is not read fills up soon.
        .initial_stream_window_size(64 * 1024);
    socket::connect(endpoint, &path).await.unwrap()
}

/// Connection info of an SMB volume of that name, as Cinder writes it; the password is `hunter2`.
pub(crate) fn cinder(name: &str) -> String {
    format!(
        r#"{{"driver_volume_type":"smbfs","data":{{"export":"//files/vols","name":"{name}","options":"-o username=bob,password=hunter2"}}}}"#
    )
}

pub(crate) fn info(json: &str) -> Option<v1::ConnectionInfo> {
    Some(v1::ConnectionInfo {
        form: Some(v1::connection_info::Form::CinderJson(json.to_owned())),
    })
}

/// An attach of volume `v-ID` to the world's domain.
pub(crate) fn attach(id: &str) -> v1::AttachVolumeRequest {
    v1::AttachVolumeRequest {
        attachment_id: id.to_owned(),
        volume_id: format!("v-{id}"),
        domain: "web".to_owned(),
        connection_info: info(&cinder(id)),
        ..Default::default()
    }
}

/// A connect of volume `v-ID`.
pub(crate) fn connect(id: &str) -> v1::ConnectVolumeRequest {
    v1::ConnectVolumeRequest {
        attachment_id: id.to_owned(),
        volume_id: format!("v-{id}"),
        connection_info: info(&cinder(id)),
        ..Default::default()
    }
}

pub(crate) fn detach(id: &str) -> v1::DetachVolumeRequest {
    v1::DetachVolumeRequest {
        attachment_id: id.to_owned(),
        force: false,
    }
}

pub(crate) fn cancel(id: &str) -> v1::CancelDetachRequest {
    v1::CancelDetachRequest {
        attachment_id: id.to_owned(),
    }
}

pub(crate) fn forget(id: &str, confirmed: bool) -> v1::ForgetAttachmentRequest {
    v1::ForgetAttachmentRequest {
        attachment_id: id.to_owned(),
        confirmed,
    }
}

pub(crate) fn io_tune(id: &str, limits: v1::IoTune) -> v1::SetIoTuneRequest {
    v1::SetIoTuneRequest {
        attachment_id: id.into(),
        limits: Some(v1::set_io_tune_request::Limits::Iotune(limits)),
    }
}

pub(crate) fn extend(id: &str, size_bytes: u64) -> v1::ExtendVolumeRequest {
    v1::ExtendVolumeRequest {
        attachment_id: id.to_owned(),
        size_bytes,
    }
}

pub(crate) fn get(id: &str) -> v1::GetAttachmentRequest {
    v1::GetAttachmentRequest {
        attachment_id: id.to_owned(),
    }
}

/// What must come, within what is far more than it takes.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("it never came")
}
