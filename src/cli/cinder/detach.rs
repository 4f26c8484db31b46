//! `cinder detach`: first this host, then Cinder, so that no guest has a disk whose storage may map something else there.
//!
//! Of attachments of servers, Nova may know: Cinder ends them for a service, or once Nova says that its server does not have the volume.

use uuid::Uuid;

use super::agent::Agent;
use super::answers::Attachment;
use super::api::Cinder;
use super::error::CinderError;
use crate::cli::failure::Failure;

/// How Cinder's attachment is ended.
enum End {
    /// With the tokens that there are.
    Delete,
    /// By the user alone, so that Cinder asks Nova first.
    AskNova,
}

impl End {
    /// Decides before anything is detached: an attachment that Cinder would keep is kept here too.
    async fn of(cinder: &Cinder, agent: &Agent, attachment: &Attachment) -> Result<Self, Failure> {
        let Some(server) = attachment.guard() else {
            return Ok(Self::Delete);
        };
        let id = attachment.id;
        // The daemon has no more an attachment whose detach was cut short, and never had one of Nova's.
        if cinder.may_have_nova && agent.find(&id.to_string()).await?.is_none() {
            return Ok(Self::AskNova);
        }
        if cinder.has_service_token() {
            return Ok(Self::Delete);
        }
        let why = format!(
            "cannot detach attachment {id}: it is of server {server}, and Cinder ends such attachments for services alone; nothing was \
             changed; name a cloud of clouds.yaml with a service's credentials by --service-cloud"
        );
        Err(CinderError::Credentials(why).into())
    }

    async fn run(&self, cinder: &Cinder, attachment: &Attachment) -> Result<(), Failure> {
        let id = attachment.id;
        match self {
            Self::Delete => cinder.delete(id).await.map_err(|error| {
                Failure::from(error).note(&format!(
                    "this host has nothing of attachment {id} any more: the same command again ends it in Cinder, or volattach cinder \
                     reconcile"
                ))
            }),
            Self::AskNova => cinder.delete_unless_novas(id).await.map_err(|error| {
                let server = attachment.guard().unwrap_or_default();
                Failure::from(error).note(&format!(
                    "this host's daemon does not have attachment {id}, which is of server {server}; if Nova attached it: openstack server \
                     remove volume {server} {}",
                    attachment.volume_id
                ))
            }),
        }
    }
}

/// Detaches. One that either side has no more is fine.
pub(super) async fn run(
    cinder: &Cinder,
    agent: &Agent,
    id: Uuid,
    force: bool,
) -> Result<(), Failure> {
    let known = match cinder.attachment(id).await {
        Ok(attachment) => Some((End::of(cinder, agent, &attachment).await?, attachment)),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let here = agent.detach(&id.to_string(), force).await;
    here.map_err(|failure| {
        failure.note("Cinder's attachment stays as it is: the same command again ends it, once this host is done")
    })?;
    match known {
        Some((end, attachment)) => end.run(cinder, &attachment).await,
        None => Ok(()),
    }
}
