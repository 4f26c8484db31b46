//! Checks that ask a server: `http://…` and `https://…`, as oslo.policy's `HttpCheck` does.

use std::fmt;

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::python::{Attributes, Fault, FormatError, Value, format};

/// What no address gives a meaning to (RFC 3986, section 2.3) stays as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Asks the servers of such checks.
#[async_trait]
pub trait Remote: fmt::Debug + Send + Sync {
    /// Waits for the server's answer to this question: whether it allows.
    ///
    /// # Errors
    /// Where there is no answer. The decision then is to deny, whatever else the rule says.
    async fn ask(&self, question: &Question) -> Result<bool, Fault>;
}

/// What a server is asked, by POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Where: `https://host:port`.
    pub server: String,
    /// What there: begins with a slash.
    pub path: String,
    /// A form (`application/x-www-form-urlencoded`) of `rule`, `target` and `credentials`, each in JSON.
    pub form: String,
}

/// The answers to the questions of one decision.
#[derive(Debug, Default)]
pub(super) struct Answers(Vec<(Question, Result<bool, Fault>)>);

impl Answers {
    /// The answer, if it was asked for.
    pub(super) fn to(&self, question: &Question) -> Option<Result<bool, Fault>> {
        let mut answers = self.0.iter();
        let found = answers.find(|(asked, _)| asked == question);
        found.map(|(_, answer)| answer.clone())
    }

    /// Asks, and keeps the answer.
    pub(super) async fn ask(&mut self, remote: Option<&dyn Remote>, question: Question) {
        let answer = match remote {
            Some(remote) => remote.ask(&question).await,
            None => Err(Fault("no server is asked here".to_owned())),
        };
        self.0.push((question, answer));
    }
}

impl Question {
    /// What the check of a rule asks of a caller and a target.
    pub(super) fn new(
        url: &str,
        rule: &str,
        target: &Attributes,
        credentials: &Attributes,
    ) -> Result<Self, Fault> {
        let (server, path) = parts(url)?;
        let path = fill(path, target)?;
        let field = |name, json: Result<String, _>| match json {
            Ok(json) => Ok(format!("{name}={}", escape(&json))),
            Err(error) => Err(Fault(format!("the {name} cannot be sent: {error}"))),
        };
        let form = [
            field("rule", serde_json::to_string(rule))?,
            field("target", json(target))?,
            field("credentials", json(credentials))?,
        ];
        Ok(Self {
            server: server.to_owned(),
            path,
            form: form.join("&"),
        })
    }
}

/// A path with what the target has. A value is a part of the path and no more, whoever chose it: it cannot lead elsewhere on the
/// server, also where that reads `%2F` as a slash.
fn fill(path: &str, target: &Attributes) -> Result<String, Fault> {
    let mut escaped = Attributes::new();
    for (key, value) in target {
        let value = match value {
            Value::Text(text) if is_plain(text) => Value::Text(escape(text)),
            // As if it were not there, unless the path has it.
            Value::Text(_) | Value::List(_) | Value::Map(_) => continue,
            other => other.clone(),
        };
        escaped.push((key.clone(), value));
    }
    let path = match format(path, &escaped) {
        Ok(path) => path,
        Err(FormatError::MissingKey(key)) => {
            return Err(Fault(format!(
                "the target has no {key}, or one that no address can have"
            )));
        }
        Err(FormatError::Fault(fault)) => return Err(fault),
    };
    let whole = |after: &str| {
        let digits = after.as_bytes().iter().take(2);
        digits.filter(|digit| digit.is_ascii_hexdigit()).count() == 2
    };
    match path.split('%').skip(1).all(whole) {
        true if path.starts_with('/') => Ok(path),
        true => Ok(format!("/{path}")),
        false => Err(Fault(format!("{path:?} is no path: a % stands alone"))),
    }
}

/// Whether a value can be one part of a path.
fn is_plain(text: &str) -> bool {
    !text.contains(['/', '\\']) && ![".", ".."].contains(&text)
}

/// Its server, and what is asked for there.
pub(super) fn parts(url: &str) -> Result<(&str, &str), Fault> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(Fault(
            "it names no server: write http://HOST/PATH".to_owned(),
        ));
    };
    let server = rest.find(['/', '?']).unwrap_or(rest.len());
    let (server, path) = url.split_at(scheme.len() + "://".len() + server);
    // Whoever calls would choose who decides.
    if server.contains('%') {
        return Err(Fault("its server must be fixed, with no %".to_owned()));
    }
    if server.ends_with("://") || server.contains('@') || path.contains('#') {
        return Err(Fault(
            "it is no address of a server: write http://HOST/PATH, without a user and without #"
                .to_owned(),
        ));
    }
    Ok((server, path))
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn json(attributes: &Attributes) -> serde_json::Result<String> {
    serde_json::to_string(&Value::Map(attributes.clone()))
}
