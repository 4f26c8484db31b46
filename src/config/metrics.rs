//! `metrics_io`: whose I/O is among the figures.

use super::error::Fault;
use super::tree::Value;

/// Whose I/O is among the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsIo {
    /// Nobody's.
    #[default]
    None,
    /// That of each attachment, by its id, and of each share.
    Attachments,
    /// The same, with the volume's id beside the attachment's.
    Volumes,
}

/// Reads `metrics_io`.
pub(super) fn io(value: &Value) -> Result<MetricsIo, Fault> {
    let text = match value {
        Value::Text(text) => text.as_str(),
        _ => "",
    };
    match text {
        "none" => Ok(MetricsIo::None),
        "attachments" => Ok(MetricsIo::Attachments),
        "volumes" => Ok(MetricsIo::Volumes),
        _ => Err(Fault::Expected(
            "\"none\", \"attachments\", or \"volumes\" for the volumes' ids as well",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::MetricsIo;
    use crate::config::tests::settings;

    #[test]
    fn io_is_counted_for_nobody_unless_asked() {
        let read = |text: &str| settings(text).map(|settings| settings.metrics_io);
        assert_eq!(read(""), Ok(MetricsIo::None));
        for (word, expected) in [
            ("none", MetricsIo::None),
            ("attachments", MetricsIo::Attachments),
            ("volumes", MetricsIo::Volumes),
        ] {
            assert_eq!(read(&format!("metrics_io = {word:?}")), Ok(expected));
        }
        for wrong in ["\"all\"", "\"\"", "true", "[\"volumes\"]"] {
            let error = read(&format!("metrics_io = {wrong}")).unwrap_err();
            assert!(error.contains("metrics_io"), "{wrong}: {error}");
        }
    }
}
