//! An answer to `POST /attachments` that was lost: whether Cinder made the attachment all the same, and which one it is.
//!
//! Its connector's `mountpoint` is unique to the call. Administrators search by it; others see it with the volume, of attachments that are
//! complete. To complete an attachment that is another's does no harm while it is being made: its owner completes it once more, or deletes it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::answers::Attachment;
use super::api::Cinder;
use super::error::CinderError;
use crate::cli::failure::Failure;

/// How long Cinder has to go on with what it has reserved.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing at all must be found, as the request may still be on its way.
const SILENCE: Duration = Duration::from_secs(2);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// A call whose answer was lost.
pub(super) struct Call<'a> {
    pub(super) volume: &'a str,
    /// The `mountpoint` of its connector.
    pub(super) marker: &'a str,
    /// The volume's attachments before it.
    pub(super) before: BTreeSet<Uuid>,
    /// The daemon's attachments of the volume.
    pub(super) here: &'a BTreeSet<String>,
}

/// What a look shows.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Nothing,
    /// Cinder is at work on it, or has failed at it.
    Reserved(Uuid),
    Found(Uuid),
    /// One of them may be it.
    Some(Vec<Uuid>),
}

impl Call<'_> {
    /// Ends the attachment that the call has made, if any, and adds to the error what came of that.
    pub(super) async fn end(&self, cinder: &Cinder, error: CinderError) -> Failure {
        let found = match self.find(cinder).await {
            // Nobody goes on with what is reserved.
            Ok(Look::Reserved(id)) if error.is_of_driver() => Ok(Look::Found(id)),
            found => found,
        };
        Failure::from(error).note(&match found {
            Ok(Look::Nothing | Look::Some(_)) => "Cinder made no attachment".to_owned(),
            Ok(Look::Found(id)) => match cinder.delete(id).await {
                Ok(()) => format!("attachment {id}, which Cinder made all the same, is undone"),
                Err(left) => format!(
                    "Cinder made attachment {id} all the same, which is not undone: {}; volattach cinder reconcile finds it",
                    Failure::from(left).message()
                ),
            },
            Ok(Look::Reserved(id)) => format!(
                "Cinder has reserved attachment {id}, which may be this one's, and is at work on it or has failed at it: look by openstack \
                 volume attachment show {id}; if it stays reserved, end it by openstack volume attachment delete {id}; if not, volattach \
                 cinder reconcile finds it"
            ),
            Err(error) => format!(
                "whether Cinder made an attachment is not known: {}; look by volattach cinder reconcile and openstack volume attachment \
                 list --volume-id {}",
                Failure::from(error).message(),
                self.volume
            ),
        })
    }

    async fn find(&self, cinder: &Cinder) -> Result<Look, CinderError> {
        let start = Instant::now();
        loop {
            let marked = cinder.attachments_by("mountpoint", self.marker).await?;
            let now = cinder.attachments(&[("volume_id", self.volume)]).await?;
            let look = match self.look(marked.as_deref(), &now) {
                Look::Some(ids) => self.marked(cinder, &ids).await?,
                look => look,
            };
            let patience = match look {
                Look::Found(_) => Duration::ZERO,
                Look::Reserved(_) => PATIENCE,
                Look::Nothing | Look::Some(_) => SILENCE,
            };
            if start.elapsed() >= patience {
                return Ok(look);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `marked`: the attachments with the call's marker; `None`: the caller may not search by it.
    fn look(&self, marked: Option<&[Attachment]>, now: &[Attachment]) -> Look {
        let mine = |it: &&Attachment| it.volume_id == self.volume && !self.before.contains(&it.id);
        if let Some([one]) = marked
            && mine(&one)
        {
            return Look::Found(one.id);
        }
        let new = now.iter().filter(mine).filter(|it| {
            it.is_use() && it.instance.is_none() && !self.here.contains(&it.id.to_string())
        });
        let unsettled = |it: &&Attachment| it.is_reserved() || it.status == "error_attaching";
        let (reserved, connected): (Vec<_>, Vec<_>) = new.partition(unsettled);
        // What is connected has a marker: another call's where this one's was searched for.
        match (reserved.first(), marked) {
            (_, None) if !connected.is_empty() => {
                Look::Some(connected.iter().map(|it| it.id).collect())
            }
            (Some(one), _) => Look::Reserved(one.id),
            (None, _) => Look::Nothing,
        }
    }

    /// Finds the one that has the marker, which the volume shows once it is complete.
    async fn marked(&self, cinder: &Cinder, ids: &[Uuid]) -> Result<Look, CinderError> {
        for id in ids {
            // One that others have completed or extend meanwhile must not be set back.
            match cinder.attachment(*id).await {
                Ok(attachment) if attachment.is_complete() => continue,
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
            match cinder.complete(*id).await {
                // Its owner has ended it.
                Err(error) if error.is_not_found() => {}
                answer => answer?,
            }
        }
        let volume = cinder.volume(self.volume).await?;
        let mut shown = volume.attachments.iter();
        let found = shown.find(|it| it.device.as_deref() == Some(self.marker));
        Ok(found.map_or(Look::Nothing, |it| Look::Found(it.attachment_id)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attachment(id: u128, volume: &str, status: &str, instance: Option<&str>) -> Attachment {
        let id = Uuid::from_u128(id);
        let body = json!({ "id": id, "volume_id": volume, "status": status, "instance": instance });
        serde_json::from_value(body).unwrap()
    }

    fn look(marked: Option<&[Attachment]>, now: &[Attachment]) -> Look {
        let here = BTreeSet::from([Uuid::from_u128(2).to_string()]);
        let call = Call {
            volume: "v",
            marker: "m",
            before: BTreeSet::from([Uuid::from_u128(1)]),
            here: &here,
        };
        call.look(marked, now)
    }

    #[test]
    fn an_attachment_is_found_by_its_marker_and_else_by_being_new() {
        let (first, second) = (Uuid::from_u128(3), Uuid::from_u128(4));
        let known = || {
            vec![
                attachment(1, "v", "attached", None),
                attachment(2, "v", "attached", None),
                attachment(5, "v", "attaching", Some("nova")),
                attachment(6, "v", "detached", None),
            ]
        };
        let with = |more: Vec<Attachment>| known().into_iter().chain(more).collect::<Vec<_>>();
        let one = |id, status| attachment(id, "v", status, None);
        assert_eq!(look(None, &known()), Look::Nothing);
        let several = with(vec![one(3, "attaching"), one(4, "attached")]);
        assert_eq!(look(None, &several), Look::Some(vec![first, second]));
        let reserved = with(vec![one(3, "reserved")]);
        assert_eq!(look(None, &reserved), Look::Reserved(first));
        // With markers, another host's attachment is not taken for it.
        assert_eq!(look(Some(&[]), &several), Look::Nothing);
        assert_eq!(look(Some(&[]), &reserved), Look::Reserved(first));
        let marked = [one(4, "attaching")];
        assert_eq!(look(Some(&marked), &several), Look::Found(second));
        // An answer to another question than the one that was asked.
        assert_eq!(look(Some(&[one(1, "attached")]), &known()), Look::Nothing);
        let other = attachment(3, "w", "attaching", None);
        assert_eq!(look(Some(&[other]), &known()), Look::Nothing);
    }
}
