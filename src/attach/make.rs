//! Makes attachments: answers for what is there already, and records and runs what is new.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Error;
use super::access::{Decided, decide, plan_host};
use super::early::EarlyTask;
use super::expected::{Reading, read_domain};
use super::inner::Inner;
use super::known::{Known, as_it_was, changed, check_same};
use super::plan::{check_domain, disk_spec};
use super::request::{Asked, Wanted};
use super::steps::{Forward, Why};
use crate::backend::Backend;
use crate::journal::{Course, Record, Step};
use crate::libvirt::{DomainView, check_state, plan_disk};
use crate::model::{Actor, Asker, Attachment, DiskPlan, DiskSpec, Domain, HostPlan};

/// How often others may come and go between the decision and the word in the journal before a caller is told to ask again.
const TRIES: usize = 5;

/// A request after decision and planning.
struct Planned {
    decided: Decided,
    host: HostPlan,
    /// The backend that planned the host's side.
    backend: Arc<dyn Backend>,
    spec: DiskSpec,
    disk: DiskPlan,
    domain: Option<Domain>,
    view: DomainView,
    /// When the volume was inspected, if it needs no connection.
    inspected_at: Instant,
    /// The reading of domain and volume, if the plan did not wait for it.
    reading: Option<Reading>,
    /// Number of plugs before the domain was read.
    plugs: u64,
    /// The early part of the connect, if there is one.
    head_start: Option<EarlyTask>,
}

impl Planned {
    /// Whether the volume needs no connection, and so is already inspected.
    fn ready(&self) -> bool {
        self.host.claims.is_empty()
    }
}

impl Inner {
    /// Attaches, or connects where no domain is wanted.
    pub(super) async fn make(
        &self,
        actor: &Actor,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> Result<Attachment, Error> {
        let asked = Asked {
            asker: Asker::from(actor),
            holder: actor.holder(),
            fingerprint: wanted.fingerprint(&self.parts.key),
            wanted,
            deadline,
        };
        for _ in 0..TRIES {
            // Boxed: the future is large.
            if let Some(made) = Box::pin(self.try_make(&asked)).await? {
                return Ok(made);
            }
            tracing::info!("others use the volume otherwise than a moment ago: deciding again");
        }
        Err(Error::InProgress {
            id: asked.wanted.id,
            state: "others attach and detach its volume",
        })
    }

    /// The same; `None` where others have changed what was decided by.
    async fn try_make(&self, asked: &Asked) -> Result<Option<Attachment>, Error> {
        let lost = match self.known(asked).await? {
            Some(Known::Whole(attachment)) => return Ok(Some(*attachment)),
            Some(Known::Lost(record)) => Some(*record),
            None => None,
        };
        let mut planned = self.plan(asked, lost.as_ref()).await?;
        let mut record = new_record(asked, &planned);
        let mut again = false;
        self.check_orphans(&record).await?;
        if let Some(old) = lost {
            match changed(&old, &planned.host, &planned.decided) {
                None => {
                    again = true;
                    record.made_again_of(old);
                }
                Some(what) => {
                    if let Some(domain) = old.domain.clone()
                        && self.works(&old, &planned.view).await?
                    {
                        let id = old.id;
                        return Err(Error::Changed { id, what, domain });
                    }
                    check_state(&planned.view, planned.spec.options.scope)?;
                    record.asked_for_with(&old);
                    // Remove the old attachment: no part of it works, and no record would list its leftovers.
                    self.backward(old, Why::CleanUp).await?;
                    let hypervisor = self.parts.hypervisor.as_ref();
                    let (domain, scope) = (&asked.wanted.domain, asked.wanted.disk.scope);
                    planned.view = read_domain(hypervisor, domain.as_ref(), scope).await?;
                    record.disk = plan_disk(&planned.view, &planned.spec)?;
                }
            }
        }
        if planned.ready() {
            record.done(Step::Connect);
        }
        if !self.reserve(&mut record, asked, &planned.decided).await? {
            return Ok(None);
        }
        let forward = Forward {
            info: asked.wanted.info.protocol.clone(),
            ready: planned.ready(),
            confined: planned.view.live.confined,
            host: planned.host,
            backend: planned.backend,
            spec: planned.spec,
            again,
            inspected_at: planned.inspected_at,
            reading: planned.reading,
            plugs: planned.plugs,
            head_start: planned.head_start,
            deadline: asked.deadline,
        };
        self.forward(record, forward).await.map(Some)
    }

    /// Decides and plans the request before anything is touched. `lost`: record of the attachment to restore.
    async fn plan(&self, asked: &Asked, lost: Option<&Record>) -> Result<Planned, Error> {
        let wanted = &asked.wanted;
        let backends = &self.backends();
        let volume = self.volume(&wanted.volume, Some(&wanted.id)).await?;
        let decided = decide(backends, wanted, &asked.asker, volume)?;
        let mut host = plan_host(backends, wanted, &decided)?;
        let backend = backends.get(&host.protocol)?;
        if let Some(old) = lost {
            host = as_it_was(backend.as_ref(), host, &old.host.plan);
        }
        let head_start = match lost {
            Some(_) => None, // its connection may exist
            None => self.head_start(wanted, &host, backend.clone()).await?,
        };
        let plugs = self.plugs.load(Ordering::Acquire);
        let reading = self.start_reading(wanted, &host, backend.clone());
        let expected = match (&wanted.domain, lost) {
            (Some(domain), None) if host.claims.is_empty() => {
                self.views.of(domain, wanted.disk.scope)
            }
            _ => None,
        };
        let plan_for = async |view: &DomainView| -> Result<(DiskSpec, DiskPlan), Error> {
            let policy = backend.error_policy();
            let spec = disk_spec(wanted, &decided, &host, view.dialect, policy);
            let disk = match lost {
                Some(old) if view.has(&old.disk) => old.disk.clone(),
                // Refused now rather than after a mount.
                _ => plan_disk(view, &spec)?,
            };
            check_domain(backend.as_ref(), view, &host).await?;
            Ok((spec, disk))
        };
        // The domain may permit by now a disk that its last view refuses.
        let planned = match expected {
            Some(view) => plan_for(&view).await.ok().map(|planned| (planned, view)),
            None => None,
        };
        let mut inspected_at = Instant::now();
        let (domain, view, (spec, disk), reading) = match planned {
            Some((planned, view)) => (Some(view.domain.clone()), view, planned, Some(reading)),
            None => {
                let findings = reading.findings().await?;
                inspected_at = findings.inspected_at;
                let view = findings.view?;
                let domain = wanted.domain.as_ref().map(|_| view.domain.clone());
                if domain.is_some() {
                    self.views.note(&view);
                }
                if let (Some(old), Some(now)) = (lost, &domain) {
                    check_same(old, now)?;
                }
                let planned = plan_for(&view).await?;
                findings.inspected?;
                (domain, view, planned, None)
            }
        };
        Ok(Planned {
            decided,
            host,
            backend,
            spec,
            disk,
            domain,
            view,
            inspected_at,
            reading,
            plugs,
            head_start,
        })
    }
}

/// Builds a record without any begun step.
fn new_record(asked: &Asked, planned: &Planned) -> Record {
    Record {
        id: asked.wanted.id.clone(),
        fingerprint: asked.fingerprint.clone(),
        volume: asked.wanted.volume.clone(),
        shareable: planned.spec.options.shareable,
        domain: planned.domain.clone(),
        access: planned.decided.access.clone(),
        rights: planned.decided.rights.clone(),
        holder: Some(asked.holder.clone()),
        host: planned.host.clone().into(),
        disk: planned.disk.clone(),
        course: Course::begin(),
        degraded: None,
        force: false,
    }
}
