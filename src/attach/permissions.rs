//! Who may use a volume: what is known, and what is set on this host.

use std::time::SystemTime;

use super::engine::Engine;
use super::inner::Inner;
use super::request::PermissionsRequest;
use super::{Error, KnownVolume};
use crate::admission::{Admitted, Grant};
use crate::model::{SetPermissions, VolumeId, VolumeRights};

/// What this host knows of who may use a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePermissions {
    /// The volume.
    pub volume: VolumeId,
    /// Whose it is, and who may use it.
    pub rights: VolumeRights,
    /// What was set here, by whom and when.
    pub set: Option<SetPermissions>,
}

impl Engine {
    /// What is known here of who may use a volume, whether it is attached or not; of one that nobody has told of, nothing.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn rights(&self, volume: &VolumeId) -> Result<VolumeRights, Error> {
        Ok(self.0.volume(volume, None).await?.rights)
    }

    /// What is known here of who may use a volume, and where that comes from.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn permissions(
        &self,
        volume: Admitted<VolumeId>,
    ) -> Result<VolumePermissions, Error> {
        self.0.permissions(volume.into_request()).await
    }

    /// Sets who may use a volume, for attaches from now on: those that there are stay as they are.
    ///
    /// # Errors
    /// Where the journal fails.
    pub async fn set_permissions(
        &self,
        request: Admitted<PermissionsRequest>,
    ) -> Result<VolumePermissions, Error> {
        let engine = self.clone();
        let (grant, request) = request.into_parts();
        self.to_its_end(async move { engine.0.set_permissions(&grant, request).await })
            .await
    }
}

impl Inner {
    async fn permissions(&self, volume: VolumeId) -> Result<VolumePermissions, Error> {
        let (records, set) = self.recorded(&volume).await?;
        let known = KnownVolume::new(&records, set.clone(), None);
        Ok(VolumePermissions {
            volume,
            rights: known.rights,
            set,
        })
    }

    async fn set_permissions(
        &self,
        grant: &Grant,
        request: PermissionsRequest,
    ) -> Result<VolumePermissions, Error> {
        let PermissionsRequest {
            volume,
            permissions,
        } = request;
        // An attach is decided by what was before or by what is after, and its record is there before or after.
        let _held = self.reserve.lock().await;
        let owner = self.volume(&volume, None).await?.rights.owner;
        if !grant.covers(&owner, &volume) {
            return Err(Error::OwnerChanged { volume });
        }
        let set = permissions.map(|permissions| SetPermissions {
            permissions,
            owner,
            by: grant.actor().holder(),
            at: SystemTime::now(),
        });
        let journal = &self.parts.journal;
        journal.set_permissions(&volume, set.as_ref()).await?;
        let permissions = permissions.map(tracing::field::display);
        tracing::info!(permissions, "permissions set");
        self.permissions(volume).await
    }
}
