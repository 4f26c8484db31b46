//! Figures for the textfile collector of Prometheus' node exporter: a file that is written anew whenever one changes.
//!
//! No server: nothing listens that did not before, and whoever may read the file may read the figures.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The figures, and where they go.
#[derive(Debug)]
pub(super) struct Metrics {
    file: Option<PathBuf>,
    figures: Mutex<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    reloads_ok: u64,
    reloads_failed: u64,
    broken: bool,
}

impl Metrics {
    /// Figures of a daemon that has just begun; `None`: nobody reads them.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            figures: Mutex::default(),
        }
    }

    /// Counts a reload of the policy.
    pub(super) fn policy(&self, ok: bool) {
        {
            let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
            figures.broken = !ok;
            match ok {
                true => figures.reloads_ok += 1,
                false => figures.reloads_failed += 1,
            }
        }
        self.write();
    }

    /// Writes the file. That it cannot be written is told, and keeps nobody waiting.
    pub(super) fn write(&self) {
        let Some(file) = &self.file else { return };
        let text = self
            .figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .text();
        if let Err(error) = replace(file, &text) {
            let file = file.display();
            tracing::warn!("cannot write the figures to {file}: {error}");
        }
    }
}

impl Figures {
    /// In Prometheus' text format, version 0.0.4.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut figure = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        figure(
            "volattach_policy_reloads_total",
            "counter",
            "How often the files of the policy have changed, by whether they could be used.",
            &[
                ("{result=\"ok\"}", self.reloads_ok),
                ("{result=\"failed\"}", self.reloads_failed),
            ],
        );
        figure(
            "volattach_policy_broken",
            "gauge",
            "Whether the files of the policy cannot be used, so that an earlier policy holds.",
            &[("", u64::from(self.broken))],
        );
        text
    }
}

/// Whoever reads it meanwhile reads all of the old text or all of the new. The directory may be another user's, the
/// collector's: no link that is put there is followed.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut whole = file.as_os_str().to_owned();
    whole.push(".new");
    match fs::remove_file(&whole) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = fs::File::create_new(&whole)?;
    new.set_permissions(fs::Permissions::from_mode(0o644))?;
    new.write_all(text.as_bytes())?;
    fs::rename(&whole, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link, other] =
            ["a.prom", "a.prom.new", "other"].map(|name| dir.path().join(name));
        fs::write(&other, "other").unwrap();
        for at in [&file, &link] {
            std::os::unix::fs::symlink(&other, at).unwrap();
        }
        Metrics::new(Some(file.clone())).write();
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        assert!(fs::symlink_metadata(&file).unwrap().is_file() && !link.exists());
    }

    #[test]
    fn the_file_has_the_figures_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("volattach.prom");
        let metrics = Metrics::new(Some(file.clone()));
        metrics.policy(true);
        metrics.policy(false);
        insta::assert_snapshot!(fs::read_to_string(&file).unwrap(), @r#"
        # HELP volattach_policy_reloads_total How often the files of the policy have changed, by whether they could be used.
        # TYPE volattach_policy_reloads_total counter
        volattach_policy_reloads_total{result="ok"} 1
        volattach_policy_reloads_total{result="failed"} 1
        # HELP volattach_policy_broken Whether the files of the policy cannot be used, so that an earlier policy holds.
        # TYPE volattach_policy_broken gauge
        volattach_policy_broken 1
        "#);
        metrics.policy(true);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with("volattach_policy_broken 0\n"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
