//! Storage servers, as attachments and findings show them.

use std::collections::{BTreeMap, BTreeSet};

use super::board::Known;
use crate::cli::output::{Health, health};

/// A storage server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// The protocols of its volumes.
    pub(super) protocols: BTreeSet<String>,
    /// How many attachments are of its volumes.
    pub(super) attachments: u32,
    /// How many of these have an error.
    pub(super) failing: u32,
    /// How many of these miss paths.
    pub(super) missing_paths: u32,
    /// A finding says that it does not answer.
    pub(super) silent: bool,
}

impl Server {
    /// Its health in words, the worst first.
    pub(super) fn health(&self) -> &'static str {
        match self {
            Self { silent: true, .. } => "does not answer",
            Self { failing: 1.., .. } => "attachments fail",
            Self {
                missing_paths: 1.., ..
            } => "paths are missing",
            _ => "nothing is wrong",
        }
    }

    /// Whether anything is wrong with it.
    pub(super) fn is_sound(&self) -> bool {
        !self.silent && self.failing == 0 && self.missing_paths == 0
    }

    fn order(&self) -> (bool, bool, bool) {
        (!self.silent, self.failing == 0, self.missing_paths == 0)
    }
}

/// The servers by name, what is wrong first.
pub(super) fn servers(known: &Known) -> Vec<(String, Server)> {
    let mut found: BTreeMap<&str, Server> = BTreeMap::new();
    for attachment in known.attachments.iter().flat_map(BTreeMap::values) {
        for name in &attachment.servers {
            let server = found.entry(name).or_default();
            server.protocols.insert(attachment.protocol.clone());
            server.attachments += 1;
            match health(attachment) {
                Health::Failing => server.failing += 1,
                Health::MissingPaths => server.missing_paths += 1,
                Health::Sound => {}
            }
        }
    }
    let findings = known.diagnosis.iter().flat_map(|(it, _)| &it.findings);
    for finding in findings.filter(|finding| !finding.server.is_empty()) {
        found.entry(&finding.server).or_default().silent = true;
    }
    let mut servers: Vec<_> = found
        .into_iter()
        .map(|(name, server)| (name.to_owned(), server))
        .collect();
    servers.sort_by_key(|(_, server)| server.order());
    servers
}
