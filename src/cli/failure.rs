//! What a failed command tells, and its exit code.

use std::error::Error;
use std::time::Duration;

use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::client::Place;
use crate::api::status::{ERROR_DOMAIN, code, code_name};
use crate::model::{Reason, chain};

/// The daemon cannot be reached: there is no answer that could carry a reason.
const DAEMON_UNREACHABLE: &str = "DAEMON_UNREACHABLE";
/// The daemon did not answer within `--timeout`.
const CLIENT_TIMEOUT: &str = "CLIENT_TIMEOUT";
/// How the reasons begin that are of Cinder, Keystone or the credentials for them.
const OF_CINDER: &str = "CINDER_";
/// Something on this side of the socket failed: a file, standard output.
const LOCAL_ERROR: &str = "LOCAL_ERROR";

/// Why a command failed.
#[derive(Debug)]
pub(super) struct Failure {
    reason: String,
    code: &'static str,
    message: String,
    /// Whoever reads standard output has gone.
    pub(super) broken_pipe: bool,
}

impl Failure {
    /// The user interrupted the command.
    pub(super) const INTERRUPTED: &str = "INTERRUPTED";
    /// The exit code then, as of a shell's command that SIGINT ended.
    pub(super) const EXIT_INTERRUPTED: u8 = 130;

    pub(super) fn new(reason: impl Into<String>, code: Code, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            code: code_name(code),
            message: message.into(),
            broken_pipe: false,
        }
    }

    /// An error of the project's own, met without a daemon.
    pub(super) fn from_error(error: &dyn Error, reason: Reason) -> Self {
        Self::new(reason.as_str(), code(reason), chain(error))
    }

    /// Something on this side of the socket.
    pub(super) fn local(message: impl Into<String>) -> Self {
        Self::new(LOCAL_ERROR, Code::Unknown, message)
    }

    /// Standard output cannot be written.
    pub(super) fn output(error: &std::io::Error) -> Self {
        Self {
            broken_pipe: error.kind() == std::io::ErrorKind::BrokenPipe,
            ..Self::local(format!("cannot write the answer: {error}"))
        }
    }

    /// The daemon cannot be connected to.
    pub(super) fn unreachable(place: &Place, error: &(dyn Error + 'static)) -> Self {
        let mut io = None;
        let mut cause = Some(error);
        while let Some(error) = cause {
            io = io.or_else(|| error.downcast_ref::<std::io::Error>());
            cause = error.source();
        }
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied) {
            let message = format!("may not open the daemon's socket {place}");
            let reason = Reason::PermissionDenied;
            return Self::new(reason.as_str(), code(reason), message);
        }
        let why = io.map_or_else(|| chain(error), ToString::to_string);
        let message = format!("cannot reach the daemon at {place}: {why}");
        Self::new(DAEMON_UNREACHABLE, Code::Unavailable, message)
    }

    /// The daemon did not answer in time.
    pub(super) fn unanswered(timeout: Duration) -> Self {
        Self::new(
            CLIENT_TIMEOUT,
            Code::DeadlineExceeded,
            format!("the daemon did not answer within {} s", timeout.as_secs()),
        )
    }

    /// What the daemon answered, or what gRPC made of its silence.
    pub(super) fn from_status(status: &Status, timeout: Duration) -> Self {
        let info = status.get_details_error_info();
        if let Some(info) = info.filter(|info| info.domain == ERROR_DOMAIN) {
            return Self::new(info.reason, status.code(), status.message());
        }
        match status.code() {
            Code::Cancelled | Code::DeadlineExceeded => Self::unanswered(timeout),
            Code::Unavailable | Code::Unknown => Self::new(
                DAEMON_UNREACHABLE,
                Code::Unavailable,
                format!(
                    "the connection to the daemon was lost: {}",
                    status.message()
                ),
            ),
            code => Self::new(LOCAL_ERROR, code, status.message()),
        }
    }

    /// The same, with something added that the user needs to go on.
    pub(super) fn note(mut self, note: &str) -> Self {
        self.message = format!("{} ({note})", self.message);
        self
    }

    /// What to do about it: docs/errors.md is where that is written.
    pub(super) fn advice(&self) -> Option<&'static str> {
        match self.reason.as_str() {
            DAEMON_UNREACHABLE => Some(
                "Look whether volattachd runs there, and whether its address is right (--socket).",
            ),
            CLIENT_TIMEOUT => Some(
                "Repeat the same command with the same id, which is safe, or follow it by `volattach watch`: a detach that \
                 has begun goes on, and an attach is undone.",
            ),
            // The table of codes stands before: two codes have the names of reasons.
            reason => include_str!("../../docs/errors.md")
                .split_once("## Reasons")?
                .1
                .lines()
                .filter_map(|line| line.strip_prefix("| `")?.strip_prefix(reason))
                .find_map(|rest| rest.strip_prefix("` |")?.rsplit('|').nth(1))
                .map(str::trim),
        }
    }

    /// Whether it is for this reason.
    pub(super) fn is(&self, reason: Reason) -> bool {
        self.reason == reason.as_str()
    }

    /// Whether both are the daemon's one refusal of a caller, by what the caller may or how often: nothing was begun.
    pub(super) fn is_refusal_as(&self, other: &Self) -> bool {
        let of_caller = [
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::ResourceExhausted,
        ];
        self.reason == other.reason && of_caller.map(code_name).contains(&self.code)
    }

    /// Whether the daemon did not answer in time.
    pub(super) fn is_unanswered(&self) -> bool {
        self.reason == CLIENT_TIMEOUT
    }

    /// Whether the daemon is away, or was: it may be there again.
    pub(super) fn ends_connection(&self) -> bool {
        let local = [DAEMON_UNREACHABLE, CLIENT_TIMEOUT];
        local.contains(&self.reason.as_str()) || self.is(Reason::ShuttingDown)
    }

    /// Why, in words.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("error: {}\n  reason: {}", self.message, self.reason);
        if let Some(advice) = self.advice() {
            text.push_str("\n  what to do: ");
            text.push_str(advice);
        }
        text
    }

    /// For programs.
    pub(super) fn to_json(&self) -> String {
        json!({ "error": {
            "reason": self.reason,
            "code": self.code,
            "message": self.message,
            "advice": self.advice(),
        }})
        .to_string()
    }

    /// The exit code; the list is in [`super::args`].
    pub(super) fn exit_code(&self) -> u8 {
        let is = |reasons: &[Reason]| reasons.iter().any(|r| r.as_str() == self.reason);
        match self.reason.as_str() {
            DAEMON_UNREACHABLE => 6,
            CLIENT_TIMEOUT => 7,
            _ if is(&[Reason::DeadlinePassed]) => 7,
            _ if is(&[Reason::ShuttingDown]) => 6,
            _ if is(&[Reason::UnplugPending]) => 5,
            _ if is(&[
                Reason::PermissionDenied,
                Reason::Unauthenticated,
                Reason::ReadWriteRefused,
            ]) =>
            {
                8
            }
            _ if is(&[
                Reason::AttachmentConflict,
                Reason::OperationInProgress,
                Reason::VolumeInUse,
                Reason::TargetInUse,
            ]) =>
            {
                4
            }
            Self::INTERRUPTED => Self::EXIT_INTERRUPTED,
            reason if reason.starts_with(OF_CINDER) => self.exit_code_of_cinder(),
            _ if self.code == code_name(Code::NotFound) => 3,
            _ => 1,
        }
    }
}

impl Failure {
    /// The exit code of Cinder's failures, each of whose kinds has a code of its own.
    fn exit_code_of_cinder(&self) -> u8 {
        let of = [
            (Code::NotFound, 3),
            (Code::Aborted, 4),
            (Code::Unavailable, 6),
            (Code::DeadlineExceeded, 7),
            (Code::PermissionDenied, 8),
        ];
        let found = of.iter().find(|(code, _)| self.code == code_name(*code));
        found.map_or(1, |(_, exit)| *exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: Reason) -> Failure {
        Failure::new(reason.as_str(), code(reason), "it failed")
    }

    #[test]
    fn every_reason_has_advice() {
        for reason in Reason::ALL {
            let advice = failure(*reason).advice();
            // It is printed as it stands there: a link would be noise.
            let is_plain = |advice: &str| advice.ends_with('.') && !advice.contains("](");
            assert!(advice.is_some_and(is_plain), "{reason}");
        }
    }

    #[test]
    fn the_advice_is_the_reasons_not_that_of_a_code_of_the_same_name() {
        assert_eq!(
            failure(Reason::PermissionDenied).advice(),
            Some(
                "Call as somebody whom configuration and policy let (volattachd policy explain); have the volume's owner or an administrator change its \
                 permissions."
            )
        );
        assert_eq!(
            failure(Reason::Internal).advice(),
            Some(
                "Mend the part of this host that the message names, such as a module to load (`nvme-tcp`). Else report it, with \
                 the daemon's log."
            )
        );
    }

    #[test]
    fn exit_codes_follow_the_reason() {
        let codes = [
            (Reason::Internal, 1),
            (Reason::VolumeNotFound, 3),
            (Reason::AttachmentNotFound, 3),
            (Reason::VolumeInUse, 4),
            (Reason::OperationInProgress, 4),
            (Reason::UnplugPending, 5),
            (Reason::ServerTimeout, 1),
            (Reason::ShuttingDown, 6),
            (Reason::PermissionDenied, 8),
            (Reason::Unauthenticated, 8),
            (Reason::ReadWriteRefused, 8),
        ];
        for (reason, code) in codes {
            assert_eq!(failure(reason).exit_code(), code, "{reason}");
        }
    }

    #[test]
    fn an_error_is_told_in_both_forms() {
        insta::assert_snapshot!(failure(Reason::UnplugPending).to_text(), @r"
        error: it failed
          reason: UNPLUG_PENDING
          what to do: Nothing: the guest is asked again after growing pauses, and the detach completes by itself when it lets go. Look whether the guest runs, or cancel the detach.
        ");
        insta::assert_snapshot!(failure(Reason::BusFull).to_json(), @r#"{"error":{"advice":"Detach a disk, use the bus `scsi`, or give the domain more PCI root ports.","code":"RESOURCE_EXHAUSTED","message":"it failed","reason":"BUS_FULL"}}"#);
    }

    #[test]
    fn a_silent_daemon_and_a_lost_one_are_told_apart() {
        let timeout = Duration::from_secs(3);
        let silent = Failure::from_status(&Status::cancelled("Timeout expired"), timeout);
        assert_eq!(
            (silent.reason.as_str(), silent.exit_code()),
            (CLIENT_TIMEOUT, 7)
        );
        let lost = Failure::from_status(&Status::unavailable("broken"), timeout);
        assert_eq!(
            (lost.reason.as_str(), lost.exit_code()),
            (DAEMON_UNREACHABLE, 6)
        );
    }
}
