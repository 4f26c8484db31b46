//! An answer to `POST /attachments` that was lost: whether Cinder made the attachment all the same, and which one it is.
//!
//! Cinder shows nobody an attachment's connector. Administrators can search by its `mountpoint`, which is unique to the call. Others
//! compare the volume's attachments with those before the call: Cinder lets one attachment at a time begin on a volume.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::answers::Attachment;
use super::api::Cinder;
use super::error::CinderError;
use crate::cli::failure::Failure;

/// How long it is waited for what is seen to be settled.
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
    Pending(Uuid),
    Found(Uuid),
    /// Several may be it.
    Several(Vec<Uuid>),
}

impl Call<'_> {
    /// Ends the attachment that the call has made, if any, and adds to the error what came of that.
    pub(super) async fn end(&self, cinder: &Cinder, error: CinderError) -> Failure {
        // Cinder's own word that it has given up: what is reserved stays so.
        let found = self.find(cinder, error.is_internal()).await;
        let failure = Failure::from(error);
        let unknown = |why: &str| {
            let volume = self.volume;
            format!(
                "whether Cinder made an attachment is not known: {why}; look by volattach cinder reconcile and openstack volume \
                 attachment list --volume-id {volume}"
            )
        };
        failure.note(&match found {
            Ok(Look::Nothing) => "Cinder made no attachment".to_owned(),
            Ok(Look::Found(id)) => match cinder.delete(id).await {
                Ok(()) => format!("attachment {id}, which Cinder made all the same, is undone"),
                Err(left) => format!(
                    "Cinder made attachment {id} all the same, which is not undone: {}; volattach cinder reconcile finds it",
                    Failure::from(left).message()
                ),
            },
            Ok(Look::Pending(id)) => format!(
                "Cinder has reserved attachment {id}, which may be this one's, and is at work on it or has failed at it: look by openstack \
                 volume attachment show {id}; if it stays reserved, end it by openstack volume attachment delete {id}; if not, volattach \
                 cinder reconcile finds it"
            ),
            Ok(Look::Several(ids)) => {
                let ids: Vec<_> = ids.iter().map(Uuid::to_string).collect();
                unknown(&format!("it may be any of {}", ids.join(", ")))
            }
            Err(error) => unknown(Failure::from(error).message()),
        })
    }

    async fn find(&self, cinder: &Cinder, given_up: bool) -> Result<Look, CinderError> {
        let start = Instant::now();
        loop {
            let marked = cinder.attachments_by("mountpoint", self.marker).await?;
            let now = cinder.attachments(&[("volume_id", self.volume)]).await?;
            let look = self.look(marked.as_deref(), &now, given_up);
            let patience = match look {
                Look::Found(_) => Duration::ZERO,
                Look::Nothing => SILENCE,
                Look::Pending(_) | Look::Several(_) => PATIENCE,
            };
            if start.elapsed() >= patience {
                return Ok(look);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `marked`: the attachments with the call's marker; `None`: the caller may not search by it.
    /// `given_up`: Cinder said that it has failed.
    fn look(&self, marked: Option<&[Attachment]>, now: &[Attachment], given_up: bool) -> Look {
        let mine = |it: &&Attachment| it.volume_id == self.volume && !self.before.contains(&it.id);
        if let Some([one]) = marked
            && mine(&one)
        {
            return Look::Found(one.id);
        }
        let begins = |it: &&Attachment| it.is_reserved() || it.status.starts_with("error");
        let new: Vec<_> = now
            .iter()
            .filter(mine)
            .filter(|it| it.is_use() && it.instance.is_none())
            .filter(|it| !self.here.contains(&it.id.to_string()))
            // With a connector it has a marker, which is another call's.
            .filter(|it| marked.is_none() || begins(it))
            .collect();
        match new.as_slice() {
            [] => Look::Nothing,
            [one] if one.is_reserved() && !given_up => Look::Pending(one.id),
            [one] => Look::Found(one.id),
            several => Look::Several(several.iter().map(|it| it.id).collect()),
        }
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
        call.look(marked, now, false)
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
        assert_eq!(
            look(None, &with(vec![one(3, "attaching")])),
            Look::Found(first)
        );
        assert_eq!(
            look(None, &with(vec![one(3, "reserved")])),
            Look::Pending(first)
        );
        let several = with(vec![one(3, "attaching"), one(4, "attached")]);
        assert_eq!(look(None, &several), Look::Several(vec![first, second]));
        // With markers, another host's attachment is not taken for it.
        assert_eq!(look(Some(&[]), &several), Look::Nothing);
        assert_eq!(
            look(Some(&[one(4, "attaching")]), &several),
            Look::Found(second)
        );
        assert_eq!(
            look(Some(&[]), &with(vec![one(3, "reserved")])),
            Look::Pending(first)
        );
        // An answer to another question than the one that was asked.
        assert_eq!(look(Some(&[one(1, "attached")]), &known()), Look::Nothing);
        let other = attachment(3, "w", "attaching", None);
        assert_eq!(look(Some(&[other]), &known()), Look::Nothing);
    }
}
