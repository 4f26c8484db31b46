//! How a record changes: by these, and by nothing else. Each is named for what has become of its attachment.

use std::time::SystemTime;

use super::record::{Direction, Kind, Progress, Record, Step, StepRecord};
use crate::model::{AttachmentError, State};

impl Record {
    /// A step is about to run. What is made again keeps its state meanwhile: part of it may work.
    pub fn begin(&mut self, step: Step) {
        self.set(step, Progress::Intent);
        if step == Step::Attach && self.state == State::Connecting {
            self.state = State::Attaching;
        }
        self.updated = SystemTime::now();
    }

    /// A step is done.
    pub fn done(&mut self, step: Step) {
        self.set(step, Progress::Done);
    }

    /// A step that was begun did nothing: there is nothing to undo, and what is there of its kind is somebody else's.
    pub fn came_to_nothing(&mut self, step: Step) {
        self.steps.retain(|begun| begun.step != step);
    }

    /// All that was promised is there, for the first time or again.
    pub fn whole(&mut self) {
        self.all_done();
        self.state = match self.kind() {
            Kind::Attach => State::Attached,
            Kind::Connect => State::Connected,
        };
        self.error = None;
        self.updated = SystemTime::now();
    }

    /// Part of what was promised is gone, or is not there again yet.
    pub fn lost(&mut self, error: AttachmentError) {
        self.all_done();
        self.error = Some(error);
        self.updated = SystemTime::now();
    }

    /// A step failed, and what was begun is to be undone.
    pub fn given_up(&mut self, error: AttachmentError) {
        self.direction = Direction::Backward;
        self.error = Some(error);
    }

    /// The step that was begun last is about to be undone; `None`: none is begun.
    pub fn undo(&mut self) -> Option<Step> {
        self.direction = Direction::Backward;
        let last = self.steps.last()?.step;
        self.state = match last {
            Step::Attach => State::Detaching,
            Step::Connect | Step::Inspect => State::Disconnecting,
        };
        self.updated = SystemTime::now();
        Some(last)
    }

    /// The step that was begun last is undone.
    pub fn undone(&mut self) {
        self.steps.pop();
    }

    /// A step could not be undone, and that is tried again. `Detaching` it stays while the guest has not answered.
    pub fn undo_failed(&mut self, error: AttachmentError, waits_for_guest: bool) {
        if !waits_for_guest {
            self.state = State::Failed;
        }
        self.error = Some(error);
        self.updated = SystemTime::now();
    }

    /// The guest was asked to let go of the disk.
    pub fn guest_asked(&mut self) {
        self.unplug_requested = Some(SystemTime::now());
    }

    /// The guest's answer to that came, or does not matter any more.
    pub fn guest_answered(&mut self) {
        self.unplug_requested = None;
    }

    /// Nothing of it is left.
    pub fn gone(&mut self) {
        self.state = State::Gone;
        self.updated = SystemTime::now();
    }

    fn all_done(&mut self) {
        for begun in &mut self.steps {
            begun.progress = Progress::Done;
        }
    }

    fn set(&mut self, step: Step, progress: Progress) {
        match self.steps.iter_mut().find(|begun| begun.step == step) {
            Some(begun) => begun.progress = progress,
            None => self.steps.push(StepRecord { step, progress }),
        }
    }
}
