//! The commands `iotune` and `stats`: limits on a disk's I/O, and the I/O itself.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::args::{Format, Global, IotuneArgs};
use super::client::Client;
use super::failure::Failure;
use super::{output, request};
use crate::api::v1::set_io_tune_request::Limits;
use crate::api::{decode, v1};

type Result<T> = std::result::Result<T, Failure>;

/// Shows the limits in force, or replaces them and shows what they are then.
pub(super) async fn iotune(global: &Global, args: IotuneArgs) -> Result<()> {
    let given = match &args.qos_specs {
        Some(path) => Some(Limits::QosSpecs(request::qos_specs(path)?)),
        None if args.none => Some(Limits::Iotune(v1::IoTune::default())),
        None => request::io_tune(args.limits).map(Limits::Iotune),
    };
    let mut client = Client::connect(global).await?;
    let tune = match given {
        None => stats_of(&mut client, &args.id).await?.iotune,
        limits => {
            let message = client.request(v1::SetIoTuneRequest {
                attachment_id: args.id.clone(),
                limits,
            });
            let answer = client.rpc.set_io_tune(message).await;
            client.answer(answer)?.iotune
        }
    };
    let limits = limits(tune.as_ref());
    output::to_stdout(&match global.output {
        Format::Json => json!({ "attachment_id": args.id, "iotune": limits }).to_string(),
        Format::Table if limits.is_empty() => format!("{} has no limits", args.id),
        Format::Table => {
            let rows = limits.into_iter().map(|(key, value)| {
                let value = value.as_str().map_or(value.to_string(), ToOwned::to_owned);
                [key, value]
            });
            output::table(None, rows)
        }
    })
}

/// Shows the I/O since the disk was plugged in, or that of each second until interrupted.
pub(super) async fn stats(global: &Global, id: &str, every: Option<Duration>) -> Result<()> {
    let mut client = Client::connect(global).await?;
    let mut last = stats_of(&mut client, id).await?;
    let Some(every) = every else {
        return output::to_stdout(&match global.output {
            Format::Json => stats_json(&last).to_string(),
            Format::Table => totals(&last),
        });
    };
    let mut at = Instant::now();
    loop {
        tokio::time::sleep_until(at + every).await;
        let now = stats_of(&mut client, id).await?;
        let seconds = at.elapsed().as_secs_f64();
        at = Instant::now();
        output::to_stdout(&match global.output {
            Format::Json => stats_json(&now).to_string(),
            Format::Table => rates(&last, &now, seconds),
        })?;
        last = now;
    }
}

async fn stats_of(client: &mut Client, id: &str) -> Result<v1::AttachmentStats> {
    let message = client.request(v1::GetAttachmentStatsRequest {
        attachment_id: id.to_owned(),
    });
    let answer = client.rpc.get_attachment_stats(message).await;
    client.answer(answer)
}

/// The limits by name.
fn limits(tune: Option<&v1::IoTune>) -> Map<String, Value> {
    let Some(tune) = tune else {
        return Map::new();
    };
    let mut limits: Map<_, _> = decode::io_limits(tune)
        .limits()
        .map(|(key, limit)| (key.to_owned(), Value::from(limit)))
        .collect();
    if !tune.group_name.is_empty() {
        limits.insert("group_name".to_owned(), tune.group_name.clone().into());
    }
    limits
}

fn stats_json(stats: &v1::AttachmentStats) -> Value {
    let counts = |counts: Option<&v1::IoCounts>| {
        counts.map(|it| {
            json!({ "bytes": it.bytes, "requests": it.requests, "nanoseconds": it.nanoseconds })
        })
    };
    let io = stats.io.as_ref().map(|io| {
        json!({
            "read": counts(io.read.as_ref()),
            "write": counts(io.write.as_ref()),
            "flush": counts(io.flush.as_ref()),
        })
    });
    json!({
        "attachment_id": stats.attachment_id,
        "io": io,
        "iotune": limits(stats.iotune.as_ref()),
    })
}

/// The kinds of I/O, each with its counts.
fn kinds(stats: &v1::AttachmentStats) -> [(&'static str, v1::IoCounts); 3] {
    let io = stats.io.unwrap_or_default();
    [
        ("read", io.read.unwrap_or_default()),
        ("write", io.write.unwrap_or_default()),
        ("flush", io.flush.unwrap_or_default()),
    ]
}

/// The count; a dash if the hypervisor does not count that.
fn shown(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A duration in microseconds for each request.
fn average(nanoseconds: Option<u64>, requests: Option<u64>) -> Option<u64> {
    (nanoseconds? / 1000).checked_div(requests?)
}

fn totals(stats: &v1::AttachmentStats) -> String {
    if stats.io.is_none() {
        return format!("nothing counts the I/O of {}", stats.attachment_id);
    }
    let rows = kinds(stats).map(|(kind, it)| {
        let took = average(it.nanoseconds, it.requests);
        [
            kind.to_owned(),
            shown(it.requests),
            shown(it.bytes),
            shown(took),
        ]
    });
    let head = ["I/O", "Requests", "Bytes", "Average Microseconds"];
    output::table(Some(head), rows.into_iter())
}

/// One line: what was done in a second between two counts.
fn rates(from: &v1::AttachmentStats, to: &v1::AttachmentStats, seconds: f64) -> String {
    let rate = |from: Option<u64>, to: Option<u64>| {
        // A disk that was plugged in again meanwhile counts from 0.
        let done = to?.checked_sub(from?)?;
        Some((done as f64 / seconds).round() as u64)
    };
    let kinds = kinds(from).into_iter().zip(kinds(to));
    let parts = kinds.map(|((kind, from), (_, to))| {
        let requests = shown(rate(from.requests, to.requests));
        match rate(from.bytes, to.bytes) {
            Some(bytes) => format!("{kind} {requests}/s {bytes} B/s"),
            None => format!("{kind} {requests}/s"),
        }
    });
    parts.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(requests: u64, bytes: u64) -> v1::AttachmentStats {
        let counts = v1::IoCounts {
            requests: Some(requests),
            bytes: Some(bytes),
            nanoseconds: Some(requests * 3_000),
        };
        v1::AttachmentStats {
            attachment_id: "a1".to_owned(),
            io: Some(v1::DiskIo {
                read: Some(counts),
                write: Some(v1::IoCounts::default()),
                flush: None,
            }),
            iotune: None,
        }
    }

    #[test]
    fn totals_have_a_dash_where_nothing_counts() {
        let text = totals(&stats(4, 2048));
        insta::assert_snapshot!(text, @r"
        I/O    Requests  Bytes  Average Microseconds
        read   4         2048   3
        write  -         -      -
        flush  -         -      -
        ");
        assert_eq!(
            totals(&v1::AttachmentStats::default()),
            "nothing counts the I/O of "
        );
    }

    #[test]
    fn rates_are_of_a_second_and_unknown_after_a_restart_of_the_counters() {
        assert_eq!(
            rates(&stats(4, 0), &stats(24, 4096), 2.0),
            "read 10/s 2048 B/s  write -/s  flush -/s"
        );
        assert!(rates(&stats(24, 4096), &stats(4, 0), 2.0).starts_with("read -/s  "));
    }

    #[test]
    fn every_limit_is_shown_by_its_name() {
        let mut tune = crate::model::IoTune {
            group_name: Some("g".to_owned()),
            ..Default::default()
        };
        for key in crate::model::IoTune::KEYS {
            tune.set(key, 7);
        }
        let limits = limits(crate::api::encode::io_tune(tune).as_ref());
        for key in crate::model::IoTune::KEYS {
            assert_eq!(limits[*key], 7, "{key}");
        }
        assert_eq!(limits["group_name"], "g");
    }
}
