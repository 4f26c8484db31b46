use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use super::Snapshot;
use super::io::IoSnapshot;
use crate::attach::{Census, Phase, ServerCounts};
use crate::figures::Timings;
use crate::libvirt::HypervisorLoad;
use crate::model::{Access, Reason, State};
use crate::model::{DiskIo, IoCounts};
use crate::policy::Rpc;
use crate::sys::shares::{Share, ShareIo};

const STATES: [State; 8] = [
    State::Connecting,
    State::Attaching,
    State::Attached,
    State::Connected,
    State::Lost,
    State::Detaching,
    State::Disconnecting,
    State::Failed,
];

/// Figures of a daemon that has done a little.
fn sample() -> Snapshot {
    let durations = Timings::default();
    durations.note("AttachVolume", Duration::from_millis(80));
    durations.note("AttachVolume", Duration::from_secs(61));
    let phases = Timings::default();
    phases.note((Phase::Connect, false), Duration::from_secs(3));
    let others = Timings::default();
    others.note((), Duration::from_millis(4));
    Snapshot {
        census: Some(Census {
            attachments: BTreeMap::from([(("nfs", "attached", "ro"), 2)]),
            stopped: BTreeMap::from([("nfs", 1)]),
            paths: BTreeMap::from([("iscsi", (3, 4))]),
            servers: ServerCounts {
                ok: 5,
                suspect: 1,
                quarantined: 2,
            },
            unreadable: 1,
            workers: 4,
            stuck_workers: 3,
            work_running: 7,
            work_waiting: 6,
            hypervisor: HypervisorLoad {
                connected: true,
                running: 2,
                waiting: 9,
                hanging: 1,
            },
        }),
        calls: BTreeMap::from([
            (("AttachVolume", "OK"), 1),
            (("AttachVolume", "SERVER_TIMEOUT"), 1),
        ]),
        call_durations: durations.read(),
        calls_running: 1,
        watches: 2,
        phases: phases.read(),
        commits: others.read().remove(&()).unwrap(),
        commit_failures: 3,
        journal_queued: 1,
        journal_failing: true,
        rounds: 60,
        looks: others.read().remove(&()).unwrap(),
        resumed: 3,
        records_settled: 120,
        records_failed: 4,
        policy_loaded: 2,
        policy_refused: 1,
        policy_broken: true,
        started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        io: None,
    }
}

/// I/O of a disk and of two shares.
fn io() -> IoSnapshot {
    let counts = |number| IoCounts {
        bytes: Some(number),
        requests: Some(number + 1),
        nanoseconds: Some(1_500_000_000),
    };
    let disk = DiskIo {
        read: counts(10),
        write: counts(20),
        flush: IoCounts {
            bytes: None,
            ..counts(30)
        },
    };
    let share = |protocol, server: &str, share: &str| Share {
        protocol,
        server: server.to_owned(),
        share: share.to_owned(),
    };
    let counted = ShareIo {
        read_bytes: Some(1),
        written_bytes: Some(2),
        operations: 3,
        failed: 4,
        retransmissions: None,
    };
    let again = ShareIo {
        retransmissions: Some(5),
        ..counted
    };
    IoSnapshot {
        disks: vec![("a1".parse().unwrap(), Some("v1".parse().unwrap()), disk)],
        shares: BTreeMap::from([
            (share("nfs", "fd00::1", "/a\"b\\c"), again),
            (share("smbfs", "nas", "vols"), counted),
        ]),
        ages: [("disks", Some(7)), ("shares", Some(0))],
        left_out: [("disks", 1), ("shares", 0)],
    }
}

/// Figures with every value that a label may have.
fn everything() -> Snapshot {
    let mut all = sample();
    let census = all.census.as_mut().unwrap();
    for backend in ["iscsi", "local", "nfs", "nvmeof", "smbfs", "other"] {
        for state in STATES {
            for access in [Access::ReadOnly, Access::ReadWrite] {
                let key = (backend, state.as_str(), access.as_str());
                census.attachments.insert(key, 1);
            }
        }
        census.paths.insert(backend, (1, 1));
    }
    let durations = Timings::default();
    for rpc in Rpc::ALL {
        durations.note(rpc.name(), Duration::ZERO);
        let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
        for reason in reasons.chain(["OK", "CANCELLED"]) {
            all.calls.insert((rpc.name(), reason), 1);
        }
    }
    all.call_durations = durations.read();
    let phases = Timings::default();
    for phase in Phase::ALL {
        for succeeded in [true, false] {
            phases.note((phase, succeeded), Duration::ZERO);
        }
    }
    all.phases = phases.read();
    all
}

/// A figure as Prometheus knows it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// Names of samples: with `_total`, `_bucket` and so on.
    samples: BTreeSet<String>,
    /// The values of each label.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Reads a text, each sample of which must come after its family's type.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            current = name.to_owned();
            let family = Family {
                kind: kind.to_owned(),
                ..Family::default()
            };
            let before = families.insert(current.clone(), family);
            assert!(before.is_none(), "{name} is there twice");
        }
        if line.starts_with('#') {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let family = families.get_mut(&current).unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        assert!(name.starts_with(&current), "{line} beneath {current}");
        family.samples.insert(name.to_owned());
        let labels = labels.strip_suffix('}').unwrap().split(',');
        for label in labels.filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').unwrap();
            let values = family.labels.entry(key.to_owned()).or_default();
            values.insert(value.trim_matches('"').to_owned());
        }
    }
    families
}

#[test]
fn the_text_is_open_metrics() {
    let text = sample().text().unwrap();
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    insta::assert_snapshot!(text);
}

/// `make rules-test` has promtool read the snapshot.
#[test]
fn the_file_is_of_the_format_0_0_4() {
    insta::assert_snapshot!(super::file::plain(&sample().text().unwrap()));
}

#[test]
fn the_file_s_text_has_the_same_values_under_the_names_of_0_0_4() {
    let open = everything().text().unwrap();
    let plain = super::file::plain(&open);
    let values = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values(&open), values(&plain));
    assert!(!plain.contains("# EOF"));
    for (name, family) in families(&plain) {
        // What prometheus/common's text parser knows of these, and of a counter's samples nothing but the family's name.
        match family.kind.as_str() {
            "counter" | "gauge" => assert_eq!(family.samples, BTreeSet::from([name])),
            "histogram" => assert_eq!(family.samples.len(), 3),
            other => panic!("{name} is of type {other}"),
        }
    }
}

#[test]
fn without_the_journal_the_other_figures_are_there() {
    let blind = Snapshot {
        census: None,
        ..sample()
    };
    let text = blind.text().unwrap();
    assert!(text.contains("volattach_journal_failing 1\n"), "{text}");
    assert!(!text.contains("\nvolattach_servers{"), "{text}");
}

/// A figure's values in all are as many as these sets allow, however many volumes and servers there are.
#[test]
fn labels_are_bounded_and_no_figure_has_a_name_that_somebody_chose() {
    let known = [
        "access", "backend", "health", "le", "phase", "queue", "reason", "result", "rpc", "state",
        "version",
    ];
    let text = everything().text().unwrap();
    let all = families(&text);
    let keys: BTreeSet<_> = all
        .values()
        .flat_map(|family| family.labels.keys())
        .collect();
    assert_eq!(keys, known.map(ToOwned::to_owned).iter().collect());
}

#[test]
fn the_io_is_text_of_either_format() {
    let with_io = Snapshot {
        io: Some(io()),
        ..sample()
    };
    let (text, without) = (with_io.text().unwrap(), sample().text().unwrap());
    let added = text.strip_prefix(without.strip_suffix("# EOF\n").unwrap());
    insta::assert_snapshot!(super::file::plain(added.unwrap()));
}

/// The rows of the tables in docs/metrics.md: the figure's name, its type and its labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = include_str!("../../../docs/metrics.md").lines();
    rows.filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, meaning, ""] = cells.as_slice() else {
            return None;
        };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels.split('`').skip(1).step_by(2);
        let labels = labels.map(ToOwned::to_owned).collect();
        Some((name.to_owned(), ((*kind).to_owned(), labels)))
    })
    .collect()
}

#[test]
fn the_documentation_lists_every_figure_with_its_type_and_labels() {
    let with_io = Snapshot {
        io: Some(io()),
        ..everything()
    };
    let text = super::file::plain(&with_io.text().unwrap());
    let real = families(&text).into_iter().map(|(name, family)| {
        let labels = family.labels.into_keys().filter(|key| key != "le");
        (name, (family.kind, labels.collect()))
    });
    assert_eq!(documented(), real.collect());
}

/// Checks that each figure of an expression is exported, with each label and value that the expression selects by.
fn check_expression(expression: &str, all: &BTreeMap<String, Family>) -> usize {
    let mut found = 0;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in expression.match_indices("volattach_") {
        if expression[..at].ends_with(is_word) {
            continue;
        }
        let rest = &expression[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let family = all.values().find(|family| family.samples.contains(name));
        let family = family.unwrap_or_else(|| panic!("{name} is not exported: {expression}"));
        found += 1;
        let Some((selectors, _)) = rest.strip_prefix('{').and_then(|it| it.split_once('}')) else {
            continue;
        };
        for selector in selectors.split(',').map(str::trim) {
            let (key, value) = selector.split_once(['=', '!']).unwrap();
            if ["instance", "job"].contains(&key) {
                continue;
            }
            let values = family.labels.get(key);
            let values = values.unwrap_or_else(|| panic!("{name} has no {key}: {expression}"));
            let wanted = value.trim_start_matches(['=', '~']).trim_matches('"');
            for wanted in wanted.split('|').filter(|it| !it.starts_with('$')) {
                assert!(
                    values.contains(wanted),
                    "{name} has no {key}={wanted}: {expression}"
                );
            }
        }
    }
    found
}

/// The samples' names are the same in either text.
fn exported() -> BTreeMap<String, Family> {
    families(&everything().text().unwrap())
}

#[test]
fn the_alert_rules_are_of_figures_that_are_exported() {
    let rules = include_str!("../../../dist/usr/share/volattach/prometheus/volattach.rules.yml");
    let all = exported();
    let (mut alerts, mut expressions) = (0, 0);
    // An expression may take several lines; every figure is in one, or in the words beside it.
    for line in rules.lines() {
        alerts += usize::from(line.trim_start().starts_with("- alert:"));
        expressions += check_expression(line, &all);
    }
    assert!(
        alerts > 8 && expressions >= alerts,
        "{alerts} {expressions}"
    );
}

/// Every text under that key, at any depth.
fn texts<'v>(value: &'v serde_json::Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                match value.as_str() {
                    Some(text) if name == key => found.push(text),
                    _ => texts(value, key, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|it| texts(it, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_s_panels_are_of_figures_that_are_exported() {
    let dashboard = include_str!("../../../dist/usr/share/volattach/grafana/volattach.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let all = exported();
    for panel in dashboard["panels"].as_array().unwrap() {
        let mut expressions = Vec::new();
        texts(panel, "expr", &mut expressions);
        assert!(!expressions.is_empty(), "a panel of nothing: {panel}");
        for expression in expressions {
            assert!(check_expression(expression, &all) > 0, "{expression}");
        }
    }
    let mut queries = Vec::new();
    texts(&dashboard["templating"], "query", &mut queries);
    assert!(
        queries
            .iter()
            .map(|it| check_expression(it, &all))
            .sum::<usize>()
            > 0
    );
}

#[test]
#[should_panic(expected = "is not exported")]
fn a_figure_that_is_not_exported_is_found() {
    check_expression("rate(volattach_calls[5m])", &exported());
}

#[test]
#[should_panic(expected = "has no health=quarantine")]
fn a_label_s_value_that_is_never_exported_is_found() {
    check_expression("volattach_servers{health=\"quarantine\"} > 0", &exported());
}
