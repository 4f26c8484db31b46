//! How much each caller may ask for: a rate of calls (token bucket), calls under way, watches.
//!
//! The engine counts work, which outlives its caller's wait; here a call that becomes work counts until then.
//!
//! Invariants: what was entered is left when its guard is dropped, however the call ends; a call that is refused costs
//! nothing; what is known of a caller is forgotten once it says no more than what is known of nobody, so that callers
//! without end do not fill memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::attach::LATER;
use crate::config::Limits;
use crate::model::{Actor, CallerId, Reason};
use crate::policy::Rpc;

/// How many callers may be known before those are looked for who can be forgotten.
const SWEEP: usize = 1024;

/// Why a call is not taken now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitError {
    /// Too many in too short a time.
    #[error(
        "this caller makes more than {per_second} calls a second (limits.calls_per_second, limits.burst): try again in {} ms",
        after.as_millis()
    )]
    Rate {
        /// What is allowed.
        per_second: u32,
        /// When the next one may come.
        after: Duration,
    },
    /// Too many at the same time.
    #[error(
        "{limit} calls of this caller are under way, and no more may be (limits.calls): try again when one has ended"
    )]
    Calls {
        /// What is allowed.
        limit: u32,
    },
    /// The caller watches too often.
    #[error(
        "this caller has {limit} watches, and may have no more (limits.watches): end one first"
    )]
    Watches {
        /// What is allowed.
        limit: u32,
    },
    /// All callers together watch too often.
    #[error("callers have {limit} watches, and may have no more together (limits.all_watches)")]
    AllWatches {
        /// What is allowed.
        limit: u32,
    },
}

impl LimitError {
    /// The stable reason.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Rate { .. } => Reason::RateLimited,
            Self::Calls { .. } => Reason::TooManyCalls,
            Self::Watches { .. } | Self::AllWatches { .. } => Reason::TooManyWatches,
        }
    }

    /// When to try again.
    pub(super) fn after(&self) -> Duration {
        match self {
            Self::Rate { after, .. } => *after,
            Self::Calls { .. } | Self::Watches { .. } | Self::AllWatches { .. } => LATER,
        }
    }
}

/// What is known of a caller.
#[derive(Debug)]
struct Account {
    /// Calls that may come at once, as of `at`.
    tokens: f64,
    at: Instant,
    calls: u32,
    watches: u32,
}

/// What is known of all callers: the pure part, which is told the time.
#[derive(Debug)]
struct Accounts {
    limits: Limits,
    callers: HashMap<CallerId, Account>,
    /// How many callers to know before looking again for some to forget.
    sweep_at: usize,
    watches: u32,
}

impl Accounts {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            callers: HashMap::new(),
            sweep_at: SWEEP,
            watches: 0,
        }
    }

    /// The caller's account, its tokens as of now.
    fn account(&mut self, caller: &CallerId, now: Instant) -> &mut Account {
        if self.callers.len() >= self.sweep_at {
            let limits = &self.limits;
            self.callers.retain(|_, account| {
                account.refill(limits, now);
                !account.says_nothing(limits)
            });
            self.sweep_at = SWEEP.max(2 * self.callers.len());
        }
        let full = f64::from(self.limits.burst);
        let account = self.callers.entry(caller.clone()).or_insert(Account {
            tokens: full,
            at: now,
            calls: 0,
            watches: 0,
        });
        account.refill(&self.limits, now);
        account
    }

    fn enter(&mut self, caller: &CallerId, now: Instant) -> Result<(), LimitError> {
        let (limit, per_second) = (self.limits.calls, self.limits.calls_per_second);
        let account = self.account(caller, now);
        if account.calls >= limit {
            return Err(LimitError::Calls { limit });
        }
        if account.tokens < 1.0 {
            let missing = (1.0 - account.tokens) / f64::from(per_second);
            let after = Duration::from_secs_f64(missing).max(Duration::from_millis(1));
            return Err(LimitError::Rate { per_second, after });
        }
        account.tokens -= 1.0;
        account.calls += 1;
        Ok(())
    }

    fn leave(&mut self, caller: &CallerId) {
        if let Some(account) = self.callers.get_mut(caller) {
            account.calls = account.calls.saturating_sub(1);
        }
    }

    fn watch(&mut self, caller: &CallerId, now: Instant) -> Result<(), LimitError> {
        let (limit, all) = (self.limits.watches, self.limits.all_watches);
        if self.watches >= all {
            return Err(LimitError::AllWatches { limit: all });
        }
        let account = self.account(caller, now);
        if account.watches >= limit {
            return Err(LimitError::Watches { limit });
        }
        account.watches += 1;
        self.watches += 1;
        Ok(())
    }

    fn end_watch(&mut self, caller: &CallerId) {
        self.watches = self.watches.saturating_sub(1);
        if let Some(account) = self.callers.get_mut(caller) {
            account.watches = account.watches.saturating_sub(1);
        }
    }
}

impl Account {
    fn refill(&mut self, limits: &Limits, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let more = passed * f64::from(limits.calls_per_second);
        self.tokens = (self.tokens + more).min(f64::from(limits.burst));
        self.at = now.max(self.at);
    }

    /// Whether a caller of whom nothing is known is treated the same.
    fn says_nothing(&self, limits: &Limits) -> bool {
        self.calls == 0 && self.watches == 0 && self.tokens >= f64::from(limits.burst)
    }
}

/// What all callers have under way.
#[derive(Debug, Clone)]
pub(super) struct Limiter(Arc<Mutex<Accounts>>);

impl Limiter {
    /// One that knows of nobody yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Accounts::new(limits))))
    }

    /// Goes over to other limits. What was entered stays.
    pub(super) fn limit(&self, limits: Limits) {
        self.accounts().limits = limits;
    }

    /// Watches of all callers.
    pub(super) fn watches(&self) -> u32 {
        self.accounts().watches
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call of the caller, which is under way until the guard is dropped.
    ///
    /// # Errors
    /// Where the caller has had its share for now.
    pub(super) fn enter(&self, actor: &Actor) -> Result<Guard, LimitError> {
        let caller = CallerId::from(actor);
        self.accounts().enter(&caller, Instant::now())?;
        Ok(Guard {
            limiter: self.clone(),
            caller,
            leave: Accounts::leave,
        })
    }

    /// Counts a watch of the caller, which lasts until the guard is dropped.
    ///
    /// # Errors
    /// Where the caller, or all of them, watch often enough.
    pub(super) fn watch(&self, actor: &Actor) -> Result<Guard, LimitError> {
        let caller = CallerId::from(actor);
        self.accounts().watch(&caller, Instant::now())?;
        Ok(Guard {
            limiter: self.clone(),
            caller,
            leave: Accounts::end_watch,
        })
    }
}

/// Whether the engine counts a call as work from its admission on: it goes on without its caller, so its caller's wait says nothing of it.
pub(super) fn is_work(rpc: Rpc) -> bool {
    match rpc {
        Rpc::AttachVolume
        | Rpc::DetachVolume
        | Rpc::CancelDetach
        | Rpc::ConnectVolume
        | Rpc::DisconnectVolume
        | Rpc::ExtendVolume
        | Rpc::SetIoTune
        | Rpc::ForgetAttachment => true,
        Rpc::GetAttachment
        | Rpc::ListAttachments
        | Rpc::WatchAttachments
        | Rpc::PlanAttach
        | Rpc::GetConnector
        | Rpc::GetAttachmentStats
        | Rpc::GetVolumePermissions
        | Rpc::SetVolumePermissions
        | Rpc::Diagnose => false,
    }
}

/// Something that was counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    limiter: Limiter,
    caller: CallerId,
    leave: fn(&mut Accounts, &CallerId),
}

impl Drop for Guard {
    fn drop(&mut self) {
        (self.leave)(&mut self.limiter.accounts(), &self.caller);
    }
}

#[cfg(test)]
mod tests;
