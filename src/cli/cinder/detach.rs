//! `cinder detach`: first this host, then Cinder, so that no guest has a disk whose storage may map something else there.
//!
//! Only what is of this host: an attachment that the daemon does not have may be in use elsewhere, and Cinder takes its storage away at once.
//!
//! Of attachments of servers, Nova may know: Cinder ends them for a service, or once Nova says that its server does not have the volume.

use uuid::Uuid;

use super::agent::Agent;
use super::answers::Attachment;
use super::api::Cinder;
use super::error::CinderError;
use super::survey::{self, Shown};
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
        let id = attachment.id;
        // The daemon has no more an attachment whose detach was cut short, and never had one of Nova's.
        let is_here = agent.find(&id.to_string()).await?.is_some();
        let Some(server) = attachment.guard() else {
            if !is_here {
                check_host(cinder, agent, attachment).await?;
            }
            return Ok(Self::Delete);
        };
        if cinder.may_have_nova && !is_here {
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

/// Refuses an attachment of another host. What is incomplete shows its host to administrators alone: then the user's word counts.
async fn check_host(
    cinder: &Cinder,
    agent: &Agent,
    attachment: &Attachment,
) -> Result<(), Failure> {
    let id = attachment.id;
    let here = agent.connector().await?.host;
    let of = match attachment.is_complete() {
        true => match survey::shown(cinder, attachment, &here).await? {
            Shown::Marked => return Ok(()),
            Shown::Host(host) if host == here => return Ok(()),
            Shown::Host(host) => format!("host {host}"),
            Shown::Nothing => "a host that Cinder does not show".to_owned(),
        },
        false => match survey::of_host(cinder, &here).await? {
            Some(ours) if !attachment.is_reserved() && !ours.iter().any(|it| it.id == id) => {
                "another host".to_owned()
            }
            _ => return Ok(()),
        },
    };
    let why = format!(
        "attachment {id} is of {of}, and nothing was changed: detach it there; if nobody uses it there: openstack volume attachment \
         delete {id}"
    );
    Err(CinderError::Unsuitable(why).into())
}

/// Refuses to detach here what Cinder may only hide: it would stay in use there.
async fn check_project(cinder: &Cinder, agent: &Agent, id: Uuid) -> Result<(), Failure> {
    let Some(here) = agent.find(&id.to_string()).await? else {
        return Ok(());
    };
    let volume = here.volume_id;
    match cinder.volume(&volume).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_bad_request() => {
            let why = format!(
                "Cinder shows this user neither attachment {id} nor volume {volume}, and nothing was changed: call with credentials of the \
                 volume's project; if Cinder has neither: volattach detach {id}"
            );
            Err(CinderError::Unsuitable(why).into())
        }
        Err(error) => Err(error.into()),
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
        Err(error) if error.is_not_found() => {
            check_project(cinder, agent, id).await?;
            None
        }
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
