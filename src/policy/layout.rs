//! What readers of YAML disagree on, and no policy file therefore has: `PyYAML` would read another policy from it, or none.
//!
//! Of tabs it takes those in quotes, in comments and within the lines of a block; of line breaks in a comment it takes two of Unicode's
//! for the comment's end, so that a rule could stand in it unseen.

use std::ops::Range;

use saphyr_parser::{ScalarStyle, Span};

use super::error::Refusal;

/// The longest name of a rule, in characters (`PyYAML`, scanner.py: a simple key has at most 1024).
const MAX_NAME: usize = 1000;

const TAB: Refusal = unread(
    "a tab is read in quotes and comments alone",
    "write blanks instead",
);
const DIRECTIVE: Refusal = unread(
    "directives, which begin with a percent sign, are not read here",
    "take the line out",
);
const NO_DOCUMENT: Refusal = unread("a document ends here before one began", "take the line out");
const FLOW: Refusal = unread(
    "between brackets and braces, a string with a question mark, or with one of : > | before it, has quotes",
    "put quotes around it",
);
const NAME: Refusal = unread(
    "a rule's name has at most 1000 characters, and stands on one line with its colon",
    "write it so",
);
const NO_END: Refusal = unread(
    "the file ends within a block",
    "put a line break at its end",
);

/// YAML that policy files do not need, and what to do.
pub(super) const fn unread(what: &'static str, advice: &'static str) -> Refusal {
    Refusal::Unread { what, advice }
}

/// A fault, and its line.
pub(super) type Fault = (usize, Refusal);

/// Where the strings of a file are.
pub(super) struct Layout {
    text: Vec<char>,
    /// For each list and map that is open, whether it is in brackets or braces.
    open: Vec<bool>,
    strings: Vec<Found>,
}

/// A string.
struct Found {
    line: usize,
    /// In characters, quotes included.
    range: Range<usize>,
    style: ScalarStyle,
}

impl Layout {
    /// Of a file that has none but characters that all readers take for themselves.
    pub(super) fn new(text: &str) -> Result<Self, Fault> {
        let text: Vec<char> = text.chars().collect();
        let mut line = 1;
        for (index, &c) in text.iter().enumerate() {
            line += usize::from(c == '\n');
            // Alone it is a line break to some, and none to who numbers lines.
            let alone = c == '\r' && text.get(index + 1) != Some(&'\n');
            if alone || !is_read(c) {
                return Err((line, Refusal::Character(c)));
            }
        }
        Ok(Self {
            text,
            open: Vec::new(),
            strings: Vec::new(),
        })
    }

    /// A list or a map begins.
    pub(super) fn begin(&mut self, span: Span) {
        let bracket = matches!(self.text.get(span.start.index()), Some('[' | '{'));
        self.open.push(bracket || self.open.last() == Some(&true));
    }

    /// It ends.
    pub(super) fn end(&mut self) {
        self.open.pop();
    }

    /// There is a string.
    pub(super) fn string(
        &mut self,
        text: &str,
        style: ScalarStyle,
        span: Span,
    ) -> Result<(), Fault> {
        let plain = style == ScalarStyle::Plain;
        let odd = text.contains('?') || text.starts_with([':', '>', '|']);
        if plain && odd && self.open.last() == Some(&true) {
            return Err((span.start.line(), FLOW));
        }
        let end = match style {
            ScalarStyle::SingleQuoted => self.closing('\'', span),
            ScalarStyle::DoubleQuoted => self.closing('"', span),
            _ => span.end.index(),
        };
        self.strings.push(Found {
            line: span.start.line(),
            range: span.start.index()..end,
            style,
        });
        Ok(())
    }

    /// Where a string in quotes ends: the parser's span may go on to the end of a comment.
    fn closing(&self, quote: char, span: Span) -> usize {
        let mut index = span.start.index() + 1;
        while let Some(&c) = self.text.get(index).filter(|_| index < span.end.index()) {
            let next = self.text.get(index + 1);
            match c {
                '\\' if quote == '"' => index += 2,
                '\'' if quote == '\'' && next == Some(&'\'') => index += 2,
                c if c == quote => return index + 1,
                _ => index += 1,
            }
        }
        span.end.index()
    }

    /// The string before was a rule's name.
    pub(super) fn name(&self) -> Result<(), Fault> {
        let Some(Found { line, range, .. }) = self.strings.last() else {
            return Ok(());
        };
        let (before, after) = self.text.split_at(range.end);
        let colon = after.iter().find(|c| **c != ' ') == Some(&':');
        let one_line = !before[range.start..].contains(&'\n');
        if range.len() > MAX_NAME || !colon || !one_line {
            return Err((*line, NAME));
        }
        Ok(())
    }

    /// The file is at its end: holds what is between its strings against the rules.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let block = |style| matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        let last = self.strings.last().filter(|last| block(last.style));
        if let Some(last) = last.filter(|_| self.text.last() != Some(&'\n')) {
            return Err((last.line, NO_END));
        }
        let mut strings = self.strings.iter().peekable();
        let (mut line, mut comment, mut blank, mut began) = (1, false, true, false);
        let mut before = '\n';
        for (index, &c) in self.text.iter().enumerate() {
            while strings.next_if(|one| one.range.end <= index).is_some() {}
            let string = strings.peek().filter(|one| one.range.contains(&index));
            if string.is_none() && !comment && before == '\n' && c == '%' {
                return Err((line, DIRECTIVE));
            }
            comment |= string.is_none() && c == '#' && matches!(before, '\n' | ' ');
            let tab_is_read = comment
                || string.is_some_and(|one| match one.style {
                    ScalarStyle::Plain => false,
                    style => !blank || !block(style),
                });
            if c == '\t' && !tab_is_read {
                return Err((line, TAB));
            }
            if !began && !comment && !matches!(c, ' ' | '\r' | '\n') {
                began = true;
                if string.is_none() && self.text[index..].starts_with(&['.', '.', '.']) {
                    return Err((line, NO_DOCUMENT));
                }
            }
            blank &= c == ' ';
            before = c;
            if c == '\n' {
                (line, comment, blank) = (line + 1, false, true);
            }
        }
        Ok(())
    }
}

/// What `PyYAML` reads (reader.py: `NON_PRINTABLE`), but for what it alone takes for a line break, and for a mark of byte order.
fn is_read(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => true,
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => false,
        c => !c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::policy::file::parse;

    #[test]
    fn what_readers_disagree_on_is_refused() {
        for (text, said) in [
            ("x: '@' # c\u{2028}t: '@'\n", "1: the character '\\u{2028}'"),
            ("x: '@' # c\u{85}t: '@'\n", "1: the character '\\u{85}'"),
            ("# c\n\u{feff}t: '@'\n", "2: the character '\\u{feff}'"),
            ("t: '@' # \u{1b}[0m\n", "1: the character '\\u{1b}'"),
            ("t: 'role:x\u{b}or\u{b}role:y'\n", "1: the character"),
            ("{\n\t\"t\": \"@\"\n}\n", "2: a tab"),
            ("{\"t\":\t\"@\"}", "1: a tab"),
            ("t: '@'\t# c\n", "1: a tab"),
            ("t: role:x\tor role:y\n", "1: a tab"),
            ("t:\n-\trole:x\n", "2: a tab"),
            ("\t# c\nt: '@'\n", "1: a tab"),
            ("t: >\n  x\n\t\n", "3: a tab"),
            ("t: >\t\n  x\n", "1: a tab"),
            ("a: 'b#\tc'\nt: '@'#\tc\n", "2: "),
            ("t: [role:x?, role:y]\n", "1: between brackets"),
            ("{?t: '@'}\n", "1: between brackets"),
            ("{t: :x}\n", "1: between brackets"),
            ("{t: >x}\n", "1: "),
            ("{'t'\n: '@'}\n", "1: a rule's name"),
            ("{\"a\n b\": '!', t: '@'}\n", "1: a rule's name"),
            ("? t\n: '@'\n", "1: a rule's name"),
            ("%YAML 2.0\n---\nt: '@'\n", "1: directives"),
            ("# c\n%TA%% x\n---\nt: '@'\n", "2: directives"),
            ("...\n", "1: a document ends"),
            ("t:\n- |\n  user_id:u1", "3: the file ends"),
            ("# c\rt: '@'\n", "1: the character '\\r'"),
            ("t: |+\n  ", "1: the file ends"),
        ] {
            let error = parse(Path::new("p"), text).map_err(|error| error.to_string());
            let error = error.expect_err(text);
            assert!(error.starts_with(&format!("p:{said}")), "{text:?}: {error}");
        }
        let long = format!("{{{}: '@'}}", "x".repeat(1001));
        assert!(parse(Path::new("p"), &long).is_err());
    }

    #[test]
    fn what_they_agree_on_is_read() {
        for text in [
            "# a\tb\r\nt: \"a\tb\" # c\td\r\nu: 'é\tb'\r\n",
            "t: 'a#\tb'\nu: a#b #\tc\n",
            "t: |\n  a\tb\n# c\td\nu: >-\n  é\tb\n",
            "t: role:x?\nu: http://h/x?y=z\n",
            "{'a': 'b?', c : [d, ':e']} # %\n",
            "\"a b\" : '@'\n",
            "t: >-\n  a\n...\n",
            "t: \"\\u2028\\t\"",
        ] {
            let read = parse(Path::new("p"), text);
            assert!(read.is_ok(), "{text:?}: {read:?}");
        }
    }
}
