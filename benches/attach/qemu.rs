//! The guest's QEMU: what it uses of the host's processors.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// What a guest that has nothing to do may use of a processor in each [`WINDOW`].
const IDLE: Duration = Duration::from_millis(5);
const WINDOW: Duration = Duration::from_millis(50);

/// The process, by the directory of its threads.
pub(super) struct Qemu(PathBuf);

impl Qemu {
    /// That of the domain `guest` of the libvirt with this root.
    pub(super) fn of(root: &Path) -> Self {
        let pid = fs::read_to_string(root.join("run/qemu/guest.pid")).unwrap();
        Self(Path::new("/proc").join(pid.trim()).join("task"))
    }

    /// Has it run on the last of the processors that it may use.
    pub(super) fn keep_on_one_cpu(&self) {
        for thread in self.threads() {
            let thread = thread.file_name().unwrap().to_str().unwrap();
            let thread = Pid::from_raw(thread.parse().unwrap());
            let allowed = sched_getaffinity(thread).unwrap();
            let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap());
            let mut one = CpuSet::new();
            one.set(last.unwrap()).unwrap();
            sched_setaffinity(thread, &one).unwrap();
        }
    }

    /// Waits until two windows in a row were idle.
    pub(super) fn wait_idle(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let (mut used, mut idle) = (self.used(), 0);
        while idle < 2 {
            assert!(Instant::now() < deadline, "the guest does not come to rest");
            std::thread::sleep(WINDOW);
            let now = self.used();
            let is_idle = now.saturating_sub(used) < IDLE;
            idle = if is_idle { idle + 1 } else { 0 };
            used = now;
        }
    }

    /// The processor time of its threads (proc(5), `schedstat`, the first number).
    fn used(&self) -> Duration {
        let of = |thread: PathBuf| {
            // One that has ended meanwhile counts no more.
            let stat = fs::read_to_string(thread.join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.threads().filter_map(of).sum())
    }

    fn threads(&self) -> impl Iterator<Item = PathBuf> {
        let tasks = fs::read_dir(&self.0).unwrap();
        tasks.map(|task| task.unwrap().path())
    }
}
