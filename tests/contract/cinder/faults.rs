//! Requests that fail, and commands that are told to end: nothing is left over, or it is named and found again.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use uuid::Uuid;
use volattach::journal::{Direction, Record};

use super::Lab;
use super::fake::Fails;
use crate::server::soon;

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
    let cases = REQUESTS.iter().flat_map(|(method, path)| {
        FAILURES.map(|fails| one_that_fails(method, path, fails, admin))
    });
    futures::future::join_all(cases).await;
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
    let cases = FAILURES.map(|fails| async move {
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
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn a_reserved_attachment_is_ended_once_cinder_has_given_up_and_else_named() {
    let cases = [true, false].map(|admin| async move {
        let lab = Lab::new().await;
        lab.cinder.state().admin = admin;
        lab.cinder.state().connects = false;
        let attach = ["attach", &*lab.volume, "--domain", "web"];
        let (code, _, message) = lab.fails(&attach).await;
        assert_eq!(code, 1, "{message}");
        lab.assert_empty(&message);

        // Cinder waits for its driver no more, which goes on.
        lab.fail("POST", "/attachments", Fails::DoneBut(500));
        let (code, _, message) = lab.fails(&attach).await;
        assert_eq!(code, 1, "{message}");
        let left: Uuid = lab.sides().0.first().unwrap().parse().unwrap();
        assert!(message.contains(&left.to_string()), "{message}");
        lab.cinder.state().forget(left);

        lab.fail("POST", "/attachments", Fails::Lost);
        let (code, _, message) = lab.fails(&attach).await;
        assert_eq!(code, 6, "{message}");
        let (cinder, agent) = lab.sides();
        let left = cinder.first().unwrap();
        let how = format!("openstack volume attachment delete {left}");
        assert!(agent.is_empty() && message.contains(&how), "{message}");
        let (code, found) = lab.run(&["reconcile", "--yes"]).await;
        let left_alone = found["left_alone"][0].as_str().unwrap();
        assert!(code == 0 && left_alone.contains(&how), "{found}");
        assert_eq!(lab.sides().0, cinder);
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn anothers_attachment_is_not_taken_for_the_one_whose_answer_was_lost() {
    for admin in [true, false] {
        let lab = Lab::new().await;
        lab.cinder.state().admin = admin;
        lab.cinder.state().rival = true;
        lab.fail("POST", "/attachments", Fails::Lost);
        let attach = ["attach", &*lab.volume, "--domain", "web"];
        let (code, _, message) = lab.fails(&attach).await;
        assert_eq!(code, 6, "{message}");
        assert!(message.contains("made no attachment"), "{message}");
        let (cinder, agent) = lab.sides();
        assert_eq!((cinder.len(), agent.len()), (1, 0), "{message}");
    }
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

/// An attachment of a server, on both sides.
async fn of_a_server(lab: &Lab, nova: bool) -> String {
    let id = lab.attached().await;
    let mut state = lab.cinder.state();
    state.nova = nova;
    let attachment = state.attachments.get_mut(&id.parse().unwrap());
    attachment.unwrap().instance = Some(Uuid::new_v4().to_string());
    id
}

#[tokio::test]
async fn a_servers_attachment_is_detached_where_cinder_will_end_it() {
    for (nova, fails) in [
        (false, Fails::With(500)),
        (false, Fails::Lost),
        (true, Fails::With(500)),
    ] {
        let lab = Lab::new().await;
        let id = of_a_server(&lab, nova).await;
        let before = lab.sides();
        let (code, reason, message) = lab.fails(&["detach", &id]).await;
        assert_eq!((code, &*reason), (1, "CINDER_CREDENTIALS"), "{message}");
        assert!(message.contains("--service-cloud"), "{message}");
        assert_eq!(lab.sides(), before, "nothing is changed");

        let detach = ["detach", &*id, "--service-cloud", "svc"];
        lab.fail("DELETE", "/attachments/", fails);
        let (code, _, message) = lab.fails(&detach).await;
        assert_ne!(code, 0);
        assert!(message.contains("the same command again"), "{message}");
        // Not here any more: a service ends it, or Cinder once Nova has said that its server does not have it.
        let (code, gone) = lab.run(&detach).await;
        assert_eq!((code, &gone["detached"]), (0, &json!(true)), "{gone}");
        lab.assert_empty("a server's");
    }
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

/// Starts a command, and interrupts it once the daemon's record of the attachment has come to what is waited for; returns its exit code.
async fn interrupted(lab: &Lab, arguments: &[&str], until: fn(&Record) -> bool) -> Option<i32> {
    // Three seconds for each look.
    lab.server.world.state().hypervisor_slow = true;
    let child = lab.command(arguments).spawn().unwrap();
    let begun = async {
        while !lab.server.world.records().iter().any(until) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(begun).await;
    let process = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(process), Signal::SIGINT).unwrap();
    lab.server.world.state().hypervisor_slow = false;
    soon(child.wait_with_output()).await.unwrap().status.code()
}

#[tokio::test]
async fn an_interrupt_while_the_daemon_is_at_work_undoes_an_attach_and_lets_a_detach_end() {
    let lab = Lab::new().await;
    let attach = ["attach", &*lab.volume, "--domain", "web"];
    assert_eq!(interrupted(&lab, &attach, |_| true).await, Some(130));
    lab.assert_empty("an attach");
    let id = lab.attached().await;
    let ended = |record: &Record| record.course.direction() == Direction::Backward;
    assert_eq!(interrupted(&lab, &["detach", &id], ended).await, Some(130));
    lab.assert_empty("a detach");
}
