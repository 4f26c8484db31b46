//! One connection to libvirt: opened with events and keep-alive, and known to be dead once it is.

use std::collections::HashMap;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, error};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, clear_error_callback};
use virt::event::{event_register_default_impl, event_run_default_impl};

use super::error::LibvirtError;
use super::raw::{self, CloseSink, EventSink};
use super::view;
use crate::model::Dialect;

/// How often a silent libvirtd is asked for a sign of life, and how many times it may fail to answer. libvirt closes
/// the connection, and fails every call that waits on it, within three such intervals.
const KEEP_ALIVE: (i32, u32) = (3, 2);

/// Handles of domains that are kept.
const HANDLES: usize = 128;

/// An open connection.
pub(super) struct Connection {
    /// Handles of domains that were looked up before. Each holds the connection, so they are dropped first.
    domains: Mutex<HashMap<Uuid, Domain>>,
    connect: Connect,
    dialect: Dialect,
    /// Whether its domains get AppArmor profiles.
    profiles: bool,
    closed: Arc<AtomicBool>,
    events: Vec<c_int>,
    remote: bool,
}

impl Connection {
    /// Opens a connection; blocks, without a limit where libvirtd hangs. Events go to the sink, if one is given, and
    /// `on_close` is notified of the connection's end.
    pub(super) fn open(
        uri: &str,
        events: Option<&EventSink>,
        on_close: &Arc<Notify>,
    ) -> Result<Self, LibvirtError> {
        run_event_loop()?;
        let connect = Connect::open(Some(uri))?;
        let mut connection = Self {
            dialect: match connect.driver_type()?.as_str() {
                "Xen" => Dialect::Xen,
                _ => Dialect::Qemu,
            },
            profiles: raw::security_model(&connect)?.as_deref() == Some(view::APPARMOR),
            domains: Mutex::default(),
            connect,
            closed: Arc::new(AtomicBool::new(false)),
            events: Vec::new(),
            remote: false,
        };
        connection.watch_end(on_close)?;
        if let Some(sink) = events {
            connection.events = raw::register_events(&connection.connect, sink)?;
        }
        Ok(connection)
    }

    /// Notices the end of a connection to a daemon. A driver inside this process (`qemu:///embed`) has no keep-alive
    /// and no end.
    fn watch_end(&mut self, on_close: &Arc<Notify>) -> Result<(), Error> {
        let (interval, count) = KEEP_ALIVE;
        match self.connect.set_keep_alive(interval, count) {
            Ok(()) => {}
            Err(error) if error.code().to_raw() == virt_sys::VIR_ERR_NO_SUPPORT => return Ok(()),
            Err(error) => return Err(error),
        }
        let (closed, notify) = (Arc::clone(&self.closed), Arc::clone(on_close));
        let sink: CloseSink = Arc::new(move |reason| {
            debug!(?reason, "the connection to libvirt closed");
            closed.store(true, Ordering::Release);
            notify.notify_one();
        });
        raw::register_close(&self.connect, sink)?;
        self.remote = true;
        Ok(())
    }

    /// libvirt's connection.
    pub(super) fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Returns a handle of the domain with that UUID, which spares a round trip if there is one. What the handle says by itself is as old as
    /// the handle: name and number are to be read from the domain's XML. Libvirt's drivers find the domain by the UUID alone.
    ///
    /// # Errors
    /// libvirt's. A call by the handle of a domain that exists no more fails as the search for it would (`VIR_ERR_NO_DOMAIN`).
    pub(super) fn domain(&self, uuid: Uuid) -> Result<Domain, Error> {
        let lock = || self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&uuid) {
            return Ok(known.clone());
        }
        let found = self.connect.lookup_domain_by_uuid(uuid)?;
        let mut domains = lock();
        if domains.len() >= HANDLES {
            domains.clear();
        }
        domains.insert(uuid, found.clone());
        Ok(found)
    }

    /// How the disks of its domains are written, by the name of its driver (`virConnectGetType`).
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether its domains get AppArmor profiles, unless their XML says otherwise.
    pub(super) fn profiles(&self) -> bool {
        self.profiles
    }

    /// Whether calls can go through it; asks nobody.
    pub(super) fn is_alive(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && self.connect.is_alive().unwrap_or(false)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        raw::deregister_events(&self.connect, &self.events);
        if self.remote {
            raw::deregister_close(&self.connect);
        }
    }
}

/// Runs libvirt's event loop on a thread of its own, once in a process and for as long as it lives: it must run
/// before the first connection is opened, and cannot be taken back (virEventRegisterDefaultImpl). Who opens a
/// connection of their own in the same process calls this first; [`super::Libvirt`] does so by itself.
///
/// # Errors
/// libvirt's, where it cannot be set up; the same to every caller.
pub fn run_event_loop() -> Result<(), LibvirtError> {
    static LOOP: OnceLock<Result<(), LibvirtError>> = OnceLock::new();
    let start = || {
        clear_error_callback(); // libvirt would print every error to stderr
        event_register_default_impl()?;
        thread::spawn(|| {
            loop {
                if let Err(error) = event_run_default_impl() {
                    error!(%error, "libvirt's event loop failed; trying again in a second");
                    thread::sleep(Duration::from_secs(1));
                }
            }
        });
        Ok(())
    };
    LOOP.get_or_init(start).clone()
}
