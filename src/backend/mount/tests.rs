use super::*;

#[tokio::test]
async fn an_empty_mount_point_is_partial_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mounter = Mounter::new(Workers::from_executable("/nonexistent".into()), None);
    let mount = MountPlan {
        source: "//files/vols".into(),
        fstype: "cifs".into(),
        options: "rw".into(),
        target: dir.path().join("mnt/abc"),
    };
    let find = || async { mounter.find(&mount, Access::ReadWrite).await.unwrap() };
    assert_eq!(find().await, Presence::Absent);
    mounter.make_mount_point(&mount).await.unwrap();
    assert_eq!(find().await, Presence::Partial);
    for _ in 0..2 {
        mounter.take_down(&mount.target).await.unwrap();
        assert_eq!(find().await, Presence::Absent);
    }
    mounter.make_mount_point(&mount).await.unwrap();
    std::fs::write(mount.target.join("stray"), b"").unwrap();
    let error = mounter.take_down(&mount.target).await.unwrap_err();
    assert!(
        error.to_string().contains("remove the mount point"),
        "{error}"
    );
}

#[test]
fn an_address_keeps_its_scope_alone() {
    let for_kernel = |text: &str| super::for_kernel(text.parse().unwrap());
    assert_eq!(for_kernel("10.0.0.5:445"), "10.0.0.5");
    assert_eq!(for_kernel("[fd00::5]:2049"), "fd00::5");
    assert_eq!(for_kernel("[fe80::5%3]:445"), "fe80::5%3");
}

#[tokio::test]
async fn a_server_that_stalls_delays_another_by_one_mount() {
    let turns = Turns::default();
    let order = std::sync::Mutex::new(Vec::new());
    let mount = |server: &'static str| {
        let (turns, order) = (&turns, &order);
        async move {
            let _turn = turns.take(server.parse().unwrap()).await;
            order.lock().unwrap().push(server);
            tokio::task::yield_now().await;
        }
    };
    let (stalls, well) = ("10.0.0.1", "10.0.0.2");
    tokio::join!(mount(stalls), mount(stalls), mount(stalls), mount(well));
    assert_eq!(*order.lock().unwrap(), [stalls, well, stalls, stalls]);
}
