//! Attach, list, extend, detach; and who gets a volume that many want.

use serde_json::Value;

use crate::GIB;
use crate::fixture::Cloud;
use crate::server::Server;
use crate::tenant::Tenant;

#[tokio::test(flavor = "multi_thread")]
async fn attach_list_extend_detach() {
    let mut tenant = Tenant::new(&Cloud::shared(), "lifecycle").await;
    let volume = tenant.create_volume();
    let id = tenant.attach(&volume, &[]).await;
    tenant.becomes(&volume, "in-use").await;
    let [there] = tenant.in_cinder().try_into().unwrap();
    assert_eq!(
        (there.id.as_str(), there.state.as_str()),
        (&*id, "attached")
    );
    let [here] = tenant.in_agent().await.try_into().unwrap();
    assert_eq!((here.id.as_str(), here.state.as_str()), (&*id, "attached"));
    assert_eq!(here.volume, volume);
    let [disk] = tenant.disks().try_into().unwrap();
    assert!(disk.xml.contains(&volume), "{}", disk.xml);

    let listed = tenant.run(&["list"]).await.answer();
    let text = listed.to_string();
    assert!(text.contains(&id) && text.contains(&volume), "{text}");

    tenant.run(&["extend", &volume, "3"]).await.answer();
    let now = tenant.cloud.volume(&tenant.token, &volume);
    assert_eq!(now["size"], 3, "{now}");
    let shown: Vec<u64> = {
        let state = tenant.server.world.state();
        state.shown.values().copied().collect()
    };
    assert_eq!(shown, [3 * GIB]);
    // Once more is no error: the first answer may have been lost.
    tenant.run(&["extend", &volume, "3"]).await.answer();

    tenant.run(&["detach", &id]).await.answer();
    tenant.becomes(&volume, "available").await;
    assert_eq!(tenant.left().await, [""; 0]);
    tenant.run(&["detach", &id]).await.answer();
    let listed = tenant.run(&["list"]).await.answer();
    assert!(!listed.to_string().contains(&id), "{listed}");
    let nothing = tenant.run(&["reconcile"]).await.answer();
    assert!(!nothing.to_string().contains(&id), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attach_is_refused_in_words() {
    let mut tenant = Tenant::new(&Cloud::shared(), "second").await;
    let volume = tenant.create_volume();
    let id = tenant.attach(&volume, &[]).await;
    let second = tenant.run(&["attach", &volume, "--domain", "web"]).await;
    let words = second.words();
    assert!(
        words.contains(&volume) && words.contains("in-use"),
        "{words}"
    );
    assert_eq!(tenant.in_cinder().len(), 1);
    assert_eq!(tenant.in_agent().await.len(), 1);
    tenant.run(&["detach", &id]).await.answer();
    assert_eq!(tenant.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_refused_in_words() {
    let mut tenant = Tenant::new(&Cloud::shared(), "absent").await;
    let absent = "0b1d6d2f-53c8-49f0-8a3c-7d0a5c9e42e7";
    for arguments in [
        &["attach", absent, "--domain", "web"][..],
        &["extend", absent, "3"],
        &["permissions", absent],
    ] {
        let ended = tenant.run(arguments).await;
        assert_eq!(ended.code, Some(3), "{arguments:?}: {ended:?}");
        assert!(ended.words().contains(absent), "{ended:?}");
    }
    // Cinder's part is undone where the agent refuses its own.
    let volume = tenant.create_volume();
    let ended = tenant
        .run(&["attach", &volume, "--domain", "nowhere"])
        .await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.words().contains("nowhere"), "{ended:?}");
    tenant.becomes(&volume, "available").await;
    assert_eq!(tenant.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_attaches_at_once_by_two_agents_one_wins() {
    let mut tenant = Tenant::new(&Cloud::shared(), "eight").await;
    let volume = tenant.create_volume();
    let other = Server::start().await;
    other.world.state().stored = GIB;
    let by = |agent: usize, arguments: &[&str]| {
        let mut command = tenant.command(arguments);
        let socket = [&tenant.server.socket, &other.socket][agent];
        command.env("VOLATTACH_SOCKET", socket);
        tenant.finish(command)
    };
    let attach = ["attach", &*volume, "--domain", "web"];
    let all = futures::future::join_all((0..8).map(|number| by(number % 2, &attach))).await;
    let won: Vec<_> = (0..8).filter(|at| all[*at].code == Some(0)).collect();
    let [winner] = won[..] else {
        panic!("{won:?} won: {all:?}");
    };
    for (_, ended) in all.iter().enumerate().filter(|(at, _)| *at != winner) {
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(ended.words().contains(&volume), "{ended:?}");
    }
    let id = all[winner].answer()["attachment_id"].clone();
    let [there] = tenant.in_cinder().try_into().unwrap();
    assert_eq!(Value::from(there.id.clone()), id);
    assert_eq!(there.state, "attached");
    let disks = [
        tenant.disks().len(),
        other.world.state().disks.values().count(),
    ];
    assert_eq!(disks, [1 - winner % 2, winner % 2]);
    tenant.becomes(&volume, "in-use").await;
    by(winner % 2, &["detach", &there.id]).await.answer();
    assert_eq!(tenant.left().await, [""; 0]);
    assert_eq!(other.world.state().disks.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_fails_leaves_nothing() {
    let mut tenant = Tenant::new(&Cloud::shared(), "storage").await;
    let volume = tenant.create_volume();
    // Cinder answers 500, and keeps a reserved attachment that is of no host.
    let storage = tenant.cloud.fail(&volume, "connect");
    let ended = tenant.run(&["attach", &volume, "--domain", "web"]).await;
    assert!(ended.words().contains("fails to connect"), "{ended:?}");
    assert_eq!(tenant.left().await, [""; 0]);
    tenant.becomes(&volume, "available").await;
    drop(storage);

    let id = tenant.attach(&volume, &[]).await;
    let storage = tenant.cloud.fail(&volume, "extend");
    let ended = tenant.run(&["extend", &volume, "2"]).await;
    let words = ended.words();
    assert!(words.contains("error_extending"), "{words}");
    assert_eq!(tenant.in_agent().await.len(), 1);
    let shown: Vec<u64> = {
        let state = tenant.server.world.state();
        state.shown.values().copied().collect()
    };
    assert_eq!(shown, [GIB]);
    drop(storage);
    tenant.run(&["detach", &id]).await.answer();
    assert_eq!(tenant.left().await, [""; 0]);
}
