//! Pages of a list: their size, and the token that continues them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::AttachmentId;

/// Attachments on a page when the caller does not say.
const DEFAULT_SIZE: usize = 100;
/// The most attachments on a page; a caller that asks for more gets this many.
const MAX_SIZE: usize = 1000;
/// The token's version, so that another meaning can be told apart.
const VERSION: &str = "1:";

/// How many attachments a page of the size asked for has.
pub(super) fn size(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(MAX_SIZE) {
        0 => DEFAULT_SIZE,
        n => n.min(MAX_SIZE),
    }
}

/// The token of the page after that attachment.
pub(super) fn token(last: &AttachmentId) -> String {
    URL_SAFE_NO_PAD.encode(format!("{VERSION}{}", last.as_str()))
}

/// The attachment after which the token's page begins; `None` where this is no token of ours.
pub(super) fn parse(token: &str) -> Option<AttachmentId> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.strip_prefix(VERSION)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_a_default_and_an_end() {
        assert_eq!(
            [0, 1, 1000, 1001, u32::MAX].map(size),
            [100, 1, 1000, 1000, 1000]
        );
    }

    proptest! {
        #[test]
        fn a_token_survives(id in "[A-Za-z0-9_-]{1,64}") {
            let id: AttachmentId = id.parse().unwrap();
            prop_assert_eq!(parse(&token(&id)), Some(id));
        }

        #[test]
        fn anything_else_is_no_token(text in ".{0,100}") {
            if let Some(id) = parse(&text) {
                prop_assert_eq!(token(&id), text);
            }
        }
    }
}
