//! A daemon: its parts, and its life from the first call to the last.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::listen::Socket;
use super::{state, supervisor};
use crate::api::{self, Api};
use crate::attach::{Engine, Parts};
use crate::auth::LocalPeers;
use crate::backend::iscsi::IscsiBackend;
use crate::backend::local::LocalBackend;
use crate::backend::nfs::NfsBackend;
use crate::backend::nvmeof::NvmeBackend;
use crate::backend::smb::SmbBackend;
use crate::backend::{Backend, Backends};
use crate::config::Settings;
use crate::host::Host;
use crate::libvirt::Libvirt;
use crate::reconcile;
use crate::sys::worker::Workers;

/// How long the calls under way may take to end, once the daemon is told to stop: more than the deadlines of one
/// connect add up to by default (33 s, where its server has one address and no other mount comes first), and less than
/// `TimeoutStopSec=` of the systemd unit. What has not ended by then, as an unmount from a dead server may not (90 s), is
/// in the journal, and goes on at the next start.
const DRAIN: Duration = Duration::from_secs(60);

/// How long connections may take to end after the last call has.
const CLOSE: Duration = Duration::from_secs(5);

/// A daemon that does not serve yet.
pub(super) struct Daemon {
    engine: Engine,
    api: Api,
}

impl Daemon {
    /// Puts one together. libvirt need not be there: it is connected to when a call needs it.
    ///
    /// # Errors
    /// Where the state directory cannot be used, or the group that may call cannot be looked up.
    pub(super) async fn new(settings: &Settings, workers: Workers) -> anyhow::Result<Self> {
        let state = state::open(settings)?;
        let host = Arc::new(Host::this());
        let backends: [Arc<dyn Backend>; 5] = [
            Arc::new(LocalBackend::new(settings.local.clone())),
            Arc::new(SmbBackend::new(
                settings.smb.clone(),
                state.mount_base.clone(),
                state.key.clone(),
                workers.clone(),
            )),
            Arc::new(NfsBackend::new(
                settings.nfs.clone(),
                state.mount_base,
                state.key.clone(),
                workers.clone(),
            )),
            Arc::new(IscsiBackend::new(settings.iscsi.clone(), workers.clone())),
            Arc::new(NvmeBackend::new(
                settings.nvmeof.clone(),
                host.clone(),
                workers,
            )),
        ];
        let engine = Engine::new(Parts {
            journal: Arc::new(state.journal),
            backends: Backends::new(backends),
            hypervisor: Arc::new(Libvirt::new(&settings.libvirt)),
            key: state.key,
            unplug_timeout: settings.detach.unplug_timeout,
        });
        engine.recall().await.context("cannot read the journal")?;
        let peers = LocalPeers::new(&settings.listen.group)?;
        let api = Api::new(engine.clone(), host, peers)
            .await
            .context("cannot put the API together")?;
        Ok(Self { engine, api })
    }

    /// Serves calls on the socket until `stop`, which tells what made it stop; then drains.
    ///
    /// # Errors
    /// Where it cannot go on serving.
    pub(super) async fn serve(
        self,
        socket: Socket,
        stop: impl Future<Output = &'static str>,
    ) -> anyhow::Result<()> {
        let listener = UnixListener::from_std(socket.listener.try_clone()?)
            .context("cannot listen with the async runtime")?;
        let closing = CancellationToken::new();
        let server = Server::builder()
            .add_routes(self.api.routes())
            .serve_with_incoming_shutdown(
                api::incoming(listener),
                closing.clone().cancelled_owned(),
            );
        let mut server = tokio::spawn(server);
        let reconciling = tokio::spawn({
            let engine = self.engine.clone();
            async move { reconcile::run(&engine).await }
        });
        let watchdog = tokio::spawn(supervisor::keep_watchdog());

        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        supervisor::ready("serving");
        let why = tokio::select! {
            why = stop => why,
            ended = &mut server => {
                return Err(match ended {
                    Ok(Ok(())) => anyhow!("the server ended by itself"),
                    Ok(Err(error)) => anyhow!(error).context("the server failed"),
                    Err(panicked) => anyhow!(panicked).context("the server failed"),
                });
            }
        };

        tracing::info!(why, "stopping: calls under way may end, no new ones begin");
        supervisor::stopping("waiting for the calls under way");
        self.api.drain().await;
        if tokio::time::timeout(DRAIN, self.engine.drain())
            .await
            .is_err()
        {
            tracing::warn!(
                "calls are still under way after {} s: they go on at the next start",
                DRAIN.as_secs()
            );
        }
        reconciling.abort();
        watchdog.abort();
        closing.cancel();
        if tokio::time::timeout(CLOSE, &mut server).await.is_err() {
            server.abort();
        }
        drop(socket);
        tracing::info!("stopped");
        Ok(())
    }
}
