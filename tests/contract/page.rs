//! `volattach web` over the server: who is answered, what is shown, and what comes when something changes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener};
use tokio::process::{Child, Command};

use crate::server::{Server, attach, soon};
use crate::watch::Relay;

/// The page's server, which ends with it.
struct Page {
    address: SocketAddr,
    _process: Child,
}

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Page {
    async fn of(socket: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_volattach"))
            .env_clear()
            .args(["web", "--listen", "127.0.0.1:0", "-o", "json", "--socket"])
            .arg(socket)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = told["url"].as_str().unwrap();
        let address = url.strip_prefix("http://").unwrap().trim_end_matches('/');
        Self {
            address: address.parse().unwrap(),
            _process: process,
        }
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn ask(&self, request: &str) -> Answer {
        let mut stream = self.send(request).await;
        let mut text = String::new();
        soon(stream.read_to_string(&mut text)).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head[9..12].parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost:1\r\n\r\n"))
            .await
    }
}

#[tokio::test]
async fn the_page_shows_attachments_and_is_guarded() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    let page = Page::of(&server.socket).await;
    let answer = page.get("/").await;
    assert_eq!(answer.status, 200);
    for part in [">v-a1<", ">attached<", "Nothing is wrong", "files"] {
        assert!(answer.body.contains(part), "no {part} in {}", answer.body);
    }
    assert!(answer.body.trim_end().ends_with("</html>"));
    let policy = answer.header("content-security-policy").unwrap();
    for part in [
        "default-src 'none'",
        "style-src 'sha256-",
        "script-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{}", answer.head);
    }
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let part = page.get("/part/host-0").await;
    assert!(part.status == 200 && part.body.starts_with("<section id=\"host-0\""));
    for none in [
        "/part/host-1",
        "/part/",
        "/x",
        "/favicon.ico",
        "/../etc/passwd",
    ] {
        assert_eq!(page.get(none).await.status, 404, "{none}");
    }
}

#[tokio::test]
async fn a_page_of_another_name_and_a_request_to_change_are_refused() {
    let server = Server::start().await;
    let page = Page::of(&server.socket).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET /part/host-0 HTTP/1.1\r\nHost: evil.example:7480\r\n\r\n",
        "GET /events HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n",
        "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let answer = page.ask(request).await;
        assert_eq!(answer.status, 403, "{request}");
        assert!(answer.body.contains("on its own host"), "{}", answer.body);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request =
            format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let answer = page.ask(&request).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD"))
        );
    }
    let head = page.ask("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn changes_come_as_they_happen() {
    let server = Server::start().await;
    let page = Page::of(&server.socket).await;
    let whole = page.get("/").await;
    assert!(whole.body.contains("No attachments."), "{}", whole.body);
    let stream = page
        .send("GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        .await;
    let mut lines = BufReader::new(stream).lines();
    let mut version = async || loop {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        if let Some(version) = line.strip_prefix("data: host-0 ") {
            return version.parse::<u64>().unwrap();
        }
    };
    let first = version().await;
    assert!(whole.body.contains(&format!("data-version=\"{first}\"")));

    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    // Of each phase, or of several at once.
    let mut last = first;
    loop {
        let next = version().await;
        assert!(next > last);
        last = next;
        let part = page.get("/part/host-0").await.body;
        if part.contains(">attached<") {
            assert!(part.contains(">v-a1<"), "{part}");
            break;
        }
    }
    // What goes wrong is told, with the command that mends it.
    let begun = Instant::now();
    server.world.let_go("ua-volattach-a1");
    volattach::reconcile::once(&server.engine).await;
    loop {
        version().await;
        let part = page.get("/part/host-0").await.body;
        if part.contains("volattach detach a1</code>") {
            assert!(
                part.contains(">lost<") && part.contains("<b>DISK_LOST</b>"),
                "{part}"
            );
            // Long before the findings' turn, which is each minute.
            assert!(begun.elapsed() < Duration::from_secs(40));
            break;
        }
    }
}

/// What a daemon holds while it is away is shown as it was, and shown anew once it is back.
#[tokio::test]
async fn a_daemon_that_goes_away_and_comes_back_is_told() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.attach_volume(attach("a1")).await.unwrap();
    let relay = Relay::new(&server);
    let page = Page::of(&relay.socket).await;
    assert!(page.get("/").await.body.contains(">v-a1<"));
    relay.to.send_replace("/nonexistent/s".into());
    let shows = async |words: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let shown = page.get("/").await.body;
            if shown.contains(words) {
                return shown;
            }
            assert!(Instant::now() < deadline, "no {words}: {shown}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let shown = shows("Not reached since ").await;
    // The loss itself, or that the next try came to nothing.
    let told = [
        "the connection to the daemon was lost",
        "cannot reach the daemon",
    ];
    assert!(told.iter().any(|words| shown.contains(words)), "{shown}");
    assert!(shown.contains("What follows is as it was then.") && shown.contains(">v-a1<"));

    // Started anew with an empty journal, it does not know the revision: what it does not list is gone.
    let next = Server::start().await;
    relay.lead_to(&next);
    let shown = shows("No attachments.").await;
    assert!(!shown.contains("Not reached since "), "{shown}");
}

#[tokio::test]
async fn a_daemon_that_hangs_does_not_hang_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    // Connections are made by the kernel, and nobody takes them.
    let _listener = UnixListener::bind(&socket).unwrap();
    let page = Page::of(&socket).await;
    let begun = Instant::now();
    let shown = page.get("/").await;
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    let told = "The daemon has not answered yet";
    assert!(
        shown.status == 200 && shown.body.contains(told),
        "{}",
        shown.body
    );
}

#[tokio::test]
async fn an_address_that_is_not_of_loopback_is_refused() {
    for address in ["0.0.0.0:7480", "[::]:7480", "192.0.2.1:7480"] {
        let refused = Command::new(env!("CARGO_BIN_EXE_volattach"))
            .args(["web", "--listen", address])
            .kill_on_drop(true)
            .output();
        let output = soon(refused).await.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("the page has no login"), "{told}");
        assert!(told.contains("ssh -L"), "{told}");
    }
}
