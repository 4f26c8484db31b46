//! The calls: what is new is recorded and run, what is known is answered.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use super::Error;
use super::diagnose::Finding;
use super::guard::BusyGuard;
use super::inner::{Inner, Parts, Tuning};
use super::plan::{AttachPlan, check_confined, plan_attach};
use super::request::{AttachRequest, ConnectRequest, EndRequest, ExtendRequest, ListQuery, Wanted};
use super::steps::Why;
use super::work::{Job, Turn};
use crate::admission::{Admitted, Grant};
use crate::journal::Kind;
use crate::model::{Asker, Attachment, AttachmentId};

/// Runs attachments. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(pub(super) Arc<Inner>);

impl Engine {
    /// An engine at rest. What an earlier process left open is [`crate::reconcile`]'s business.
    #[must_use]
    pub fn new(parts: Parts, tuning: Tuning) -> Self {
        Self(Arc::new(Inner::new(parts, tuning)))
    }

    /// Goes over to another tuning: calls that are planned go on by the old one's backends, new calls and rounds of reconcile by the new
    /// one's. Its backends know of the same connections as the old one's.
    pub fn retune(&self, tuning: Tuning) {
        let work = tuning.work;
        self.0.tuning.send_replace(tuning);
        self.0.work.limit(work);
    }

    /// Has [`Self::diagnose`] find this too, until it is told otherwise.
    pub fn note_standing(&self, findings: Vec<Finding>) {
        self.0.standing.send_replace(findings);
    }

    /// Connects a volume and plugs it into a domain.
    ///
    /// # Errors
    /// Where the request conflicts with what is there, or a step failed; then the steps before it were undone.
    pub async fn attach(&self, request: Admitted<AttachRequest>) -> Result<Attachment, Error> {
        let deadline = request.deadline();
        let (grant, request) = request.into_parts();
        self.make(grant, request.into(), deadline).await
    }

    /// Unplugs a volume and disconnects it. An unknown id is detached already; after the loss of the journal, a disk with its alias is
    /// unplugged.
    ///
    /// # Errors
    /// Where the guest does not let go, or the disconnect fails; then it is tried again by the next call and by
    /// [`crate::reconcile`].
    pub async fn detach(&self, request: Admitted<EndRequest>) -> Result<(), Error> {
        self.end(request, Kind::Attach).await
    }

    /// Connects a volume to this host only.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub async fn connect(&self, request: Admitted<ConnectRequest>) -> Result<Attachment, Error> {
        let deadline = request.deadline();
        let (grant, request) = request.into_parts();
        self.make(grant, request.into(), deadline).await
    }

    /// Disconnects what [`Self::connect`] connected. An unknown id is disconnected already.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub async fn disconnect(&self, request: Admitted<EndRequest>) -> Result<(), Error> {
        self.end(request, Kind::Connect).await
    }

    /// Has host and guest see a volume that its storage has grown; gives the size in bytes that the guest sees or, where no
    /// running domain has the volume, the one that the host sees.
    ///
    /// # Errors
    /// Where the storage has not grown it, or the new size cannot be given to who uses it; then nothing has changed.
    pub async fn extend(&self, request: Admitted<ExtendRequest>) -> Result<u64, Error> {
        let engine = self.clone();
        let deadline = request.deadline();
        let (grant, request) = request.into_parts();
        let job = self.job_on(&request.id, &grant, deadline).await?;
        self.run(request.id.clone(), job, async move {
            engine.0.extend(&grant, request).await
        })
        .await
    }

    /// The attachment of that id, for those who decide whether a caller may touch it.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn look(&self, id: &AttachmentId) -> Result<Option<Attachment>, Error> {
        let record = self.0.parts.journal.get(id).await?;
        Ok(record.map(|record| record.to_attachment()))
    }

    /// The attachment of that id.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn get(&self, id: Admitted<AttachmentId>) -> Result<Attachment, Error> {
        let (grant, id) = id.into_parts();
        let record = self.0.granted(&grant, &id).await?;
        record
            .map(|record| record.to_attachment())
            .ok_or(Error::NotFound { id })
    }

    /// A page of the attachments that the caller may see, ordered by id.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn list(&self, query: Admitted<ListQuery>) -> Result<Vec<Attachment>, Error> {
        let (grant, query) = query.into_parts();
        self.0.page(query, &grant).await
    }

    /// What an attach would do; touches nothing.
    ///
    /// # Errors
    /// What the attach would refuse before it touches anything.
    pub async fn plan(&self, request: Admitted<AttachRequest>) -> Result<AttachPlan, Error> {
        let (grant, request) = request.into_parts();
        let hypervisor = &self.0.parts.hypervisor;
        let scope = request.disk.scope;
        let view = hypervisor.domain(&request.domain, scope).await?;
        self.0.views.note(&view);
        let known = self.0.volume(&request.volume, Some(&request.id)).await?;
        let asker = Asker::from(grant.actor());
        let backends = self.0.backends();
        let plan = plan_attach(&backends, &view, &asker, known, request)?;
        let backend = backends.get(&plan.host.protocol)?;
        check_confined(backend.as_ref(), &view, &plan.host).await?;
        Ok(plan)
    }

    /// Takes no new work from now on, and waits for what is under way. A detach that waits for its guest is cut
    /// short: its record is in the journal, and it completes after the next start.
    pub async fn drain(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Runs a call when its turn has come, to its end in a task of its own: a caller that goes away must not cut a saga in two.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        id: AttachmentId,
        job: Job,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let busy = self.enter(&id)?;
        let turn = self.turn(job).await?;
        self.run_in(busy, Some(turn), call).await
    }

    /// The same, in a turn that has come; without one, it is no work for anybody.
    pub(super) async fn run_in<T: Send + 'static>(
        &self,
        busy: BusyGuard,
        turn: Option<Turn>,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let call = async move {
            let result = call.await;
            drop((busy, turn));
            result
        };
        self.to_its_end(call).await
    }

    /// The same, for what is about no attachment.
    pub(super) async fn to_its_end<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if self.0.stopping.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let task = self
            .0
            .tasks
            .spawn(call.instrument(tracing::Span::current()));
        task.await
            .unwrap_or_else(|error| Err(Error::Internal(error)))
    }

    async fn make(
        &self,
        grant: Grant,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> Result<Attachment, Error> {
        let engine = self.clone();
        let id = wanted.id.clone();
        let servers = self.0.servers_for(&wanted);
        let job = Job::new(grant.actor(), servers, deadline);
        // Boxed: the saga's state would make every future around it large.
        let made = Box::pin(async move { engine.0.make(grant.actor(), wanted, deadline).await });
        self.run(id, job, made).await
    }

    pub(super) fn enter(&self, id: &AttachmentId) -> Result<BusyGuard, Error> {
        self.0.busy.enter(id).ok_or_else(|| Error::InProgress {
            id: id.clone(),
            state: "another call",
        })
    }

    /// Work on an attachment, counted for its servers.
    pub(super) async fn job_on(
        &self,
        id: &AttachmentId,
        grant: &Grant,
        deadline: Option<Instant>,
    ) -> Result<Job, Error> {
        let servers = self.0.servers_of(id).await?;
        Ok(Job::new(grant.actor(), servers, deadline))
    }

    /// Waits for the turn of a detach.
    ///
    /// # Errors
    /// As [`Self::turn`], and where the detach is cancelled meanwhile.
    async fn cancellable_turn(&self, id: &AttachmentId, job: Job) -> Result<Turn, Error> {
        let wait = self.0.waits.enter(id);
        tokio::select! {
            biased;
            () = wait.ended() => Err(Error::Cancelled { id: id.clone() }),
            turn = self.turn(job) => turn,
        }
    }

    async fn end(&self, request: Admitted<EndRequest>, kind: Kind) -> Result<(), Error> {
        let deadline = request.deadline();
        let (grant, EndRequest { id, force }) = request.into_parts();
        let engine = self.clone();
        let job = self.job_on(&id, &grant, deadline).await?;
        let busy = self.enter(&id)?;
        let turn = match kind {
            Kind::Attach => self.cancellable_turn(&id, job).await?,
            Kind::Connect => self.turn(job).await?,
        };
        self.run_in(busy, Some(turn), async move {
            let Some(mut record) = engine.0.granted(&grant, &id).await? else {
                return engine.0.end_unrecorded(&grant, id, kind).await;
            };
            if record.kind() != kind {
                let (made_by, use_instead) = match record.kind() {
                    Kind::Attach => ("AttachVolume", "DetachVolume"),
                    Kind::Connect => ("ConnectVolume", "DisconnectVolume"),
                };
                return Err(Error::Kind {
                    id,
                    made_by,
                    use_instead,
                });
            }
            // Also for when it goes on by itself.
            record.force |= force;
            // Boxed, as in `make`: the future is large.
            Box::pin(engine.0.backward(record, Why::Asked)).await
        })
        .await
    }
}
