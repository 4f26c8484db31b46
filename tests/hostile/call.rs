//! A client that sends what bytes it likes.

use prost::bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::fields::Case;

/// Bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// Sends it; of a stream the answer is that there is one.
pub(crate) async fn call(channel: &Channel, case: &Case) -> Result<Vec<u8>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(case.method.as_str())
        .map_err(|error| Status::unknown(error.to_string()))?;
    let request = Request::new(case.message.clone());
    if case.streams {
        let answer = client.server_streaming(request, path, Raw).await;
        return answer.map(|_| Vec::new());
    }
    let answer = client.unary(request, path, Raw).await;
    answer.map(tonic::Response::into_inner)
}

/// The reason of a refusal, or gRPC's own code where gRPC itself refused; and that it is told in one line of what a terminal may
/// show.
pub(crate) fn reason(status: &Status) -> String {
    let shown = |text: &str| {
        let odd = |c: char| {
            c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(odd), "{text:?}");
        assert!(text.len() < 4096, "{} bytes: {text:.200}", text.len());
    };
    shown(status.message());
    match status.get_details_error_info() {
        Some(info) => {
            assert_eq!(info.domain, "volattach");
            info.metadata.values().for_each(|value| shown(value));
            info.reason
        }
        None => format!("{:?}", status.code()),
    }
}
