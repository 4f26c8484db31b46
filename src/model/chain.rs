//! An error and its causes in words.

use std::error::Error;

use super::visible;

/// An error with all its causes, joined by `: `, in one line, for a place that keeps one string. What callers, servers and
/// libvirt have put into it does not act on whoever reads it.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    visible(&message).into_owned()
}
