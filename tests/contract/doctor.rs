//! Doctor: each finding as the RPC reports it, and as the command line prints it.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use volattach::api::v1::{self, Finding, Severity};
use volattach::backend::Unrecorded;
use volattach::journal::{Loss, Room, Unreadable};
use volattach::libvirt::DomainEnd;
use volattach::model::Reason;

use crate::cli::run;
use crate::fakes::{DOMAIN, Guest};
use crate::server::{Server, attach, cancel, connect, detach, soon};

async fn findings(server: &Server) -> Vec<Finding> {
    let mut client = server.client().await;
    let answer = soon(client.diagnose(v1::DiagnoseRequest {})).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(answer.left_out, 0);
    answer.findings
}

/// The only finding, and that the command line prints the same.
async fn only(server: &Server) -> Finding {
    let mut found = findings(server).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let finding = found.remove(0);
    let (code, text, stderr) = run(server, &["doctor"]).await;
    assert_eq!((code, stderr.as_str()), (9, ""));
    assert!(text.contains(&finding.what), "{text}");
    assert!(
        text.contains(&format!("\n  mend: {}\n", finding.mend)),
        "{text}"
    );
    let (code, text, _) = run(server, &["doctor", "-o", "json"]).await;
    assert_eq!(code, 9);
    let document: Value = serde_json::from_str(&text).unwrap();
    let printed = &document["findings"][0];
    assert_eq!(printed["what"], finding.what);
    assert_eq!(printed["mend"], finding.mend);
    let severity = match finding.severity() {
        Severity::Error => "error",
        _ => "warning",
    };
    assert_eq!(printed["severity"], severity);
    let id = Some(finding.attachment_id.as_str()).filter(|id| !id.is_empty());
    assert_eq!(printed["attachment_id"].as_str(), id);
    let of_server = Some(finding.server.as_str()).filter(|server| !server.is_empty());
    assert_eq!(printed["server"].as_str(), of_server);
    finding
}

/// The only finding is of this weight, and has these words and this command.
async fn expect(server: &Server, severity: Severity, id: &str, what: &str, mend: &str) {
    let finding = only(server).await;
    assert_eq!(finding.severity(), severity, "{finding:?}");
    assert_eq!(finding.attachment_id, id, "{finding:?}");
    assert!(finding.what.contains(what), "{finding:?}");
    assert!(finding.mend.contains(mend), "{finding:?}");
}

async fn attached(server: &Server, id: &str) {
    let mut client = server.client().await;
    client.attach_volume(attach(id)).await.unwrap();
}

fn loss() -> Loss {
    Loss {
        at: SystemTime::UNIX_EPOCH,
        why: "it is empty".into(),
        kept: Some("/var/lib/volattach/journal.redb.1.corrupt".into()),
    }
}

#[tokio::test]
async fn nothing_is_wrong_on_a_fresh_host_nor_with_sound_attachments() {
    let server = Server::start().await;
    for _ in 0..2 {
        assert_eq!(findings(&server).await, []);
        let (code, text, stderr) = run(&server, &["doctor"]).await;
        assert_eq!(
            (code, text.as_str(), stderr.as_str()),
            (0, "nothing is wrong\n", "")
        );
        let (code, text, _) = run(&server, &["doctor", "-o", "json"]).await;
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &document["findings"]), (0, &Value::Array(vec![])));
        assert_eq!(document["daemon_version"], document["program_version"]);
        attached(&server, "a1").await;
        let mut client = server.client().await;
        client.connect_volume(connect("c1")).await.unwrap();
    }
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_is_found() {
    let server = Server::start().await;
    server.world.state().condition.write_failure = Some("No space left on device".into());
    let what = "No space left on device";
    expect(
        &server,
        Severity::Error,
        "",
        what,
        "df -h /var/lib/volattach",
    )
    .await;
}

#[tokio::test]
async fn a_lost_journal_is_found() {
    let server = Server::start().await;
    server.world.state().loss = Some(loss());
    let what = "the journal was lost, noticed at 1970-01-01T00:00:00Z: it is empty";
    let mend = "volattach journal show --file /var/lib/volattach/journal.redb.1.corrupt";
    expect(&server, Severity::Error, "", what, mend).await;
}

#[tokio::test]
async fn entries_of_another_build_are_found() {
    let server = Server::start().await;
    server.world.state().unreadable = vec![Unreadable {
        id: "later".parse().unwrap(),
        volume: None,
        claims: Vec::new(),
        why: "it has version 9".into(),
    }];
    let mend = "install the build";
    expect(&server, Severity::Error, "later", "it has version 9", mend).await;
    server.world.state().unreadable.clear();
    let volume = "v7".parse().unwrap();
    server.world.state().condition.unreadable_permissions = vec![(volume, "it is cut".into())];
    let what = "the permissions of volume v7 cannot be read: it is cut";
    expect(&server, Severity::Error, "", what, mend).await;
}

#[tokio::test]
async fn little_room_is_found() {
    let server = Server::start().await;
    let room = |free: u64, size: u64| {
        Ok(Room {
            directory: "/var/lib/volattach".into(),
            free,
            size,
        })
    };
    for (free, size, severity, what) in [
        (
            63 << 20,
            1 << 30,
            Severity::Error,
            "has 63 MiB left, below 64 MiB",
        ),
        (
            400 << 20,
            10 << 30,
            Severity::Warning,
            "has 3 % left (400 MiB), below 5 %",
        ),
    ] {
        server.world.state().condition.room = room(free, size);
        expect(&server, severity, "", what, "df -h").await;
    }
    server.world.state().condition.room = room(600 << 20, 10 << 30);
    assert_eq!(findings(&server).await, []);
    server.world.state().condition.room = Err("it does not answer".into());
    expect(&server, Severity::Error, "", "it does not answer", "dmesg").await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_is_found() {
    let server = Server::start().await;
    attached(&server, "a1").await;
    let set = |field: &str, seconds| {
        let time = SystemTime::now() + Duration::from_secs(seconds);
        server.world.set_time("a1", field, time);
    };
    set("created", 30);
    assert_eq!(findings(&server).await, [], "time servers do that");
    for field in ["created", "updated"] {
        set(field, 3600);
        let what = "1 of them are of the future, the latest by 3";
        expect(&server, Severity::Warning, "", what, "timedatectl").await;
        set(field, 0);
    }
}

#[tokio::test]
async fn a_lost_attachment_is_found() {
    let server = Server::start().await;
    attached(&server, "a1").await;
    server.world.let_go("ua-volattach-a1");
    volattach::reconcile::once(&server.engine).await;
    let mend = "volattach attach … again by the same request, or volattach detach a1";
    expect(&server, Severity::Error, "a1", "lost: ", mend).await;
    // Of a domain that has left this host, nothing can be attached again here.
    server.world.stop(DomainEnd::Migrated);
    volattach::reconcile::once(&server.engine).await;
    assert_eq!(only(&server).await.mend, "volattach detach a1");
}

#[tokio::test]
async fn a_failed_end_is_found() {
    let server = Server::start().await;
    attached(&server, "a1").await;
    server.world.state().disconnect_fails = Some(Reason::UnmountFailed);
    let mut client = server.client().await;
    client.detach_volume(detach("a1")).await.unwrap_err();
    let what = "failed (UNMOUNT_FAILED): ";
    expect(&server, Severity::Error, "a1", what, "volattach detach a1").await;
    client.detach_volume(detach("a1")).await.unwrap();

    client.connect_volume(connect("c1")).await.unwrap();
    server.world.state().disconnect_fails = Some(Reason::UnmountFailed);
    let request = v1::DisconnectVolumeRequest {
        attachment_id: "c1".into(),
        force: false,
    };
    client.disconnect_volume(request).await.unwrap_err();
    let mend = "volattach disconnect c1";
    expect(&server, Severity::Error, "c1", what, mend).await;
}

#[tokio::test]
async fn a_guest_that_keeps_its_disk_is_found() {
    let server = Server::start().await;
    attached(&server, "a1").await;
    let mut client = server.client().await;
    server.world.state().guest = Guest::Ignores;
    client.detach_volume(detach("a1")).await.unwrap_err();
    let what = "detaching (unanswered unplug requests: 1, the last at ";
    let mend = "volattach cancel-detach a1";
    expect(&server, Severity::Warning, "a1", what, mend).await;
    client.cancel_detach(cancel("a1")).await.unwrap();
    assert_eq!(findings(&server).await, []);

    server.world.state().guest = Guest::Refuses;
    client.detach_volume(detach("a1")).await.unwrap_err();
    let what = "the detach failed (UNPLUG_REFUSED): ";
    let mend = "unmount the disk in the guest, then volattach detach a1";
    expect(&server, Severity::Warning, "a1", what, mend).await;
    server.world.state().unplug_fails = Some(Reason::BlockJobActive);
    client.detach_volume(detach("a1")).await.unwrap_err();
    let what = "the detach failed (BLOCK_JOB_ACTIVE): ";
    let mend = "virsh blockjob";
    expect(&server, Severity::Warning, "a1", what, mend).await;
}

/// A detach looks for a disk without a record only after a loss: else the command is virsh's.
#[tokio::test]
async fn a_disk_without_a_record_is_found() {
    let server = Server::start().await;
    attached(&server, "a1").await;
    {
        let mut state = server.world.state();
        state.sync();
        state.records.clear();
    }
    let what = "no record of disk vda of attachment a1 in web";
    let mend = format!("virsh detach-device-alias {DOMAIN} ua-volattach-a1 --live");
    expect(&server, Severity::Error, "", what, &mend).await;

    server.world.state().loss = Some(loss());
    let found = findings(&server).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1].mend, "volattach detach a1");
    let mut client = server.client().await;
    client.detach_volume(detach("a1")).await.unwrap();
    assert_eq!(findings(&server).await.len(), 1, "the loss");
}

#[tokio::test]
async fn a_server_that_is_silent_is_found() {
    let server = Server::start().await;
    attached(&server, "a1").await;
    let mut client = server.client().await;
    let mut stranger = connect("c1");
    stranger.volume_id = "v2".into();
    server.world.state().silent.insert("files".into());
    for _ in 0..2 {
        client.connect_volume(stranger.clone()).await.unwrap_err();
    }
    let finding = only(&server).await;
    let what = "the server files (smbfs) has not answered since 2";
    assert!(finding.what.contains(what), "{finding:?}");
    assert_eq!(finding.server, "files");
    let what = "attachments on it: 1";
    let mend = "volattach list --server files";
    expect(&server, Severity::Error, "", what, mend).await;
}

#[tokio::test]
async fn a_worker_that_is_stuck_is_found() {
    let server = Server::start().await;
    let entry = server.world.workers.enter(&"files (smbfs)".into()).unwrap();
    assert_eq!(findings(&server).await, [], "it has time left");
    entry.started(4711);
    entry.outlived();
    let what = "the worker process 4711 for files (smbfs) has slept in the kernel since ";
    let mend = "cat /proc/4711/stack";
    expect(&server, Severity::Warning, "", what, mend).await;
    drop(entry);
    assert_eq!(findings(&server).await, []);
}

/// A connection that others may have made is theirs, unless a journal was lost.
#[tokio::test]
async fn a_connection_without_a_record_is_found() {
    let server = Server::start().await;
    let unrecorded = |own| Unrecorded {
        what: "mount /mnt/x\u{1b}[2J of files:/vols".into(),
        mend: "umount /mnt/x".into(),
        own,
    };
    server.world.state().unrecorded = vec![unrecorded(true)];
    let what = "no record of mount /mnt/x";
    let finding = only(&server).await;
    assert!(!finding.what.contains('\u{1b}'), "{finding:?}");
    expect(&server, Severity::Error, "", what, "umount /mnt/x").await;

    server.world.state().unrecorded = vec![unrecorded(false)];
    assert_eq!(findings(&server).await, []);
    server.world.state().loss = Some(loss());
    let found = findings(&server).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1].severity(), Severity::Warning);
    assert!(found[1].what.contains("others may have made"), "{found:?}");

    // It may be that of a record which cannot be read: its command must not be run without a thought.
    server.world.state().loss = None;
    server.world.state().unrecorded = vec![unrecorded(true)];
    server.world.state().unreadable = vec![Unreadable {
        id: "later".parse().unwrap(),
        volume: None,
        claims: Vec::new(),
        why: "it has version 9".into(),
    }];
    let found = findings(&server).await;
    let mend = "unless one of the unreadable records has it: umount /mnt/x";
    assert_eq!(found[1].mend, mend, "{found:?}");
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_found() {
    let server = Server::start().await;
    server.world.state().hypervisor_down = true;
    let what = "the domains cannot be looked at: cannot reach libvirt at fake:///";
    expect(
        &server,
        Severity::Error,
        "",
        what,
        "systemctl start libvirtd",
    )
    .await;
    server.world.state().hypervisor_down = false;

    // What others left is found all the same.
    server.world.state().domain_fails = Some(Reason::HypervisorError);
    let what = format!("domain {DOMAIN} cannot be looked at: ");
    let mend = format!("virsh dumpxml {DOMAIN}");
    expect(&server, Severity::Warning, "", &what, &mend).await;
    server.world.state().unrecorded = vec![Unrecorded {
        what: "mount /mnt/x of files:/vols".into(),
        mend: "umount /mnt/x".into(),
        own: true,
    }];
    let found = findings(&server).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].mend, "umount /mnt/x", "errors come first");

    server.world.state().domain_fails = None;
    server.world.state().host_unseen = true;
    let what = "connections of nfs cannot be looked at: ";
    expect(
        &server,
        Severity::Warning,
        "",
        what,
        "journalctl -u volattachd",
    )
    .await;
}
