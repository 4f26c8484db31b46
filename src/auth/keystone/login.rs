//! The agent's own password: from its file into the request that it is for, and wiped after it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use hyper::body::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use super::error::KeystoneError;
use crate::config;
use crate::model::Secret;

/// The longest password, in bytes; Keystone's own limit is 4096 characters.
const MAX_PASSWORD: u64 = 4096;

/// What the request takes, in bytes: each byte of a password may be escaped as six.
const ROOM: usize = 32 * 1024;

/// Reads the password, each time anew: it may have been changed.
pub(super) fn password(path: &Path) -> Result<Secret, KeystoneError> {
    let read = || {
        let found = fs::metadata(path)?;
        if !found.is_file() || found.len() > MAX_PASSWORD {
            return Err(io::Error::other("it is no file with a password in it"));
        }
        if found.mode() & 0o077 != 0 {
            return Err(io::Error::other(
                "others than its owner may read it: chmod 600 it",
            ));
        }
        let text = Zeroizing::new(fs::read_to_string(path)?);
        let password = text.strip_suffix('\n').unwrap_or(&text);
        match password.is_empty() {
            true => Err(io::Error::other("it is empty")),
            false => Ok(Secret::from(password)),
        }
    };
    read().map_err(|source| unusable(path, source))
}

/// The same, on a blocking thread.
pub(super) async fn password_now(path: &Path) -> Result<Secret, KeystoneError> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || password(&file)).await;
    read.unwrap_or_else(|ended| Err(unusable(path, io::Error::other(ended))))
}

fn unusable(path: &Path, source: io::Error) -> KeystoneError {
    KeystoneError::Password {
        path: path.to_owned(),
        source: Arc::new(source),
    }
}

#[derive(Serialize)]
struct Body<'a> {
    auth: Auth<'a>,
}

#[derive(Serialize)]
struct Auth<'a> {
    identity: Identity<'a>,
    scope: Scope<'a>,
}

#[derive(Serialize)]
struct Identity<'a> {
    methods: [&'a str; 1],
    password: Password<'a>,
}

#[derive(Serialize)]
struct Password<'a> {
    user: User<'a>,
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    domain: Domain<'a>,
    password: &'a str,
}

#[derive(Serialize)]
struct Scope<'a> {
    project: Project<'a>,
}

#[derive(Serialize)]
struct Project<'a> {
    name: &'a str,
    domain: Domain<'a>,
}

#[derive(Serialize)]
struct Domain<'a> {
    name: &'a str,
}

/// The body of a request for a token of the agent's own ("Password authentication with scoped authorization").
pub(super) fn body(settings: &config::Keystone, password: &Secret) -> Result<Bytes, KeystoneError> {
    let body = Body {
        auth: Auth {
            identity: Identity {
                methods: ["password"],
                password: Password {
                    user: User {
                        name: &settings.user,
                        domain: Domain {
                            name: &settings.user_domain,
                        },
                        password: password.expose(),
                    },
                },
            },
            scope: Scope {
                project: Project {
                    name: &settings.project,
                    domain: Domain {
                        name: &settings.project_domain,
                    },
                },
            },
        },
    };
    // Room enough from the start: a vector that grows leaves what it held behind.
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *text, &body)
        .map_err(|error| unusable(&settings.password_file, error.into()))?;
    Ok(Bytes::from_owner(text))
}
