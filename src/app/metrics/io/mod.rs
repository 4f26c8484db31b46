//! I/O by attachment and by share, where the configuration asks for it (`metrics_io`).
//!
//! ```text
//!   libvirt, domain by domain ───▶ disks ──┐
//!   /proc, on a blocking thread ──▶ shares ─┴─▶ held in memory ──▶ a scrape, with the age of what is held
//! ```
//!
//! Invariants: a scrape waits for nobody and gives the last values; the disks' rounds and the shares' do not wait for each other; a domain
//! that hangs keeps only its own disks at their last values; the number of series is bounded, and the rest is counted; an attachment, or a
//! share without a mount, has no figures after the next round; a share's figures never fall while it has a mount.

mod families;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use crate::attach::{AttachedDisk, Engine, Error};
use crate::config::MetricsIo;
use crate::model::DiskIo;
use crate::model::{AttachmentId, VolumeId};
use crate::sys::shares::{self, Share, ShareIo, Tallies, Totals};
pub(super) use families::{ChosenLabel, IoSnapshot};

/// How often the counters are read: as often as Prometheus scrapes where it is asked to be quick about it.
const INTERVAL: Duration = Duration::from_secs(15);

/// Disks, and shares, that have figures.
const MOST: usize = 1000;

/// Domains that are asked at a time: half of the calls to libvirt for which no caller waits.
const DOMAINS: usize = 2;

/// How long a round over all domains may take: longer than a call to libvirt by default, after which a domain that hangs is left alone.
const ROUND: Duration = Duration::from_secs(120);

/// The counters that were read last.
pub struct IoFigures {
    /// Whether the volumes' ids are among the labels.
    volumes: bool,
    mount_base: PathBuf,
    held: Mutex<Held>,
}

/// Figures of one kind.
struct Kind<K, V> {
    values: BTreeMap<K, V>,
    /// When a round last came to its end.
    read: Option<Instant>,
    left_out: usize,
}

impl<K, V> Default for Kind<K, V> {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            read: None,
            left_out: 0,
        }
    }
}

#[derive(Default)]
struct Held {
    disks: Kind<AttachmentId, HeldDisk>,
    shares: Kind<Share, ShareIo>,
    /// Of all shares: which of them have figures changes as others come and go.
    totals: Totals,
}

struct HeldDisk {
    volume: VolumeId,
    io: DiskIo,
    read: Instant,
}

impl Held {
    /// Forgets the disks that are not attached any more; returns those that are to be read, by domain.
    fn choose(&mut self, mut disks: Vec<AttachedDisk>) -> BTreeMap<Uuid, Vec<AttachedDisk>> {
        self.disks.left_out = disks.len().saturating_sub(MOST);
        disks.truncate(MOST);
        let ids: BTreeSet<&AttachmentId> = disks.iter().map(|disk| &disk.id).collect();
        self.disks.values.retain(|id, _| ids.contains(id));
        let mut domains = BTreeMap::<Uuid, Vec<AttachedDisk>>::new();
        for disk in disks {
            domains.entry(disk.domain).or_default().push(disk);
        }
        domains
    }

    /// Takes over the counters of a domain's disks.
    fn note(&mut self, disks: Vec<AttachedDisk>, counters: Vec<Option<DiskIo>>) {
        let read = Instant::now();
        for (AttachedDisk { id, volume, .. }, io) in disks.into_iter().zip(counters) {
            match io {
                Some(io) => {
                    let disk = HeldDisk { volume, io, read };
                    self.disks.values.insert(id, disk);
                }
                None => {
                    self.disks.values.remove(&id);
                }
            }
        }
    }

    /// Adds what all shares have been used for since the last reading.
    fn note_shares(&mut self, read: Tallies) {
        self.totals.update(read);
        let totals = self.totals.values();
        self.shares = Kind {
            left_out: totals.len().saturating_sub(MOST),
            read: Some(Instant::now()),
            values: totals.take(MOST).map(|(k, io)| (k.clone(), *io)).collect(),
        };
    }
}

impl IoFigures {
    /// Nothing is read yet; `None`: I/O is not asked for.
    #[must_use]
    pub fn new(asked: MetricsIo, mount_base: PathBuf) -> Option<Self> {
        let volumes = match asked {
            MetricsIo::None => return None,
            MetricsIo::Attachments => false,
            MetricsIo::Volumes => true,
        };
        Some(Self {
            volumes,
            mount_base,
            held: Mutex::default(),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the counters from time to time, and never returns.
    pub async fn keep(&self, engine: &Engine) {
        let clock = || {
            let mut clock = interval(INTERVAL);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            clock
        };
        let (mut disks, mut shares) = (clock(), clock());
        let disks = async {
            loop {
                disks.tick().await;
                match timeout(ROUND, self.read_disks(engine)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(error = error.chain(), "figures without the disks' I/O");
                    }
                    Err(_) => tracing::debug!("the disks' counters were not read to the end"),
                }
            }
        };
        let shares = async {
            loop {
                shares.tick().await;
                self.read_shares().await;
            }
        };
        tokio::join!(disks, shares);
    }

    /// Reads the counters of the disks that are attached.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn read_disks(&self, engine: &Engine) -> Result<(), Error> {
        let disks = engine.attached_disks().await?;
        let domains = self.held().choose(disks);
        stream::iter(domains)
            .for_each_concurrent(DOMAINS, |(domain, disks)| async move {
                let plans: Vec<_> = disks.iter().map(|it| it.disk.clone()).collect();
                match engine.disk_io(domain, &plans).await {
                    Ok(read) => self.held().note(disks, read),
                    Err(error) => {
                        tracing::debug!(%domain, error = error.chain(), "its disks' counters are not read");
                    }
                }
            })
            .await;
        self.held().disks.read = Some(Instant::now());
        Ok(())
    }

    async fn read_shares(&self) {
        let mount_base = self.mount_base.clone();
        let read = tokio::task::spawn_blocking(move || shares::read(&mount_base)).await;
        match read.unwrap_or_else(|error| Err(error.into())) {
            Ok(read) => self.held().note_shares(read),
            Err(error) => tracing::warn!(%error, "figures without the shares' I/O"),
        }
    }

    /// The figures as they are held now.
    pub(super) fn snapshot(&self) -> IoSnapshot {
        let held = self.held();
        let disks = held.disks.values.iter().map(|(id, disk)| {
            let volume = self.volumes.then(|| disk.volume.clone());
            (id.clone(), volume, disk.io)
        });
        // As old as the disk that was read longest ago.
        let each = held.disks.values.values().map(|disk| disk.read);
        let oldest = held.disks.read.into_iter().chain(each).min();
        let age = |read: Option<Instant>| read.map(|read| read.elapsed().as_secs());
        IoSnapshot {
            disks: disks.collect(),
            shares: held.shares.values.clone(),
            ages: [("disks", age(oldest)), ("shares", age(held.shares.read))],
            left_out: [
                ("disks", held.disks.left_out as u64),
                ("shares", held.shares.left_out as u64),
            ],
        }
    }
}
