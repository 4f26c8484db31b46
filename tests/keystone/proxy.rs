//! What stands before a Keystone: counts what it is asked, and speaks TLS for it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Passes requests on until it is dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    lines: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// To that port of this host.
    pub(crate) async fn start(to: u16, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = lines.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, tls) = (seen.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => pass(stream, to, &seen).await,
                        Some(tls) => pass(tls.accept(stream).await?, to, &seen).await,
                    }
                });
            }
        });
        Self { port, lines, task }
    }

    /// How many requests with that method went through.
    pub(crate) fn count(&self, method: &str) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.starts_with(method)).count()
    }
}

async fn pass(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    to: u16,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut first = vec![0; 64 * 1024];
    let length = stream.read(&mut first).await?;
    let line = String::from_utf8_lossy(&first[..length]);
    let line = line.lines().next().unwrap_or_default().to_owned();
    seen.lock().unwrap().push(line);
    let mut keystone = TcpStream::connect(("127.0.0.1", to)).await?;
    keystone.write_all(&first[..length]).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut keystone).await?;
    Ok(())
}
