//! The gRPC service: authenticate → decode → admit → run → encode.
//!
//! Invariants: who calls is checked before anything of the request is looked at; a request that was decoded is valid
//! as a whole; [`status`] is the one place that makes a [`tonic::Status`], so every error carries its reason; nothing
//! here decides anything about volumes or domains.
//!
//! The health and reflection services beside it tell nothing about volumes, and answer whoever may open the socket.

mod about;
mod callers;
mod connections;
mod deadline;
pub mod decode;
pub mod encode;
mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod limit;
mod page;
mod peer;
mod revision;
mod serve;
mod service;
pub mod status;
mod strangers;
mod target;
mod trace;
mod watch;

pub use connections::{Guarded, limited};
pub use figures::ApiFigures;
pub use peer::{PeerStream, incoming, incoming_tls};
pub use serve::{Api, Health, SERVICE_NAME, server};

/// The messages, the client and the server generated from `proto/volattach/v1`, where they are documented.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::large_futures)]
pub mod v1 {
    tonic::include_proto!("volattach.v1");

    /// The proto's descriptors, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/volattach.v1.bin"));
}

/// The largest request accepted, in bytes: connection info is a few hundred.
const MAX_REQUEST: usize = 1024 * 1024;
/// The largest answer sent, in bytes: what gRPC clients accept by default.
pub(crate) const MAX_RESPONSE: usize = 4 * 1024 * 1024;

impl std::fmt::Debug for v1::SmbCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmbCredentials")
            .field("username", &self.username)
            .field("password", &"[redacted]")
            .field("domain", &self.domain)
            .finish()
    }
}

impl std::fmt::Debug for v1::IscsiChap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IscsiChap")
            .field("username", &self.username)
            .field("password", &"[redacted]")
            .field("username_in", &self.username_in)
            .field("password_in", &"[redacted]")
            .finish()
    }
}

impl std::fmt::Debug for v1::ConnectionInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.form.fmt(f)
    }
}

impl std::fmt::Debug for v1::connection_info::Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CinderJson(_) => "CinderJson([redacted])",
            Self::Smb(_) => "Smb([redacted])",
            Self::Local(_) => "Local([redacted])",
            Self::Nfs(_) => "Nfs([redacted])",
            Self::Iscsi(_) => "Iscsi([redacted])",
            Self::Nvme(_) => "Nvme([redacted])",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn messages_do_not_show_secrets() {
        let request = v1::AttachVolumeRequest {
            connection_info: Some(v1::ConnectionInfo {
                form: Some(v1::connection_info::Form::CinderJson("hunter2".into())),
            }),
            ..Default::default()
        };
        let credentials = v1::SmbCredentials {
            password: "hunter2".into(),
            ..Default::default()
        };
        let chap = v1::IscsiChap {
            password: "hunter2".into(),
            password_in: "hunter2".into(),
            ..Default::default()
        };
        let shown = format!("{request:?} {credentials:?} {chap:?}");
        assert!(
            !shown.contains("hunter2") && shown.contains("[redacted]"),
            "{shown}"
        );
    }
}
