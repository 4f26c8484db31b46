//! Keystone: who bears a token, by the service that gave it out.
//!
//! ```text
//!   user's token alone          ──▶ the user's half
//!   user's and service's tokens ──▶ both halves, apart; one of them bad: nobody
//!   service's token alone       ──▶ nobody; with the audit role: the service's half
//! ```
//!
//! Invariants: Keystone's word is taken for as long as the token lasts and `cache_time` allows, the shorter of the two,
//! counted from before it was asked; an expired token of a user's counts only beside a good one of a service's, and only
//! within the window; what Keystone says and cannot be understood lets nobody in.

mod cache;
mod client;
mod error;
mod login;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cache::{Cache, Flights};
use client::{Client, Verdict};
use futures::FutureExt;
use token::TokenInfo;

pub use error::{KeystoneError, Trouble};

use super::AuthError;
use super::tls::TlsError;
use crate::config;
use crate::model::{Actor, HostKey, Identity, Secret, Via};

/// The longest token, in bytes: Fernet's have some hundreds, and a request's head has room for this.
const MAX_TOKEN: usize = 8 * 1024;

const USER: &str = "x-auth-token";
const SERVICE: &str = "x-service-token";

/// One half of a caller, and its end.
#[derive(Debug, Clone)]
struct Half {
    identity: Arc<Identity>,
    until: SystemTime,
}

/// A half; `None`: the token is bad.
type Found = Result<Option<Half>, KeystoneError>;

/// Tells who bears a token.
pub struct Keystone {
    client: Arc<Client>,
    cache: Arc<Cache<Half>>,
    flights: Flights<Found>,
    service_token_roles: Vec<String>,
    audit_role: Option<String>,
    allow_expired_window: Duration,
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystone").finish_non_exhaustive()
    }
}

/// Why Keystone cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its authorities.
    #[error(transparent)]
    Authorities(#[from] TlsError),
    /// The agent's own password.
    #[error(transparent)]
    Password(#[from] KeystoneError),
    /// There are no random numbers.
    #[error("cannot get random numbers from the kernel")]
    Random,
}

impl Keystone {
    /// The one of the settings, which is not asked yet.
    ///
    /// # Errors
    /// Where its authorities or the agent's own password cannot be read.
    pub fn new(settings: &config::Keystone) -> Result<Self, SetupError> {
        let mut key = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut key).map_err(|_| SetupError::Random)?;
        Ok(Self {
            client: Arc::new(Client::new(settings)?),
            cache: Arc::new(Cache::new(HostKey::new(key), settings.cache_time)),
            flights: Flights::default(),
            service_token_roles: settings.service_token_roles.clone(),
            audit_role: settings.audit_role.clone(),
            allow_expired_window: settings.allow_expired_window,
        })
    }

    /// Shares what the other one knows of tokens, the agent's own included, from now on. To be called before the first question.
    pub(super) fn remember(&mut self, other: &Self) {
        self.cache = Arc::clone(&other.cache);
        if let Some(client) = Arc::get_mut(&mut self.client) {
            client.remember(&other.client);
        }
    }

    /// Who brings these tokens: every value of each header.
    pub(super) async fn authenticate(
        &self,
        user: &[Secret],
        service: &[Secret],
    ) -> Result<Actor, AuthError> {
        let (user, service) = (well_formed(user, USER)?, well_formed(service, SERVICE)?);
        let service = match service {
            Some(token) => Some(self.service(token, user.is_none()).await?),
            None => None,
        };
        let user = match user {
            Some(token) => Some(self.half(token, USER, service.is_some()).await?),
            None => None,
        };
        let ends = [&user, &service].map(|half| half.as_ref().map(|half| half.until));
        let identity = |half: Half| Arc::unwrap_or_clone(half.identity);
        Ok(Actor {
            via: Via::Keystone,
            until: ends.into_iter().flatten().min(),
            user: user.map(identity),
            service: service.map(identity),
        })
    }

    /// The service's half; it comes alone, or with a user's.
    async fn service(&self, token: &Secret, alone: bool) -> Result<Half, AuthError> {
        if alone && self.audit_role.is_none() {
            return Err(AuthError::ServiceAlone);
        }
        let half = self.half(token, SERVICE, false).await?;
        let has = |role: &String| half.identity.roles.contains(role);
        match alone {
            true if self.audit_role.iter().any(has) => Ok(half),
            true => Err(AuthError::ServiceAlone),
            false if self.service_token_roles.iter().any(has) => Ok(half),
            false => Err(AuthError::NoServiceRole {
                roles: self.service_token_roles.clone(),
            }),
        }
    }

    async fn half(
        &self,
        token: &Secret,
        header: &'static str,
        allow_expired: bool,
    ) -> Result<Half, AuthError> {
        let window = allow_expired.then_some(self.allow_expired_window);
        match self.known_or_asked(token, window).await {
            Ok(Some(half)) => Ok(half),
            Ok(None) => Err(AuthError::TokenRefused { header }),
            Err(error) => Err(AuthError::Unavailable(error)),
        }
    }

    /// What is known of a token, or else what Keystone says now; beside a service's token one counts within a window
    /// after its end.
    async fn known_or_asked(&self, token: &Secret, window: Option<Duration>) -> Found {
        let way = if window.is_some() { "late" } else { "in time" };
        let name = self.cache.name(token, way);
        if let Some(half) = self.cache.get(&name) {
            return Ok(Some(half));
        }
        let ask = || {
            let (client, cache) = (self.client.clone(), self.cache.clone());
            let (token, name) = (token.clone(), name.clone());
            async move {
                // The question before this one may have been answered in the meantime.
                if let Some(half) = cache.get(&name) {
                    return Ok(Some(half));
                }
                let asked = Instant::now();
                let verdict = client.validate(&token, window.is_some()).await?;
                let half = match verdict {
                    Verdict::Good(info) => half_of(*info, window),
                    Verdict::Bad => None,
                };
                if let Some(half) = &half {
                    cache.put(&name, half.clone(), asked, half.until);
                }
                Ok(half)
            }
            .boxed()
        };
        self.flights.join(&name, ask).await
    }
}

/// The half that a token makes, unless it is past its end by this host's clock, and past the window after it.
fn half_of(info: TokenInfo, window: Option<Duration>) -> Option<Half> {
    let now = SystemTime::now();
    let until = match window {
        // What holds until its end is asked about again then: Keystone may have another window.
        _ if now < info.expires_at => info.expires_at,
        Some(window) => info.expires_at.checked_add(window)?,
        None => info.expires_at,
    };
    (now < until).then(|| Half {
        identity: Arc::new(info.identity),
        until,
    })
}

/// The one token of a header, where it looks like one; `None`: the header is not there.
fn well_formed<'a>(
    values: &'a [Secret],
    header: &'static str,
) -> Result<Option<&'a Secret>, AuthError> {
    let why = match values {
        [] => return Ok(None),
        [token] => match token.expose() {
            "" => "it is empty, or not ASCII",
            long if long.len() > MAX_TOKEN => "it is longer than 8 KiB",
            text if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                "it has other characters than a token has"
            }
            _ => return Ok(Some(token)),
        },
        _ => "there are several",
    };
    Err(AuthError::NoToken { header, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_printable_token_of_a_sensible_length_is_one() {
        let one = |text: &str| vec![Secret::from(text)];
        assert!(well_formed(&[], USER).unwrap().is_none());
        assert!(well_formed(&one("gAAAAA-_="), USER).unwrap().is_some());
        assert!(well_formed(&one(&"x".repeat(MAX_TOKEN)), USER).is_ok());
        let two = vec![Secret::from("a"), Secret::from("a")];
        for bad in [
            one(""),
            one(" "),
            one("a b"),
            one("a\tb"),
            one("tökn"),
            one("a\0"),
            one(&"x".repeat(MAX_TOKEN + 1)),
            two,
        ] {
            assert!(well_formed(&bad, USER).is_err(), "{}", bad.len());
        }
    }

    #[test]
    fn a_token_counts_until_its_end_and_beside_a_service_within_the_window() {
        let now = SystemTime::now();
        let minute = Duration::from_secs(60);
        let token = |expires_at| TokenInfo {
            identity: Identity::default(),
            expires_at,
        };
        let until = |expires_at, window| half_of(token(expires_at), window).map(|half| half.until);
        assert_eq!(until(now + minute, None), Some(now + minute));
        assert_eq!(until(now + minute, Some(minute)), Some(now + minute));
        assert_eq!(until(now - minute, None), None);
        assert_eq!(until(now - minute, Some(2 * minute)), Some(now + minute));
        assert_eq!(until(now - 2 * minute, Some(minute)), None);
        assert_eq!(until(now - minute, Some(Duration::ZERO)), None);
    }
}
