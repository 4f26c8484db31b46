//! `[nvmeof]`: volumes by NVMe/TCP.

use std::time::Duration;

use super::error::{Fault, Problem};
use super::tree::{Section, Value};
use super::value;
use crate::model::ErrorPolicy;

/// `[nvmeof]`: volumes by NVMe/TCP. The kernel's own time-outs have the kernel's names (nvme-connect(1)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvmeof {
    /// How long a portal may take to answer before the kernel is asked to connect; default 3 s.
    pub probe_timeout: Duration,
    /// What becomes of a guest's failed requests; default `stop`.
    pub error_policy: ErrorPolicy,
    /// How long the kernel may take to connect to a portal; default 10 s.
    pub connect_timeout: Duration,
    /// How long a namespace may take to appear; default 30 s.
    pub device_timeout: Duration,
    /// How often the kernel asks for a sign of life; a portal that gives none is reconnected to; default 5 s.
    pub keep_alive_tmo: Duration,
    /// How long the kernel waits between two tries to reconnect; default 2 s.
    pub reconnect_delay: Duration,
    /// When I/O that waits for a lost portal fails, or goes another way; default 15 s.
    pub fast_io_fail_tmo: Duration,
    /// When a lost portal is given up, and its devices are removed; default 10 min. `None`, written `"off"`: never.
    pub ctrl_loss_tmo: Option<Duration>,
}

impl Nvmeof {
    /// Reads the section.
    pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Self {
        let error_policy = section.read(problems, "error_policy", value::error_policy);
        let mut read =
            |key: &'static str, default: u64, value: fn(&Value) -> Result<Duration, Fault>| {
                let given = section.read(problems, key, value);
                given.unwrap_or(Duration::from_secs(default))
            };
        let mut settings = Self {
            probe_timeout: read("probe_timeout", 3, value::duration),
            error_policy: error_policy.unwrap_or(ErrorPolicy::Stop),
            connect_timeout: read("connect_timeout", 10, value::duration),
            device_timeout: read("device_timeout", 30, value::duration),
            keep_alive_tmo: read("keep_alive_tmo", 5, seconds),
            reconnect_delay: read("reconnect_delay", 2, seconds),
            fast_io_fail_tmo: read("fast_io_fail_tmo", 15, seconds),
            ctrl_loss_tmo: Some(Duration::from_secs(600)),
        };
        if let Some(given) = section.read(problems, "ctrl_loss_tmo", seconds_or_off) {
            settings.ctrl_loss_tmo = given;
        }
        section.finish(problems);
        settings
    }
}

/// A duration that the kernel takes, or `"off"`.
fn seconds_or_off(value: &Value) -> Result<Option<Duration>, Fault> {
    match value {
        Value::Text(text) if text == "off" => Ok(None),
        _ => seconds(value).map(Some).map_err(|_| {
            Fault::Expected(
                "a duration in whole seconds or minutes, such as \"5s\" or \"10m\", more than 0 and at most an hour, or \"off\"",
            )
        }),
    }
}

/// A duration that the kernel takes: whole seconds.
fn seconds(value: &Value) -> Result<Duration, Fault> {
    value::duration(value)
        .ok()
        .filter(|duration| duration.subsec_nanos() == 0)
        .ok_or(Fault::Expected(
            "a duration in whole seconds or minutes, such as \"5s\" or \"10m\", more than 0 and at most an hour",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_portal_is_given_up_in_time_or_never() {
        let read = |text: &str| seconds_or_off(&Value::Text(text.to_owned())).ok();
        assert_eq!(read("off"), Some(None));
        assert_eq!(read("2m"), Some(Some(Duration::from_secs(120))));
        for wrong in ["0s", "1500ms", "-1", "OFF", "2h", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert!(seconds_or_off(&Value::Flag(false)).is_err());
    }
}
