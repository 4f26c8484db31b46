//! The backends of this build, by their concrete types.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::iscsi::IscsiBackend;
use crate::backend::local::LocalBackend;
use crate::backend::nfs::NfsBackend;
use crate::backend::nvmeof::NvmeBackend;
use crate::backend::smb::SmbBackend;
use crate::backend::{Backend, Backends, Quarantine};
use crate::config::Settings;
use crate::host::Host;
use crate::model::HostKey;
use crate::sys::worker::Workers;

/// All backends. Clones, and those by other settings, know of the same connections.
#[derive(Clone)]
pub(super) struct AllBackends {
    local: LocalBackend,
    smb: SmbBackend,
    nfs: NfsBackend,
    iscsi: IscsiBackend,
    nvmeof: NvmeBackend,
    quarantine: Quarantine,
}

impl AllBackends {
    /// Backends that mount beneath `mount_base`.
    pub(super) fn new(
        settings: &Settings,
        mount_base: PathBuf,
        key: &HostKey,
        workers: Workers,
        host: &Arc<Host>,
    ) -> Self {
        let quarantine = Quarantine::new(workers.registry().clone());
        Self {
            local: LocalBackend::new(settings.local.clone()),
            smb: SmbBackend::new(
                settings.smb.clone(),
                mount_base.clone(),
                key.clone(),
                workers.clone(),
                host.clone(),
            ),
            nfs: NfsBackend::new(
                settings.nfs.clone(),
                mount_base,
                key.clone(),
                workers.clone(),
                host.clone(),
            ),
            iscsi: IscsiBackend::new(settings.iscsi.clone(), workers.clone(), quarantine.clone()),
            nvmeof: NvmeBackend::new(
                settings.nvmeof.clone(),
                host.clone(),
                workers,
                quarantine.clone(),
            ),
            quarantine,
        }
    }

    /// The same backends by other settings. Looks up the groups of a user who is another one.
    pub(super) fn with_settings(&self, settings: &Settings) -> Self {
        Self {
            local: self.local.with_settings(settings.local.clone()),
            smb: self.smb.with_settings(settings.smb.clone()),
            nfs: self.nfs.with_settings(settings.nfs.clone()),
            iscsi: self.iscsi.with_settings(settings.iscsi.clone()),
            nvmeof: self.nvmeof.with_settings(settings.nvmeof.clone()),
            quarantine: self.quarantine.clone(),
        }
    }

    /// The backends as the engine takes them, behind the quarantine that all of them share.
    pub(super) fn registry(&self) -> Backends {
        let backends: [Arc<dyn Backend>; 5] = [
            Arc::new(self.local.clone()),
            Arc::new(self.smb.clone()),
            Arc::new(self.nfs.clone()),
            Arc::new(self.iscsi.clone()),
            Arc::new(self.nvmeof.clone()),
        ];
        Backends::new(backends, self.quarantine.clone())
    }
}
