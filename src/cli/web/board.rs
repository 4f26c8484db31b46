//! What is known of each host, and a number for each part of the page that grows when the part changes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::api::v1;
use crate::cli::client::Place;
use crate::cli::failure::Failure;

/// Everything that the page shows.
pub(super) struct Board {
    hosts: Vec<Host>,
    versions: watch::Sender<Vec<u64>>,
}

/// A host, and its daemon.
pub(super) struct Host {
    /// Its name on the page.
    pub(super) name: String,
    /// Where its daemon is.
    pub(super) place: Place,
    /// Wakes who asks its daemon for findings.
    pub(super) diagnose: Notify,
    known: Mutex<Known>,
}

/// What a daemon answered.
pub(super) struct Known {
    /// Its attachments, by id; `None`: they were never told.
    pub(super) attachments: Option<BTreeMap<String, v1::Attachment>>,
    /// The findings that were told last, and when; `None`: never.
    pub(super) diagnosis: Option<(v1::DiagnoseResponse, SystemTime)>,
    /// Why there are no newer findings, if there should be.
    pub(super) undiagnosed: Option<Trouble>,
    /// Whether it answers.
    pub(super) link: Link,
}

/// Whether a daemon answers.
pub(super) enum Link {
    /// It was asked for the first time, then.
    Asked(SystemTime),
    /// It watches.
    Up,
    /// It does not.
    Down(Trouble),
}

/// A failure, in words.
#[derive(Clone)]
pub(super) struct Trouble {
    /// Time of the first one.
    pub(super) since: SystemTime,
    /// What was tried, and why it failed.
    pub(super) message: String,
    /// What to do.
    pub(super) advice: Option<&'static str>,
}

impl Trouble {
    /// `before`: the trouble that there was already, which this one goes on with.
    pub(super) fn new(failure: &Failure, before: Option<&Self>) -> Self {
        Self {
            since: before.map_or_else(SystemTime::now, |before| before.since),
            message: failure.message().to_owned(),
            // The page repeats what it asks by itself.
            advice: failure.advice().filter(|_| !failure.is_unanswered()),
        }
    }
}

impl Known {
    fn is_settled(&self) -> bool {
        match self.link {
            Link::Asked(_) => false,
            Link::Up => self.diagnosis.is_some() || self.undiagnosed.is_some(),
            Link::Down(_) => true,
        }
    }
}

impl Board {
    /// A board of these hosts, of which nothing is known.
    pub(super) fn new(hosts: Vec<(String, Place)>) -> Self {
        let hosts: Vec<Host> = hosts.into_iter().map(Host::new).collect();
        // The numbers of an earlier process, which an open page may have, are less.
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let start = start.unwrap_or_default().as_millis();
        let start = u64::try_from(start).unwrap_or_default();
        Self {
            versions: watch::Sender::new(vec![start; hosts.len()]),
            hosts,
        }
    }

    /// The hosts, as they were given.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The numbers of the hosts' parts, now and later.
    pub(super) fn versions(&self) -> watch::Receiver<Vec<u64>> {
        self.versions.subscribe()
    }

    /// Changes what is known of a host.
    pub(super) fn change(&self, host: usize, change: impl FnOnce(&mut Known)) {
        let Some(it) = self.hosts.get(host) else {
            return;
        };
        change(&mut it.known());
        self.versions.send_modify(|versions| {
            if let Some(version) = versions.get_mut(host) {
                *version += 1;
            }
        });
    }

    /// Waits until each daemon has answered once or cannot, and no longer than that.
    pub(super) async fn settled(&self, patience: Duration) {
        let mut versions = self.versions();
        let all = |_: &Vec<u64>| self.hosts.iter().all(|host| host.known().is_settled());
        // Too late, or never: the page shows what there is.
        let _ = timeout(patience, versions.wait_for(all)).await;
    }
}

impl Host {
    fn new((name, place): (String, Place)) -> Self {
        Self {
            name,
            place,
            diagnose: Notify::new(),
            known: Mutex::new(Known {
                attachments: None,
                diagnosis: None,
                undiagnosed: None,
                link: Link::Asked(SystemTime::now()),
            }),
        }
    }

    /// What is known of it, now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
