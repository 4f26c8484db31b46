use proptest::prelude::*;

use super::*;

fn server(host: &str) -> Server {
    Server {
        protocol: "nfs".to_owned(),
        host: host.to_owned(),
        port: None,
    }
}

fn silence(began: Instant, shared: bool) -> Silence {
    Silence {
        began,
        at: SystemTime::UNIX_EPOCH,
        why: Reason::ServerTimeout,
        shared,
    }
}

/// A server whose silences follow each other.
struct Story {
    cases: Cases,
    now: Instant,
    server: Server,
}

impl Story {
    fn new() -> Self {
        Self {
            cases: Cases::default(),
            now: Instant::now(),
            server: server("nas"),
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// An operation that begins now and waits three seconds for nothing.
    fn silent(&mut self) -> bool {
        let began = self.now;
        self.pass(3);
        self.silent_since(began)
    }

    fn silent_since(&mut self, began: Instant) -> bool {
        self.cases
            .silent(&self.server, silence(began, false), self.now)
    }

    /// Seconds until the next probe.
    fn after(&self) -> Option<u64> {
        let quarantined = self.cases.quarantined(&self.server, self.now);
        quarantined.map(|it| it.after.as_secs())
    }

    /// Waits for the next probe, which ends so.
    fn probe(&mut self, answers: bool) -> bool {
        self.now = self.now.max(self.cases.next().unwrap());
        assert_eq!(self.due(), std::slice::from_ref(&self.server));
        assert_eq!(self.due(), [], "one at a time");
        self.cases.probed(&self.server, answers, self.now).is_some()
    }

    fn due(&mut self) -> Vec<Server> {
        self.cases.due(self.now, 64)
    }
}

#[test]
fn the_second_silence_in_a_row_quarantines() {
    let mut story = Story::new();
    assert!(!story.silent());
    assert_eq!(story.after(), None);
    assert!(story.silent());
    assert_eq!(story.after(), Some(0), "asked at once");
    assert_eq!(story.cases.all(story.now).len(), 1);
    let other = story.cases.quarantined(&server("other"), story.now);
    assert_eq!(other, None);
}

#[test]
fn an_answer_between_two_silences_is_none_in_a_row() {
    let mut story = Story::new();
    assert!(!story.silent());
    assert_eq!(story.cases.answered(&story.server, false), None);
    assert!(!story.silent());
    story.pass(MEMORY.as_secs());
    assert!(!story.silent(), "the first is forgotten");
}

#[test]
fn operations_that_wait_at_the_same_time_are_one_silence() {
    let mut story = Story::new();
    let began = story.now;
    story.pass(3);
    for _ in 0..50 {
        assert!(!story.silent_since(began));
        story.pass(1);
    }
    assert!(story.silent());
}

#[test]
fn probes_have_growing_pauses_and_an_answer_ends_the_quarantine() {
    let mut story = Story::new();
    story.silent();
    story.silent();
    for pause in [5, 10, 20, 40, 60, 60, 60] {
        assert!(!story.probe(false));
        assert_eq!(story.after(), Some(pause));
    }
    assert!(story.probe(true));
    assert_eq!((story.after(), story.cases.next()), (None, None));
}

#[test]
fn a_server_that_answers_its_first_probe_is_kept_from_nobody() {
    let mut story = Story::new();
    story.silent();
    let early = story.now;
    story.silent();
    assert_eq!(story.cases.next(), Some(story.now));
    assert!(story.probe(true));
    assert_eq!(story.after(), None);
    assert!(!story.silent_since(early));
    assert!(story.silent(), "it is silent again");
}

#[test]
fn an_answer_to_a_call_ends_a_quarantine() {
    let mut story = Story::new();
    story.silent();
    story.silent();
    let by_another = story.cases.answered(&story.server, true);
    assert_eq!(by_another, None);
    assert_eq!(story.due().len(), 1);
    assert!(story.cases.answered(&story.server, false).is_some());
    let late = story.cases.probed(&story.server, true, story.now);
    assert_eq!(late, None);
    assert_eq!(story.after(), None);
}

#[test]
fn an_answer_by_one_of_several_servers_ends_their_common_suspicion_alone() {
    let mut story = Story::new();
    let began = story.now;
    for (shared, again) in [(true, false), (false, true)] {
        story.cases = Cases::default();
        story
            .cases
            .silent(&story.server, silence(began, shared), story.now);
        story.cases.answered(&story.server, true);
        assert_eq!(story.silent(), again);
    }
}

/// A hanging back end behind a live front end must not have each of its records tried again at once, over and over.
#[test]
fn a_quarantine_lasts_once_a_probe_was_silent() {
    for silent_probes in [0, 1] {
        for by_probe in [true, false] {
            let mut story = Story::new();
            story.silent();
            story.silent();
            for _ in 0..silent_probes {
                assert!(!story.probe(false));
            }
            story.now = story.cases.next().unwrap();
            assert_eq!(story.due().len(), 1);
            let ended = match by_probe {
                true => story.cases.probed(&story.server, true, story.now),
                false => story.cases.answered(&story.server, false),
            };
            let lasted = silent_probes > 0;
            assert_eq!(ended, Some(Ended { lasted }));
        }
    }
}

#[test]
fn a_quarantine_that_nobody_asks_for_is_forgotten() {
    let mut story = Story::new();
    story.silent();
    story.silent();
    while story.after().is_some() {
        let now = story.now;
        assert!(story.cases.refusal(&story.server, now).is_some());
        story.pass(MEMORY.as_secs() - 1);
        assert_eq!(story.due().len(), 1, "somebody asks");
        story.pass(2);
        assert_eq!(story.due(), [], "being asked");
        assert!(story.after().is_some(), "while it is asked");
        story.cases.probed(&story.server, false, story.now);
        assert_eq!(story.due(), []);
    }
    assert_eq!(story.cases.next(), None);
    assert!(!story.silent(), "two silences are needed again");
    assert!(story.silent());
}

#[test]
fn only_so_many_are_asked_at_once() {
    let (mut cases, now) = (Cases::default(), Instant::now());
    for number in 0..5 {
        for _ in 0..2 {
            cases.silent(&server(&number.to_string()), silence(now, false), now);
        }
    }
    assert_eq!(cases.due(now, 3).len(), 3);
    assert_eq!(cases.due(now, 0), []);
    assert_eq!(cases.due(now, 3).len(), 2);
}

#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Silent { host: u8, took: u64, shared: bool },
    Answered { host: u8, shared: bool },
    Due,
    Probed { host: u8, answers: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let host = 0..3u8;
    prop_oneof![
        (0..90u64).prop_map(Event::Pass),
        (host.clone(), 0..90u64, any::<bool>()).prop_map(|(host, took, shared)| Event::Silent {
            host,
            took,
            shared
        }),
        (host.clone(), any::<bool>()).prop_map(|(host, shared)| Event::Answered { host, shared }),
        Just(Event::Due),
        (host, any::<bool>()).prop_map(|(host, answers)| Event::Probed { host, answers }),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: no server is quarantined without a silence of its own, each quarantined server is asked again within
    /// the longest pause, one probe at a time, and an answer ends its quarantine.
    #[test]
    fn every_quarantine_has_a_cause_and_an_end(events in proptest::collection::vec(event(), 0..200)) {
        let mut cases = Cases::default();
        let mut now = Instant::now() + Duration::from_secs(1000);
        let mut silences = [0usize; 3];
        let mut asked = std::collections::BTreeSet::new();
        let name = |host: u8| server(&host.to_string());
        for event in events {
            match event {
                Event::Pass(seconds) => now += Duration::from_secs(seconds),
                Event::Silent { host, took, shared } => {
                    silences[usize::from(host)] += 1;
                    let was = cases.quarantined(&name(host), now).is_some();
                    let began = now - Duration::from_secs(took);
                    let begun = cases.silent(&name(host), silence(began, shared), now);
                    prop_assert!(!(was && begun));
                }
                Event::Answered { host, shared } => {
                    let was = cases.quarantined(&name(host), now).is_some();
                    let ended = cases.answered(&name(host), shared).is_some();
                    prop_assert_eq!(ended, was && !shared);
                    if ended {
                        asked.remove(&host);
                    }
                }
                Event::Due => {
                    for server in cases.due(now, 64) {
                        let host: u8 = server.host.parse().unwrap();
                        prop_assert!(asked.insert(host), "two probes at a time");
                    }
                }
                Event::Probed { host, answers } if asked.remove(&host) => {
                    let ended = cases.probed(&name(host), answers, now).is_some();
                    prop_assert_eq!(ended, answers);
                    prop_assert_eq!(cases.quarantined(&name(host), now).is_some(), !answers);
                }
                Event::Probed { .. } => {}
            }
            for quarantined in cases.all(now) {
                prop_assert!(quarantined.after <= PAUSES[4]);
                let host: usize = quarantined.server.host.parse().unwrap();
                prop_assert!(silences[host] >= 2);
            }
        }
        // All of them are asked in the end, and let go.
        for host in asked {
            cases.probed(&name(host), true, now);
        }
        now += PAUSES[4];
        for server in cases.due(now, 64) {
            prop_assert!(cases.probed(&server, true, now).is_some());
        }
        prop_assert!(cases.all(now).is_empty());
    }
}
