//! Asking Keystone, with a token of the agent's own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cache::Flights;
use super::error::{KeystoneError, Trouble};
use super::login;
use super::token::{TokenInfo, says_not_found};
use crate::auth::http::{Answer, HttpClient};
use crate::config;
use crate::model::{Secret, chain};
use crate::sys::Stamp;

const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");
const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// Questions about tokens at a time. Each is a socket, and whoever reaches the daemon can bring any number of bad tokens.
const QUESTIONS: usize = 64;

/// How long a login that failed is not tried again, where that helps nobody.
const RETRY: Duration = Duration::from_secs(10);

/// What Keystone says of a token.
pub(super) enum Verdict {
    /// Whose it is.
    Good(Box<TokenInfo>),
    /// It does not know it, or no longer.
    Bad,
}

/// A token of the agent's own.
#[derive(Clone)]
struct OwnToken {
    token: Secret,
    /// When to get the next one: before its end.
    renew: Instant,
    /// Its end.
    until: Instant,
}

/// A login that Keystone refused.
struct Refusal {
    at: Instant,
    /// The password's file then.
    password: Option<Stamp>,
}

/// What the agent has to show.
#[derive(Default)]
struct Own {
    token: Option<OwnToken>,
    /// The last login's, where it was refused.
    refusal: Option<Refusal>,
}

impl Own {
    /// The token, unless it is time to get the next one.
    fn fresh(&self) -> Option<OwnToken> {
        let fresh = |own: &&OwnToken| Instant::now() < own.renew;
        self.token.as_ref().filter(fresh).cloned()
    }

    /// Whether a login would be refused again: a wrong password that is tried with each call locks the user out.
    fn is_refused(&self, password: Option<&Stamp>) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| {
            refusal.at.elapsed() < RETRY && refusal.password.as_ref() == password
        })
    }
}

type Login = Result<OwnToken, KeystoneError>;

/// Asks Keystone.
pub(super) struct Client {
    http: HttpClient,
    settings: config::Keystone,
    /// Which address answered last: the one to begin with.
    good: AtomicUsize,
    /// Shared with the client that takes this one's place.
    own: Arc<Mutex<Own>>,
    logins: Flights<Login>,
    questions: Semaphore,
}

impl Client {
    pub(super) fn new(settings: &config::Keystone) -> Result<Self, super::SetupError> {
        for url in settings.urls.iter().filter(|url| !url.tls) {
            if !url.is_loopback() {
                tracing::warn!(
                    %url,
                    "Keystone is asked without TLS: whoever is on the way reads the tokens, and says who callers are; use https://"
                );
            }
        }
        login::password(&settings.password_file)?;
        Ok(Self {
            http: HttpClient::new(settings.ca.as_deref(), settings.timeout)?,
            settings: settings.clone(),
            good: AtomicUsize::new(0),
            own: Arc::default(),
            logins: Flights::default(),
            questions: Semaphore::new(QUESTIONS),
        })
    }

    /// Whose token it is; `allow_expired`: also within Keystone's window after its end.
    pub(super) async fn validate(
        self: &Arc<Self>,
        token: &Secret,
        allow_expired: bool,
    ) -> Result<Verdict, KeystoneError> {
        let target = match allow_expired {
            true => "/v3/auth/tokens?nocatalog&allow_expired=1",
            false => "/v3/auth/tokens?nocatalog",
        };
        let mut renewed = false;
        loop {
            // Before its turn: while no login succeeds, all who ask are told so.
            let own = self.own_token().await?;
            let _turn = self.turn().await?;
            let request = |builder: hyper::http::request::Builder| {
                let mut request = builder.method("GET").uri(target).body(Full::default())?;
                let headers = request.headers_mut();
                headers.insert(AUTH_TOKEN, sensitive(&own.token)?);
                headers.insert(SUBJECT_TOKEN, sensitive(token)?);
                Ok(request)
            };
            let outcome = self.ask(request, Outcome::of_validation).await?;
            match outcome {
                Outcome::Verdict(verdict) => return Ok(verdict),
                // It may have been revoked, or Keystone have changed its keys.
                Outcome::OwnRefused if !renewed => {
                    renewed = true;
                    self.forget(&own);
                }
                Outcome::OwnRefused => return Err(self.own_refused()),
                Outcome::OwnForbidden => {
                    return Err(KeystoneError::OwnForbidden {
                        user: self.settings.user.clone(),
                    });
                }
            }
        }
    }

    /// A turn to ask about a token, which is had for no longer than one address may take to answer.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, KeystoneError> {
        let within = self.settings.timeout;
        match tokio::time::timeout(within, self.questions.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(KeystoneError::TooManyQuestions { within }),
        }
    }

    /// The agent's own token, or a new one where it has none or its end is near.
    async fn own_token(self: &Arc<Self>) -> Login {
        if let Some(token) = self.own().fresh() {
            return Ok(token);
        }
        let renew = || {
            let client = self.clone();
            async move { client.renew().await }.boxed()
        };
        self.logins.join("", renew).await
    }

    /// Gets a new token of the agent's own. Where that fails, the one before serves to its end.
    async fn renew(&self) -> Login {
        // Before the password is read, so that a change of it is not missed.
        let password = Stamp::of(&self.settings.password_file);
        {
            let own = self.own();
            // The login before this one may just have ended.
            if let Some(token) = own.fresh() {
                return Ok(token);
            }
            if own.is_refused(password.as_ref()) {
                return Err(self.own_refused());
            }
        }
        let login = self.login().await;
        let now = Instant::now();
        let mut own = self.own();
        let error = match login {
            Ok(token) => {
                own.token = Some(token.clone());
                own.refusal = None;
                return Ok(token);
            }
            Err(error) => error,
        };
        if matches!(error, KeystoneError::OwnRefused { .. }) {
            own.refusal = Some(Refusal { at: now, password });
        }
        let Some(token) = own.token.as_mut().filter(|token| now < token.until) else {
            return Err(error);
        };
        tracing::warn!(
            error = chain(&error),
            "cannot get a new token of the agent's own: the one before serves to its end"
        );
        // No call waits for the next attempt until then.
        token.renew = (now + RETRY).min(token.until);
        Ok(token.clone())
    }

    /// Shares the other one's token and the guard of its password, from now on.
    pub(super) fn remember(&mut self, other: &Self) {
        self.own = Arc::clone(&other.own);
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a token of the agent's own, unless another has taken its place.
    fn forget(&self, refused: &OwnToken) {
        let held = &mut self.own().token;
        if held.as_ref().is_some_and(|own| own.token == refused.token) {
            *held = None;
        }
    }

    fn own_refused(&self) -> KeystoneError {
        KeystoneError::OwnRefused {
            user: self.settings.user.clone(),
        }
    }

    async fn login(&self) -> Login {
        let settings = &self.settings;
        let password = login::password_now(&settings.password_file).await?;
        let body = login::body(settings, &password)?;
        let asked = Instant::now();
        let request = |builder: hyper::http::request::Builder| {
            builder
                .method("POST")
                .uri("/v3/auth/tokens?nocatalog")
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))
        };
        let read = |answer: &Answer| match answer.status {
            StatusCode::CREATED => {
                let token = answer
                    .headers
                    .get(SUBJECT_TOKEN)
                    .and_then(|value| value.to_str().ok())
                    .ok_or_else(|| Trouble::Malformed("it has no token".into()))?;
                let info = TokenInfo::parse(&answer.body).map_err(Trouble::Malformed)?;
                let lifetime = info
                    .expires_at
                    .duration_since(SystemTime::now())
                    .unwrap_or_default();
                // Well before its end, so that it outlives the question that it is for.
                let early = (lifetime / 5).min(Duration::from_secs(300));
                Ok(Some(OwnToken {
                    token: Secret::from(token),
                    renew: asked + (lifetime - early),
                    until: asked + lifetime,
                }))
            }
            StatusCode::UNAUTHORIZED => Ok(None),
            other => Err(Trouble::Status(other.as_u16())),
        };
        let own = self.ask(request, read).await?;
        own.ok_or_else(|| self.own_refused())
    }

    /// Asks one address after the other until one gives an answer that `read` understands.
    async fn ask<T>(
        &self,
        request: impl Fn(
            hyper::http::request::Builder,
        ) -> Result<Request<Full<Bytes>>, hyper::http::Error>,
        read: impl Fn(&Answer) -> Result<T, Trouble>,
    ) -> Result<T, KeystoneError> {
        let urls = &self.settings.urls;
        let first = self.good.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        for number in (0..urls.len()).map(|offset| (first + offset) % urls.len()) {
            let url = &urls[number];
            let builder = Request::builder()
                .header(ACCEPT, "application/json")
                .header(USER_AGENT, concat!("volattach/", env!("CARGO_PKG_VERSION")));
            let trouble = match request(builder) {
                Ok(request) => match self.http.send(url, request).await {
                    Ok(answer) => match read(&answer) {
                        Ok(understood) => {
                            self.good.store(number, Ordering::Relaxed);
                            return Ok(understood);
                        }
                        Err(trouble) => trouble,
                    },
                    Err(error) => error.into(),
                },
                Err(error) => Trouble::Malformed(error.to_string()),
            };
            tracing::warn!(%url, error = chain(&trouble), "cannot ask this Keystone");
            tried.push((url.clone(), Arc::new(trouble)));
        }
        Err(KeystoneError::NoAnswer(tried))
    }
}

/// What the answer to a question about a token comes to.
enum Outcome {
    Verdict(Verdict),
    /// The agent's own token is not good.
    OwnRefused,
    /// The agent's own token is good, and not for this.
    OwnForbidden,
}

impl Outcome {
    fn of_validation(answer: &Answer) -> Result<Self, Trouble> {
        match answer.status {
            StatusCode::OK => {
                let info = TokenInfo::parse(&answer.body).map_err(Trouble::Malformed)?;
                Ok(Self::Verdict(Verdict::Good(Box::new(info))))
            }
            StatusCode::NOT_FOUND if says_not_found(&answer.body) => {
                Ok(Self::Verdict(Verdict::Bad))
            }
            StatusCode::UNAUTHORIZED => Ok(Self::OwnRefused),
            StatusCode::FORBIDDEN => Ok(Self::OwnForbidden),
            other => Err(Trouble::Status(other.as_u16())),
        }
    }
}

/// A token as a header's value, which nothing shows.
fn sensitive(token: &Secret) -> Result<HeaderValue, hyper::http::Error> {
    let mut value = HeaderValue::from_str(token.expose())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
