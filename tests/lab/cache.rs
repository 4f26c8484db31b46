//! The lab's shell scripts, which print the directory of what they made, and the Rust side of their cache
//! (see cache.sh): an entry is built under another name and renamed, under a lock.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// Runs `tests/lab/NAME ARGS` and returns the directory that it prints; its progress goes to stderr.
pub(crate) fn script(name: &str, args: &[&str]) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lab")
        .join(name);
    let output = Command::new(&path)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", path.display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        path.display(),
        output.status
    );
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

/// A name for what an entry is made from.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The entry `name` beside `sibling`, made by `build` in an empty directory unless it is there.
pub(crate) fn entry(
    sibling: &Path,
    name: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let cache = sibling.parent().context("the cache has no parent")?;
    let entry = cache.join(name);
    if entry.exists() {
        return Ok(entry);
    }
    let lock = fs::File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !entry.exists() {
        let part = cache.join(format!("{name}.part"));
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir(&part)?;
        build(&part)?;
        fs::rename(&part, &entry)?;
    }
    Ok(entry)
}
