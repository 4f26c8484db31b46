//! Every step fails, every step is the last before the process dies: afterwards there is what was promised, and
//! nothing else.
//!
//! The calls of the saga into journal, backend and hypervisor are numbered as they come. For each operation, each
//! backend, each kind of fault and each number, the call of that number goes wrong: before it had its effect, with half of it, or
//! after it. Then a new engine reconciles, as the next start of the daemon does. And for each number, the caller's deadline passes during the call
//! of that number.

#![cfg(test)]

mod fakes;

use std::collections::BTreeSet;
use std::time::Duration;

use fakes::{Fault, Guest, World, attach, by_root, connect, end, iscsi, local, nfs, nvme, smb};
use tokio::time::Instant;
use volattach::attach::{Engine, Error};
use volattach::backend::Presence;
use volattach::connection::ConnectionInfo;
use volattach::journal::Step;
use volattach::model::{Dialect, Reason, State};
use volattach::reconcile;

/// Connection info for the volume of that name.
type Info = fn(&str) -> ConnectionInfo;

/// The backends. A new one is added here.
const BACKENDS: &[(&str, Info)] = &[
    ("smbfs", smb),
    ("local", local),
    ("nfs", nfs),
    ("nvmeof", nvme),
    ("iscsi", iscsi),
];

/// The hypervisors. A new one is added here.
const DIALECTS: [Dialect; 2] = [Dialect::Qemu, Dialect::Xen];

/// The calls that a step's run and undo make. A step without its calls here does not compile; a call that no
/// fault struck fails the test.
fn calls(step: Step) -> &'static [&'static str] {
    match step {
        Step::Connect => &[
            "backend.find",
            "backend.survey",
            "backend.connect",
            "backend.write_out",
            "backend.disconnect",
        ],
        Step::Inspect => &["backend.inspect"],
        Step::Attach => &[
            "hypervisor.domain",
            "backend.pin",
            "hypervisor.plug",
            "hypervisor.has_disk",
            "hypervisor.request_unplug",
            "hypervisor.wait_unplugged",
            "hypervisor.withdraw_unplug",
        ],
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Attach,
    /// Attaches to a domain that was attached to before, and is planned for as it was then.
    AttachAgain,
    Detach,
    /// Cancels a detach whose guest has not answered.
    CancelDetach,
    Connect,
    Disconnect,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::Attach,
        Self::AttachAgain,
        Self::Detach,
        Self::CancelDetach,
        Self::Connect,
        Self::Disconnect,
    ];

    /// Whether it makes something.
    fn makes(self) -> bool {
        matches!(self, Self::Attach | Self::AttachAgain | Self::Connect)
    }

    /// Whether there is everything after its success.
    fn leaves_all(self) -> bool {
        self.makes() || self == Self::CancelDetach
    }

    async fn run(self, engine: &Engine, info: ConnectionInfo) -> Result<(), Error> {
        self.run_until(engine, info, None).await
    }

    /// The same, for a caller with a deadline.
    async fn run_until(
        self,
        engine: &Engine,
        info: ConnectionInfo,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        match self {
            Self::Attach | Self::AttachAgain => {
                let request = by_root(attach("a1", "v1", info));
                engine.attach(request.until(deadline)).await.map(drop)
            }
            Self::Connect => {
                let request = by_root(connect("a1", "v1", info));
                engine.connect(request.until(deadline)).await.map(drop)
            }
            Self::Detach => engine.detach(by_root(end("a1")).until(deadline)).await,
            Self::CancelDetach => {
                let id = by_root("a1".parse().unwrap());
                engine.cancel_detach(id.until(deadline)).await.map(drop)
            }
            Self::Disconnect => engine.disconnect(by_root(end("a1")).until(deadline)).await,
        }
    }

    /// What must be there before it.
    async fn prepare(self, world: &World, engine: &Engine, info: ConnectionInfo) {
        match self {
            Self::Attach | Self::Connect => {}
            Self::AttachAgain => {
                Self::Attach.boxed(engine, info.clone()).await;
                Self::Detach.boxed(engine, info).await;
            }
            Self::Detach => Self::Attach.boxed(engine, info).await,
            Self::CancelDetach => {
                Self::Attach.boxed(engine, info.clone()).await;
                world.state().guest = Guest::Ignores;
                let pending = Box::pin(Self::Detach.run(engine, info)).await;
                assert_eq!(pending.unwrap_err().reason(), Reason::UnplugPending);
            }
            Self::Disconnect => Self::Connect.boxed(engine, info).await,
        }
    }

    async fn boxed(self, engine: &Engine, info: ConnectionInfo) {
        Box::pin(self.run(engine, info)).await.unwrap();
    }

    /// The operation that ends what this one makes.
    fn end(self) -> Self {
        match self {
            Self::Attach | Self::AttachAgain | Self::Detach | Self::CancelDetach => Self::Detach,
            Self::Connect | Self::Disconnect => Self::Disconnect,
        }
    }
}

/// What is there of the attachment under test.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    Whole,
    Remains(String),
}

/// Looks at the world, not at what the engine says of it. `bystander` has the connections of the attachment that is there
/// before and after.
fn look(world: &World, bystander: Option<&BTreeSet<String>>) -> There {
    let mut records = world.records();
    records.retain(|record| record.id.as_str() == "a1");
    let state = world.state();
    let plugged = state.disks.contains_key("ua-volattach-a1");
    let whole = state
        .connections
        .values()
        .all(|there| *there == Presence::Present);
    let connections: BTreeSet<String> = state.connections.keys().cloned().collect();
    let all = format!("plugged {plugged} {:?} {records:#?}", state.connections);
    if let Some(its) = bystander {
        assert!(
            state.disks.contains_key("ua-volattach-b1"),
            "the bystander lost its disk: {all}"
        );
        assert!(
            connections.is_superset(its),
            "the bystander lost its connection: {all}"
        );
    }
    let only_the_bystanders = connections == bystander.cloned().unwrap_or_default();
    match &records[..] {
        [] if !plugged && only_the_bystanders && whole => There::Nothing,
        [record]
            if whole
                && (record.host.plan.claims.is_empty() || !connections.is_empty())
                && record.course.error().is_none() =>
        {
            match (record.course.state(), plugged) {
                (State::Attached, true) | (State::Connected, false) => There::Whole,
                _ => There::Remains(all),
            }
        }
        _ => There::Remains(all),
    }
}

/// One case: the `at`-th call goes wrong. Returns what was struck, or `None` where there are not so many calls.
async fn strike(
    dialect: Dialect,
    operation: Operation,
    info: Info,
    fault: Fault,
    at: usize,
    bystander: bool,
) -> Option<String> {
    let mut world = World::of(dialect);
    let engine = world.engine();
    let bystander = if bystander {
        engine
            .attach(by_root(attach("b1", "v2", info("v2"))))
            .await
            .unwrap();
        Some(world.state().connections.keys().cloned().collect())
    } else {
        None
    };
    let look = |world: &World| look(world, bystander.as_ref());
    operation.prepare(&world, &engine, info("v1")).await;

    world.gate.arm(at, fault);
    let result = tokio::select! {
        result = operation.run(&engine, info("v1")) => Some(result),
        () = world.gate.died() => None,
    };
    let struck = world.gate.disarm()?;
    let context = format!(
        "{dialect:?}, {operation:?}, {fault:?} at {at} ({struck}), bystander {}",
        bystander.is_some()
    );

    // An answer is a promise.
    match result {
        Some(Ok(())) if operation.leaves_all() => {
            assert_eq!(look(&world), There::Whole, "{context}: said OK");
        }
        Some(Ok(())) => {
            assert_eq!(look(&world), There::Nothing, "{context}: said OK");
        }
        // A failure that says nothing of remains has none.
        Some(Err(ref error)) if operation.makes() && !matches!(error, Error::Undo { .. }) => {
            assert_eq!(look(&world), There::Nothing, "{context}: {}", error.chain());
        }
        Some(Err(_)) | None => {}
    }

    // The next start of the daemon.
    world.gate.bury();
    let engine = world.engine();
    reconcile::once(&engine).await;
    let after = look(&world);
    let settled = match &result {
        // It was told that nothing is left.
        Some(Err(error)) if operation.makes() && !matches!(error, Error::Undo { .. }) => {
            after == There::Nothing
        }
        // Its guest may still be the one to answer.
        Some(Err(_)) | None if operation == Operation::CancelDetach => {
            after == There::Whole || world.state().disks.contains_key("ua-volattach-a1")
        }
        // It got no answer, or one that leaves it open: all or nothing, never a part.
        _ => after == There::Nothing || after == There::Whole,
    };
    assert!(settled, "{context}: after the next start: {after:?}");

    // The caller, who got no answer or an error, asks again.
    let again = operation.run(&engine, info("v1")).await;
    assert!(
        again.is_ok(),
        "{context}: asked again: {}",
        again.unwrap_err().chain()
    );
    let wanted = if operation.leaves_all() {
        There::Whole
    } else {
        There::Nothing
    };
    assert_eq!(look(&world), wanted, "{context}: asked again");

    // And in the end everything goes.
    world.state().guest = Guest::Obeys;
    operation.end().run(&engine, info("v1")).await.unwrap();
    assert_eq!(look(&world), There::Nothing, "{context}: in the end");
    if bystander.is_some() {
        engine.detach(by_root(end("b1"))).await.unwrap();
        let state = world.state();
        assert!(
            state.connections.is_empty() && state.records.is_empty(),
            "{context}: the bystander left remains"
        );
    }
    Some(struck)
}

/// Runs the case with each number there is; how many those are.
fn run_each<F>(case: impl Fn(usize) -> F, struck: &mut BTreeSet<String>) -> usize
where
    F: Future<Output = Option<String>>,
{
    let mut cases = 0;
    loop {
        // A runtime of its own: dropping it drops the dead process's tasks, as the kernel would.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let Some(name) = runtime.block_on(case(cases)) else {
            return cases;
        };
        struck.insert(name.split(' ').next().unwrap().to_owned());
        cases += 1;
    }
}

fn run_all(fault: Fault) {
    let mut struck = BTreeSet::new();
    for dialect in DIALECTS {
        for &(protocol, info) in BACKENDS {
            for operation in Operation::ALL {
                for bystander in [false, true] {
                    let case = |at| strike(dialect, operation, info, fault, at, bystander);
                    let cases = run_each(case, &mut struck);
                    let name = format!("{dialect:?} {protocol} {operation:?}");
                    assert!(cases >= 3, "{name}: only {cases} calls");
                }
            }
        }
    }
    for step in [Step::Connect, Step::Inspect, Step::Attach] {
        for call in calls(step) {
            assert!(
                struck.contains(*call),
                "{step:?}: nothing ever went wrong at {call}"
            );
        }
    }
    assert!(struck.contains("journal.put") && struck.contains("journal.remove"));
}

/// One case: the caller's deadline passes during the `at`-th call.
async fn outlive(dialect: Dialect, operation: Operation, info: Info, at: usize) -> Option<String> {
    let world = World::of(dialect);
    let engine = world.engine();
    operation.prepare(&world, &engine, info("v1")).await;
    let plugs = world.state().plugs;
    world.gate.arm(at, Fault::Hold);
    let deadline = Some(Instant::now() + Duration::from_secs(1));
    let call = operation.run_until(&engine, info("v1"), deadline);
    tokio::pin!(call);
    let answer = tokio::select! {
        answer = &mut call => Some(answer),
        () = world.gate.died() => None,
    };
    let mut connected = false;
    let answer = match answer {
        Some(answer) => answer,
        None => {
            connected = !world.state().connections.is_empty();
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.gate.release();
            call.await
        }
    };
    let struck = world.gate.disarm()?;
    let context = format!("{dialect:?}, {operation:?}, too late from {at} ({struck})");
    match answer {
        // Plugged before the deadline as far as anybody can tell.
        Ok(()) if matches!(operation, Operation::Attach | Operation::AttachAgain) => {
            assert!(struck.starts_with("hypervisor.plug"), "{context}: plugged");
            assert_eq!(look(&world, None), There::Whole, "{context}");
        }
        // All was done but the last word in the journal.
        Ok(()) if operation == Operation::Connect => {
            let local = world.state().connections.is_empty();
            let last = struck.starts_with("journal.put") && (connected || local);
            assert!(last, "{context}: connected");
            assert_eq!(look(&world, None), There::Whole, "{context}");
        }
        Ok(()) => {
            assert_eq!(look(&world, None), There::Nothing, "{context}");
        }
        Err(error) => {
            assert!(operation.makes(), "{context}: {}", error.chain());
            assert_eq!(error.reason(), Reason::DeadlinePassed, "{context}");
            assert_eq!(look(&world, None), There::Nothing, "{context}");
            assert_eq!(world.state().plugs, plugs, "{context}: the guest saw it");
        }
    }
    Some(struck)
}

#[test]
fn each_call_outlives_the_callers_deadline() {
    let mut struck = BTreeSet::new();
    for dialect in DIALECTS {
        for &(_, info) in BACKENDS {
            for operation in Operation::ALL {
                // A cancelled detach ends no other way than before.
                if operation != Operation::CancelDetach {
                    run_each(|at| outlive(dialect, operation, info, at), &mut struck);
                }
            }
        }
    }
    for step in [Step::Connect, Step::Inspect, Step::Attach] {
        assert!(calls(step).iter().any(|call| struck.contains(*call)));
    }
}

#[test]
fn each_call_fails_once() {
    run_all(Fault::Fail);
}

#[test]
fn each_call_and_all_after_it_fail() {
    run_all(Fault::FailFromHere);
}

#[test]
fn each_call_is_the_last_before_the_process_dies() {
    run_all(Fault::Die);
}
