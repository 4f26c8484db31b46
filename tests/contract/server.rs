//! A daemon's server without a daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};
use volattach::api::v1::volume_attach_client::VolumeAttachClient;
use volattach::api::{Api, LocalStream, incoming, v1};
use volattach::attach::Engine;
use volattach::auth::{LocalPeers, PeerCredentials};
use volattach::host::Host;

use crate::fakes::World;

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

impl Server {
    /// Serves this process, whoever runs it.
    pub(crate) async fn start() -> Self {
        Self::serve(|stream| {
            let peer = PeerCredentials::of(&stream).unwrap();
            LocalStream::new(stream, Some(peer))
        })
        .await
    }

    /// Takes every caller for one who is nobody to it, or (`None`) whom the kernel does not tell.
    pub(crate) async fn start_for_strangers(peer: Option<PeerCredentials>) -> Self {
        Self::serve(move |stream| LocalStream::new(stream, peer.clone())).await
    }

    async fn serve(peer: impl Fn(UnixStream) -> LocalStream + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let world = World::of(crate::DIALECT);
        let engine = world.engine();
        let own_uid = nix::unistd::Uid::effective().as_raw();
        let peers = LocalPeers::with_ids(own_uid, None);
        let host = Arc::new(host(dir.path().join("host")));
        let api = Api::new(engine.clone(), host, peers).await.unwrap();
        let server = tonic::transport::Server::builder().add_routes(api.routes());
        let accepted = tokio_stream::wrappers::UnixListenerStream::new(listener)
            .map(move |stream| stream.map(&peer));
        let serving = tokio::spawn(async move {
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
        let server = tonic::transport::Server::builder().add_routes(self.api.routes());
        let serving = tokio::spawn(async move {
            server
                .serve_with_incoming(incoming(listener))
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

pub(crate) async fn channel(socket: PathBuf) -> Channel {
    Endpoint::from_static("http://server.invalid")
        // Small, so that a watch that is not read fills up soon.
        .initial_stream_window_size(64 * 1024)
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
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
