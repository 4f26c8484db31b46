//! Servers that are no Keystone, or a broken one: nobody is let in, and nobody waits for ever.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use volattach::model::Reason;

use crate::fixture::write_secret;
use crate::{authenticator, local, shared, who};

/// A token of the agent's own, and then, to every question about one, this answer; `None`: never any.
async fn serve(answer: Option<Vec<u8>>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 64 * 1024];
            let length = stream.read(&mut request).await.unwrap();
            if request[..length].starts_with(b"POST") {
                let body = good_body();
                let head = format!(
                    "HTTP/1.1 201 Created\r\nX-Subject-Token: own\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            } else if let Some(answer) = &answer {
                // Whoever has heard enough hangs up.
                let _ = stream.write_all(answer).await;
            } else {
                silent.push(stream);
            }
        }
    });
    (port, task)
}

fn good_body() -> String {
    serde_json::json!({ "token": {
        "user": { "id": "u", "name": "u", "domain": { "id": "d", "name": "d" } },
        "roles": [{ "id": "r", "name": "admin" }],
        "expires_at": "2100-01-01T00:00:00.000000Z",
    }})
    .to_string()
}

fn answer(status: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_by_an_answer_that_makes_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    write_secret(&password_file, "x");
    let mut settings = shared().settings();
    settings.password_file = password_file;
    settings.timeout = Duration::from_secs(2);
    let good = good_body();
    let endless = format!(
        "HTTP/1.1 200 OK\r\n\r\n{}",
        good.replace("admin", &"x".repeat(1 << 22))
    );
    let endless_head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 22));
    let big = good.replace("admin", &"x".repeat(64 * 1024));
    for (what, answer, wanted) in [
        ("good", answer("200 OK", &good), Ok(())),
        ("empty", answer("200 OK", ""), Err(())),
        ("garbage", answer("200 OK", "<html>True</html>"), Err(())),
        ("true", answer("200 OK", "true"), Err(())),
        ("no user", answer("200 OK", r#"{"token":{}}"#), Err(())),
        ("cut", answer("200 OK", &good[..good.len() - 3]), Err(())),
        ("another status", answer("203 OK", &good), Err(())),
        ("no content", answer("204 No Content", ""), Err(())),
        (
            "redirect",
            answer("302 Found\r\nLocation: /", &good),
            Err(()),
        ),
        ("a web server's 404", answer("404 Not Found", "no"), Err(())),
        ("own refused", answer("401 Unauthorized", &good), Err(())),
        ("forbidden", answer("403 Forbidden", &good), Err(())),
        ("too many", answer("429 Too Many Requests", &good), Err(())),
        ("broken", answer("500 Internal", &good), Err(())),
        ("down", answer("503 Unavailable", &good), Err(())),
        ("too long", answer("200 OK", &big), Err(())),
        ("endless", Some(endless.into_bytes()), Err(())),
        ("endless head", Some(endless_head.into_bytes()), Err(())),
        ("no HTTP", Some(b"220 ready\r\n".to_vec()), Err(())),
        ("hangs up", Some(vec![]), Err(())),
        ("silent", None, Err(())),
    ] {
        let (port, task) = serve(answer).await;
        settings.urls = vec![local(port)];
        let known = who(&authenticator(&settings), &["gAAAAA"], &[]).await;
        let unavailable = |()| Reason::IdentityUnavailable;
        assert_eq!(known.map(|_| ()), wanted.map_err(unavailable), "{what}");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_that_is_silent_or_broken_is_passed_over() {
    let keystone = shared();
    let token = keystone.token("member", "demo");
    let mut settings = keystone.settings();
    for first in [None, answer("500 Internal", "{}"), answer("200 OK", "{}")] {
        let (port, task) = serve(first).await;
        settings.urls = vec![local(port), local(keystone.port())];
        settings.timeout = Duration::from_secs(5);
        let known = who(&authenticator(&settings), &[&token], &[]).await;
        // The first one's token of the agent's own means nothing to the second: it gets another there.
        assert!(known.is_ok(), "{known:?}");
        task.abort();
    }
}
