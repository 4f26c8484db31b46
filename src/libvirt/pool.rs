//! A small pool of connections to libvirt, opened when needed and again when they have died.
//!
//! libvirtd answers five requests of one client at a time (`max_client_requests` in libvirtd.conf) and lets further
//! ones wait, so several connections share the load. The first of them carries the events, and is kept open: a
//! task opens it again when it ends.
//!
//! A QEMU that hangs, say on an image whose server is dead, hangs the call on its domain too, for as long as that lasts.
//! Past its deadline such a call keeps neither a turn nor a connection that others use, and its domain gets no further
//! one: what it comes to is unknown until it ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};
use virt::error::Error;

use super::HypervisorLoad;
use super::connection::Connection;
use super::error::{HypervisorError, LibvirtError};
use super::event::DomainEvent;
use super::raw::{Event, EventSink};
use super::turns::Turns;
use crate::config;
use crate::model::Dialect;

/// Connections to a daemon.
const CONNECTIONS: usize = 3;
/// Calls at a time on one connection: one fewer than libvirtd answers.
const CALLS: usize = 4;
/// The longest pause between two tries to open the connection that carries the events.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// libvirt was not reached, or the connection ended during the call, whose outcome is then unknown.
    Unavailable(HypervisorError),
    /// libvirt answered with an error.
    Libvirt(LibvirtError),
}

/// The pool.
pub(super) struct Pool {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

struct Shared {
    uri: String,
    /// In milliseconds.
    call_timeout: AtomicU64,
    slots: Vec<Slot>,
    turns: Turns,
    /// What the connection is to, once there was one.
    dialect: OnceLock<Dialect>,
    /// Domains with calls past their deadline, and how many.
    overdue: Mutex<HashMap<String, usize>>,
    events: EventSink,
    /// Notified when the connection that carries the events was opened, by whatever call.
    opened: Notify,
    closed: Arc<Notify>,
}

#[derive(Default)]
struct Slot {
    state: AsyncMutex<SlotState>,
    /// Whether `state` holds a connection: a hint for choosing.
    open: AtomicBool,
    /// Calls under way.
    calls: AtomicUsize,
}

/// A connection that is being opened.
struct Opening {
    opened: oneshot::Receiver<Result<Connection, LibvirtError>>,
    /// Until when it is waited for, by all who wait.
    deadline: Instant,
}

#[derive(Default)]
struct SlotState {
    connection: Option<Arc<Connection>>,
    /// An opening that outlasted its caller. libvirt's open cannot be cancelled, so the next caller goes on waiting
    /// for this one rather than start another that would hang too.
    opening: Option<Opening>,
}

/// Counts a call on a slot.
struct Call {
    shared: Arc<Shared>,
    slot: usize,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.shared.slots[self.slot]
            .calls
            .fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool of connections; must be called within a tokio runtime.
    pub(super) fn new(settings: &config::Libvirt, events: EventSink) -> Self {
        let uri = &settings.uri;
        // The driver inside this process has no connection to share out.
        let connections = if uri.contains("///embed") {
            1
        } else {
            CONNECTIONS
        };
        let shared = Arc::new(Shared {
            uri: uri.clone(),
            call_timeout: AtomicU64::new(milliseconds(settings.call_timeout)),
            dialect: OnceLock::new(),
            overdue: Mutex::default(),
            slots: (0..connections).map(|_| Slot::default()).collect(),
            turns: Turns::new(CONNECTIONS * CALLS),
            events,
            opened: Notify::new(),
            closed: Arc::default(),
        });
        let keeper = tokio::spawn(keep_events(Arc::clone(&shared))).abort_handle();
        Self { shared, keeper }
    }

    /// Gives the calls that begin from now on so long.
    pub(super) fn set_call_timeout(&self, timeout: Duration) {
        let timeout = milliseconds(timeout);
        self.shared.call_timeout.store(timeout, Ordering::Relaxed);
    }

    /// How the disks of the connection's domains are written.
    pub(super) fn dialect(&self) -> Dialect {
        self.shared.dialect.get().copied().unwrap_or_default()
    }

    /// Condition of the connections, as far as it is known without a call.
    pub(super) fn load(&self) -> HypervisorLoad {
        let shared = &self.shared;
        let running = shared.slots.iter();
        let running = running.map(|slot| slot.calls.load(Ordering::Relaxed) as u64);
        HypervisorLoad {
            // The keeper opens the first connection anew as soon as it ends, and clears this meanwhile.
            connected: shared
                .slots
                .first()
                .is_some_and(|slot| slot.open.load(Ordering::Relaxed)),
            running: running.sum(),
            waiting: shared.turns.waiting(),
            hanging: lock(&shared.overdue).len() as u64,
        }
    }

    /// Runs a call about a domain on a blocking thread. It goes on there, watched, when the future is dropped.
    pub(super) async fn run<T, F>(&self, domain: &str, call: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let shared = &self.shared;
        shared.check(domain).map_err(CallError::Unavailable)?;
        let permit = shared.turns.take().await;
        let counted = shared.choose();
        let slot = counted.slot;
        let connection = shared
            .connection(slot)
            .await
            .map_err(CallError::Unavailable)?;
        let turn = Arc::new(Mutex::new(Some((permit, counted))));
        let ran = spawn_blocking({
            let (connection, turn) = (Arc::clone(&connection), Arc::clone(&turn));
            move || {
                let result = call(&connection);
                drop(lock(&turn).take());
                (result, connection.is_alive())
            }
        });
        // On a task of its own: whatever becomes of the caller, a call that hangs gives its turn back, and its domain is marked.
        let release = {
            let (shared, connection) = (Arc::clone(shared), Arc::clone(&connection));
            async move {
                drop(lock(&turn).take());
                shared.retire(slot, &connection).await;
            }
        };
        let watch = Arc::clone(shared).watch(domain.to_owned(), ran, release);
        let ended = tokio::spawn(watch).await;
        match ended.unwrap_or_else(|error| Ok(Err(error))) {
            Ok(Ok((Ok(value), _))) => Ok(value),
            Ok(Ok((Err(error), true))) => Err(CallError::Libvirt(error.into())),
            Ok(Ok((Err(error), false))) => Err(CallError::Unavailable(
                shared.unavailable("the connection ended during the call", Some(error.into())),
            )),
            Ok(Err(_)) => Err(CallError::Unavailable(
                shared.unavailable("the call was cut off", None),
            )),
            Err(hangs) => Err(CallError::Unavailable(hangs)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    fn unavailable(&self, why: &str, source: Option<LibvirtError>) -> HypervisorError {
        HypervisorError::Unavailable {
            uri: self.uri.clone(),
            why: why.to_owned(),
            source,
        }
    }

    /// Whether the domain takes calls.
    fn check(&self, domain: &str) -> Result<(), HypervisorError> {
        match lock(&self.overdue).contains_key(domain) {
            true => Err(self.hangs(domain)),
            false => Ok(()),
        }
    }

    /// Waits for a call's end. Past the deadline, releases what the call holds and marks its domain until the call ends.
    async fn watch<T: Send + 'static>(
        self: Arc<Self>,
        domain: String,
        mut ran: JoinHandle<T>,
        release: impl Future<Output = ()>,
    ) -> Result<Result<T, JoinError>, HypervisorError> {
        if let Ok(ended) = timeout(self.call_timeout(), &mut ran).await {
            return Ok(ended);
        }
        *lock(&self.overdue).entry(domain.clone()).or_default() += 1;
        release.await;
        let error = self.hangs(&domain);
        tokio::spawn(async move {
            // Whatever it came to: who looks now sees it.
            let _ = ran.await;
            let mut overdue = lock(&self.overdue);
            if let Some(calls) = overdue.get_mut(&domain) {
                *calls -= 1;
            }
            overdue.retain(|_, calls| *calls > 0);
        });
        Err(error)
    }

    fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.call_timeout.load(Ordering::Relaxed))
    }

    fn hangs(&self, domain: &str) -> HypervisorError {
        let why = format!(
            "a call on domain {domain} has not ended within libvirt.call_timeout, as when its QEMU waits for a dead server; the domain is left \
             alone until it ends"
        );
        self.unavailable(&why, None)
    }

    /// Lets others have a new connection: libvirtd answers only so many calls at a time on this one.
    async fn retire(&self, slot: usize, connection: &Arc<Connection>) {
        let slot = &self.slots[slot];
        let mut state = slot.state.lock().await;
        if state
            .connection
            .as_ref()
            .is_some_and(|there| Arc::ptr_eq(there, connection))
        {
            state.connection = None;
            slot.open.store(false, Ordering::Relaxed);
            // Whoever keeps the events needs one at once.
            self.closed.notify_one();
        }
    }

    /// An idle open connection, or else one to open, or else the least busy. Before libvirt was reached the one that carries the events:
    /// what happens to a domain after the first look at the domain is reported.
    fn choose(self: &Arc<Self>) -> Call {
        let usable = match self.dialect.get() {
            Some(_) => self.slots.len(),
            None => 1,
        };
        let rank = |slot: &Slot| {
            let calls = slot.calls.load(Ordering::Relaxed);
            match (calls, slot.open.load(Ordering::Relaxed)) {
                (0, true) => 0,
                (0, false) => 1,
                (calls, _) => 1 + calls,
            }
        };
        let ranked = self.slots.iter().enumerate().take(usable);
        let slot = ranked
            .min_by_key(|(_, slot)| rank(slot))
            .map_or(0, |(n, _)| n);
        self.slots[slot].calls.fetch_add(1, Ordering::Relaxed);
        Call {
            shared: Arc::clone(self),
            slot,
        }
    }

    /// The slot's connection, opened if there is none alive. A libvirtd that has just started takes connections at once
    /// and answers when its drivers are up, some seconds later on a busy host: it has as long as for a call, and one that
    /// hangs has that once, not with every call anew.
    async fn connection(&self, index: usize) -> Result<Arc<Connection>, HypervisorError> {
        let slot = &self.slots[index];
        let within = self.call_timeout();
        let silent = || {
            let seconds = within.as_secs_f64();
            self.unavailable(&format!("it did not answer within {seconds} s"), None)
        };
        let locked = timeout(within, slot.state.lock()).await;
        let mut state = locked.map_err(|_| silent())?;
        if let Some(connection) = &state.connection {
            if connection.is_alive() {
                return Ok(Arc::clone(connection));
            }
            let dead = state.connection.take();
            spawn_blocking(move || drop(dead)); // it may block a little
            slot.open.store(false, Ordering::Relaxed);
        }
        let opening = match &mut state.opening {
            Some(opening) => opening,
            none => none.insert(self.open(index)?),
        };
        let opened = timeout_at(opening.deadline, &mut opening.opened).await;
        let opened = opened.map_err(|_| silent())?;
        state.opening = None;
        let connection = match opened {
            Ok(Ok(connection)) => {
                self.dialect.get_or_init(|| connection.dialect());
                Arc::new(connection)
            }
            Ok(Err(error)) => {
                return Err(self.unavailable("it cannot be connected to", Some(error)));
            }
            Err(_) => return Err(self.unavailable("opening the connection was cut off", None)),
        };
        state.connection = Some(Arc::clone(&connection));
        slot.open.store(true, Ordering::Relaxed);
        if index == 0 {
            self.opened.notify_one();
        }
        Ok(connection)
    }

    /// Opens a connection on a thread of its own, which may hang with libvirtd without holding up the runtime's end.
    fn open(&self, index: usize) -> Result<Opening, HypervisorError> {
        let (sender, opened) = oneshot::channel();
        let uri = self.uri.clone();
        let events = (index == 0).then(|| Arc::clone(&self.events));
        let closed = Arc::clone(&self.closed);
        std::thread::Builder::new()
            .name("libvirt-open".to_owned())
            .spawn(move || {
                let _ = sender.send(Connection::open(&uri, events.as_ref(), &closed));
            })
            .map_err(|error| self.unavailable(&format!("no thread for it: {error}"), None))?;
        Ok(Opening {
            opened,
            deadline: Instant::now() + self.call_timeout(),
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps the connection open that carries the events, and reports that events were missed each time another one carries them.
async fn keep_events(shared: Arc<Shared>) {
    let mut pause = Duration::ZERO;
    let mut last: Option<Weak<Connection>> = None;
    loop {
        match shared.connection(0).await {
            Ok(connection) => {
                if !pause.is_zero() {
                    info!(uri = shared.uri, "connected to libvirt again");
                }
                let here = Arc::downgrade(&connection);
                drop(connection);
                let is_other = last.as_ref().is_some_and(|last| !last.ptr_eq(&here));
                if is_other || !pause.is_zero() {
                    (shared.events)(Event::Domain(DomainEvent::Missed));
                }
                last = Some(here);
                pause = Duration::ZERO;
                shared.closed.notified().await;
            }
            Err(error) => {
                if pause.is_zero() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "no events from libvirt; trying again"
                    );
                }
                pause = (pause * 2).clamp(Duration::from_secs(1), MAX_PAUSE);
                let _ = timeout(pause, shared.opened.notified()).await;
            }
        }
    }
}

impl From<Error> for LibvirtError {
    fn from(error: Error) -> Self {
        Self {
            code: error.code().to_raw(),
            message: error.message().to_owned(),
        }
    }
}
