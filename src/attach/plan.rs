//! Decides what an attach comes to, before anything is done. Pure: the same input gives the same plan.

use crate::backend::{Backend, Backends, Setting};
use crate::libvirt::{DomainView, HypervisorError, plan_disk};
use crate::model::{
    AccessDecision, Asker, Connection, Dialect, Discard, DiskPlan, DiskSpec, ErrorPolicy, HostPlan,
    ImageFormat, VolumeRights,
};

use super::access::{Decided, KnownVolume, decide, plan_host};
use super::request::Wanted;
use super::{AttachRequest, Error};

/// What an attach would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    /// Read-only or read-write, and why.
    pub access: AccessDecision,
    /// What is known of who may use the volume.
    pub rights: VolumeRights,
    /// The steps in order: name, and what it does on what.
    pub steps: Vec<(&'static str, String)>,
    /// Where the host's settings came from.
    pub settings: Vec<Setting>,
    /// The host's side.
    pub host: HostPlan,
    /// The domain's side.
    pub disk: DiskPlan,
}

/// Plans an attach of the request, by this user, to the domain as it is in `view`, of the volume as it is known.
///
/// # Errors
/// What the attach itself would refuse before it looks at anything.
pub fn plan_attach(
    backends: &Backends,
    view: &DomainView,
    asker: &Asker,
    known: KnownVolume,
    request: AttachRequest,
) -> Result<AttachPlan, Error> {
    let wanted = Wanted::from(request);
    let decided = decide(backends, &wanted, asker, known)?;
    let host = plan_host(backends, &wanted, &decided)?;
    let policy = backends.get(&host.protocol)?.error_policy();
    let spec = disk_spec(&wanted, &decided, &host, view.dialect, policy);
    let Decided { access, rights, .. } = decided;
    let disk = plan_disk(view, &spec)?;
    check_format(view, &host)?;
    let words = backends
        .get(&host.protocol)?
        .describe(&wanted.info.protocol, &host);
    let place = if view.domain.name.is_empty() {
        "the domain".to_owned()
    } else {
        format!("domain {}", view.domain.name)
    };
    let read_only = if access.access.is_read_only() {
        ", read-only"
    } else {
        ""
    };
    let left_out = match disk.left_out.as_slice() {
        [] => String::new(),
        names => format!(
            ", without {}, which its hypervisor has not",
            names.join(", ")
        ),
    };
    let steps = vec![
        ("connect", words.connect),
        ("inspect", words.inspect),
        (
            "attach",
            format!(
                "plug {} into {place} as {}{read_only}{left_out}",
                host.path.display(),
                disk.target
            ),
        ),
    ];
    Ok(AttachPlan {
        access,
        rights,
        steps,
        settings: words.settings,
        host,
        disk,
    })
}

/// Refuses what the domain may not have: [`check_format`] and [`check_confined`].
pub(super) async fn check_domain(
    backend: &dyn Backend,
    view: &DomainView,
    host: &HostPlan,
) -> Result<(), Error> {
    check_format(view, host)?;
    check_confined(backend, view, host).await
}

/// Refuses a qcow2 image that a server serves to Xen: QEMU opens whatever file the header names, Xen's tool stack cannot forbid that, and the
/// server may change the header after the inspection.
fn check_format(view: &DomainView, host: &HostPlan) -> Result<(), Error> {
    let is_served = host.connection != Connection::None || host.keeps_owner;
    if view.dialect == Dialect::Xen && host.format == ImageFormat::Qcow2 && is_served {
        return Err(Error::Hypervisor(HypervisorError::FormatUnsupported {
            format: host.format,
            why: "its server could have the image name any file of this host after it was inspected, and on Xen nothing keeps QEMU from \
                  opening that: attach a raw one, or an image of this host itself",
        }));
    }
    Ok(())
}

/// Refuses a volume that the confined running domain could not open, as this host is set up now.
pub(super) async fn check_confined(
    backend: &dyn Backend,
    view: &DomainView,
    host: &HostPlan,
) -> Result<(), Error> {
    match view.live.confined {
        true => Ok(backend.check_confined(host).await?),
        false => Ok(()),
    }
}

/// The disk as the caller wants it, with the connection info's words where the caller said nothing, and the deployer's where neither did.
pub(super) fn disk_spec(
    wanted: &Wanted,
    decided: &Decided,
    host: &HostPlan,
    dialect: Dialect,
    default_policy: ErrorPolicy,
) -> DiskSpec {
    let common = &wanted.info.common;
    let mut options = wanted.disk.clone();
    options.iotune = options.iotune.or_else(|| common.iotune.clone());
    options.discard = options.discard.or(common.discard.then_some(Discard::Unmap));
    options.logical_block_size = options.logical_block_size.or(common.logical_block_size);
    options.physical_block_size = options.physical_block_size.or(common.physical_block_size);
    if dialect == Dialect::Qemu {
        options.error_policy = options.error_policy.or(Some(default_policy));
    }
    // Else QEMU's lock on the image keeps who only reads it from opening it beside who writes it (QEMU's
    // docs/system/images, "Image file locking"). Xen has no such locks.
    let reads_beside = decided.beside_writer && dialect == Dialect::Qemu;
    options.shareable |= common.multiattach || reads_beside;
    DiskSpec {
        attachment: wanted.id.clone(),
        volume: wanted.volume.clone(),
        path: host.path.clone(),
        kind: host.kind,
        format: host.format,
        access: host.access,
        // Of no_root_squash, libvirt would make a volume QEMU's user's, and root's when it is unplugged.
        keeps_owner: host.keeps_owner,
        options,
    }
}
