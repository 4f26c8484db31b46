//! Why Cinder, or Keystone before it, did not do what was asked; and what the command line makes of that.

use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tonic::Code;

use super::yaml::YamlError;
use crate::auth::{HttpError, TlsError};
use crate::cli::failure::Failure;
use crate::model::chain;

/// The longest text of a server that an error repeats, in characters.
const MAX_MESSAGE: usize = 500;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum CinderError {
    /// Who asks is not known, or not in full.
    #[error("no use of OpenStack's credentials: {0}")]
    Credentials(String),
    /// A file with credentials cannot be read.
    #[error("cannot read {}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file with credentials is not written as it should be.
    #[error("cannot read {}", .path.display())]
    Yaml { path: PathBuf, source: YamlError },
    /// The authorities of the servers cannot be read.
    #[error("cannot ask OpenStack by TLS")]
    Tls(#[from] TlsError),
    /// A server gave no answer.
    #[error("cannot {tried}: {server} does not answer ({request})")]
    NoAnswer {
        tried: String,
        server: String,
        /// The method and the path.
        request: String,
        source: HttpError,
    },
    /// A server said no.
    #[error("cannot {tried}: {request} is answered with {status}{}", said(.message, .request_id))]
    Refused {
        tried: String,
        /// The method and the path.
        request: String,
        status: StatusCode,
        message: String,
        request_id: String,
    },
    /// A server's answer makes no sense.
    #[error("cannot {tried}: the answer to {request} makes no sense: {why}")]
    Malformed {
        tried: String,
        /// The method and the path.
        request: String,
        why: String,
    },
    /// This OpenStack, or the volume in its state, does not suit.
    #[error("{0}")]
    Unsuitable(String),
    /// Something was waited for in vain.
    #[error("{what} within {} s", .within.as_secs())]
    Late { what: String, within: Duration },
    /// The user interrupted the command.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

/// A server's own words, as they may be shown.
fn said(message: &str, request_id: &str) -> String {
    let mut text = String::new();
    if !message.is_empty() {
        text = format!(": {message}");
    }
    if !request_id.is_empty() {
        text.push_str(&format!(" (request {request_id})"));
    }
    text
}

impl CinderError {
    /// Whether what was named does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Whether the request itself was refused as wrong.
    pub(super) fn is_bad_request(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::BAD_REQUEST)
    }

    /// Whether Cinder says that the storage's driver has failed at a new attachment, which stays reserved then. Where it only gave up waiting
    /// for the driver, its message has no cause (api/v3/attachments.py, `create`).
    pub(super) fn is_of_driver(&self) -> bool {
        matches!(self, Self::Refused { status, message, .. }
            if *status == StatusCode::INTERNAL_SERVER_ERROR
                && message.starts_with("Unable to create attachment for volume ("))
    }

    /// Whether the server may have done what was asked, although no answer says so. A server's error counts: a proxy before
    /// Cinder answers 502 and 504 for requests that Cinder goes on with.
    pub(super) fn may_be_done(&self) -> bool {
        match self {
            Self::NoAnswer { source, .. } => !matches!(source, HttpError::Connect(_)),
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Malformed { .. } => true,
            _ => false,
        }
    }

    fn reason(&self) -> (&'static str, Code) {
        match self {
            Self::Credentials(_) | Self::File { .. } | Self::Yaml { .. } | Self::Tls(_) => {
                ("CINDER_CREDENTIALS", Code::FailedPrecondition)
            }
            Self::NoAnswer {
                source: HttpError::Timeout(_),
                ..
            }
            | Self::Late { .. } => ("CINDER_TIMEOUT", Code::DeadlineExceeded),
            Self::NoAnswer { .. } => ("CINDER_UNREACHABLE", Code::Unavailable),
            Self::Refused {
                status, message, ..
            } => match *status {
                StatusCode::NOT_FOUND => ("CINDER_NOT_FOUND", Code::NotFound),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    ("CINDER_DENIED", Code::PermissionDenied)
                }
                StatusCode::CONFLICT => ("CINDER_CONFLICT", Code::Aborted),
                // Cinder's word for a volume in another state than the request needs (exception.InvalidVolume).
                StatusCode::BAD_REQUEST if message.starts_with("Invalid volume") => {
                    ("CINDER_CONFLICT", Code::Aborted)
                }
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => {
                    ("CINDER_UNREACHABLE", Code::Unavailable)
                }
                StatusCode::GATEWAY_TIMEOUT => ("CINDER_TIMEOUT", Code::DeadlineExceeded),
                _ => ("CINDER_FAILED", Code::Internal),
            },
            Self::Malformed { .. } => ("CINDER_FAILED", Code::Internal),
            Self::Unsuitable(_) => ("CINDER_UNSUITABLE", Code::FailedPrecondition),
            Self::Interrupted(_) => (Failure::INTERRUPTED, Code::Cancelled),
        }
    }
}

impl From<CinderError> for Failure {
    fn from(error: CinderError) -> Self {
        let (reason, code) = error.reason();
        Self::new(reason, code, chain(&error))
    }
}

/// The message in an error's body: Cinder wraps it in an object of one key (`badRequest`, `itemNotFound`, …), Keystone in `error`.
pub(super) fn message(body: &[u8]) -> String {
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
        return String::new();
    };
    let message = body.values().find_map(|inner| inner.get("message"));
    let text = message.and_then(Value::as_str).unwrap_or_default();
    text.trim().chars().take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(status: u16, message: &str) -> CinderError {
        CinderError::Refused {
            tried: "create an attachment of volume v".to_owned(),
            request: "POST /v3/p/attachments".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            message: message.to_owned(),
            request_id: "req-1".to_owned(),
        }
    }

    #[test]
    fn an_error_says_what_was_tried_where_and_what_to_do() {
        let failure: Failure =
            refused(400, "Invalid volume: Volume v status must be available").into();
        insta::assert_snapshot!(failure.to_text(), @r"
        error: cannot create an attachment of volume v: POST /v3/p/attachments is answered with 400 Bad Request: Invalid volume: Volume v status must be available (request req-1)
          reason: CINDER_CONFLICT
          what to do: Look at the volume and its attachments (`openstack volume show`, `volattach cinder list`); end the other use, or what a command that died has left (`volattach cinder reconcile`).
        ");
    }

    #[test]
    fn each_kind_has_its_exit_code_and_advice() {
        let no_answer = |source| CinderError::NoAnswer {
            tried: "look".to_owned(),
            server: "http://c".to_owned(),
            request: "GET /".to_owned(),
            source,
        };
        let io = std::io::Error::other("refused");
        for (error, code, may_be_done) in [
            (refused(404, ""), 3, false),
            (refused(409, ""), 4, false),
            (refused(400, "Invalid volume: x"), 4, false),
            (refused(400, "Invalid input"), 1, false),
            (refused(401, ""), 8, false),
            (refused(403, ""), 8, false),
            (refused(500, ""), 1, true),
            (refused(503, ""), 6, true),
            (refused(504, ""), 7, true),
            (
                no_answer(HttpError::Timeout(Duration::from_secs(1))),
                7,
                true,
            ),
            (no_answer(HttpError::Connect(io)), 6, false),
            (no_answer(HttpError::TooLong(7)), 6, true),
            (CinderError::Credentials("x".to_owned()), 1, false),
            (CinderError::Unsuitable("x".to_owned()), 1, false),
            (CinderError::Interrupted("x".to_owned()), 130, false),
        ] {
            assert_eq!(error.may_be_done(), may_be_done, "{error}");
            let failure = Failure::from(error);
            assert_eq!(failure.exit_code(), code, "{}", failure.message());
            assert!(failure.advice().is_some(), "{}", failure.to_text());
        }
    }

    #[test]
    fn messages_are_found_in_cinders_bodies_and_keystones() {
        let cinder = br#"{"badRequest":{"code":400,"message":" Invalid volume: x "}}"#;
        assert_eq!(message(cinder), "Invalid volume: x");
        let keystone = br#"{"error":{"code":401,"message":"no","title":"Unauthorized"}}"#;
        assert_eq!(message(keystone), "no");
        for none in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":{"message":1}}"#,
        ] {
            assert_eq!(message(none.as_bytes()), "");
        }
    }

    proptest! {
        #[test]
        fn any_body_gives_a_message_or_none(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(message(&body).chars().count() <= MAX_MESSAGE);
        }
    }
}
