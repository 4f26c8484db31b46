//! The calls: what is new is recorded and run, what is known is answered.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use super::guard::{Busy, BusyGuard, Locks};
use super::plan::{AttachPlan, disk_spec, plan_attach, plan_host};
use super::request::{AttachRequest, ConnectRequest, Filter, ListQuery};
use super::saga::{Forward, Why};
use super::{Error, fingerprint};
use crate::admission::Admitted;
use crate::backend::{Backends, Presence};
use crate::journal::{Direction, Journal, Kind, Progress, Record, Step, StepRecord};
use crate::libvirt::{DomainView, Hypervisor, plan_disk};
use crate::model::{
    AccessDecision, Attachment, AttachmentId, DiskPlan, Domain, HostKey, HostPlan, Scope, State,
    VolumeId,
};

/// Changes that a slow watcher may fall behind before it is told to watch again.
const WATCH_BACKLOG: usize = 1024;

/// What an engine works with.
pub struct Parts {
    /// The durable record.
    pub journal: Arc<dyn Journal>,
    /// The ways to storage.
    pub backends: Backends,
    /// The domains.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Keys the fingerprints of requests.
    pub key: HostKey,
    /// How long a detach waits for the guest.
    pub unplug_timeout: Duration,
}

/// Runs attachments. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) busy: Busy,
    /// Held from the look for conflicting records until the new record is in the journal.
    reserve: Mutex<()>,
    /// By [`HostPlan::shared`].
    pub(super) shared: Locks<String>,
    /// By domain: choosing a target and plugging are one act.
    pub(super) domains: Locks<Uuid>,
    pub(super) changes: broadcast::Sender<Attachment>,
    tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
}

impl Engine {
    /// An engine at rest. What an earlier process left open is [`crate::reconcile`]'s business.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            busy: Busy::default(),
            reserve: Mutex::new(()),
            shared: Locks::default(),
            domains: Locks::default(),
            changes: broadcast::channel(WATCH_BACKLOG).0,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Connects a volume and plugs it into a domain.
    ///
    /// # Errors
    /// Where the request conflicts with what is there, or a step failed; then the steps before it were undone.
    pub async fn attach(&self, request: Admitted<AttachRequest>) -> Result<Attachment, Error> {
        let request = request.into_request();
        let engine = self.clone();
        self.run(
            request.id.clone(),
            async move { engine.0.attach(request).await },
        )
        .await
    }

    /// Unplugs a volume and disconnects it. An unknown id is detached already.
    ///
    /// # Errors
    /// Where the guest does not let go, or the disconnect fails; then it is tried again by the next call and by
    /// [`crate::reconcile`].
    pub async fn detach(&self, id: Admitted<AttachmentId>) -> Result<(), Error> {
        self.end(id.into_request(), Kind::Attach).await
    }

    /// Connects a volume to this host only.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub async fn connect(&self, request: Admitted<ConnectRequest>) -> Result<Attachment, Error> {
        let request = request.into_request();
        let engine = self.clone();
        self.run(request.id.clone(), async move {
            engine.0.connect(request).await
        })
        .await
    }

    /// Disconnects what [`Self::connect`] connected. An unknown id is disconnected already.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub async fn disconnect(&self, id: Admitted<AttachmentId>) -> Result<(), Error> {
        self.end(id.into_request(), Kind::Connect).await
    }

    /// The attachment of that id.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn get(&self, id: Admitted<AttachmentId>) -> Result<Attachment, Error> {
        let id = id.into_request();
        let record = self.0.parts.journal.get(&id).await?;
        record
            .map(|record| record.to_attachment())
            .ok_or(Error::NotFound { id })
    }

    /// A page of attachments, ordered by id.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn list(&self, query: Admitted<ListQuery>) -> Result<Vec<Attachment>, Error> {
        self.0.page(query.into_request()).await
    }

    /// The attachments as they are, and a channel of every change from now on (of all attachments: filter them).
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn watch(
        &self,
        filter: Admitted<Filter>,
    ) -> Result<(Vec<Attachment>, broadcast::Receiver<Attachment>), Error> {
        // Subscribed before looking, so that no change falls between.
        let changes = self.0.changes.subscribe();
        let query = ListQuery {
            filter: filter.into_request(),
            after: None,
            limit: usize::MAX,
        };
        Ok((self.0.page(query).await?, changes))
    }

    /// What an attach would do; touches nothing.
    ///
    /// # Errors
    /// What the attach would refuse before it touches anything.
    pub async fn plan(&self, request: Admitted<AttachRequest>) -> Result<AttachPlan, Error> {
        let request = request.into_request();
        let view = self.0.parts.hypervisor.domain(&request.domain).await?;
        check_scope(&view, request.disk.scope)?;
        plan_attach(&self.0.parts.backends, &view, &request)
    }

    /// Takes no new work from now on, and waits for what is under way. A detach that waits for its guest is cut
    /// short: its record is in the journal, and it completes after the next start.
    pub async fn drain(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Runs a call to its end in a task of its own: a caller that goes away must not cut a saga in two.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        id: AttachmentId,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if self.0.stopping.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let busy = self.enter(&id)?;
        let call = async move {
            let result = call.await;
            drop(busy);
            result
        };
        let task = self
            .0
            .tasks
            .spawn(call.instrument(tracing::Span::current()));
        task.await
            .unwrap_or_else(|error| Err(Error::Internal(error)))
    }

    fn enter(&self, id: &AttachmentId) -> Result<BusyGuard, Error> {
        self.0.busy.enter(id).ok_or_else(|| Error::InProgress {
            id: id.clone(),
            state: "another call",
        })
    }

    async fn end(&self, id: AttachmentId, kind: Kind) -> Result<(), Error> {
        let engine = self.clone();
        self.run(id.clone(), async move {
            let Some(record) = engine.0.parts.journal.get(&id).await? else {
                return Ok(());
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
            engine.0.backward(record, Why::Asked).await
        })
        .await
    }
}

impl Inner {
    async fn page(&self, query: ListQuery) -> Result<Vec<Attachment>, Error> {
        let ListQuery {
            filter,
            after,
            limit,
        } = query;
        let records = self.parts.journal.all().await?;
        Ok(records
            .iter()
            .filter(|record| after.as_ref().is_none_or(|after| record.id > *after))
            .map(Record::to_attachment)
            .filter(|attachment| filter.matches(attachment))
            .take(limit)
            .collect())
    }

    async fn attach(&self, request: AttachRequest) -> Result<Attachment, Error> {
        let fingerprint = fingerprint::of_attach(&self.parts.key, &request);
        let known = self.known(&request.id, Kind::Attach, &fingerprint).await?;
        if let Some(Known::Whole(attachment)) = known {
            return Ok(*attachment);
        }
        let (access, host) = plan_host(&self.parts.backends, &request.info, request.access)?;
        let view = self.parts.hypervisor.domain(&request.domain).await?;
        check_scope(&view, request.disk.scope)?;
        let spec = disk_spec(&request.volume, &request.info, &request.disk, &host);
        // Refused now rather than after a mount. The disk that counts is planned under the domain's lock.
        let disk = plan_disk(&view, &spec)?;
        let new = New {
            id: request.id,
            fingerprint,
            volume: request.volume,
            shareable: spec.options.shareable,
            domain: Some(view.domain),
            access,
            host,
            disk,
        };
        let record = self.reserve(new, known).await?;
        self.forward(
            record,
            Forward {
                info: request.info.protocol,
                spec,
            },
        )
        .await
    }

    async fn connect(&self, request: ConnectRequest) -> Result<Attachment, Error> {
        let fingerprint = fingerprint::of_connect(&self.parts.key, &request);
        let known = self.known(&request.id, Kind::Connect, &fingerprint).await?;
        if let Some(Known::Whole(attachment)) = known {
            return Ok(*attachment);
        }
        let (access, host) = plan_host(&self.parts.backends, &request.info, request.access)?;
        let spec = disk_spec(&request.volume, &request.info, &request.disk, &host);
        let disk = plan_disk(&DomainView::empty(), &spec)?;
        let new = New {
            id: request.id,
            fingerprint,
            volume: request.volume,
            shareable: spec.options.shareable,
            domain: None,
            access,
            host,
            disk,
        };
        let record = self.reserve(new, known).await?;
        self.forward(
            record,
            Forward {
                info: request.info.protocol,
                spec,
            },
        )
        .await
    }

    /// What the journal knows of the id, where the request is the same.
    async fn known(
        &self,
        id: &AttachmentId,
        kind: Kind,
        fingerprint: &str,
    ) -> Result<Option<Known>, Error> {
        let Some(record) = self.parts.journal.get(id).await? else {
            return Ok(None);
        };
        let id = id.clone();
        if record.kind() != kind || record.fingerprint != fingerprint {
            return Err(Error::Conflict { id });
        }
        match record.state {
            State::Attached | State::Connected if self.is_whole(&record).await? => {
                Ok(Some(Known::Whole(Box::new(record.to_attachment()))))
            }
            State::Attached | State::Connected => Ok(Some(Known::Lost(Box::new(record)))),
            State::Failed => Err(Error::CleanupRequired { id }),
            state => Err(Error::InProgress {
                id,
                state: state.as_str(),
            }),
        }
    }

    /// Whether what the record promises is there: a host that was rebooted has neither mounts nor plugged disks.
    pub(super) async fn is_whole(&self, record: &Record) -> Result<bool, Error> {
        if let Some(domain) = &record.domain {
            return Ok(self
                .parts
                .hypervisor
                .has_disk(domain.uuid, &record.disk)
                .await?);
        }
        let backend = self.parts.backends.get(&record.host.protocol)?;
        Ok(backend.find(&record.host).await? == Presence::Present)
    }

    /// Puts the record into the journal, unless another attachment has the volume.
    async fn reserve(&self, new: New, known: Option<Known>) -> Result<Record, Error> {
        let _held = self.reserve.lock().await;
        let in_the_way = self.parts.journal.all().await?.into_iter().find(|other| {
            other.id != new.id
                && other.volume == new.volume
                && !(other.shareable && new.shareable)
                && !(other.access.access.is_read_only() && new.access.access.is_read_only())
        });
        if let Some(other) = in_the_way {
            return Err(Error::VolumeInUse {
                volume: new.volume,
                other: other.id,
            });
        }
        let now = SystemTime::now();
        let created = match known {
            Some(Known::Lost(record)) => record.created,
            _ => now,
        };
        let record = Record {
            id: new.id,
            fingerprint: new.fingerprint,
            volume: new.volume,
            shareable: new.shareable,
            domain: new.domain,
            access: new.access,
            host: new.host,
            disk: new.disk,
            steps: vec![StepRecord {
                step: Step::Connect,
                progress: Progress::Intent,
            }],
            direction: Direction::Forward,
            state: State::Connecting,
            error: None,
            unplug_requested: None,
            created,
            updated: now,
        };
        match self.put(&record).await {
            Ok(()) => Ok(record),
            // It may be on disk all the same.
            Err(cause) => Err(self.give_up(record, cause).await),
        }
    }

    /// Writes the record, then tells the watchers.
    pub(super) async fn put(&self, record: &Record) -> Result<(), Error> {
        self.parts.journal.put(record).await?;
        // An error only says that nobody watches.
        let _ = self.changes.send(record.to_attachment());
        Ok(())
    }
}

/// What the journal knows of a repeated request.
enum Known {
    /// All of it is there: the answer.
    Whole(Box<Attachment>),
    /// It was there, and is no more: it is made again.
    Lost(Box<Record>),
}

/// What a new record is made of.
struct New {
    id: AttachmentId,
    fingerprint: String,
    volume: VolumeId,
    shareable: bool,
    domain: Option<Domain>,
    access: AccessDecision,
    host: HostPlan,
    disk: DiskPlan,
}

/// Checks that the domain is as the scope needs it.
fn check_scope(view: &DomainView, scope: Scope) -> Result<(), Error> {
    let domain = view.domain.clone();
    if scope.live() && !view.running {
        return Err(Error::DomainState {
            domain,
            is: "is not running",
            remedy: "start it, or ask for the persistent configuration alone",
        });
    }
    if scope.config() && !view.persistent {
        return Err(Error::DomainState {
            domain,
            is: "has no persistent configuration",
            remedy: "define it, or ask for the running domain alone",
        });
    }
    Ok(())
}
