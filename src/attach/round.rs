//! One look of [`crate::reconcile`] at many records: at the host's state once for each backend, at each domain once for all its records.
//!
//! A step for each record may be a long walk: all such loops consume budget, so that others get their turns meanwhile.
//!
//! What the look finds may be old by the time it is used, so it only chooses the records to settle; [`Engine::settle`] looks again before it acts.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt, join_all, ready};
use futures::stream::{self, FuturesUnordered, Stream, StreamExt};
use tokio::task::consume_budget;
use tokio::time::timeout;
use uuid::Uuid;

use super::Error;
use super::engine::Engine;
use super::inner::{Inner, volumes_of};
use super::observe::{Observed, of_connection, unseen};
use super::resume::Action;
use crate::backend::{BackendError, Presence};
use crate::journal::{Direction, JournalError, Record, Step};
use crate::libvirt::in_background;
use crate::model::{AttachmentId, DiskPlan};

/// Time limit for a backend's look at all volumes: one whose look hangs in the kernel keeps no other's records waiting.
const FOUND: Duration = Duration::from_secs(30);

/// How many records are read one by one rather than all.
const FEW: usize = 64;

/// Outcome of a look at a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Nothing is to be done, or no such record exists any more.
    Settled,
    /// Something is to be done.
    Unsettled,
    /// The look failed, as the log says.
    Unseen,
}

/// A function that decides what to do about a record.
type Decide = fn(&Record, &Observed) -> Action;

/// A record's outcome; `None`: only paths are missing, and what their servers answer decides.
type Judged = (AttachmentId, Option<Looked>);

/// A record, and what was found of its connection.
type Connected = (Arc<Record>, Presence);

impl Engine {
    /// Looks at these records; yields each as soon as its own domain was looked at.
    pub(crate) async fn screen(
        &self,
        ids: Vec<AttachmentId>,
        decide: Decide,
    ) -> impl Stream<Item = (AttachmentId, Looked)> {
        let mut wanted: HashSet<AttachmentId> = ids.into_iter().collect();
        let records = self.0.some(&wanted).await;
        let (records, without) = match records {
            Ok(records) => (records, Looked::Settled),
            Err(error) => {
                tracing::error!(error = %Error::from(error).chain(), "cannot reconcile");
                (Vec::new(), Looked::Unseen)
            }
        };
        let mut looked = Vec::new();
        let mut forward = Vec::new();
        for record in records {
            consume_budget().await;
            wanted.remove(&record.id);
            // Looked at step by step: a record that goes backward, and one that a call works on, once that call has ended.
            match record.course.direction() {
                Direction::Forward if !self.0.busy.has(&record.id) => forward.push(record),
                direction => {
                    // Nobody looks at the domain of a record that goes backward, whose guest may be paused.
                    if let (Direction::Backward, Some(domain)) = (direction, &record.domain)
                        && record.progress(Step::Attach).is_some()
                    {
                        self.0.stopped.suspect(domain.uuid);
                    }
                    looked.push((record.id.clone(), Some(Looked::Unsettled)));
                }
            }
        }
        looked.extend(wanted.into_iter().map(|id| (id, Some(without))));
        let mut domains: BTreeMap<Uuid, Vec<Connected>> = BTreeMap::new();
        let mut degraded = Vec::new();
        let found = self.0.find_all(forward).await;
        for (record, found) in found.into_iter().flatten() {
            consume_budget().await;
            match found {
                Ok(found) => {
                    let has_missed = found.degraded().or(record.degraded).is_some();
                    if found.is_connected() && has_missed {
                        degraded.push((record.clone(), found));
                    }
                    match &record.domain {
                        Some(domain) => {
                            let its = domains.entry(domain.uuid).or_default();
                            its.push((record, found));
                        }
                        None => looked.push(judge(&record, &of_connection(&record, found), decide)),
                    }
                }
                Err(error) => {
                    let error = Error::from(error);
                    tracing::warn!(attachment = %record.id, reason = %error.reason(), error = %error.chain(), "not looked at");
                    looked.push((record.id.clone(), Some(Looked::Unseen)));
                }
            }
        }
        let domains = domains.into_iter();
        let domains = domains.map(|(domain, its)| self.0.look_at_domain(domain, its, decide));
        let domains: FuturesUnordered<_> = domains.collect();
        // Servers are asked while domains are looked at.
        let repairable = self.0.repairable(degraded).shared();
        // Also where no record waits for its outcome: the numbers of paths are noted by it.
        let noted = repairable.clone().into_stream().filter_map(|_| ready(None));
        let looked = stream::iter([looked]).chain(domains);
        let looked = looked.map(move |judged| outcomes(judged, repairable.clone()));
        stream::select(looked.flatten_unordered(None), noted)
    }
}

impl Inner {
    /// Finds the connections of these records, by one look at each backend. For each backend its records, which are not copied about: for
    /// those of a whole host that would be millions of bytes at once.
    async fn find_all(
        &self,
        records: Vec<Arc<Record>>,
    ) -> Vec<impl Iterator<Item = (Arc<Record>, Result<Presence, BackendError>)>> {
        let finds = by_protocol(records)
            .into_iter()
            .map(|(protocol, records)| async move {
                let volumes = volumes_of(records.iter()).await;
                let found = match self.backends().get(&protocol) {
                    Ok(backend) => timeout(FOUND, backend.find_all(volumes)).await.ok(),
                    Err(_) => None,
                };
                let found = found.unwrap_or_else(|| {
                    let failed = || {
                        let backend = self.backends().get(&protocol);
                        backend.and_then(|_| Err(overdue(&protocol)))
                    };
                    records.iter().map(|_| failed()).collect()
                });
                records.into_iter().zip(found)
            });
        join_all(finds).await
    }

    /// The records of those ids. News of a few does not cost a look at all.
    async fn some(&self, ids: &HashSet<AttachmentId>) -> Result<Vec<Arc<Record>>, JournalError> {
        let journal = &self.parts.journal;
        let mut records = Vec::new();
        if ids.len() > FEW {
            let wanted = |record: &Arc<Record>| ids.contains(&record.id);
            self.each_record(|it| records.extend(Some(it).filter(wanted)))
                .await?;
            return Ok(records);
        }
        for id in ids {
            records.extend(journal.get(id).await?.map(Arc::new));
        }
        Ok(records)
    }

    /// Notes how many paths of each work; returns those whose missing paths can be made now.
    async fn repairable(&self, degraded: Vec<Connected>) -> Arc<HashSet<AttachmentId>> {
        for (record, found) in &degraded {
            consume_budget().await;
            if found.degraded() != record.degraded
                && let Err(error) = self.note_paths(record, found.degraded()).await
            {
                tracing::error!(attachment = %record.id, error = %error.chain(), "cannot note its paths");
            }
        }
        let missing = degraded.into_iter();
        let missing = missing.filter(|(_, found)| found.degraded().is_some());
        let missing = missing.map(|(record, _)| record).collect();
        let asks = by_protocol(missing)
            .into_iter()
            .map(|(protocol, records)| async move {
                let volumes = volumes_of(records.iter()).await;
                let paths = match self.backends().get(&protocol) {
                    Ok(backend) => timeout(FOUND, backend.repairable(volumes)).await.ok(),
                    Err(_) => None,
                };
                let each = records.into_iter().zip(paths.unwrap_or_default());
                let some = each.filter(|(_, paths)| !paths.is_empty());
                some.map(|(record, _)| record.id.clone())
                    .collect::<Vec<_>>()
            });
        let repairable = join_all(asks).await.into_iter().flatten();
        Arc::new(repairable.collect())
    }

    /// Looks at a domain with all these records.
    async fn look_at_domain(
        &self,
        domain: Uuid,
        records: Vec<Connected>,
        decide: Decide,
    ) -> Vec<Judged> {
        let _turn = self.looks.acquire().await;
        let disks: Vec<DiskPlan> = records.iter().map(|(it, _)| it.disk.clone()).collect();
        let look = self.parts.hypervisor.observe(domain, &disks);
        match in_background(look).await {
            Ok(seen) => {
                self.note_stop(domain, &seen);
                let each = records.iter().enumerate();
                each.map(|(place, (record, connection))| {
                    let seen = Observed::of_domain(&seen, record, *connection, place);
                    judge(record, &seen, decide)
                })
                .collect()
            }
            Err(error) => {
                let error = Error::from(error);
                tracing::warn!(%domain, reason = %error.reason(), error = %error.chain(), "not looked at");
                let each = records.iter();
                each.map(|(record, connection)| match unseen(record, *connection) {
                    Some(seen) => judge(record, &seen, decide),
                    None => (record.id.clone(), Some(Looked::Unseen)),
                })
                .collect()
            }
        }
    }
}

fn judge(record: &Record, seen: &Observed, decide: Decide) -> Judged {
    let looked = match decide(record, seen) {
        Action::Nothing => Some(Looked::Settled),
        Action::Repair => None,
        _ => Some(Looked::Unsettled),
    };
    (record.id.clone(), looked)
}

/// The outcomes of those judged, first of those that wait for nothing.
fn outcomes<'r>(
    judged: Vec<Judged>,
    repairable: impl Future<Output = Arc<HashSet<AttachmentId>>> + Send + 'r,
) -> impl Stream<Item = (AttachmentId, Looked)> {
    let mut known = Vec::with_capacity(judged.len());
    let mut waiting = Vec::new();
    for (id, looked) in judged {
        match looked {
            Some(looked) => known.push((id, looked)),
            None => waiting.push(id),
        }
    }
    let decided = async move {
        if waiting.is_empty() {
            return Vec::new();
        }
        let repairable = repairable.await;
        let each = waiting.into_iter();
        each.map(|id| match repairable.contains(&id) {
            true => (id, Looked::Unsettled),
            false => (id, Looked::Settled),
        })
        .collect()
    };
    stream::iter(known).chain(decided.map(stream::iter).boxed().flatten_stream())
}

fn by_protocol(records: Vec<Arc<Record>>) -> BTreeMap<String, Vec<Arc<Record>>> {
    let mut sorted: BTreeMap<String, Vec<Arc<Record>>> = BTreeMap::new();
    for record in records {
        let protocol = record.host.plan.protocol.clone();
        sorted.entry(protocol).or_default().push(record);
    }
    sorted
}

/// The error of a look that hangs.
fn overdue(protocol: &str) -> BackendError {
    BackendError::Host {
        action: format!("look at the {protocol} volumes of this host"),
        source: format!("nothing within {} s", FOUND.as_secs()).into(),
    }
}
