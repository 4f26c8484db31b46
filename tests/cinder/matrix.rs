//! Each request to Keystone and Cinder × each fault: afterwards `reconcile --yes` has Cinder and the agent agree, and nothing is left over.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::FutureExt;

use crate::GIB;
use crate::faults::Fault;
use crate::fixture::Cloud;
use crate::tenant::Tenant;

/// How many cases run at once, each in a project and on a node of its own.
const WORKERS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Attach,
    Extend,
    Detach,
}

/// An operation, and which of its requests goes wrong how.
#[derive(Debug, Clone, Copy)]
struct Case {
    operation: Operation,
    number: usize,
    fault: Fault,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_each_request_leaks_nothing() {
    let begin = Instant::now();
    let cloud = Cloud::shared();
    let requests = requests(&cloud).await;
    let mut cases = VecDeque::new();
    for (&operation, lines) in &requests {
        crate::report(&format!("cinder: {operation:?}: {}", lines.join(", ")));
        for number in 0..lines.len() {
            cases.extend(Fault::ALL.map(|fault| Case {
                operation,
                number,
                fault,
            }));
        }
    }
    let planned = cases.len();
    let cases = Arc::new(Mutex::new(cases));
    let workers = (0..WORKERS).map(|worker| {
        let (cloud, cases) = (cloud.clone(), cases.clone());
        tokio::spawn(async move { work(&cloud, worker, &cases).await })
    });
    let mut ran = 0;
    let mut failures = Vec::new();
    for worker in futures::future::join_all(workers).await {
        let (cases, failed) = worker.unwrap();
        ran += cases;
        failures.extend(failed);
    }
    crate::report(&format!(
        "cinder: {ran} cases (each request x each fault; {planned} planned), {} with an attachment leaked or anything else wrong; {} s",
        failures.len(),
        begin.elapsed().as_secs()
    ));
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    // A request more or less is no fault: an extend asks until the size has changed.
    assert!(
        ran * 10 >= planned * 9,
        "only {ran} of {planned} came about"
    );
}

/// What each operation asks for where nothing goes wrong.
async fn requests(cloud: &Arc<Cloud>) -> BTreeMap<Operation, Vec<String>> {
    let mut tenant = Tenant::new(cloud, "matrix").await;
    let volume = tenant.create_volume();
    let mut requests = BTreeMap::new();
    let mut id = String::new();
    for operation in [Operation::Attach, Operation::Extend, Operation::Detach] {
        tenant.proxy.arm(None);
        let arguments = arguments(operation, &volume, &id, 2);
        let answer = tenant.run(&words(&arguments)).await.answer();
        if operation == Operation::Attach {
            id = answer["attachment_id"].as_str().unwrap().to_owned();
        }
        let short = |line: String| line.replace(&id, "ID").replace(&volume, "VOLUME");
        let lines: Vec<String> = tenant.proxy.lines().into_iter().map(short).collect();
        assert!(!lines.is_empty(), "{operation:?} asks nothing");
        requests.insert(operation, lines);
    }
    requests
}

fn arguments(operation: Operation, volume: &str, id: &str, size: u64) -> Vec<String> {
    let size = size.to_string();
    let words = match operation {
        Operation::Attach => vec!["attach", volume, "--domain", "web"],
        Operation::Extend => vec!["extend", volume, &size],
        Operation::Detach => vec!["detach", id],
    };
    words.into_iter().map(str::to_owned).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Runs cases until there are none; returns how many came about, and what failed.
async fn work(
    cloud: &Arc<Cloud>,
    worker: usize,
    cases: &Mutex<VecDeque<Case>>,
) -> (usize, Vec<String>) {
    let mut tenants = 0;
    let mut used: Option<(Tenant, String)> = None;
    let mut ran = 0;
    let mut failures = Vec::new();
    loop {
        let Some(case) = cases.lock().unwrap().pop_front() else {
            return (ran, failures);
        };
        if used.is_none() {
            tenants += 1;
            let name = format!("matrix-{worker}-{tenants}");
            let mut tenant = Tenant::new(cloud, &name).await;
            let volume = tenant.create_volume();
            used = Some((tenant, volume));
        }
        let (tenant, volume) = used.as_ref().unwrap();
        let mut request = String::new();
        let outcome = AssertUnwindSafe(run(tenant, volume, case, &mut request))
            .catch_unwind()
            .await;
        match outcome {
            Ok(came_about) => ran += usize::from(came_about),
            Err(panic) => {
                ran += 1;
                let message = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or(panic.downcast_ref::<&str>().copied())
                    .unwrap_or("it panicked");
                failures.push(format!("{case:?} ({request}): {message}"));
                used = None; // what it left is not the next case's
            }
        }
    }
}

/// Runs one case; tells whether the fault came about.
async fn run(tenant: &Tenant, volume: &str, case: Case, request: &mut String) -> bool {
    let size = tenant.cloud.volume(&tenant.token, volume)["size"]
        .as_u64()
        .unwrap();
    let wanted = size + 1;
    let id = match case.operation {
        Operation::Attach => String::new(),
        _ => {
            let attach = arguments(Operation::Attach, volume, "", wanted);
            let made = tenant.run_by(&tenant.token, &words(&attach)).await.answer();
            made["attachment_id"].as_str().unwrap().to_owned()
        }
    };
    let arguments = arguments(case.operation, volume, &id, wanted);
    let arguments = words(&arguments);
    let (ended, line) = tenant
        .run_with_fault(&arguments, (case.number, case.fault))
        .await;
    let came_about = line.is_some();
    *request = line.unwrap_or_default();
    let killed = came_about && matches!(case.fault, Fault::Killed | Fault::KilledAfter);
    assert_eq!(ended.code.is_none(), killed, "{ended:?}");
    if case.fault == Fault::Slow {
        ended.answer();
    }
    if !killed && ended.code != Some(0) {
        ended.words();
    }

    // By an administrator: a member cannot ask Cinder for whose host an incomplete attachment is.
    let admin = tenant.cloud.admin.as_str();
    let reconciled = tenant.run_by(admin, &["reconcile", "--yes"]).await;
    assert_eq!(reconciled.code, Some(0), "after {ended:?}: {reconciled:?}");
    let there = tenant.in_cinder();
    let here = tenant.in_agent().await;
    let told = || format!("after {ended:?}, reconciled by {reconciled:?}");
    assert_eq!(there, here, "in Cinder and at the agent, {}", told());
    assert!(there.len() < 2, "{there:?}, {}", told());
    assert!(
        there.iter().all(|it| it.state == "attached"),
        "{there:?}, {}",
        told()
    );
    assert_eq!(tenant.disks().len(), there.len(), "{}", told());
    if ended.code == Some(0) {
        let expected = usize::from(case.operation != Operation::Detach);
        assert_eq!(there.len(), expected, "{}", told());
    }

    if case.operation == Operation::Extend {
        assert_eq!(there.len(), 1, "an extend detached, {}", told());
        tenant.run_by(&tenant.token, &arguments).await.answer();
        let now = tenant.cloud.volume(&tenant.token, volume);
        assert_eq!(now["size"], wanted, "{now}");
        assert_eq!(now["status"], "in-use", "{now}");
        let shown = tenant.server.world.state().shown.values().copied().max();
        assert_eq!(shown, Some(wanted * GIB), "{}", told());
    }
    for attachment in &there {
        tenant.becomes(volume, "in-use").await;
        let detach = ["detach", &*attachment.id];
        tenant.run_by(&tenant.token, &detach).await.answer();
    }
    assert_eq!(tenant.left().await, [""; 0], "{}", told());
    tenant.becomes(volume, "available").await;
    came_about
}
