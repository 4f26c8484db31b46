//! The token by which a watch resumes: opaque to callers, so that its meaning may change.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::attach::Revision;

/// The token's version, so that another meaning can be told apart.
const VERSION: &str = "1:";

/// The token of a revision.
pub(super) fn token(revision: Revision) -> String {
    let Revision { life, number } = revision;
    URL_SAFE_NO_PAD.encode(format!("{VERSION}{}:{number}", life.simple()))
}

/// The revision of a token; `None` where this is no token of ours.
pub(super) fn parse(text: &str) -> Option<Revision> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let inner = String::from_utf8(bytes).ok()?;
    let (life, number) = inner.strip_prefix(VERSION)?.split_once(':')?;
    let life = Uuid::try_parse(life).ok()?;
    let number = number.parse().ok()?;
    let revision = Revision { life, number };
    // One revision, one token: other spellings of the same numbers are not ours.
    (token(revision) == text).then_some(revision)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives(life in any::<u128>(), number in any::<u64>()) {
            let revision = Revision { life: Uuid::from_u128(life), number };
            prop_assert_eq!(parse(&token(revision)), Some(revision));
        }

        #[test]
        fn anything_else_is_no_token(text in ".{0,100}") {
            if let Some(revision) = parse(&text) {
                prop_assert_eq!(token(revision), text);
            }
        }
    }
}
