//! Cinder's attachments of this host beside the daemon's.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::agent::Agent;
use super::answers::Attachment;
use super::api::Cinder;
use super::attach::{MARK, mark};
use super::error::CinderError;
use crate::api::v1;
use crate::cli::failure::Failure;

/// Both sides, at one time.
#[derive(Default)]
pub(super) struct Survey {
    /// The daemon's attachments whose id could be one of Cinder's.
    pub(super) agent: BTreeMap<Uuid, v1::Attachment>,
    /// Cinder's: those of this host, and those that the daemon has.
    pub(super) cinder: BTreeMap<Uuid, Attachment>,
    /// Incomplete attachments that have no host, or whose host Cinder does not show to this caller.
    pub(super) of_unknown_host: Vec<Attachment>,
    /// Those of this host that are complete, that the daemon does not have, and that do not have the mark: other software's.
    pub(super) unmarked: BTreeSet<Uuid>,
    /// The daemon's attachments that Cinder does not have, although it has their volume.
    pub(super) ended: BTreeSet<Uuid>,
    /// Those of them whose volume has uses in Cinder that the daemon does not have: they may be the same, made by others.
    pub(super) taken: BTreeSet<Uuid>,
    /// How many of the daemon's are of volumes that Cinder does not show.
    pub(super) foreign: usize,
}

impl Survey {
    /// Looks at both.
    pub(super) async fn take(cinder: &Cinder, agent: &Agent) -> Result<Self, Failure> {
        let host = agent.connector().await?.host;
        let (agent, foreign): (Vec<_>, Vec<_>) = (agent.attachments(None).await?.into_iter())
            .map(|it| (it.attachment_id.parse::<Uuid>().ok(), it))
            .partition(|(id, _)| id.is_some());
        let agent = agent.into_iter().filter_map(|(id, it)| Some((id?, it)));
        let mut survey = Self {
            agent: agent.collect(),
            foreign: foreign.len(),
            ..Self::default()
        };
        match of_host(cinder, &host).await? {
            Some(here) => {
                survey.add(here);
                survey.look_for_marks(cinder, &host).await?;
                let reserved = cinder.attachments(&[("attach_status", "reserved")]).await?;
                // Nova's is of whichever host.
                let unknown = reserved.into_iter().filter(|it| it.instance.is_none());
                survey.of_unknown_host.extend(unknown);
            }
            None => survey.sort_out(cinder, &host).await?,
        }
        survey.look_for_the_rest(cinder).await?;
        Ok(survey)
    }

    fn add(&mut self, attachments: impl IntoIterator<Item = Attachment>) {
        let used = attachments.into_iter().filter(Attachment::is_use);
        self.cinder.extend(used.map(|it| (it.id, it)));
    }

    /// Takes those of this host from all that the caller may see.
    async fn sort_out(&mut self, cinder: &Cinder, host: &str) -> Result<(), CinderError> {
        for attachment in cinder.attachments(&[]).await? {
            // Nova's is of whichever host.
            let novas = attachment.instance.is_some();
            if self.agent.contains_key(&attachment.id) {
                self.add([attachment]);
            } else if novas || !attachment.is_use() {
                continue;
            } else if !attachment.is_complete() {
                self.of_unknown_host.push(attachment);
            } else if shown(cinder, &attachment, host).await? == Shown::Marked {
                self.add([attachment]);
            }
        }
        Ok(())
    }

    /// Tells other software's attachments of this host from those of `volattach`. Callers who may not search by a host are shown the latter
    /// alone ([`Self::sort_out`]).
    async fn look_for_marks(&mut self, cinder: &Cinder, host: &str) -> Result<(), CinderError> {
        for (id, attachment) in &self.cinder {
            let alone = attachment.is_complete() && !self.agent.contains_key(id);
            if alone
                && attachment.instance.is_none()
                && shown(cinder, attachment, host).await? != Shown::Marked
            {
                self.unmarked.insert(*id);
            }
        }
        Ok(())
    }

    /// Asks for each of the daemon's that was in no list.
    async fn look_for_the_rest(&mut self, cinder: &Cinder) -> Result<(), CinderError> {
        let missing = self
            .agent
            .iter()
            .filter(|(id, _)| !self.cinder.contains_key(id));
        let missing: Vec<_> = missing
            .map(|(id, it)| (*id, it.volume_id.clone()))
            .collect();
        for (id, volume) in missing {
            match cinder.attachment(id).await {
                Ok(attachment) => self.add([attachment]),
                Err(error) if error.is_not_found() => match cinder.volume(&volume).await {
                    Ok(_) => {
                        self.ended.insert(id);
                        let filter = [("volume_id", volume.as_str())];
                        let mut uses = cinder.attachments(&filter).await?.into_iter();
                        if uses.any(|it| it.is_use() && !self.agent.contains_key(&it.id)) {
                            self.taken.insert(id);
                        }
                    }
                    // Another project's, or never Cinder's.
                    Err(error) if error.is_not_found() || error.is_bad_request() => {
                        self.foreign += 1;
                    }
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Cinder's attachments of a host; `None`: the caller may not search by it.
pub(super) async fn of_host(
    cinder: &Cinder,
    host: &str,
) -> Result<Option<Vec<Attachment>>, CinderError> {
    let column = "attached_host";
    let found = cinder.attachments_by(column, host).await?;
    if found.as_ref().is_some_and(|found| !found.is_empty()) {
        // A Cinder that passes over the filter shows every host's: no host has this name.
        let nobody = Uuid::new_v4().to_string();
        let others = cinder.attachments_by(column, &nobody).await?;
        return Ok(found.filter(|_| others.is_some_and(|others| others.is_empty())));
    }
    Ok(found)
}

/// What a volume shows of a complete attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// This host's `volattach` made it.
    Marked,
    /// It is of that host, by other software if that is this one.
    Host(String),
    /// Nothing: it has no host, or not for this caller.
    Nothing,
}

/// Looks at the volume for whose an attachment is.
pub(super) async fn shown(
    cinder: &Cinder,
    attachment: &Attachment,
    host: &str,
) -> Result<Shown, CinderError> {
    let volume = match cinder.volume(&attachment.volume_id).await {
        Ok(volume) => volume,
        Err(error) if error.is_not_found() => return Ok(Shown::Nothing),
        Err(error) => return Err(error),
    };
    let mut all = volume.attachments.into_iter();
    let Some(found) = all.find(|it| it.attachment_id == attachment.id) else {
        return Ok(Shown::Nothing);
    };
    let device = found.device.unwrap_or_default();
    if device.starts_with(&mark(host)) {
        return Ok(Shown::Marked);
    }
    // A mark has its host also for those to whom Cinder does not show it.
    let marked = device
        .strip_prefix(MARK)
        .and_then(|rest| rest.rsplit_once(':'));
    let host = found.host_name.or(marked.map(|(host, _)| host.to_owned()));
    Ok(host.map_or(Shown::Nothing, Shown::Host))
}
