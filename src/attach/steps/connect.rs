//! The connect step: the volume on this host, by a connection of its own or one that it shares.

use crate::attach::Error;
use crate::attach::inner::Inner;
use crate::attach::owners::Taking;
use crate::attach::saga::Forward;
use crate::backend::{BackendError, Presence, Release};
use crate::journal::{Record, Step};
use crate::libvirt::{DomainView, plan_disk};
use crate::model::{Claim, Found, HostVolume};

impl Inner {
    /// Connects; whether the volume was inspected with it.
    pub(super) async fn connect(
        &self,
        record: &mut Record,
        forward: &Forward,
    ) -> Result<bool, Error> {
        let backend = self.parts.backends.get(&record.host.plan.protocol)?;
        let mut volume = HostVolume {
            plan: forward.host.clone(),
            found: backend.survey(&forward.host).await?,
        };
        if forward.again {
            // What others have by now; the rest of the record is what there may be to take down.
            let others = &mut record.host.found.others;
            *others = others.take().and(volume.found.others.clone());
            let disks = volume.found.disks_of_others.clone();
            record.host.found.disks_of_others = disks;
        } else {
            record.host = volume.clone();
        }
        record.begin(Step::Connect);
        self.put(record).await?;
        let mut besides = Vec::new();
        let inspected = loop {
            if backend.find(&record.host).await? != Presence::Present {
                let owners = Taking::new(self, record);
                let connected = backend.connect(&volume, &forward.info, &owners).await?;
                let taken = owners.into_lock();
                if forward.again {
                    is_still(&record.host, &connected.found)?;
                }
                record.host = HostVolume {
                    plan: volume.plan,
                    found: connected.found,
                };
                if taken.is_some() {
                    // Whoever takes it next is to find it here.
                    self.parts.journal.put_soon(record).await?;
                }
                break connected.inspected;
            }
            // What is made again has this one, and a guest uses it perhaps.
            if forward.again {
                break false;
            }
            // The mount of others, or our own from before a crash. Equal keys are equal connections, but for what may change since.
            let Err(broken) = backend.join(&record.host).await else {
                break true;
            };
            let beside = match broken.is_of_connection() {
                true => backend.beside(&volume.plan),
                false => None,
            };
            let plan = beside.ok_or(broken)?;
            volume = HostVolume {
                found: backend.survey(&plan).await?,
                plan,
            };
            record.host = volume.clone();
            besides.extend(self.lock(record, Step::Connect).await);
            self.put(record).await?;
        };
        record.done(Step::Connect);
        if record.domain.is_none() && record.host.path() != forward.spec.path {
            record.disk = plan_disk(
                &DomainView::empty(self.parts.hypervisor.dialect()),
                &forward.spec_at(record.host.path()),
            )?;
        }
        Ok(inspected)
    }

    /// Whether the connection is there, whole.
    pub(super) async fn is_connected(&self, record: &Record) -> Result<bool, Error> {
        let backend = self.parts.backends.get(&record.host.plan.protocol)?;
        Ok(backend.find(&record.host).await? == Presence::Present)
    }

    /// Takes down of the connection what nobody else holds.
    pub(super) async fn disconnect(&self, record: &Record) -> Result<(), Error> {
        let claims = &record.host.plan.claims;
        let shares = |other: &Record| {
            let mut its = other.host.plan.claims.iter();
            other.id != record.id && other.uses_connection() && its.any(|it| claims.contains(it))
        };
        let others = self.parts.journal.select(&shares).await?;
        let mut held: Vec<Claim> = others
            .into_iter()
            .flat_map(|it| it.host.plan.claims)
            .collect();
        held.retain(|claim| claims.contains(claim));
        let how = Release {
            held,
            force: record.force,
        };
        let backend = self.parts.backends.get(&record.host.plan.protocol)?;
        Ok(backend.disconnect(&record.host, &how).await?)
    }
}

/// Refuses another device than the attachment had: its volume is another one by now, or was it then.
fn is_still(was: &HostVolume, now: &Found) -> Result<(), BackendError> {
    match (was.identity(), &now.device) {
        (Some(was), Some(device)) if device.identity != *was => Err(BackendError::DeviceIdentity {
            volume: device.path.display().to_string(),
            why: format!(
                "it tells the identity {}, and the attachment was of {was}: detach it, and attach again what is to be there now",
                device.identity
            ),
        }),
        _ => Ok(()),
    }
}
