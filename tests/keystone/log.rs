//! The real daemon's log, at its most talkative: it has no token and no password.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::Code;
use tonic::transport::Endpoint;
use volattach::api::v1::ListAttachmentsRequest;
use volattach::api::v1::volume_attach_client::VolumeAttachClient;

use crate::fixture::PASSWORD;
use crate::shared;
use crate::socket::connect;

const FORGED: &str = "gAAAAA-forged-token";

/// Killed in the end.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn list(socket: &Path, tokens: &[(&'static str, &str)]) -> Result<(), Code> {
    let channel = connect(Endpoint::from_static("http://localhost"), socket).await;
    let channel = channel.map_err(|_| Code::Unavailable)?;
    let mut request = tonic::Request::new(ListAttachmentsRequest::default());
    for (name, token) in tokens {
        request.metadata_mut().append(*name, token.parse().unwrap());
    }
    let mut client = VolumeAttachClient::new(channel);
    let listed = client.list_attachments(request).await;
    listed.map(|_| ()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_no_token_and_no_password() {
    let keystone = shared();
    let settings = keystone.settings();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = format!(
        "state_dir = {:?}\nmount_base = {:?}\n[listen]\nsocket = {:?}\n[libvirt]\nuri = {:?}\n\
         [keystone]\nurls = [\"{}\"]\npassword_file = {:?}\n",
        path("state"),
        path("mnt"),
        path("s"),
        format!("qemu+unix:///system?socket={}", path("absent").display()),
        settings.urls[0],
        settings.password_file,
    );
    fs::write(path("c.toml"), config).unwrap();
    let log = fs::File::create(path("log")).unwrap();
    let _daemon = Daemon(
        Command::new(env!("CARGO_BIN_EXE_volattachd"))
            .arg("--config")
            .arg(path("c.toml"))
            .env("VOLATTACH_LOG", "trace")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let socket = path("s");
    let deadline = Instant::now() + Duration::from_secs(60);
    while list(&socket, &[]).await.is_err() {
        assert!(Instant::now() < deadline, "the daemon does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let (user, service) = ("x-auth-token", "x-service-token");
    let member = keystone.token("member", "demo");
    let nova = keystone.token("nova", "service");
    assert_eq!(list(&socket, &[(user, &member)]).await, Ok(()));
    let both = list(&socket, &[(user, &member), (service, &nova)]).await;
    assert_eq!(both, Ok(()));
    // What a client says of itself makes nobody.
    let forged = [
        ("x-user-id", "root"),
        ("x-roles", "admin"),
        ("x-identity-status", "Confirmed"),
    ];
    for bad in [
        vec![(user, FORGED)],
        vec![(user, FORGED), forged[0], forged[1], forged[2]],
        vec![(user, &*member), (user, &*member)],
        vec![(user, &*member), (service, FORGED)],
    ] {
        assert_eq!(list(&socket, &bad).await, Err(Code::Unauthenticated));
    }

    let log = fs::read_to_string(path("log")).unwrap();
    assert!(log.contains("TRACE"), "the log has not all");
    let denied = log.lines().find(|line| line.contains("decision=\"deny\""));
    let denied = denied.expect("a refusal that is told");
    // By the connection, for what was brought tells nobody.
    let uid = format!("peer=uid {} ", nix::unistd::geteuid());
    for part in ["rule=\"volume:attachment_get_all\"", &uid, "by=\""] {
        assert!(denied.contains(part), "{part}: {denied}");
    }
    for secret in [&*member, &*nova, FORGED, PASSWORD] {
        assert!(!log.contains(secret), "the log has a secret");
        // Nor a part of one.
        assert!(
            !log.contains(&secret[..16.min(secret.len())]),
            "the log has a part of a secret"
        );
    }
}
