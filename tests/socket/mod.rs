//! A gRPC channel over a unix socket.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

/// Connects to what listens on `socket`; the endpoint's address says nothing.
pub(crate) async fn connect(endpoint: Endpoint, socket: &Path) -> Result<Channel, Error> {
    let socket = socket.to_owned();
    endpoint
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
}
