//! Servers that fall silent: what fails at once, what is tried all the same, and how all goes on when they answer.

use volattach::sys::worker::PER_SERVER;

use super::*;

/// Connects a volume of the SMB server `files`.
async fn connects(engine: &Engine, id: &str) -> Result<Attachment, Error> {
    engine.connect(by_root(connect(id, id, smb(id)))).await
}

/// Has the server `files` fall silent, and two calls find that out.
async fn silence(world: &World, engine: &Engine) {
    world.state().silent.insert("files".into());
    for _ in 0..2 {
        assert_eq!(
            reason(connects(engine, "first").await),
            Reason::ServerTimeout
        );
    }
}

fn reconciling(engine: &Engine) -> JoinHandle<()> {
    let engine = engine.clone();
    tokio::spawn(async move { reconcile::run(&engine).await })
}

/// What silent servers were asked since the last time.
fn asked(world: &World) -> Vec<&'static str> {
    let asked = std::mem::take(&mut world.state().unanswered);
    asked.into_iter().map(|(_, call)| call).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_silent_server_fail_at_once_until_it_answers_a_probe() {
    let world = World::new();
    let engine = world.engine();
    let reconciling = reconciling(&engine);
    silence(&world, &engine).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked(&world), ["connect", "connect", "probe"]);
    let refused = connects(&engine, "c1").await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ServerQuarantined, "{refused}");
    let after = refused.retry_after().unwrap();
    assert!(after <= Duration::from_secs(5), "{after:?}");
    assert_eq!(asked(&world), [""; 0], "not asked for this call");
    assert!(world.records().is_empty(), "nothing was begun");
    // Another service of the same machine is another server.
    let other = connect("n1", "n1", nfs("n1"));
    assert_eq!(
        reason(engine.connect(by_root(other)).await),
        Reason::ServerTimeout
    );
    world.state().unanswered.clear();
    // After 5, 10, 20, 40, 60 and 60 s.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(asked(&world), ["probe"; 6]);
    assert_eq!(
        reason(connects(&engine, "c1").await),
        Reason::ServerQuarantined
    );
    world.state().silent.clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    connects(&engine, "c1").await.unwrap();
    engine.disconnect(by_root(end("c1"))).await.unwrap();
    nothing_left(&world);
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_the_first_probe_is_kept_from_nobody() {
    let world = World::new();
    let engine = world.engine();
    silence(&world, &engine).await;
    world.state().silent.clear();
    let reconciling = reconciling(&engine);
    tokio::time::sleep(Duration::from_millis(100)).await;
    connects(&engine, "c1").await.unwrap();
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_server_is_unhurt_and_an_answer_between_is_none_in_a_row() {
    let world = World::new();
    let engine = world.engine();
    world.state().silent.insert("files".into());
    assert_eq!(reason(connects(&engine, "c1").await), Reason::ServerTimeout);
    world.state().silent.clear();
    connects(&engine, "c1").await.unwrap();
    world.state().silent.insert("files".into());
    assert_eq!(reason(connects(&engine, "c2").await), Reason::ServerTimeout);
    assert_eq!(reason(connects(&engine, "c2").await), Reason::ServerTimeout);
    assert_eq!(
        reason(connects(&engine, "c2").await),
        Reason::ServerQuarantined
    );
    for (id, info) in [("l1", local("v1")), ("i1", iscsi("v2")), ("m1", nvme("v3"))] {
        engine
            .connect(by_root(connect(id, id, info)))
            .await
            .unwrap();
    }
}

/// Silent at both portals, then at one.
#[tokio::test(start_paused = true)]
async fn a_volume_of_several_portals_is_refused_only_if_all_are_silent() {
    let world = World::new();
    let engine = world.engine();
    let connects = async || {
        engine
            .connect(by_root(connect("i1", "v1", iscsi("v1"))))
            .await
    };
    for portal in ["10.0.0.1", "fd00::1"] {
        world.state().silent.insert(portal.into());
    }
    for _ in 0..2 {
        assert_eq!(reason(connects().await), Reason::ServerTimeout);
    }
    assert_eq!(reason(connects().await), Reason::ServerQuarantined);
    world.state().silent.remove("fd00::1");
    let reconciling = reconciling(&engine);
    tokio::time::sleep(Duration::from_secs(1)).await;
    connects().await.unwrap();
    engine.drain().await;
    reconciling.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn get_list_plan_and_the_guests_unplug_are_not_refused() {
    let world = World::new();
    let engine = world.engine();
    attached(&engine, "a1", "v1").await;
    silence(&world, &engine).await;
    asked(&world);
    assert_eq!(state(&engine, "a1").await, State::Attached);
    let request = attach("a2", "v2", smb("v2"));
    engine.plan(by_root(request.clone())).await.unwrap();
    assert_eq!(
        reason(engine.attach(by_root(request)).await),
        Reason::ServerQuarantined
    );
    let extend = engine.extend(by_root(volattach::attach::ExtendRequest {
        id: id("a1"),
        bytes: None,
    }));
    assert_eq!(reason(extend.await), Reason::ServerQuarantined);
    // The guest lets go, and the unmount is tried as ever.
    let failed = engine.detach(by_root(end("a1"))).await;
    assert_eq!(reason(failed), Reason::UnmountFailed);
    assert!(world.state().disks.is_empty());
    assert_eq!(asked(&world), ["disconnect"]);
    // What is left goes by itself once the server answers: long before the next round.
    let reconciling = reconciling(&engine);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(&engine, "a1").await, State::Failed);
    world.state().silent.clear();
    world.state().stuck.clear();
    tokio::time::sleep(Duration::from_secs(5)).await;
    nothing_left(&world);
    engine.drain().await;
    reconciling.await.unwrap();
}

/// Connects fifty volumes of the server `files`, each by a mount of its own.
async fn fifty_mounts(engine: &Engine) {
    for number in 0..50 {
        let id = format!("c{number}");
        let mut info = smb(&id);
        let volattach::connection::Protocol::Smb(volume) = &mut info.protocol else {
            panic!("an SMB volume")
        };
        volume.share = format!("share{number}");
        engine
            .connect(by_root(connect(&id, &id, info)))
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_records_of_a_dead_server_leave_a_few_workers_stuck() {
    let world = World::new();
    let engine = world.engine();
    fifty_mounts(&engine).await;
    world.state().silent.insert("files".into());
    let mut calls = Vec::new();
    for number in 0..50 {
        let engine = engine.clone();
        let request = by_root(end(&format!("c{number}")));
        calls.push(tokio::spawn(
            async move { engine.disconnect(request).await },
        ));
    }
    for call in calls {
        let reason = reason(call.await.unwrap());
        let expected = [Reason::UnmountFailed, Reason::WorkersStuck];
        assert!(expected.contains(&reason), "{reason}");
    }
    assert_eq!(world.workers.stuck().len(), PER_SERVER);
    let reconciling = reconciling(&engine);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let unmounts = |asked: Vec<&str>| asked.into_iter().filter(|it| *it == "disconnect").count();
    assert_eq!(unmounts(asked(&world)), PER_SERVER);
    assert_eq!(world.records().len(), 50);
    // It returns, and the kernel lets go.
    world.state().silent.clear();
    world.state().stuck.clear();
    tokio::time::sleep(Duration::from_secs(600)).await;
    nothing_left(&world);
    engine.drain().await;
    reconciling.await.unwrap();
}

/// As a daemon that starts while the server is dead: all of its records are settled at once.
#[tokio::test(start_paused = true)]
async fn a_start_beside_a_dead_server_leaves_a_few_workers_stuck() {
    let world = World::new();
    let engine = world.engine();
    fifty_mounts(&engine).await;
    world.state().sync();
    for record in world.records() {
        let error = volattach::model::AttachmentError {
            reason: Reason::Internal.into(),
            message: String::new(),
        };
        world.change(record.id.as_str(), |record| record.given_up(error));
    }
    world.state().silent.insert("files".into());
    let engine = world.engine();
    for _ in 0..3 {
        reconcile::once(&engine).await;
    }
    assert_eq!(asked(&world), ["disconnect"; PER_SERVER]);
    assert_eq!(world.workers.stuck().len(), PER_SERVER);
}
