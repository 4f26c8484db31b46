//! Another configuration while calls are under way.

use volattach::model::WorkLimits;

use super::*;

/// At whichever point of its work the configuration changes, an attach ends well, by the settings that it was planned by.
#[tokio::test(start_paused = true)]
async fn a_call_goes_on_by_the_settings_that_planned_it() {
    let (mut points, mut by_the_new) = (0, 0);
    loop {
        let world = World::new();
        let engine = world.engine();
        world.gate.arm(points, Fault::Hold);
        let mut call = tokio::spawn({
            let engine = engine.clone();
            async move { engine.attach(by_root(attach("a", "v", smb("v")))).await }
        });
        let is_held = tokio::select! {
            biased;
            () = world.gate.died() => true,
            made = &mut call => {
                made.unwrap().unwrap();
                false
            }
        };
        if !is_held {
            break;
        }
        world.state().configuration = "echo_interval=20";
        world.reload(&engine);
        world.gate.release();
        call.await.unwrap().unwrap();
        let struck = world.gate.disarm();
        assert_eq!(world.state().planned_by_others, 0, "{struck:?}");
        // The next one goes by the new settings, which make another mount; both go.
        attached(&engine, "b", "w").await;
        by_the_new += usize::from(world.state().connections.len() == 2);
        for id in ["a", "b"] {
            engine.detach(by_root(end(id))).await.unwrap();
        }
        nothing_left(&world);
        points += 1;
    }
    assert!(points > 5 && by_the_new > 3, "{points} {by_the_new}");
}

#[tokio::test(start_paused = true)]
async fn more_turns_let_those_go_on_who_wait_for_one() {
    let world = World::new();
    let limits = world.state().work;
    world.state().work = WorkLimits {
        per_server: 1,
        ..limits
    };
    let engine = world.engine();
    world.state().mute.insert("files".into());
    let calls: Vec<_> = ["a", "b"]
        .map(|id| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.attach(by_root(attach(id, id, smb(id)))).await })
        })
        .into();
    until("one is at work and the other waits", async || {
        engine.census().await.unwrap().work_waiting == 1
    })
    .await;
    world.state().work = limits;
    world.reload(&engine);
    until("both are at work", async || {
        let census = engine.census().await.unwrap();
        (census.work_running, census.work_waiting) == (2, 0)
    })
    .await;
    world.answer();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
