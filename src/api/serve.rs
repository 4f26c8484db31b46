//! The services put together: `VolumeAttach`, health, reflection.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::service::Service;
use super::v1::volume_attach_server::{SERVICE_NAME as NAME, VolumeAttachServer};
use super::{MAX_REQUEST, MAX_RESPONSE, v1};
use crate::attach::Engine;
use crate::auth::LocalPeers;
use crate::host::Host;

/// The service's full name, as health checks name it.
pub const SERVICE_NAME: &str = NAME;

/// The API: what to serve, and how to end it.
///
/// Serve [`Api::routes`] with `tonic::transport::Server` over [`super::incoming`]; connections of any other kind do
/// not tell who calls, so their every call is refused.
pub struct Api {
    routes: Routes,
    health: HealthReporter,
    stopping: CancellationToken,
}

impl Api {
    /// The services over that engine on that host, for those peers.
    ///
    /// # Errors
    /// Where the proto's descriptors, which are compiled in, cannot be read.
    pub async fn new(
        engine: Engine,
        host: Arc<Host>,
        peers: LocalPeers,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let stopping = CancellationToken::new();
        let service = VolumeAttachServer::new(Service {
            engine,
            host,
            peers,
            stopping: stopping.clone(),
        })
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_RESPONSE);

        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_service_status(SERVICE_NAME, ServingStatus::Serving)
            .await;

        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let routes = Routes::new(service)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // Older clients (grpcurl before 1.9, grpcio-tools) ask in v1alpha only.
            .add_service(reflection().build_v1alpha()?);
        Ok(Self {
            routes,
            health,
            stopping,
        })
    }

    /// The services, to be given to a server.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// Takes no new work from now on: health says NOT_SERVING, new calls are refused and watches end, both with
    /// SHUTTING_DOWN; calls under way run to their end.
    pub async fn drain(&self) {
        for name in ["", SERVICE_NAME] {
            self.health
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        self.stopping.cancel();
    }
}
