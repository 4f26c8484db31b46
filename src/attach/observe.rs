//! A look at what an attachment promises: its connection, then its disk in the domain.

use super::Error;
use super::inner::Inner;
use crate::backend::Presence;
use crate::journal::Record;
use crate::libvirt::{DomainEnd, ObservedDomain};
use crate::model::Reason;

/// What was found: for an attachment to a domain its disk, else its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reality {
    /// It is there.
    Whole,
    /// It is there, but paths to the volume are missing, or as many work as the record does not say.
    Degraded,
    /// It is not.
    Broken,
    /// It is not, and its domain has left this host: the domain exists here no more, or was migrated away.
    Gone,
}

impl Reality {
    /// What an attachment is that has everything, by a connection found like this.
    fn of(record: &Record, connection: Presence) -> Self {
        match connection.degraded().or(record.degraded) {
            None => Self::Whole,
            Some(_) => Self::Degraded,
        }
    }
}

/// Outcome of a look at an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What exists of it.
    pub reality: Reality,
    /// The domain's name now. `None`: no such domain, or nobody looked at it.
    pub name: Option<String>,
    /// Whether the domain is paused since requests to the volume failed.
    pub io_stopped: bool,
    running: bool,
    end: Option<DomainEnd>,
}

impl From<Reality> for Observed {
    /// An outcome without a look at a domain.
    fn from(reality: Reality) -> Self {
        Self {
            reality,
            name: None,
            io_stopped: false,
            running: false,
            end: None,
        }
    }
}

impl Observed {
    /// The outcome for one disk of a domain, by what was found of its connection. `place`: of the disk among those that the domain was looked
    /// at for.
    pub(super) fn of_domain(
        domain: &ObservedDomain,
        record: &Record,
        connection: Presence,
        place: usize,
    ) -> Self {
        let is_plugged = domain.plugged.get(place) == Some(&true);
        Self {
            reality: match connection.is_connected() && has_its_disk(record, is_plugged) {
                true => Reality::of(record, connection),
                false if domain.has_left() => Reality::Gone,
                false => Reality::Broken,
            },
            name: domain.name.clone(),
            io_stopped: domain.is_stopped_by(place),
            running: domain.running,
            end: domain.end,
        }
    }

    /// Whether the attachment works, by all paths or some.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.reality, Reality::Whole | Reality::Degraded)
    }

    /// What happened to the domain, as the verb of a sentence about it; nothing where it just lacks the disk.
    fn fate(&self) -> Option<String> {
        match (self.reality, self.end) {
            (Reality::Gone, Some(end @ (DomainEnd::Migrated | DomainEnd::Undefined))) => {
                Some(end.to_string())
            }
            (Reality::Gone, Some(end)) => Some(format!("{end} and no longer exists on this host")),
            (Reality::Gone, None) => Some("no longer exists on this host".to_owned()),
            (_, Some(DomainEnd::Undefined)) if self.running => {
                Some("was undefined while it ran".to_owned())
            }
            (_, Some(end)) if self.running => Some(format!("{end} and was started again since")),
            (_, end) => end.map(|end| end.to_string()),
        }
    }

    /// The error of an attachment that was found not to be whole.
    pub(super) fn lost(&self, record: &Record) -> Error {
        let id = record.id.clone();
        let mut domain = record.domain.clone();
        if let (Some(domain), Some(name)) = (&mut domain, &self.name) {
            domain.name.clone_from(name);
        }
        match (domain, self.fate()) {
            (Some(domain), Some(fate)) if self.reality == Reality::Gone => {
                Error::DomainGone { id, domain, fate }
            }
            (domain, fate) => Error::Lost { id, domain, fate },
        }
    }
}

impl Inner {
    /// Looks at the attachment.
    ///
    /// # Errors
    /// Where the look fails. A connection that is gone is told even if its domain cannot be looked at, unless the loss was told before.
    pub(super) async fn observe(&self, record: &Record) -> Result<Observed, Error> {
        let connection = self.find(record).await?;
        let Some(domain) = &record.domain else {
            return Ok(of_connection(record, connection));
        };
        let disks = std::slice::from_ref(&record.disk);
        match self.parts.hypervisor.observe(domain.uuid, disks).await {
            Ok(seen) => {
                self.note_stop(domain.uuid, &seen);
                Ok(Observed::of_domain(&seen, record, connection, 0))
            }
            Err(error) => unseen(record, connection).ok_or(error.into()),
        }
    }
}

/// The outcome for a connection without a domain.
pub(super) fn of_connection(record: &Record, connection: Presence) -> Observed {
    match connection.is_connected() {
        true => Reality::of(record, connection).into(),
        false => Reality::Broken.into(),
    }
}

/// The outcome where the domain cannot be looked at, if the connection alone decides.
pub(super) fn unseen(record: &Record, connection: Presence) -> Option<Observed> {
    let is_news = !connection.is_connected() && told_loss(record).is_none();
    is_news.then(|| Reality::Broken.into())
}

/// Whether the disk that the domain has is backed by the connected device.
pub(super) fn has_its_disk(record: &Record, is_plugged: bool) -> bool {
    is_plugged && record.disk.sequence == record.host.sequence()
}

/// Whether the record reports that its guest is paused.
pub(crate) fn reports_stop(record: &Record) -> bool {
    record.course.error().is_some_and(|error| error.is_stop())
}

/// The loss that the record tells already.
pub(crate) fn told_loss(record: &Record) -> Option<Reason> {
    record.course.error()?.loss()
}
