//! Requests to Keystone and Cinder: what was tried goes into the error, tokens and passwords never do.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde::de::DeserializeOwned;

use super::error::{CinderError, message};
use crate::auth::{Answer, HttpClient};
use crate::config::HttpUrl;
use crate::model::Secret;

/// A request, and the words for it.
pub(super) struct Ask<'a> {
    /// What is tried, as in "cannot list the attachments".
    pub(super) tried: &'a str,
    pub(super) method: Method,
    /// Beneath the server's address.
    pub(super) target: &'a str,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An answer, and the words for its request.
pub(super) struct Answered {
    tried: String,
    request: String,
    answer: Answer,
}

/// Sends a request, and takes an answer of success for one.
pub(super) async fn send(
    http: &HttpClient,
    server: &HttpUrl,
    ask: Ask<'_>,
) -> Result<Answered, CinderError> {
    let tried = ask.tried.to_owned();
    // Without its query, which is long and says nothing that `tried` does not.
    let path = ask.target.split('?').next().unwrap_or_default();
    let words = format!("{} {}{path}", ask.method, server.path);
    let mut request = Request::new(Full::new(ask.body));
    *request.method_mut() = ask.method;
    *request.headers_mut() = ask.headers;
    let malformed = |why: String| CinderError::Malformed {
        tried: tried.clone(),
        request: words.clone(),
        why,
    };
    *request.uri_mut() = (ask.target.parse()).map_err(|_| malformed("it has no target".into()))?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let agent = HeaderValue::from_static(concat!("volattach/", env!("CARGO_PKG_VERSION")));
    headers.insert(USER_AGENT, agent);
    let answer = http.send(server, request).await;
    let answer = answer.map_err(|source| CinderError::NoAnswer {
        tried: tried.clone(),
        server: server.to_string(),
        request: words.clone(),
        source,
    })?;
    if !answer.status.is_success() && answer.status != StatusCode::MULTIPLE_CHOICES {
        let request_id = answer.headers.get("x-openstack-request-id");
        return Err(CinderError::Refused {
            tried,
            request: words,
            status: answer.status,
            message: message(&answer.body),
            request_id: (request_id.and_then(|id| id.to_str().ok()))
                .unwrap_or_default()
                .to_owned(),
        });
    }
    Ok(Answered {
        tried,
        request: words,
        answer,
    })
}

impl Answered {
    /// Reads the body. What is wrong with it is told without its text, which may hold a password.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, CinderError> {
        serde_json::from_slice(&self.answer.body).map_err(|error| {
            self.malformed(format!(
                "it is not what OpenStack's API has there (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }

    /// A header's text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let value = self.answer.headers.get(name)?;
        value.to_str().ok()
    }

    pub(super) fn malformed(&self, why: impl Into<String>) -> CinderError {
        CinderError::Malformed {
            tried: self.tried.clone(),
            request: self.request.clone(),
            why: why.into(),
        }
    }
}

/// A token as a header's value, which nothing shows.
pub(super) fn token_header(
    headers: &mut HeaderMap,
    name: &'static str,
    token: &Secret,
) -> Result<(), CinderError> {
    let mut value = HeaderValue::from_str(token.expose()).map_err(|_| {
        CinderError::Credentials("the token has characters that no token has".to_owned())
    })?;
    value.set_sensitive(true);
    headers.insert(HeaderName::from_static(name), value);
    Ok(())
}
