//! `volattach cinder` against the server and a Cinder that fails: the real program, and what both sides have afterwards.

#[path = "cinder/fake.rs"]
mod fake;
#[path = "cinder/faults.rs"]
mod faults;
#[path = "cinder/reconcile.rs"]
mod reconcile;
#[path = "cinder/whose.rs"]
mod whose;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;
use volattach::model::Reason;

use self::fake::{Fails, Fake, PASSWORD};
use crate::cli::volattach;
use crate::fakes::Guest;
use crate::server::{Server, soon};

struct Lab {
    server: Server,
    cinder: Fake,
    volume: String,
    /// Has clouds.yaml: `lab` is of the user, `svc` of a service, `bad` of nobody.
    home: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let (server, cinder) = (Server::start().await, Fake::start().await);
        let home = tempfile::tempdir().unwrap();
        let cloud = |user: &str| {
            let auth_url = format!("http://127.0.0.1:{}/identity/v3", cinder.port);
            json!({ "auth": { "auth_url": auth_url, "username": user, "password": PASSWORD, "project_name": "web" } })
        };
        let clouds =
            json!({ "clouds": { "lab": cloud("ann"), "svc": cloud("svc"), "bad": cloud("eve") } });
        std::fs::write(home.path().join("clouds.yaml"), clouds.to_string()).unwrap();
        let volume = cinder.volume();
        Self {
            server,
            cinder,
            volume,
            home,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = volattach(&self.server, &[&["cinder"], arguments].concat());
        let auth_url = format!("http://127.0.0.1:{}/identity", self.cinder.port);
        command
            .env(
                "OS_CLIENT_CONFIG_FILE",
                self.home.path().join("clouds.yaml"),
            )
            .env("OS_AUTH_URL", auth_url)
            .env("OS_USERNAME", "ann")
            .env("OS_PASSWORD", PASSWORD)
            .env("OS_PROJECT_NAME", "web");
        command
    }

    /// Exit code, and the document on standard output. No secret is in what is printed.
    async fn run(&self, arguments: &[&str]) -> (i32, Value) {
        let mut command = self.command(&[arguments, &["-o", "json"]].concat());
        let output = soon(command.output()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        for secret in [PASSWORD, "token-of-"] {
            let shown = text.contains(secret) || errors.contains(secret);
            assert!(!shown, "{text} {errors}");
        }
        let document = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {errors}"));
        (output.status.code().unwrap(), document)
    }

    /// A command that fails: its exit code, reason and message.
    async fn fails(&self, arguments: &[&str]) -> (i32, String, String) {
        let (code, document) = self.run(arguments).await;
        let text = |key: &str| {
            document["error"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        (code, text("reason"), text("message"))
    }

    async fn attach(&self, more: &[&str]) -> (i32, Value) {
        let attach = ["attach", &self.volume, "--domain", "web"];
        self.run(&[&attach, more].concat()).await
    }

    async fn attached(&self) -> String {
        let (code, made) = self.attach(&[]).await;
        assert_eq!(code, 0, "{made}");
        made["attachment_id"].as_str().unwrap().to_owned()
    }

    /// Has the daemon detach one, and Cinder not know it.
    async fn detach_here(&self, id: &str) {
        let mut command = volattach(&self.server, &["detach", id]);
        assert!(command.output().await.unwrap().status.success());
    }

    /// The ids in Cinder, and those on this host.
    fn sides(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let cinder = self.cinder.state();
        let records = self.server.world.records();
        (
            cinder.attachments.keys().map(Uuid::to_string).collect(),
            records.iter().map(|it| it.id.to_string()).collect(),
        )
    }

    fn assert_empty(&self, case: &str) {
        let (cinder, agent) = self.sides();
        let empty = cinder.is_empty() && agent.is_empty();
        assert!(empty, "{case}: {cinder:?} {agent:?}");
    }

    fn fail(&self, method: &'static str, path: &'static str, fails: Fails) {
        self.cinder.state().faults.push((method, path, fails));
    }
}

#[tokio::test]
async fn an_attach_is_on_both_sides_and_a_detach_on_neither() {
    let lab = Lab::new().await;
    lab.cinder.set_metadata(&lab.volume, "permissions", "666");
    let (code, made) = lab.attach(&["--dev", crate::TARGETS[1]]).await;
    assert_eq!(code, 0, "{made}");
    let id = made["attachment_id"].as_str().unwrap();
    assert_eq!(
        (&made["state"], &made["target"]),
        (&json!("attached"), &json!(crate::TARGETS[1]))
    );
    assert_eq!(
        (&made["volume_id"], &made["permissions"]),
        (&json!(lab.volume), &json!("666"))
    );
    {
        let state = lab.cinder.state();
        assert_eq!(state.attachments[&id.parse().unwrap()].status, "attached");
        let body = &state.created[0];
        assert_eq!(body.get("instance_uuid"), None, "Cinder would ask Nova");
        assert!(body["connector"]["nqn"].is_string() && body["connector"]["initiator"].is_string());
        let mark = body["connector"]["mountpoint"].as_str().unwrap();
        assert!(mark.starts_with("volattach:"), "{mark}");
        for header in [
            "openstack-api-version: volume 3.71",
            "x-auth-token: token-of-ann",
        ] {
            assert!(state.head.contains(header), "{}", state.head);
        }
        assert!(!state.head.contains("x-service-token"));
    }
    let (_, listed) = lab.run(&["list"]).await;
    let row = &listed["attachments"][0];
    assert_eq!(
        (&row["cinder"]["status"], &row["host"]["state"]),
        (&json!("attached"), &json!("attached"))
    );
    let (code, agreed) = lab.run(&["reconcile"]).await;
    assert_eq!((code, &agreed["findings"]), (0, &json!([])));

    // Somebody else's volume now, to Cinder.
    let (code, refused) = lab.attach(&[]).await;
    assert_eq!(
        (code, &refused["error"]["reason"]),
        (4, &json!("CINDER_CONFLICT")),
        "{refused}"
    );
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("POST /v3/") && message.contains("(request req-7)"),
        "{message}"
    );

    for _ in 0..2 {
        let (code, gone) = lab.run(&["detach", id]).await;
        assert_eq!((code, &gone["detached"]), (0, &json!(true)), "{gone}");
        lab.assert_empty("detached");
    }
}

#[tokio::test]
async fn a_host_that_fails_leaves_nothing_in_cinder() {
    let lab = Lab::new().await;
    lab.server.world.state().connect_fails = Some(Reason::LogonFailure);
    let (code, failed) = lab.attach(&[]).await;
    assert_eq!(
        (code, &failed["error"]["reason"]),
        (1, &json!("LOGON_FAILURE")),
        "{failed}"
    );
    lab.assert_empty("logon");
    let changes: Vec<_> = lab
        .cinder
        .state()
        .changes
        .iter()
        .map(|it| it.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(changes, ["POST", "DELETE"]);
}

#[tokio::test]
async fn read_only_is_what_anything_says() {
    for (flag, access_mode, more, read_only) in [
        (Some("True"), "rw", &[][..], true),
        (None, "ro", &[], true),
        (None, "rw", &["--read-only"], true),
        // Cinder answers attach_mode `ro` all the same.
        (Some("False"), "rw", &[], false),
        (Some("False"), "ro", &[], true),
        (Some("False"), "rw", &["--read-only"], true),
    ] {
        let lab = Lab::new().await;
        if let Some(flag) = flag {
            lab.cinder.set_metadata(&lab.volume, "readonly", flag);
        }
        lab.cinder.state().access_mode = access_mode;
        let case = format!("{flag:?} {access_mode} {more:?}");
        if more.is_empty() {
            let (code, answer) = lab.attach(&["--require-rw"]).await;
            let reason = &answer["error"]["reason"];
            match read_only {
                true => {
                    assert_eq!((code, reason), (8, &json!("READ_WRITE_REFUSED")), "{case}");
                    lab.assert_empty(&case);
                }
                false => {
                    let id = answer["attachment_id"].as_str().unwrap();
                    assert_eq!(lab.run(&["detach", id]).await.0, 0, "{case}");
                }
            }
        }
        let (code, made) = lab.attach(more).await;
        let access = if read_only { "ro" } else { "rw" };
        assert_eq!((code, &made["access"]), (0, &json!(access)), "{case}");
        let asked = lab.cinder.state().created.last().unwrap()["mode"].clone();
        let flagged = flag == Some("True") || !more.is_empty();
        assert_eq!(asked, if flagged { "ro" } else { "rw" }, "{case}");
    }
}

#[tokio::test]
async fn a_guest_that_holds_the_disk_keeps_cinders_attachment() {
    let lab = Lab::new().await;
    let id = lab.attached().await;
    lab.server.world.state().guest = Guest::Ignores;
    let (code, pending) = lab.run(&["detach", &id]).await;
    assert_eq!(
        (code, &pending["error"]["reason"]),
        (5, &json!("UNPLUG_PENDING")),
        "{pending}"
    );
    assert_eq!(lab.sides().0, BTreeSet::from([id.clone()]));
    lab.server.world.let_go(&format!("ua-volattach-{id}"));
    let (code, _) = lab.run(&["detach", &id]).await;
    assert_eq!(code, 0);
    lab.assert_empty("let go");
}

#[tokio::test]
async fn a_volume_grows_in_cinder_and_then_here() {
    let lab = Lab::new().await;
    let id = lab.attached().await;
    lab.server.world.state().stored = 2 << 30;
    let (code, grown) = lab.run(&["extend", &lab.volume, "2"]).await;
    let bytes = 2u64 << 30;
    assert_eq!(
        (code, &grown["attachments"][0]),
        (0, &json!({ "attachment_id": id, "size_bytes": bytes })),
        "{grown}"
    );
    // A repeat asks Cinder for nothing.
    let before = lab.cinder.state().changes.len();
    assert_eq!(lab.run(&["extend", &lab.volume, "2"]).await.0, 0);
    assert_eq!(lab.cinder.state().changes.len(), before);
    let (code, smaller) = lab.run(&["extend", &lab.volume, "1"]).await;
    assert_eq!(
        (code, &smaller["error"]["reason"]),
        (1, &json!("CINDER_UNSUITABLE")),
        "{smaller}"
    );
    lab.cinder
        .state()
        .volumes
        .get_mut(&lab.volume)
        .unwrap()
        .grows = false;
    let (code, refused) = lab.run(&["extend", &lab.volume, "3"]).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(code == 1 && message.contains("did not grow"), "{refused}");
}

#[tokio::test]
async fn permissions_are_the_volumes_metadata() {
    let lab = Lab::new().await;
    let shown = |document: &Value| document["permissions"].clone();
    let volume = lab.volume.as_str();
    for (arguments, expected) in [
        (&["permissions", volume][..], Value::Null),
        (&["permissions", volume, "640"], json!("640")),
        (&["permissions", volume], json!("640")),
        (&["permissions", volume, "none"], Value::Null),
        (&["permissions", volume, "none"], Value::Null),
    ] {
        let (code, document) = lab.run(arguments).await;
        assert_eq!((code, shown(&document)), (0, expected), "{document}");
    }
    let wrong = lab
        .command(&["permissions", volume, "999"])
        .output()
        .await
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    // What another client wrote lets nobody in.
    lab.cinder.set_metadata(volume, "permissions", "everybody");
    let (code, refused) = lab.attach(&[]).await;
    assert_eq!(
        (code, &refused["error"]["reason"]),
        (1, &json!("CINDER_UNSUITABLE")),
        "{refused}"
    );
    lab.assert_empty("permissions");
}

#[tokio::test]
async fn credentials_versions_and_service_tokens_are_as_openstack_has_them() {
    let lab = Lab::new().await;
    let by = async |cloud: &str| {
        let list = ["list", "--os-cloud", cloud, "--service-cloud", "svc"];
        lab.run(&list).await
    };
    assert_eq!(by("lab").await.0, 0);
    let service = "x-service-token: token-of-svc";
    assert!(lab.cinder.state().head.contains(service));
    assert_eq!(by("bad").await.0, 8);
    let none = volattach(&lab.server, &["cinder", "list"])
        .output()
        .await
        .unwrap();
    let words = String::from_utf8(none.stderr).unwrap();
    assert_eq!(none.status.code(), Some(1), "{words}");
    assert!(words.contains("OS_AUTH_URL is not set"), "{words}");

    lab.cinder.state().newest = "3.53";
    let (code, _, message) = lab.fails(&["list"]).await;
    assert!(code == 1 && message.contains("up to 3.53"), "{message}");
}

#[tokio::test]
async fn an_endpoint_with_a_password_is_refused_and_not_repeated() {
    let lab = Lab::new().await;
    let mut command = lab.command(&["list"]);
    let endpoint = format!("http://ann:{PASSWORD}@127.0.0.1:1/v3");
    command.env("OS_VOLUME_ENDPOINT_OVERRIDE", endpoint);
    let output = soon(command.output()).await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let refused = !output.status.success() && text.contains("endpoint");
    assert!(refused && !text.contains(PASSWORD), "{text}");
}
