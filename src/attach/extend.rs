//! Has the host and the guest see a volume that its storage has grown.
//!
//! Invariants: nothing of the attachment changes but the sizes seen, so the journal has nothing to say and there is nothing to
//! undo; what fails leaves the guest with the size that it saw; nothing is ever made smaller.

use super::Error;
use super::inner::Inner;
use super::observe::{Observed, Reality};
use super::request::ExtendRequest;
use crate::admission::Grant;
use crate::journal::Step;
use crate::model::{HostVolume, ImageFormat, State};

/// A hypervisor's disks are whole sectors (QEMU's `BDRV_SECTOR_SIZE`): a file whose end is not on one is shown a little longer.
const SECTOR: u64 = 512;

impl Inner {
    /// Has everyone see the size that the volume has on its storage; gives the size in bytes that the guest sees or, where
    /// no running domain has the volume, the one that the host sees.
    pub(super) async fn extend(&self, grant: &Grant, request: ExtendRequest) -> Result<u64, Error> {
        let ExtendRequest { id, bytes: wanted } = request;
        let Some(record) = self.granted(grant, &id).await? else {
            return Err(Error::NotFound { id });
        };
        match record.course.state() {
            State::Attached | State::Connected => {}
            State::Failed => return Err(Error::CleanupRequired { id }),
            state => {
                let state = state.as_str();
                return Err(Error::InProgress { id, state });
            }
        }
        let seen = self.observe(&record).await?;
        if !seen.is_whole() {
            return Err(seen.lost(&record));
        }
        let hypervisor = &self.parts.hypervisor;
        let shown = match &record.domain {
            Some(domain) => hypervisor.size(domain.uuid, &record.disk).await?,
            None => None,
        };
        if let (Some(shown), Some(wanted)) = (shown, wanted)
            && wanted < shown
        {
            return Err(shrink(&record.host, shown, wanted));
        }
        let stored = {
            let mut held = self.lock(&record, Step::Connect).await;
            held.recorded();
            let backend = self.backends().get(&record.host.plan.protocol)?;
            backend.extend(&record.host).await?
        };
        let bytes = target(&record.host, shown, stored, wanted)?;
        let Some(domain) = record.domain.as_ref().filter(|_| shown.is_some()) else {
            return Ok(bytes);
        };
        let shown = hypervisor.resize(domain.uuid, &record.disk, bytes).await?;
        let Some(shown) = shown else {
            return Err(Observed::from(Reality::Broken).lost(&record));
        };
        tracing::info!(bytes = shown, "extended");
        Ok(shown)
    }
}

/// The size that everyone is to see. Pure.
///
/// A raw volume is as large as its storage has it. How large an image is for its guest stands in the image, which nobody but
/// QEMU may change while the guest runs: so QEMU grows it, to the size asked for. The drivers of Cinder that keep volumes in files
/// leave that to the compute host, too.
fn target(
    volume: &HostVolume,
    shown: Option<u64>,
    stored: u64,
    wanted: Option<u64>,
) -> Result<u64, Error> {
    match (volume.plan.format, shown) {
        (ImageFormat::Raw, _) => {
            if let Some(wanted) = wanted.filter(|wanted| *wanted > stored) {
                return Err(Error::NotGrown {
                    path: volume.path().to_owned(),
                    stored,
                    wanted,
                });
            }
            match shown {
                Some(shown) if stored.div_ceil(SECTOR) < shown.div_ceil(SECTOR) => {
                    Err(shrink(volume, shown, stored))
                }
                _ => Ok(stored),
            }
        }
        (ImageFormat::Qcow2, Some(shown)) => Ok(wanted.unwrap_or(shown)),
        (format, shown) => Err(Error::ResizeUnsupported {
            path: volume.path().to_owned(),
            format,
            why: match shown {
                Some(_) => "which QEMU cannot make larger",
                None => "whose size stands in the image, and no running guest has it here",
            },
        }),
    }
}

fn shrink(volume: &HostVolume, shown: u64, smaller: u64) -> Error {
    Error::Shrink {
        path: volume.path().to_owned(),
        shown,
        smaller,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Connection, HostPlan, Reason, SourceKind};

    #[test]
    fn a_size_is_the_storages_or_the_images() {
        let target = |format, shown, stored, wanted| {
            let volume = HostVolume::from(HostPlan {
                keeps_owner: false,
                protocol: "smbfs".into(),
                claims: Vec::new(),
                connection: Connection::None,
                path: "/mnt/x/v1".into(),
                root: "/mnt/x".into(),
                kind: SourceKind::File,
                format,
                access: Access::ReadWrite,
            });
            super::target(&volume, shown, stored, wanted).map_err(|error| error.reason())
        };
        use ImageFormat::{Qcow2, Raw, Vmdk};
        for (format, shown, stored, wanted, expected) in [
            // What is there is taken, whatever less was asked for.
            (Raw, Some(1024), 2048, None, Ok(2048)),
            (Raw, Some(1024), 2048, Some(2048), Ok(2048)),
            (Raw, Some(1024), 2048, Some(1536), Ok(2048)),
            (Raw, None, 2048, Some(1024), Ok(2048)),
            (Raw, Some(2048), 2048, None, Ok(2048)),
            (
                Raw,
                Some(1024),
                2048,
                Some(2049),
                Err(Reason::VolumeNotGrown),
            ),
            (Raw, None, 0, Some(1), Err(Reason::VolumeNotGrown)),
            // The last sector may be shown whole.
            (Raw, Some(1024), 1000, None, Ok(1000)),
            (Raw, Some(1536), 1000, None, Err(Reason::ShrinkRefused)),
            (Raw, Some(u64::MAX), u64::MAX, None, Ok(u64::MAX)),
            // An image's file tells nothing of what is in it.
            (Qcow2, Some(1024), 200, None, Ok(1024)),
            (Qcow2, Some(1024), 200, Some(4096), Ok(4096)),
            (Qcow2, None, 200, None, Err(Reason::ResizeUnsupported)),
            (
                Vmdk,
                Some(1024),
                200,
                Some(4096),
                Err(Reason::ResizeUnsupported),
            ),
        ] {
            let shape = format!("{format} {shown:?} {stored} {wanted:?}");
            assert_eq!(target(format, shown, stored, wanted), expected, "{shape}");
        }
    }
}
