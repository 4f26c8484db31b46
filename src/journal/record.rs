//! A journal's record.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::model::{
    AccessDecision, Attachment, AttachmentError, AttachmentId, DiskPlan, Domain, Holder,
    HostVolume, PathCount, State, Use, VolumeId, VolumeRights,
};

/// Which pair of calls an attachment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Attach and detach: host and domain.
    Attach,
    /// Connect and disconnect: host only.
    Connect,
}

/// A step of the saga, in the order of an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Connect the volume to the host, or join a connection that others use.
    Connect,
    /// Open the volume and check that it may be shown to a guest. No record has it: what it changes,
    /// the undo of the connect takes back ([`crate::model::Found::protected`]).
    Inspect,
    /// Plug the disk into the domain.
    Attach,
}

impl Step {
    /// Its name, as plans, journal and logs write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Inspect => "inspect",
            Self::Attach => "attach",
        }
    }
}

/// How far a step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// About to run, or running: after a crash only reality knows whether it was done.
    Intent,
    /// Done.
    Done,
}

/// A step that was begun and not undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which step.
    pub step: Step,
    /// How far it came.
    pub progress: Progress,
}

/// Which way the saga goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Steps are run.
    Forward,
    /// Steps are undone, last first: a detach, or the undo of a failed attach.
    Backward,
}

/// One attachment in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The caller's id.
    pub id: AttachmentId,
    /// A keyed hash of the whole request, secrets included: says whether a repeated call is the same one.
    pub fingerprint: String,
    /// The volume.
    pub volume: VolumeId,
    /// Whether other attachments may write the volume beside this one; of a read-only one, whether one other may.
    pub shareable: bool,
    /// The domain; `None`: connected to the host only.
    pub domain: Option<Domain>,
    /// Read-only or read-write, and why.
    pub access: AccessDecision,
    /// What was known of who may use the volume when that was decided.
    #[serde(default)]
    pub rights: VolumeRights,
    /// For whom it is; `None`: not known, an earlier version made it.
    #[serde(default)]
    pub holder: Option<Holder>,
    /// The host's side.
    pub host: HostVolume,
    /// The domain's side. Its alias is final from the start; its target and address are, once the attach step is begun.
    pub disk: DiskPlan,
    /// Progress of the attachment.
    #[serde(flatten)]
    pub course: Course,
    /// Paths to the volume, if some of them did not work at the last look. `None`: all of them worked, or the volume has no paths.
    #[serde(default)]
    pub degraded: Option<PathCount>,
    /// Whether to take the attachment down even if the guest's last writes cannot be flushed.
    #[serde(default)]
    pub force: bool,
}

/// Progress of an attachment, changed only by the named transitions of the record (`transition.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// The steps begun and not undone, in order.
    pub(super) steps: Vec<StepRecord>,
    pub(super) direction: Direction,
    pub(super) state: State,
    pub(super) error: Option<AttachmentError>,
    pub(super) unplug_requested: Option<SystemTime>,
    /// Number of unplug requests that the guest has not answered.
    #[serde(default)]
    pub(super) unplug_requests: u32,
    /// Place among the requests of this journal, from 1. 0: none yet, or an earlier build made the record.
    #[serde(default)]
    pub(super) order: u64,
    pub(super) created: SystemTime,
    /// Time of the last change of state.
    pub(super) updated: SystemTime,
}

impl Course {
    /// Starts the course of a new request: no step is begun.
    #[must_use]
    pub fn begin() -> Self {
        let now = SystemTime::now();
        Self {
            steps: Vec::new(),
            direction: Direction::Forward,
            state: State::Connecting,
            error: None,
            unplug_requested: None,
            unplug_requests: 0,
            order: 0,
            created: now,
            updated: now,
        }
    }

    /// Which way it goes.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What went wrong last.
    #[must_use]
    pub fn error(&self) -> Option<&AttachmentError> {
        self.error.as_ref()
    }

    /// Whether any step is begun and not undone.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Whether every begun step is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let done = |step: &StepRecord| step.progress == Progress::Done;
        self.steps.iter().all(done)
    }

    /// When the guest was last asked to let go of the disk, and has not yet.
    #[must_use]
    pub fn unplug_requested(&self) -> Option<SystemTime> {
        self.unplug_requested
    }

    /// Number of unplug requests that the guest has not answered.
    #[must_use]
    pub fn unplug_requests(&self) -> u32 {
        self.unplug_requests
    }

    /// Place among the requests of this journal; 0: none.
    #[must_use]
    pub fn order(&self) -> u64 {
        self.order
    }

    /// Rank by age: the newest request ranks highest, however the wall clock was set meanwhile. Records of earlier builds, which have no
    /// place in the order, rank lowest, by their time.
    #[must_use]
    pub fn rank(&self) -> (u64, SystemTime) {
        (self.order, self.created)
    }
}

impl Record {
    /// Which pair of calls made it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.domain.is_some() {
            Kind::Attach
        } else {
            Kind::Connect
        }
    }

    /// How far the step came; `None`: not begun, or undone.
    #[must_use]
    pub fn progress(&self, step: Step) -> Option<Progress> {
        self.course
            .steps
            .iter()
            .find(|begun| begun.step == step)
            .map(|begun| begun.progress)
    }

    /// Whether the attachment had everything promised and the undo of its plug has not succeeded: if its guest keeps the disk, it can be
    /// `Attached` again. A failed attach cannot.
    #[must_use]
    pub fn may_be_kept(&self) -> bool {
        let plugged = StepRecord {
            step: Step::Attach,
            progress: Progress::Done,
        };
        self.course.steps.last() == Some(&plugged)
    }

    /// Whether the connection may be there: the connect step was begun and not undone.
    #[must_use]
    pub fn uses_connection(&self) -> bool {
        self.progress(Step::Connect).is_some()
    }

    /// Paths to a volume on a target, as of the last look.
    #[must_use]
    pub fn paths(&self) -> Option<PathCount> {
        self.degraded.or_else(|| self.host.all_paths())
    }

    /// The same as the world sees them: `None` too where the volume is not connected, or the attachment is lost.
    #[must_use]
    pub fn shown_paths(&self) -> Option<PathCount> {
        let connected = self.progress(Step::Connect) == Some(Progress::Done);
        self.paths()
            .filter(|_| connected && self.state() != State::Lost)
    }

    /// What it is to others who want the volume.
    #[must_use]
    pub fn to_use(&self) -> Use {
        let holder = self.holder.as_ref();
        Use {
            user_id: holder.map_or_else(String::new, |holder| holder.user_id.clone()),
            access: self.access.access,
        }
    }

    /// Where the attachment stands as the world sees it: `Lost` for one that is to be whole and is not.
    #[must_use]
    pub fn state(&self) -> State {
        let error = self.course.error.as_ref();
        let lost = error.is_some_and(|error| error.loss().is_some());
        match self.course.state {
            State::Attached | State::Connected if lost => State::Lost,
            state => state,
        }
    }

    /// The attachment as the world sees it.
    #[must_use]
    pub fn to_attachment(&self) -> Attachment {
        let connected = self.progress(Step::Connect) == Some(Progress::Done);
        let placed = self.domain.is_none() || self.progress(Step::Attach).is_some();
        Attachment {
            id: self.id.clone(),
            volume: self.volume.clone(),
            domain: self.domain.clone(),
            protocol: self.host.plan.protocol.clone(),
            servers: self.host.plan.servers(),
            paths: self.shown_paths(),
            access: self.access.clone(),
            rights: self.rights.clone(),
            holder: self.holder.clone(),
            state: self.state(),
            host_path: connected.then(|| self.host.path().to_owned()),
            target: placed.then(|| self.disk.target.clone()),
            disk_xml: placed.then(|| self.disk.xml.clone()),
            error: self.course.error.clone(),
            created: self.course.created,
            updated: self.course.updated,
        }
    }
}
