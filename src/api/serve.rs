//! The services put together: `VolumeAttach`, health, reflection.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::callers::Callers;
use super::figures::ApiFigures;
use super::limit::Limiter;
use super::service::Service;
use super::strangers::Strangers;
use super::v1::volume_attach_server::{SERVICE_NAME as NAME, VolumeAttachServer};
use super::{MAX_REQUEST, MAX_RESPONSE, v1};
use crate::admission::Admission;
use crate::attach::Engine;
use crate::auth::Authenticator;
use crate::config::Limits;
use crate::host::Host;

/// The service's full name, as health checks name it.
pub const SERVICE_NAME: &str = NAME;

/// The largest header list of a call, in bytes, as HTTP/2 counts it (RFC 9113 6.5.2): two of Keystone's tokens have some 500 each.
const MAX_HEADERS: u32 = 16 * 1024;

/// How long a connection may take to give a sign of life that it is asked for.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// The largest request of health checks and reflection, in bytes, which need no more than a name: nobody is asked who calls
/// them.
const MAX_SMALL: usize = 4 * 1024;

/// A server whose connections each have their limits, to which [`Api::routes`] are to be added.
#[must_use]
pub fn server(limits: &Limits) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.streams)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(limits.keepalive))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
}

/// What health checks are answered.
#[derive(Clone)]
pub struct Health(HealthReporter);

impl Health {
    /// Answers SERVING or NOT_SERVING from now on, for the service and for the server as a whole.
    pub async fn set(&self, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in ["", SERVICE_NAME] {
            self.0.set_service_status(name, status).await;
        }
    }
}

/// The API: what to serve, and how to end it.
///
/// Serve [`Api::routes`] with [`server`] over [`super::incoming`] and [`super::incoming_tls`], within [`super::limited`];
/// connections of any other kind do not tell who calls, so their every call without tokens is refused.
pub struct Api {
    routes: Routes,
    health: Health,
    figures: ApiFigures,
    callers: Callers,
    limiter: Limiter,
    stopping: CancellationToken,
}

impl Api {
    /// The services over that engine on that host, for those whom the authenticator knows and admission
    /// lets in.
    ///
    /// # Errors
    /// Where the proto's descriptors, which are compiled in, cannot be read.
    pub async fn new(
        engine: Engine,
        host: Arc<Host>,
        authenticator: Authenticator,
        admission: Arc<Admission>,
        limits: &Limits,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let stopping = CancellationToken::new();
        let limiter = Limiter::new(limits.clone());
        let figures = ApiFigures::new(limiter.clone());
        let callers = Callers::new(authenticator);
        let service = VolumeAttachServer::new(Service {
            engine,
            host,
            callers: callers.clone(),
            admission,
            limiter: limiter.clone(),
            strangers: Strangers::default(),
            figures: figures.clone(),
            stopping: stopping.clone(),
        })
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_RESPONSE);

        let (health, health_service) = tonic_health::server::health_reporter();
        let health = Health(health);
        health.set(true).await;

        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let routes = Routes::new(service)
            .add_service(health_service.max_decoding_message_size(MAX_SMALL))
            .add_service(
                reflection()
                    .build_v1()?
                    .max_decoding_message_size(MAX_SMALL),
            )
            // Older clients (grpcurl before 1.9, grpcio-tools) ask in v1alpha only.
            .add_service(
                reflection()
                    .build_v1alpha()?
                    .max_decoding_message_size(MAX_SMALL),
            );
        Ok(Self {
            routes,
            health,
            figures,
            callers,
            limiter,
            stopping,
        })
    }

    /// The services, to be given to a server.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// What health checks are answered, to be changed.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// What the API counts.
    #[must_use]
    pub fn figures(&self) -> ApiFigures {
        self.figures.clone()
    }

    /// What tells who calls.
    #[must_use]
    pub fn authenticator(&self) -> Arc<Authenticator> {
        self.callers.authenticator()
    }

    /// Lets callers in by this authenticator from now on; `ends_watches`: those of callers whom the earlier one let in end, so that who may call
    /// no more sees no more.
    pub fn set_authenticator(&self, authenticator: Authenticator, ends_watches: bool) {
        self.callers.replace(authenticator, ends_watches);
    }

    /// Holds callers to these limits from now on, but for those of connections and of what is under way on one.
    pub fn set_limits(&self, limits: &Limits) {
        self.limiter.limit(limits.clone());
    }

    /// Takes no new work from now on: health says NOT_SERVING, new calls are refused and watches end, both with
    /// SHUTTING_DOWN; calls under way run to their end.
    pub async fn drain(&self) {
        self.health.set(false).await;
        self.stopping.cancel();
    }
}
