use proptest::prelude::*;

use super::*;
use crate::model::{Actor, Identity, Via};

const LIMITS: WorkLimits = WorkLimits {
    all: 6,
    per_caller: 4,
    per_server: 2,
};

fn caller(user: &str) -> Key {
    Key::Caller(CallerId::from(&Actor {
        via: Via::Keystone,
        user: Some(Identity {
            user_id: user.to_owned(),
            ..Identity::default()
        }),
        service: None,
        until: None,
    }))
}

fn server(name: &str) -> Key {
    Key::Server(name.to_owned())
}

/// A job of a caller for these servers.
fn job(user: &str, servers: &[&str]) -> Vec<Key> {
    let mut keys: Vec<Key> = servers.iter().map(|name| server(name)).collect();
    keys.extend([caller(user), Key::Daemon]);
    keys
}

/// Takes a job that must run now.
fn runs(schedule: &mut Schedule, keys: Vec<Key>) -> Ticket {
    let (ticket, runs) = schedule.enter(keys, true).unwrap();
    assert!(runs, "it waits");
    ticket
}

/// Takes a job that must wait.
fn waits(schedule: &mut Schedule, keys: Vec<Key>) -> Ticket {
    let (ticket, runs) = schedule.enter(keys, true).unwrap();
    assert!(!runs, "it runs");
    ticket
}

#[test]
fn so_many_run_so_many_wait_and_the_rest_is_refused() {
    let mut schedule = Schedule::new(LIMITS);
    let first = runs(&mut schedule, job("u", &["a"]));
    runs(&mut schedule, job("u", &["a"]));
    let waiting: Vec<Ticket> = (0..4)
        .map(|_| waits(&mut schedule, job("v", &["a"])))
        .collect();
    let full = schedule.enter(job("w", &["a"]), true).unwrap_err();
    assert_eq!(full.key, server("a"));
    insta::assert_snapshot!(full, @"the server a has 2 calls at work and 4 that wait for their turn, and may have no more (limits.work_per_server): nothing was begun, try again when some have ended, and look whether the server answers");
    // First come, first served; and who leaves the line makes room in it.
    assert!(schedule.leave(waiting[1]).is_empty());
    waits(&mut schedule, job("w", &["a"]));
    assert_eq!(schedule.leave(first), [waiting[0]]);
    assert_eq!(schedule.leave(waiting[0]), [waiting[2]]);
}

#[test]
fn jobs_of_a_dead_server_take_nothing_from_others() {
    let mut schedule = Schedule::new(LIMITS);
    for _ in 0..2 {
        runs(&mut schedule, job("u", &["dead"]));
    }
    for _ in 0..4 {
        waits(&mut schedule, job("u", &["dead"]));
    }
    for _ in 0..1000 {
        let own = runs(&mut schedule, job("u", &["a"]));
        let another = runs(&mut schedule, job("v", &["a"]));
        let local = runs(&mut schedule, job("u", &[]));
        for ticket in [own, another, local] {
            assert!(schedule.leave(ticket).is_empty());
        }
    }
    // The caller's own bound.
    runs(&mut schedule, job("u", &[]));
    runs(&mut schedule, job("u", &[]));
    waits(&mut schedule, job("u", &[]));
    runs(&mut schedule, job("v", &[]));
    runs(&mut schedule, job("v", &[]));
    waits(&mut schedule, job("v", &[]));
}

#[test]
fn reconcile_has_a_part_of_a_server_and_does_not_wait() {
    let mut schedule = Schedule::new(WorkLimits {
        per_server: 8,
        ..LIMITS
    });
    let reconcile = || vec![server("a"), Key::Reconcile("a".to_owned())];
    let (first, _) = schedule.enter(reconcile(), false).unwrap();
    schedule.enter(reconcile(), false).unwrap();
    let full = schedule.enter(reconcile(), false).unwrap_err();
    assert_eq!(full.key, Key::Reconcile("a".to_owned()));
    schedule.leave(first);
    schedule.enter(reconcile(), false).unwrap();
    for user in ["u", "u", "u", "u", "v", "v"] {
        runs(&mut schedule, job(user, &["a"]));
    }
    let mut schedule = Schedule::new(LIMITS);
    for _ in 0..2 {
        runs(&mut schedule, job("u", &["a"]));
    }
    let full = schedule.enter(reconcile(), false).unwrap_err();
    assert_eq!(full.key, server("a"), "callers come first");
}

/// Two servers have room in turn, and younger jobs are always there to take it.
#[test]
fn a_job_of_two_servers_is_not_passed_for_ever() {
    let one = WorkLimits {
        all: 100,
        per_caller: 100,
        per_server: 1,
    };
    let mut schedule = Schedule::new(one);
    let mut running = ["a", "b"].map(|name| {
        let ticket = runs(&mut schedule, job("u", &[name]));
        (name, ticket)
    });
    let both = waits(&mut schedule, job("v", &["a", "b"]));
    let mut passed = 0;
    'passing: loop {
        for (name, ticket) in &mut running {
            let younger = waits(&mut schedule, job("u", &[*name]));
            let started = schedule.leave(*ticket);
            if started == [younger] {
                passed += 1;
                *ticket = younger;
            } else {
                assert!(started.is_empty(), "its room is kept");
                break 'passing;
            }
        }
        assert!(passed < 100, "passed for ever");
    }
    assert!(passed >= 2 * PASSES - 1, "{passed}");
    let [(_, _), (_, other)] = running;
    assert_eq!(schedule.leave(other), [both]);
}

/// One of two servers is dead: the other serves its own jobs, however many of both wait.
#[test]
fn who_waits_for_a_dead_server_keeps_no_room_at_another() {
    let one = WorkLimits {
        all: 100,
        per_caller: 100,
        per_server: 1,
    };
    let mut schedule = Schedule::new(one);
    let dead = runs(&mut schedule, job("u", &["dead"]));
    let both = waits(&mut schedule, job("u", &["dead", "a"]));
    let mut own = runs(&mut schedule, job("u", &["a"]));
    for _ in 0..1000 {
        let next = waits(&mut schedule, job("u", &["a"]));
        assert_eq!(schedule.leave(own), [next]);
        own = next;
    }
    assert!(schedule.leave(own).is_empty());
    assert_eq!(schedule.leave(dead), [both]);
}

/// A change: a job enters, or the job of that number leaves.
#[derive(Debug, Clone)]
enum Change {
    Enter {
        user: usize,
        servers: Vec<&'static str>,
        waits: bool,
    },
    Leave(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let servers = prop::sample::subsequence(vec!["a", "b", "c"], 0..=3);
    let enter =
        (0..2_usize, servers, prop::bool::weighted(0.9)).prop_map(|(user, servers, waits)| {
            Change::Enter {
                user,
                servers,
                waits,
            }
        });
    prop_oneof![3 => enter, 2 => any::<prop::sample::Index>().prop_map(Change::Leave)]
}

/// What holds at any time, of the jobs that are there.
fn check(schedule: &Schedule, jobs: &[(Ticket, Vec<Key>, bool)]) {
    let mut loads: HashMap<&Key, (u32, u32)> = HashMap::new();
    for (_, keys, runs) in jobs {
        for key in keys {
            let load = loads.entry(key).or_default();
            load.0 += u32::from(*runs);
            load.1 += u32::from(!*runs);
        }
    }
    for (key, load) in &loads {
        assert_eq!(schedule.load(key), *load, "{key:?}");
        let bound = schedule.bound(key);
        assert!(load.0 <= bound && load.1 <= 2 * bound, "{key:?} {load:?}");
    }
    assert_eq!(schedule.loads.len(), loads.len(), "a key is remembered");
    for (_, keys, _) in jobs.iter().filter(|(_, _, runs)| !runs) {
        let full = |key: &Key| !schedule.has_room(key) || schedule.kept.contains(key);
        assert!(keys.iter().any(full), "waits while there is room: {keys:?}");
    }
}

proptest! {
    #[test]
    fn bounds_hold_nobody_waits_for_nothing_and_all_get_their_turn(
        changes in prop::collection::vec(change(), 1..200)
    ) {
        let mut schedule = Schedule::new(LIMITS);
        let mut jobs: Vec<(Ticket, Vec<Key>, bool)> = Vec::new();
        let leave = |schedule: &mut Schedule, jobs: &mut Vec<(Ticket, Vec<Key>, bool)>, at: usize| {
            let (ticket, _, _) = jobs.remove(at);
            for started in schedule.leave(ticket) {
                let at = jobs.iter().position(|(ticket, _, _)| *ticket == started).unwrap();
                // First come, first served.
                let keys = jobs[at].1.clone();
                assert!(!jobs[..at].iter().any(|(_, older, runs)| !runs && *older == keys));
                jobs[at].2 = true;
            }
        };
        for change in changes {
            match change {
                Change::Enter { user, servers, waits } => {
                    let keys = job(["u", "v"][user], &servers);
                    match schedule.enter(keys.clone(), waits) {
                        Ok((ticket, runs)) => {
                            assert!(runs || waits);
                            jobs.push((ticket, keys, runs));
                        }
                        Err(full) if waits => {
                            assert_eq!(full.waiting, 2 * schedule.bound(&full.key));
                        }
                        Err(full) => {
                            assert!(!schedule.has_room(&full.key) || schedule.kept.contains(&full.key));
                        }
                    }
                }
                Change::Leave(at) if !jobs.is_empty() => {
                    let at = at.index(jobs.len());
                    leave(&mut schedule, &mut jobs, at);
                }
                Change::Leave(_) => {}
            }
            check(&schedule, &jobs);
        }
        // As long as there are jobs, some run.
        while !jobs.is_empty() {
            let at = jobs.iter().position(|(_, _, runs)| *runs).expect("a deadlock");
            leave(&mut schedule, &mut jobs, at);
            check(&schedule, &jobs);
        }
        assert!(schedule.loads.is_empty() && schedule.running.is_empty());
    }
}

#[test]
fn other_limits_hold_for_what_comes_and_what_waits() {
    let mut schedule = Schedule::new(LIMITS);
    let running: Vec<Ticket> = (0..2)
        .map(|_| runs(&mut schedule, job("u", &["a"])))
        .collect();
    let waiting: Vec<Ticket> = (0..3)
        .map(|_| waits(&mut schedule, job("u", &["a"])))
        .collect();
    let more = WorkLimits {
        per_server: 4,
        ..LIMITS
    };
    assert_eq!(schedule.limit(more), waiting[..2]);
    let fewer = WorkLimits {
        per_server: 1,
        ..LIMITS
    };
    assert!(schedule.limit(fewer).is_empty());
    // Four run still, and as long as one does nobody begins.
    for ticket in running {
        assert!(schedule.leave(ticket).is_empty());
    }
    assert!(schedule.leave(waiting[0]).is_empty());
    assert_eq!(schedule.leave(waiting[1]), [waiting[2]]);
}
