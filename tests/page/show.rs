//! Serves `volattach web` over canned daemons until standard input ends: for browsers, `make web-test`.
//!
//! Prints a line `NAME URL` each for a host that is empty, one with a thousand attachments, one where everything is wrong, one that
//! is away, and all of them on one page, by TLS. A line `lose` on standard input has the full host lose a disk.

#![cfg(test)]

mod canned;
#[path = "../pki/mod.rs"]
mod pki;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::process::{Child, Command};
use tonic::transport::Server;
use volattach::api::v1::State;
use volattach::api::v1::volume_attach_server::VolumeAttachServer;
use volattach::api::{incoming, incoming_tls};
use volattach::auth::TlsServer;
use volattach::config::ListenTls;

use canned::Canned;
use pki::{Authority, write_pem};

/// Starts the page, and prints where it is.
async fn page(name: &str, arguments: &[String]) -> Child {
    let mut process = Command::new(env!("CARGO_BIN_EXE_volattach"))
        .args(["web", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    println!("{name} {}", line.rsplit(' ').next().unwrap());
    process
}

fn serve_on_socket(canned: &Canned, socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let serving = Server::builder()
        .add_service(VolumeAttachServer::new(canned.clone()))
        .serve_with_incoming(incoming(listener));
    tokio::spawn(serving);
}

/// Gives its port.
async fn serve_by_tls(canned: &Canned, tls: &Arc<TlsServer>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = Server::builder()
        .add_service(VolumeAttachServer::new(canned.clone()))
        .serve_with_incoming(incoming_tls(listener, tls.clone()));
    tokio::spawn(serving);
    port
}

/// Certificates of a daemon and a caller, for both ends.
fn certificates(dir: &Path) -> (Arc<TlsServer>, Vec<String>) {
    let authority = Authority::new();
    let file = |name: &str| dir.join(name);
    authority.write(file("ca.pem"));
    for (name, of) in [("daemon", "localhost"), ("caller", "ctl.example.org")] {
        let issued = authority.issue(of);
        write_pem(&file(&format!("{name}.pem")), "CERTIFICATE", &issued.der);
        write_pem(&file(&format!("{name}.key")), "PRIVATE KEY", &issued.key);
    }
    let tls = TlsServer::new(&ListenTls {
        addresses: vec![],
        certificate: file("daemon.pem"),
        key: file("daemon.key"),
        client_ca: file("ca.pem"),
    });
    let caller = [
        ("--ca", "ca.pem"),
        ("--certificate", "caller.pem"),
        ("--key", "caller.key"),
    ];
    let caller = caller
        .iter()
        .flat_map(|(option, name)| [(*option).to_owned(), file(name).display().to_string()]);
    (Arc::new(tls.unwrap()), caller.collect())
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, mut rack) = certificates(dir.path());
    let hosts = [
        ("broken", "compute-07", canned::broken()),
        ("full", "compute-08", canned::full()),
        ("empty", "compute-09", canned::empty()),
    ];
    let mut pages = Vec::new();
    for (name, on_rack, canned) in &hosts {
        let socket = dir.path().join(name);
        serve_on_socket(canned, &socket);
        let place = ["--socket".to_owned(), socket.display().to_string()];
        pages.push(page(name, &place).await);
        let port = serve_by_tls(canned, &tls).await;
        rack.extend([
            "--host".to_owned(),
            format!("{on_rack}=https://localhost:{port}"),
        ]);
    }
    let absent = dir.path().join("absent").display().to_string();
    pages.push(page("away", &["--socket".to_owned(), absent]).await);
    rack.extend([
        "--host".to_owned(),
        "compute-10=https://localhost:1".to_owned(),
    ]);
    pages.push(page("rack", &rack).await);
    println!("ready");
    // Blocks this thread alone: the daemons have others.
    for line in std::io::stdin().lines() {
        if line.unwrap() == "lose" {
            let lost = canned::failing(
                500,
                State::Lost,
                "DISK_LOST",
                "the domain has the disk no more",
            );
            let _ = hosts[1].2.changes.send(lost);
        }
    }
}
