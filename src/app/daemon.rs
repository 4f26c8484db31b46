//! A daemon: its parts, and its life from the first call to the last.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::stream::select_all;
use futures::{Stream, StreamExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::listen::Socket;
use super::{health, policy, state, supervisor};
use crate::admission::Admission;
use crate::api::{self, Api, Guarded, PeerStream};
use crate::attach::{Engine, Parts};
use crate::auth::{Authenticator, Keystone, LocalPeers, TlsServer};
use crate::backend::iscsi::IscsiBackend;
use crate::backend::local::LocalBackend;
use crate::backend::nfs::NfsBackend;
use crate::backend::nvmeof::NvmeBackend;
use crate::backend::smb::SmbBackend;
use crate::backend::{Backend, Backends, Quarantine};
use crate::config::{Limits, Settings};
use crate::host::{self, Host};
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

/// How often the files that are read again when they change are looked at: certificates, keys, authorities, and the
/// policy's. One that has changed is read at the look after, when it is at rest.
const FILES_CLOCK: Duration = Duration::from_secs(1);

/// A daemon that does not serve yet.
pub(super) struct Daemon {
    engine: Engine,
    api: Api,
    admission: Arc<Admission>,
    /// For callers over the network.
    tls: Option<Arc<TlsServer>>,
    limits: Limits,
    /// Why the journal cannot be written.
    failing: watch::Receiver<Option<String>>,
}

impl Daemon {
    /// Puts one together. libvirt need not be there: it is connected to when a call needs it.
    ///
    /// # Errors
    /// Where the state directory or the policy cannot be used, the group that may call cannot be looked up, or a file that
    /// tells callers apart cannot be used.
    pub(super) async fn new(settings: &Settings, workers: Workers) -> anyhow::Result<Self> {
        let state = state::open(settings)?;
        let host = Arc::new(Host::this());
        let quarantine = Quarantine::new(workers.registry().clone());
        let backends: [Arc<dyn Backend>; 5] = [
            Arc::new(LocalBackend::new(settings.local.clone())),
            Arc::new(SmbBackend::new(
                settings.smb.clone(),
                state.mount_base.clone(),
                state.key.clone(),
                workers.clone(),
                host.clone(),
            )),
            Arc::new(NfsBackend::new(
                settings.nfs.clone(),
                state.mount_base,
                state.key.clone(),
                workers.clone(),
                host.clone(),
            )),
            Arc::new(IscsiBackend::new(
                settings.iscsi.clone(),
                workers.clone(),
                quarantine.clone(),
            )),
            Arc::new(NvmeBackend::new(
                settings.nvmeof.clone(),
                host.clone(),
                workers,
                quarantine.clone(),
            )),
        ];
        let failing = state.journal.failing();
        let engine = Engine::new(Parts {
            journal: Arc::new(state.journal),
            backends: Backends::new(backends, quarantine),
            hypervisor: Arc::new(Libvirt::new(&settings.libvirt)),
            key: state.key,
            unplug_timeout: settings.detach.unplug_timeout,
            work: settings.limits.work,
            boot: host::boot(),
        });
        engine.recall().await.context("cannot read the journal")?;
        let (authenticator, tls) = callers(settings)?;
        let audit_role = settings.keystone.as_ref();
        let audit_role = audit_role.and_then(|keystone| keystone.audit_role.clone());
        let admission = Arc::new(Admission::new(policy::open(settings)?, audit_role));
        let api = Api::new(
            engine.clone(),
            host,
            authenticator,
            admission.clone(),
            &settings.limits,
        )
        .await
        .context("cannot put the API together")?;
        Ok(Self {
            engine,
            api,
            admission,
            tls,
            limits: settings.limits.clone(),
            failing,
        })
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
        let incoming = self.incoming(&socket);
        let incoming = incoming.context("cannot listen with the async runtime")?;
        let closing = CancellationToken::new();
        let server = api::server(&self.limits)
            .add_routes(self.api.routes())
            .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
        let mut server = tokio::spawn(server);
        let reconciling = tokio::spawn({
            let engine = self.engine.clone();
            async move { reconcile::run(&engine).await }
        });
        let refreshing = tokio::spawn({
            let (admission, tls) = (self.admission.clone(), self.tls.clone());
            async move {
                let mut clock = tokio::time::interval(FILES_CLOCK);
                clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    clock.tick().await;
                    let (admission, tls) = (admission.clone(), tls.clone());
                    let looked = tokio::task::spawn_blocking(move || {
                        if let Some(tls) = &tls {
                            tls.refresh();
                        }
                        admission.refresh();
                    });
                    if let Err(error) = looked.await {
                        tracing::error!(%error, "cannot look whether files have changed");
                    }
                }
            }
        });
        let watchdog = tokio::spawn(supervisor::keep_watchdog());
        let reporting = tokio::spawn(health::report(self.api.health(), self.failing.clone()));

        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        supervisor::ready();
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
        reporting.abort();
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
        refreshing.abort();
        watchdog.abort();
        closing.cancel();
        if tokio::time::timeout(CLOSE, &mut server).await.is_err() {
            server.abort();
        }
        drop(socket);
        tracing::info!("stopped");
        Ok(())
    }

    /// The connections of every socket.
    fn incoming(
        &self,
        socket: &Socket,
    ) -> std::io::Result<impl Stream<Item = std::io::Result<Guarded<PeerStream>>> + Send + use<>>
    {
        let unix = UnixListener::from_std(socket.listener.try_clone()?)?;
        let limited = |incoming| api::limited(incoming, self.limits.clone(), PeerStream::user);
        let mut incoming = vec![limited(api::incoming(unix).boxed()).boxed()];
        if let Some(tls) = &self.tls {
            for listener in &socket.tcp {
                let tcp = TcpListener::from_std(listener.try_clone()?)?;
                incoming.push(limited(api::incoming_tls(tcp, tls.clone()).boxed()).boxed());
            }
        }
        Ok(select_all(incoming))
    }
}

/// Whoever may call by the settings, and what those over the network are met with.
///
/// # Errors
/// Where a file that the settings name, or the group database, cannot be read.
pub(super) fn callers(
    settings: &Settings,
) -> anyhow::Result<(Authenticator, Option<Arc<TlsServer>>)> {
    let tls = settings.listen.tls.as_ref().map(TlsServer::new);
    let tls = tls.transpose()?.map(Arc::new);
    let mut authenticator = Authenticator::new(LocalPeers::new(settings)?);
    if let Some(tls) = &tls {
        let roles = settings.auth.certificates.clone();
        authenticator = authenticator.with_certificates(tls.clone(), roles);
    }
    if let Some(keystone) = &settings.keystone {
        authenticator = authenticator.with_keystone(Keystone::new(keystone)?);
    }
    Ok((authenticator, tls))
}
