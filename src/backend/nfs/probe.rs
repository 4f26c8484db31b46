//! Asks a server for a sign of life, and which version it speaks, from user space, before the kernel is asked to talk to
//! it.
//!
//! One COMPOUND without operations tells whether the server has a minor version of NFS 4, NULL whether it has NFS 3;
//! they are asked from the newest allowed down.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rpc::{self, Answer, Call};
use super::version::Version;
use crate::backend::mount::probe::{Outcome, closed, connect, in_words};

/// The portmapper's port (RFC 1833).
const PORTMAPPER_PORT: u16 = 111;

/// The version of the mount protocol that belongs to NFS 3 (RFC 1813, 5).
const MOUNT_VERSION: u32 = 3;

/// What a server offers to be mounted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) version: Version,
    /// Where its mountd listens: of version 3 alone.
    pub(super) mount_port: Option<u16>,
}

impl std::fmt::Display for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.version.fmt(f)
    }
}

/// Asks the server at an address for one of these versions, newest first. `mount_port`: where its mountd listens, if that
/// is known.
///
/// The newest that it has comes first; then older minor versions, for a kernel that has not that one.
pub(super) async fn probe(
    address: SocketAddr,
    versions: &[Version],
    mount_port: Option<u16>,
    within: Duration,
) -> Outcome<Vec<Offer>> {
    match timeout(within, ask(address, versions, mount_port)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) if closed(&error) => Outcome::Refused(
            "it closed the connection without an answer: is it an NFS server, and does it let this \
             host in?"
                .into(),
        ),
        Ok(Err(error)) => Outcome::Unreachable(in_words(&error)),
        Err(_) => Outcome::Silent,
    }
}

async fn ask(
    address: SocketAddr,
    versions: &[Version],
    mount_port: Option<u16>,
) -> io::Result<Outcome<Vec<Offer>>> {
    let mut server = Server::connect(address).await?;
    let mut has = None;
    for (index, version) in versions.iter().enumerate() {
        let answer = match version {
            Version::V4(minor) => server.compound(*minor).await?,
            Version::V3 => server.call(&Call::null(rpc::NFS, 3)).await?,
        };
        match answer {
            Answer::Done(Some(rpc::MINOR_VERSION_MISMATCH)) => {}
            Answer::OtherVersions(low, high) => has = Some((low, high)),
            Answer::NotRpc(what) => return Ok(Outcome::Refused(what.to_owned())),
            // A server that wants other credentials speaks it too.
            Answer::Done(_) | Answer::Denied if *version == Version::V3 => {
                return mountd(address, mount_port).await;
            }
            Answer::Done(_) | Answer::Denied => {
                let minors = versions[index..].iter().filter(|v| **v != Version::V3);
                let offers = minors.map(|version| Offer {
                    version: *version,
                    mount_port: None,
                });
                return Ok(Outcome::Speaks(offers.collect()));
            }
        }
    }
    Ok(Outcome::Refused(match has {
        Some((low, high)) if low == high => format!("it has NFS version {low} alone"),
        Some((low, high)) => format!("it has NFS versions {low} to {high}"),
        None => "it has none of these minor versions".to_owned(),
    }))
}

/// Looks for the mountd that NFS 3 needs, and asks it for a sign of life too.
async fn mountd(address: SocketAddr, port: Option<u16>) -> io::Result<Outcome<Vec<Offer>>> {
    let missing = |why: &str| {
        Ok(Outcome::Refused(format!(
            "it has NFS 3, but no mountd, which a mount by that version needs: {why}"
        )))
    };
    let port = match port {
        Some(port) => port,
        None => {
            let portmapper = SocketAddr::new(address.ip(), PORTMAPPER_PORT);
            let mut portmapper = match Server::connect(portmapper).await {
                Ok(portmapper) => portmapper,
                Err(error) => {
                    return missing(&format!(
                        "its portmapper (port 111) does not answer ({}); name the port as mountport=",
                        in_words(&error)
                    ));
                }
            };
            let call = Call {
                program: rpc::PORTMAPPER,
                version: 2,
                procedure: 3,
                arguments: &rpc::get_port(rpc::MOUNTD, MOUNT_VERSION),
            };
            match portmapper.call(&call).await? {
                Answer::Done(Some(port @ 1..=65_535)) => port as u16,
                _ => return missing("its portmapper knows of none; name the port as mountport="),
            }
        }
    };
    let mut mountd = match Server::connect(SocketAddr::new(address.ip(), port)).await {
        Ok(mountd) => mountd,
        Err(error) => return missing(&format!("port {port}: {}", in_words(&error))),
    };
    match mountd.call(&Call::null(rpc::MOUNTD, MOUNT_VERSION)).await? {
        Answer::Done(_) | Answer::Denied => Ok(Outcome::Speaks(vec![Offer {
            version: Version::V3,
            mount_port: Some(port),
        }])),
        Answer::OtherVersions(..) | Answer::NotRpc(_) => {
            missing(&format!("port {port} is none of mountd's version 3"))
        }
    }
}

/// A connection to a program of the server's.
struct Server {
    stream: TcpStream,
    /// The transaction id of the latest call.
    xid: u32,
}

impl Server {
    async fn connect(address: SocketAddr) -> io::Result<Self> {
        // Whatever: each connection has its own.
        let (xid, _) = uuid::Uuid::new_v4().as_u64_pair();
        Ok(Self {
            stream: connect(address, None).await?,
            xid: xid as u32,
        })
    }

    async fn compound(&mut self, minor: u32) -> io::Result<Answer> {
        self.call(&Call {
            program: rpc::NFS,
            version: 4,
            procedure: 1,
            arguments: &rpc::empty_compound(minor),
        })
        .await
    }

    /// Calls, and reads the answer.
    async fn call(&mut self, call: &Call<'_>) -> io::Result<Answer> {
        self.xid = self.xid.wrapping_add(1);
        self.stream.write_all(&rpc::request(self.xid, call)).await?;
        let mut mark = [0; 4];
        self.stream.read_exact(&mut mark).await?;
        let length = match rpc::record_length(mark) {
            Ok(length) => length,
            Err(answer) => return Ok(answer),
        };
        let mut record = vec![0; length];
        self.stream.read_exact(&mut record).await?;
        Ok(rpc::answer(&record, self.xid))
    }
}

#[cfg(test)]
mod tests;
