//! The calls of `VolumeAttach`: authenticate → decode → admit → run → encode.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};
use tracing::Instrument;

use super::about::About;
use super::callers::Callers;
use super::decode::{self, DecodeError};
use super::figures::ApiFigures;
use super::limit::{LimitError, Limiter, is_work};
use super::status::{Subject, limited, status};
use super::strangers::Strangers;
use super::target::{Asks, Target};
use super::trace::TraceParent;
use super::{MAX_RESPONSE, deadline, encode, page, v1, watch};
use crate::admission::{Admission, Admitted, Object};
use crate::attach::{self, Engine, ListQuery, WatchRequest};
use crate::auth::{AuthError, Peer, Presented};
use crate::host::Host;
use crate::model::{Actor, Attachment, Reason, Secret, chain};
use crate::policy::Rpc;

/// What every call needs.
pub(super) struct Service {
    pub(super) engine: Engine,
    pub(super) host: Arc<Host>,
    pub(super) callers: Callers,
    pub(super) admission: Arc<Admission>,
    pub(super) limiter: Limiter,
    pub(super) figures: ApiFigures,
    pub(super) strangers: Strangers,
    /// Cancelled when the daemon stops: no new work, and watches end.
    pub(super) stopping: CancellationToken,
}

/// Why a call failed that was let in.
enum RunError {
    Engine(attach::Error),
    Limit(LimitError),
}

impl From<attach::Error> for RunError {
    fn from(error: attach::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<LimitError> for RunError {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

/// A failed call: what its caller is told, and the reason that it is counted by.
struct Failure {
    reason: Reason,
    status: Status,
}

impl Service {
    /// One call, from its first check to its answer, counted.
    async fn call<Q, D, A, F, E>(
        &self,
        rpc: Rpc,
        request: Request<Q>,
        decode: impl FnOnce(Q) -> Result<D, DecodeError> + Send,
        run: impl FnOnce(Admitted<D>) -> F + Send,
    ) -> Result<A, Status>
    where
        Q: About + Send,
        D: Asks + Send + Sync,
        F: Future<Output = Result<A, E>> + Send,
        E: Into<RunError>,
    {
        let call = self.figures.begin(rpc);
        let outcome = self.checked(rpc, request, decode, run).await;
        call.answered(outcome.as_ref().err().map(|failure| failure.reason));
        outcome.map_err(|failure| failure.status)
    }

    /// The same, within its span.
    async fn checked<Q, D, A, F, E>(
        &self,
        rpc: Rpc,
        request: Request<Q>,
        decode: impl FnOnce(Q) -> Result<D, DecodeError> + Send,
        run: impl FnOnce(Admitted<D>) -> F + Send,
    ) -> Result<A, Failure>
    where
        Q: About + Send,
        D: Asks + Send + Sync,
        F: Future<Output = Result<A, E>> + Send,
        E: Into<RunError>,
    {
        // Nothing of the request is looked at before its caller is known.
        let (metadata, extensions, request) = request.into_parts();
        let actor = self
            .authenticate(&metadata, &extensions)
            .await
            .map_err(|error| {
                let peer = extensions.get::<Option<Peer>>().and_then(Option::as_ref);
                let peer = peer.map(tracing::field::display);
                if let Some(left_out) = self.strangers.tell() {
                    let left_out = (left_out > 0).then_some(left_out);
                    tracing::warn!(target: "audit", rule = rpc.rule(), peer, decision = "deny", by = chain(&error), left_out, "audit");
                }
                let reason = error.reason();
                let status = status(&error, reason, &Subject::default());
                Failure { reason, status }
            })?;
        let deadline = deadline::of(&metadata);
        let entered = self.limiter.enter(&actor).map_err(|error| over(&error))?;
        let mut under_way = Some(entered);
        let run = |admitted: Admitted<D>| {
            if is_work(rpc) {
                drop(under_way.take()); // counted by the engine from here on
            }
            run(admitted.until(deadline))
        };
        let subject = request.subject();
        let trace = TraceParent::of(&metadata);
        let span = span(rpc, &actor, &subject, trace);
        #[cfg(feature = "otlp")]
        if let Some(trace) = trace {
            trace.adopt(&span);
        }
        async {
            self.admitted(rpc, actor, request, &subject, decode, run)
                .await
                .inspect(|_| tracing::debug!("answered"))
        }
        .instrument(span)
        .await
    }

    async fn authenticate(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Actor, AuthError> {
        let peer = extensions.get::<Option<Peer>>();
        let user_tokens = tokens(metadata, "x-auth-token");
        let service_tokens = tokens(metadata, "x-service-token");
        let presented = Presented {
            peer: peer.and_then(Option::as_ref),
            user_tokens: &user_tokens,
            service_tokens: &service_tokens,
        };
        let authenticator = self.callers.authenticator();
        authenticator.authenticate(presented).await
    }

    async fn admitted<Q, D, A, F, E>(
        &self,
        rpc: Rpc,
        actor: Actor,
        request: Q,
        subject: &Subject,
        decode: impl FnOnce(Q) -> Result<D, DecodeError>,
        run: impl FnOnce(Admitted<D>) -> F,
    ) -> Result<A, Failure>
    where
        D: Asks,
        F: Future<Output = Result<A, E>>,
        E: Into<RunError>,
    {
        if self.stopping.is_cancelled() {
            return Err(failed(&watch::ShuttingDown, Reason::ShuttingDown, subject));
        }
        let mut decoded =
            decode(request).map_err(|error| failed(&error, error.reason(), subject))?;
        let caller = Arc::new(self.admission.caller(actor).await);
        if !caller.may_vouch() {
            decoded.disown();
        }
        let privilege = decoded.privilege();
        let objects = self
            .objects(caller.actor(), decoded.target())
            .await
            .map_err(|error| failed(&error, error.reason(), subject))?;
        let admitted = caller
            .admit(rpc, privilege, objects, decoded)
            .await
            .map_err(|error| failed(&error, error.reason(), subject))?;
        run(admitted).await.map_err(|error| match error.into() {
            RunError::Engine(error) => failed(&error, error.reason(), subject),
            RunError::Limit(error) => over(&error),
        })
    }

    /// Everything that the caller must be allowed: what is there already, and what it asks for.
    async fn objects(
        &self,
        actor: &Actor,
        target: Target<'_>,
    ) -> Result<Vec<Object>, attach::Error> {
        let there = match &target {
            Target::Record(id) if self.engine.is_unreadable(id).await? => {
                return Ok(vec![Object {
                    attachment: Some((*id).clone()),
                    ..Object::default()
                }]);
            }
            Target::Attachment(id) | Target::Record(id) | Target::New(id, _) => {
                self.engine.look(id).await?
            }
            Target::Volume(_) | Target::Each | Target::Host => None,
        };
        let there = there.as_ref().map(Object::from);
        Ok(match target {
            Target::Volume(id) => vec![Object {
                volume: Some(id.clone()),
                owner: self.engine.rights(id).await?.owner,
                ..Object::default()
            }],
            Target::New(_, mut asked) => {
                // What once was told to be a service's own does not become a user's by saying nothing of it.
                if let Some(volume) = &asked.volume {
                    let known = self.engine.rights(volume).await?.owner;
                    asked.owner.service_owned |= known.service_owned;
                }
                there.into_iter().chain([asked]).collect()
            }
            Target::Attachment(id) | Target::Record(id) => vec![there.unwrap_or_else(|| Object {
                attachment: Some(id.clone()),
                ..Object::of_caller(actor)
            })],
            Target::Each => vec![Object::of_caller(actor)],
            Target::Host => vec![Object::default()],
        })
    }
}

/// The tokens of that name in a call's metadata. One that is no text is one that nobody gave out.
fn tokens(metadata: &MetadataMap, name: &str) -> Vec<Secret> {
    let values = metadata.get_all(name).into_iter();
    let text = values.map(|value| value.to_str().unwrap_or_default());
    text.map(Secret::from).collect()
}

fn span(
    rpc: Rpc,
    actor: &Actor,
    subject: &Subject,
    trace: Option<TraceParent<'_>>,
) -> tracing::Span {
    tracing::info_span!(
        "request",
        rpc = rpc.name(),
        peer = %actor,
        attachment = subject.attachment,
        volume = subject.volume,
        domain = subject.domain,
        trace_id = trace.map(TraceParent::id),
    )
}

/// Logs a failure in its request's span and makes its status.
fn failed(error: &(dyn Error + 'static), reason: Reason, subject: &Subject) -> Failure {
    let status = status(error, reason, subject);
    tracing::warn!(%reason, code = ?status.code(), error = status.message(), "failed");
    Failure { reason, status }
}

/// Tells of a limit that was reached, and makes its status.
fn over(error: &LimitError) -> Failure {
    tracing::debug!(%error, "refused");
    Failure {
        reason: error.reason(),
        status: limited(error),
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl v1::volume_attach_server::VolumeAttach for Service {
    async fn attach_volume(
        &self,
        request: Request<v1::AttachVolumeRequest>,
    ) -> Answer<v1::AttachVolumeResponse> {
        let run = |admitted| self.engine.attach(admitted);
        let attachment = self
            .call(Rpc::AttachVolume, request, decode::attach, run)
            .await?;
        Ok(Response::new(v1::AttachVolumeResponse {
            attachment: Some(encode::attachment(attachment)),
        }))
    }

    async fn detach_volume(
        &self,
        request: Request<v1::DetachVolumeRequest>,
    ) -> Answer<v1::DetachVolumeResponse> {
        let run = |admitted| self.engine.detach(admitted);
        self.call(Rpc::DetachVolume, request, decode::detach, run)
            .await?;
        Ok(Response::new(v1::DetachVolumeResponse {}))
    }

    async fn cancel_detach(
        &self,
        request: Request<v1::CancelDetachRequest>,
    ) -> Answer<v1::CancelDetachResponse> {
        let id = |message: v1::CancelDetachRequest| decode::attachment_id(&message.attachment_id);
        let run = |admitted| self.engine.cancel_detach(admitted);
        let attachment = self.call(Rpc::CancelDetach, request, id, run).await?;
        Ok(Response::new(v1::CancelDetachResponse {
            attachment: Some(encode::attachment(attachment)),
        }))
    }

    async fn connect_volume(
        &self,
        request: Request<v1::ConnectVolumeRequest>,
    ) -> Answer<v1::ConnectVolumeResponse> {
        let run = |admitted| self.engine.connect(admitted);
        let attachment = self
            .call(Rpc::ConnectVolume, request, decode::connect, run)
            .await?;
        Ok(Response::new(v1::ConnectVolumeResponse {
            attachment: Some(encode::attachment(attachment)),
        }))
    }

    async fn disconnect_volume(
        &self,
        request: Request<v1::DisconnectVolumeRequest>,
    ) -> Answer<v1::DisconnectVolumeResponse> {
        let run = |admitted| self.engine.disconnect(admitted);
        self.call(Rpc::DisconnectVolume, request, decode::disconnect, run)
            .await?;
        Ok(Response::new(v1::DisconnectVolumeResponse {}))
    }

    async fn get_attachment(
        &self,
        request: Request<v1::GetAttachmentRequest>,
    ) -> Answer<v1::Attachment> {
        let id = |message: v1::GetAttachmentRequest| decode::attachment_id(&message.attachment_id);
        let run = |admitted| self.engine.get(admitted);
        let attachment = self.call(Rpc::GetAttachment, request, id, run).await?;
        Ok(Response::new(encode::attachment(attachment)))
    }

    async fn list_attachments(
        &self,
        request: Request<v1::ListAttachmentsRequest>,
    ) -> Answer<v1::ListAttachmentsResponse> {
        let run = |admitted: Admitted<ListQuery>| async {
            let limit = admitted.request().limit;
            let found = self.engine.list(admitted).await;
            found.map(|found| (found, limit))
        };
        let (found, limit) = self
            .call(Rpc::ListAttachments, request, decode::list, run)
            .await?;
        Ok(Response::new(list_page(found, limit)))
    }

    type WatchAttachmentsStream = watch::Stream;

    async fn watch_attachments(
        &self,
        request: Request<v1::WatchAttachmentsRequest>,
    ) -> Answer<watch::Stream> {
        let ended = self.callers.ended();
        let run = |admitted: Admitted<WatchRequest>| async {
            let grant = admitted.grant().clone();
            let held = self.limiter.watch(grant.actor())?;
            let feed = self.engine.watch(admitted).await?;
            let ends = watch::Ends {
                stopping: self.stopping.clone(),
                callers: ended,
            };
            let watch = watch::Watch::new(feed, self.admission.clone(), grant, ends, held);
            Ok::<_, RunError>(watch.stream())
        };
        let stream = self
            .call(Rpc::WatchAttachments, request, decode::watch, run)
            .await?;
        Ok(Response::new(stream))
    }

    async fn plan_attach(
        &self,
        request: Request<v1::PlanAttachRequest>,
    ) -> Answer<v1::PlanAttachResponse> {
        let run = |admitted| self.engine.plan(admitted);
        let plan = self
            .call(Rpc::PlanAttach, request, decode::plan, run)
            .await?;
        Ok(Response::new(encode::plan(plan)))
    }

    async fn get_connector(
        &self,
        request: Request<v1::GetConnectorRequest>,
    ) -> Answer<v1::Connector> {
        let run = |_: Admitted<()>| async {
            // Reads files of this host's.
            let host = self.host.clone();
            let read = tokio::task::spawn_blocking(move || host.connector()).await;
            read.map(encode::connector).map_err(attach::Error::Internal)
        };
        let connector = self
            .call(Rpc::GetConnector, request, |_| Ok(()), run)
            .await?;
        Ok(Response::new(connector))
    }

    async fn extend_volume(
        &self,
        request: Request<v1::ExtendVolumeRequest>,
    ) -> Answer<v1::ExtendVolumeResponse> {
        let run = |admitted| self.engine.extend(admitted);
        let size_bytes = self
            .call(Rpc::ExtendVolume, request, decode::extend, run)
            .await?;
        Ok(Response::new(v1::ExtendVolumeResponse { size_bytes }))
    }

    async fn set_io_tune(
        &self,
        request: Request<v1::SetIoTuneRequest>,
    ) -> Answer<v1::SetIoTuneResponse> {
        let run = |admitted| self.engine.set_io_tune(admitted);
        // Boxed: the future is large.
        let tune = Box::pin(self.call(Rpc::SetIoTune, request, decode::io_tune, run)).await?;
        Ok(Response::new(v1::SetIoTuneResponse {
            iotune: encode::io_tune(tune),
        }))
    }

    async fn get_attachment_stats(
        &self,
        request: Request<v1::GetAttachmentStatsRequest>,
    ) -> Answer<v1::AttachmentStats> {
        let id =
            |message: v1::GetAttachmentStatsRequest| decode::attachment_id(&message.attachment_id);
        let run = |admitted| self.engine.stats(admitted);
        let stats = self.call(Rpc::GetAttachmentStats, request, id, run).await?;
        Ok(Response::new(encode::stats(stats)))
    }

    async fn get_volume_permissions(
        &self,
        request: Request<v1::GetVolumePermissionsRequest>,
    ) -> Answer<v1::VolumePermissions> {
        let run = |admitted| self.engine.permissions(admitted);
        let known = self
            .call(
                Rpc::GetVolumePermissions,
                request,
                decode::get_permissions,
                run,
            )
            .await?;
        Ok(Response::new(encode::volume_permissions(known)))
    }

    async fn set_volume_permissions(
        &self,
        request: Request<v1::SetVolumePermissionsRequest>,
    ) -> Answer<v1::VolumePermissions> {
        let run = |admitted| self.engine.set_permissions(admitted);
        let known = self
            .call(
                Rpc::SetVolumePermissions,
                request,
                decode::set_permissions,
                run,
            )
            .await?;
        Ok(Response::new(encode::volume_permissions(known)))
    }

    async fn diagnose(
        &self,
        request: Request<v1::DiagnoseRequest>,
    ) -> Answer<v1::DiagnoseResponse> {
        let run = |admitted| self.engine.diagnose(admitted);
        let findings = self.call(Rpc::Diagnose, request, |_| Ok(()), run).await?;
        Ok(Response::new(encode::findings(findings)))
    }

    async fn forget_attachment(
        &self,
        request: Request<v1::ForgetAttachmentRequest>,
    ) -> Answer<v1::ForgetAttachmentResponse> {
        let run = |admitted| self.engine.forget(admitted);
        let forgotten = self
            .call(Rpc::ForgetAttachment, request, decode::forget, run)
            .await?;
        Ok(Response::new(encode::forgotten(forgotten)))
    }
}

/// A page of what was found: one fewer than `limit`, and never more than a client takes in one message.
fn list_page(found: Vec<Attachment>, limit: usize) -> v1::ListAttachmentsResponse {
    let mut more = found.len() >= limit;
    let mut attachments = Vec::new();
    let mut last = None;
    // Leaves room for the token and the messages' framing.
    let mut room = MAX_RESPONSE - 16 * 1024;
    for attachment in found.into_iter().take(limit - 1) {
        let id = attachment.id.clone();
        let message = encode::attachment(attachment);
        let size = message.encoded_len() + 8;
        if size > room && last.is_some() {
            more = true;
            break;
        }
        room = room.saturating_sub(size);
        attachments.push(message);
        last = Some(id);
    }
    v1::ListAttachmentsResponse {
        attachments,
        next_page_token: last
            .filter(|_| more)
            .map(|id| page::token(&id))
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{AccessDecision, State, VolumeRights};

    fn attachments(count: usize, xml: usize) -> Vec<Attachment> {
        let attachment = |number| Attachment {
            id: format!("a{number:04}").parse().unwrap(),
            volume: "v".parse().unwrap(),
            domain: None,
            protocol: "local".into(),
            servers: Vec::new(),
            paths: None,
            access: AccessDecision::from_sources(vec![]),
            rights: VolumeRights::default(),
            holder: None,
            state: State::Connected,
            host_path: None,
            target: None,
            disk_xml: Some("x".repeat(xml)),
            error: None,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
        };
        (0..count).map(attachment).collect()
    }

    #[test]
    fn a_page_ends_where_clients_would_not_take_more() {
        let page = list_page(attachments(1001, 10_000), 1001);
        let count = page.attachments.len();
        assert!((300..500).contains(&count), "{count}");
        assert!(page.encoded_len() <= MAX_RESPONSE);
        let last = page::parse(&page.next_page_token).unwrap();
        assert_eq!(last.as_str(), page.attachments[count - 1].attachment_id);
    }

    #[test]
    fn a_page_has_at_least_one_so_that_a_list_ends() {
        let page = list_page(attachments(2, MAX_RESPONSE), 101);
        assert_eq!(page.attachments.len(), 1);
        assert_ne!(page.next_page_token, "");
    }

    #[test]
    fn the_last_page_has_no_token() {
        let page = list_page(attachments(100, 10), 101);
        assert_eq!(
            (page.attachments.len(), page.next_page_token.as_str()),
            (100, "")
        );
        let page = list_page(attachments(101, 10), 101);
        assert_eq!(page.attachments.len(), 100);
        assert_ne!(page.next_page_token, "");
    }
}
