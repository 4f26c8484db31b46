//! `plan --offline`: what attach would do on this host as it is configured, without a daemon or a hypervisor.

use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::{Gid, Uid};

use super::args::{Format, PlanArgs};
use super::failure::Failure;
use super::{output, request};
use crate::api::{decode, encode};
use crate::attach::{KnownVolume, plan_attach};
use crate::backend::iscsi::IscsiBackend;
use crate::backend::local::LocalBackend;
use crate::backend::nfs::NfsBackend;
use crate::backend::nvmeof::NvmeBackend;
use crate::backend::smb::SmbBackend;
use crate::backend::{Backend, Backends, Quarantine};
use crate::config::{DEFAULT_PATH, Settings};
use crate::host::Host;
use crate::libvirt::DomainView;
use crate::model::{Asker, Bus, Dialect, HostKey};
use crate::sys::worker::Workers;

/// Plans, and prints the plan. Nothing is touched: no worker runs, and no server is asked.
pub(super) fn plan(args: PlanArgs, format: Format) -> Result<(), Failure> {
    let path = args.config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
    let settings = Settings::load(&path).map_err(|e| Failure::from_error(&e, e.reason()))?;
    let domain = args.domain.clone().unwrap_or_default();
    let request = decode::attach(request::plan(args)?);
    let request = request.map_err(|e| Failure::from_error(&e, e.reason()))?;
    // No hypervisor is asked: the bus says whose domain it is.
    let mut view = DomainView::empty(match request.disk.bus {
        Some(Bus::Xen) => Dialect::Xen,
        _ => Dialect::Qemu,
    });
    view.domain.name = domain;
    // The journal is the daemon's: of the volume only that is known which the request says.
    let known = KnownVolume::default();
    let plan = plan_attach(&backends(settings), &view, &this_user(), known, request)
        .map_err(|e| Failure::from_error(&e, e.reason()))?;
    output::to_stdout(&output::plan(format, &encode::plan(plan)))
}

/// Whom the daemon would take this process for.
fn this_user() -> Asker {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let groups = std::iter::once(Gid::effective()).chain(groups);
    Asker {
        user_id: format!("uid:{}", Uid::effective()),
        groups: groups.map(|gid| format!("gid:{gid}")).collect(),
    }
}

/// The daemon's own backends, but for the host's key, which is the daemon's secret: so a mount point's last part
/// is another one here.
fn backends(settings: Settings) -> Backends {
    let key = HostKey::new([0; 32]);
    // Never run: a plan is made without.
    let workers = Workers::from_executable(PathBuf::new());
    let quarantine = Quarantine::new(workers.registry().clone());
    let local: Arc<dyn Backend> = Arc::new(LocalBackend::new(settings.local));
    let base = settings.mount_base;
    let host = Arc::new(Host::this());
    let smb = SmbBackend::new(
        settings.smb,
        base.clone(),
        key.clone(),
        workers.clone(),
        host.clone(),
    );
    let nfs = NfsBackend::new(settings.nfs, base, key, workers.clone(), host.clone());
    let iscsi = IscsiBackend::new(settings.iscsi, workers.clone(), quarantine.clone());
    let nvme = NvmeBackend::new(settings.nvmeof, host, workers, quarantine.clone());
    Backends::new(
        [
            local,
            Arc::new(smb),
            Arc::new(nfs),
            Arc::new(iscsi),
            Arc::new(nvme),
        ],
        quarantine,
    )
}
