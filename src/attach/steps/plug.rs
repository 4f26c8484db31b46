//! The attach step: plugs the disk into the domain.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Forward, Why, outcome};
use crate::attach::Error;
use crate::attach::guard::Wait;
use crate::attach::inner::Inner;
use crate::attach::observe::has_its_disk;
use crate::attach::plan::check_domain;
use crate::attach::work::in_time;
use crate::journal::{Direction, Key, Record, Step};
use crate::libvirt::{DomainView, HypervisorError, Unplug, UnplugRequest, check_state, plan_disk};
use crate::model::{DiskPlan, DiskSpec, DomainRef, Reason, Scope};

/// How old the last look at a volume may be when its disk is plugged in: QEMU opens the image under a lock that each processor of the guest
/// needs, so a server that has fallen silent since the look would stop the guest.
const FRESH: Duration = Duration::from_secs(1);

impl Inner {
    /// Plugs the disk in, under the domain's lock: no other plug of this daemon comes between reading the domain and plugging.
    /// `looked_at`: time of the last look at the volume.
    pub(super) async fn plug(
        &self,
        record: &mut Record,
        forward: &mut Forward,
        looked_at: Instant,
    ) -> Result<(), Error> {
        let Some(domain) = record.domain.as_ref().map(|domain| domain.uuid) else {
            return Ok(());
        };
        let backend = forward.backend.clone();
        let scope = forward.spec.options.scope;
        let pinned = backend
            .pin(&record.host, scope, &record.disk.source)
            .await?;
        let spec = forward.spec_at(&pinned.path);
        let as_looked_at = !forward.again
            && spec.path == forward.spec.path
            && forward.plugs == self.plugs.load(Ordering::Acquire);
        if forward.confined {
            // A mount shows what no plan does: whether its files have labels.
            backend.check_confined(&record.host.plan).await?;
        }
        let mut inspected_at = looked_at;
        if !as_looked_at {
            if let Some(reading) = forward.reading.take() {
                // Its view of the domain is older than the one to plan by.
                let findings = reading.findings().await?;
                findings.inspected?;
                inspected_at = findings.inspected_at;
            }
            if self.plan_anew(domain, record, forward, &spec).await? {
                record.done(Step::Attach);
                return Ok(());
            }
        }
        if !record.disk.left_out.is_empty() {
            tracing::warn!(options = ?record.disk.left_out, "left out: its hypervisor has no such thing");
        }
        let mut plugged = self
            .plug_in_time(domain, record, forward, inspected_at)
            .await?;
        if plugged
            .as_ref()
            .is_err_and(|error| error.reason() == Reason::TargetInUse)
        {
            // Another program has taken the target since the domain was read.
            record.disk = plan_disk(&self.look_at(domain, &spec).await?, &spec)?;
            plugged = self
                .plug_in_time(domain, record, forward, inspected_at)
                .await?;
        }
        self.plugs.fetch_add(1, Ordering::Release);
        if let Err(refused) = plugged {
            // With both scopes, libvirt saves the persistent configuration last: a refusal does not mean that the guest lacks the disk.
            if !refused.leaves_open() && scope != Scope::LiveAndConfig {
                record.came_to_nothing(Step::Attach);
            }
            return Err(refused.into());
        }
        drop(pinned);
        self.views.plugged(domain, &record.disk);
        record.done(Step::Attach);
        Ok(())
    }

    /// Plugs the planned disk in, unless the caller's deadline has passed. Inspects the volume again if the last inspection is not [`FRESH`].
    async fn plug_in_time(
        &self,
        domain: Uuid,
        record: &mut Record,
        forward: &mut Forward,
        inspected_at: Instant,
    ) -> Result<Result<(), HypervisorError>, Error> {
        record.disk.sequence = record.host.sequence();
        record.begin(Step::Attach);
        let read = self.put_and_read(record, forward).await?;
        if read.unwrap_or(inspected_at).elapsed() > FRESH {
            let looked = forward.backend.inspect(&record.host).await;
            looked.inspect_err(|_| record.came_to_nothing(Step::Attach))?;
        }
        in_time(forward.deadline, outcome(Step::Attach))
            .inspect_err(|_| record.came_to_nothing(Step::Attach))?;
        Ok(self.parts.hypervisor.plug(domain, &record.disk).await)
    }

    /// Plans the disk from the current domain. Returns true if the domain has the disk and only the connection was lost.
    async fn plan_anew(
        &self,
        domain: Uuid,
        record: &mut Record,
        forward: &Forward,
        spec: &DiskSpec,
    ) -> Result<bool, Error> {
        let mut view = self.look_at(domain, spec).await?;
        if forward.again && view.has(&record.disk) {
            // A disk that is only in the persistent configuration is identified by its source path alone.
            let open = view.live.find(&record.disk).is_some();
            // Records of earlier builds have no number.
            let number = record.disk.sequence;
            let same = !open || number.is_none() || number == record.host.sequence();
            let hypervisor = &self.parts.hypervisor;
            if same && record.disk.source == spec.path {
                if open && !view.shows(&record.disk) {
                    // The guest keeps its disk; add the disk to the persistent configuration only.
                    let config = DiskPlan {
                        scope: Scope::Config,
                        ..record.disk.clone()
                    };
                    hypervisor.plug(domain, &config).await?;
                }
                if hypervisor.is_plugged(domain, &record.disk).await? {
                    record.disk.sequence = record.host.sequence();
                    return Ok(true);
                }
            }
            // Leave the old disk if the domain's state permits no replacement.
            check_state(&view, spec.options.scope)?;
            // Remove the old disk: the guest no longer has it, its device is gone, or only one of the two configurations has it.
            self.unplug(record, Why::CleanUp).await?;
            view = self.look_at(domain, spec).await?;
        }
        // A pending request to the guest was about a disk that is gone by now.
        record.guest_answered();
        record.disk = plan_disk(&view, spec)?;
        check_domain(forward.backend.as_ref(), &view, &record.host.plan).await?;
        record.domain = Some(view.domain);
        Ok(false)
    }

    async fn look_at(&self, domain: Uuid, spec: &DiskSpec) -> Result<DomainView, HypervisorError> {
        self.views.forget(domain);
        let name = DomainRef::Uuid(domain);
        let hypervisor = &self.parts.hypervisor;
        let view = hypervisor.domain(&name, spec.options.scope).await?;
        self.views.note(&view);
        Ok(view)
    }

    /// Whether the domain has the disk, backed by the connected device.
    pub(in crate::attach) async fn is_plugged(&self, record: &Record) -> Result<bool, Error> {
        let Some(domain) = &record.domain else {
            return Ok(true);
        };
        let hypervisor = &self.parts.hypervisor;
        let is_plugged = hypervisor.is_plugged(domain.uuid, &record.disk).await?;
        Ok(has_its_disk(record, is_plugged))
    }

    /// Makes the guest release the disk, if the disk is this attachment's.
    pub(super) async fn unplug(&self, record: &mut Record, why: Why) -> Result<(), Error> {
        let Some(domain) = record.domain.clone() else {
            return Ok(());
        };
        let disk = record.disk.clone();
        let hypervisor = &self.parts.hypervisor;
        if !hypervisor.has_disk(domain.uuid, &disk).await? || !self.holds(record).await? {
            self.timers.forget(&record.id);
            return Ok(());
        }
        let id = record.id.clone();
        let wait = (record.course.direction() == Direction::Backward && record.may_be_kept())
            .then(|| self.waits.enter(&id));
        let begun = Instant::now();
        // A clean-up does not wait for the answer to an earlier request: an event brings the answer.
        let mut patience = match why {
            Why::Asked => self.unplug_timeout(),
            Why::CleanUp => Duration::ZERO,
        };
        loop {
            let pause = self.timers.remaining(record, why);
            if pause.is_zero() {
                self.ask_guest(domain.uuid, record).await?;
                patience = self.unplug_timeout();
                continue;
            }
            let deadline = begun + patience;
            let next = deadline.min(Instant::now() + pause);
            let waited = tokio::select! {
                waited = hypervisor.wait_unplugged(domain.uuid, &disk, next) => waited?,
                () = self.stopping.cancelled() => Unplug::Pending,
                () = ended(wait.as_ref()) => return Err(Error::Cancelled { id: record.id.clone() }),
            };
            let target = disk.target.clone();
            match waited {
                Unplug::Gone => {
                    self.views.unplugged(domain.uuid, &disk.alias);
                    self.timers.forget(&record.id);
                    return Ok(());
                }
                Unplug::Refused => {
                    if record.may_be_kept() {
                        record.guest_answered();
                        self.timers.forget(&record.id);
                    } else {
                        // Nobody wants the disk of a failed attach: the guest is asked again, after the same pauses.
                        self.timers.refused(&record.id);
                    }
                    return Err(Error::UnplugRefused { domain, target });
                }
                Unplug::Pending if next < deadline && !self.stopping.is_cancelled() => {}
                Unplug::Pending => return Err(Error::UnplugPending { domain, target }),
            }
        }
    }

    /// Asks the guest to release the disk, and notes when.
    async fn ask_guest(&self, domain: Uuid, record: &mut Record) -> Result<(), Error> {
        let hypervisor = &self.parts.hypervisor;
        match hypervisor.request_unplug(domain, &record.disk).await? {
            UnplugRequest::Sent => {
                record.guest_asked();
                self.timers.asked(record);
            }
            UnplugRequest::Busy => {
                record.guest_busy();
                self.timers.busy(record);
            }
        }
        // Write now, not after the wait: a process started after a crash must not ask again within seconds.
        if let Err(error) = self.put(record).await {
            tracing::error!(error = %error.chain(), "the guest was asked, and the journal cannot say so");
        }
        Ok(())
    }

    /// Whether the disk in the domain is this attachment's to remove. Earlier builds named disks by volume, so two attachments may have the
    /// same alias: the disk belongs to the last one whose plug succeeded.
    pub(in crate::attach) async fn holds(&self, record: &Record) -> Result<bool, Error> {
        let rank = |it: &Record| {
            let place = it.course.rank();
            (it.progress(Step::Attach), place, it.id.clone())
        };
        let own = rank(record);
        let holds = |other: &Record| {
            other.id != record.id
                && other.disk.alias == record.disk.alias
                && other.disk.source == record.disk.source
                && rank(other) > own
        };
        let Some(domain) = &record.domain else {
            return Ok(true);
        };
        let key = Key::Domain(&domain.uuid);
        Ok(!self.parts.journal.any(key, &holds).await?)
    }
}

/// Resolves when the wait is ended from outside; never without a wait.
async fn ended(wait: Option<&Wait<'_>>) {
    match wait {
        Some(wait) => wait.ended().await,
        None => std::future::pending().await,
    }
}
