//! Paths as connection info writes them: checked as text, before any file system sees them.

use super::ConnectionError;

/// The longest path (PATH_MAX without its NUL) and component (NAME_MAX), in bytes.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// A key and what belongs there, for errors.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    /// The key's path.
    pub(super) path: &'a str,
    /// What belongs there.
    pub(super) expected: &'static str,
}

impl Key<'_> {
    pub(super) fn invalid(&self, problem: &'static str) -> ConnectionError {
        ConnectionError::Invalid {
            key: self.path.to_owned(),
            problem,
            expected: self.expected,
        }
    }

    pub(super) fn unsafe_path(&self, problem: &'static str) -> ConnectionError {
        ConnectionError::UnsafePath {
            key: self.path.to_owned(),
            problem,
            expected: self.expected,
        }
    }

    /// Not empty, not too long, no control characters.
    pub(super) fn check_text(&self, text: &str) -> Result<(), ConnectionError> {
        if text.is_empty() {
            return Err(self.invalid("is empty"));
        }
        if text.len() > MAX_PATH {
            return Err(self.invalid("is longer than 4095 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(self.invalid("holds a control character"));
        }
        Ok(())
    }

    /// One component of a path.
    pub(super) fn check_component(&self, component: &str) -> Result<(), ConnectionError> {
        if component == "." || component == ".." {
            return Err(self.unsafe_path("has a component `.` or `..`"));
        }
        if component.len() > MAX_NAME {
            return Err(self.invalid("has a component longer than 255 bytes"));
        }
        Ok(())
    }
}

/// A volume's file on a share: a relative path beneath the export.
pub(super) fn volume_name(path: &str, name: &str) -> Result<String, ConnectionError> {
    let key = Key {
        path,
        expected: "the volume's file beneath the export, such as volume-1 or folder/volume-1",
    };
    key.check_text(name)?;
    if name.starts_with('/') {
        return Err(key.unsafe_path("is absolute"));
    }
    if name.contains('\\') {
        // To the server it is a separator, to this host a character.
        return Err(key.unsafe_path("holds a backslash"));
    }
    for component in name.split('/') {
        if component.is_empty() {
            return Err(key.unsafe_path("has an empty component"));
        }
        key.check_component(component)?;
    }
    Ok(name.to_owned())
}
