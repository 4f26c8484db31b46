//! Every figure: its name, meaning, type and labels.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use super::io::{ChosenLabel, IoSnapshot};
use crate::attach::{Census, Phase};
use crate::figures::Histogram;

/// Figures as they were at one time.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// `None`: the journal's contents cannot be read.
    pub(super) census: Option<Census>,
    pub(super) calls: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) call_durations: BTreeMap<&'static str, Histogram>,
    pub(super) calls_running: u64,
    pub(super) watches: u64,
    pub(super) phases: BTreeMap<(Phase, bool), Histogram>,
    pub(super) commits: Histogram,
    pub(super) commit_failures: u64,
    pub(super) journal_queued: u64,
    pub(super) journal_failing: bool,
    pub(super) rounds: u64,
    pub(super) looks: Histogram,
    pub(super) resumed: u64,
    pub(super) records_settled: u64,
    pub(super) records_failed: u64,
    pub(super) policy_loaded: u64,
    pub(super) policy_refused: u64,
    pub(super) policy_broken: bool,
    pub(super) started: SystemTime,
    /// `None`: I/O is not asked for.
    pub(super) io: Option<IoSnapshot>,
}

type Label = (&'static str, &'static str);

fn result(succeeded: bool) -> Label {
    ("result", if succeeded { "ok" } else { "failed" })
}

/// Writes figures of one type after another, without repeating the type's every detail.
pub(super) struct Writer<'e>(DescriptorEncoder<'e>);

impl Writer<'_> {
    /// A figure whose values are each written by `write`.
    fn family<V, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        kind: MetricType,
        values: impl IntoIterator<Item = ([Label; N], V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            match labels.is_empty() {
                true => write(&mut metric, value)?,
                false => write(&mut metric.encode_family(&labels)?, value)?,
            }
        }
        Ok(())
    }

    /// Its name is written with `_total` after it.
    fn counter<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([Label; N], u64)>,
    ) -> fmt::Result {
        self.family(
            (name, help),
            MetricType::Counter,
            values,
            |metric, value| metric.encode_counter::<NoLabelSet, u64, f64>(&value, None),
        )
    }

    /// A counter whose labels may have values that somebody chose. Its name is written with `_total` after it.
    pub(super) fn chosen<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<ChosenLabel>, V)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, V, f64>(&value, None)?;
        }
        Ok(())
    }

    pub(super) fn gauge<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([Label; N], u64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Gauge, values, |metric, value| {
            metric.encode_gauge(&value)
        })
    }

    fn histogram<'h, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([Label; N], &'h Histogram)>,
    ) -> fmt::Result {
        self.family(
            (name, help),
            MetricType::Histogram,
            values,
            |metric, value| {
                let buckets: Vec<_> = value.buckets().collect();
                metric.encode_histogram::<NoLabelSet>(value.sum(), value.count(), &buckets, None)
            },
        )
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.daemon(&mut writer)?;
        self.api(&mut writer)?;
        self.state(&mut writer)?;
        self.journal(&mut writer)?;
        self.upkeep(&mut writer)?;
        self.io.iter().try_for_each(|io| io.write(&mut writer))
    }
}

impl Snapshot {
    fn daemon(&self, to: &mut Writer<'_>) -> fmt::Result {
        // Not of the type `info`, which the text format 0.0.4 does not have.
        to.gauge(
            "volattach_build_info",
            "Always 1; the version of the daemon is its label.",
            [([("version", env!("CARGO_PKG_VERSION"))], 1)],
        )?;
        let started = self.started.duration_since(UNIX_EPOCH);
        to.gauge(
            "volattach_start_time_seconds",
            "When the daemon was started, in seconds since 1970, UTC.",
            [([], started.unwrap_or_default().as_secs())],
        )
    }

    fn api(&self, to: &mut Writer<'_>) -> fmt::Result {
        let calls = self.calls.iter();
        to.counter(
            "volattach_calls",
            "Calls that ended, by RPC and by reason: OK, CANCELLED, or that of the error.",
            calls.map(|((rpc, reason), number)| ([("rpc", *rpc), ("reason", *reason)], *number)),
        )?;
        let durations = self.call_durations.iter();
        to.histogram(
            "volattach_call_duration_seconds",
            "How long calls took, failed ones too, by RPC; a watch until it began.",
            durations.map(|(rpc, histogram)| ([("rpc", *rpc)], histogram)),
        )?;
        to.gauge(
            "volattach_calls_running",
            "Calls under way.",
            [([], self.calls_running)],
        )?;
        to.gauge(
            "volattach_watches",
            "Watches under way.",
            [([], self.watches)],
        )?;
        let phases = self.phases.iter();
        to.histogram(
            "volattach_phase_duration_seconds",
            "How long the phases of attaches, detaches and the like took, by phase and result.",
            phases.map(|((phase, ok), histogram)| {
                ([("phase", phase.as_str()), result(*ok)], histogram)
            }),
        )
    }

    /// Without a census the figures have no values.
    fn state(&self, to: &mut Writer<'_>) -> fmt::Result {
        let census = self.census.as_ref();
        let each = census.iter().flat_map(|it| &it.attachments);
        to.gauge(
            "volattach_attachments",
            "Attachments of the journal, by backend, state and access; those that there are.",
            each.map(|((backend, state, access), number)| {
                let labels = [
                    ("backend", *backend),
                    ("state", *state),
                    ("access", *access),
                ];
                (labels, *number)
            }),
        )?;
        let stopped = census.iter().flat_map(|it| &it.stopped);
        to.gauge(
            "volattach_attachments_io_stopped",
            "Attachments whose guests are paused since requests to their volumes failed, by backend; those that there are.",
            stopped.map(|(backend, number)| ([("backend", *backend)], *number)),
        )?;
        for (name, help, number) in [
            (
                "volattach_paths_up",
                "Paths of attachments that work, as of the last look, by backend.",
                (|(up, _)| up) as fn((u64, u64)) -> u64,
            ),
            (
                "volattach_paths_wanted",
                "Paths of attachments that are to work, by backend.",
                |(_, wanted)| wanted,
            ),
        ] {
            let each = census.iter().flat_map(|it| &it.paths);
            let each = each.map(|(backend, paths)| ([("backend", *backend)], number(*paths)));
            to.gauge(name, help, each)?;
        }
        let servers = census.iter().flat_map(|it| {
            let servers = it.servers;
            [
                ([("health", "ok")], servers.ok),
                ([("health", "suspect")], servers.suspect),
                ([("health", "quarantined")], servers.quarantined),
            ]
        });
        to.gauge(
            "volattach_servers",
            "Storage servers, by health: ok, suspect after one silence, quarantined after two.",
            servers,
        )?;
        let plain = |value: fn(&Census) -> u64| census.map(|it| ([], value(it)));
        to.gauge(
            "volattach_workers",
            "Worker processes, stuck ones too.",
            plain(|it| it.workers),
        )?;
        to.gauge(
            "volattach_stuck_workers",
            "Worker processes that sleep in the kernel beyond their deadline and SIGKILL.",
            plain(|it| it.stuck_workers),
        )?;
        to.gauge(
            "volattach_work_running",
            "Calls at work, and repairs of reconcile.",
            plain(|it| it.work_running),
        )?;
        to.gauge(
            "volattach_libvirt_connected",
            "1: the daemon is connected to libvirt.",
            plain(|it| it.hypervisor.connected.into()),
        )?;
        to.gauge(
            "volattach_libvirt_calls_running",
            "Calls to libvirt under way.",
            plain(|it| it.hypervisor.running),
        )?;
        to.gauge(
            "volattach_libvirt_hanging_domains",
            "Domains left alone because a call on them is past its deadline.",
            plain(|it| it.hypervisor.hanging),
        )?;
        let queues = census.iter().flat_map(|it| {
            [
                ([("queue", "work")], it.work_waiting),
                ([("queue", "libvirt")], it.hypervisor.waiting),
            ]
        });
        to.gauge(
            "volattach_queue_length",
            "What waits: calls for their turn, calls to libvirt for theirs, changes for a commit of the journal.",
            queues.chain([([("queue", "journal")], self.journal_queued)]),
        )
    }

    fn journal(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.histogram(
            "volattach_journal_commit_duration_seconds",
            "How long the journal's commits took that succeeded.",
            [([], &self.commits)],
        )?;
        to.counter(
            "volattach_journal_commit_failures",
            "Commits of the journal that failed, each try anew.",
            [([], self.commit_failures)],
        )?;
        to.gauge(
            "volattach_journal_failing",
            "1: the last commit of the journal failed, and calls fail until one succeeds.",
            [([], self.journal_failing.into())],
        )?;
        let census = self.census.as_ref();
        to.gauge(
            "volattach_journal_unreadable_records",
            "Records of the journal that this build cannot read.",
            census.map(|it| ([], it.unreadable)),
        )
    }

    fn upkeep(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.counter(
            "volattach_reconcile_rounds",
            "Rounds of reconcile over all records that began: one a minute.",
            [([], self.rounds)],
        )?;
        to.histogram(
            "volattach_reconcile_look_duration_seconds",
            "How long looks of reconcile took: rounds, and looks at some records upon news.",
            [([], &self.looks)],
        )?;
        to.counter(
            "volattach_reconcile_records",
            "Records that reconcile looked at, by whether they are in order now or are tried again.",
            [
                ([result(true)], self.records_settled),
                ([result(false)], self.records_failed),
            ],
        )?;
        to.counter(
            "volattach_guests_resumed",
            "Guests that went on by themselves once the volumes that they were paused for could be read again.",
            [([], self.resumed)],
        )?;
        to.counter(
            "volattach_policy_reloads",
            "How often the files of the policy have changed, by whether they could be used.",
            [
                ([result(true)], self.policy_loaded),
                ([result(false)], self.policy_refused),
            ],
        )?;
        to.gauge(
            "volattach_policy_broken",
            "1: the files of the policy cannot be used, so that an earlier policy holds.",
            [([], self.policy_broken.into())],
        )
    }
}
