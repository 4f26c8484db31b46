//! The file for the textfile collector of Prometheus' node exporter.
//!
//! The collector reads the text format 0.0.4 (node_exporter `collector/textfile.go`: `expfmt.TextParser`; prometheus/common
//! `expfmt/text_parse.go`), and the registry writes OpenMetrics 1.0, which differs in these points:
//!
//! - A counter's family is named without `_total` in OpenMetrics, and its samples with it. To the parser of 0.0.4 they are two families: it
//!   would drop the first as empty, and take the samples for untyped ones without their help. So the family gets the samples' name.
//! - `# EOF` and `# UNIT` are comments there; `# EOF` is left out all the same, as other collectors of text may not take it.
//! - The types `info`, `stateset`, `unknown` and `gaugehistogram` are errors there, for which the whole file is left out: no figure has one.
//!   Nor has any a timestamp, for which it is left out as well. Exemplars are errors, and are not written.
//!
//! Prometheus itself takes OpenMetrics by its content type since 2.5.0, so the listener serves the registry's text as it is.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Figures;

/// How often the file is written: as often as Prometheus scrapes where it is asked to be quick about it.
const INTERVAL: Duration = Duration::from_secs(10);

/// Writes the figures to the file of the moment, if there is one, and never returns: now, from time to time, when the policy's files have
/// changed and when the file is another one. The file before is removed: a collector would go on reporting its figures. A failure is logged,
/// and keeps nobody waiting.
pub(in crate::app) async fn keep_file(
    figures: Figures,
    mut files: watch::Receiver<Option<PathBuf>>,
) {
    let mut clock = tokio::time::interval(INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    let mut before: Option<PathBuf> = None;
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = figures.policy.changed.notified() => {}
            Ok(()) = files.changed() => {}
        }
        let file = files.borrow_and_update().clone();
        if let Some(old) = before.take_if(|before| file.as_ref() != Some(before)) {
            // A file that is gone is no failure, and the next start overwrites one that stays.
            let _ = tokio::task::spawn_blocking(move || fs::remove_file(old)).await;
        }
        let Some(file) = file else {
            continue;
        };
        before = Some(file.clone());
        let text = figures.text().await.map_err(io::Error::other);
        let path = file.clone();
        // The directory's disk may hang.
        let written = tokio::task::spawn_blocking(move || replace(&path, &plain(&text?)));
        let written = written.await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = &written
            && !failing
        {
            let file = file.display();
            tracing::warn!(
                "cannot write the figures to {file}: {error}; trying again each {} s",
                INTERVAL.as_secs()
            );
        }
        failing = written.is_err();
    }
}

/// From OpenMetrics to the text format 0.0.4.
pub(super) fn plain(text: &str) -> String {
    let is_counter = |name: &str| text.contains(&format!("# TYPE {name} counter\n"));
    let mut plain = String::with_capacity(text.len() + 1024);
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut line = Cow::Borrowed(line);
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        if let ["#", keyword @ ("HELP" | "TYPE"), name, rest] = words[..]
            && is_counter(name)
        {
            line = format!("# {keyword} {name}_total {rest}").into();
        }
        plain.push_str(&line);
        plain.push('\n');
    }
    plain
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
        replace(&file, "x 1\n").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        assert!(fs::symlink_metadata(&file).unwrap().is_file() && !link.exists());
        assert_eq!(fs::read_to_string(&file).unwrap(), "x 1\n");
    }

    #[test]
    fn a_counter_has_the_name_of_its_samples() {
        let text = "# HELP a Help of a.\n# TYPE a counter\na_total{b=\"c\"} 1\n# HELP ab G.\n# TYPE ab gauge\nab 2\n# EOF\n";
        insta::assert_snapshot!(plain(text), @r#"
        # HELP a_total Help of a.
        # TYPE a_total counter
        a_total{b="c"} 1
        # HELP ab G.
        # TYPE ab gauge
        ab 2
        "#);
    }
}
