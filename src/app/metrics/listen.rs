//! The listener that Prometheus scrapes: `GET /metrics` over HTTP/1.1, one request a connection.
//!
//! Nobody is asked who he is, so whoever may be there is bounded: so many connections at a time, each for so long, a small request, and a text
//! that is made at most once a second however many ask.

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::{Stream, StreamExt};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::task::AbortOnDropHandle;

use super::Figures;
use crate::app::listen::{SocketFile, bind_unix};
use crate::config::MetricsListen;

/// How long a connection may last: Prometheus gives up after 10 s by default.
const LIFE: Duration = Duration::from_secs(5);

/// Connections at a time; what comes then is closed at once.
const CONNECTIONS: usize = 16;

/// The longest head of a request, in bytes: the smallest that hyper takes.
const MAX_HEAD: usize = 8 * 1024;

/// How old a text may be that is given out again.
const FRESH: Duration = Duration::from_secs(1);

/// How long to wait after a failed accept, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// OpenMetrics, as its specification 1.0 names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where figures are asked for.
pub struct MetricsSocket {
    listener: Listener,
    /// Removes the socket's file when dropped.
    file: Option<SocketFile>,
}

enum Listener {
    Unix(std::os::unix::net::UnixListener),
    Tcp(TcpListener),
}

/// Serves until the drop.
pub struct Scraped {
    _accepting: AbortOnDropHandle<()>,
    _file: Option<SocketFile>,
}

impl MetricsSocket {
    /// Listens.
    ///
    /// # Errors
    /// Where another process answers on the configured path or has the configured address.
    pub fn open(listen: &MetricsListen) -> anyhow::Result<Self> {
        match listen {
            MetricsListen::Unix(path) => {
                let (listener, file) = bind_unix(path, "metrics_listen")?;
                listener.set_nonblocking(true)?;
                // As on a loopback address, and as the file for the node exporter: to whoever is on this host.
                fs::set_permissions(path, Permissions::from_mode(0o666)).with_context(|| {
                    format!(
                        "cannot open {} to all users (metrics_listen)",
                        path.display()
                    )
                })?;
                Ok(Self {
                    listener: Listener::Unix(listener),
                    file: Some(file),
                })
            }
            MetricsListen::Loopback(address) => {
                let listener = TcpListener::bind(address)
                    .with_context(|| format!("cannot listen on {address} (metrics_listen)"))?;
                listener.set_nonblocking(true)?;
                Ok(Self {
                    listener: Listener::Tcp(listener),
                    file: None,
                })
            }
        }
    }

    /// Serves the figures; must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the runtime cannot take the socket.
    pub fn serve(self, figures: Figures) -> io::Result<Scraped> {
        let scrapes = Arc::new(Scrapes {
            figures,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            last: Mutex::default(),
        });
        let accepting = match self.listener {
            Listener::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                tokio::spawn(scrapes.accept_all(UnixListenerStream::new(listener)))
            }
            Listener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::spawn(scrapes.accept_all(TcpListenerStream::new(listener)))
            }
        };
        Ok(Scraped {
            _accepting: AbortOnDropHandle::new(accepting),
            _file: self.file,
        })
    }
}

struct Scrapes {
    figures: Figures,
    places: Arc<Semaphore>,
    /// The last text, and when it was made.
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Scrapes {
    async fn accept_all<S>(self: Arc<Self>, mut incoming: impl Stream<Item = io::Result<S>> + Unpin)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while let Some(accepted) = incoming.next().await {
            match accepted {
                Ok(stream) => {
                    if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                        tokio::spawn(Arc::clone(&self).converse(stream, place));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a scrape");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn converse<S>(self: Arc<Self>, stream: S, _place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(|request: Request<Incoming>| {
            let scrapes = Arc::clone(&self);
            async move { scrapes.answer(&request).await }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(LIFE)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer);
        match timeout(LIFE, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a scrape was cut short"),
            Err(_) => tracing::debug!("a scrape took too long"),
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::fmt::Error> {
        if request.uri().path() != "/metrics" {
            return Ok(refusal(
                StatusCode::NOT_FOUND,
                "the figures are at /metrics\n",
            ));
        }
        if request.method() != Method::GET {
            let mut refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
            let headers = refusal.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
            return Ok(refusal);
        }
        let mut answer = Response::new(Full::from(self.text().await?));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
        Ok(answer)
    }

    async fn text(&self) -> Result<Bytes, std::fmt::Error> {
        let mut last = self.last.lock().await;
        if let Some((made, text)) = &*last
            && made.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let text = Bytes::from(self.figures.text().await?);
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

fn refusal(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(words));
    *answer.status_mut() = status;
    answer
}
