//! Where a test lets a call fail, or the process die.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use tokio::sync::Notify;

/// What happens at the chosen passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, this once.
    Fail,
    /// The call fails, and so does every later one: the journal's disk is full, libvirt is down, the server is dead.
    FailFromHere,
    /// The process dies: the call never returns, nor does any later one.
    Die,
    /// The call takes until it is released; later ones pass.
    Hold,
}

/// When, within a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It had no effect yet.
    Before,
    /// It had half of it.
    Half,
    /// It had all of it.
    After,
}

#[derive(Default)]
struct Plan {
    /// Passages since the gate was armed.
    passed: usize,
    /// At which passage what happens.
    fault: Option<(usize, Fault)>,
    /// What happened where.
    struck: Option<String>,
    /// The number of the process that lives; those before it are dead.
    lives: u64,
}

/// Every call into the world passes here.
#[derive(Clone, Default)]
pub struct Gate {
    plan: Arc<Mutex<Plan>>,
    /// The number of the process that passes here.
    life: u64,
    died: Arc<Notify>,
    released: Arc<Notify>,
}

/// The call is to fail.
pub struct Failed;

impl Gate {
    /// From now on, the `at`-th passage (from 0) goes wrong.
    pub fn arm(&self, at: usize, fault: Fault) {
        let mut plan = self.plan.lock().unwrap();
        *plan = Plan {
            fault: Some((at, fault)),
            lives: plan.lives,
            ..Plan::default()
        };
    }

    /// Nothing goes wrong from now on. Where something did: its name.
    pub fn disarm(&self) -> Option<String> {
        let mut plan = self.plan.lock().unwrap();
        plan.fault = None;
        // Nobody may have waited for the death: drop the spare notification, or a later wait would end by it.
        let _ = self.died.notified().now_or_never();
        plan.struck.take()
    }

    /// The process is dead: no call of what was built so far returns, which tasks of it that are still polled would else go on by.
    pub fn bury(&mut self) {
        self.life += 1;
        self.plan.lock().unwrap().lives = self.life;
    }

    /// Lets the call that is held go on.
    pub fn release(&self) {
        self.released.notify_one();
    }

    /// Resolves when the process dies, or a call is held.
    pub async fn died(&self) {
        self.died.notified().await;
    }

    /// A call passes.
    pub async fn pass(&self, call: &str, moment: Moment) -> Result<(), Failed> {
        let number = {
            let mut plan = self.plan.lock().unwrap();
            plan.passed += 1;
            plan.passed - 1
        };
        // Real calls take their time, and never the same: here others get theirs.
        for _ in 0..number * 7919 % 5 {
            tokio::task::yield_now().await;
        }
        match self.struck(number, call, moment) {
            None => Ok(()),
            Some(Fault::Fail | Fault::FailFromHere) => Err(Failed),
            Some(Fault::Hold) => {
                self.released.notified().await;
                Ok(())
            }
            Some(Fault::Die) => std::future::pending().await,
        }
    }

    /// What happens at the passage `number`. Who waits for a death is told in the same moment: later it could be taken for the next one.
    fn struck(&self, number: usize, call: &str, moment: Moment) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        if self.life < plan.lives {
            return Some(Fault::Die);
        }
        let (at, fault) = plan.fault?;
        let lasts = matches!(fault, Fault::FailFromHere | Fault::Die);
        if number != at && !(number > at && lasts) {
            return None;
        }
        if plan.struck.is_none() {
            plan.struck = Some(format!("{call} {moment:?}"));
            if matches!(fault, Fault::Die | Fault::Hold) {
                self.died.notify_one();
            }
        }
        Some(fault)
    }
}
