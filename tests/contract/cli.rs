//! The command line against the server: the real program, what it prints, how it ends.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use volattach::auth::PeerCredentials;
use volattach::model::Reason;

use crate::fakes::{Fault, Guest};
use crate::server::{Server, cinder, soon};

pub(super) fn volattach(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_volattach"));
    command
        .env_clear()
        .env("VOLATTACH_SOCKET", &server.socket)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Exit code, standard output, standard error. Connection info of `v1` is on standard input.
pub(super) async fn run(server: &Server, arguments: &[&str]) -> (i32, String, String) {
    run_with(server, arguments, &cinder("v1")).await
}

pub(super) async fn run_with(
    server: &Server,
    arguments: &[&str],
    input: &str,
) -> (i32, String, String) {
    let mut child = volattach(server, arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read it may have ended already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = soon(child.wait_with_output()).await.unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

pub(super) async fn json(server: &Server, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["-o", "json"]].concat();
    let (code, stdout, stderr) = run(server, &arguments).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
    serde_json::from_str(&stdout).unwrap()
}

/// Exit code and reason, as programs get them; people get the reason too.
pub(super) async fn failure(server: &Server, arguments: &[&str]) -> (i32, String) {
    let arguments = [arguments, &["-o", "json"]].concat();
    let (code, stdout, stderr) = run(server, &arguments).await;
    let answer: Value = serde_json::from_str(&stdout).expect(&stderr);
    let error = &answer["error"];
    for key in ["message", "code"] {
        assert!(error[key].is_string(), "{error}");
    }
    let reason = error["reason"].as_str().unwrap();
    assert!(stderr.contains(reason), "{stderr}");
    (code, reason.to_owned())
}

pub(super) const ATTACH: &[&str] = &[
    "attach",
    "--volume",
    "vol-1",
    "--domain",
    "web",
    "--id",
    "a1",
    "--connection-info",
    "-",
];

fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [arguments, more].concat()
}

#[tokio::test]
async fn attach_list_show_detach() {
    let server = Server::start().await;
    let made = json(
        &server,
        &with(ATTACH, &["--access", "ro", "--dev", crate::TARGETS[2]]),
    )
    .await;
    assert_eq!(made["attachment_id"], "a1");
    assert_eq!(made["volume_id"], "vol-1");
    assert_eq!(made["domain"]["name"], "web");
    assert_eq!(made["access"], "ro");
    assert_eq!(made["state"], "attached");
    assert_eq!(made["target"], crate::TARGETS[2]);
    assert_eq!(made["error"], Value::Null);
    assert_eq!(json(&server, &["show", "a1"]).await, made);
    assert_eq!(json(&server, &["list"]).await["attachments"][0], made);
    let none = json(&server, &["list", "--volume", "other"]).await;
    assert_eq!(none["attachments"].as_array().unwrap().len(), 0);

    let (code, table, _) = run(&server, &["list"]).await;
    assert_eq!(code, 0);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = table.lines().map(words).collect();
    let row = format!(
        "a1 vol-1 web {} ro attached smbfs - yes: the request asks for read-only",
        crate::TARGETS[2]
    );
    assert_eq!(
        lines,
        [
            "Attachment Volume Domain Target Access State Protocol Permissions Read Only",
            row.as_str()
        ]
    );
    let (code, shown, _) = run(&server, &["show", "a1"]).await;
    assert_eq!(code, 0);
    let shown_words: Vec<_> = shown.lines().map(words).collect();
    for row in [
        "Access ro",
        "Read Only yes: the request asks for read-only",
        "Permissions -",
    ] {
        assert!(shown_words.iter().any(|line| line == row), "{row}: {shown}");
    }
    assert!(shown.contains("<disk"), "{shown}");

    let gone = json(&server, &["detach", "a1"]).await;
    assert_eq!(
        gone,
        serde_json::json!({ "attachment_id": "a1", "detached": true })
    );
    let (code, text, _) = run(&server, &["detach", "a1"]).await;
    assert_eq!((code, text.as_str()), (0, "a1 is detached\n"));
    assert!(server.world.records().is_empty());
}

#[tokio::test]
async fn connect_chooses_an_id_and_disconnect_takes_it() {
    let server = Server::start().await;
    let connect = ["connect", "--volume", "vol-1", "--connection-info", "-"];
    let made = json(&server, &connect).await;
    assert_eq!(made["state"], "connected");
    assert_eq!(made["domain"], Value::Null);
    let id = made["attachment_id"].as_str().unwrap();
    assert_eq!(id.len(), 36, "not a UUID: {id}");
    let gone = json(&server, &["disconnect", id]).await;
    assert_eq!(gone["disconnected"], true);
    assert!(server.world.state().connections.is_empty());
}

#[tokio::test]
async fn what_turns_a_line_round_is_shown_to_people() {
    let server = Server::start().await;
    let turned = "vol\u{202e}1";
    let plan = ["plan", "--domain", "web", "--connection-info", "-"];
    let (code, text, _) = run_with(&server, &plan, &cinder(turned)).await;
    assert_eq!(code, 0);
    assert!(
        text.contains(r"vol\u{202e}1") && !text.contains(turned),
        "{text}"
    );
}

#[tokio::test]
async fn extend_tells_the_new_size() {
    let server = Server::start().await;
    json(&server, ATTACH).await;
    server.world.state().stored = 3 << 20;
    let grown = json(&server, &["extend", "a1", "--size", "3145728"]).await;
    let expected = serde_json::json!({ "attachment_id": "a1", "size_bytes": 3_145_728 });
    assert_eq!(grown, expected);
    let (code, text, _) = run(&server, &["extend", "a1"]).await;
    assert_eq!((code, text.as_str()), (0, "a1 has 3145728 bytes\n"));
    let more = failure(&server, &["extend", "a1", "--size", "3145729"]).await;
    assert_eq!(more, (1, "VOLUME_NOT_GROWN".to_owned()));
}

#[tokio::test]
async fn plan_and_connector_are_shown() {
    let server = Server::start().await;
    let plan = [
        "plan",
        "--domain",
        "web",
        "--connection-info",
        "-",
        "--access",
        "ro",
    ];
    let shown = json(&server, &plan).await;
    assert_eq!(shown["access"], "ro");
    assert_eq!(shown["mount"]["source"], "//files/vols");
    assert_eq!(shown["steps"][0]["name"], "connect");
    let (code, text, _) = run(&server, &plan).await;
    assert_eq!(code, 0);
    for part in [
        "Access: ro",
        "connect",
        "//files/vols",
        "vers",
        "built in",
        "<disk",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(server.world.records().is_empty());
    let mut connector = json(&server, &["connector"]).await;
    // Whichever address this machine has.
    connector["ip"] = Value::Null;
    connector["system uuid"] = Value::Null;
    let host = sysinfo::System::host_name().unwrap();
    let expected = serde_json::json!({
        "host": host,
        "ip": null,
        "platform": std::env::consts::ARCH,
        "os_type": "linux",
        "system uuid": null,
        "initiator": "iqn.1993-08.org.debian:01:5f2",
        "multipath": true,
        "nqn": "nqn.2014-08.org.nvmexpress:uuid:1",
        "nvme_hostid": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "nvme_native_multipath": true,
    });
    assert_eq!(connector, expected);
    let (_, text, _) = run(&server, &["connector"]).await;
    assert!(text.contains(&host), "{text}");
}

#[tokio::test]
async fn watch_prints_a_json_object_a_line() {
    let server = Server::start().await;
    let mut watch = volattach(&server, &["watch", "-o", "json", "--timeout", "1"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    json(&server, ATTACH).await;
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "attached") {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        let change: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(change["attachment_id"], "a1");
        assert_eq!(change["left_filter"], false);
        states.push(change["state"].as_str().unwrap().to_owned());
    }
    server.api.drain().await;
    let output = soon(watch.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}

#[tokio::test]
async fn failures_have_their_exit_code() {
    let server = Server::start().await;
    let reasons: &[(&[&str], i32, &str)] = &[
        (&["show", "none"], 3, "ATTACHMENT_NOT_FOUND"),
        (&["show", "a b"], 1, "INVALID_REQUEST"),
    ];
    for (arguments, code, reason) in reasons {
        assert_eq!(
            failure(&server, arguments).await,
            (*code, (*reason).to_owned())
        );
    }
    json(&server, ATTACH).await;
    let conflict = failure(&server, &with(ATTACH, &["--access", "ro"])).await;
    assert_eq!(conflict, (4, "ATTACHMENT_CONFLICT".to_owned()));
    server.world.state().guest = Guest::Ignores;
    let pending = failure(&server, &["detach", "a1"]).await;
    assert_eq!(pending, (5, "UNPLUG_PENDING".to_owned()));
    let kept = json(&server, &["cancel-detach", "a1"]).await;
    assert_eq!(
        (&kept["state"], &kept["error"]),
        (&"attached".into(), &Value::Null)
    );
    let unknown = failure(&server, &["cancel-detach", "none"]).await;
    assert_eq!(unknown, (3, "ATTACHMENT_NOT_FOUND".to_owned()));

    let (code, stdout, stderr) = run(&server, &["show", "none"]).await;
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.contains("ATTACHMENT_NOT_FOUND"), "{stderr}");
    assert!(stderr.contains("what to do: "), "{stderr}");

    let usage = volattach(&server, &["attach"]).output().await.unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn a_failed_attach_tells_the_id_and_no_secret() {
    let server = Server::start().await;
    server.world.state().connect_fails = Some(Reason::LogonFailure);
    let attach = [
        "attach",
        "--volume",
        "v",
        "--domain",
        "web",
        "--connection-info",
        "-",
    ];
    let (code, _, stderr) = run(&server, &attach).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("LOGON_FAILURE"), "{stderr}");
    assert!(stderr.contains("(attachment "), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[tokio::test]
async fn a_daemon_that_is_absent_silent_or_forbidden_is_told_apart() {
    let server = Server::start().await;
    let absent = failure(&server, &["list", "--socket", "/nonexistent/s"]).await;
    assert_eq!(absent, (6, "DAEMON_UNREACHABLE".to_owned()));

    server.world.gate.arm(0, Fault::Die);
    let silent = failure(&server, &with(ATTACH, &["--timeout", "1"])).await;
    assert_eq!(silent, (7, "CLIENT_TIMEOUT".to_owned()));

    let stranger = PeerCredentials {
        uid: 4711,
        gid: 4711,
        groups: vec![],
        pid: None,
    };
    let server = Server::start_for_strangers(Some(stranger)).await;
    let forbidden = failure(&server, &["list"]).await;
    assert_eq!(forbidden, (8, "PERMISSION_DENIED".to_owned()));
}

#[tokio::test]
async fn phases_are_told_on_a_terminal_and_nowhere_else() {
    let server = Server::start().await;
    // The world stands still where the connect step looks for what is there.
    server.world.gate.arm(3, Fault::Die);
    let info = server.socket.with_extension("json");
    std::fs::write(&info, cinder("v1")).unwrap();
    let attach = format!(
        "{} attach --volume v --domain web --connection-info {}",
        env!("CARGO_BIN_EXE_volattach"),
        info.display()
    );
    // script(1) of util-linux gives it a terminal.
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &attach, "/dev/null"])
        .env("VOLATTACH_SOCKET", &server.socket)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("script(1) is needed: install bsdutils");
    let mut screen = terminal.stdout.take().unwrap();
    let mut shown = Vec::new();
    let phase = b"connecting the volume to this host";
    while !shown.windows(phase.len()).any(|window| window == phase) {
        let read = soon(screen.read_buf(&mut shown)).await.unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&shown));
    }

    let server = Server::start().await;
    let (code, _, stderr) = run(&server, ATTACH).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
}
