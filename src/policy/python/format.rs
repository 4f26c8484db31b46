//! Python's `%`-formatting of a string with a map: `project-%(project_id)s`.

use super::Fault;
use super::number::{exponential, fixed, general};
use super::value::{Value, escape, quote};

/// The widest field, and the most digits: enough for any name, and no way to fill the memory.
const MAX_WIDTH: usize = 4096;

/// Why a template yields no string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) enum FormatError {
    /// The target has no such key: the check is false.
    MissingKey(String),
    /// Python raises an exception.
    Fault(Fault),
}

fn fault<T>(message: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError::Fault(Fault(message.into())))
}

/// Fills in `template` from the target's entries.
pub(in crate::policy) fn format(
    template: &str,
    target: &[(String, Value)],
) -> Result<String, FormatError> {
    let mut out = String::new();
    let mut rest = template;
    let mut whole_used = false;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let whole;
        let value = match key(&mut rest)? {
            Some(name) => {
                let found = target.iter().find(|(key, _)| key == name);
                &found
                    .ok_or_else(|| FormatError::MissingKey(name.to_owned()))?
                    .1
            }
            // Without a key it is the target as a whole, once.
            None if !whole_used => {
                whole = Value::Map(target.to_vec());
                &whole
            }
            None => return fault("a % without a key, after another %"),
        };
        whole_used = true;
        let spec = Spec::take(&mut rest)?;
        spec.write(value, &mut out)?;
    }
    out.push_str(rest);
    Ok(out)
}

/// The keys that a template asks the target for.
pub(in crate::policy) fn keys(template: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
        } else if let Ok(Some(name)) = key(&mut rest) {
            keys.push(name);
        }
    }
    keys
}

/// Takes `(key)`, in which parentheses pair.
fn key<'a>(rest: &mut &'a str) -> Result<Option<&'a str>, FormatError> {
    let Some(inner) = rest.strip_prefix('(') else {
        return Ok(None);
    };
    let mut open = 1;
    for (at, c) in inner.char_indices() {
        match c {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        if open == 0 {
            *rest = &inner[at + 1..];
            return Ok(Some(&inner[..at]));
        }
    }
    fault("a %( without its closing parenthesis")
}

/// What stands between the key and the next plain text: `-08.3f`.
#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

impl Spec {
    fn take(rest: &mut &str) -> Result<Self, FormatError> {
        let mut spec = Self::default();
        while let Some(c) = rest.chars().next() {
            match c {
                '-' => spec.left = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => break,
            }
            *rest = &rest[1..];
        }
        spec.width = digits(rest)?;
        if let Some(after) = rest.strip_prefix('.') {
            *rest = after;
            spec.precision = Some(digits(rest)?);
        }
        if let Some(after) = rest.strip_prefix(['h', 'l', 'L']) {
            *rest = after;
        }
        let Some(c) = rest.chars().next() else {
            return fault("a % at the end, without saying how to write the value; a plain % is %%");
        };
        spec.conversion = c;
        *rest = &rest[c.len_utf8()..];
        Ok(spec)
    }

    fn write(&self, value: &Value, out: &mut String) -> Result<(), FormatError> {
        match self.conversion {
            's' => self.pad_text(&value.to_python(), out),
            'r' => self.pad_text(&value.repr(), out),
            'a' => self.pad_text(&ascii(&value.repr()), out),
            'c' => self.pad("", &character(value)?, false, out),
            'd' | 'i' | 'u' => {
                let (negative, digits) = decimal(value)?;
                self.pad_number(negative, "", digits, out);
            }
            'o' | 'x' | 'X' => {
                let number = integer(value, self.conversion)?;
                let (prefix, digits) = match self.conversion {
                    'o' => ("0o", format!("{:o}", number.unsigned_abs())),
                    'x' => ("0x", format!("{:x}", number.unsigned_abs())),
                    _ => ("0X", format!("{:X}", number.unsigned_abs())),
                };
                let prefix = if self.alternate { prefix } else { "" };
                self.pad_number(number < 0, prefix, digits, out);
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => self.write_float(real(value)?, out),
            other => return fault(format!("% has no conversion {other:?}")),
        }
        Ok(())
    }

    fn write_float(&self, number: f64, out: &mut String) {
        let precision = self.precision.unwrap_or(6);
        let upper = self.conversion.is_ascii_uppercase();
        let magnitude = number.abs();
        let text = match self.conversion {
            _ if magnitude.is_infinite() => if upper { "INF" } else { "inf" }.to_owned(),
            'e' | 'E' => exponential(magnitude, precision, self.alternate, upper),
            'f' | 'F' => fixed(magnitude, precision, self.alternate),
            _ => general(magnitude, precision, self.alternate, upper),
        };
        self.pad(self.sign(number.is_sign_negative()), &text, self.zero, out);
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    /// The precision of a text is the most characters of it.
    fn pad_text(&self, text: &str, out: &mut String) {
        let text: String = match self.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text.to_owned(),
        };
        self.pad("", &text, false, out);
    }

    /// The precision of a whole number is the fewest digits of it.
    fn pad_number(&self, negative: bool, prefix: &str, digits: String, out: &mut String) {
        let zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
        let digits = "0".repeat(zeros) + &digits;
        let sign = self.sign(negative).to_owned() + prefix;
        self.pad(&sign, &digits, self.zero, out);
    }

    fn pad(&self, sign: &str, text: &str, zero: bool, out: &mut String) {
        let length = sign.chars().count() + text.chars().count();
        let missing = self.width.saturating_sub(length);
        let (before, zeros, after) = match (self.left, zero) {
            (true, _) => (0, 0, missing),
            (false, true) => (0, missing, 0),
            (false, false) => (missing, 0, 0),
        };
        out.extend(std::iter::repeat_n(' ', before));
        out.push_str(sign);
        out.extend(std::iter::repeat_n('0', zeros));
        out.push_str(text);
        out.extend(std::iter::repeat_n(' ', after));
    }
}

/// Takes a number; none is 0.
fn digits(rest: &mut &str) -> Result<usize, FormatError> {
    if rest.starts_with('*') {
        return fault("a width from the values (*), which a map does not give");
    }
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    *rest = after;
    match number.trim_start_matches('0') {
        "" => Ok(0),
        number => match number.parse() {
            Ok(width) if width <= MAX_WIDTH => Ok(width),
            _ => fault(format!("a width or precision of more than {MAX_WIDTH}")),
        },
    }
}

fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => escape(c, &mut out),
        }
    }
    out
}

fn mismatch<T>(value: &Value, conversion: char, wanted: &str) -> Result<T, FormatError> {
    let mut shown = String::new();
    quote(&value.to_python(), &mut shown);
    let kind = value.type_name();
    fault(format!(
        "%{conversion} wants {wanted}, and {shown} is {kind}"
    ))
}

fn character(value: &Value) -> Result<String, FormatError> {
    let wanted = "one character or its number";
    match value {
        Value::Text(text) if text.chars().count() == 1 => Ok(text.clone()),
        Value::Int(_) | Value::Bool(_) => {
            let number = u32::try_from(integer(value, 'c')?).ok();
            match number.and_then(char::from_u32) {
                Some(c) => Ok(c.to_string()),
                None => mismatch(value, 'c', wanted),
            }
        }
        _ => mismatch(value, 'c', wanted),
    }
}

fn integer(value: &Value, conversion: char) -> Result<i128, FormatError> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::Bool(flag) => Ok((*flag).into()),
        _ => mismatch(value, conversion, "a whole number"),
    }
}

/// A number's sign and whole part, however large.
fn decimal(value: &Value) -> Result<(bool, String), FormatError> {
    match value {
        Value::Float(number) if number.is_finite() => {
            let whole = number.trunc();
            Ok((whole < 0.0, format!("{:.0}", whole.abs())))
        }
        Value::Int(_) | Value::Bool(_) => {
            let number = integer(value, 'd')?;
            Ok((number < 0, number.unsigned_abs().to_string()))
        }
        _ => mismatch(value, 'd', "a number"),
    }
}

#[allow(clippy::cast_precision_loss)] // as Python's float() does
fn real(value: &Value) -> Result<f64, FormatError> {
    match value {
        Value::Float(number) => Ok(*number),
        Value::Int(number) => Ok(*number as f64),
        Value::Bool(flag) => Ok(f64::from(*flag)),
        _ => mismatch(value, 'f', "a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Vec<(String, Value)> {
        let json = r#"{"n": 16, "s": "Member", "f": 1.5, "t": true, "none": null, "l": ["p1", 1.0], "u.v": "w",
            "(x)": "nested", "big": 1e300, "neg": -7, "e": "é"}"#;
        match serde_json::from_str(json).unwrap() {
            Value::Map(entries) => entries,
            _ => unreachable!(),
        }
    }

    #[test]
    fn templates_are_filled_in_as_python_does() {
        for (template, text) in [
            ("plain", "plain"),
            ("100%%", "100%"),
            ("%(s)s-%(n)s", "Member-16"),
            ("%(u.v)s", "w"),
            ("%((x))s", "nested"),
            ("%(none)s %(t)s %(f)s %(l)s", "None True 1.5 ['p1', 1.0]"),
            ("%(s).3s|%(s)-8s|%(s)08s", "Mem|Member  |  Member"),
            ("%(s)r %(e)a", "'Member' '\\xe9'"),
            (
                "%(n)x %(n)#X %(n)#o %(n)05d %(n)+d %(n) d",
                "10 0X10 0o20 00016 +16  16",
            ),
            ("%(n)-05d|%(n)05.3d|%(n)#08x", "16   |00016|0x000010"),
            ("%(f)d %(t)d %(neg)x %(neg)05d", "1 1 -7 -0007"),
            ("%(f)f %(f).1e %(n)g %(f)05.1f", "1.500000 1.5e+00 16 001.5"),
            ("%(n)c %(e)c %(n)ld", "\u{10} é 16"),
        ] {
            assert_eq!(
                format(template, &target()).as_deref(),
                Ok(text),
                "{template}"
            );
        }
        assert!(
            format("%(big)d", &target())
                .unwrap()
                .starts_with("1000000000000000052504760255")
        );
        let whole = format("%s", &target()[..2]).unwrap();
        assert_eq!(whole, "{'n': 16, 's': 'Member'}");
    }

    #[test]
    fn a_missing_key_is_told_from_what_python_raises_at() {
        assert_eq!(
            format("%(x)s%z", &target()),
            Err(FormatError::MissingKey("x".to_owned()))
        );
        for template in [
            "100%",
            "%",
            "%(n",
            "%(n)",
            "%(n)z",
            "%(n)%",
            "%5%",
            "%(s)d",
            "%(f)x",
            "%(s)f",
            "%(s)c",
            "%(n)s%s",
            "%s%s",
            "%(n)*d",
            "%(n)lld",
            "%(s)99999s",
            "%(n).99999999999999999999d",
        ] {
            assert!(
                matches!(format(template, &target()), Err(FormatError::Fault(_))),
                "{template}"
            );
        }
    }

    #[test]
    fn the_keys_of_a_template_are_found() {
        assert_eq!(keys("%(a)s-%%(b)s-%(c.d)-5s%"), ["a", "c.d"]);
        assert!(keys("100%").is_empty() && keys("%(a").is_empty());
    }
}
