//! The connect step: brings the volume to this host, by a new connection or a shared one.

use super::{Forward, Held};
use crate::attach::Error;
use crate::attach::inner::Inner;
use crate::attach::owners::Taking;
use crate::backend::{Backend, BackendError, HeadStart, Presence, Release};
use crate::journal::{Key, Record, Step};
use crate::libvirt::{DomainView, plan_disk};
use crate::model::{Claim, Found, HostPlan, HostVolume, Wwid};

impl Inner {
    /// Connects; returns whether the volume was inspected too. Releases the locks in `held` that are needed no more once the journal has the
    /// intent.
    pub(super) async fn connect(
        &self,
        record: &mut Record,
        forward: &mut Forward,
        held: &mut Held,
    ) -> Result<bool, Error> {
        let mut head_start = forward.head_start.take();
        let backend = forward.backend.clone();
        let mut volume = self.survey(backend.as_ref(), forward.host.clone()).await?;
        if forward.again {
            is_still(&record.host, &volume.found)?;
            // The rest of the record describes the connection that may have to be taken down.
            record.host.found.renew(&volume.found);
        } else {
            record.host = volume.clone();
        }
        record.begin(Step::Connect);
        self.put(record).await?;
        held.recorded();
        let inspected = loop {
            let presence = backend.find(&record.host).await?;
            if !presence.is_connected() {
                let results = match head_start.take() {
                    Some(task) => task.results().await?,
                    None => HeadStart::default(),
                };
                let owners = Taking::new(self, record);
                let connecting = backend.connect(&volume, &forward.info, &owners, results);
                let connected = connecting.await?;
                let taken = owners.into_lock();
                if forward.again {
                    is_still(&record.host, &connected.found)?;
                }
                record.host = HostVolume {
                    plan: volume.plan,
                    found: connected.found,
                };
                record.degraded = connected.degraded;
                if record.host.found.protected {
                    // Once the device is read-only, the journal alone tells the next daemon that the device was writable.
                    self.put(record).await?;
                } else if taken.is_some() {
                    // Journal the identity before its lock is released: the next volume that asks for this identity must find it.
                    self.parts.journal.put_soon(record).await?;
                }
                break connected.inspected;
            }
            drop(head_start.take()); // its worker is not needed
            record.degraded = presence.degraded();
            // Keep the existing connection of a reattached record: a guest may use it.
            if forward.again {
                break false;
            }
            // The connection exists: made by others, or by us before a crash. Equal claims mean equal connections, apart from later
            // changes.
            let Err(broken) = backend.join(&record.host).await else {
                break true;
            };
            let beside = match broken.is_of_connection() {
                true => backend.beside(&volume.plan),
                false => None,
            };
            let plan = beside.ok_or(broken)?;
            volume = self.survey(backend.as_ref(), plan).await?;
            record.host = volume.clone();
            held.extend(self.lock(record, Step::Connect).await);
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

    /// Looks at what exists before a connect.
    pub(in crate::attach) async fn survey(
        &self,
        backend: &dyn Backend,
        plan: HostPlan,
    ) -> Result<HostVolume, BackendError> {
        let found = Found {
            boot: self.parts.boot.clone(),
            ..backend.survey(&plan).await?
        };
        Ok(HostVolume { plan, found })
    }

    /// Finds the connection.
    pub(in crate::attach) async fn find(&self, record: &Record) -> Result<Presence, Error> {
        let backend = self.backends().get(&record.host.plan.protocol)?;
        Ok(backend.find(&record.host).await?)
    }

    /// Takes down the parts of the connection that nobody else holds, under the claims' locks, which are in `held` afterwards: whoever counts
    /// holders next must not count this record.
    pub(super) async fn disconnect(&self, record: &Record, held: &mut Held) -> Result<(), Error> {
        let boot = self.parts.boot.as_ref();
        if boot.is_some_and(|boot| !record.host.is_of(boot)) {
            *held = self.lock(record, Step::Connect).await;
            return Ok(()); // what exists now, others have made since
        }
        let backend = self.backends().get(&record.host.plan.protocol)?;
        let (host, claims) = (&record.host, &record.host.plan.claims);
        let written_out = claims.iter().any(Claim::is_guarded_by_backend);
        if written_out {
            // Before the locks: a silent server lets this take long.
            let how = Release {
                held: claims.clone(),
                keeps_read_only: true,
                force: record.force,
            };
            backend.disconnect(host, &how).await?;
        }
        *held = self.lock(record, Step::Connect).await;
        // A connect that finds the device read-only by this attachment takes its identity first, and has it until the journal shows that
        // the device stays read-only for that one.
        let _identity = match host.found.protected_device() {
            Some(device) => Some(self.identities.lock(device.identity.clone()).await),
            None => None,
        };
        let how = self.release_of(record).await?;
        if written_out && !host.found.protected && how.held == *claims {
            return Ok(());
        }
        Ok(backend.disconnect(host, &how).await?)
    }

    /// Decides what of the connection stays, by the holders in the journal.
    async fn release_of(&self, record: &Record) -> Result<Release, Error> {
        let journal = &self.parts.journal;
        let shares = |other: &Record| other.id != record.id && other.uses_connection();
        let identity = record.host.identity();
        // Unknown before a connect is over: then any device of the same claims may be the one.
        let same = |other: &Wwid| identity.is_none_or(|own| own == other);
        let protects = |other: &Record| {
            let host = &other.host;
            shares(other) && host.found.protected && host.identity().is_none_or(same)
        };
        let unreadable = journal.unreadable().await?;
        let (mut held, mut keeps_read_only) = (Vec::new(), false);
        for claim in &record.host.plan.claims {
            let key = Key::Claim(claim);
            keeps_read_only |= record.host.found.protected && journal.any(key, &protects).await?;
            let unread = unreadable.iter().any(|it| it.claims.contains(claim));
            if unread || journal.any(key, &shares).await? {
                held.push(claim.clone());
            }
        }
        Ok(Release {
            held,
            keeps_read_only,
            force: record.force,
        })
    }
}

/// Refuses a device other than the attachment had: the volume is another one now, or was another one then.
fn is_still(was: &HostVolume, now: &Found) -> Result<(), BackendError> {
    let why = match (&was.found, now) {
        (
            Found {
                device: Some(was), ..
            },
            Found {
                device: Some(now), ..
            },
        ) if now.identity != was.identity => {
            format!(
                "its device reports the identity {}, and the attachment was of {}",
                now.identity, was.identity
            )
        }
        (
            Found {
                local: Some(was), ..
            },
            Found {
                local: Some(now), ..
            },
        ) if !was.may_be(now) => {
            "its name leads to another device than the attachment had".to_owned()
        }
        _ => return Ok(()),
    };
    Err(BackendError::DeviceIdentity {
        volume: was.path().display().to_string(),
        why: format!("{why}: detach the attachment, then attach the volume that is wanted now"),
    })
}
