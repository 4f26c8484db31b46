//! How a record changes: by these, and by nothing else. Each is named for what has become of its attachment.

use std::time::SystemTime;

use super::record::{Course, Direction, Kind, Progress, Record, Step, StepRecord};
use crate::model::{AttachmentError, State};

impl Record {
    /// It is made again of what is left of it from before: that is this record's to undo, and until it is connected anew, it is what
    /// there is to take down.
    pub fn made_again_of(&mut self, old: Self) {
        self.host = old.host;
        self.course = Course {
            direction: Direction::Forward,
            ..old.course
        };
    }

    /// It was asked for when an earlier one of its id was, of which nothing is left.
    pub fn asked_for_with(&mut self, old: &Self) {
        self.course.created = old.course.created;
    }

    /// A step is about to run. What is made again keeps its state meanwhile: part of it may work.
    pub fn begin(&mut self, step: Step) {
        self.set(step, Progress::Intent);
        if step == Step::Attach && self.course.state == State::Connecting {
            self.course.state = State::Attaching;
        }
        self.course.updated = SystemTime::now();
    }

    /// A step is done.
    pub fn done(&mut self, step: Step) {
        self.set(step, Progress::Done);
    }

    /// A step that was begun did nothing: there is nothing to undo, and what is there of its kind is somebody else's.
    pub fn came_to_nothing(&mut self, step: Step) {
        self.course.steps.retain(|begun| begun.step != step);
    }

    /// All that was promised is there, for the first time or again.
    pub fn whole(&mut self) {
        self.all_done();
        self.course.state = match self.kind() {
            Kind::Attach => State::Attached,
            Kind::Connect => State::Connected,
        };
        self.course.error = None;
        self.course.updated = SystemTime::now();
    }

    /// Part of what was promised is gone, or is not there again yet.
    pub fn lost(&mut self, error: AttachmentError) {
        self.all_done();
        self.course.error = Some(error);
        self.course.updated = SystemTime::now();
    }

    /// A step failed, and what was begun is to be undone.
    pub fn given_up(&mut self, error: AttachmentError) {
        self.course.direction = Direction::Backward;
        self.course.error = Some(error);
    }

    /// The step that was begun last is about to be undone; `None`: none is begun.
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

    /// The step that was begun last is undone.
    pub fn undone(&mut self) {
        self.course.steps.pop();
    }

    /// A step could not be undone, and that is tried again. `Detaching` it stays while the guest has not answered.
    pub fn undo_failed(&mut self, error: AttachmentError, waits_for_guest: bool) {
        if !waits_for_guest {
            self.course.state = State::Failed;
        }
        self.course.error = Some(error);
        self.course.updated = SystemTime::now();
    }

    /// The guest was asked to let go of the disk.
    pub fn guest_asked(&mut self) {
        self.course.unplug_requested = Some(SystemTime::now());
    }

    /// The guest's answer to that came, or does not matter any more.
    pub fn guest_answered(&mut self) {
        self.course.unplug_requested = None;
    }

    /// Nothing of it is left.
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
