//! The grammar of an options string: groups, options, quotes and escapes. What the options mean is `options`' business.
//!
//! ```text
//! string  = [ "-o" ] group { space "-o" space group }
//! group   = option { "," option }  |  quote option { "," option } quote
//! option  = name [ "=" value ]
//! value   = quoted | { character | ",," | "\" special }
//! quoted  = "'" { character } "'"  |  '"' { character | '\"' | "\\" } '"'
//! special = "," | "\" | "'" | '"' | "%" | space
//! ```
//! A quote opens a quoted value only as its first character. A backslash before anything but a special character is
//! itself, so that `DOM\user` is what it looks like. A doubled comma is a comma, as for the kernel. Spaces inside a
//! value belong to it, those at its ends do not.

use zeroize::Zeroizing;

/// The longest options string, in bytes: mount(2) takes a page, and what is read here grows with the square of it.
const MAX_TEXT: usize = 4096;

/// What parts groups; any other white space is text like all other.
const SPACE: [char; 2] = [' ', '\t'];

/// One option. Every value may be a secret until it is known not to be.
pub(super) struct Token {
    /// The name as written.
    pub(super) name: String,
    /// The value, unquoted.
    pub(super) value: Option<Value>,
}

/// A value, with quotes and escapes taken away.
pub(super) struct Value {
    /// The text.
    pub(super) text: Zeroizing<String>,
    /// Where in `text` the first `%` is that was neither quoted nor escaped: it parts user from password.
    pub(super) percent: Option<usize>,
}

/// Takes an options string apart.
///
/// # Errors
/// What is wrong, in words that tell no value.
pub(super) fn parse(text: &str) -> Result<Vec<Token>, String> {
    if text.len() > MAX_TEXT {
        return Err("it is longer than 4096 bytes, which is all that mount(2) takes".to_owned());
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err("it holds a control character".to_owned());
    }
    let mut scanner = Scanner { rest: text };
    let mut tokens = Vec::new();
    while scanner.start_option() {
        if let Some(group) = scanner.quoted_group() {
            let mut inner = Scanner { rest: group };
            while inner.start_option() {
                tokens.extend(inner.option(tokens.len())?);
            }
        } else {
            tokens.extend(scanner.option(tokens.len())?);
        }
    }
    Ok(tokens)
}

/// Whether a name looks like an option's: only such names are told in errors.
pub(super) fn is_plain(name: &str) -> bool {
    name.len() <= 32
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    /// Skips what may stand before an option; false at the end.
    fn start_option(&mut self) -> bool {
        loop {
            self.rest = self
                .rest
                .trim_start_matches(|c: char| c == ',' || SPACE.contains(&c));
            match self.rest.strip_prefix("-o") {
                Some(rest) => self.rest = rest,
                None => return !self.rest.is_empty(),
            }
        }
    }

    /// Whether an option ends before `rest`; an escape or a doubled comma is not its end.
    fn ends(rest: &str) -> bool {
        let trimmed = rest.trim_start_matches(SPACE);
        trimmed.is_empty() || trimmed.starts_with(',') || Self::group_begins(rest)
    }

    /// Whether `rest` is space, `-o`, and space or the end.
    fn group_begins(rest: &str) -> bool {
        let trimmed = rest.trim_start_matches(SPACE);
        trimmed.len() < rest.len()
            && trimmed
                .strip_prefix("-o")
                .is_some_and(|after| after.is_empty() || after.starts_with(SPACE))
    }

    /// A group that is quoted as a whole, without its quotes.
    fn quoted_group(&mut self) -> Option<&'a str> {
        let quote = self
            .rest
            .chars()
            .next()
            .filter(|c| matches!(c, '\'' | '"'))?;
        let body = &self.rest[1..];
        let (end, _) = body.match_indices(quote).find(|(at, _)| {
            let after = &body[at + 1..];
            after.trim_start_matches(SPACE).is_empty() || Self::group_begins(after)
        })?;
        self.rest = &body[end + 1..];
        Some(&body[..end])
    }

    /// The next option; `None` where there is only an empty one.
    fn option(&mut self, index: usize) -> Result<Option<Token>, String> {
        let end = self
            .rest
            .char_indices()
            .find(|(at, c)| matches!(c, ',' | '=') || Self::group_begins(&self.rest[*at..]))
            .map_or(self.rest.len(), |(at, _)| at);
        let name = self.rest[..end].trim_matches(SPACE).to_owned();
        self.rest = &self.rest[end..];
        let value = match self.rest.strip_prefix('=') {
            Some(rest) => {
                self.rest = rest;
                Some(self.value(index)?)
            }
            None => None,
        };
        if name.is_empty() {
            return match value {
                Some(_) => Err(format!("option {} has a value and no name", index + 1)),
                None => Ok(None),
            };
        }
        Ok(Some(Token { name, value }))
    }

    fn value(&mut self, index: usize) -> Result<Value, String> {
        self.rest = match self.rest.trim_start_matches(SPACE) {
            // ` -o ` after `=`: an empty value, then a group
            _ if Self::group_begins(self.rest) => self.rest,
            trimmed => trimmed,
        };
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote).ok_or_else(|| {
                format!(
                    "the value of option {} begins with a quote that is not closed at its end: put the whole value \
                     in quotes, or write \\{quote} for the quote itself",
                    index + 1
                )
            }),
            _ => Ok(self.plain()),
        }
    }

    fn quoted(&mut self, quote: char) -> Option<Value> {
        // As long as the input, so that growing leaves no copies of a secret behind.
        let mut text = Zeroizing::new(String::with_capacity(self.rest.len()));
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                let after = &self.rest[at + 1..];
                self.rest = after;
                return Self::ends(after).then_some(Value {
                    text,
                    percent: None,
                });
            }
            let escaped = (quote == '"' && c == '\\')
                .then(|| chars.next_if(|(_, next)| matches!(next, '"' | '\\')))
                .flatten();
            text.push(escaped.map_or(c, |(_, next)| next));
        }
        None
    }

    fn plain(&mut self) -> Value {
        let mut text = Zeroizing::new(String::with_capacity(self.rest.len()));
        let mut percent = None;
        // The length without the unescaped spaces at the end.
        let mut keep = 0;
        let mut end = self.rest.len();
        let mut chars = self.rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let literal = match c {
                ',' => match chars.next_if(|(_, next)| *next == ',') {
                    Some(_) => Some(','),
                    None => {
                        end = at;
                        break;
                    }
                },
                '\\' => chars
                    .next_if(|(_, next)| matches!(next, ',' | '\\' | '\'' | '"' | '%' | ' '))
                    .map(|(_, next)| next),
                _ => None,
            };
            if literal.is_none() && Self::group_begins(&self.rest[at..]) {
                end = at;
                break;
            }
            if literal.is_none() && c == '%' && percent.is_none() {
                percent = Some(text.len());
            }
            text.push(literal.unwrap_or(c));
            if literal.is_some() || !SPACE.contains(&c) {
                keep = text.len();
            }
        }
        self.rest = &self.rest[end..];
        text.truncate(keep);
        Value { text, percent }
    }
}
