//! Numbers as Python writes them.

/// A float as Python's `repr()` writes it: the shortest digits that read back as the same number, with an exponent where
/// it is less than -4 or more than 15.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let (digits, exponent) = scientific(&format!("{number:e}"));
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    with_exponent(&digits, exponent, 'e')
}

/// As `%e` writes it, `precision` digits after the point.
pub(super) fn exponential(number: f64, precision: usize, alternate: bool, upper: bool) -> String {
    let (mut digits, exponent) = scientific(&format!("{number:.precision$e}"));
    if alternate && precision == 0 {
        digits.push('.');
    }
    with_exponent(&digits, exponent, if upper { 'E' } else { 'e' })
}

/// As `%f` writes it.
pub(super) fn fixed(number: f64, precision: usize, alternate: bool) -> String {
    let point = if alternate && precision == 0 { "." } else { "" };
    format!("{number:.precision$}{point}")
}

/// As `%g` writes it: `precision` digits in all, with an exponent where that is shorter.
pub(super) fn general(number: f64, precision: usize, alternate: bool, upper: bool) -> String {
    let precision = precision.max(1);
    let rounded = format!("{number:.*e}", precision - 1);
    let (digits, exponent) = scientific(&rounded);
    // A precision that is to be compared is small enough: it was limited when it was read.
    let limit = i32::try_from(precision).unwrap_or(i32::MAX);
    let without_zeros = |text: String| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    let with_point = |text: String| match alternate && !text.contains('.') {
        true => text + ".",
        false => text,
    };
    if exponent < -4 || exponent >= limit {
        let digits = with_point(without_zeros(digits));
        return with_exponent(&digits, exponent, if upper { 'E' } else { 'e' });
    }
    let places = usize::try_from(limit - 1 - exponent).unwrap_or(0);
    with_point(without_zeros(format!("{number:.places$}")))
}

/// Parts Rust's `1.5e-7` into digits and exponent.
fn scientific(text: &str) -> (String, i32) {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    (digits.to_owned(), exponent.parse().unwrap_or(0))
}

fn with_exponent(digits: &str, exponent: i32, letter: char) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{letter}{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        for (number, text) in [
            (1.5, "1.5"),
            (-2.0, "-2.0"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e-5, "1.25e-05"),
            (0.0001, "0.0001"),
            (f64::INFINITY, "inf"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(float(number), text);
        }
        assert_eq!(exponential(1.5, 6, false, false), "1.500000e+00");
        assert_eq!(exponential(1500.0, 0, true, true), "2.E+03");
        assert_eq!(fixed(2.5, 0, true), "2.");
        assert_eq!(general(1.5, 6, false, false), "1.5");
        assert_eq!(general(1.5, 6, true, false), "1.50000");
        assert_eq!(general(1_234_567.0, 6, false, true), "1.23457E+06");
        assert_eq!(general(0.00001, 6, false, false), "1e-05");
        assert_eq!(general(100_000.0, 6, true, false), "100000.");
    }
}
