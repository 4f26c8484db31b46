//! Python's literals, as `ast.literal_eval` reads them.

use super::Fault;
use super::expression;
use super::number::float;
use super::value::quote;

/// A literal, as far as it counts: how Python writes it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::policy) struct Literal {
    kind: Kind,
    repr: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// A number without a sign yet.
    Number(f64),
    Text(String),
    Other,
}

/// Reads `text` as a literal; `None`: it is another expression.
pub(in crate::policy) fn literal(text: &str) -> Result<Option<Literal>, Fault> {
    expression::parse(text)
}

impl Literal {
    /// As `str()` writes it.
    pub(in crate::policy) fn into_python(self) -> String {
        match self.kind {
            Kind::Text(text) => text,
            Kind::Number(_) | Kind::Other => self.repr,
        }
    }

    pub(super) fn int(digits: &str) -> Self {
        Self {
            // Only whether it is 0 counts.
            kind: Kind::Number(if digits == "0" { 0.0 } else { 1.0 }),
            repr: digits.to_owned(),
        }
    }

    pub(super) fn float(number: f64) -> Self {
        Self {
            kind: Kind::Number(1.0),
            repr: float(number),
        }
    }

    pub(super) fn text(text: String) -> Self {
        let mut repr = String::new();
        quote(&text, &mut repr);
        Self {
            kind: Kind::Text(text),
            repr,
        }
    }

    pub(super) fn constant(name: &str) -> Self {
        Self {
            kind: Kind::Other,
            repr: name.to_owned(),
        }
    }

    pub(super) fn list(items: Vec<Self>) -> Option<Self> {
        Some(Self::constant(&format!("[{}]", joined(&items))))
    }

    pub(super) fn tuple(items: Vec<Self>) -> Option<Self> {
        let comma = if items.len() == 1 { "," } else { "" };
        Some(Self::constant(&format!("({}{comma})", joined(&items))))
    }

    /// With a sign, which only a number may have; `~` makes no literal.
    pub(super) fn signed(self, sign: &str) -> Option<Self> {
        let Kind::Number(size) = self.kind else {
            return None;
        };
        let repr = match sign {
            "+" => self.repr,
            // Whole numbers have no negative 0.
            "-" if size == 0.0 => self.repr,
            "-" => format!("-{}", self.repr),
            _ => return None,
        };
        Some(Self::constant(&repr))
    }
}

fn joined(items: &[Literal]) -> String {
    let items: Vec<_> = items.iter().map(|item| item.repr.as_str()).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<String>, Fault> {
        Ok(literal(text)?.map(Literal::into_python))
    }

    #[test]
    fn literals_are_written_as_python_does() {
        for (text, written) in [
            ("'Member'", "Member"),
            ("\"it's\"", "it's"),
            ("'a''b'", "ab"),
            ("'''a'''", "a"),
            (r"'\x41\u00e9\101\n\d'", "A\u{e9}A\n\\d"),
            (r"r'\n'", r"\n"),
            ("u'a'", "a"),
            ("True", "True"),
            ("None", "None"),
            ("...", "Ellipsis"),
            ("5", "5"),
            ("-5", "-5"),
            ("+5", "5"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("0x10", "16"),
            ("0o17", "15"),
            ("0b101", "5"),
            ("0x_ff", "255"),
            ("1_000", "1000"),
            ("00", "0"),
            ("1.", "1.0"),
            (".5", "0.5"),
            ("1e3", "1000.0"),
            ("1e400", "inf"),
            ("[1,'a',None]", "[1, 'a', None]"),
            ("1,", "(1,)"),
            ("(1,2)", "(1, 2)"),
            ("()", "()"),
            ("{}", "{}"),
            ("set()", "set()"),
            ("[set( ), 1]", "[set(), 1]"),
            ("('a')", "a"),
            ("  7 ", "7"),
            ("7#x", "7"),
        ] {
            assert_eq!(read(text), Ok(Some(written.to_owned())), "{text}");
        }
    }

    #[test]
    fn other_expressions_are_paths() {
        for text in [
            "user",
            "user.domain.id",
            "user-id",
            "a.b-c",
            "--5",
            "-True",
            "-'a'",
            "~5",
            "1+2",
            "f(x)",
            "f()",
            "a[0]",
            "[a]",
            "(a,)",
            "1..real",
            "not a",
            "a if b else c",
            "a not in b",
            "a is not b",
            "match",
            "é",
            "e\u{301}",
            "\u{2118}",
            "set(x)",
            "set().a",
            "set()()",
            "a.set()",
            "-set()",
            "a<b",
            "1,a",
            "_",
            "user#x",
        ] {
            assert_eq!(read(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_python_cannot_read_is_a_fault() {
        for text in [
            "",
            " ",
            "class",
            "user.class",
            "2x",
            "007",
            "1__0",
            "1_",
            "0x",
            "a b",
            "'a",
            "a..b",
            "a.",
            ".a",
            "a!b",
            "a$",
            "a-",
            "[a",
            "a]",
            "()(",
            "a[]",
            "a=b",
            "5.real",
            "1 2",
            "'a\nb'",
            r"'\x4'",
            "b'x'",
            "f'x'",
            "{1}",
            "a,,b",
            ",",
            "€",
            "ⓐ",
            "\u{93e}",
            "not",
            "a not b",
            "if",
            "a if b",
            "\u{a0}a",
            "0b2",
            "a;b",
            "a\\b",
            "?",
            "[,]",
        ] {
            assert!(read(text).is_err(), "{text}: {:?}", read(text));
        }
        assert!(read(&"(".repeat(100_000)).is_err());
        assert_eq!(read(&("-".repeat(300) + "1")), Ok(None));
        assert!(read(&("-".repeat(3000) + "1")).is_err());
        assert!(read(&("a".to_owned() + &".a".repeat(300))).is_err());
    }
}
