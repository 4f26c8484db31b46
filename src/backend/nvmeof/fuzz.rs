//! What holds of what the kernel tells of an NVMe controller.

use super::fabric::portal_in;

/// Any text as a controller's address: none, or one that the text names.
pub(crate) fn nvme_sysfs(text: &str) {
    if let Some(portal) = portal_in(text) {
        let values = |key: &'static str| {
            text.split(',')
                .filter_map(move |part| part.strip_prefix(key))
        };
        assert!(values("traddr=").any(|address| address.parse() == Ok(portal.ip())));
        assert!(values("trsvcid=").any(|port| port.parse() == Ok(portal.port())));
    }
}
