//! Attachments of others, which no command may end.

use serde_json::json;
use uuid::Uuid;

use super::Lab;
use super::fake::Attachment;

/// What is there besides: made by another host.
fn change(lab: &Lab, id: &str, change: impl FnOnce(&mut Attachment)) {
    let id: Uuid = id.parse().unwrap();
    change(lab.cinder.state().attachments.get_mut(&id).unwrap());
}

#[tokio::test]
async fn a_detach_leaves_other_hosts_attachments_alone() {
    for admin in [true, false] {
        let lab = Lab::new().await;
        let id = lab.attached().await;
        lab.detach_here(&id).await;
        lab.cinder.state().admin = admin;
        for (host, mountpoint) in [
            ("elsewhere", "volattach:elsewhere:1"),
            ("elsewhere", "/dev/vdb"),
        ] {
            change(&lab, &id, |it| {
                (it.host, it.mountpoint) = (host.to_owned(), mountpoint.to_owned());
            });
            let (code, reason, message) = lab.fails(&["detach", &id]).await;
            assert_eq!((code, &*reason), (1, "CINDER_UNSUITABLE"), "{message}");
            let told = admin || mountpoint.contains(host);
            assert_eq!(message.contains(host), told, "{message}");
            assert!(lab.sides().0.contains(&id));
        }
        // Incomplete: administrators are shown its host, and others know what they do.
        change(&lab, &id, |it| it.status = "attaching");
        let (code, answer) = lab.run(&["detach", &id]).await;
        assert_eq!(
            (code == 0, lab.sides().0.is_empty()),
            (!admin, !admin),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_cinder_hides_from_this_user_is_not_detached_here() {
    let lab = Lab::new().await;
    let id = lab.attached().await;
    // As Cinder answers those of another project.
    let volumes = std::mem::take(&mut lab.cinder.state().volumes);
    let attachments = std::mem::take(&mut lab.cinder.state().attachments);
    let (code, reason, message) = lab.fails(&["detach", &id]).await;
    assert_eq!((code, &*reason), (1, "CINDER_UNSUITABLE"), "{message}");
    assert!(lab.sides().1.contains(&id));
    lab.cinder.state().volumes = volumes;
    lab.cinder.state().attachments = attachments;
    let (code, answer) = lab.run(&["detach", &id]).await;
    assert_eq!(code, 0, "{answer}");
    lab.assert_empty("by its own project");
}

/// The volume may be attached here by another control plane, which has its own ids.
#[tokio::test]
async fn a_volume_with_other_uses_is_not_detached_here() {
    for admin in [true, false] {
        let lab = Lab::new().await;
        let id = lab.attached().await;
        lab.cinder.state().admin = admin;
        let key: Uuid = id.parse().unwrap();
        let one = lab.cinder.state().attachments.remove(&key).unwrap();
        let theirs = Attachment {
            instance: Some("server".to_owned()),
            mountpoint: "/dev/vdb".to_owned(),
            ..one
        };
        lab.cinder
            .state()
            .attachments
            .insert(Uuid::new_v4(), theirs);
        let (code, found) = lab.run(&["reconcile", "--yes"]).await;
        assert_eq!(
            (code, &found["findings"][0]["mendable"]),
            (9, &json!(false)),
            "{found}"
        );
        assert!(lab.sides().1.contains(&id), "{found}");
    }
}

/// As Glance's store in Cinder makes them.
#[tokio::test]
async fn other_softwares_attachments_of_this_host_stay() {
    let lab = Lab::new().await;
    let id = lab.attached().await;
    lab.detach_here(&id).await;
    change(&lab, &id, |it| it.mountpoint = "/dev/vdb".to_owned());
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["mendable"]),
        (9, &json!(false)),
        "{found}"
    );
    assert!(lab.sides().0.contains(&id), "{found}");
}

#[tokio::test]
async fn a_list_is_begun_again_when_what_it_stands_at_has_gone() {
    let lab = Lab::new().await;
    let id: Uuid = lab.attached().await.parse().unwrap();
    let other = Attachment {
        host: "elsewhere".to_owned(),
        ..lab.cinder.state().attachments[&id].clone()
    };
    let first = Uuid::nil();
    lab.cinder.state().attachments.insert(first, other);
    lab.cinder.state().admin = false;
    lab.cinder.state().goes = Some(first);
    let (code, found) = lab.run(&["reconcile"]).await;
    assert_eq!((code, &found["findings"]), (0, &json!([])), "{found}");
    assert!(!lab.cinder.state().attachments.contains_key(&first));
}
