//! Asks the servers of a policy's `http:` and `https:` checks.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use crate::auth::{HttpClient, TlsError};
use crate::config::HttpUrl;
use crate::model::chain;
use crate::policy::{Fault, Question, Remote};

/// The answer that allows; any other denies.
const ALLOWED: &[u8] = b"True";

/// Asks one server after the other, as rules come to them.
pub(super) struct PolicyServers {
    http: HttpClient,
}

impl fmt::Debug for PolicyServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyServers").finish_non_exhaustive()
    }
}

impl PolicyServers {
    /// Some that have so long for an answer; `ca`: whose certificates they have by TLS.
    ///
    /// # Errors
    /// Where the authorities cannot be read.
    pub(super) fn new(ca: Option<&Path>, timeout: Duration) -> Result<Self, TlsError> {
        let http = HttpClient::new(ca, timeout)?;
        Ok(Self { http })
    }

    async fn send(&self, question: &Question) -> Result<bool, String> {
        let server = HttpUrl::parse(&question.server)
            .filter(|server| server.path.is_empty())
            .ok_or("it is no address of a server")?;
        let request = Request::post(&question.path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(question.form.clone()))
            .map_err(|error| format!("its path cannot be asked for: {error}"))?;
        let answer = self.http.send(&server, request).await;
        let answer = answer.map_err(|error| chain(&error))?;
        match answer.status {
            StatusCode::OK => Ok(answer.body == ALLOWED),
            status => Err(format!("it answers with the status {}", status.as_u16())),
        }
    }
}

#[async_trait]
impl Remote for PolicyServers {
    async fn ask(&self, question: &Question) -> Result<bool, Fault> {
        let answer = self.send(question).await;
        answer.map_err(|why| Fault(format!("{} cannot be asked: {why}", question.server)))
    }
}
