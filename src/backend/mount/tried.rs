//! The addresses of a server that did not do.

use std::net::SocketAddr;
use std::time::Duration;

use super::probe::Outcome;
use crate::backend::{Attempt, BackendError};

/// The addresses that did not do, and the most telling kind of why.
#[derive(Default)]
pub(super) struct Tried {
    attempts: Vec<Attempt>,
    refused: Option<String>,
    silent: bool,
}

impl Tried {
    /// What came of asking, within a deadline.
    pub(super) fn add<T>(&mut self, address: SocketAddr, outcome: Outcome<T>, within: Duration) {
        match outcome {
            Outcome::Speaks(_) => {}
            Outcome::Unreachable(why) => self.unreachable(address, why),
            Outcome::Silent => {
                self.silent(
                    address,
                    format!("no answer within {} s", within.as_secs_f64()),
                );
            }
            Outcome::Refused(why) => {
                self.refused = Some(format!("at {address}, {why}"));
                self.unreachable(address, why);
            }
        }
    }

    pub(super) fn unreachable(&mut self, address: SocketAddr, outcome: String) {
        self.note(address, outcome, false);
    }

    pub(super) fn silent(&mut self, address: SocketAddr, outcome: String) {
        self.silent = true;
        self.note(address, outcome, true);
    }

    /// The kernel's connection broke.
    pub(super) fn broke(&mut self, address: SocketAddr, outcome: String) {
        self.silent = true;
        self.note(address, outcome, false);
    }

    fn note(&mut self, address: SocketAddr, outcome: String, silent: bool) {
        self.attempts.push(Attempt {
            address,
            outcome,
            silent,
        });
    }

    /// Why the server cannot be used, with the versions that it was asked for.
    pub(super) fn into_error(self, host: &str, offered: String) -> BackendError {
        let (host, attempts) = (host.to_owned(), self.attempts);
        match self.refused {
            Some(answer) => BackendError::VersionRefused {
                host,
                offered,
                answer,
            },
            None if self.silent => BackendError::Silent { host, attempts },
            None => BackendError::Unreachable { host, attempts },
        }
    }
}
