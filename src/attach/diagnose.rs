//! Compares the journal with this host for the operator: what is wrong, and the command that mends it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::consume_budget;

use super::Error;
use super::engine::Engine;
use super::inner::Inner;
use super::orphans::{Orphan, Survey, Unseen};
use crate::admission::{Admitted, Grant};
use crate::backend::Quarantined;
use crate::journal::{Condition, Kind, Loss, Record, Room, Unreadable};
use crate::model::{AttachmentId, Reason, State};

/// Free bytes of the state directory's file system below which writes are about to fail.
const ROOM: u64 = 64 << 20;

/// Percentage of free bytes below which the file system is nearly full.
const ROOM_PERCENT: u64 = 5;

/// How far in the future a record's time may be: time servers set clocks back by less.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Weight of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does not work, or is left behind.
    Error,
    /// It works, and wants the operator's attention.
    Warning,
}

/// Something wrong on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its weight.
    pub severity: Severity,
    /// The thing, and what is wrong with it.
    pub what: String,
    /// Command that mends it, or what to do.
    pub mend: String,
    /// The attachment, if it is about one.
    pub attachment: Option<AttachmentId>,
    /// The server, if it is about one that does not answer, as attachments name it.
    pub server: Option<String>,
}

impl Finding {
    pub(super) fn error(what: String, mend: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            what,
            mend: mend.into(),
            attachment: None,
            server: None,
        }
    }

    /// Something that works, and wants the operator's attention.
    #[must_use]
    pub fn warning(what: String, mend: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(what, mend)
        }
    }

    pub(super) fn of(self, id: &AttachmentId) -> Self {
        Self {
            attachment: Some(id.clone()),
            ..self
        }
    }
}

impl Engine {
    /// Finds what is wrong on this host; changes nothing. Attachments that the caller may not see are left out.
    ///
    /// # Errors
    /// Where the journal's contents cannot be read, or the policy cannot be evaluated. Anything else that cannot be looked at is a finding.
    pub async fn diagnose(&self, request: Admitted<()>) -> Result<Vec<Finding>, Error> {
        let (grant, ()) = request.into_parts();
        self.0.diagnose(&grant).await
    }
}

impl Inner {
    async fn diagnose(&self, grant: &Grant) -> Result<Vec<Finding>, Error> {
        let journal = &self.parts.journal;
        let unreadable = journal.unreadable().await?;
        let loss = journal.loss().await?;
        let mut findings = self.standing.borrow().clone();
        findings.extend(of_condition(journal.condition().await));
        findings.extend(loss.as_ref().map(of_loss));
        findings.extend(unreadable.iter().map(of_unreadable));
        let records = journal.all().await?;
        findings.extend(of_clock(
            records.iter().map(AsRef::as_ref),
            SystemTime::now(),
        ));
        let paused = self.stopped.paused();
        for record in &records {
            consume_budget().await;
            let findings_of_record: Vec<Finding> = of_record(record, paused.has(record))
                .into_iter()
                .chain(of_paths(record))
                .collect();
            if findings_of_record.is_empty() {
                continue;
            }
            if grant.sees(&(&record.to_attachment()).into()).await? {
                findings.extend(findings_of_record);
            }
        }
        findings.extend(self.of_servers(&records));
        let (lvm, survey) = tokio::join!(self.parts.lvm.activates(), self.survey_host());
        findings.extend(lvm.map(of_lvm));
        let survey = survey?;
        findings.extend(of_survey(survey, loss.is_some(), !unreadable.is_empty()));
        Ok(findings)
    }

    /// Servers that hang, and the workers that hang for them.
    fn of_servers(&self, records: &[Arc<Record>]) -> Vec<Finding> {
        let backends = self.backends();
        let quarantine = backends.quarantine();
        let servers = quarantine.servers().into_iter().map(|it| {
            let uses = |record: &&Arc<Record>| record.host.plan.reached_by().contains(&it.server);
            of_server(&it, records.iter().filter(uses).count())
        });
        let workers = quarantine.stuck_workers().into_iter().map(|it| {
            let what = format!(
                "the worker process {} for {} has slept in the kernel since {}, beyond its deadline and SIGKILL; its job: {}",
                it.pid,
                it.server,
                time(it.since),
                it.job
            );
            let mend = format!(
                "bring the server back; cat /proc/{}/stack shows where it sleeps; restart this host if it never goes",
                it.pid
            );
            Finding::warning(what, mend)
        });
        servers.chain(workers).collect()
    }
}

/// LVM, where it would act on guests' disks.
fn of_lvm(why: String) -> Finding {
    let what = format!(
        "LVM may activate volume groups that guests make on their disks, which keeps such a disk in use after its guest has let go: {why}"
    );
    let mend = "install volattach's udev rules (59-volattach.rules, 63-volattach.rules: docs/node.md), or have LVM use its own disks alone: vgimportdevices -a, then use_devicesfile = 1 in lvm.conf";
    Finding::warning(what, mend)
}

/// A quarantined server. Its attachments are not named, as the caller may not see each.
fn of_server(it: &Quarantined, attachments: usize) -> Finding {
    let what = format!(
        "the server {} has not answered since {} ({}), and calls that need it fail; it is asked for a sign of life again in {} s; attachments on \
         it: {attachments}",
        it.server,
        time(it.since),
        it.why,
        it.after.as_secs().max(1)
    );
    let host = &it.server.host;
    let mend = format!(
        "start the server, or mend the way to it (ping {host}); volattach list --server {host} shows its attachments; calls go on by themselves once \
         it answers"
    );
    Finding {
        server: Some(host.clone()),
        ..Finding::error(what, mend)
    }
}

/// A time as the API writes it.
fn time(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

/// The journal's storage.
fn of_condition(condition: Condition) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = condition.write_failure {
        let what = format!("the journal cannot be written, and calls fail until it can: {why}");
        let mend = match &condition.room {
            Ok(room) => format!(
                "df -h {}; dmesg: mend the disk or make room, the daemon tries again each second",
                room.directory.display()
            ),
            Err(_) => "dmesg: mend the disk, the daemon tries again each second".to_owned(),
        };
        findings.push(Finding::error(what, mend));
    }
    for (volume, why) in condition.unreadable_permissions {
        let what = format!("the permissions of volume {volume} cannot be read: {why}");
        findings.push(Finding::error(what, ANOTHER_BUILD));
    }
    findings.extend(match condition.room {
        Ok(room) => of_room(&room),
        Err(why) => Some(Finding::error(
            format!("the room for the journal is not known: {why}"),
            "dmesg",
        )),
    });
    findings
}

fn of_room(room: &Room) -> Option<Finding> {
    let directory = room.directory.display();
    let mib = room.free >> 20;
    let percent = room.free.saturating_mul(100) / room.size.max(1);
    let mend = format!("df -h {directory}; remove what fills it, or give it more room");
    if room.free < ROOM {
        let what = format!(
            "the file system of {directory} has {mib} MiB left, below {} MiB: writes to the journal are about to fail",
            ROOM >> 20
        );
        return Some(Finding::error(what, mend));
    }
    (percent < ROOM_PERCENT).then(|| {
        let what = format!(
            "the file system of {directory} has {percent} % left ({mib} MiB), below {ROOM_PERCENT} %"
        );
        Finding::warning(what, mend)
    })
}

fn of_loss(loss: &Loss) -> Finding {
    let at = time(loss.at);
    let what = format!(
        "the journal was lost, noticed at {at}: {}. Attachments made before have no record",
        loss.why
    );
    let forgotten = "detach and remove what is listed here without a record; the daemon forgets the loss once nothing is left";
    let mend = match &loss.kept {
        Some(kept) => format!(
            "{forgotten}. volattach journal show --file {} lists what can be read of it",
            kept.display()
        ),
        None => forgotten.to_owned(),
    };
    Finding::error(what, mend)
}

/// Mends an entry that another build wrote.
const ANOTHER_BUILD: &str = "install the build of volattachd that wrote it; volattach journal export shows it while the daemon is stopped";

fn of_unreadable(record: &Unreadable) -> Finding {
    let what = format!("its record cannot be read: {}", record.why);
    let mend = format!(
        "{ANOTHER_BUILD}; volattach forget {} shows what is left if its record goes",
        record.id
    );
    Finding::error(what, mend).of(&record.id)
}

/// A clock that was set back: records of the future. Their ids are not named, as the caller may not see each.
fn of_clock<'a>(records: impl Iterator<Item = &'a Record>, now: SystemTime) -> Option<Finding> {
    let ahead = records.filter_map(|record| {
        let attachment = record.to_attachment();
        let latest = attachment.created.max(attachment.updated);
        latest.duration_since(now).ok()
    });
    let ahead: Vec<Duration> = ahead.filter(|ahead| *ahead > CLOCK_SLACK).collect();
    let furthest = ahead.iter().max()?;
    let number = ahead.len();
    let what = format!(
        "this host's clock is wrong, or was when attachments were made: {number} of them are of the future, the latest by {} s",
        furthest.as_secs()
    );
    let mend = "timedatectl shows the clock, and chronyc makestep sets it";
    Some(Finding::warning(what, mend))
}

/// An attachment with an error.
///
/// `is_paused`: its guest is, since requests to a disk failed.
fn of_record(record: &Record, is_paused: bool) -> Option<Finding> {
    let attachment = record.to_attachment();
    let error = attachment.error?;
    let id = &attachment.id;
    let (make, end) = match record.kind() {
        Kind::Attach => ("volattach attach …", format!("volattach detach {id}")),
        Kind::Connect => ("volattach connect …", format!("volattach disconnect {id}")),
    };
    let (what, reason) = (error.message, error.reason);
    let finding = match attachment.state {
        State::Lost => {
            let mend = match reason == Reason::DomainGone {
                true => end,
                false => format!("{make} again by the same request, or {end}"),
            };
            Finding::error(format!("lost: {what}"), mend)
        }
        State::Detaching => {
            let since = record
                .course
                .unplug_requested()
                .unwrap_or(attachment.updated);
            let since = time(since);
            let requests = record.course.unplug_requests();
            let what = format!(
                "detaching (unanswered unplug requests: {requests}, the last at {since}): {what}"
            );
            let keep = format!("volattach cancel-detach {id}, or wait for the guest");
            // A failed attach has no disk to keep.
            let mend = if is_paused {
                mend_of_paused(record, "the detach completes")
            } else if record.may_be_kept() {
                keep
            } else {
                end
            };
            Finding::warning(what, mend)
        }
        State::Attached if reason == Reason::IoStopped => {
            Finding::error(what, mend_of_paused(record, &end))
        }
        State::Attached | State::Connected => {
            let mend = match reason == Reason::BlockJobActive {
                true => format!("end the block job (virsh blockjob), then {end}"),
                false => format!("unmount the disk in the guest, then {end}"),
            };
            Finding::warning(format!("the detach failed ({reason}): {what}"), mend)
        }
        state => Finding::error(format!("{state} ({reason}): {what}"), end),
    };
    Some(finding.of(id))
}

/// What to do about a guest that is paused since requests to its disks failed.
fn mend_of_paused(record: &Record, then: &str) -> String {
    let servers = record.host.plan.servers().join(", ");
    let place = match servers.as_str() {
        "" => "mend the storage".to_owned(),
        servers => format!("start the server, or mend the way to it ({servers})"),
    };
    let domain = record.domain.as_ref().map(|domain| domain.uuid);
    let domain = domain.map(|uuid| uuid.to_string()).unwrap_or_default();
    format!(
        "{place}: the paused guest goes on by itself; if the volume is lost for good: virsh destroy {domain}, then {then}"
    )
}

/// An attachment with missing paths.
fn of_paths(record: &Record) -> Option<Finding> {
    let paths = record.paths().filter(|paths| paths.is_short())?;
    let what = format!(
        "{} of {} paths to its volume work",
        paths.working, paths.planned
    );
    let servers = record.host.plan.servers().join(", ");
    let mend = format!(
        "check the network and the portals of {servers}: the daemon makes missing paths again once their portals answer"
    );
    Some(Finding::warning(what, mend).of(&record.id))
}

/// Orphans, and the places that could not be looked at.
fn of_survey(survey: Survey, lost: bool, unreadable: bool) -> Vec<Finding> {
    let unseen = survey.unseen.into_iter().map(of_unseen);
    // A connection that volattach may not have made is another's, unless a journal was lost that had it.
    let orphans = survey.orphans.into_iter().filter(|it| it.own || lost);
    let orphans = orphans.map(|orphan| {
        let what = format!("no record of {}", orphan.what);
        of_orphan(Orphan { what, ..orphan }, unreadable)
    });
    unseen.chain(orphans).collect()
}

/// `unreadable`: there are records that cannot be read, and one of them may have it.
pub(super) fn of_orphan(orphan: Orphan, unreadable: bool) -> Finding {
    let Orphan { what, mend, own } = orphan;
    match (unreadable, own) {
        (true, _) => Finding::warning(
            what,
            format!("unless one of the unreadable records has it: {mend}"),
        ),
        (false, true) => Finding::error(what, mend),
        (false, false) => Finding::warning(format!("{what}, which others may have made"), mend),
    }
}

pub(super) fn of_unseen(unseen: Unseen) -> Finding {
    let what = format!(
        "{} cannot be looked at: {}",
        unseen.what,
        unseen.error.chain()
    );
    match unseen.error.reason() {
        Reason::HypervisorUnavailable => Finding::error(what, unseen.mend),
        _ => Finding::warning(what, unseen.mend),
    }
}
