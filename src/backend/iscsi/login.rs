//! Sessions with targets: made by iscsiadm and iscsid, which alone can; found by the kernel's own word.
//!
//! Invariants: a portal is logged in to only after it accepted a connection; logins and logouts of one session take turns; a session is
//! logged out of only if it has no disk left of anybody, nobody here is about to scan one, and no other program made the session; a login
//! given up on does not outlast the record it was made from.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::lock::DatabaseLock;
use super::patience::Patience;
use super::record::Record;
use super::release::Refused;
use super::sysfs::{Session, Sysfs};
use super::{PROTOCOL, read};
use crate::backend::mount::probe;
use crate::backend::{Attempt, BackendError, Quarantine, mount};
use crate::config;
use crate::connection::Chap;
use crate::model::{Server, TargetPath};
use crate::sys::exec::{self, Ended};

/// How much longer than a login iscsiadm itself may take.
pub(super) const SPARE: Duration = Duration::from_secs(5);
/// How long a logout may take: the initiator's own limit is 15 s.
const LOGOUT: Duration = Duration::from_secs(20);
/// How often the kernel's files are looked at.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Exit codes, iscsiadm(8).
const AUTHORIZATION: i32 = 24;
const FATAL_LOGIN: i32 = 19;
const BROKEN: i32 = 4;
/// To connect, and for an answer.
const TIMED_OUT: [i32; 2] = [8, 11];
const NO_DAEMON: i32 = 20;
const DATABASE: i32 = 6;
const INTERNAL: i32 = 9;
const NO_ANSWER: i32 = 18;
const BUSY: i32 = 28;
const NOT_CONNECTED: i32 = 32;

/// Logs in and out.
#[derive(Debug, Clone)]
pub(super) struct Initiator {
    pub(super) settings: config::Iscsi,
    pub(super) sysfs: Sysfs,
    /// The program that talks to iscsid.
    pub(super) iscsiadm: String,
    pub(super) lock: Arc<DatabaseLock>,
    pub(super) quarantine: Quarantine,
    gates: Arc<Mutex<HashMap<TargetPath, Weak<Gate>>>>,
    pub(super) refused: Refused,
}

/// Held by whoever uses a session without having a disk on it yet.
#[derive(Debug, Default)]
pub(super) struct Gate(pub(super) tokio::sync::Mutex<()>);

impl Initiator {
    pub(super) fn new(settings: config::Iscsi, sysfs: Sysfs, quarantine: Quarantine) -> Self {
        Self {
            settings,
            sysfs,
            iscsiadm: "iscsiadm".to_owned(),
            lock: Arc::default(),
            quarantine,
            gates: Arc::default(),
            refused: Refused::default(),
        }
    }

    /// The session by that portal.
    pub(super) fn session(&self, path: &TargetPath) -> Option<Session> {
        self.sysfs.session(path)
    }

    /// The same, read on a blocking thread.
    pub(super) async fn find(&self, path: &TargetPath) -> Result<Option<Session>, BackendError> {
        let path = path.clone();
        read(self, move |own| own.session(&path)).await
    }

    pub(super) fn gate(&self, path: &TargetPath) -> Arc<Gate> {
        let key = TargetPath {
            lun: None,
            ..path.clone()
        };
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = gates.get(&key).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::new(Gate::default());
        gates.insert(key, Arc::downgrade(&gate));
        gate
    }

    /// The session by that portal, logged in to if need be. It stays at least as long as the gate.
    pub(super) async fn login(
        &self,
        path: &TargetPath,
        chap: Option<&Chap>,
        patience: &Patience,
    ) -> Result<(Session, Arc<Gate>), BackendError> {
        let gate = self.gate(path);
        let Some(turn) = patience.wait(gate.0.lock()).await else {
            return Err(unfinished(path, "another login there is not over")?);
        };
        let session = match self.find(path).await? {
            Some(session) => session,
            None => {
                // A portal that is silent is passed over where the volume has others.
                let portal = Server::at(PROTOCOL, &path.portal);
                let login = self.make(path, chap, patience);
                self.quarantine.watch(&portal, login).await?
            }
        };
        drop(turn);
        let given = chap.cloned();
        let look = move |it: &Session| (made_by(it, given.as_ref()), it.logged_in());
        let (same, logged_in) = read(&session, look).await?;
        let same = same.map_err(mount::host(|| {
            format!(
                "read by which credentials this host's session with {} was made",
                at(path)
            )
        }))?;
        if !same {
            // With the session's credentials a caller would have what its own do not give, or a target that has not proven
            // itself.
            return Err(BackendError::LoginRefused {
                target: at(path),
                who: who(chap),
                why: "this host has a session there already, by other credentials: use the same, or detach what uses that \
                      session"
                    .to_owned(),
            });
        }
        if !logged_in {
            let broken = "this host's session there is broken, and being repaired";
            return Err(unfinished(path, broken)?);
        }
        Ok((session, gate))
    }

    async fn make(
        &self,
        path: &TargetPath,
        chap: Option<&Chap>,
        patience: &Patience,
    ) -> Result<Session, BackendError> {
        let address = address(path)?;
        self.probe(path, address).await?;
        let write = |own: &Self, record: &Record<'_>| {
            let other = own.record_of_others(record)?;
            if other.is_none() {
                let nodes = &own.settings.nodes;
                let writing = || format!("write the node record {}", record.file(nodes).display());
                record.write(nodes).map_err(mount::host(writing))?;
            }
            Ok(other)
        };
        if let Some(other) = self.on_record(path, chap, write).await? {
            return Err(BackendError::LoginFailed {
                target: at(path),
                why: format!(
                    "the initiator has a record of this login that another program or somebody made ({}), and would go by its \
                     password and settings: log in by that, or delete it (iscsiadm -m node -T {} -p {} -o delete)",
                    other.display(),
                    path.name,
                    path.portal
                ),
            });
        }
        let within = self.settings.login_timeout + SPARE;
        let portal = &path.portal;
        let interface = &self.settings.interface;
        // Without the interface iscsiadm would act on every record of the portal.
        let args = [
            "-m", "node", "-T", &path.name, "-p", portal, "-I", interface, "--login",
        ];
        let begun = Instant::now();
        let (own, args) = (self.clone(), args.map(str::to_owned));
        // It runs on when nobody waits for it any more: killed at the wrong moment, it would leave the lock of its database.
        let login = tokio::spawn(async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            own.iscsiadm(&args, within).await
        });
        let ended = match patience.wait(login).await {
            Some(ended) => ended.unwrap_or_else(|ended| Err(io::Error::other(ended))),
            None => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Some(session) = self.find(path).await? {
            tracing::info!(
                target = path.name,
                portal,
                session = session.id,
                "logged in"
            );
            return Ok(session);
        }
        // Without its record iscsid cannot try again by itself.
        let _ = self.remove_record(path).await;
        if ended
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
        {
            self.forget(path.clone());
        }
        let waited = Duration::from_secs(begun.elapsed().as_secs());
        Err(meaning(path, address, chap, ended, waited))
    }

    /// Whether somebody listens there: iscsid would take 17 s to say that nobody does.
    pub(super) async fn probe(
        &self,
        path: &TargetPath,
        address: SocketAddr,
    ) -> Result<(), BackendError> {
        let within = self.settings.probe_timeout;
        let (silent, outcome) =
            match tokio::time::timeout(within, probe::connect(address, None)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => (false, probe::in_words(&error)),
                Err(_) => (true, format!("no answer within {} s", within.as_secs_f64())),
            };
        let host = path.name.clone();
        let attempts = vec![Attempt {
            address,
            outcome,
            silent,
        }];
        Err(match silent {
            true => BackendError::Silent { host, attempts },
            false => BackendError::Unreachable { host, attempts },
        })
    }

    /// Whether the portal takes connections, or refuses them promptly.
    ///
    /// # Errors
    /// Where it does neither in time.
    pub(super) async fn sign_of_life(&self, portal: &Server) -> Result<(), BackendError> {
        let path = TargetPath {
            portal: portal.portal(),
            name: portal.to_string(),
            lun: None,
        };
        match self.probe(&path, address(&path)?).await {
            Err(BackendError::Unreachable { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// iscsid goes on with a login that nobody waits for any more: when it succeeds after all, it is taken back.
    fn forget(&self, path: TargetPath) {
        let own = self.clone();
        tokio::spawn(async move {
            let gate = own.gate(&path);
            let until = Instant::now() + 2 * own.settings.login_timeout;
            while Instant::now() < until && matches!(own.find(&path).await, Ok(None)) {
                tokio::time::sleep(10 * POLL).await;
            }
            drop(gate);
            if !matches!(own.find(&path).await, Ok(None)) {
                tracing::warn!(
                    target = path.name,
                    portal = path.portal,
                    "logged in too late: logging out"
                );
                let _ = own.release(&path).await;
            }
        });
    }

    /// Logs out of a session that has no disk but those of `path`.
    pub(super) async fn abandon(&self, path: &TargetPath) -> Result<bool, BackendError> {
        let gate = self.gate(path);
        let _turn = gate.0.lock().await;
        let Some(session) = self.find(path).await? else {
            return Ok(true);
        };
        let lun = path.lun;
        let has_others = move |it: &Session| {
            it.units().len() > usize::from(lun.and_then(|lun| it.unit(lun)).is_some())
        };
        if Arc::strong_count(&gate) > 1
            || read(&session, has_others).await?
            || self.is_of_others(path).await?
        {
            return Ok(false);
        }
        self.logout(path, &session).await.map(|()| true)
    }

    /// Logs out, and removes the node record.
    ///
    /// # Errors
    /// `DEVICE_BUSY` if iscsid does not end the session.
    pub(super) async fn logout(
        &self,
        path: &TargetPath,
        session: &Session,
    ) -> Result<(), BackendError> {
        let id = session.id.to_string();
        let args = ["-m", "session", "-r", &id, "--logout"];
        let ended = self.iscsiadm(&args, LOGOUT).await;
        let is_over = ended.as_ref().is_ok_and(|ended| ended.code == Some(0));
        let until = Instant::now() + Duration::from_secs(2);
        while self.find(path).await?.is_some() {
            // Seen gone, not told.
            if Instant::now() > until || !is_over {
                return Err(BackendError::DeviceBusy {
                    device: format!("the session with {}", at(path)),
                    why: format!("iscsid did not end it: {}", refusal(&ended)),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        tracing::info!(target = path.name, portal = path.portal, "logged out");
        self.remove_record(path).await
    }

    pub(super) async fn remove_record(&self, path: &TargetPath) -> Result<(), BackendError> {
        let remove = |own: &Self, record: &Record<'_>| {
            let nodes = &own.settings.nodes;
            let removing = || format!("remove the node record {}", record.file(nodes).display());
            record.remove(nodes).map_err(mount::host(removing))
        };
        self.on_record(path, None, remove).await
    }

    /// Works on the path's node record, on a blocking thread.
    async fn on_record<T: Send + 'static>(
        &self,
        path: &TargetPath,
        chap: Option<&Chap>,
        work: impl FnOnce(&Self, &Record<'_>) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let (portal, path, chap) = (address(path)?, path.clone(), chap.cloned());
        let work = move |own: &Self| work(own, &own.record(&path, portal, chap.as_ref()));
        read(self, work).await?
    }

    /// Finds a node record made by others for the same login.
    pub(super) fn record_of_others(
        &self,
        record: &Record<'_>,
    ) -> Result<Option<PathBuf>, BackendError> {
        let nodes = &self.settings.nodes;
        let looking = || {
            format!(
                "look for node records of {} in {}",
                record.target,
                nodes.display()
            )
        };
        record.of_others(nodes).map_err(mount::host(looking))
    }

    /// Whether others made the existing session, by a node record of theirs.
    pub(super) async fn is_of_others(&self, path: &TargetPath) -> Result<bool, BackendError> {
        let look = |own: &Self, record: &Record<'_>| own.record_of_others(record);
        let other = self.on_record(path, None, look).await?;
        Ok(other.is_some())
    }

    /// Runs iscsiadm. The first two at the same time since the host's boot both make the directory of its lock, and the second fails
    /// (open-iscsi, usr/idbm.c: `idbm_lock`): it finds it the next time.
    pub(super) async fn iscsiadm(&self, args: &[&str], within: Duration) -> io::Result<Ended> {
        self.unlocked().await;
        let ended = exec::run(&self.iscsiadm, args, within).await?;
        match ended.code {
            Some(DATABASE) => exec::run(&self.iscsiadm, args, within).await,
            _ => Ok(ended),
        }
    }

    /// Waits until no holder, or the next, has the lock of open-iscsi's database. Without this, the lock of a killed holder would keep every
    /// iscsiadm waiting past its deadline. At its own deadline, iscsiadm waits for iscsid and holds no lock.
    async fn unlocked(&self) {
        let mut first = None;
        loop {
            let look = |lock: &Arc<DatabaseLock>| lock.look(std::time::Instant::now());
            match read(&self.lock, look).await {
                Ok(Some(held)) if *first.get_or_insert_with(|| held.clone()) == held => {
                    tokio::time::sleep(POLL).await;
                }
                _ => return,
            }
        }
    }

    pub(super) fn record<'a>(
        &'a self,
        path: &'a TargetPath,
        portal: SocketAddr,
        chap: Option<&'a Chap>,
    ) -> Record<'a> {
        Record {
            target: &path.name,
            portal,
            interface: &self.settings.interface,
            chap,
            login_timeout: self.settings.login_timeout.as_secs().max(1),
        }
    }
}

/// `iqn.2026-01.org.lab:t at 10.0.0.1:3260`
pub(super) fn at(path: &TargetPath) -> String {
    format!("{} at {}", path.name, path.portal)
}

pub(super) fn address(path: &TargetPath) -> Result<SocketAddr, BackendError> {
    let parsed = path.portal.parse::<SocketAddr>();
    parsed.map_err(mount::host(|| format!("use the portal {:?}", path.portal)))
}

/// Whether the session was logged in to by just these credentials, in both directions.
///
/// # Errors
/// Unreadable credentials of the session: these do not count as none.
pub(super) fn made_by(session: &Session, chap: Option<&Chap>) -> io::Result<bool> {
    let target = chap.and_then(|chap| chap.target.as_ref());
    let wanted = [
        chap.map_or("", |chap| &chap.username),
        chap.map_or("", |chap| chap.password.expose()),
        target.map_or("", |(username, _)| username),
        target.map_or("", |(_, password)| password.expose()),
    ];
    let login = session.login()?;
    Ok(login.iter().map(|known| known.as_str()).eq(wanted))
}

/// A session that does not work yet.
fn unfinished(path: &TargetPath, why: &str) -> Result<BackendError, BackendError> {
    Ok(BackendError::Silent {
        host: path.name.clone(),
        attempts: vec![Attempt {
            address: address(path)?,
            outcome: why.to_owned(),
            silent: false,
        }],
    })
}

fn who(chap: Option<&Chap>) -> String {
    chap.map_or_else(
        || "a login without credentials".to_owned(),
        |chap| format!("the user {:?}", chap.username),
    )
}

/// Why iscsid does not end a session (open-iscsi, usr/initiator.c: `session_logout_task`).
pub(super) fn refusal(ended: &io::Result<Ended>) -> String {
    let ended = match ended {
        Ok(ended) => ended,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return format!("no answer within {} s", LOGOUT.as_secs());
        }
        Err(error) => return format!("cannot run iscsiadm ({error})"),
    };
    let why = match ended.code {
        Some(INTERNAL) => {
            "another login or logout of the session is not over; after a restart of iscsid, a login lasts until the target answers"
        }
        Some(NOT_CONNECTED) => "it is connecting the session anew, until the target answers",
        Some(BUSY) => {
            "iscsid.safe_logout is set in /etc/iscsi/iscsid.conf, and this host uses a disk of the session"
        }
        Some(NO_DAEMON | NO_ANSWER) => "it does not run, or does not answer: start it",
        Some(0) => "the session stays although the logout was successful",
        _ => return ended.said.clone(),
    };
    format!("{why} ({})", ended.said)
}

/// What it means that a login did not come to a session.
pub(super) fn meaning(
    path: &TargetPath,
    address: SocketAddr,
    chap: Option<&Chap>,
    ended: io::Result<Ended>,
    within: Duration,
) -> BackendError {
    let silent = |outcome: String| BackendError::Silent {
        host: path.name.clone(),
        attempts: vec![Attempt {
            address,
            outcome,
            // The portal took a connection. A target that does not exist looks the same, and must not close the portal for others.
            silent: false,
        }],
    };
    let failed = |why: String| BackendError::LoginFailed {
        target: at(path),
        why,
    };
    let ended = match ended {
        Ok(ended) => ended,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return silent(format!("no login within {} s", within.as_secs_f64()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return failed("this host has no iscsiadm: install open-iscsi".to_owned());
        }
        Err(error) => return mount::host(|| "run iscsiadm".to_owned())(error),
    };
    // What this host finds wrong with the target's own answer is a fatal failure.
    let mutual = chap.is_some_and(|chap| chap.target.is_some());
    match ended.code {
        Some(code) if code == AUTHORIZATION || code == FATAL_LOGIN && mutual => BackendError::LoginRefused {
            target: at(path),
            who: who(chap),
            why: "check the user and password, in both directions where the target must prove itself too, and whether the \
                  target lets this host's initiator in"
                .to_owned(),
        },
        Some(code) if TIMED_OUT.contains(&code) => silent(
            "it takes connections, but did not finish the login in time; it may be down, or have no such target".to_owned(),
        ),
        Some(BROKEN) => BackendError::Unreachable {
            host: path.name.clone(),
            attempts: vec![Attempt {
                address,
                outcome: "it took a connection, and broke it off during the login".to_owned(),
                silent: false,
            }],
        },
        // iscsiadm cannot: what the daemon starts may load no module.
        Some(_) if ended.said.contains("Could not load transport") => failed(
            "this host's kernel lacks the module for iSCSI: load it (modprobe iscsi_tcp), and at each boot".to_owned(),
        ),
        Some(NO_DAEMON) => failed("iscsid does not run on this host: start it".to_owned()),
        Some(code) => failed(format!("iscsiadm ended with {code}: {}", ended.said)),
        None => failed("iscsiadm was killed".to_owned()),
    }
}
