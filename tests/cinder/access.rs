//! Each way in which a volume is read-only is read-only at the agent.

use serde_json::json;
use volattach::model::Access;

use crate::fixture::Cloud;
use crate::tenant::Tenant;

#[tokio::test(flavor = "multi_thread")]
async fn read_only_wins() {
    let mut tenant = Tenant::new(&Cloud::shared(), "readonly").await;
    let volume = tenant.create_volume();

    let id = tenant.attach(&volume, &["--require-rw"]).await;
    assert_eq!(tenant.access(), Access::ReadWrite);
    tenant.run(&["detach", &id]).await.answer();

    // Cinder's own word, its flag, comes as `attach_mode` alone: `access_mode` is `rw` where no administrator asks.
    let flag = |on: bool| json!({ "os-update_readonly_flag": { "readonly": on } });
    let cases: [(&str, &[&str], bool, Option<&str>); 4] = [
        ("asked for", &["--read-only"], false, None),
        ("os-update_readonly_flag", &[], true, None),
        ("permissions", &[], false, Some("440")),
        ("all of them", &["--read-only"], true, Some("444")),
    ];
    for (case, more, read_only_flag, mode) in cases {
        // A volume each: a flag that was set is never unset altogether.
        let volume = tenant.create_volume();
        if read_only_flag {
            tenant.cloud.act(&tenant.token, &volume, &flag(true));
        }
        if let Some(mode) = mode {
            let set = ["permissions", &*volume, mode];
            tenant.run(&set).await.answer();
            let shown = tenant.run(&set[..2]).await.answer();
            assert!(shown.to_string().contains(mode), "{case}: {shown}");
            let metadata = &tenant.cloud.volume(&tenant.token, &volume)["metadata"];
            assert!(metadata.to_string().contains(mode), "{case}: {metadata}");
        }
        let id = tenant.attach(&volume, more).await;
        assert_eq!(tenant.access(), Access::ReadOnly, "{case}");
        tenant.run(&["detach", &id]).await.answer();
        tenant.becomes(&volume, "available").await;

        if more.is_empty() {
            let attach = ["attach", &*volume, "--domain", "web", "--require-rw"];
            let ended = tenant.run(&attach).await;
            let words = ended.words();
            assert!(
                words.contains("read-only") || words.contains("write"),
                "{case}: {words}"
            );
            tenant.becomes(&volume, "available").await;
        }
        assert_eq!(tenant.left().await, [""; 0], "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_flag_is_not_turned_into_read_write_by_guess() {
    let mut tenant = Tenant::new(&Cloud::shared(), "cleared").await;
    let volume = tenant.create_volume();
    for on in [true, false] {
        let flag = json!({ "os-update_readonly_flag": { "readonly": on } });
        tenant.cloud.act(&tenant.token, &volume, &flag);
    }
    // Cinder answers `attach_mode: ro` for such a volume (the metadata's word is "False", which it takes for true): the command line
    // either goes by that, or by the volume's metadata; it says which, and the agent has the same.
    let arguments = ["attach", &*volume, "--domain", "web"];
    let answer = tenant.run(&arguments).await.answer();
    let access = match answer["access"].as_str() {
        Some("ro") => Access::ReadOnly,
        Some("rw") => Access::ReadWrite,
        other => panic!("access {other:?}: {answer}"),
    };
    assert_eq!(tenant.access(), access);
    crate::report(&format!(
        "cinder: a volume whose read-only flag was set and cleared is attached {access:?}"
    ));
    let id = answer["attachment_id"].as_str().unwrap();
    tenant.run(&["detach", id]).await.answer();
    assert_eq!(tenant.left().await, [""; 0]);
}
