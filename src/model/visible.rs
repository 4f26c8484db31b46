//! Text of whoever, made fit for one line of a log or terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with all that would do something else than be seen as `\u{…}` (a line break as `\n`): control characters, which begin
/// lines and drive terminals, and the marks that turn the direction of writing, which make a line read otherwise than it is
/// (Unicode Standard Annex 9, "Bidi_Control").
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            // Writing to a string does not fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_is_seen_and_the_rest_is_as_it_was() {
        assert_eq!(
            visible("a\nb\u{1b}[2J\u{9b}\0"),
            r"a\nb\u{1b}[2J\u{9b}\u{0}"
        );
        assert_eq!(visible("\u{202e}x\u{2066}"), r"\u{202e}x\u{2066}");
        assert!(matches!(visible("Übung \\ שלום"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text: String) {
            let seen = visible(&text).into_owned();
            prop_assert!(!seen.contains(acts));
            prop_assert_eq!(visible(&seen), seen.as_str());
        }
    }
}
