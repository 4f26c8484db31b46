//! What holds of this host's names.

use super::initiator;

/// Any text as initiatorname.iscsi: a name is of one word's line.
pub(crate) fn host_names(text: &str) {
    let name = initiator(text);
    assert!(name.is_empty() || text.contains(&name));
    assert!(!name.contains(['\n', '#']) && name.trim() == name);
}
