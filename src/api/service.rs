//! The calls of `VolumeAttach`: authenticate → decode → admit → run → encode.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::decode::{self, DecodeError};
use super::status::{Subject, status};
use super::{MAX_RESPONSE, encode, page, v1, watch};
use crate::admission::{Admitted, admit};
use crate::attach::{self, Engine, ListQuery};
use crate::auth::{LocalPeers, PeerCredentials};
use crate::host::Host;
use crate::model::{Actor, Attachment, AttachmentId, DomainRef, Reason, VolumeId};

/// What every call needs.
pub(super) struct Service {
    pub(super) engine: Engine,
    pub(super) host: Arc<Host>,
    pub(super) peers: LocalPeers,
    /// Cancelled when the daemon stops: no new work, and watches end.
    pub(super) stopping: CancellationToken,
}

/// What a message is about, for the log and for errors: ids that are not valid are left out.
trait About {
    fn subject(&self) -> Subject;
}

fn valid<T: std::str::FromStr>(text: &str) -> Option<String> {
    text.parse::<T>().is_ok().then(|| text.to_owned())
}

macro_rules! about {
    ($($message:ident { $($part:ident: $kind:ident = $field:ident),+ })*) => {
        $(impl About for v1::$message {
            fn subject(&self) -> Subject {
                let mut subject = Subject::default();
                $(subject.$part = valid::<$kind>(&self.$field);)+
                subject
            }
        })*
    };
}

about! {
    AttachVolumeRequest { attachment: AttachmentId = attachment_id, volume: VolumeId = volume_id, domain: DomainRef = domain }
    DetachVolumeRequest { attachment: AttachmentId = attachment_id }
    ConnectVolumeRequest { attachment: AttachmentId = attachment_id, volume: VolumeId = volume_id }
    DisconnectVolumeRequest { attachment: AttachmentId = attachment_id }
    GetAttachmentRequest { attachment: AttachmentId = attachment_id }
    ExtendVolumeRequest { attachment: AttachmentId = attachment_id }
    AttachmentFilter { volume: VolumeId = volume_id, domain: DomainRef = domain }
}

impl About for v1::GetConnectorRequest {
    fn subject(&self) -> Subject {
        Subject::default()
    }
}

impl About for v1::ListAttachmentsRequest {
    fn subject(&self) -> Subject {
        self.filter.as_ref().map(About::subject).unwrap_or_default()
    }
}

impl About for v1::WatchAttachmentsRequest {
    fn subject(&self) -> Subject {
        self.filter.as_ref().map(About::subject).unwrap_or_default()
    }
}

impl About for v1::PlanAttachRequest {
    fn subject(&self) -> Subject {
        self.request
            .as_ref()
            .map(About::subject)
            .unwrap_or_default()
    }
}

impl Service {
    /// One call, from its first check to its answer, within its span.
    async fn call<Q, D, A, F>(
        &self,
        rpc: &'static str,
        request: Request<Q>,
        decode: impl FnOnce(Q) -> Result<D, DecodeError> + Send,
        run: impl FnOnce(Admitted<D>) -> F + Send,
    ) -> Result<A, Status>
    where
        Q: About + Send,
        D: Send,
        F: Future<Output = Result<A, attach::Error>> + Send,
    {
        // Nothing of the request is looked at before its caller is known.
        let peer = request.extensions().get::<Option<PeerCredentials>>();
        let peer = peer.and_then(Option::as_ref);
        let actor = self.peers.authenticate(peer).map_err(|error| {
            tracing::warn!(rpc, %error, "refused");
            status(&error, error.reason(), &Subject::default())
        })?;
        let request = request.into_inner();
        let subject = request.subject();
        let span = span(rpc, &actor, &subject);
        async {
            self.admitted(actor, request, &subject, decode, run)
                .await
                .inspect(|_| tracing::debug!("answered"))
        }
        .instrument(span)
        .await
    }

    async fn admitted<Q, D, A, F>(
        &self,
        actor: Actor,
        request: Q,
        subject: &Subject,
        decode: impl FnOnce(Q) -> Result<D, DecodeError>,
        run: impl FnOnce(Admitted<D>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<A, attach::Error>>,
    {
        if self.stopping.is_cancelled() {
            return Err(failed(&watch::ShuttingDown, Reason::ShuttingDown, subject));
        }
        let decoded = decode(request).map_err(|error| failed(&error, error.reason(), subject))?;
        run(admit(actor, decoded))
            .await
            .map_err(|error| failed(&error, error.reason(), subject))
    }
}

fn span(rpc: &'static str, actor: &Actor, subject: &Subject) -> tracing::Span {
    tracing::info_span!(
        "request",
        rpc,
        peer = %actor,
        attachment = subject.attachment,
        volume = subject.volume,
        domain = subject.domain,
    )
}

/// Logs a failure in its request's span and makes its status.
fn failed(error: &dyn Error, reason: Reason, subject: &Subject) -> Status {
    let status = status(error, reason, subject);
    tracing::warn!(%reason, code = ?status.code(), error = status.message(), "failed");
    status
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
            .call("AttachVolume", request, decode::attach, run)
            .await?;
        Ok(Response::new(v1::AttachVolumeResponse {
            attachment: Some(encode::attachment(attachment)),
        }))
    }

    async fn detach_volume(
        &self,
        request: Request<v1::DetachVolumeRequest>,
    ) -> Answer<v1::DetachVolumeResponse> {
        let id = |message: v1::DetachVolumeRequest| decode::attachment_id(&message.attachment_id);
        let run = |admitted| self.engine.detach(admitted);
        self.call("DetachVolume", request, id, run).await?;
        Ok(Response::new(v1::DetachVolumeResponse {}))
    }

    async fn connect_volume(
        &self,
        request: Request<v1::ConnectVolumeRequest>,
    ) -> Answer<v1::ConnectVolumeResponse> {
        let run = |admitted| self.engine.connect(admitted);
        let attachment = self
            .call("ConnectVolume", request, decode::connect, run)
            .await?;
        Ok(Response::new(v1::ConnectVolumeResponse {
            attachment: Some(encode::attachment(attachment)),
        }))
    }

    async fn disconnect_volume(
        &self,
        request: Request<v1::DisconnectVolumeRequest>,
    ) -> Answer<v1::DisconnectVolumeResponse> {
        let id =
            |message: v1::DisconnectVolumeRequest| decode::attachment_id(&message.attachment_id);
        let run = |admitted| self.engine.disconnect(admitted);
        self.call("DisconnectVolume", request, id, run).await?;
        Ok(Response::new(v1::DisconnectVolumeResponse {}))
    }

    async fn get_attachment(
        &self,
        request: Request<v1::GetAttachmentRequest>,
    ) -> Answer<v1::Attachment> {
        let id = |message: v1::GetAttachmentRequest| decode::attachment_id(&message.attachment_id);
        let run = |admitted| self.engine.get(admitted);
        let attachment = self.call("GetAttachment", request, id, run).await?;
        Ok(Response::new(encode::attachment(attachment)))
    }

    async fn list_attachments(
        &self,
        request: Request<v1::ListAttachmentsRequest>,
    ) -> Answer<v1::ListAttachmentsResponse> {
        let run = |admitted: Admitted<ListQuery>| async {
            let limit = admitted.request().limit;
            Ok((self.engine.list(admitted).await?, limit))
        };
        let (found, limit) = self
            .call("ListAttachments", request, decode::list, run)
            .await?;
        Ok(Response::new(list_page(found, limit)))
    }

    type WatchAttachmentsStream = watch::Stream;

    async fn watch_attachments(
        &self,
        request: Request<v1::WatchAttachmentsRequest>,
    ) -> Answer<watch::Stream> {
        let filter = |message: v1::WatchAttachmentsRequest| decode::filter(message.filter);
        let run = |admitted: Admitted<attach::Filter>| async {
            let filter = admitted.request().clone();
            let (now, changes) = self.engine.watch(admitted).await?;
            Ok(watch::stream(now, changes, filter, self.stopping.clone()))
        };
        let stream = self.call("WatchAttachments", request, filter, run).await?;
        Ok(Response::new(stream))
    }

    async fn plan_attach(
        &self,
        request: Request<v1::PlanAttachRequest>,
    ) -> Answer<v1::PlanAttachResponse> {
        let run = |admitted| self.engine.plan(admitted);
        let plan = self.call("PlanAttach", request, decode::plan, run).await?;
        Ok(Response::new(encode::plan(plan)))
    }

    async fn get_connector(
        &self,
        request: Request<v1::GetConnectorRequest>,
    ) -> Answer<v1::Connector> {
        let run = |_: Admitted<()>| async { Ok(encode::connector(self.host.connector())) };
        let connector = self.call("GetConnector", request, |_| Ok(()), run).await?;
        Ok(Response::new(connector))
    }

    async fn extend_volume(
        &self,
        request: Request<v1::ExtendVolumeRequest>,
    ) -> Answer<v1::ExtendVolumeResponse> {
        let run = |admitted| self.engine.extend(admitted);
        let size_bytes = self
            .call("ExtendVolume", request, decode::extend, run)
            .await?;
        Ok(Response::new(v1::ExtendVolumeResponse { size_bytes }))
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
    use crate::model::{AccessDecision, State};

    fn attachments(count: usize, xml: usize) -> Vec<Attachment> {
        let attachment = |number| Attachment {
            id: format!("a{number:04}").parse().unwrap(),
            volume: "v".parse().unwrap(),
            domain: None,
            protocol: "local".into(),
            access: AccessDecision::from_sources(vec![]),
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
