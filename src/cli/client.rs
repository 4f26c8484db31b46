//! The connection to the daemon.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::args::Global;
use super::failure::Failure;
use crate::api::MAX_RESPONSE;
use crate::api::v1::volume_attach_client::VolumeAttachClient;

/// A connection, and how long to wait on it.
#[derive(Clone)]
pub(super) struct Client {
    /// The calls.
    pub(super) rpc: VolumeAttachClient<Channel>,
    timeout: Duration,
}

impl Client {
    /// Connects.
    pub(super) async fn connect(global: &Global) -> Result<Self, Failure> {
        let socket = global.socket.clone();
        // The name is never resolved: the connector below goes to the socket whatever it is.
        let channel = Endpoint::from_static("http://volattachd.invalid")
            .connect_timeout(global.timeout)
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .map_err(|error| Failure::unreachable(&global.socket, &error))?;
        Ok(Self {
            rpc: VolumeAttachClient::new(channel).max_decoding_message_size(MAX_RESPONSE),
            timeout: global.timeout,
        })
    }

    /// A message that is to be answered in time.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// The answer, or why there is none.
    pub(super) fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        answer
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    /// What a status means here.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, self.timeout)
    }
}
