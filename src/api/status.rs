//! From an error to a [`tonic::Status`]: the only place that makes one.
//!
//! Invariants: the code follows from the reason alone, by [`code`]; the message is the error's whole chain of causes;
//! a `google.rpc.ErrorInfo` carries the reason. Errors hold no secrets (they live in [`crate::model::Secret`]), so
//! neither do statuses.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::limit::LimitError;
use crate::attach;
use crate::model::{Reason, chain, visible};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "volattach";

/// The longest message, in bytes. It travels twice in the trailers, percent-encoded and in base64, and clients take
/// 8 to 16 KiB of them.
const MAX_MESSAGE: usize = 2048;

/// What a request is about, as far as its ids are valid: for logs and for errors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Subject {
    /// The attachment's id.
    pub(super) attachment: Option<String>,
    /// The volume's id.
    pub(super) volume: Option<String>,
    /// The domain, by UUID or name.
    pub(super) domain: Option<String>,
}

impl Subject {
    fn metadata(&self) -> HashMap<String, String> {
        [
            ("attachment_id", &self.attachment),
            ("volume_id", &self.volume),
            ("domain", &self.domain),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), visible(value.as_deref()?).into_owned())))
        .collect()
    }
}

/// The gRPC code of a reason; docs/errors.md lists them.
#[must_use]
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidRequest
        | Reason::InvalidConnectionInfo
        | Reason::ProtocolUnsupported
        | Reason::MountOptionRefused
        | Reason::MountOptionInvalid
        | Reason::CredentialsInvalid
        | Reason::EncryptionUnsupported
        | Reason::FormatUnsupported
        | Reason::DiskOptionInvalid => Code::InvalidArgument,

        Reason::AttachmentConflict => Code::AlreadyExists,

        Reason::OperationInProgress => Code::Aborted,

        Reason::WatchExpired => Code::OutOfRange,

        Reason::AttachmentNotFound
        | Reason::DomainNotFound
        | Reason::ShareNotFound
        | Reason::DeviceNotFound
        | Reason::VolumeNotFound => Code::NotFound,

        Reason::AttachmentKind
        | Reason::CleanupRequired
        | Reason::ForgetRefused
        | Reason::Forgotten
        | Reason::VolumeInUse
        | Reason::ReadWriteRefused
        | Reason::DomainState
        | Reason::TargetInUse
        | Reason::UnplugRefused
        | Reason::DetachCancelled
        | Reason::BlockJobActive
        | Reason::DiskLost
        | Reason::DomainGone
        | Reason::VolumeNotGrown
        | Reason::ShrinkRefused
        | Reason::ResizeUnsupported
        | Reason::IoTuneUnsupported
        | Reason::IoStopped
        | Reason::ProtocolVersion
        | Reason::LogonFailure
        | Reason::MountFailed
        | Reason::UnmountFailed
        | Reason::LoginFailed
        | Reason::DeviceIdentity
        | Reason::DeviceBusy
        | Reason::MultipathFailed
        | Reason::SelinuxBoolean
        | Reason::VolumePathUnsafe
        | Reason::VolumeNotRegular
        | Reason::VolumeUnreadable
        | Reason::ImageReferencesFile
        | Reason::ImageMalformed
        | Reason::UndoFailed
        | Reason::ConfigurationInvalid => Code::FailedPrecondition,

        Reason::BusFull
        | Reason::RateLimited
        | Reason::TooManyCalls
        | Reason::TooMuchWork
        | Reason::TooManyWatches => Code::ResourceExhausted,

        Reason::HypervisorUnavailable
        | Reason::IdentityUnavailable
        | Reason::NameResolution
        | Reason::ServerUnreachable
        | Reason::ServerQuarantined
        | Reason::WorkersStuck
        | Reason::ShuttingDown => Code::Unavailable,

        Reason::UnplugPending | Reason::ServerTimeout | Reason::DeadlinePassed => {
            Code::DeadlineExceeded
        }

        Reason::Unauthenticated => Code::Unauthenticated,

        Reason::PermissionDenied => Code::PermissionDenied,

        Reason::HypervisorError | Reason::JournalFailed | Reason::Internal => Code::Internal,
    }
}

/// A code as gRPC writes it: `NOT_FOUND`.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The status of a call that comes too early: it says when to try again (`google.rpc.RetryInfo`).
pub(super) fn limited(error: &LimitError) -> Status {
    let subject = Subject::default();
    make(error, error.reason(), &subject, Some(error.after()))
}

/// The status of a call about `subject` that failed with `error`, whose reason is `reason`.
pub(super) fn status(error: &(dyn Error + 'static), reason: Reason, subject: &Subject) -> Status {
    make(error, reason, subject, retry_after(error))
}

/// When to try again a call that failed with `error`, if one of its causes knows.
fn retry_after(error: &(dyn Error + 'static)) -> Option<Duration> {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.find_map(|it| it.downcast_ref::<attach::Error>()?.retry_after())
}

fn make(error: &dyn Error, reason: Reason, subject: &Subject, after: Option<Duration>) -> Status {
    let mut message = chain(error);
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE - "…".len()));
        message.push('…');
    }
    let mut details =
        ErrorDetails::with_error_info(reason.as_str(), ERROR_DOMAIN, subject.metadata());
    if after.is_some() {
        details.set_retry_info(after);
    }
    Status::with_error_details(code(reason), message, details)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Level {
        text: String,
        #[source]
        cause: Option<Box<Level>>,
    }

    fn level(text: &str, cause: Option<Level>) -> Level {
        Level {
            text: text.into(),
            cause: cause.map(Box::new),
        }
    }

    #[test]
    fn the_message_is_the_chain_and_the_details_carry_the_reason() {
        let error = level("cannot mount", Some(level("logon failed", None)));
        let subject = Subject {
            attachment: Some("a-1".into()),
            volume: None,
            domain: Some("web".into()),
        };
        let status = status(&error, Reason::LogonFailure, &subject);
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "cannot mount: logon failed");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("LOGON_FAILURE", "volattach")
        );
        assert_eq!(info.metadata["attachment_id"], "a-1");
        assert_eq!(info.metadata["domain"], "web");
        assert_eq!(info.metadata.len(), 2);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = level(&"ü".repeat(5000), None);
        let status = status(&error, Reason::Internal, &Subject::default());
        assert!(status.message().len() <= MAX_MESSAGE);
        assert!(status.message().ends_with("ü…"));
    }

    /// The rows of the table in docs/errors.md: reason to code.
    fn documented() -> BTreeMap<String, String> {
        include_str!("../../docs/errors.md")
            .lines()
            .filter_map(|line| {
                let cells: Vec<_> = line.split('|').map(str::trim).collect();
                let ["", reason, code, meaning, advice, ""] = cells.as_slice() else {
                    return None;
                };
                let reason = reason.strip_prefix('`')?.strip_suffix('`')?;
                assert!(!meaning.is_empty() && !advice.is_empty(), "{line}");
                Some((reason.to_owned(), code.trim_matches('`').to_owned()))
            })
            .collect()
    }

    #[test]
    fn the_documentation_lists_every_reason_with_its_code() {
        let real: BTreeMap<_, _> = Reason::ALL
            .iter()
            .map(|reason| (reason.to_string(), code_name(code(*reason)).to_owned()))
            .collect();
        assert_eq!(documented(), real);
    }
}
