//! A daemon: its parts, and its life from the first call to the last.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use futures::stream::select_all;
use futures::{Stream, StreamExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::backends::AllBackends;
use super::listen::Socket;
use super::metrics::{self, Figures, IoFigures, MetricsSocket, PolicyFigures};
use super::reload::{Adjustable, Reloads};
use super::{health, policy, state, supervisor};
use crate::admission::Admission;
use crate::api::{self, Api, Guarded, PeerStream};
use crate::attach::{Engine, Parts, Tuning};
use crate::auth::{Authenticator, Keystone, LocalPeers, TlsServer};
use crate::backend::Lvm;
use crate::config::Settings;
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
    /// What it was put together by.
    settings: Settings,
    parts: Adjustable,
    /// Why the journal cannot be written.
    failing: watch::Receiver<Option<String>>,
    figures: Figures,
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
        let io = IoFigures::new(settings.metrics_io, state.mount_base.clone()).map(Arc::new);
        let backends = AllBackends::new(settings, state.mount_base, &state.key, workers, &host);
        let (failing, journal) = (state.journal.failing(), state.journal.figures());
        let lvm = Lvm::new("/");
        let libvirt = Arc::new(Libvirt::new(&settings.libvirt));
        let parts = Parts {
            journal: Arc::new(state.journal),
            lvm: lvm.clone(),
            hypervisor: libvirt.clone(),
            key: state.key,
            boot: host::boot(),
        };
        let tuning = Tuning {
            backends: backends.registry(),
            unplug_timeout: settings.detach.unplug_timeout,
            work: settings.limits.work,
        };
        let engine = Engine::new(parts, tuning);
        engine.recall().await.context("cannot read the journal")?;
        tokio::spawn(async move {
            if let Some(why) = lvm.activates().await {
                tracing::warn!(
                    why,
                    "LVM may take guests' disks into use; volattach doctor tells the cure"
                );
            }
        });
        let tls = tls(settings)?.map(Arc::new);
        let authenticator = authenticator(settings, tls.clone())?;
        let reloads = Arc::<PolicyFigures>::default();
        let policy = policy::open(settings, reloads.clone())?;
        let admission = Arc::new(Admission::new(policy, audit_role(settings)));
        let api = Api::new(
            engine.clone(),
            host,
            authenticator,
            admission.clone(),
            &settings.limits,
        )
        .await
        .context("cannot put the API together")?;
        let figures = Figures {
            engine: engine.clone(),
            api: api.figures(),
            journal,
            journal_failing: failing.clone(),
            policy: reloads,
            started: SystemTime::now(),
            io,
        };
        Ok(Self {
            settings: settings.clone(),
            figures,
            parts: Adjustable {
                engine,
                api: Arc::new(api),
                admission,
                tls,
                libvirt,
                backends,
                limits: Arc::new(watch::Sender::new(settings.limits.clone())),
                metrics_file: Arc::new(watch::Sender::new(settings.metrics_file.clone())),
            },
            failing,
        })
    }

    /// Serves calls on the socket, and figures on theirs, until `stop`, which tells what made it stop; then drains. `reloads`: `None` for
    /// never.
    ///
    /// # Errors
    /// Where it cannot go on serving.
    pub(super) async fn serve(
        self,
        socket: Socket,
        metrics: Option<MetricsSocket>,
        reloads: Option<Reloads>,
        stop: impl Future<Output = &'static str>,
    ) -> anyhow::Result<()> {
        let incoming = self.incoming(&socket);
        let incoming = incoming.context("cannot listen with the async runtime")?;
        let closing = CancellationToken::new();
        let server = api::server(&self.settings.limits)
            .add_routes(self.parts.api.routes())
            .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
        let mut server = tokio::spawn(server);
        let reconciling = tokio::spawn({
            let engine = self.parts.engine.clone();
            async move { reconcile::run(&engine).await }
        });
        let refreshing = tokio::spawn({
            let (admission, tls) = (self.parts.admission.clone(), self.parts.tls.clone());
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
        let reporting = tokio::spawn(health::report(
            self.parts.api.health(),
            self.failing.clone(),
        ));

        let measuring = tokio::spawn(metrics::keep_file(
            self.figures.clone(),
            self.parts.metrics_file.subscribe(),
        ));
        let counting = self.figures.io.clone().map(|io| {
            let engine = self.parts.engine.clone();
            tokio::spawn(async move { io.keep(&engine).await })
        });
        let scraped = metrics.map(|socket| socket.serve(self.figures.clone()));
        let scraped = scraped.transpose();
        let scraped = scraped.context("cannot serve figures (metrics_listen)")?;

        let reloading = async {
            match reloads {
                Some(reloads) => reloads.run(self.settings.clone(), self.parts.clone()).await,
                None => std::future::pending().await,
            }
        };

        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        supervisor::ready();
        let why = tokio::select! {
            why = stop => why,
            () = reloading => return Err(anyhow!("nothing reads the configuration again any more")),
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
        self.parts.api.drain().await;
        if tokio::time::timeout(DRAIN, self.parts.engine.drain())
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
        measuring.abort();
        counting.inspect(JoinHandle::abort);
        drop(scraped);
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
        let limits = || self.parts.limits.subscribe();
        let limited = |incoming| api::limited(incoming, limits(), PeerStream::user);
        let mut incoming = vec![limited(api::incoming(unix).boxed()).boxed()];
        if let Some(tls) = &self.parts.tls {
            for listener in &socket.tcp {
                let tcp = TcpListener::from_std(listener.try_clone()?)?;
                incoming.push(limited(api::incoming_tls(tcp, tls.clone()).boxed()).boxed());
            }
        }
        Ok(select_all(incoming))
    }
}

/// What callers over the network are met with.
///
/// # Errors
/// Where a file that the settings name cannot be used.
pub(super) fn tls(settings: &Settings) -> anyhow::Result<Option<TlsServer>> {
    let tls = settings.listen.tls.as_ref().map(TlsServer::new);
    Ok(tls.transpose()?)
}

/// Who may call by the settings; `tls`: what those over the network are met with.
///
/// # Errors
/// Where a file that the settings name, or the group database, cannot be read.
pub(super) fn authenticator(
    settings: &Settings,
    tls: Option<Arc<TlsServer>>,
) -> anyhow::Result<Authenticator> {
    let mut authenticator = Authenticator::new(LocalPeers::new(settings)?);
    if let Some(tls) = tls {
        let roles = settings.auth.certificates.clone();
        authenticator = authenticator.with_certificates(tls, roles);
    }
    if let Some(keystone) = &settings.keystone {
        authenticator = authenticator.with_keystone(Keystone::new(keystone)?);
    }
    Ok(authenticator)
}

/// The role by which a service alone may read everything.
pub(super) fn audit_role(settings: &Settings) -> Option<String> {
    let keystone = settings.keystone.as_ref();
    keystone.and_then(|keystone| keystone.audit_role.clone())
}
