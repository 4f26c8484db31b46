//! The web server: who may ask, for what, how many at a time and for how long.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::board::Board;
use super::{FIRST, page};
use crate::cli::failure::Failure;

/// Connections at a time: a browser has a few, and so has each tab that listens.
const CONNECTIONS: usize = 64;
/// Connections at a time that listen for changes: others find room beside them.
const LISTENERS: usize = 32;
/// How long a request may take, from the connection to the end of its answer.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a browser may listen for changes before it has to come again.
const LISTENING: Duration = Duration::from_secs(3600);
/// Time between two messages of changes: a page is not made again more often.
const BREATH: Duration = Duration::from_millis(500);
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What every connection shares.
struct Server {
    board: Arc<Board>,
    listeners: Arc<Semaphore>,
    policy: HeaderValue,
}

/// Serves until this process is ended.
pub(super) async fn run(listener: TcpListener, board: Arc<Board>) -> Result<(), Failure> {
    let policy = HeaderValue::from_str(&policy())
        .map_err(|error| Failure::local(format!("the page's policy is no header: {error}")))?;
    let server = Arc::new(Server {
        board,
        listeners: Arc::new(Semaphore::new(LISTENERS)),
        policy,
    });
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let turn = Arc::clone(&turns).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, peer)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    let _turn = turn;
                    server.serve(stream, peer).await;
                });
            }
            // Such as without file descriptors: those that are open will end.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Lets in what stands in the page, and requests to where it came from; nothing else is loaded, sent or framed.
fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(page::STYLE),
        hash(page::SCRIPT)
    )
}

/// Whether a name in the header `Host` is this host's alone. Any other may be a name of somebody who had it resolved to this
/// host, whose page would then read this one. Its port counts for nothing: a tunnel has its own.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<hyper::http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    // A user before the name is left out of it.
    let user = authority.as_str().contains('@');
    let address = name.trim_start_matches('[').trim_end_matches(']');
    !user
        && (name.eq_ignore_ascii_case("localhost")
            || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

impl Server {
    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if !peer.ip().is_loopback() {
            return;
        }
        let listens = Arc::new(AtomicBool::new(false));
        let service = {
            let listens = listens.clone();
            service_fn(move |request| {
                let (server, listens) = (self.clone(), listens.clone());
                async move { Ok::<_, Infallible>(server.answer(&request, &listens).await) }
            })
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let bound = async {
            sleep(REQUEST).await;
            if listens.load(Ordering::Relaxed) {
                sleep(LISTENING).await;
            }
        };
        // Whoever breaks off has gone, and whoever takes too long is left.
        tokio::select! {
            _ = connection => {}
            () = bound => {}
        }
    }

    async fn answer(&self, request: &Request<Incoming>, listens: &AtomicBool) -> Response<Body> {
        let host = request.headers().get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let asked = request.uri().authority().map(|it| it.as_str());
        let local = host.is_some_and(is_loopback) && asked.is_none_or(is_loopback);
        let path = request.uri().path();
        let mut answer = if !local {
            let why =
                "this page is for browsers on its own host: ask for it by localhost or 127.0.0.1\n";
            plain(StatusCode::FORBIDDEN, why)
        } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this page is read-only\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(header::ALLOW, allowed);
            answer
        } else if path == "/" {
            self.board.settled(FIRST).await;
            html(page::whole(&self.board, SystemTime::now()))
        } else if path == "/events" {
            self.events(listens)
        } else {
            let part = path.strip_prefix("/part/");
            let part = part.and_then(|name| page::part(&self.board, name, SystemTime::now()));
            match part {
                Some(part) => html(part.into_string()),
                None => plain(StatusCode::NOT_FOUND, "there is no such page\n"),
            }
        };
        let policy = (header::CONTENT_SECURITY_POLICY, self.policy.clone());
        let guards = [
            (header::CACHE_CONTROL, "no-store"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin",
            ),
            (
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
        ];
        let guards = guards.map(|(name, value)| (name, HeaderValue::from_static(value)));
        answer
            .headers_mut()
            .extend(guards.into_iter().chain([policy]));
        answer
    }

    /// The changes, as they happen: the name of a part, and its number.
    fn events(&self, listens: &AtomicBool) -> Response<Body> {
        let Ok(turn) = Arc::clone(&self.listeners).try_acquire_owned() else {
            let why = "too many browsers listen already: close some\n";
            return plain(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        listens.store(true, Ordering::Relaxed);
        let versions = self.board.versions();
        let told: Option<Vec<u64>> = None;
        let events = futures::stream::unfold(
            (versions, told, turn),
            |(mut versions, told, turn)| async move {
                if told.is_some() {
                    sleep(BREATH).await;
                    // Without a change an empty message goes out, which finds out who is gone.
                    let _ = timeout(REQUEST, versions.changed()).await;
                }
                let now = versions.borrow_and_update().clone();
                let changed = page::changed(told.as_deref(), &now);
                let mut lines: String = changed
                    .iter()
                    .map(|(part, version)| format!("data: {part} {version}\n\n"))
                    .collect();
                if lines.is_empty() {
                    lines.push_str(":\n\n");
                }
                let frame = Frame::data(Bytes::from(lines));
                Some((Ok(frame), (versions, Some(now), turn)))
            },
        );
        typed("text/event-stream", StreamBody::new(events).boxed_unsync())
    }
}

fn typed(kind: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn html(text: String) -> Response<Body> {
    typed("text/html; charset=utf-8", Full::from(text).boxed_unsync())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = typed("text/plain; charset=utf-8", Full::from(text).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_taken() {
        for good in [
            "localhost",
            "LocalHost:7480",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:7480",
        ] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example:7480",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "localhost@evil.example",
            "evil.example@localhost",
            "0.0.0.0",
            "[::]:7480",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
