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
}

/// Every call into the world passes here.
#[derive(Clone, Default)]
pub struct Gate {
    plan: Arc<Mutex<Plan>>,
    died: Arc<Notify>,
    released: Arc<Notify>,
}

/// The call is to fail.
pub struct Failed;

impl Gate {
    /// From now on, the `at`-th passage (from 0) goes wrong.
    pub fn arm(&self, at: usize, fault: Fault) {
        *self.plan.lock().unwrap() = Plan {
            fault: Some((at, fault)),
            ..Plan::default()
        };
    }

    /// Nothing goes wrong from now on. Where something did: its name.
    pub fn disarm(&self) -> Option<String> {
        let mut plan = self.plan.lock().unwrap();
        plan.fault = None;
        // Several calls may have met one death: drop the spare notification, or a later wait would end by it.
        let _ = self.died.notified().now_or_never();
        plan.struck.take()
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
        let name = format!("{call} {moment:?}");
        let (number, fault) = {
            let mut plan = self.plan.lock().unwrap();
            let number = plan.passed;
            plan.passed += 1;
            let fault = match plan.fault {
                Some((at, fault)) if number == at => Some(fault),
                Some((at, fault))
                    if number > at && matches!(fault, Fault::FailFromHere | Fault::Die) =>
                {
                    Some(fault)
                }
                _ => None,
            };
            if fault.is_some() && plan.struck.is_none() {
                plan.struck = Some(name);
            }
            (number, fault)
        };
        // Real calls take their time, and never the same: here others get theirs.
        for _ in 0..number * 7919 % 5 {
            tokio::task::yield_now().await;
        }
        match fault {
            None => Ok(()),
            Some(Fault::Fail | Fault::FailFromHere) => Err(Failed),
            Some(Fault::Hold) => {
                self.died.notify_one();
                self.released.notified().await;
                Ok(())
            }
            Some(Fault::Die) => {
                self.died.notify_one();
                std::future::pending().await
            }
        }
    }
}
