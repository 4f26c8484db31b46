//! The tokens of a Python expression, as far as a check's left side can hold one.

use super::Fault;

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'a> {
    /// A name or a keyword.
    Word(&'a str),
    /// A whole number, by its decimal digits.
    Int(String),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// A string, its escapes resolved.
    Text(String),
    /// An operator or delimiter.
    Op(&'a str),
}

/// Longer ones first, so that `**` is not taken for two `*`.
const OPERATORS: [&str; 27] = [
    "...", "**", "//", "<<", ">>", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "@", "&", "|",
    "^", "~", "<", ">", "(", ")", "[", "]", "{", "}",
];

/// Python's own limit is its stack, which some thousand signs or dots fill.
const MAX_TOKENS: usize = 400;

/// As many digits as Python reads into a whole number.
const MAX_DIGITS: usize = 4300;

pub(super) fn fault<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(message.into()))
}

/// Parts a text into tokens. What begins with `#` is a comment.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Fault> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\u{c}']);
    while let Some(c) = rest.chars().next() {
        let next = rest.chars().nth(1);
        if c == '#' && !rest.contains(['\n', '\r']) {
            break;
        } else if c.is_ascii_digit() || (c == '.' && next.is_some_and(|c| c.is_ascii_digit())) {
            found.push(number(&mut rest)?);
        } else if c == '_' || unicode_ident::is_xid_start(c) {
            let end = rest
                .find(|c| !unicode_ident::is_xid_continue(c))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if after.starts_with(['\'', '"']) {
                rest = after;
                found.push(prefixed(word, &mut rest)?);
            } else {
                rest = after;
                found.push(Token::Word(word));
            }
        } else if matches!(c, '\'' | '"') {
            found.push(Token::Text(string(&mut rest, false)?));
        } else if let Some(operator) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) {
            found.push(Token::Op(operator));
            rest = &rest[operator.len()..];
        } else if matches!(c, ',' | '.') {
            found.push(Token::Op(&rest[..1]));
            rest = &rest[1..];
        } else {
            return fault(format!("Python has no use for {c:?} here"));
        }
        rest = rest.trim_start_matches([' ', '\t', '\u{c}']);
        if found.len() > MAX_TOKENS {
            return fault(format!("it has more than {MAX_TOKENS} words and signs"));
        }
    }
    Ok(found)
}

fn number<'a>(rest: &mut &'a str) -> Result<Token<'a>, Fault> {
    let lower = rest.get(..2).map(str::to_ascii_lowercase);
    let radix = match lower.as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 10,
    };
    let token = if radix == 10 {
        decimal(rest)?
    } else {
        *rest = &rest[2..];
        *rest = rest.strip_prefix('_').unwrap_or(rest);
        let digits = grouped(rest, radix)?;
        match u128::from_str_radix(&digits, radix) {
            Ok(number) => Token::Int(number.to_string()),
            Err(_) => return fault("a number that is empty, or of more than 128 bits"),
        }
    };
    match rest.chars().next() {
        Some(c) if c == '_' || c.is_alphanumeric() => fault("a number that runs into a name"),
        _ => Ok(token),
    }
}

fn decimal<'a>(rest: &mut &'a str) -> Result<Token<'a>, Fault> {
    let whole = match rest.starts_with('.') {
        true => String::new(),
        false => grouped(rest, 10)?,
    };
    let mut text = whole.clone();
    let mut is_float = false;
    if let Some(after) = rest.strip_prefix('.') {
        *rest = after;
        is_float = true;
        text.push('.');
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            text.push_str(&grouped(rest, 10)?);
        }
    }
    if let Some(after) = rest.strip_prefix(['e', 'E']) {
        *rest = after;
        is_float = true;
        text.push('e');
        if let Some(sign) = rest.chars().next().filter(|c| matches!(c, '+' | '-')) {
            text.push(sign);
            *rest = &rest[1..];
        }
        text.push_str(&grouped(rest, 10)?);
    }
    if is_float {
        return match text.parse() {
            Ok(number) => Ok(Token::Float(number)),
            Err(_) => fault(format!("{text:?} is no number")),
        };
    }
    let digits = whole.trim_start_matches('0');
    match digits {
        "" => Ok(Token::Int("0".to_owned())),
        _ if digits.len() < whole.len() => fault("a whole number that begins with 0"),
        _ if digits.len() > MAX_DIGITS => fault(format!("more than {MAX_DIGITS} digits")),
        digits => Ok(Token::Int(digits.to_owned())),
    }
}

/// Digits, between two of which there may be an underscore.
fn grouped(rest: &mut &str, radix: u32) -> Result<String, Fault> {
    let mut digits = String::new();
    let mut after_digit = false;
    while let Some(c) = rest.chars().next() {
        match c {
            '_' if after_digit => after_digit = false,
            c if c.is_digit(radix) => {
                digits.push(c);
                after_digit = true;
            }
            _ => break,
        }
        *rest = &rest[1..];
    }
    match after_digit {
        true => Ok(digits),
        false => fault("a digit is missing"),
    }
}

fn prefixed<'a>(prefix: &str, rest: &mut &'a str) -> Result<Token<'a>, Fault> {
    let raw = match prefix.to_ascii_lowercase().as_str() {
        "u" => false,
        "r" => true,
        other => return fault(format!("strings with the prefix {other:?} are not read")),
    };
    Ok(Token::Text(string(rest, raw)?))
}

/// A string in single or triple quotes.
fn string(rest: &mut &str, raw: bool) -> Result<String, Fault> {
    let mark = &rest[..1];
    let triple = mark.repeat(3);
    let end = match rest.starts_with(&triple) {
        true => triple.as_str(),
        false => mark,
    };
    let mut left = &rest[end.len()..];
    let mut text = String::new();
    loop {
        if let Some(after) = left.strip_prefix(end) {
            *rest = after;
            return Ok(text);
        }
        let Some(c) = left.chars().next() else {
            return fault("a string without its closing quote");
        };
        left = &left[c.len_utf8()..];
        match c {
            '\\' if raw => {
                let Some(c) = left.chars().next() else {
                    return fault("a string without its closing quote");
                };
                left = &left[c.len_utf8()..];
                text.extend(['\\', c]);
            }
            '\\' => escaped(&mut left, &mut text)?,
            '\n' | '\r' | '\0' => return fault("a string across lines"),
            c => text.push(c),
        }
    }
}

/// What follows a backslash.
fn escaped(rest: &mut &str, text: &mut String) -> Result<(), Fault> {
    let Some(c) = rest.chars().next() else {
        return fault("a string without its closing quote");
    };
    *rest = &rest[c.len_utf8()..];
    let plain = match c {
        '\\' | '\'' | '"' => c,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        'x' => by_number(rest, 2)?,
        'u' => by_number(rest, 4)?,
        'U' => by_number(rest, 8)?,
        '0'..='7' => {
            let mut number = c.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                if let Some(digit) = rest.chars().next().and_then(|c| c.to_digit(8)) {
                    number = number * 8 + digit;
                    *rest = &rest[1..];
                }
            }
            char::from_u32(number).unwrap_or('\u{fffd}')
        }
        'N' | '\n' | '\r' | '\0' => return fault(format!("the escape \\{c:?} is not read")),
        other => {
            text.push('\\');
            other
        }
    };
    text.push(plain);
    Ok(())
}

fn by_number(rest: &mut &str, length: usize) -> Result<char, Fault> {
    let digits = rest.get(..length).filter(|digits| {
        let mut digits = digits.chars();
        digits.all(|c| c.is_ascii_hexdigit())
    });
    let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let Some(c) = number.and_then(char::from_u32) else {
        return fault("an escape in a string that names no character");
    };
    *rest = &rest[length..];
    Ok(c)
}
