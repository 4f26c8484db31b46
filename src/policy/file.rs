//! A policy file, read strictly: what PyYAML would take for something else than a string is refused.
//!
//! oslo.policy takes an empty value, `~`, `false`, `0`, `{}` and an unquoted `!` for a rule that allows everyone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};

use super::error::{Place, PolicyError, Refusal};
use super::layout::{self, Layout, unread};
use super::parse::{Item, RuleText};

const TAG: Refusal = unread(
    "tags, which begin with an exclamation mark, are not read here",
    "put quotes around the rule, as in \"!\"",
);
const ANCHOR: Refusal = unread(
    "anchors and aliases are not read here",
    "write the rule out, or give it a name and refer to it by rule:NAME",
);
const SECOND: Refusal = unread("a second document begins here", "a policy file holds one");

/// A rule of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileRule {
    pub(super) name: String,
    pub(super) at: Place,
    pub(super) text: RuleText,
}

/// Reads a file: YAML, and so JSON too.
pub(super) fn read(path: &Path) -> Result<Vec<FileRule>, PolicyError> {
    let text = fs::read_to_string(path).map_err(|source| PolicyError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

/// The rules of a document, in their order.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<FileRule>, PolicyError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file: Arc<Path> = path.into();
    let layout = Layout::new(text).map_err(|fault| refused(&file, fault))?;
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        layout,
        file,
    };
    let rules = reader.document()?;
    let checked = reader.layout.check();
    checked.map_err(|fault| refused(&reader.file, fault))?;
    Ok(rules)
}

fn refused(file: &Arc<Path>, (line, fault): layout::Fault) -> PolicyError {
    let at = place(file, line);
    PolicyError::Refused { at, fault }
}

fn place(file: &Arc<Path>, line: usize) -> Place {
    Place {
        file: Arc::clone(file),
        line: line.max(1),
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    layout: Layout,
    file: Arc<Path>,
}

impl<'a> Reader<'a> {
    fn refuse<T>(&self, line: usize, fault: Refusal) -> Result<T, PolicyError> {
        Err(refused(&self.file, (line, fault)))
    }

    /// The next event, and its line. Tags, anchors and aliases are refused wherever they are.
    fn next(&mut self) -> Result<(Event<'a>, usize), PolicyError> {
        let (event, start) = match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.laid_out(&event, span)?;
                (event, span.start)
            }
            Some(Err(error)) => {
                let fault = Refusal::Syntax(error.info().to_owned());
                return self.refuse(error.marker().line(), fault);
            }
            None => (Event::StreamEnd, Marker::new(0, 1, 0)),
        };
        let tagged = matches!(
            event,
            Event::Scalar(.., Some(_))
                | Event::SequenceStart(_, Some(_))
                | Event::MappingStart(_, Some(_))
        );
        if tagged {
            return self.refuse(start.line(), TAG);
        }
        let anchored = match &event {
            Event::Alias(_) => true,
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _) => *anchor != 0,
            _ => false,
        };
        if anchored {
            return self.refuse(start.line(), ANCHOR);
        }
        Ok((event, start.line()))
    }

    fn laid_out(&mut self, event: &Event<'_>, span: Span) -> Result<(), PolicyError> {
        let held = match event {
            Event::Scalar(text, style, ..) => self.layout.string(text, *style, span),
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                self.layout.begin(span);
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.layout.end();
                Ok(())
            }
            _ => Ok(()),
        };
        held.map_err(|fault| refused(&self.file, fault))
    }

    fn document(&mut self) -> Result<Vec<FileRule>, PolicyError> {
        let mut rules = Vec::new();
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                // A file of comments alone.
                (Event::StreamEnd, _) => return Ok(rules),
                (Event::Scalar(text, ScalarStyle::Plain, ..), _) if text.is_empty() => break,
                (Event::MappingStart(..), _) => {
                    self.mapping(&mut rules)?;
                    break;
                }
                (other, line) => {
                    let what = "a policy file holds rules, each with its name";
                    let advice = match other {
                        Event::SequenceStart(..) => "this one holds a list",
                        _ => "this one holds a single value",
                    };
                    return self.refuse(line, unread(what, advice));
                }
            }
        }
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(rules),
                (Event::DocumentStart(_), line) => {
                    return self.refuse(line, SECOND);
                }
                _ => {}
            }
        }
    }

    fn mapping(&mut self, rules: &mut Vec<FileRule>) -> Result<(), PolicyError> {
        let mut lines = BTreeMap::new();
        loop {
            let (name, line) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(()),
                (Event::Scalar(text, style, ..), line) => match not_a_string(&text, style) {
                    None => (text.into_owned(), line),
                    Some(found) => return self.refuse(line, Refusal::Name(found)),
                },
                (other, line) => {
                    return self.refuse(line, Refusal::Name(kind(&other).to_owned()));
                }
            };
            let held = self.layout.name();
            held.map_err(|fault| refused(&self.file, fault))?;
            if let Some(first) = lines.insert(name.clone(), line) {
                return self.refuse(line, Refusal::Duplicate { name, first });
            }
            let text = self.rule(&name)?;
            let at = place(&self.file, line);
            rules.push(FileRule { name, at, text });
        }
    }

    fn rule(&mut self, name: &str) -> Result<RuleText, PolicyError> {
        let (event, line) = self.next()?;
        if !matches!(event, Event::SequenceStart(..)) {
            return self.string(name, event, line).map(RuleText::Text);
        }
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(RuleText::List(items)),
                (Event::SequenceStart(..), _) => items.push(Item::All(self.inner_list(name)?)),
                (event, line) => items.push(Item::One(self.string(name, event, line)?)),
            }
        }
    }

    fn inner_list(&mut self, name: &str) -> Result<Vec<String>, PolicyError> {
        let mut checks = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(checks),
                (event, line) => checks.push(self.string(name, event, line)?),
            }
        }
    }

    fn string(&self, name: &str, event: Event<'a>, line: usize) -> Result<String, PolicyError> {
        let found = match event {
            Event::Scalar(text, style, ..) => match not_a_string(&text, style) {
                None => return Ok(text.into_owned()),
                Some(found) => found,
            },
            other => kind(&other).to_owned(),
        };
        let name = name.to_owned();
        self.refuse(line, Refusal::Value { name, found })
    }
}

fn kind(event: &Event<'_>) -> &'static str {
    match event {
        Event::SequenceStart(..) => "a list",
        _ => "a map",
    }
}

/// What PyYAML, which reads YAML 1.1, takes a scalar for, if not for a string.
///
/// Words are its words. Whatever looks like a number, time or date is taken for one: the exact forms are many, and
/// quotes make it a string for everyone.
fn not_a_string(text: &str, style: ScalarStyle) -> Option<String> {
    if style != ScalarStyle::Plain {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let word = match lower.as_str() {
        "" => return Some("empty".to_owned()),
        "~" | "null" => "null",
        "true" | "false" | "yes" | "no" | "on" | "off" => "a boolean",
        "=" | "<<" => "a word of YAML's own",
        ".nan" | ".inf" | "-.inf" | "+.inf" => "a number",
        _ => {
            let starts = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.');
            let goes_on = |c: char| c.is_ascii_hexdigit() || "+-._:xotz ".contains(c);
            if !(lower.starts_with(starts)
                && lower.contains(|c: char| c.is_ascii_digit())
                && lower.chars().all(goes_on))
            {
                return None;
            }
            "a number or a time"
        }
    };
    Some(format!("{word} ({text})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Vec<(String, usize, RuleText)>, String> {
        match parse(Path::new("p.yaml"), text) {
            Ok(rules) => Ok(rules
                .into_iter()
                .map(|rule| (rule.name, rule.at.line, rule.text))
                .collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn one(text: &str) -> Result<RuleText, String> {
        rules(text).map(|mut rules| rules.remove(0).2)
    }

    fn plain(text: &str) -> RuleText {
        RuleText::Text(text.to_owned())
    }

    #[test]
    fn strings_and_lists_are_rules() {
        let text =
            "# c\n\"a:b\": \"role:x\"\n\nc: rule:d # why\ne: >-\n  role:x\n  or role:y\nf: ''\n";
        let found = rules(text).unwrap();
        let expected = [
            ("a:b", 2, plain("role:x")),
            ("c", 4, plain("rule:d")),
            ("e", 5, plain("role:x or role:y")),
            ("f", 8, plain("")),
        ];
        assert_eq!(
            found,
            expected.map(|(name, line, text)| (name.to_owned(), line, text))
        );
        let all = |texts: &[&str]| Item::All(texts.iter().map(ToString::to_string).collect());
        assert_eq!(
            one("t: [[role:a, 'b:c'], role:d, []]"),
            Ok(RuleText::List(vec![
                all(&["role:a", "b:c"]),
                Item::One("role:d".to_owned()),
                all(&[])
            ]))
        );
        assert_eq!(
            one("{\n  \"t\": \"role:\\u0061\"\n}\n"),
            Ok(plain("role:a"))
        );
        assert_eq!(one("\u{feff}t: role:a"), Ok(plain("role:a")));
        for text in [
            "t: role:1",
            "t: 0x10:%(n)s",
            "t: n:5",
            "t: '5'",
            "t: -a:b",
            "t: nothing",
        ] {
            assert!(one(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_file_of_comments_is_empty() {
        for text in [
            "",
            "\n",
            "# nothing\n#\"a\": \"b\"\n",
            "---\n",
            "---\n# c\n...\n",
            "{}",
        ] {
            assert_eq!(rules(text), Ok(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn what_oslo_takes_for_allow_everyone_is_refused() {
        for (value, found) in [
            ("", "empty"),
            ("~", "null (~)"),
            ("null", "null (null)"),
            ("false", "a boolean (false)"),
            ("No", "a boolean (No)"),
            ("0", "a number or a time (0)"),
            ("0.0", "a number or a time (0.0)"),
            ("{}", "a map"),
            ("{a: b}", "a map"),
            ("[[[]]]", "a list"),
            ("[~]", "null (~)"),
            ("[[1]]", "a number or a time (1)"),
            ("2001-01-01", "a number or a time (2001-01-01)"),
            ("1:30", "a number or a time (1:30)"),
            ("=", "a word of YAML's own (=)"),
        ] {
            let text = format!("a: role:a\nt: {value}\n");
            let error = rules(&text).unwrap_err();
            assert!(
                error.starts_with(&format!(
                    "p.yaml:2: rule \"t\" must be a string or a list, and this is {found}: "
                )),
                "{text}{error}"
            );
        }
    }

    #[test]
    fn whatever_is_ambiguous_is_refused() {
        for (text, said) in [
            ("t: !\n", "p.yaml:1: tags"),
            ("t: !!str x\n", "p.yaml:1: tags"),
            ("t: [!x y]\n", "p.yaml:1: tags"),
            ("a: '@'\nb: &x role:a\n", "p.yaml:2: anchors"),
            ("a: '@'\nb: [*x]\n", "p.yaml:2: "),
            (
                "a: '@'\nb: '!'\na: '!'\n",
                "p.yaml:3: rule \"a\" is in line 1 already",
            ),
            (
                "{\"a\": \"\", \"a\": \"!\"}",
                "p.yaml:1: rule \"a\" is in line 1 already",
            ),
            ("on: '@'\n", "p.yaml:1: a rule's name"),
            ("5: '@'\n", "p.yaml:1: a rule's name"),
            ("[a]: '@'\n", "p.yaml:1: a rule's name"),
            ("<<: {a: b}\n", "p.yaml:1: a rule's name"),
            ("- a\n", "p.yaml:1: a policy file holds rules"),
            ("false\n", "p.yaml:1: a policy file holds rules"),
            ("a: '@'\n---\nb: '@'\n", "p.yaml:2: a second document"),
            ("t: @\n", "p.yaml:1: this is no YAML"),
            ("t: %(a)s\n", "p.yaml:1: this is no YAML"),
            ("a: 'x\n", "p.yaml:"),
            ("a: [b\n", "p.yaml:"),
            ("a: b: c\n", "p.yaml:1: this is no YAML"),
        ] {
            let error = rules(text).unwrap_err();
            assert!(error.starts_with(said), "{text}{error}");
        }
        assert!(rules(&"[".repeat(100_000)).is_err());
        assert!(rules(&("a: ".to_owned() + &"[".repeat(100_000))).is_err());
    }
}
