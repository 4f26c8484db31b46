//! The policy as it is now: its files are looked at by the clock, and read again once they have changed and are at rest.
//!
//! Invariant: nothing is opened by a file that is gone, empty, half written or broken. Once the policy file was there, only
//! the next start goes without it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::defaults::DEFAULTS;
use super::error::PolicyError;
use super::remote::Remote;
use super::rules::{Policy, Sources, files_in};
use crate::model::chain;
use crate::sys::Watched;

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

/// A policy that was read, and can be used.
pub struct ReadPolicy {
    policy: Policy,
    watch: Watch,
}

/// What became of a policy whose files have changed.
pub type Reloaded<'a> = Result<(), &'a PolicyError>;

/// The last policy whose files could be used.
pub struct PolicyStore {
    /// Told of each reload.
    told: Box<dyn Fn(Reloaded<'_>) + Send + Sync>,
    policy: RwLock<Arc<Policy>>,
    /// Held for as long as a reload takes, so that there is one at a time.
    watch: Mutex<Watch>,
}

struct Watch {
    files: PolicyFiles,
    watched: Watched,
    /// Whether the policy file was ever there.
    had_file: bool,
}

impl std::fmt::Debug for PolicyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyStore").finish_non_exhaustive()
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
        let read = load(files, false)?;
        Ok(Self {
            told: Box::new(told),
            policy: RwLock::new(Arc::new(read.policy)),
            watch: Mutex::new(read.watch),
        })
    }

    /// Reads the policy of other files, or of the same ones anew, for [`Self::replace`]. Waits for the disk.
    ///
    /// # Errors
    /// Where a file cannot be read or is refused; and where there is no policy file any more, since then rules would hold that the
    /// deployer has replaced.
    pub fn read(&self, files: PolicyFiles) -> Result<ReadPolicy, PolicyError> {
        let had_file = self.watch().had_file;
        load(files, had_file)
    }

    /// Goes by that policy and its files from now on.
    pub fn replace(&self, read: ReadPolicy) {
        let mut watch = self.watch();
        self.set(read.policy);
        *watch = read.watch;
        (self.told)(Ok(()));
    }

    fn set(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// The policy of this moment: that of the files, or the last one of theirs that could be used.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&policy)
    }

    /// Looks whether the files have changed; those that have, and were the same at the last look, are read again. Waits for
    /// the disk.
    pub fn refresh(&self) {
        let mut watch = self.watch();
        let paths = watch.files.paths();
        if !watch.watched.look(paths) {
            return;
        }
        match watch.files.reload(watch.had_file) {
            Ok((policy, has_file)) => {
                tracing::info!("the policy's files have changed: read again");
                self.set(policy);
                watch.had_file |= has_file;
                watch.watched.done();
                (self.told)(Ok(()));
            }
            Err(error) => {
                let why = chain(&error).to_string();
                if watch.watched.failed(&why) {
                    tracing::error!(
                        error = why,
                        "the policy's files have changed and cannot be used: the last good policy goes on; correct them \
                         (volattachd policy validate)"
                    );
                    (self.told)(Err(&error));
                }
            }
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the policy of these files, which has a policy file where it `had_file`.
fn load(files: PolicyFiles, had_file: bool) -> Result<ReadPolicy, PolicyError> {
    let watched = Watched::new(files.paths());
    let (policy, has_file) = files.reload(had_file)?;
    let watch = Watch {
        files,
        watched,
        had_file: has_file,
    };
    Ok(ReadPolicy { policy, watch })
}

impl PolicyFiles {
    /// The policy, and whether it has a policy file.
    fn reload(&self, had_file: bool) -> Result<(Policy, bool), PolicyError> {
        let path = self.file.as_path();
        let file = if had_file { Some(path) } else { there(path) };
        if had_file {
            let failed = |source| PolicyError::Read {
                path: path.to_owned(),
                source,
            };
            if fs::metadata(path).map_err(failed)?.len() == 0 {
                let empty = "it is empty, as what could not be written whole is; a file without rules has a comment";
                return Err(failed(io::Error::new(ErrorKind::UnexpectedEof, empty)));
            }
        }
        Ok((self.load_with(file)?, file.is_some()))
    }

    /// Reads them, and warns of what is likely wrong.
    ///
    /// # Errors
    /// Where a file cannot be read or is refused.
    pub fn load(&self) -> Result<Policy, PolicyError> {
        self.load_with(there(&self.file))
    }

    /// With that policy file.
    fn load_with(&self, file: Option<&Path>) -> Result<Policy, PolicyError> {
        let policy = Policy::load(Sources {
            defaults: DEFAULTS,
            enforce_new_defaults: true,
            file,
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

    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.file.clone(), self.dir.clone()];
        // What cannot be listed cannot be loaded either, which says why.
        paths.extend(files_in(&self.dir).unwrap_or_default());
        paths
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

    /// Whether anybody may extend, once the files have been at rest for a look.
    fn is_open(store: &PolicyStore) -> bool {
        store.refresh();
        store.refresh();
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
    }

    #[test]
    fn a_file_that_is_gone_or_empty_opens_nothing_whatever_else_changes() {
        let fixture = Fixture::new();
        let store = fixture.open().unwrap();
        fixture.write("policy.d/10-other.yaml", "'volume:extend': '@'\n");
        assert!(is_open(&store));
        fixture.write("policy.yaml", "'volume:extend': '!'\n");
        fs::remove_file(fixture.path("policy.d/10-other.yaml")).unwrap();
        assert!(!is_open(&store));
        fs::remove_file(fixture.path("policy.yaml")).unwrap();
        assert!(!is_open(&store));
        fixture.write("policy.d/10-other.yaml", "'volume:extend': '@'\n");
        assert!(!is_open(&store) && !is_open(&store));
        fixture.write("policy.yaml", "");
        assert!(!is_open(&store));
        fixture.write("policy.yaml", "# nothing\n");
        assert!(is_open(&store));
        assert_eq!(fixture.reloads(), (3, 2));
    }

    #[test]
    fn a_file_that_is_being_written_is_not_read() {
        let fixture = Fixture::new();
        fixture.write("policy.yaml", "'volume:extend': '!'\n");
        fixture.write("policy.d/10-other.yaml", "'volume:extend': '!'\n");
        let store = fixture.open().unwrap();
        for written in ["", "# first", "# first\n'volume:extend': '@'\n"] {
            fixture.write("policy.d/10-other.yaml", written);
            store.refresh();
            assert_eq!(fixture.reloads(), (0, 0), "{written}");
        }
        assert!(is_open(&store));
        assert_eq!(fixture.reloads(), (1, 0));
    }

    #[test]
    fn other_files_are_taken_as_a_whole_and_never_none_where_there_was_one() {
        let fixture = Fixture::new();
        fixture.write("policy.yaml", "'volume:extend': '!'\n");
        fixture.write("other.yaml", "'volume:extend': '@'\n");
        let store = fixture.open().unwrap();
        let files = |name| PolicyFiles {
            file: fixture.path(name),
            ..PolicyFiles::default()
        };
        let read = store.read(files("other.yaml")).unwrap();
        assert!(!is_open(&store), "it was only read");
        store.replace(read);
        assert!(is_open(&store));
        assert!(store.read(files("missing.yaml")).is_err());
        fixture.write("empty.yaml", "");
        assert!(store.read(files("empty.yaml")).is_err());
        // The files that are watched are the new ones.
        fixture.write("policy.yaml", "'volume:extend': 0\n");
        assert!(is_open(&store));
        fixture.write("other.yaml", "'volume:extend': '!'\n");
        assert!(!is_open(&store));
        assert_eq!(fixture.reloads(), (2, 0));
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
