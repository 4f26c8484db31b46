use proptest::prelude::*;

use super::*;
use crate::model::{Identity, Via};

fn limits() -> Limits {
    Limits {
        calls_per_second: 10,
        burst: 3,
        calls: 5,
        watches: 2,
        all_watches: 3,
        ..crate::config::Settings::built_in().limits
    }
}

fn caller(user: &str) -> CallerId {
    CallerId::from(&Actor {
        via: Via::Keystone,
        user: Some(Identity {
            user_id: user.to_owned(),
            ..Identity::default()
        }),
        service: None,
        until: None,
    })
}

fn after(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

#[test]
fn a_burst_is_taken_and_then_the_rate() {
    let (mut accounts, start) = (Accounts::new(limits()), Instant::now());
    let mut call = |who: &str, millis| {
        let caller = caller(who);
        let entered = accounts.enter(&caller, after(start, millis));
        if entered.is_ok() {
            accounts.leave(&caller);
        }
        entered
    };
    for _ in 0..3 {
        assert_eq!(call("a", 0), Ok(()));
    }
    let refused = |millis| {
        Err(LimitError::Rate {
            per_second: 10,
            after: Duration::from_millis(millis),
        })
    };
    assert_eq!(call("a", 0), refused(100));
    // What was refused cost nothing; another caller has its own.
    assert_eq!(call("a", 60), refused(40));
    assert_eq!(call("b", 60), Ok(()));
    assert_eq!(call("a", 100), Ok(()));
    assert_eq!(call("a", 100), refused(100));
    // A long pause gives no more than a burst.
    for _ in 0..3 {
        assert_eq!(call("a", 3_600_000), Ok(()));
    }
    assert_eq!(call("a", 3_600_000), refused(100));
}

#[test]
fn calls_under_way_are_counted_until_they_end() {
    let mut accounts = Accounts::new(Limits {
        burst: 100,
        ..limits()
    });
    let (now, a) = (Instant::now(), caller("a"));
    for _ in 0..5 {
        accounts.enter(&a, now).unwrap();
    }
    let full = Err(LimitError::Calls { limit: 5 });
    assert_eq!(accounts.enter(&a, now), full);
    assert_eq!(accounts.enter(&caller("b"), now), Ok(()));
    accounts.leave(&a);
    assert_eq!(accounts.enter(&a, now), Ok(()));
    assert_eq!(accounts.enter(&a, now), full);
}

#[test]
fn watches_are_counted_for_each_and_for_all() {
    let (mut accounts, now) = (Accounts::new(limits()), Instant::now());
    let (a, b) = (caller("a"), caller("b"));
    accounts.watch(&a, now).unwrap();
    accounts.watch(&a, now).unwrap();
    assert_eq!(
        accounts.watch(&a, now),
        Err(LimitError::Watches { limit: 2 })
    );
    accounts.watch(&b, now).unwrap();
    assert_eq!(
        accounts.watch(&b, now),
        Err(LimitError::AllWatches { limit: 3 })
    );
    accounts.end_watch(&a);
    assert_eq!(accounts.watch(&b, now), Ok(()));
}

#[test]
fn callers_who_are_done_are_forgotten_and_others_are_not() {
    let (mut accounts, start) = (Accounts::new(limits()), Instant::now());
    let busy = caller("busy");
    accounts.watch(&busy, start).unwrap();
    for number in 0..10 * SWEEP {
        let now = after(start, number as u64);
        let caller = caller(&number.to_string());
        accounts.enter(&caller, now).unwrap();
        accounts.leave(&caller);
    }
    assert!(
        accounts.callers.len() <= SWEEP + 1,
        "{}",
        accounts.callers.len()
    );
    assert_eq!(accounts.callers[&busy].watches, 1);
}

#[test]
fn what_was_entered_is_left_with_its_guard() {
    let limiter = Limiter::new(Limits {
        calls: 1,
        watches: 1,
        ..limits()
    });
    let actor = |user: &str, service: Option<&str>| {
        let half = |id: &str| Identity {
            user_id: id.to_owned(),
            ..Identity::default()
        };
        Actor {
            via: Via::Keystone,
            user: Some(half(user)),
            service: service.map(half),
            until: None,
        }
    };
    let alone = actor("u", None);
    let (call, watch) = (
        limiter.enter(&alone).unwrap(),
        limiter.watch(&alone).unwrap(),
    );
    assert_eq!(
        limiter.enter(&alone).unwrap_err().reason(),
        Reason::TooManyCalls
    );
    assert_eq!(
        limiter.watch(&alone).unwrap_err().reason(),
        Reason::TooManyWatches
    );
    // The same user by a service is another caller, as is its namesake of another scheme.
    limiter.enter(&actor("u", Some("s"))).unwrap();
    let local = Actor {
        via: Via::Certificate("u".into()),
        ..alone.clone()
    };
    limiter.enter(&local).unwrap();
    drop((call, watch));
    limiter.enter(&alone).unwrap();
    limiter.watch(&alone).unwrap();
}

proptest! {
    /// In whatever pattern calls come, no more get in than the burst and the rate allow.
    #[test]
    fn never_more_than_the_rate(gaps in proptest::collection::vec(0u64..500, 1..200)) {
        let (mut accounts, start) = (Accounts::new(limits()), Instant::now());
        let (mut millis, mut entered) = (0, 0);
        for gap in gaps {
            millis += gap;
            if accounts.enter(&caller("a"), after(start, millis)).is_ok() {
                accounts.leave(&caller("a"));
                entered += 1;
            }
        }
        prop_assert!(entered <= 3 + millis / 100 + 1);
    }
}
