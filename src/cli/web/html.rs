//! Text made fit for HTML.

use crate::model::visible;

/// A part of the page. Markup is what this program was built with; all else goes in as text, and is escaped.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Adds markup.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, as content or within a quoted attribute. What would act otherwise than to be seen is spelt out.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in visible(text).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    /// Adds a number.
    pub(super) fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        self.0.push_str(&number.into().to_string());
        self
    }

    /// Adds another part.
    pub(super) fn part(&mut self, part: &Self) -> &mut Self {
        self.0.push_str(&part.0);
        self
    }

    /// The document.
    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.into_string()
    }

    #[test]
    fn markup_in_a_value_is_text() {
        assert_eq!(
            escaped(r#"<script>alert('1')</script> "&amp;""#),
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &quot;&amp;amp;&quot;"
        );
        assert_eq!(escaped("a\u{202e}b\0"), r"a\u{202e}b\u{0}");
    }

    proptest! {
        /// No text ends an element or an attribute, and a browser shows what it was.
        #[test]
        fn no_text_is_markup(text in r#"[<>&"'a-z;#\PC\x00-\x1f]*"#) {
            let html = escaped(&text);
            prop_assert!(!html.contains(['<', '>', '"', '\'']));
            let shown = ["&lt;<", "&gt;>", "&quot;\"", "&#39;'", "&amp;&"];
            let mut rest = html.as_str();
            let mut read = String::new();
            while let Some(c) = rest.chars().next() {
                if c == '&' {
                    let entity = shown.iter().find(|it| rest.starts_with(&it[..it.len() - 1]));
                    let entity = entity.expect("an & that is no entity");
                    read.push_str(&entity[entity.len() - 1..]);
                    rest = &rest[entity.len() - 1..];
                } else {
                    read.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
            prop_assert_eq!(read, visible(&text).into_owned());
        }
    }
}
