//! An error and its causes in words.

use std::error::Error;

/// An error with all its causes, joined by `: `, for a place that keeps one string.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    message
}
