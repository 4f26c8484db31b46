//! Random histories of a small host: few names, which are reused; targets that show one LUN by several paths; two volumes that report one
//! identity; servers and a libvirt that come, go and are slow; a journal whose disk is full; a daemon that dies at any point of any call.
//!
//! Checks after each turn: no guest has a disk of another volume than its own; no other call, and no failed call of its own, has taken a
//! working disk from an attachment. At the end, everything can be detached and nothing is left.
//!
//! `VOLATTACH_HISTORIES=n` runs n histories instead of 10,000; `VOLATTACH_SEED=n` runs the histories of that seed. A failure prints the
//! seed and the shrunk history.

#![cfg(test)]

mod fakes;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use fakes::{Deaf, Fault, Guest, World, attach, by_root, end, iscsi, smb};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::time::Instant;
use volattach::attach::{AttachRequest, Engine, Error};
use volattach::connection::{ConnectionInfo, Protocol};
use volattach::journal::{Direction, Record};
use volattach::model::{Access, SourceKind, State};
use volattach::reconcile;

/// Number of histories by default.
const HISTORIES: u32 = 10_000;
/// Maximum number of turns in a history.
const TURNS: usize = 12;
/// How long a hurried caller waits.
const DEADLINE: Duration = Duration::from_secs(1);
/// The ids of the attachments that callers make.
const IDS: [&str; 3] = ["a1", "a2", "a3"];
/// The volumes: the number on the storage, and the target and LUN of each path by which callers know the volume.
const VOLUMES: [(u8, &[(&str, u64)]); 7] = [
    (1, &[("iqn.x", 1)]),
    (1, &[("iqn.y", 1)]),
    (1, &[("iqn.x", 1), ("iqn.y", 1)]),
    (2, &[("iqn.x", 2)]),
    // Reports the identity of the first volume.
    (3, &[("iqn.z", 1)]),
    // Files of one share.
    (4, &[]),
    (5, &[]),
];

/// A target whose disks other programs on this host use.
const OTHERS: &str = "iqn.others";

/// One event in a history.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// Calls attach.
    Attach {
        id: usize,
        volume: usize,
        reads: bool,
        /// Whether the caller's deadline passes while a call is held.
        hurried: bool,
    },
    /// Calls detach.
    Detach { id: usize },
    /// Cancels a detach.
    CancelDetach { id: usize },
    /// Changes how the guest answers an unplug.
    Guest(Guest),
    /// Reconciles the journal with the host.
    Reconcile,
    /// Lets the guest release a disk by itself.
    Eject { id: usize },
    /// Switches the domain off and on, which takes all its disks away.
    PowerCycle,
    /// Takes the storage away for so long that the kernel gives up its disks.
    Away,
    /// Silences the storage, or brings it back.
    Silent(bool),
    /// Keeps this host from asking disks for their identity, or lets it ask again.
    Deaf(Option<Deaf>),
    /// Stops libvirt, or brings it back.
    Libvirt(bool),
    /// Makes each call to libvirt take seconds, or not.
    SlowLibvirt(bool),
    /// Fills the journal's disk, or makes room.
    DiskFull(bool),
    /// Unmounts shares as `umount -l` does: guests keep the files that they have open.
    Unmount,
    /// Swaps the LUNs of two volumes, unless this host has a disk at one of these LUNs.
    Remap,
}

/// A fault at some call of a turn. While a call is held, all devices go away and devices of others take their names.
type Struck = Option<(usize, Fault)>;

fn turn() -> impl Strategy<Value = Turn> {
    let id = 0..IDS.len();
    let deaf = prop_oneof![
        Just(None),
        Just(Some(Deaf::NoWorker)),
        Just(Some(Deaf::Refused))
    ];
    let guest = prop_oneof![
        2 => Just(Guest::Obeys),
        1 => Just(Guest::Ignores),
        1 => Just(Guest::Refuses),
        1 => Just(Guest::Busy),
    ];
    prop_oneof![
        14 => (id.clone(), 0..VOLUMES.len(), any::<bool>(), any::<bool>())
            .prop_map(|(id, volume, reads, hurried)| Turn::Attach { id, volume, reads, hurried }),
        6 => id.clone().prop_map(|id| Turn::Detach { id }),
        2 => id.clone().prop_map(|id| Turn::CancelDetach { id }),
        2 => guest.prop_map(Turn::Guest),
        3 => Just(Turn::Reconcile),
        1 => id.prop_map(|id| Turn::Eject { id }),
        1 => Just(Turn::PowerCycle),
        1 => Just(Turn::Away),
        1 => Just(Turn::Unmount),
        1 => any::<bool>().prop_map(Turn::Silent),
        1 => deaf.prop_map(Turn::Deaf),
        1 => any::<bool>().prop_map(Turn::Libvirt),
        1 => any::<bool>().prop_map(Turn::SlowLibvirt),
        1 => any::<bool>().prop_map(Turn::DiskFull),
        1 => Just(Turn::Remap),
    ]
}

fn struck() -> impl Strategy<Value = Struck> {
    let fault = prop_oneof![
        Just(Fault::Fail),
        Just(Fault::FailFromHere),
        Just(Fault::Die),
        Just(Fault::Hold)
    ];
    prop_oneof![3 => Just(None), 1 => (0..25_usize, fault).prop_map(Some)]
}

/// Connection info with these paths.
fn info(paths: &[(&str, u64)]) -> ConnectionInfo {
    let mut info = iscsi("v1");
    let Protocol::Iscsi(volume) = &mut info.protocol else {
        unreachable!("iscsi() is iSCSI")
    };
    let path = volume.paths[0].clone();
    volume.enforce_multipath = false;
    volume.paths = paths
        .iter()
        .map(|(target, lun)| {
            let mut path = path.clone();
            path.target = (*target).to_owned();
            path.lun = *lun;
            path
        })
        .collect();
    info
}

fn request_of(id: usize, volume: &str, info: ConnectionInfo, reads: bool) -> AttachRequest {
    let mut request = attach(IDS[id], volume, info);
    if reads {
        request.access = Some(Access::ReadOnly);
    }
    request
}

/// A host, and the requests of its callers so far.
struct History {
    world: World,
    engine: Engine,
    /// The last request for each id: the volume, and whether it only reads.
    asked: [Option<(usize, bool)>; IDS.len()],
    /// The `diskseq` of each disk that appeared for another program.
    others: Vec<u64>,
    /// Whether this turn took devices or disks away without a call.
    taken_by_the_world: bool,
}

impl History {
    fn begin() -> Self {
        let world = World::new();
        world.state().stored = 1 << 20;
        for (volume, paths) in VOLUMES {
            for (target, lun) in paths {
                world
                    .san()
                    .luns
                    .insert(((*target).to_owned(), *lun), volume);
            }
        }
        let engine = world.engine_of_san();
        Self {
            world,
            engine,
            asked: Default::default(),
            others: Vec::new(),
            taken_by_the_world: false,
        }
    }

    /// The ids of the attachments in the state `Attached`, without a detach under way, whose guest has the disk of an existing device.
    /// Leftovers of a failed call do not count: they may go.
    fn working(&self) -> BTreeSet<&'static str> {
        let mut records = self.world.records();
        records.retain(|record| {
            let course = &record.course;
            course.direction() == Direction::Forward && course.state() == State::Attached
        });
        records.retain(|record| self.read(record).is_some());
        let works = |id: &&str| records.iter().any(|record| record.id.as_str() == *id);
        IDS.into_iter().filter(works).collect()
    }

    /// The volumes that the guest reads on the attachment's disk; `None`: the guest has no such disk, or its device is gone.
    fn read(&self, record: &Record) -> Option<BTreeSet<u8>> {
        let state = self.world.state();
        state.disk(&record.disk)?;
        if record.host.plan.kind == SourceKind::File {
            let name = record.disk.source.file_name()?.to_str()?;
            return Some(BTreeSet::from([name
                .trim_start_matches('v')
                .parse()
                .ok()?]));
        }
        let opened = state.opened.get(&record.disk.alias).copied()?;
        self.world.san().read(opened?)
    }

    /// Asserts that no guest reads another volume than its attachment's.
    fn check(&self, turn: &str) {
        for record in self.world.records() {
            let its = record.volume.as_str().trim_start_matches('v');
            let its = BTreeSet::from([its.parse().unwrap()]);
            if let Some(read) = self.read(&record) {
                assert!(
                    read.is_subset(&its),
                    "{turn}: {} of volume {its:?} reads {read:?}: {:?}",
                    record.id,
                    self.world.san()
                );
            }
        }
    }

    fn request(&self, id: usize, volume: usize, reads: bool) -> AttachRequest {
        let (number, paths) = VOLUMES[volume];
        let name = format!("v{number}");
        if paths.is_empty() {
            return request_of(id, &name, smb(&name), reads);
        }
        let luns = self.world.san().luns.clone();
        let moved = |at: &(&str, u64)| luns[&(at.0.to_owned(), at.1)] != number;
        let now: Vec<(&str, u64)> = match paths.iter().any(moved) {
            false => paths.to_vec(),
            // The control plane sends the LUN to which the volume has moved.
            true => luns
                .iter()
                .filter(|(_, volume)| **volume == number)
                .map(|((target, lun), _)| (target.as_str(), *lun))
                .collect(),
        };
        request_of(id, &name, info(&now), reads)
    }

    /// Runs a call to its end; `None`: the daemon died in the call.
    async fn call<T>(&mut self, struck: Struck, call: impl Future<Output = T>) -> Option<T> {
        if let Some((at, fault)) = struck {
            self.world.gate.arm(at, fault);
        }
        tokio::pin!(call);
        let mut answer = tokio::select! {
            answer = &mut call => Some(answer),
            () = self.world.gate.died() => None,
        };
        if answer.is_none() && matches!(struck, Some((_, Fault::Hold))) {
            self.others_take_names();
            tokio::time::sleep(2 * DEADLINE).await;
            self.world.gate.release();
            answer = Some(call.await);
        }
        let passed = self.world.gate.disarm().is_none();
        // It may have died in the background, as the call ended.
        answer.filter(|_| passed || !matches!(struck, Some((_, Fault::Die))))
    }

    /// Removes all devices, and adds disks of other programs, which take the names.
    fn others_take_names(&mut self) {
        self.taken_by_the_world = true;
        self.world.away();
        for lun in 0..3 {
            let at = (OTHERS.to_owned(), lun);
            self.world.san().luns.insert(at.clone(), 9);
            self.others
                .extend(self.world.scan(&at).map(|disk| disk.number));
        }
    }

    async fn restart(&mut self) {
        self.world.gate.bury();
        self.engine = self.world.engine_of_san();
        self.engine.recall().await.unwrap();
        reconcile::once(&self.engine).await;
    }

    async fn turn(&mut self, turn: Turn, struck: Struck) {
        let before = self.working();
        let mut own = None;
        self.taken_by_the_world = false;
        let engine = self.engine.clone();
        let mut died = false;
        match turn {
            Turn::Attach {
                id,
                volume,
                reads,
                hurried,
            } => {
                own = Some(IDS[id]);
                // A repeated attach sends the first request unchanged.
                let known = engine.look(&IDS[id].parse().unwrap()).await.unwrap();
                let (volume, reads) = match (known, self.asked[id]) {
                    (Some(_), Some(asked)) => asked,
                    _ => (volume, reads),
                };
                self.asked[id] = Some((volume, reads));
                let request = self.request(id, volume, reads);
                let deadline = hurried.then(|| Instant::now() + DEADLINE);
                let request = by_root(request).until(deadline);
                let call = async move { engine.attach(request).await };
                match self.call(struck, call).await {
                    None => died = true,
                    Some(_) if self.taken_by_the_world => {}
                    Some(Ok(_)) => assert!(self.working().contains(IDS[id]), "said OK: {turn:?}"),
                    // A failed call must not take away a working disk.
                    Some(Err(error)) => {
                        let now = self.working();
                        assert!(
                            !before.contains(IDS[id]) || now.contains(IDS[id]),
                            "{turn:?} took its own disk away: {}",
                            error.chain()
                        );
                    }
                }
            }
            Turn::Detach { id } => {
                own = Some(IDS[id]);
                let call = async move { engine.detach(by_root(end(IDS[id]))).await };
                // Boxed: the future is large.
                died = Box::pin(self.call(struck, call)).await.is_none();
            }
            Turn::CancelDetach { id } => {
                own = Some(IDS[id]);
                let id = IDS[id].parse().unwrap();
                let call = async move { engine.cancel_detach(by_root(id)).await };
                died = self.call(struck, call).await.is_none();
            }
            Turn::Guest(guest) => self.world.state().guest = guest,
            Turn::Reconcile => {
                let call = async move { reconcile::once(&engine).await };
                died = self.call(struck, call).await.is_none();
            }
            Turn::Eject { id } => {
                own = Some(IDS[id]);
                self.world.let_go(&format!("ua-volattach-{}", IDS[id]));
            }
            Turn::PowerCycle => {
                self.taken_by_the_world = true;
                self.world.state().disks.clear();
            }
            Turn::Away => {
                self.taken_by_the_world = true;
                self.world.away();
            }
            Turn::Unmount => self.world.state().connections.clear(),
            Turn::Silent(silent) => self.world.san().silent = silent,
            Turn::Deaf(deaf) => self.world.san().deaf = deaf,
            Turn::Libvirt(there) => self.world.state().hypervisor_down = !there,
            Turn::SlowLibvirt(slow) => self.world.state().hypervisor_slow = slow,
            Turn::DiskFull(full) => self.world.state().disk_full = full,
            Turn::Remap => {
                let mut san = self.world.san();
                let on_host = |at: &(String, u64)| san.disks.iter().any(|disk| disk.at == *at);
                let luns = [("iqn.x".to_owned(), 2), ("iqn.z".to_owned(), 1)];
                if !luns.iter().any(on_host) {
                    let volume = san.luns[&luns[0]];
                    let other = san.luns[&luns[1]];
                    san.luns.insert(luns[0].clone(), other);
                    san.luns.insert(luns[1].clone(), volume);
                }
            }
        }
        if !died {
            // Time passes, and the journal writes its deferred records.
            self.world.state().sync();
        }
        let told = format!("{turn:?} {struck:?}");
        self.check(&told);
        let by_the_world = self.taken_by_the_world;
        let left = |now: BTreeSet<&'static str>| {
            let of_others = before.iter().filter(|id| own != Some(**id));
            let missing: Vec<_> = of_others.filter(|id| !now.contains(**id)).collect();
            assert!(
                by_the_world || missing.is_empty(),
                "{told}: took the disks of {missing:?}"
            );
        };
        left(self.working());
        if died {
            self.restart().await;
            self.check(&told);
            left(self.working());
        }
    }

    /// Ends all faults, detaches everything, and asserts that nothing is left.
    async fn end(mut self) {
        self.world.san().silent = false;
        self.world.san().deaf = None;
        self.world.state().hypervisor_down = false;
        self.world.state().hypervisor_slow = false;
        self.world.state().disk_full = false;
        self.world.state().guest = Guest::Obeys;
        self.restart().await;
        self.check("in the end");
        for id in IDS {
            let detach = || self.engine.detach(by_root(end(id)));
            let mut ended: Result<(), Error> = detach().await;
            if matches!(&ended, Err(Error::UnplugPending { .. })) {
                // The guest has lost the last request, and may be asked again.
                tokio::time::sleep(Duration::from_secs(30)).await;
                ended = detach().await;
            }
            ended.unwrap_or_else(|error| panic!("in the end: {id}: {}", error.chain()));
            self.check("in the end");
        }
        for number in self.others {
            self.world.remove_disk(number);
        }
        let state = self.world.state();
        let san = self.world.san();
        assert!(state.disks.is_empty(), "left: {:?}", state.disks);
        assert!(state.records.is_empty(), "left: {:?}", state.records.keys());
        assert!(state.open.is_empty(), "left open: {:?}", state.open);
        assert!(san.disks.is_empty(), "left: {:?}", san.disks);
        assert!(san.maps.is_empty(), "left: {:?}", san.maps);
        assert!(
            state.connections.is_empty(),
            "left: {:?}",
            state.connections
        );
    }
}

fn run(turns: Vec<(Turn, Struck)>) {
    // One runtime per history: its drop ends the tasks of dead processes, as the kernel would.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut history = History::begin();
        for (turn, struck) in turns {
            Box::pin(history.turn(turn, struck)).await;
        }
        history.end().await;
    });
}

#[test]
fn no_history_mixes_up_what_belongs_to_whom() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|it| it.parse::<u64>().unwrap())
    };
    let cases = number("VOLATTACH_HISTORIES").map_or(HISTORIES, |it| it.try_into().unwrap());
    let by_chance = || RandomState::new().build_hasher().finish();
    let seed = number("VOLATTACH_SEED").unwrap_or_else(by_chance);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    };
    let turns = prop::collection::vec((turn(), struck()), 1..=TURNS);
    let mut runner = TestRunner::new_with_rng(config, chance);
    let outcome = runner.run(&turns, |turns| {
        run(turns);
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("VOLATTACH_SEED={seed}: {failed}"));
}
