//! By when a caller wants its answer: gRPC's header `grpc-timeout`.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// The most time kept for the answer: a call that gave up at the very deadline could not say so any more.
const ANSWER: Duration = Duration::from_millis(100);
/// The part of the caller's time that is kept for the answer, where that is less.
const PART: u32 = 10;
/// The most digits of a value (gRPC over HTTP2, `TimeoutValue`).
const DIGITS: usize = 8;

/// When the work of a call that has just come is to be given up: a little before its caller does. `None`: the caller waits for ever, or
/// the header is malformed, which tonic ignores as well.
pub(super) fn of(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout - ANSWER.min(timeout / PART))
}

/// Reads a timeout: up to eight digits and a unit (gRPC over HTTP2, `Timeout`).
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_value =
        (1..=DIGITS).contains(&value.len()) && value.bytes().all(|it| it.is_ascii_digit());
    let value: u64 = is_value.then(|| value.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let seconds = |text| parse(text).map(|it| it.as_secs_f64());
        for (text, expected) in [
            ("1H", 3600.0),
            ("2M", 120.0),
            ("03S", 3.0),
            ("50m", 0.05),
            ("7u", 7e-6),
            ("0n", 0.0),
            ("99999999H", 99_999_999.0 * 3600.0),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "S",
            "1",
            "1s",
            "+1S",
            "-1S",
            "1.5S",
            "1 S",
            "123456789S",
            "1SS",
            "1µ",
            "S1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_time_is_kept_for_the_answer() {
        let of = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            super::of(&metadata).map(|it| it.duration_since(Instant::now()))
        };
        for (text, left) in [("50m", 45), ("1S", 900), ("10S", 9900), ("1M", 59_900)] {
            assert_eq!(of(text), Some(Duration::from_millis(left)), "{text}");
        }
        // Longer than a clock counts, or no timeout at all.
        assert_eq!((of("1x"), super::of(&MetadataMap::new())), (None, None));
        let _ = of("99999999H");
    }
}
