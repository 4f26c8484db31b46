//! Values of credentials and targets, and how Python writes them.

use std::fmt::{self, Write};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::number::float;

/// Names and their values.
pub type Attributes = Vec<(String, Value)>;

/// A value as JSON has it. Keys keep their order, as in Python, which shows when a map is written out.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Python's `None`, JSON's null.
    None,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object: each key once.
    Map(Vec<(String, Self)>),
}

impl Value {
    /// As Python's `str()` writes it: `True`, `None`, `1.5`, `['a', 1]`.
    pub(in crate::policy) fn to_python(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => other.repr(),
        }
    }

    /// As Python's `repr()` writes it: strings in quotes.
    pub(super) fn repr(&self) -> String {
        let mut out = String::new();
        self.write_repr(&mut out);
        out
    }

    fn write_repr(&self, out: &mut String) {
        match self {
            Self::None => out.push_str("None"),
            Self::Bool(true) => out.push_str("True"),
            Self::Bool(false) => out.push_str("False"),
            Self::Int(number) => out.push_str(&number.to_string()),
            Self::Float(number) => out.push_str(&float(*number)),
            Self::Text(text) => quote(text, out),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { ", " });
                    item.write_repr(out);
                }
                out.push(']');
            }
            Self::Map(entries) => write_map(entries, out),
        }
    }

    /// Whether Python takes it for true.
    pub(in crate::policy) fn is_true(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
        }
    }

    /// What Python calls its type.
    pub(in crate::policy) fn type_name(&self) -> &'static str {
        match self {
            Self::None => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }
}

fn write_map(entries: &[(String, Value)], out: &mut String) {
    out.push('{');
    for (at, (key, value)) in entries.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { ", " });
        quote(key, out);
        out.push_str(": ");
        value.write_repr(out);
    }
    out.push('}');
}

/// A string as Python's `repr()` writes it.
pub(super) fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if !c.is_ascii() && is_printable(c) => out.push(c),
            c => escape(c, out),
        }
    }
    out.push(mark);
}

/// A character by its number, as short as Python has it.
pub(super) fn escape(c: char, out: &mut String) {
    let number = u32::from(c);
    // Writing to a string does not fail.
    let _ = match number {
        0..=0xff => write!(out, "\\x{number:02x}"),
        0x100..=0xffff => write!(out, "\\u{number:04x}"),
        _ => write!(out, "\\U{number:08x}"),
    };
}

/// As Python's `str.isprintable()`: neither a control, format, private or unassigned character, nor a space other than
/// U+0020. The standard library escapes the same ones, but for combining marks, and those only at the start of a string.
fn is_printable(c: char) -> bool {
    !format!("a{c}").escape_debug().any(|c| c == '\\')
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Int(number) => serializer.serialize_i128(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number.into()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Int(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        while let Some((key, value)) = access.next_entry::<String, Value>()? {
            match entries.iter_mut().find(|(known, _)| *known == key) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repr(json: &str) -> String {
        serde_json::from_str::<Value>(json).unwrap().repr()
    }

    #[test]
    fn values_are_written_as_python_does() {
        assert_eq!(
            repr(r#"{"b": [1, -2, 1.5, true, null], "a": "x"}"#),
            "{'b': [1, -2, 1.5, True, None], 'a': 'x'}"
        );
        assert_eq!(repr(r#""it's""#), r#""it's""#);
        assert_eq!(repr(r#""it's \"so\"""#), r#"'it\'s "so"'"#);
        assert_eq!(
            repr("\"\\u0000\\u00e9\\u00a0\\u200b\\n\\\\\""),
            "'\\x00\u{e9}\\xa0\\u200b\\n\\\\'"
        );
        assert_eq!(repr("\"\u{301}\u{1f600}\""), "'\u{301}\u{1f600}'");
        assert_eq!(repr(r#"{"a": 1, "b": 2, "a": 3}"#), "{'a': 3, 'b': 2}");
    }
}
