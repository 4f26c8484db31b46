//! `local`: a block device or file of this host.

use std::path::PathBuf;

use super::path::Key;
use super::{ConnectionError, LocalVolume, format};

impl LocalVolume {
    /// A volume of this host, checked as text: whether it may be used is for the configuration to say.
    ///
    /// `at` is put before the names of keys in errors, such as `data.`.
    pub(super) fn parse(
        at: &str,
        device_path: &str,
        format: Option<&str>,
    ) -> Result<Self, ConnectionError> {
        let path = format!("{at}device_path");
        let key = Key {
            path: &path,
            expected: "an absolute path such as /dev/vg/volume",
        };
        key.check_text(device_path)?;
        let Some(relative) = device_path.strip_prefix('/') else {
            return Err(key.invalid("is not absolute"));
        };
        let components: Vec<&str> = relative
            .split('/')
            .filter(|name| !name.is_empty())
            .collect();
        for component in &components {
            key.check_component(component)?;
        }
        if components.is_empty() {
            return Err(key.invalid("is the root directory"));
        }
        Ok(Self {
            device_path: PathBuf::from(format!("/{}", components.join("/"))),
            format: format::parse(&format!("{at}format"), format)?,
        })
    }
}
