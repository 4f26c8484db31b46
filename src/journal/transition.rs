//! Named transitions of a record, the only way its course changes. Each is named after the event of its attachment.

use std::time::SystemTime;

use super::record::{Course, Direction, Kind, Progress, Record, Step, StepRecord};
use crate::model::{AttachmentError, State};

impl Record {
    /// Keeps the connection and steps of the lost attachment, so that undoing this record also removes its leftovers. Until the new
    /// connect, the old connection is the one to take down.
    pub fn made_again_of(&mut self, old: Self) {
        self.host = old.host;
        self.course = Course {
            direction: Direction::Forward,
            ..old.course
        };
    }

    /// Keeps the request time of the earlier record with this id, of which nothing is left.
    pub fn asked_for_with(&mut self, old: &Self) {
        self.course.created = old.course.created;
        self.course.order = old.course.order;
    }

    /// Gives a place among the requests of this journal to a record that has none.
    pub fn ordered(&mut self, order: u64) {
        if self.course.order == 0 {
            self.course.order = order;
        }
    }

    /// Notes that a step is about to run. A reattached record keeps its state meanwhile: part of it may work.
    pub fn begin(&mut self, step: Step) {
        self.set(step, Progress::Intent);
        if step == Step::Attach && self.course.state == State::Connecting {
            self.course.state = State::Attaching;
        }
        self.course.updated = SystemTime::now();
    }

    /// Marks a step as done.
    pub fn done(&mut self, step: Step) {
        self.set(step, Progress::Done);
    }

    /// Forgets a begun step that did nothing: no undo is needed, and a disk found in its place belongs to somebody else.
    pub fn came_to_nothing(&mut self, step: Step) {
        self.course.steps.retain(|begun| begun.step != step);
    }

    /// Marks everything promised as present, for the first time or again.
    pub fn whole(&mut self) {
        self.all_done();
        self.course.state = match self.kind() {
            Kind::Attach => State::Attached,
            Kind::Connect => State::Connected,
        };
        self.course.error = None;
        self.course.updated = SystemTime::now();
    }

    /// Marks part of the attachment as gone, or as not restored yet.
    pub fn lost(&mut self, error: AttachmentError) {
        self.all_done();
        self.course.error = Some(error);
        self.course.updated = SystemTime::now();
    }

    /// Marks the guest as paused, since requests to the volume failed.
    pub fn stopped(&mut self, error: AttachmentError) {
        self.course.error = Some(error);
        self.course.updated = SystemTime::now();
    }

    /// Notes the name that the domain has now: the domain is the same, as its UUID is.
    pub fn domain_named(&mut self, name: &str) {
        if let Some(domain) = &mut self.domain {
            name.clone_into(&mut domain.name);
        }
    }

    /// Turns the direction after a failed step: begun steps are to be undone.
    pub fn given_up(&mut self, error: AttachmentError) {
        self.course.direction = Direction::Backward;
        self.course.error = Some(error);
    }

    /// Begins to undo the last begun step and returns it; `None`: no step is begun.
    pub fn undo(&mut self) -> Option<Step> {
        self.course.direction = Direction::Backward;
        let last = self.course.steps.last()?.step;
        self.course.state = match last {
            Step::Attach => State::Detaching,
            Step::Connect | Step::Inspect => State::Disconnecting,
        };
        self.course.updated = SystemTime::now();
        Some(last)
    }

    /// Removes the last begun step, which is undone.
    pub fn undone(&mut self) {
        self.course.steps.pop();
    }

    /// Notes a failed undo, which is tried again later. The state stays `Detaching` while the guest has not answered.
    pub fn undo_failed(&mut self, error: AttachmentError, waits_for_guest: bool) {
        if !waits_for_guest {
            self.course.state = State::Failed;
        }
        self.course.error = Some(error);
        self.course.updated = SystemTime::now();
    }

    /// Notes that the guest was asked to release the disk.
    pub fn guest_asked(&mut self) {
        self.course.unplug_requested = Some(SystemTime::now());
        self.course.unplug_requests = self.course.unplug_requests.saturating_add(1);
    }

    /// Notes that the guest is busy with an earlier request and did not get this one.
    pub fn guest_busy(&mut self) {
        self.course.unplug_requested = Some(SystemTime::now());
    }

    /// Clears the requests to the guest: answered, or no longer relevant.
    pub fn guest_answered(&mut self) {
        self.course.unplug_requested = None;
        self.course.unplug_requests = 0;
    }

    /// Turns the direction back: the guest keeps the disk, and nobody asks for it any more. `error`: why the detach failed; `None`: it was
    /// cancelled.
    pub fn kept(&mut self, error: Option<AttachmentError>) {
        self.guest_answered();
        self.force = false;
        self.course.direction = Direction::Forward;
        self.course.state = State::Attached;
        self.course.error = error;
        self.course.updated = SystemTime::now();
    }

    /// Marks the attachment as gone: nothing of it is left.
    pub fn gone(&mut self) {
        self.course.state = State::Gone;
        self.course.updated = SystemTime::now();
    }

    fn all_done(&mut self) {
        for begun in &mut self.course.steps {
            begun.progress = Progress::Done;
        }
    }

    fn set(&mut self, step: Step, progress: Progress) {
        match self
            .course
            .steps
            .iter_mut()
            .find(|begun| begun.step == step)
        {
            Some(begun) => begun.progress = progress,
            None => self.course.steps.push(StepRecord { step, progress }),
        }
    }
}
