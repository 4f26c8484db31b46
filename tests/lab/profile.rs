//! Where the lab's time goes: what each test's own thread did, for how long, in a table at the end and in
//! `target/test-logs/lab-times.tsv`.
//!
//! Activities nest (a wait runs commands): time counts for the outermost. Threads that a test starts are not recorded; the time in
//! which the test waits for them is its own.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::machine::Kind;

/// What a test spends time on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Activity {
    /// Starting a node, from its saved state or, the first time, by booting it.
    Boot,
    /// Starting storage servers, changing them, and removing them.
    Servers,
    /// Starting volattachd, and calls by `volattach`.
    Agent,
    /// Starting further guests.
    GuestBoot,
    /// Waiting for what the inner guest reports.
    Guest,
    /// Waiting for anything else.
    Wait,
    /// Looking for leftovers.
    Leftovers,
    /// Other commands in the node.
    Command,
    /// Everything else.
    Own,
}

const ACTIVITIES: [(Activity, &str); 9] = [
    (Activity::Boot, "boot"),
    (Activity::Servers, "servers"),
    (Activity::Agent, "agent"),
    (Activity::GuestBoot, "guest boot"),
    (Activity::Guest, "guest"),
    (Activity::Wait, "waits"),
    (Activity::Leftovers, "leftovers"),
    (Activity::Command, "commands"),
    (Activity::Own, "own"),
];

/// How often something was done, and for how long in all.
#[derive(Clone, Copy, Default)]
struct Spent {
    times: u32,
    time: Duration,
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.times += other.times;
        self.time += other.time;
    }
}

/// What one test spent, by activity and its object.
#[derive(Default)]
struct Record {
    spent: BTreeMap<(Activity, String), Spent>,
    nested: bool,
    /// Commands in the node, those of other activities included.
    round_trips: u32,
}

thread_local! {
    static RECORD: RefCell<Record> = RefCell::default();
}

/// Does `act`, recorded as `activity` on `what` unless it is part of another activity.
pub(crate) fn span<T>(activity: Activity, what: &str, act: impl FnOnce() -> T) -> T {
    let nested = RECORD.with_borrow_mut(|record| std::mem::replace(&mut record.nested, true));
    if nested {
        return act();
    }
    // A panic ends the test, which ends the record.
    let start = Instant::now();
    let value = act();
    let spent = Spent {
        times: 1,
        time: start.elapsed(),
    };
    RECORD.with_borrow_mut(|record| {
        record.nested = false;
        let key = (activity, what.to_owned());
        record.spent.entry(key).or_default().add(spent);
    });
    value
}

/// Counts a command in the node.
pub(crate) fn round_trip() {
    RECORD.with_borrow_mut(|record| record.round_trips += 1);
}

/// The profile of one run of a test.
pub(crate) struct Profile {
    kind: Kind,
    test: &'static str,
    time: Duration,
    spent: BTreeMap<(Activity, String), Spent>,
    round_trips: u32,
}

/// Ends the record of `test`, which took `time`, and begins the next.
pub(crate) fn take(kind: Kind, test: &'static str, time: Duration) -> Profile {
    let mut record = RECORD.take();
    let known: Duration = record.spent.values().map(|spent| spent.time).sum();
    let own = Spent {
        times: 1,
        time: time.saturating_sub(known),
    };
    record.spent.insert((Activity::Own, String::new()), own);
    Profile {
        kind,
        test,
        time,
        spent: record.spent,
        round_trips: record.round_trips,
    }
}

impl Profile {
    fn of(&self, activity: Activity) -> Duration {
        let of_it = self.spent.iter().filter(|((of, _), _)| *of == activity);
        of_it.map(|(_, spent)| spent.time).sum()
    }
}

/// Writes a line per node, test, activity and object into `file`, with how often and how many seconds.
pub(crate) fn write(profiles: &[Profile], file: &Path) -> Result<()> {
    let mut text = String::from("node\ttest\tactivity\tof\ttimes\tseconds\n");
    for Profile {
        kind, test, spent, ..
    } in profiles
    {
        for ((activity, what), Spent { times, time }) in spent {
            let what = what.replace(['\t', '\n'], " ");
            let seconds = time.as_secs_f64();
            writeln!(
                text,
                "{kind:?}\t{test}\t{activity:?}\t{what}\t{times}\t{seconds:.2}"
            )?;
        }
    }
    fs::create_dir_all(file.parent().context("a file without directory")?)?;
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// How many of the longest tests, and of the largest costs, the table shows.
const SHOWN: usize = 20;

/// The seconds of each test by activity, the longest tests first; in all, by node; and the largest costs.
pub(crate) fn table(profiles: &[Profile]) -> Result<String> {
    let mut text = String::new();
    write!(text, "{:<44}{:>8}", "seconds", "all")?;
    for (_, name) in ACTIVITIES {
        write!(text, "{name:>11}")?;
    }
    writeln!(text, "{:>11}", "ssh")?;
    let mut line = |name: &str, of: &[&Profile]| -> Result<()> {
        let all: Duration = of.iter().map(|profile| profile.time).sum();
        write!(text, "{name:<44}{:>8.1}", all.as_secs_f64())?;
        for (activity, _) in ACTIVITIES {
            let time: Duration = of.iter().map(|profile| profile.of(activity)).sum();
            write!(text, "{:>11.1}", time.as_secs_f64())?;
        }
        let round_trips: u32 = of.iter().map(|profile| profile.round_trips).sum();
        writeln!(text, "{round_trips:>11}")?;
        Ok(())
    };
    let mut longest: Vec<_> = profiles.iter().collect();
    longest.sort_by_key(|profile| std::cmp::Reverse(profile.time));
    for profile in longest.iter().take(SHOWN) {
        line(profile.test, &[profile])?;
    }
    for kind in [Kind::Kvm, Kind::Selinux, Kind::Xen, Kind::XenHvm] {
        let of: Vec<_> = profiles
            .iter()
            .filter(|profile| profile.kind == kind)
            .collect();
        if !of.is_empty() {
            line(&format!("all {} on {kind:?}", of.len()), &of)?;
        }
    }
    let mut costs = BTreeMap::<(Kind, Activity, &str), Spent>::new();
    for profile in profiles {
        for ((activity, what), spent) in &profile.spent {
            if *activity != Activity::Own {
                let cost = costs.entry((profile.kind, *activity, what)).or_default();
                cost.add(*spent);
            }
        }
    }
    let mut costs: Vec<_> = costs.into_iter().collect();
    costs.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.time));
    writeln!(text, "\nlargest costs{:>15}{:>8}", "seconds", "times")?;
    for ((kind, activity, what), Spent { times, time }) in costs.iter().take(SHOWN) {
        let seconds = time.as_secs_f64();
        writeln!(
            text,
            "{seconds:>28.1}{times:>8}  {kind:?}  {activity:?}: {what}"
        )?;
    }
    Ok(text)
}
