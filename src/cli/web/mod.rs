//! `web`: a read-only page of attachments, servers and findings, of one daemon or of many.
//!
//! ```text
//!   daemons ──watch, diagnose──▶ follow ──▶ board ──▶ page ──▶ serve ──▶ browsers on loopback
//! ```
//!
//! Invariants: the page is made of what the board holds, so no daemon keeps a browser waiting for longer than [`FIRST`]; text
//! gets into the page through [`html::Html`] alone, which escapes it; nothing here changes anything; the page loads nothing
//! from elsewhere, and its policy forbids that it does. The daemon has no part of this.

mod board;
mod follow;
mod html;
mod page;
mod serve;
mod servers;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use super::args::{Format, Global, WebArgs};
use super::client::Place;
use super::failure::Failure;
use super::output;
use crate::auth::ClientFiles;
use crate::model::chain;
use board::Board;

/// How long a daemon has for an answer at most: somebody looks at the page.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a request waits for the first answers of daemons that were just asked.
const FIRST: Duration = Duration::from_secs(2);

/// Serves the page until this process is ended.
pub(super) async fn run(mut global: Global, args: WebArgs) -> Result<(), Failure> {
    global.timeout = global.timeout.min(PATIENCE);
    let cannot = |error: std::io::Error| {
        let address = args.listen;
        Failure::local(format!(
            "cannot listen on {address}: {error}; another address may be given by --listen"
        ))
    };
    let hosts = hosts(&global, &args)?;
    let listener = TcpListener::bind(args.listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    output::to_stdout(&match global.output {
        Format::Table => format!("the page is at http://{address}/"),
        Format::Json => json!({ "url": format!("http://{address}/") }).to_string(),
    })?;
    let global = Arc::new(global);
    let board = Arc::new(Board::new(hosts));
    for host in 0..board.hosts().len() {
        tokio::spawn(follow::run(board.clone(), host, global.clone()));
    }
    serve::run(listener, board).await
}

/// The daemons, by name.
fn hosts(global: &Global, args: &WebArgs) -> Result<Vec<(String, Place)>, Failure> {
    let (Some(ca), Some(certificate), Some(key)) = (&args.ca, &args.certificate, &args.key) else {
        let name = sysinfo::System::host_name().unwrap_or_else(|_| "this host".to_owned());
        return Ok(vec![(name, Place::Socket(global.socket.clone()))]);
    };
    let files = ClientFiles {
        ca: ca.clone(),
        certificate: certificate.clone(),
        key: key.clone(),
    };
    // Here for the operator's terminal; later on the page has it.
    files
        .connector()
        .map_err(|error| Failure::local(chain(&error).to_string()))?;
    let hosts = args.host.iter().map(|(name, url)| {
        let place = Place::Tls {
            url: url.clone(),
            files: files.clone(),
        };
        (name.clone(), place)
    });
    Ok(hosts.collect())
}
