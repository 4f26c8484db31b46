//! The daemon of this host, as the commands of Cinder need it.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::v1;
use crate::cli::args::{Format, Global};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::{commands, progress};
use crate::model::Reason;

/// Time between two tries of a detach that another call on the attachment is in the way of.
const PAUSE: Duration = Duration::from_millis(250);

type Result<T> = std::result::Result<T, Failure>;

/// The daemon of this host.
pub(super) struct Agent {
    client: Client,
    format: Format,
    timeout: Duration,
}

impl Agent {
    pub(super) async fn connect(global: &Global) -> Result<Self> {
        Ok(Self {
            client: Client::connect(global).await?,
            format: global.output,
            timeout: global.timeout,
        })
    }

    pub(super) async fn connector(&self) -> Result<v1::Connector> {
        let message = self.client.request(v1::GetConnectorRequest {});
        let answer = self.client.rpc.clone().get_connector(message).await;
        self.client.answer(answer)
    }

    /// What is attached or connected here; of that volume only, if one is named.
    pub(super) async fn attachments(&self, volume: Option<&str>) -> Result<Vec<v1::Attachment>> {
        let filter = v1::AttachmentFilter {
            volume_id: volume.unwrap_or_default().to_owned(),
            ..v1::AttachmentFilter::default()
        };
        commands::list(self.client.clone(), filter).await
    }

    /// The attachment of that id, if there is one.
    pub(super) async fn find(&self, id: &str) -> Result<Option<v1::Attachment>> {
        let message = v1::GetAttachmentRequest {
            attachment_id: id.to_owned(),
        };
        let message = self.client.request(message);
        let answer = self.client.rpc.clone().get_attachment(message).await;
        match self.client.answer(answer) {
            Ok(attachment) => Ok(Some(attachment)),
            Err(failure) if failure.is(Reason::AttachmentNotFound) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn attach(&self, message: v1::AttachVolumeRequest) -> Result<v1::Attachment> {
        let id = message.attachment_id.clone();
        let mut rpc = self.client.rpc.clone();
        let work = rpc.attach_volume(self.client.request(message));
        let work = progress::follow(&self.client, self.format, &id, "attaching", work);
        let answer = Box::pin(work).await; // large
        Ok(self.client.answer(answer)?.attachment.unwrap_or_default())
    }

    /// Detaches; an unknown id is fine.
    pub(super) async fn detach(&self, id: &str, force: bool) -> Result<()> {
        let message = self.client.request(v1::DetachVolumeRequest {
            attachment_id: id.to_owned(),
            force,
        });
        let mut rpc = self.client.rpc.clone();
        let work = rpc.detach_volume(message);
        let work = progress::follow(&self.client, self.format, id, "detaching", work);
        let answer = Box::pin(work).await; // large
        self.client.answer(answer)?;
        Ok(())
    }

    /// Detaches what an attach may have left. An attach that was given up here may still be under way there, and is waited for.
    pub(super) async fn undo(&self, id: &str) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.detach(id, false).await {
                Err(failure)
                    if failure.is(Reason::OperationInProgress) && Instant::now() < deadline =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Has host and guest see a volume of so many bytes, and returns what they see.
    pub(super) async fn extend(&self, id: &str, size_bytes: u64) -> Result<u64> {
        let message = self.client.request(v1::ExtendVolumeRequest {
            attachment_id: id.to_owned(),
            size_bytes,
        });
        let answer = self.client.rpc.clone().extend_volume(message).await;
        Ok(self.client.answer(answer)?.size_bytes)
    }
}
