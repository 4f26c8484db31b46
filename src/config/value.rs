//! How values are written.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::error::Fault;
use super::tree::Value;
use crate::model::mount_options::{self, Author, MountOption, OptionError, Versions};
use crate::model::{ErrorPolicy, server_name};

/// The longest duration: nobody waits longer for a server or a guest.
const MAX_DURATION: Duration = Duration::from_secs(3600);
/// The longest user name of a CIFS mount, in bytes: CIFS_MAX_USERNAME_LEN less its end (fs/smb/client/cifsglob.h).
const MAX_PRINCIPAL: usize = 255;
/// The longest path of a unix socket, in bytes (unix(7), `sun_path` less its NUL).
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn flag(value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Flag(flag) => Ok(*flag),
        _ => Err(Fault::Expected("true or false")),
    }
}

/// `"stop"`, `"report"` or `"enospace"`.
pub(super) fn error_policy(value: &Value) -> Result<ErrorPolicy, Fault> {
    let expected = "stop, report or enospace";
    let word = text(expected)(value)?;
    word.parse().map_err(|_| Fault::Expected(expected))
}

/// Text that is not empty.
pub(super) fn text(expected: &'static str) -> impl Fn(&Value) -> Result<String, Fault> {
    move |value| match value {
        Value::Text(text) if !text.is_empty() && !text.contains(char::is_control) => {
            Ok(text.clone())
        }
        _ => Err(Fault::Expected(expected)),
    }
}

/// A list of texts that are not empty.
pub(super) fn texts(expected: &'static str) -> impl Fn(&Value) -> Result<Vec<String>, Fault> {
    move |value| match value {
        Value::List(items) => items
            .iter()
            .map(|item| text(expected)(&item.value))
            .collect(),
        _ => Err(Fault::Expected(expected)),
    }
}

/// The name of a file in a directory that is known.
pub(super) fn file_name(value: &Value) -> Result<String, Fault> {
    let expected = "a name of letters, digits, dots, dashes and underscores";
    let name = text(expected)(value)?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match name.chars().all(valid) && !name.starts_with('.') {
        true => Ok(name),
        false => Err(Fault::Expected(expected)),
    }
}

/// The URI of a libvirt connection.
pub(super) fn uri(value: &Value) -> Result<String, Fault> {
    let expected = "a libvirt URI such as \"qemu:///system\"";
    let uri = text(expected)(value)?;
    match uri.contains("://") {
        true => Ok(uri),
        false => Err(Fault::Expected(expected)),
    }
}

/// `"500ms"`, `"3s"`, `"2m"`: more than 0, at most an hour.
pub(super) fn duration(value: &Value) -> Result<Duration, Fault> {
    let expected = "a duration with its unit, such as \"3s\", \"500ms\" or \"2m\", more than 0 and at most an hour";
    let duration = span(MAX_DURATION, expected)(value)?;
    match duration.is_zero() {
        true => Err(Fault::Expected(expected)),
        false => Ok(duration),
    }
}

/// `"48h"`, `"0s"`: at most `max`.
pub(super) fn span(
    max: Duration,
    expected: &'static str,
) -> impl Fn(&Value) -> Result<Duration, Fault> {
    let parse = move |text: &str| {
        let at = text.find(|c: char| !c.is_ascii_digit())?;
        let number = text[..at].parse::<u64>().ok()?;
        let duration = match &text[at..] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        (duration <= max).then_some(duration)
    };
    move |value| {
        match value {
            Value::Text(text) => parse(text),
            _ => None,
        }
        .ok_or(Fault::Expected(expected))
    }
}

/// The names of one or more roles.
pub(super) fn roles(value: &Value) -> Result<Vec<String>, Fault> {
    let expected = "a list of one or more names of roles";
    match value {
        Value::List(items) if !items.is_empty() => items
            .iter()
            .map(|item| text(expected)(&item.value))
            .collect(),
        _ => Err(Fault::Expected(expected)),
    }
}

/// One or more addresses to listen on.
pub(super) fn addresses(value: &Value) -> Result<Vec<SocketAddr>, Fault> {
    let expected = || {
        Fault::Expected("a list of one or more addresses with their ports, such as \"[::]:7443\"")
    };
    let address = |value: &Value| match value {
        Value::Text(text) => text.parse().map_err(|_| expected()),
        _ => Err(expected()),
    };
    match value {
        Value::List(items) if !items.is_empty() => {
            items.iter().map(|item| address(&item.value)).collect()
        }
        _ => Err(expected()),
    }
}

/// An absolute path beneath the root, without `..`.
pub(super) fn path(value: &Value) -> Result<PathBuf, Fault> {
    let parse = |text: &str| {
        let path = Path::new(text);
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let below_root = path.file_name().is_some();
        (path.is_absolute() && plain && below_root && !text.contains(char::is_control))
            .then(|| path.components().collect())
    };
    match value {
        Value::Text(text) => parse(text),
        _ => None,
    }
    .ok_or(Fault::Expected(
        "an absolute path other than \"/\", without \"..\"",
    ))
}

/// The path of a unix socket.
pub(super) fn socket(value: &Value) -> Result<PathBuf, Fault> {
    let path = path(value)?;
    match path.as_os_str().len() <= MAX_SOCKET_PATH {
        true => Ok(path),
        false => Err(Fault::Expected("a path of at most 107 bytes")),
    }
}

pub(super) fn paths(value: &Value) -> Result<Vec<PathBuf>, Fault> {
    match value {
        Value::List(items) => items.iter().map(|item| path(&item.value)).collect(),
        _ => Err(Fault::Expected("a list of absolute paths")),
    }
}

/// A Kerberos principal with its realm. Not `;`, which parts what the kernel tells cifs.upcall(8).
pub(super) fn principal(value: &Value) -> Result<String, Fault> {
    let valid = |text: &str| {
        let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != ';';
        let named = text.rsplit_once('@');
        text.len() <= MAX_PRINCIPAL
            && text.chars().all(plain)
            && named.is_some_and(|(name, realm)| !name.is_empty() && !realm.is_empty())
    };
    match value {
        Value::Text(text) if valid(text) => Ok(text.clone()),
        _ => Err(Fault::Expected(
            "a Kerberos principal with its realm, such as \"name@EXAMPLE.ORG\"",
        )),
    }
}

/// `//host/share`: the host's one spelling, and the share in lower case, as servers compare it.
pub(super) fn share(text: &str) -> Option<(String, String)> {
    let (host, share) = text.strip_prefix("//")?.split_once('/')?;
    let plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\');
    (!share.is_empty() && share.chars().all(plain))
        .then(|| Some((server_name(host).ok()?, share.to_ascii_lowercase())))?
}

/// Versions of a protocol, put in order: newest first, each once.
pub(super) fn versions(known: &'static Versions) -> impl Fn(&Value) -> Result<Vec<String>, Fault> {
    move |value| {
        let expected = || Fault::Versions(known);
        let Value::List(items) = value else {
            return Err(expected());
        };
        let mut named = Vec::new();
        for item in items {
            match &item.value {
                Value::Text(text) => named.push(known.named(text).ok_or_else(expected)?),
                _ => return Err(expected()),
            }
        }
        let versions: Vec<String> = known
            .names
            .iter()
            .filter(|version| named.contains(version))
            .map(ToString::to_string)
            .collect();
        match versions.is_empty() {
            true => Err(expected()),
            false => Ok(versions),
        }
    }
}

/// Mount options of a file system: `"seal,echo_interval=5"`.
pub(super) fn mount_options(
    table: &'static mount_options::Table,
) -> impl Fn(&Value) -> Result<Vec<MountOption>, Fault> {
    move |value| {
        let Value::Text(text) = value else {
            return Err(Fault::Expected(
                "mount options, such as \"soft,rsize=65536\"",
            ));
        };
        let mut options = Vec::new();
        for option in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (option, None),
            };
            let checked: Result<_, OptionError> = table.check(name, value, Author::Deployer);
            options.extend(checked.map_err(Fault::MountOption)?);
        }
        Ok(options)
    }
}
