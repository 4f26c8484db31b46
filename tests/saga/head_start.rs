//! The part of a connect that runs before its turn.

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_head_start_runs_while_the_domain_is_read() {
    let mut took = Vec::new();
    for takes in [Duration::ZERO, Duration::from_secs(2)] {
        let world = World::new();
        // Three seconds for each look.
        world.state().hypervisor_slow = true;
        world.state().head_start_takes = takes;
        let begun = Instant::now();
        let engine = world.engine();
        let attached = engine.attach(by_root(attach("a1", "v1", smb("v1"))));
        attached.await.unwrap();
        took.push(begun.elapsed());
    }
    assert_eq!(took[0].as_secs(), took[1].as_secs());
}

#[tokio::test]
async fn only_a_new_connection_is_given_a_head_start() {
    let world = World::new();
    let engine = world.engine();
    let started = || std::mem::take(&mut world.state().head_starts).len();
    for (id, protocol, starts) in [
        ("a1", smb("v1"), 1),
        ("a1", smb("v1"), 0), // the same call again
        ("a2", smb("v2"), 0), // by the same mount
        ("a3", nfs("v3"), 1),
    ] {
        let volume = id.replace('a', "v");
        let attached = engine.attach(by_root(attach(id, &volume, protocol))).await;
        attached.unwrap();
        assert_eq!(started(), starts, "{id}");
    }
}

/// Each worker of such a server counts, an idle one too.
#[tokio::test(start_paused = true)]
async fn a_server_that_may_hang_is_given_none() {
    let world = World::new();
    let engine = world.engine();
    world.state().silent.insert("files".into());
    for _ in 0..3 {
        let refused = engine.connect(by_root(connect("c1", "v1", smb("v1"))));
        refused.await.unwrap_err();
        assert_eq!(world.state().head_starts.len(), 1);
    }
}

/// Whoever comes while a connection is made waits for it.
#[tokio::test(start_paused = true)]
async fn calls_at_once_share_a_head_start() {
    let world = World::new();
    let engine = world.engine();
    world.state().hypervisor_slow = true;
    world.state().head_start_takes = Duration::from_secs(1);
    let attach = |id: &str, volume: &str| engine.attach(by_root(attach(id, volume, smb(volume))));
    let (first, second) = tokio::join!(attach("a1", "v1"), attach("a2", "v2"));
    first.unwrap();
    second.unwrap();
    assert_eq!(world.state().head_starts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_start_ends_with_its_call() {
    let world = World::new();
    let engine = world.engine();
    world.state().head_start_takes = Duration::from_secs(3600);
    let call = || engine.attach(by_root(attach("a1", "v1", smb("v1"))));
    world.state().hypervisor_slow = true;
    world.state().domain_fails = Some(Reason::HypervisorUnavailable);
    let refused = tokio::spawn({
        let call = engine.clone();
        async move { call.attach(by_root(attach("a1", "v1", smb("v1")))).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.state().head_starts_running, 1);
    refused.await.unwrap().unwrap_err();
    tokio::task::yield_now().await;
    assert_eq!(world.state().head_starts_running, 0);
    // The same place is free again.
    call().await.unwrap_err();
    assert_eq!(world.state().head_starts.len(), 2);
}
