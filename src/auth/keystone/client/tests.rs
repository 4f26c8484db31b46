use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU16;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::auth::AuthError;
use crate::config::HttpUrl;
use crate::model::Reason;

const MINUTE: Duration = Duration::from_secs(60);

/// A Keystone that knows no token but those of its own logins.
struct Fake {
    port: u16,
    /// How it answers a login.
    status: Arc<AtomicU16>,
    logins: Arc<AtomicUsize>,
    dir: TempDir,
}

impl Fake {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            port: listener.local_addr().unwrap().port(),
            status: Arc::new(AtomicU16::new(status)),
            logins: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
        };
        fake.set_password("wrong");
        let (status, logins) = (fake.status.clone(), fake.logins.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if read(&mut stream).await.starts_with(b"GET") {
                    not_found(&mut stream).await;
                    continue;
                }
                logins.fetch_add(1, Ordering::SeqCst);
                let body = r#"{"token":{"user":{"id":"u","name":"u"},"expires_at":"2100-01-01T00:00:00Z"}}"#;
                answer(&mut stream, status.load(Ordering::SeqCst), body).await;
            }
        });
        fake
    }

    fn set_password(&self, password: &str) {
        let path = self.dir.path().join("password");
        fs::write(&path, password).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    fn client(&self) -> Client {
        client(self.port, &self.dir)
    }
}

fn client(port: u16, dir: &TempDir) -> Client {
    let settings = config::Keystone {
        urls: vec![HttpUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap()],
        ca: None,
        timeout: MINUTE,
        user: "volattach".into(),
        user_domain: "Default".into(),
        project: "service".into(),
        project_domain: "Default".into(),
        password_file: dir.path().join("password"),
        service_token_roles: Vec::new(),
        audit_role: None,
        cache_time: MINUTE,
        allow_expired_window: MINUTE,
    };
    Client::new(&settings).unwrap()
}

/// Reads a question without a body, or with one of JSON.
async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    loop {
        let end: &[u8] = match request.starts_with(b"POST") {
            true => b"}",
            false => b"\r\n\r\n",
        };
        if request.ends_with(end) || stream.read_buf(&mut request).await.unwrap() == 0 {
            return request;
        }
    }
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} X\r\nX-Subject-Token: own\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).await.unwrap();
}

async fn not_found(stream: &mut TcpStream) {
    answer(stream, 404, r#"{"error":{"code":404}}"#).await;
}

/// A token of the agent's own, which is to be renewed and ends after these times.
fn own_token(renew: Duration, until: Duration) -> OwnToken {
    OwnToken {
        token: Secret::from("held"),
        renew: Instant::now() + renew,
        until: Instant::now() + until,
    }
}

/// Asks about a token that Keystone does not know.
async fn ask(client: &Arc<Client>) -> Result<(), KeystoneError> {
    let verdict = client.validate(&Secret::from("bad"), false).await?;
    assert!(matches!(verdict, Verdict::Bad));
    Ok(())
}

#[tokio::test]
async fn a_question_without_a_turn_is_to_be_asked_again() {
    let fake = Fake::start(201).await;
    let mut client = fake.client();
    client.settings.timeout = Duration::from_millis(1);
    let client = Arc::new(client);
    let all = u32::try_from(QUESTIONS).unwrap();
    let others = client.questions.acquire_many(all).await.unwrap();
    let error = ask(&client).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "too many questions to Keystone are under way, and this one had no turn within 1 ms: try again"
    );
    let error = AuthError::Unavailable(error);
    assert_eq!(error.reason(), Reason::IdentityUnavailable);
    drop(others);
    ask(&client).await.unwrap();
}

#[tokio::test]
async fn a_question_has_its_turn_while_it_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let client = Arc::new(client(listener.local_addr().unwrap().port(), &dir));
    client.own().token = Some(own_token(MINUTE, MINUTE));
    let keystone = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        assert_eq!(client.questions.available_permits(), QUESTIONS - 1);
        not_found(&mut stream).await;
    };
    let (asked, ()) = tokio::join!(ask(&client), keystone);
    asked.unwrap();
    assert_eq!(client.questions.available_permits(), QUESTIONS);
}

#[tokio::test]
async fn a_refused_login_is_not_tried_with_each_call() {
    let fake = Fake::start(401).await;
    let client = Arc::new(fake.client());
    let refused = async || {
        let error = ask(&client).await.unwrap_err();
        assert!(
            matches!(error, KeystoneError::OwnRefused { .. }),
            "{error:?}"
        );
    };
    for _ in 0..3 {
        refused().await;
    }
    assert_eq!(fake.logins(), 1);
    // After a while it is.
    client.own().refusal.as_mut().unwrap().at -= RETRY;
    refused().await;
    assert_eq!(fake.logins(), 2);
    // And at once with another password.
    fake.set_password("another");
    refused().await;
    assert_eq!(fake.logins(), 3);
    fake.status.store(201, Ordering::SeqCst);
    fake.set_password("the good one");
    ask(&client).await.unwrap();
    assert_eq!(fake.logins(), 4);
    assert!(client.own().refusal.is_none());
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_serves_to_its_end() {
    for status in [401, 503] {
        let fake = Fake::start(status).await;
        let client = Arc::new(fake.client());
        client.own().token = Some(own_token(Duration::ZERO, MINUTE));
        for _ in 0..3 {
            ask(&client).await.unwrap();
        }
        assert_eq!(fake.logins(), 1, "{status}");
        client.own().token = Some(own_token(Duration::ZERO, Duration::ZERO));
        ask(&client).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_login_is_left_out_where_another_has_just_ended() {
    let fake = Fake::start(201).await;
    let client = fake.client();
    client.own().token = Some(own_token(MINUTE, MINUTE));
    let own = client.renew().await.unwrap();
    assert_eq!(own.token.expose(), "held");
    assert_eq!(fake.logins(), 0);
}

#[tokio::test]
async fn a_client_in_the_place_of_another_does_not_try_a_refused_password_again() {
    let fake = Fake::start(401).await;
    let before = Arc::new(fake.client());
    ask(&before).await.unwrap_err();
    let mut after = fake.client();
    after.remember(&before);
    let after = Arc::new(after);
    let refused = ask(&after).await.unwrap_err();
    assert!(
        matches!(refused, KeystoneError::OwnRefused { .. }),
        "{refused}"
    );
    assert_eq!(fake.logins(), 1);
    fake.set_password("another");
    fake.status.store(201, Ordering::SeqCst);
    ask(&after).await.unwrap();
    assert_eq!(fake.logins(), 2);
}
