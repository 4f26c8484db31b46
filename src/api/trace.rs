//! The trace that a call belongs to: its header `traceparent` (W3C Trace Context, <https://www.w3.org/TR/trace-context/>, section 3.2).

use tonic::metadata::MetadataMap;

/// The header.
const HEADER: &str = "traceparent";

/// The length of version 0: `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
const LENGTH: usize = 55;

/// A header that is as the recommendation has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceParent<'a>(&'a str);

impl<'a> TraceParent<'a> {
    /// The caller's trace. `None`: there is no such header, several, or a malformed one, which the recommendation says to ignore.
    pub(super) fn of(metadata: &'a MetadataMap) -> Option<Self> {
        let mut headers = metadata.get_all(HEADER).into_iter();
        let header = headers.next()?.to_str().ok()?;
        match headers.next() {
            None => Self::parse(header),
            Some(_) => None,
        }
    }

    /// Reads a header. A later version may go on after a further dash.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let is_hex = part
                .bytes()
                .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
            (part.len() == digits && is_hex).then_some(part)
        };
        let (version, trace, span, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_set = |id: &str| id.bytes().any(|it| it != b'0');
        let ends = version != "00" || text.len() == LENGTH;
        (version != "ff" && ends && is_set(trace) && is_set(span)).then_some(Self(text))
    }

    /// Makes a request's span a part of the caller's, where spans are exported.
    #[cfg(feature = "otlp")]
    pub(super) fn adopt(self, span: &tracing::Span) {
        use opentelemetry::propagation::TextMapPropagator;
        use tracing_opentelemetry::OpenTelemetrySpanExt;

        let headers = std::collections::HashMap::from([(HEADER.to_owned(), self.0.to_owned())]);
        let propagator = opentelemetry_sdk::propagation::TraceContextPropagator::new();
        // An error: nothing is exported.
        let _ = span.set_parent(propagator.extract(&headers));
    }

    /// The trace's id: 32 hexadecimal digits.
    pub(super) fn id(self) -> &'a str {
        &self.0[3..35]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn id(text: &str) -> Option<&str> {
        TraceParent::parse(text).map(TraceParent::id)
    }

    #[test]
    fn a_header_is_as_the_recommendation_has_it() {
        let trace = Some("4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(GOOD.len(), LENGTH);
        assert_eq!(id(GOOD), trace);
        // Of flags and versions to come, what is known is read.
        for good in [
            GOOD.replace("-01", "-fe"),
            GOOD.replace("00-4b", "cc-4b"),
            GOOD.replace("00-4b", "cc-4b") + "-what the future has",
        ] {
            assert_eq!(id(&good), trace, "{good}");
        }
        for bad in [
            String::new(),
            GOOD.to_uppercase(),
            GOOD.replace("00-4b", "ff-4b"),
            GOOD.to_owned() + "-",
            GOOD.to_owned() + "-00",
            GOOD.replace("00-4b", "cc-4b") + "0",
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("-01", ""),
            format!(" {GOOD}"),
        ] {
            assert_eq!(id(&bad), None, "{bad}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut metadata = MetadataMap::new();
        assert_eq!(TraceParent::of(&metadata), None);
        metadata.append(HEADER, GOOD.parse().unwrap());
        assert_eq!(TraceParent::of(&metadata), Some(TraceParent(GOOD)));
        metadata.append(HEADER, GOOD.parse().unwrap());
        assert_eq!(TraceParent::of(&metadata), None);
    }

    proptest! {
        /// Whatever is sent, what is shown is 32 digits that were sent, and never all zeros.
        #[test]
        fn an_id_is_lower_case_hex(text in "[0-9a-fA-F-]{0,60}|.*|0[0-9a-f]-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{2}(-.*)?") {
            if let Some(id) = id(&text) {
                prop_assert!(id.len() == 32 && text[3..].starts_with(id));
                prop_assert!(id.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it)));
                prop_assert!(id.bytes().any(|it| it != b'0'));
            }
        }

        #[test]
        fn what_is_well_formed_is_taken(trace in 1u128.., span in 1u64.., flags: u8, version in 0u8..0xff) {
            let text = format!("{version:02x}-{trace:032x}-{span:016x}-{flags:02x}");
            prop_assert_eq!(id(&text), Some(&*format!("{trace:032x}")));
        }

        /// A well-formed header with any one byte changed is one of another trace, or none: never the same trace of a malformed header.
        #[test]
        fn one_other_byte_in_the_id_is_another_trace(trace in 1u128.., at in 3usize..35, byte in 0x20u8..0x7f) {
            let text = format!("00-{trace:032x}-00f067aa0ba902b7-01");
            let mut changed = text.clone().into_bytes();
            prop_assume!(changed[at] != byte);
            changed[at] = byte;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_ne!(id(&changed), id(&text));
            let is_hex = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            prop_assert!(is_hex || id(&changed).is_none());
        }
    }
}
