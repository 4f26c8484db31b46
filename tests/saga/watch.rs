//! What a watcher is told: the whole, and what changed while it was away or behind.

use std::collections::BTreeMap;
use std::task::Poll;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::task::unconstrained;
use volattach::attach::{Event, Feed, ListQuery, Revision};

use super::*;

/// More cycles of an attach and a detach than the live changes hold.
const BURST: usize = 200;

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Step {
    Attach(u8),
    /// Attaches and fails.
    Fail(u8),
    Detach(u8),
    /// Detaches, and the guest keeps the disk: an error stays.
    Refuse(u8),
    /// Attaches and detaches many times.
    Burst(u8),
    /// The watcher reads that many messages, if there are.
    Read(usize),
    /// The watcher breaks off and resumes.
    Break,
    /// The daemon starts anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..4_u8;
    prop_oneof![
        16 => id.clone().prop_map(Step::Attach),
        5 => id.clone().prop_map(Step::Fail),
        12 => id.clone().prop_map(Step::Detach),
        10 => id.clone().prop_map(Step::Refuse),
        1 => id.prop_map(Step::Burst),
        10 => (0..8_usize).prop_map(Step::Read),
        8 => Just(Step::Break),
        1 => Just(Step::Restart),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        Just(Filter::default()),
        Just(Filter {
            failing: true,
            ..Filter::default()
        }),
        Just(Filter {
            state: Some(State::Attached),
            ..Filter::default()
        }),
        Just(Filter {
            reason: Some("UNPLUG_REFUSED".to_owned()),
            ..Filter::default()
        }),
        Just(Filter {
            volume: "v1".parse().ok(),
            ..Filter::default()
        }),
    ]
}

/// A watcher, and what it believes.
struct Watcher {
    feed: Feed,
    filter: Filter,
    after: Option<Revision>,
    view: BTreeMap<AttachmentId, Attachment>,
    /// How often it began anew.
    anew: usize,
}

async fn watch(engine: &Engine, filter: &Filter, after: Option<Revision>) -> Result<Feed, Error> {
    let filter = filter.clone();
    engine.watch(by_root(WatchRequest { filter, after })).await
}

impl Watcher {
    async fn new(engine: &Engine, filter: Filter) -> Self {
        Self {
            feed: watch(engine, &filter, None).await.unwrap(),
            filter,
            after: None,
            view: BTreeMap::new(),
            anew: 0,
        }
    }

    /// Breaks off and resumes, as the command line does.
    async fn resume(&mut self, engine: &Engine) {
        let resumed = match self.after {
            Some(after) => watch(engine, &self.filter, Some(after)).await,
            None => Err(Error::WatchExpired),
        };
        self.feed = match resumed {
            Ok(feed) => feed,
            Err(Error::WatchExpired) => {
                (self.view, self.after) = (BTreeMap::new(), None);
                self.anew += 1;
                watch(engine, &self.filter, None).await.unwrap()
            }
            Err(error) => panic!("{error}"),
        };
    }

    fn take(&mut self, told: Told) {
        if let Some(Event { attachment, left }) = told.event {
            match left || attachment.state == State::Gone {
                true => self.view.remove(&attachment.id),
                false => self.view.insert(attachment.id.clone(), attachment),
            };
        }
        self.after = told.revision.or(self.after);
    }

    /// Takes the next message, if there is one.
    async fn read(&mut self) -> bool {
        let mut next = Box::pin(unconstrained(self.feed.next()));
        // The feed and the world let others go first now and then.
        for _ in 0..20 {
            if let Poll::Ready(told) = futures::poll!(&mut next) {
                drop(next);
                self.take(told.unwrap());
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }

    /// Reads everything, and compares what it believes with the list.
    async fn is_right(&mut self, engine: &Engine) {
        while self.read().await {}
        let query = ListQuery {
            filter: self.filter.clone(),
            after: None,
            limit: usize::MAX,
        };
        let list = engine.list(by_root(query)).await.unwrap();
        let view: Vec<_> = self.view.values().cloned().collect();
        assert_eq!(view, list);
    }
}

async fn take(world: &World, engine: &Engine, step: Step) {
    let ids = |number: u8| (format!("a{number}"), format!("v{number}"));
    let attach_one = async |number: u8| {
        let (id, volume) = ids(number);
        let request = attach(&id, &volume, smb(&volume));
        engine.attach(by_root(request)).await
    };
    let detach_one = async |number: u8| engine.detach(by_root(end(&ids(number).0))).await;
    match step {
        Step::Attach(number) => {
            attach_one(number).await.unwrap();
        }
        Step::Fail(number) => {
            world.state().inspect_fails = Some(Reason::VolumeNotFound);
            let _ = attach_one(number).await;
            world.state().inspect_fails = None;
        }
        Step::Detach(number) => detach_one(number).await.unwrap(),
        Step::Refuse(number) => {
            world.state().guest = Guest::Refuses;
            let _ = detach_one(number).await;
            world.state().guest = Guest::Obeys;
        }
        Step::Burst(number) => {
            for _ in 0..BURST {
                attach_one(number).await.unwrap();
                detach_one(number).await.unwrap();
            }
        }
        Step::Read(_) | Step::Break | Step::Restart => {}
    }
}

async fn history(filter: Filter, steps: Vec<Step>) {
    let world = World::new();
    let mut engine = world.engine();
    let mut watcher = Watcher::new(&engine, filter).await;
    for step in steps {
        match step {
            Step::Read(count) => {
                for _ in 0..count {
                    watcher.read().await;
                }
            }
            Step::Break => watcher.resume(&engine).await,
            Step::Restart => {
                world.state().sync();
                engine = world.engine();
                watcher.resume(&engine).await;
            }
            step => take(&world, &engine, step).await,
        }
    }
    watcher.is_right(&engine).await;
    let anew = watcher.anew;
    watcher.resume(&engine).await;
    assert_eq!(watcher.anew, anew, "it was up to date");
    watcher.is_right(&engine).await;
}

#[test]
fn a_watcher_believes_what_the_list_has_whatever_broke() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: 48,
        ..Config::default()
    };
    let steps = proptest::collection::vec(step(), 0..40);
    TestRunner::new(config)
        .run(&(filter(), steps), |(filter, steps)| {
            runtime.block_on(history(filter, steps));
            Ok(())
        })
        .unwrap();
}

/// A resume costs what changed since, and has the ends.
#[tokio::test]
async fn a_resumed_watch_is_told_what_changed_and_no_more() {
    let world = World::new();
    let engine = world.engine();
    for number in 1..=5 {
        attached(&engine, &format!("a{number}"), &format!("v{number}")).await;
    }
    let mut watcher = Watcher::new(&engine, Filter::default()).await;
    watcher.is_right(&engine).await;
    engine.detach(by_root(end("a2"))).await.unwrap();
    attached(&engine, "a6", "v6").await;
    let mut feed = watch(&engine, &Filter::default(), watcher.after)
        .await
        .unwrap();
    let mut told = Vec::new();
    loop {
        let next = feed.next().await.unwrap();
        assert!(next.revision.is_some());
        let Some(event) = next.event else {
            assert!(next.up_to_date);
            break;
        };
        told.push((event.attachment.id.to_string(), event.attachment.state));
    }
    let expected = [("a2", State::Gone), ("a6", State::Attached)];
    assert_eq!(
        told,
        expected.map(|(id, state)| (id.to_owned(), state)),
        "the last state of each, and nothing of the others"
    );
}

/// The same id, gone and made again for another volume meanwhile: the end of the first is told, too.
#[tokio::test]
async fn an_id_that_was_used_again_ends_first() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    let filter = Filter {
        volume: "v1".parse().ok(),
        ..Filter::default()
    };
    let mut watcher = Watcher::new(&engine, filter).await;
    watcher.is_right(&engine).await;
    assert_eq!(watcher.view.len(), 1);
    engine.detach(by_root(end("a1"))).await.unwrap();
    attached(&engine, "a1", "v2").await;
    watcher.resume(&engine).await;
    watcher.is_right(&engine).await;
    assert!(watcher.view.is_empty());
}

/// Changes that a watcher would not be sent do not cost it its place, and live ones are told step by step.
#[tokio::test]
async fn a_watcher_of_one_volume_is_not_told_of_others() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    let filter = Filter {
        volume: "v1".parse().ok(),
        ..Filter::default()
    };
    let mut watcher = Watcher::new(&engine, filter).await;
    watcher.is_right(&engine).await;
    take(&world, &engine, Step::Burst(2)).await;
    engine.detach(by_root(end("a1"))).await.unwrap();
    watcher.is_right(&engine).await;
    assert!(watcher.view.is_empty() && watcher.anew == 0);
}

/// An attachment that stopped matching while the watcher was away, and changes again before the watcher is told, is told to have left.
#[tokio::test]
async fn what_changes_while_a_watcher_catches_up_is_told() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    world.state().guest = Guest::Ignores;
    engine.detach(by_root(end("a1"))).await.unwrap_err();
    let filter = Filter {
        failing: true,
        ..Filter::default()
    };
    let mut watcher = Watcher::new(&engine, filter).await;
    watcher.is_right(&engine).await;
    assert_eq!(watcher.view.len(), 1);
    // More than the watcher takes from the index in one go.
    for number in 0..300 {
        connected(&engine, &format!("c{number}"), &format!("w{number}")).await;
    }
    engine.cancel_detach(by_root(id("a1"))).await.unwrap();
    watcher.resume(&engine).await;
    world.state().guest = Guest::Obeys;
    engine.detach(by_root(end("a1"))).await.unwrap();
    watcher.is_right(&engine).await;
    assert!(watcher.anew == 0);
}
