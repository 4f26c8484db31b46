//! `[limits]`: how much callers may ask for.

use std::time::Duration;

use super::error::{Fault, Problem};
use super::tree::{Section, Value};
use super::value;
use crate::model::WorkLimits;

/// `[limits]`: how much callers may ask for. A caller is a user, a service, or a service on a user's behalf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Calls that one caller may make in a second, on average; default 100.
    pub calls_per_second: u32,
    /// Calls that one caller may make at once after a pause; default 200.
    pub burst: u32,
    /// Calls of one caller that may be under way, those at work not counted; default 128.
    pub calls: u32,
    /// Calls that may be at work.
    pub work: WorkLimits,
    /// Watches of one caller; default 16.
    pub watches: u32,
    /// Watches of all callers; default 256.
    pub all_watches: u32,
    /// Connections on each socket that the daemon listens on; default 1024.
    pub connections: u32,
    /// Connections of one local user; default 256.
    pub connections_per_user: u32,
    /// Calls and watches under way on one connection (HTTP/2's streams); default 128.
    pub streams: u32,
    /// How often a connection is asked for a sign of life; one that gives none within 20 s is closed; default 30 s.
    pub keepalive: Duration,
}

impl Limits {
    /// Reads the section.
    pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Self {
        let mut read = |key: &'static str, default: u32| {
            let given = section.read(problems, key, count);
            given.unwrap_or(default)
        };
        let mut limits = Self {
            calls_per_second: read("calls_per_second", 100),
            burst: read("burst", 200),
            calls: read("calls", 128),
            work: WorkLimits {
                all: read("work", 256),
                per_caller: read("work_per_caller", 128),
                per_server: read("work_per_server", 32),
            },
            watches: read("watches", 16),
            all_watches: read("all_watches", 256),
            connections: read("connections", 1024),
            connections_per_user: read("connections_per_user", 256),
            streams: read("streams", 128),
            keepalive: Duration::from_secs(30),
        };
        if let Some(given) = section.read(problems, "keepalive", value::duration) {
            limits.keepalive = given;
        }
        section.finish(problems);
        limits
    }
}

/// How many: at least one, so that a limit is never taken for none.
fn count(value: &Value) -> Result<u32, Fault> {
    let number = match value {
        Value::Number(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    number
        .filter(|number| (1..=1_000_000).contains(number))
        .ok_or(Fault::Expected("a number from 1 to 1000000"))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::settings;

    #[test]
    fn a_limit_is_never_none_or_without_bounds() {
        for wrong in ["0", "-1", "1000001", "\"5\"", "true"] {
            for key in ["calls", "work", "work_per_caller", "work_per_server"] {
                let error = settings(&format!("[limits]\n{key} = {wrong}\n")).unwrap_err();
                assert!(error.contains(&format!("limits.{key}")), "{wrong}: {error}");
            }
        }
    }
}
