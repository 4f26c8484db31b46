//! The part of YAML that clouds.yaml is written in: maps and lists of strings. Each string is a secret: one of them is the password.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::model::Secret;

/// The deepest nesting that is read; clouds.yaml has four levels.
const MAX_DEPTH: usize = 16;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// Nothing: empty, `~` or `null`.
    Null,
    Text(Secret),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

/// What is wrong, and in which line. The line's text is not told: it may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(super) struct YamlError {
    line: usize,
    what: String,
}

impl Node {
    /// Reads a document. An empty one is [`Node::Null`].
    pub(super) fn parse(text: &str) -> Result<Self, YamlError> {
        let mut reader = Reader {
            parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        };
        let mut document = None;
        loop {
            let (event, span) = reader.next()?;
            match event {
                Event::StreamEnd => return Ok(document.unwrap_or(Self::Null)),
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                _ if document.is_some() => {
                    return Err(error(span, "a second document begins here: write one"));
                }
                event => document = Some(reader.node(event, span, 0)?),
            }
        }
    }

    /// The value of a key, if this is a map that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.get(key).filter(|value| **value != Self::Null),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub(super) fn text(&self) -> Option<&Secret> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Lays another document over this one: its values win, maps are joined.
    pub(super) fn merge(&mut self, over: Self) {
        match (self, over) {
            (_, Self::Null) => {}
            (Self::Map(map), Self::Map(over)) => {
                for (key, value) in over {
                    match map.get_mut(&key) {
                        Some(under) => under.merge(value),
                        None => {
                            map.insert(key, value);
                        }
                    }
                }
            }
            (under, over) => *under = over,
        }
    }
}

fn error(span: Span, what: impl Into<String>) -> YamlError {
    YamlError {
        line: span.start.line().max(1),
        what: what.into(),
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(YamlError {
                line: error.marker().line().max(1),
                what: "this is no YAML".to_owned(),
            }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        if depth > MAX_DEPTH {
            return Err(error(span, "this is nested too deep"));
        }
        let special = "tags, anchors and aliases are not read here: write the values out";
        match event {
            Event::Scalar(text, style, 0, None) => {
                let null = style == ScalarStyle::Plain
                    && ["", "~", "null", "Null", "NULL"].contains(&&*text);
                Ok(match null {
                    true => Node::Null,
                    false => Node::Text(Secret::from(&*text)),
                })
            }
            Event::SequenceStart(0, None) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Node::List(items)),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(0, None) => {
                let mut map = BTreeMap::new();
                loop {
                    let (name, at) = match self.next()? {
                        (Event::MappingEnd, _) => return Ok(Node::Map(map)),
                        (Event::Scalar(name, _, 0, None), at) => (name.into_owned(), at),
                        (Event::Scalar(..) | Event::Alias(_), at) => {
                            return Err(error(at, special));
                        }
                        (_, at) => return Err(error(at, "a key is a word or a string")),
                    };
                    let (event, span) = self.next()?;
                    let value = self.node(event, span, depth + 1)?;
                    if map.insert(name, value).is_some() {
                        return Err(error(at, "this key is written twice"));
                    }
                }
            }
            Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::MappingStart(..)
            | Event::Alias(_) => Err(error(span, special)),
            _ => Err(error(span, "the document ends too early")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text<'a>(node: &'a Node, path: &[&str]) -> &'a str {
        let found = path.iter().try_fold(node, |node, key| node.get(key));
        found.and_then(Node::text).unwrap().expose()
    }

    #[test]
    fn what_clouds_are_written_in_is_read() {
        let mut node = Node::parse(
            "clouds:\n  lab:\n    auth: {username: ann, project_id: '0123'}\n    regions: [a, b]\n    verify: true\n    x: ~\n",
        )
        .unwrap();
        assert_eq!(text(&node, &["clouds", "lab", "auth", "username"]), "ann");
        assert_eq!(
            text(&node, &["clouds", "lab", "auth", "project_id"]),
            "0123"
        );
        assert_eq!(text(&node, &["clouds", "lab", "verify"]), "true");
        assert_eq!(
            node.get("clouds").unwrap().get("lab").unwrap().get("x"),
            None
        );
        let over = "clouds: {lab: {auth: {username: bob, password: hunter2}}}";
        node.merge(Node::parse(over).unwrap());
        assert_eq!(text(&node, &["clouds", "lab", "auth", "username"]), "bob");
        assert_eq!(
            text(&node, &["clouds", "lab", "auth", "password"]),
            "hunter2"
        );
        assert_eq!(text(&node, &["clouds", "lab", "verify"]), "true");
        assert!(!format!("{node:?}").contains("hunter2"));
        assert_eq!(Node::parse("# nothing\n"), Ok(Node::Null));
    }

    #[test]
    fn what_would_be_guessed_at_is_refused_with_its_line() {
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        for (text, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: &x 1\nb: *x\n", 1),
            ("a: 1\nb: !!str 2\n", 2),
            ("a: 1\n---\nb: 2\n", 3),
            ("a: [1\n", 2),
            ("[a]: 1\n", 1),
            (&deep, 1),
        ] {
            let error = Node::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
        }
        let error = Node::parse("password: hunter2: x\n").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z:{}\\[\\],&*!|>'\"# \\n~-]{0,80}") {
            if let Ok(mut node) = Node::parse(&text) {
                let same = node.clone();
                node.merge(same.clone());
                prop_assert_eq!(node, same);
            }
        }

        #[test]
        fn what_is_written_as_json_is_read_back(map in proptest::collection::btree_map("[a-z_]{1,8}", "[ -~]{0,20}", 0..6)) {
            let node = Node::parse(&serde_json::to_string(&map).unwrap()).unwrap();
            for (key, value) in &map {
                prop_assert_eq!(node.get(key).and_then(Node::text).unwrap().expose(), value);
            }
        }
    }
}
