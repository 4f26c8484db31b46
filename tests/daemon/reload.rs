//! SIGHUP has the real daemon read its configuration again, whatever is under way.

use std::net::TcpListener;

use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use volattach::api::v1;

use super::*;
use crate::pki::{Authority, write_pem};

/// A daemon whose configuration is written anew.
struct Reloaded {
    place: Place,
    /// What every one of its configurations has.
    base: String,
    daemon: Daemon,
}

impl Reloaded {
    fn start(first: &str) -> Self {
        let place = Place::new();
        let base = fs::read_to_string(place.path("volattachd.toml")).unwrap();
        let mut begun = Self {
            daemon: Daemon(Command::new("true").stderr(Stdio::piped()).spawn().unwrap()),
            place,
            base,
        };
        begun.write(first);
        begun.daemon = begun.place.start(begun.place.command(&[]));
        begun
    }

    /// Adds this to the configuration's tables; keys of none stand before them.
    fn write(&self, more: &str) {
        let (keys, tables) = more.split_at(more.find('[').unwrap_or(more.len()));
        let text = format!("{keys}\n{}\n{tables}", self.base);
        fs::write(self.place.path("volattachd.toml"), text).unwrap();
    }

    /// Has the daemon read this, and waits until that is over as systemd would: the time that the daemon tells is one of the same clock.
    fn reload(&self, more: &str) {
        self.write(more);
        self.daemon.signal(Signal::SIGHUP);
        let mut buffer = [0; 4096];
        loop {
            let length = self.place.notify.recv(&mut buffer).unwrap();
            let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if heard.contains("RELOADING=1\n") {
                let now = sd_notify::NotifyState::monotonic_usec_now().unwrap();
                let time = |text: &str| text.split_once("MONOTONIC_USEC=")?.1.trim().parse().ok();
                let time = (time(&heard), time(&now.to_string()));
                assert!(
                    time.0 > Some(0_i128) && time.0 <= time.1,
                    "{time:?}: {heard}"
                );
                break;
            }
        }
        self.place.hear("READY=1");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    async fn client(&self) -> VolumeAttachClient<Channel> {
        let endpoint = Endpoint::from_static("http://localhost");
        let socket = self.path("run/volattachd.sock");
        VolumeAttachClient::new(socket::connect(endpoint, &socket).await.unwrap())
    }

    fn end(mut self) -> String {
        self.daemon.signal(Signal::SIGTERM);
        let (code, said) = self.daemon.end();
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

fn connects(id: &str, info: String) -> v1::ConnectVolumeRequest {
    v1::ConnectVolumeRequest {
        attachment_id: id.into(),
        volume_id: id.into(),
        connection_info: Some(v1::ConnectionInfo {
            form: Some(v1::connection_info::Form::CinderJson(info)),
        }),
        ..Default::default()
    }
}

/// A file of this host.
fn local(path: &Path) -> String {
    format!(r#"{{"driver_volume_type":"local","data":{{"device_path":{path:?}}}}}"#)
}

/// A volume on a server at that address, which accepts and says nothing.
fn silent(server: &TcpListener) -> String {
    let address = server.local_addr().unwrap();
    let (ip, port) = (address.ip(), address.port());
    format!(
        r#"{{"driver_volume_type":"smbfs","data":{{"export":"//{ip}/vols","name":"x","options":"-o username=bob,password=hunter2,port={port}"}}}}"#
    )
}

/// The next message of a watch.
async fn message(
    watch: &mut Streaming<v1::WatchAttachmentsResponse>,
) -> Result<Option<v1::WatchAttachmentsResponse>, Status> {
    let message = tokio::time::timeout(LONG, watch.message()).await;
    message.expect("the watch tells nothing")
}

/// Waits for the event of that attachment.
async fn event(watch: &mut Streaming<v1::WatchAttachmentsResponse>, id: &str) {
    loop {
        let message = message(watch).await.unwrap().expect("the watch ended");
        if message.attachment.is_some_and(|it| it.attachment_id == id) {
            return;
        }
    }
}

/// Waits until the watch ends for want of a right to it.
async fn ends(watch: &mut Streaming<v1::WatchAttachmentsResponse>) {
    let ended = loop {
        match message(watch).await {
            Ok(message) => assert!(message.is_some(), "it ended silently"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
}

async fn watching(
    client: &mut VolumeAttachClient<Channel>,
) -> Result<Streaming<v1::WatchAttachmentsResponse>, Status> {
    let watch = client.watch_attachments(v1::WatchAttachmentsRequest::default());
    watch.await.map(tonic::Response::into_inner)
}

type Hanging = JoinHandle<Result<tonic::Response<v1::ConnectVolumeResponse>, Status>>;

/// Begins to connect a volume, and waits until its server is asked.
async fn hanging(
    client: &VolumeAttachClient<Channel>,
    id: &'static str,
    server: TcpListener,
) -> (Hanging, std::net::TcpStream) {
    let (mut client, info) = (client.clone(), silent(&server));
    let call = tokio::spawn(async move { client.connect_volume(connects(id, info)).await });
    let asked = tokio::task::spawn_blocking(move || server.accept().unwrap().0);
    (call, asked.await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_hold_from_the_next_call_on_and_drop_none() {
    let old = "[smb]\nprobe_timeout = \"60s\"\n";
    let daemon = Reloaded::start(old);
    let mut client = daemon.client().await;
    let mut watch = watching(&mut client).await.unwrap();
    let server = |ip: &str| TcpListener::bind((ip, 0)).unwrap();
    let (call, asked) = hanging(&client, "hangs", server("127.0.0.1")).await;
    event(&mut watch, "hangs").await;
    fs::create_dir(daemon.path("roots")).unwrap();
    let volume = daemon.path("roots/v.raw");
    fs::write(&volume, [0; 4096]).unwrap();
    let refused = client.connect_volume(connects("l", local(&volume))).await;
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("local.roots"), "{refused}");

    let figures = daemon.path("volattach.prom");
    daemon.reload(&format!(
        "metrics_file = {figures:?}\n[smb]\nprobe_timeout = \"100ms\"\n[local]\nroots = [{:?}]\n[limits]\nwatches = 1\n",
        daemon.path("roots"),
    ));
    // Each on the same connection.
    client
        .connect_volume(connects("l", local(&volume)))
        .await
        .unwrap();
    event(&mut watch, "l").await;
    let refused = watching(&mut client).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let (other, _asked) = hanging(&client, "late", server("127.0.0.2")).await;
    let late = other.await.unwrap().unwrap_err();
    assert!(late.message().contains("0.1 s"), "{late}");
    until("the figures are written", async || figures.exists()).await;
    let others = daemon.path("other.prom");
    daemon.reload(&format!("metrics_file = {others:?}\n"));
    until("their file is another one", async || {
        others.exists() && !figures.exists()
    })
    .await;
    // Not by the 60 s of then, and not by the 0.1 s of now: its server's word ends it.
    assert!(!call.is_finished());
    drop(asked);
    let answer = call.await.unwrap().unwrap_err();
    assert!(!answer.message().contains("no answer"), "{answer}");
    drop((watch, client));
    let said = daemon.end();
    let told = said.lines().find(|line| line.contains("is in use"));
    let told = told.unwrap_or_else(|| panic!("{said}"));
    assert!(told.contains("metrics_file, smb, local, limits"), "{told}");
}

/// What the daemon has now: whether a local volume may be connected, and its findings about the configuration.
async fn roots_and_findings(daemon: &Reloaded, volume: &Path) -> (bool, Vec<String>) {
    let mut client = daemon.client().await;
    let connected = client.connect_volume(connects("l", local(volume))).await;
    let request = v1::DiagnoseRequest::default();
    let found = client.diagnose(request).await.unwrap().into_inner();
    let found = found.findings.into_iter().map(|finding| finding.what);
    let found = found.filter(|what| what.contains("configuration"));
    (connected.is_ok(), found.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let daemon = Reloaded::start("");
    fs::create_dir(daemon.path("roots")).unwrap();
    let volume = daemon.path("roots/v.raw");
    fs::write(&volume, [0; 4096]).unwrap();
    let roots = format!("[local]\nroots = [{:?}]\n", daemon.path("roots"));
    let policy = daemon.path("policy.yaml");
    fs::write(&policy, "'volume:extend': 0\n").unwrap();
    let missing = daemon.path("missing/audit.json");
    for (wrong, why) in [
        (
            format!("{roots}[limits]\nwatches = 0\n[smb]\nprobe = 1\n"),
            "smb.probe",
        ),
        (format!("{roots}not TOML"), "volattachd.toml:"),
        (
            format!("{roots}[policy]\nfile = {policy:?}\n"),
            "policy.yaml:1",
        ),
        (format!("audit_file = {missing:?}\n{roots}"), "audit_file"),
    ] {
        daemon.reload(&wrong);
        let (may, found) = roots_and_findings(&daemon, &volume).await;
        assert!(!may, "{wrong}");
        assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
    }
    daemon.reload(&roots);
    assert_eq!(roots_and_findings(&daemon, &volume).await, (true, vec![]));
    let said = daemon.end();
    let told: Vec<_> = said
        .lines()
        .filter(|it| it.contains("cannot be used"))
        .collect();
    // Each problem has a line of its own.
    assert_eq!(told.len(), 5, "{said}");
    for why in [
        "limits.watches",
        "smb.probe",
        "key with no value",
        "policy.yaml:1",
        "audit.json",
    ] {
        assert!(
            told.iter().any(|line| line.contains(why)),
            "{why}: {told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_needs_a_restart_stays_and_is_told_of() {
    let daemon = Reloaded::start("");
    let (volume, other) = (daemon.path("roots/v.raw"), daemon.path("other.sock"));
    fs::create_dir(daemon.path("roots")).unwrap();
    fs::write(&volume, [0; 4096]).unwrap();
    let roots = format!("[local]\nroots = [{:?}]\n", daemon.path("roots"));
    daemon.reload(&format!(
        "metrics_listen = \"unix:{}\"\n{roots}[limits]\nstreams = 9\n",
        other.display()
    ));
    let (may, found) = roots_and_findings(&daemon, &volume).await;
    assert!(may && !other.exists());
    assert!(
        found.len() == 1 && found[0].ends_with(": metrics_listen, limits.streams"),
        "{found:?}"
    );
    // A configuration that is refused changes nothing of it.
    daemon.reload("not TOML");
    let (_, found) = roots_and_findings(&daemon, &volume).await;
    assert!(
        found.len() == 2 && found[1].ends_with(": metrics_listen, limits.streams"),
        "{found:?}"
    );
    // Nor does the restart that is advised fail: what waits for it is checked now.
    daemon.reload(&format!("{roots}[listen.tls]\naddresses = [\"127.0.0.1:1\"]\ncertificate = \"/none\"\nkey = \"/none\"\nclient_ca = \"/none\"\n"));
    let (_, found) = roots_and_findings(&daemon, &volume).await;
    assert!(found.len() == 2 && found[0].contains("/none"), "{found:?}");
    daemon.reload(&roots);
    assert_eq!(roots_and_findings(&daemon, &volume).await, (true, vec![]));
    assert!(daemon.end().contains("need a restart"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_call_no_more_watches_no_more() {
    let daemon = Reloaded::start("");
    let mut client = daemon.client().await;
    let mut watch = watching(&mut client).await.unwrap();
    // The policy's files are others: what goes on is a matter of the policy.
    let policy = daemon.path("policy.yaml");
    fs::write(&policy, "'volume:extend': '!'\n").unwrap();
    daemon.reload(&format!("[policy]\nfile = {policy:?}\n"));
    let mut kept = watching(&mut client).await.unwrap();
    message(&mut kept).await.unwrap();
    fs::write(&policy, "'volume:attachment_watch': '!'\n").unwrap();
    daemon.reload(&format!("[policy]\nfile = {policy:?}\n"));
    let denied = watching(&mut client).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");

    daemon.reload(&format!("[auth.local]\n[policy]\nfile = {policy:?}\n"));
    let denied = watching(&mut client).await.unwrap_err();
    assert!(denied.message().contains("auth.local"), "{denied}");
    for watch in [&mut watch, &mut kept] {
        ends(watch).await;
    }
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_if_other_authorities_let_callers_in() {
    let pki = tempfile::tempdir().unwrap();
    let file = |name: &str| pki.path().join(name);
    let authority = Authority::new();
    authority.write(file("ca.pem"));
    authority.write(file("other-ca.pem"));
    let issued = authority.issue("localhost");
    write_pem(&file("cert.pem"), "CERTIFICATE", &issued.der);
    write_pem(&file("key.pem"), "PRIVATE KEY", &issued.key);
    // Free again at the end of the statement.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let tls = |authorities: &str| {
        format!(
            "[listen.tls]\naddresses = [\"127.0.0.1:{port}\"]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
            file("cert.pem"),
            file("key.pem"),
            file(authorities)
        )
    };
    let daemon = Reloaded::start(&tls("ca.pem"));
    let mut client = daemon.client().await;
    let mut watch = watching(&mut client).await.unwrap();
    message(&mut watch).await.unwrap();
    daemon.reload(&tls("other-ca.pem"));
    ends(&mut watch).await;
    drop(client);
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_goes_on_in_a_file_that_took_the_place_of_another() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("audit.json");
    let daemon = Reloaded::start(&format!("audit_file = {file:?}\n"));
    let socket = daemon.path("run/volattachd.sock");
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    call(&socket).await.unwrap();
    until("it is audited", async || lines(&file) == 1).await;
    // As logrotate does it.
    let rotated = place.path().join("audit.json.1");
    fs::rename(&file, &rotated).unwrap();
    daemon.reload(&format!("audit_file = {file:?}\n"));
    call(&socket).await.unwrap();
    until("it is audited", async || lines(&file) == 1).await;
    assert_eq!(lines(&rotated), 1);
    daemon.reload("");
    call(&socket).await.unwrap();
    daemon.end();
    assert_eq!((lines(&file), lines(&rotated)), (1, 1));
}
