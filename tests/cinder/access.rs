//! Each way in which a volume is read-only is read-only at the agent.

use serde_json::{Value, json};
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
        ("permissions", &[], false, Some("444")),
        ("all of them", &["--read-only"], true, Some("444")),
    ];
    for (case, more, read_only_flag, mode) in cases {
        // A volume each: once its flag was set, Cinder's attach_mode is `ro` for good.
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
async fn a_cleared_flag_is_none() {
    let mut tenant = Tenant::new(&Cloud::shared(), "cleared").await;
    let volume = tenant.create_volume();
    for on in [true, false] {
        let flag = json!({ "os-update_readonly_flag": { "readonly": on } });
        tenant.cloud.act(&tenant.token, &volume, &flag);
    }
    for (more, expected) in [
        (&["--require-rw"][..], Access::ReadWrite),
        (&["--read-only"], Access::ReadOnly),
    ] {
        let id = tenant.attach(&volume, more).await;
        // Cinder's word for both: it takes the flag's "False" for true.
        let path = format!("/attachments/{id}");
        let cinders = (tenant.cloud).must(&tenant.token, "GET", &path, &Value::Null);
        assert_eq!(cinders["attachment"]["attach_mode"], "ro", "{cinders}");
        assert_eq!(tenant.access(), expected, "{more:?}");
        tenant.run(&["detach", &id]).await.answer();
        tenant.becomes(&volume, "available").await;
    }
    assert_eq!(tenant.left().await, [""; 0]);
}
