//! The census that the figures are made of.

use super::*;

#[tokio::test]
async fn paths_are_counted_by_those_that_work_and_those_that_are_planned() {
    let world = World::new();
    let engine = world.engine();
    for (id, info) in [("i1", iscsi("v1")), ("n1", nvme("v2")), ("s1", smb("v3"))] {
        engine
            .connect(by_root(connect(id, id, info)))
            .await
            .unwrap();
    }
    let paths = async || engine.census().await.unwrap().paths;
    assert_eq!(
        paths().await,
        [("iscsi", (2, 2)), ("nvmeof", (1, 1))].into()
    );
    let portal = "[fd00::1]:3260";
    world.state().down.insert(portal.to_owned(), false);
    reconcile::once(&engine).await;
    assert_eq!(
        paths().await,
        [("iscsi", (1, 2)), ("nvmeof", (1, 1))].into()
    );
    world.state().down.clear();
    reconcile::once(&engine).await;
    assert_eq!(paths().await["iscsi"], (2, 2));
    let census = engine.census().await.unwrap();
    assert_eq!(census.servers.ok, 4, "each portal, and the share's server");
    assert_eq!(engine.figures().rounds.get(), 2);
    assert_eq!(engine.figures().looks.read()[&()].count(), 2);
}
