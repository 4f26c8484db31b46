//! `cinder detach`: first this host, then Cinder, so that no guest has a disk whose storage may map something else there.

use uuid::Uuid;

use super::agent::Agent;
use super::api::Cinder;
use super::error::CinderError;
use crate::cli::failure::Failure;

/// Detaches. One that either side has no more is fine.
pub(super) async fn run(
    cinder: &Cinder,
    agent: &Agent,
    id: Uuid,
    force: bool,
) -> Result<(), Failure> {
    let name = id.to_string();
    let known = match cinder.attachment(id).await {
        Ok(attachment) => Some(attachment),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let instance = known
        .as_ref()
        .and_then(|it| Some((it.instance.as_ref()?, &it.volume_id)));
    if let Some((instance, volume)) = instance
        && agent.find(&name).await?.is_none()
    {
        let why = format!(
            "attachment {id} is of server {instance}, so Nova made it, and this host's daemon has it not: openstack server remove \
             volume {instance} {volume}"
        );
        return Err(CinderError::Conflict(why).into());
    }
    let here = agent.detach(&name, force).await;
    here.map_err(|failure| {
        failure.note("Cinder's attachment stays as it is: the same command again ends it, once this host is done")
    })?;
    if known.is_some() {
        cinder.delete(id).await.map_err(|error| {
            let failure = Failure::from(error);
            let service = match cinder.is_service() {
                true => "",
                false => "; an attachment of a server needs a service's token: --service-cloud",
            };
            failure.note(&format!(
                "this host has nothing of attachment {id} any more: the same command again ends it in Cinder, or volattach cinder \
                 reconcile{service}"
            ))
        })?;
    }
    Ok(())
}
