//! `volattach cinder` against the server and a Cinder that fails: the real program, and what both sides have afterwards.

#[path = "cinder/fake.rs"]
mod fake;

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;
use volattach::model::Reason;

use self::fake::{Attachment, Fails, Fake, PASSWORD};
use crate::cli::volattach;
use crate::fakes::Guest;
use crate::server::{Server, soon};

struct Lab {
    server: Server,
    cinder: Fake,
    volume: String,
}

impl Lab {
    async fn new() -> Self {
        let (server, cinder) = (Server::start().await, Fake::start().await);
        let volume = cinder.volume();
        Self {
            server,
            cinder,
            volume,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = volattach(&self.server, &[&["cinder"], arguments].concat());
        command
            .env(
                "OS_AUTH_URL",
                format!("http://127.0.0.1:{}/identity", self.cinder.port),
            )
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
            assert!(
                !text.contains(secret) && !errors.contains(secret),
                "{text} {errors}"
            );
        }
        let document = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {errors}"));
        (output.status.code().unwrap(), document)
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

    /// The ids in Cinder, and those on this host.
    fn sides(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let state = self.cinder.state();
        let cinder = state.attachments.keys().map(Uuid::to_string).collect();
        (
            cinder,
            self.server
                .world
                .records()
                .iter()
                .map(|it| it.id.to_string())
                .collect(),
        )
    }

    fn assert_empty(&self, case: &str) {
        let (cinder, agent) = self.sides();
        assert!(
            cinder.is_empty() && agent.is_empty(),
            "{case}: {cinder:?} {agent:?}"
        );
    }

    fn fail(&self, method: &'static str, path: &'static str, fails: Fails) {
        self.cinder.state().faults.push((method, path, fails));
    }
}

#[tokio::test]
async fn an_attach_is_on_both_sides_and_a_detach_on_neither() {
    let lab = Lab::new().await;
    let metadata = [("permissions".to_owned(), "640".to_owned())];
    lab.cinder
        .state()
        .volumes
        .get_mut(&lab.volume)
        .unwrap()
        .metadata = metadata.into();
    let (code, made) = lab.attach(&["--dev", crate::TARGETS[1]]).await;
    assert_eq!(code, 0, "{made}");
    let id = made["attachment_id"].as_str().unwrap();
    assert_eq!(
        (&made["state"], &made["target"]),
        (&json!("attached"), &json!(crate::TARGETS[1]))
    );
    assert_eq!(
        (&made["volume_id"], &made["permissions"]),
        (&json!(lab.volume), &json!("640"))
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

/// What a silent server costs, in seconds: more than a busy machine needs for an answer.
const TIMEOUT: &str = "5";

/// The requests of an attach, and how each may fail.
const REQUESTS: [(&str, &str); 6] = [
    ("POST", "/auth/tokens"),
    ("GET", "/v3/"),
    ("GET", "/volumes/"),
    ("GET", "/attachments/detail"),
    ("POST", "/attachments"),
    ("POST", "/action"),
];
const FAILURES: [Fails; 5] = [
    Fails::With(500),
    Fails::With(409),
    Fails::DoneBut(500),
    Fails::Silent,
    Fails::Lost,
];

async fn an_attach_that_fails_is_undone(admin: bool) {
    for (method, path) in REQUESTS {
        let cases = FAILURES.map(|fails| one_that_fails(method, path, fails, admin));
        futures::future::join_all(cases).await;
    }
}

async fn one_that_fails(method: &'static str, path: &'static str, fails: Fails, admin: bool) {
    let case = format!("{method} {path} {fails:?}, admin {admin}");
    let lab = Lab::new().await;
    lab.cinder.state().admin = admin;
    lab.fail(method, path, fails);
    let (code, failed) = lab.attach(&["--timeout", TIMEOUT]).await;
    let expected = match fails {
        Fails::With(409) => 4,
        Fails::With(_) | Fails::DoneBut(_) => 1,
        Fails::Silent => 7,
        Fails::Lost => 6,
    };
    assert_eq!(code, expected, "{case}: {failed}");
    lab.assert_empty(&case);
    let (code, agreed) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!((code, &agreed["findings"]), (0, &json!([])), "{case}");
}

#[tokio::test]
async fn an_attach_whose_request_fails_is_undone() {
    an_attach_that_fails_is_undone(true).await;
}

#[tokio::test]
async fn an_attach_whose_request_fails_is_undone_for_those_who_are_no_administrators() {
    an_attach_that_fails_is_undone(false).await;
}

#[tokio::test]
async fn what_cannot_be_undone_is_named_and_found_again() {
    for fails in FAILURES {
        let lab = Lab::new().await;
        lab.fail("POST", "/action", Fails::With(500));
        lab.fail("DELETE", "/attachments/", fails);
        let (code, failed) = lab.attach(&["--timeout", TIMEOUT]).await;
        assert_eq!(code, 1, "{failed}");
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("volattach cinder reconcile finds it"),
            "{message}"
        );
        let changes = lab.cinder.state().changes.clone();
        assert!(
            changes.last().unwrap().starts_with("DELETE")
                || fails == Fails::With(500)
                || fails == Fails::With(409)
        );
        let (cinder, agent) = lab.sides();
        assert!(agent.is_empty());
        if !cinder.is_empty() {
            let (code, found) = lab.run(&["reconcile"]).await;
            assert_eq!(
                (code, &found["findings"][0]["mended"]),
                (9, &json!(false)),
                "{found}"
            );
            assert_eq!(lab.sides().0, cinder, "nothing is changed");
        }
        let (code, _) = lab.run(&["reconcile", "--yes"]).await;
        assert_eq!(code, 0);
        lab.assert_empty(&format!("{fails:?}"));
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
    for (flag, mode, more) in [
        (true, "rw", &[][..]),
        (false, "ro", &[]),
        (false, "rw", &["--read-only"]),
    ] {
        let lab = Lab::new().await;
        if flag {
            let metadata = [("readonly".to_owned(), "True".to_owned())];
            lab.cinder
                .state()
                .volumes
                .get_mut(&lab.volume)
                .unwrap()
                .metadata = metadata.into();
        }
        lab.cinder.state().access_mode = mode;
        let (code, made) = lab.attach(more).await;
        assert_eq!((code, &made["access"]), (0, &json!("ro")), "{made}");
        let asked = lab.cinder.state().created[0]["mode"].clone();
        assert_eq!(asked, if mode == "ro" { "rw" } else { "ro" });
        if more.is_empty() {
            let other = Lab {
                volume: lab.cinder.volume(),
                ..lab
            };
            if flag {
                let metadata = [("readonly".to_owned(), "True".to_owned())];
                other
                    .cinder
                    .state()
                    .volumes
                    .get_mut(&other.volume)
                    .unwrap()
                    .metadata = metadata.into();
            }
            let (code, refused) = other.attach(&["--require-rw"]).await;
            assert_eq!(
                (code, &refused["error"]["reason"]),
                (8, &json!("READ_WRITE_REFUSED")),
                "{refused}"
            );
            assert_eq!(other.sides().0.len(), 1, "the first one's");
        }
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
    lab.server.world.state().guest = Guest::Obeys;
    let (code, _) = lab.run(&["detach", &id]).await;
    assert_eq!(code, 0);
    lab.assert_empty("let go");
}

#[tokio::test]
async fn a_detach_that_fails_in_cinder_goes_on_with_the_same_command() {
    for (method, fails) in [
        ("GET", Fails::With(500)),
        ("DELETE", Fails::With(500)),
        ("DELETE", Fails::Lost),
        ("DELETE", Fails::Silent),
    ] {
        let lab = Lab::new().await;
        let id = lab.attached().await;
        lab.fail(method, "/attachments/", fails);
        let (code, failed) = lab.run(&["detach", &id, "--timeout", TIMEOUT]).await;
        assert_ne!(code, 0, "{failed}");
        let (code, _) = lab.run(&["detach", &id]).await;
        assert_eq!(code, 0);
        lab.assert_empty(&format!("{method} {fails:?}"));
    }
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
    let metadata = [("permissions".to_owned(), "everybody".to_owned())];
    lab.cinder.state().volumes.get_mut(volume).unwrap().metadata = metadata.into();
    let (code, refused) = lab.attach(&[]).await;
    assert_eq!(
        (code, &refused["error"]["reason"]),
        (1, &json!("CINDER_UNSUITABLE")),
        "{refused}"
    );
    lab.assert_empty("permissions");
}

#[tokio::test]
async fn an_interrupted_attach_is_undone_and_a_killed_one_is_found() {
    for (signal, expected) in [
        (Signal::SIGINT, Some(130)),
        (Signal::SIGTERM, Some(130)),
        (Signal::SIGKILL, None),
    ] {
        let lab = Lab::new().await;
        lab.cinder.state().slow = Duration::from_secs(1);
        let attach = ["attach", &lab.volume, "--domain", "web"];
        let child = lab.command(&attach).spawn().unwrap();
        let begun = async {
            while lab.cinder.state().attachments.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon(begun).await;
        let process = i32::try_from(child.id().unwrap()).unwrap();
        kill(Pid::from_raw(process), signal).unwrap();
        let output = soon(child.wait_with_output()).await.unwrap();
        assert_eq!(output.status.code(), expected, "{output:?}");
        if expected.is_some() {
            lab.assert_empty(signal.as_str());
            continue;
        }
        let (code, found) = lab.run(&["reconcile"]).await;
        let how = &found["findings"][0]["mend"];
        assert_eq!((code, how), (9, &json!("delete it in Cinder")), "{found}");
        assert_eq!(lab.run(&["reconcile", "--yes"]).await.0, 0);
        lab.assert_empty("killed");
    }
}

#[tokio::test]
async fn reconcile_mends_both_ways_and_leaves_novas_alone() {
    let lab = Lab::new().await;
    let id: Uuid = lab.attached().await.parse().unwrap();
    // Not complete.
    lab.cinder.state().attachments.get_mut(&id).unwrap().status = "attaching";
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["mend"]),
        (0, &json!("complete it in Cinder")),
        "{found}"
    );
    assert_eq!(lab.cinder.state().attachments[&id].status, "attached");
    // Nova's, on this host.
    let nova = {
        let mut state = lab.cinder.state();
        let one = state.attachments[&id].clone();
        let nova = Attachment {
            volume: lab.volume.clone(),
            instance: Some(Uuid::new_v4().to_string()),
            ..one
        };
        let nova_id = Uuid::new_v4();
        state.attachments.insert(nova_id, nova);
        nova_id
    };
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    let left = found["left_alone"][0].as_str().unwrap();
    assert!(code == 0 && left.contains("Nova's"), "{found}");
    let (code, refused) = lab.run(&["detach", &nova.to_string()]).await;
    assert_eq!(
        (code, &refused["error"]["reason"]),
        (4, &json!("CINDER_CONFLICT")),
        "{refused}"
    );
    assert_eq!(
        lab.cinder.state().attachments.remove(&nova).unwrap().status,
        "attached"
    );
    // Gone in Cinder.
    lab.cinder.state().attachments.remove(&id);
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["mend"]),
        (0, &json!("detach it from this host")),
        "{found}"
    );
    lab.assert_empty("reconciled");
}

#[tokio::test]
async fn those_who_may_not_see_hosts_are_told_and_end_what_is_marked() {
    let lab = Lab::new().await;
    let id: Uuid = lab.attached().await.parse().unwrap();
    lab.cinder.state().admin = false;
    let id_text = id.to_string();
    let gone = crate::cli::volattach(&lab.server, &["detach", &id_text])
        .output()
        .await
        .unwrap();
    assert!(gone.status.success());
    // Complete: its mark shows whose it is. Another host's is not taken for it.
    let other = Uuid::new_v4();
    {
        let mut state = lab.cinder.state();
        let mut theirs = state.attachments[&id].clone();
        theirs.mountpoint = "volattach:elsewhere:1".to_owned();
        state.attachments.insert(other, theirs);
    }
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["attachment_id"]),
        (0, &json!(id)),
        "{found}"
    );
    assert_eq!(lab.sides().0, BTreeSet::from([other.to_string()]));
    // Incomplete: it may be anybody's.
    lab.cinder
        .state()
        .attachments
        .get_mut(&other)
        .unwrap()
        .status = "attaching";
    let (code, found) = lab.run(&["reconcile", "--yes"]).await;
    assert_eq!(
        (code, &found["findings"][0]["mendable"]),
        (9, &json!(false)),
        "{found}"
    );
}

#[tokio::test]
async fn credentials_versions_and_service_tokens_are_as_openstack_has_them() {
    let lab = Lab::new().await;
    let files = tempfile::tempdir().unwrap();
    let clouds = files.path().join("clouds.yaml");
    let auth = |user: &str| {
        json!({
            "auth_url": format!("http://127.0.0.1:{}/identity/v3", lab.cinder.port),
            "username": user, "password": PASSWORD, "project_name": "web",
        })
    };
    let document = json!({ "clouds": { "lab": { "auth": auth("ann") }, "svc": { "auth": auth("svc") }, "bad": { "auth": auth("eve") } } });
    std::fs::write(&clouds, document.to_string()).unwrap();
    let by = |cloud: &str| {
        let mut command = volattach(
            &lab.server,
            &[
                "cinder",
                "list",
                "--os-cloud",
                cloud,
                "--service-cloud",
                "svc",
                "-o",
                "json",
            ],
        );
        command.env("OS_CLIENT_CONFIG_FILE", &clouds);
        command
    };
    let output = by("lab").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        lab.cinder
            .state()
            .head
            .contains("x-service-token: token-of-svc")
    );
    let output = by("bad").output().await.unwrap();
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let none = volattach(&lab.server, &["cinder", "list"])
        .output()
        .await
        .unwrap();
    let words = String::from_utf8(none.stderr).unwrap();
    assert!(
        none.status.code() == Some(1) && words.contains("OS_AUTH_URL is not set"),
        "{words}"
    );

    lab.cinder.state().newest = "3.53";
    let (code, old) = lab.run(&["list"]).await;
    let message = old["error"]["message"].as_str().unwrap();
    assert!(code == 1 && message.contains("up to 3.53"), "{message}");
}
