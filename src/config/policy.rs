//! `[policy]`

use std::path::PathBuf;
use std::time::Duration;

use super::error::Problem;
use super::tree::Section;
use super::value;

/// How long a server that a check asks may take, unless the configuration says otherwise.
pub const REMOTE_TIMEOUT: Duration = Duration::from_secs(5);

/// `[policy]`: who may call what; docs/policy.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The policy file; default `/etc/volattach/policy.yaml`. Without it the rules in code hold.
    pub file: PathBuf,
    /// The directory of files that are read after it; default `/etc/volattach/policy.d`.
    pub directory: PathBuf,
    /// The roles that the deployment has, besides those of every Keystone: rules that name others are warned of; default
    /// none.
    pub roles: Vec<String>,
    /// How long a server that an `http:` or `https:` check asks may take to answer; default 5 s.
    pub remote_timeout: Duration,
    /// The authorities that the certificates of `https:` servers must come from, PEM; by default no such server is asked.
    pub remote_ca: Option<PathBuf>,
}

pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Policy {
    let file = section.read(problems, "file", value::path);
    let directory = section.read(problems, "directory", value::path);
    let roles = section.read(problems, "roles", value::texts("a list of names of roles"));
    let remote_timeout = section.read(problems, "remote_timeout", value::duration);
    let remote_ca = section.read(problems, "remote_ca", value::path);
    section.finish(problems);
    Policy {
        file: file.unwrap_or_else(|| "/etc/volattach/policy.yaml".into()),
        directory: directory.unwrap_or_else(|| "/etc/volattach/policy.d".into()),
        roles: roles.unwrap_or_default(),
        remote_timeout: remote_timeout.unwrap_or(REMOTE_TIMEOUT),
        remote_ca,
    }
}
