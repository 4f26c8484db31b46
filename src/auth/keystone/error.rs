//! Why Keystone cannot be asked.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::http::HttpError;
use crate::config::HttpUrl;
use crate::model::chain;

/// Why Keystone cannot be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeystoneError {
    /// No address gives an answer that can be understood.
    #[error("no Keystone answers{}", tried(.0))]
    NoAnswer(Vec<(HttpUrl, Arc<Trouble>)>),
    /// It does not let the agent in.
    #[error(
        "Keystone refuses the agent's own user {user:?} and its password: correct [keystone] and its password_file"
    )]
    OwnRefused {
        /// The agent's user.
        user: String,
    },
    /// The agent may not ask about tokens.
    #[error(
        "Keystone does not let the agent's own user {user:?} ask about tokens: give it the role \"service\" in its project"
    )]
    OwnForbidden {
        /// The agent's user.
        user: String,
    },
    /// Others' questions are in the way.
    #[error(
        "too many questions to Keystone are under way, and this one had no turn within {} ms: try again",
        .within.as_millis()
    )]
    TooManyQuestions {
        /// How long it waited.
        within: Duration,
    },
    /// The agent's own password cannot be read.
    #[error("cannot use the password file {}", .path.display())]
    Password {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
}

/// What is wrong with one of Keystone's addresses.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It does not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It answers with a status that Keystone has no business to.
    #[error("it answers with the status {0}")]
    Status(u16),
    /// What it answers is not what Keystone writes.
    #[error("its answer makes no sense: {0}")]
    Malformed(String),
}

fn tried(tried: &[(HttpUrl, Arc<Trouble>)]) -> String {
    tried
        .iter()
        .map(|(url, trouble)| format!("; {url}: {}", chain(trouble)))
        .collect()
}
