//! The policy as it is now: files are looked at before each decision, and read again once they have changed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::defaults::DEFAULTS;
use super::error::PolicyError;
use super::remote::Remote;
use super::rules::{Policy, Sources, files_in};
use crate::sys::Stamp;

/// Where the rules of files are, and what is known of the deployment.
#[derive(Debug, Clone, Default)]
pub struct PolicyFiles {
    /// The policy file. It may be missing when the store is opened, and never later.
    pub file: PathBuf,
    /// The directory of files that are read after it; it may be missing.
    pub dir: PathBuf,
    /// The roles that the deployment has, besides those of every Keystone: a rule that names another one is warned of.
    pub roles: Vec<String>,
    /// Who asks the servers of `http:` and `https:` checks; `None`: such a check denies.
    pub remote: Option<Arc<dyn Remote>>,
}

/// What became of a policy whose files have changed.
pub type Reloaded<'a> = Result<(), &'a PolicyError>;

/// The last policy whose files could be used.
pub struct PolicyStore {
    files: PolicyFiles,
    /// Told of each reload.
    told: Box<dyn Fn(Reloaded<'_>) + Send + Sync>,
    now: Mutex<Now>,
}

struct Now {
    policy: Arc<Policy>,
    /// What the files looked like when they were last read, whatever came of it.
    stamps: Stamps,
}

/// Each file and directory, and what it looked like.
type Stamps = Vec<(PathBuf, Option<Stamp>)>;

impl std::fmt::Debug for PolicyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyStore")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl PolicyStore {
    /// Reads the policy, and warns of what is likely wrong with it. `told` is told of each later reload.
    ///
    /// # Errors
    /// Where a file cannot be read or is refused: there is no earlier policy to go on with.
    pub fn open(
        files: PolicyFiles,
        told: impl Fn(Reloaded<'_>) + Send + Sync + 'static,
    ) -> Result<Self, PolicyError> {
        let stamps = files.stamps();
        let policy = files.load()?;
        Ok(Self {
            files,
            told: Box::new(told),
            now: Mutex::new(Now {
                policy: Arc::new(policy),
                stamps,
            }),
        })
    }

    /// The policy of this moment: that of the files, or the last one of theirs that could be used.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        // Before they are read: a change in between is a change at the next look.
        let stamps = self.files.stamps();
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.stamps != stamps {
            match self.reload(&now.stamps) {
                Ok(policy) => {
                    tracing::info!("the policy's files have changed: read again");
                    now.policy = Arc::new(policy);
                    (self.told)(Ok(()));
                }
                Err(error) => {
                    tracing::error!(
                        error = crate::model::chain(&error),
                        "the policy's files have changed and cannot be used: the last good policy goes on; correct them \
                         (volattachd policy validate)"
                    );
                    (self.told)(Err(&error));
                }
            }
            now.stamps = stamps;
        }
        Arc::clone(&now.policy)
    }

    fn reload(&self, before: &Stamps) -> Result<Policy, PolicyError> {
        // A file that was there and is gone, as in the middle of an edit, must not open what it closed.
        let file = &self.files.file;
        let was_there = |(path, stamp): &(PathBuf, _)| path == file && Option::is_some(stamp);
        if before.iter().any(was_there) && !file.exists() {
            return Err(PolicyError::Read {
                path: file.clone(),
                source: ErrorKind::NotFound.into(),
            });
        }
        self.files.load()
    }
}

impl PolicyFiles {
    /// Reads them, and warns of what is likely wrong.
    ///
    /// # Errors
    /// Where a file cannot be read or is refused.
    pub fn load(&self) -> Result<Policy, PolicyError> {
        let policy = Policy::load(Sources {
            defaults: DEFAULTS,
            enforce_new_defaults: true,
            file: there(&self.file),
            dir: there(&self.dir),
        })?;
        for finding in policy.findings(&self.roles) {
            tracing::warn!("the policy is likely wrong: {finding}");
        }
        Ok(match &self.remote {
            Some(remote) => policy.asking(Arc::clone(remote)),
            None => policy,
        })
    }

    fn stamps(&self) -> Stamps {
        let mut paths = vec![self.file.clone(), self.dir.clone()];
        // What cannot be listed cannot be loaded either, which says why.
        paths.extend(files_in(&self.dir).unwrap_or_default());
        let stamped = paths.into_iter().map(|path| {
            let stamp = Stamp::of(&path);
            (path, stamp)
        });
        stamped.collect()
    }
}

/// The path, unless nothing is there. What cannot be looked at is there: reading it says why.
fn there(path: &Path) -> Option<&Path> {
    let missing = matches!(fs::metadata(path), Err(error) if error.kind() == ErrorKind::NotFound);
    (!missing && !path.as_os_str().is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::policy::fuzz::now;
    use crate::policy::{Attributes, Target};

    struct Fixture {
        dir: tempfile::TempDir,
        good: Arc<AtomicUsize>,
        bad: Arc<AtomicUsize>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                good: Arc::default(),
                bad: Arc::default(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::create_dir_all(self.path("policy.d")).unwrap();
            fs::write(self.path(name), text).unwrap();
        }

        fn open(&self) -> Result<PolicyStore, PolicyError> {
            let (good, bad) = (Arc::clone(&self.good), Arc::clone(&self.bad));
            let files = PolicyFiles {
                file: self.path("policy.yaml"),
                dir: self.path("policy.d"),
                roles: Vec::new(),
                remote: None,
            };
            PolicyStore::open(files, move |reloaded| {
                let count = if reloaded.is_ok() { &good } else { &bad };
                count.fetch_add(1, Ordering::Relaxed);
            })
        }

        fn reloads(&self) -> (usize, usize) {
            let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
            (of(&self.good), of(&self.bad))
        }
    }

    /// Whether anybody may extend.
    fn is_open(store: &PolicyStore) -> bool {
        let policy = store.current();
        let nobody = now(policy.credentials(Attributes::new()));
        let target = Target::new(Attributes::new());
        now(policy.decide("volume:extend", &nobody, &target)).allowed
    }

    #[test]
    fn what_changes_is_read_again_and_what_does_not_is_not() {
        let fixture = Fixture::new();
        let store = fixture.open().unwrap();
        assert!(!is_open(&store));
        fixture.write("policy.yaml", "'volume:extend': '@'\n");
        assert!(is_open(&store) && is_open(&store));
        assert_eq!(fixture.reloads(), (1, 0));
        fixture.write("policy.d/10-no.yaml", "'volume:extend': '!'\n");
        assert!(!is_open(&store));
        fs::remove_file(fixture.path("policy.d/10-no.yaml")).unwrap();
        assert!(is_open(&store));
        assert_eq!(fixture.reloads(), (3, 0));
    }

    #[test]
    fn a_broken_file_keeps_the_last_good_policy_until_it_is_mended() {
        let fixture = Fixture::new();
        fixture.write("policy.yaml", "'volume:extend': '@'\n");
        let store = fixture.open().unwrap();
        assert!(is_open(&store));
        for broken in [
            "'volume:extend': ~\n",
            "{",
            "'a': 'rule:b'\n'b': 'rule:a'\n",
        ] {
            fixture.write("policy.yaml", broken);
            assert!(is_open(&store) && is_open(&store), "{broken}");
        }
        assert_eq!(fixture.reloads(), (0, 3), "told of each once");
        fixture.write("policy.yaml", "'volume:extend': '!'\n");
        assert!(!is_open(&store));
        fs::remove_file(fixture.path("policy.yaml")).unwrap();
        fixture.write("policy.d/10-other.yaml", "'volume:extend': '@'\n");
        assert!(!is_open(&store), "a file that is gone opens nothing");
    }

    #[test]
    fn a_file_whose_place_is_unclear_is_refused() {
        use std::os::unix::ffi::OsStrExt;

        let fixture = Fixture::new();
        fixture.write("policy.d/a.yaml", "a: '@'\n");
        assert!(fixture.open().is_ok());
        let odd = std::ffi::OsStr::from_bytes(b"\xff.yaml");
        fs::write(fixture.path("policy.d").join(odd), "a: '!'\n").unwrap();
        assert!(matches!(fixture.open(), Err(PolicyError::Read { .. })));
    }

    #[test]
    fn a_broken_file_at_the_start_is_an_error() {
        let fixture = Fixture::new();
        fixture.write("policy.yaml", "'volume:extend': 0\n");
        assert!(fixture.open().is_err());
    }
}
