//! Decides what an attach comes to, before anything is done. Pure: the same input gives the same plan.

use crate::backend::{Backends, Setting};
use crate::connection::ConnectionInfo;
use crate::libvirt::{DomainView, plan_disk};
use crate::model::{
    Access, AccessDecision, AccessSource, Discard, DiskOptions, DiskPlan, DiskSpec, HostPlan,
    VolumeId,
};

use super::{AttachRequest, Error};

/// What an attach would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachPlan {
    /// Read-only or read-write, and why.
    pub access: AccessDecision,
    /// The steps in order: name, and what it does on what.
    pub steps: Vec<(&'static str, String)>,
    /// Where the host's settings came from.
    pub settings: Vec<Setting>,
    /// The host's side.
    pub host: HostPlan,
    /// The domain's side.
    pub disk: DiskPlan,
}

/// Plans an attach of the request to the domain as it is in `view`.
///
/// # Errors
/// What the attach itself would refuse before it touches anything.
pub fn plan_attach(
    backends: &Backends,
    view: &DomainView,
    request: &AttachRequest,
) -> Result<AttachPlan, Error> {
    let (access, host) = plan_host(backends, &request.info, request.access)?;
    let spec = disk_spec(&request.volume, &request.info, &request.disk, &host);
    let disk = plan_disk(view, &spec)?;
    let words = backends
        .get(&host.protocol)?
        .describe(&request.info.protocol, &host);
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
        steps,
        settings: words.settings,
        host,
        disk,
    })
}

/// Decides on the access and the host's side.
pub(super) fn plan_host(
    backends: &Backends,
    info: &ConnectionInfo,
    requested: Option<Access>,
) -> Result<(AccessDecision, HostPlan), Error> {
    let backend = backends.get(info.protocol.name())?;
    let mut read_only_by = Vec::new();
    if requested == Some(Access::ReadOnly) {
        read_only_by.push(AccessSource::Request);
    }
    read_only_by.extend(&info.common.read_only_by);
    if backend.read_only(&info.protocol) {
        read_only_by.push(AccessSource::Configuration);
    }
    let access = AccessDecision::from_sources(read_only_by);
    let host = backend.plan(&info.protocol, access.access)?;
    Ok((access, host))
}

/// The disk as the caller wants it, with the connection info's words where the caller said nothing.
pub(super) fn disk_spec(
    volume: &VolumeId,
    info: &ConnectionInfo,
    wanted: &DiskOptions,
    host: &HostPlan,
) -> DiskSpec {
    let common = &info.common;
    let mut options = wanted.clone();
    options.iotune = options.iotune.or(common.iotune);
    options.discard = options.discard.or(common.discard.then_some(Discard::Unmap));
    options.logical_block_size = options.logical_block_size.or(common.logical_block_size);
    options.physical_block_size = options.physical_block_size.or(common.physical_block_size);
    options.shareable |= common.multiattach;
    DiskSpec {
        volume: volume.clone(),
        path: host.path.clone(),
        kind: host.kind,
        format: host.format,
        access: host.access,
        // Of no_root_squash, libvirt would make a volume QEMU's user's, and root's when it is unplugged.
        keeps_owner: host.mount.is_some(),
        options,
    }
}
