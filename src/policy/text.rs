//! Policy files as they are written: the sample, and what an older JSON file becomes.

use std::path::Path;

use super::defaults::{DEFAULTS, RuleDefault};
use super::error::PolicyError;
use super::file;
use super::parse::{Item, RuleText, parse};

/// How wide comments are.
const WIDTH: usize = 70;

/// A policy file with every rule of the service, all of them commented out: as it is, it changes nothing.
#[must_use]
pub fn sample() -> String {
    let rules = DEFAULTS.iter().map(|default| {
        let line = entry(default.name, &quoted(default.check));
        format!("{}#{line}\n", help(default))
    });
    rules.collect()
}

/// A policy file in JSON as one in YAML: what the code says too is commented out, and rules that the service does not
/// know, or no longer, come last, with a warning.
///
/// # Errors
/// Where the file cannot be read, or is refused.
pub fn convert(json: &Path) -> Result<String, PolicyError> {
    let mut left = file::read(json)?;
    let mut out = String::new();
    for default in DEFAULTS {
        let Some(at) = left.iter().position(|rule| rule.name == default.name) else {
            continue;
        };
        let rule = left.remove(at);
        let comment = if default.is_same(&parse(&rule.text)) {
            "#"
        } else {
            ""
        };
        out.push_str(&help(default));
        out.push_str(&format!(
            "{comment}{}\n",
            entry(default.name, &value(&rule.text))
        ));
    }
    if !left.is_empty() {
        out.push_str(
            "# WARNING: The rules below are deprecated, or unknown to this service.\n\
             # No call asks for them; they count only where another rule refers to\n\
             # them. It is strongly recommended to use the rules above instead.\n",
        );
    }
    for rule in &left {
        out.push_str(&entry(&rule.name, &value(&rule.text)));
    }
    Ok(out)
}

/// What stands above a rule: its description, and the calls that ask for it.
fn help(default: &RuleDefault) -> String {
    let mut out = wrapped(default.description);
    for path in default.operations {
        // gRPC is HTTP's POST.
        out.push_str(&format!("# POST  {path}\n"));
    }
    if !default.scopes.is_empty() {
        let scopes: Vec<_> = default.scopes.iter().map(|scope| scope.as_str()).collect();
        out.push_str(&format!("# Intended scope(s): {}\n", scopes.join(", ")));
    }
    out
}

fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out + &line + "\n"
}

fn entry(name: &str, value: &str) -> String {
    format!("{}: {value}\n", quoted(name))
}

fn value(rule: &RuleText) -> String {
    let list = |texts: &[String]| {
        let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
        format!("[{}]", texts.join(", "))
    };
    match rule {
        RuleText::Text(text) => quoted(text),
        RuleText::List(items) => {
            let items: Vec<_> = items
                .iter()
                .map(|item| match item {
                    Item::One(text) => quoted(text),
                    Item::All(texts) => list(texts),
                })
                .collect();
            format!("[{}]", items.join(", "))
        }
    }
}

/// A string in double quotes, as both YAML and JSON read it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
