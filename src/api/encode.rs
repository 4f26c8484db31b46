//! From values to messages.

use std::path::Path;

use prost::Message;

use super::{MAX_RESPONSE, v1};
use crate::attach::{AttachPlan, DiskStats, Finding, Forgotten, Severity, VolumePermissions};
use crate::host::Connector;
use crate::model::{
    Access, Attachment, IoCounts, IoTune, MountPlan, Permissions, State, VolumeOwner, visible,
};

/// Paths are made from UTF-8 strings, so nothing is lost.
fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn access(access: Access) -> v1::Access {
    match access {
        Access::ReadOnly => v1::Access::ReadOnly,
        Access::ReadWrite => v1::Access::ReadWrite,
    }
}

fn state(state: State) -> v1::State {
    match state {
        State::Connecting => v1::State::Connecting,
        State::Attaching => v1::State::Attaching,
        State::Attached => v1::State::Attached,
        State::Connected => v1::State::Connected,
        State::Lost => v1::State::Lost,
        State::Detaching => v1::State::Detaching,
        State::Disconnecting => v1::State::Disconnecting,
        State::Failed => v1::State::Failed,
        State::Gone => v1::State::Gone,
    }
}

fn permissions(permissions: Option<Permissions>) -> String {
    permissions.map_or_else(String::new, |permissions| permissions.to_string())
}

/// `None`: nothing is known.
fn owner(owner: VolumeOwner) -> Option<v1::VolumeOwner> {
    (owner != VolumeOwner::default()).then(|| v1::VolumeOwner {
        project_id: owner.project_id.unwrap_or_default(),
        user_id: owner.user_id.unwrap_or_default(),
        group_id: owner.group_id.unwrap_or_default(),
        service_owned: owner.service_owned,
    })
}

/// Who may use a volume.
pub(super) fn volume_permissions(known: VolumePermissions) -> v1::VolumePermissions {
    let source = match (known.rights.permissions, known.rights.set_here) {
        (None, _) => v1::PermissionsSource::Unspecified,
        (Some(_), true) => v1::PermissionsSource::Set,
        (Some(_), false) => v1::PermissionsSource::Told,
    };
    let (by, at) = known.set.map(|set| (set.by, set.at.into())).unzip();
    let by = by.unwrap_or_default();
    v1::VolumePermissions {
        volume_id: known.volume.to_string(),
        permissions: permissions(known.rights.permissions),
        source: source.into(),
        owner: owner(known.rights.owner),
        set_by_user_id: by.user_id,
        set_by_project_id: by.project_id,
        set_at: at,
    }
}

/// Limits on a disk's I/O; `None`: there are none.
pub(crate) fn io_tune(tune: IoTune) -> Option<v1::IoTune> {
    let given = |limit: Option<u64>| limit.unwrap_or_default();
    (tune != IoTune::default()).then(|| v1::IoTune {
        total_bytes_sec: given(tune.total_bytes_sec),
        read_bytes_sec: given(tune.read_bytes_sec),
        write_bytes_sec: given(tune.write_bytes_sec),
        total_iops_sec: given(tune.total_iops_sec),
        read_iops_sec: given(tune.read_iops_sec),
        write_iops_sec: given(tune.write_iops_sec),
        total_bytes_sec_max: given(tune.total_bytes_sec_max),
        read_bytes_sec_max: given(tune.read_bytes_sec_max),
        write_bytes_sec_max: given(tune.write_bytes_sec_max),
        total_iops_sec_max: given(tune.total_iops_sec_max),
        read_iops_sec_max: given(tune.read_iops_sec_max),
        write_iops_sec_max: given(tune.write_iops_sec_max),
        size_iops_sec: given(tune.size_iops_sec),
        total_bytes_sec_max_length: given(tune.total_bytes_sec_max_length),
        read_bytes_sec_max_length: given(tune.read_bytes_sec_max_length),
        write_bytes_sec_max_length: given(tune.write_bytes_sec_max_length),
        total_iops_sec_max_length: given(tune.total_iops_sec_max_length),
        read_iops_sec_max_length: given(tune.read_iops_sec_max_length),
        write_iops_sec_max_length: given(tune.write_iops_sec_max_length),
        group_name: tune.group_name.unwrap_or_default(),
    })
}

/// A guest's use of a disk.
pub(super) fn stats(stats: DiskStats) -> v1::AttachmentStats {
    let counts = |counts: IoCounts| v1::IoCounts {
        bytes: counts.bytes,
        requests: counts.requests,
        nanoseconds: counts.nanoseconds,
    };
    v1::AttachmentStats {
        attachment_id: stats.id.to_string(),
        io: stats.io.map(|io| v1::DiskIo {
            read: Some(counts(io.read)),
            write: Some(counts(io.write)),
            flush: Some(counts(io.flush)),
        }),
        iotune: io_tune(stats.tune),
    }
}

/// An attachment.
pub(crate) fn attachment(attachment: Attachment) -> v1::Attachment {
    let (domain_uuid, domain_name) = attachment
        .domain
        .map(|domain| (domain.uuid.to_string(), domain.name))
        .unwrap_or_default();
    let (error, error_reason) = attachment
        .error
        .map(|error| (error.message, error.reason.to_string()))
        .unwrap_or_default();
    let holder = attachment.holder.unwrap_or_default();
    v1::Attachment {
        attachment_id: attachment.id.to_string(),
        volume_id: attachment.volume.to_string(),
        domain_uuid,
        domain_name,
        protocol: attachment.protocol,
        servers: attachment.servers,
        paths: attachment.paths.map(|paths| v1::PathCount {
            working: paths.working,
            planned: paths.planned,
        }),
        access: access(attachment.access.access).into(),
        access_reason: attachment.access.reason(),
        state: state(attachment.state).into(),
        host_path: attachment
            .host_path
            .as_deref()
            .map(path)
            .unwrap_or_default(),
        target: attachment.target.unwrap_or_default(),
        disk_xml: attachment.disk_xml.unwrap_or_default(),
        error,
        error_reason,
        created_at: Some(attachment.created.into()),
        updated_at: Some(attachment.updated.into()),
        permissions: permissions(attachment.rights.permissions),
        user_id: holder.user_id,
        project_id: holder.project_id,
        owner: owner(attachment.rights.owner),
    }
}

/// What an attach would do.
#[must_use]
pub fn plan(plan: AttachPlan) -> v1::PlanAttachResponse {
    v1::PlanAttachResponse {
        access: access(plan.access.access).into(),
        access_reason: plan.access.reason(),
        steps: plan
            .steps
            .into_iter()
            .map(|(name, description)| v1::PlanStep {
                name: name.to_owned(),
                description,
            })
            .collect(),
        mount: plan.host.mount().map(mount),
        disk_xml: plan.disk.xml,
        settings: plan
            .settings
            .into_iter()
            .map(|setting| v1::Setting {
                name: setting.name,
                value: setting.value,
                origin: setting.origin,
            })
            .collect(),
        permissions: permissions(plan.rights.permissions),
    }
}

fn mount(mount: &MountPlan) -> v1::Mount {
    v1::Mount {
        source: mount.source.clone(),
        fstype: mount.fstype.clone(),
        options: mount.options.clone(),
        target: path(&mount.target),
    }
}

/// What this host can connect to.
pub(super) fn connector(connector: Connector) -> v1::Connector {
    v1::Connector {
        host: connector.host,
        ip: connector.ip,
        platform: connector.platform,
        os_type: connector.os_type,
        system_uuid: connector.system_uuid,
        initiator: connector.initiator,
        multipath: connector.multipath,
        nqn: connector.nqn,
        nvme_hostid: connector.nvme_hostid,
        nvme_native_multipath: connector.nvme_native_multipath,
    }
}

/// Room in an answer for its version, the count and the framing, in bytes.
const FRAME: usize = 16 * 1024;

/// What is wrong on this host.
pub(super) fn findings(found: Vec<Finding>) -> v1::DiagnoseResponse {
    let (findings, left_out) = fitting(found);
    v1::DiagnoseResponse {
        findings,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        left_out,
    }
}

/// What became of a forgotten attachment.
pub(super) fn forgotten(forgotten: Forgotten) -> v1::ForgetAttachmentResponse {
    let (left, left_out) = fitting(forgotten.left);
    v1::ForgetAttachmentResponse {
        forgotten: forgotten.forgotten,
        left,
        left_out,
        kept: forgotten.kept.as_deref().map(path).unwrap_or_default(),
    }
}

/// The findings that fit into one message as clients take it, errors first, and the number of the others.
fn fitting(mut found: Vec<Finding>) -> (Vec<v1::Finding>, u32) {
    found.sort_by_key(|finding| finding.severity);
    let mut room = MAX_RESPONSE - FRAME;
    let all = found.len();
    let mut findings = Vec::new();
    for message in found.into_iter().map(finding) {
        // The length that stands before each takes five bytes at most.
        let size = message.encoded_len() + 8;
        if size > room {
            break;
        }
        room -= size;
        findings.push(message);
    }
    let left_out = all - findings.len();
    (findings, u32::try_from(left_out).unwrap_or(u32::MAX))
}

/// One finding. Paths and names in it come from elsewhere, so what would act on a terminal is spelt out.
fn finding(finding: Finding) -> v1::Finding {
    let severity = match finding.severity {
        Severity::Error => v1::Severity::Error,
        Severity::Warning => v1::Severity::Warning,
    };
    let id = finding.attachment.map(|id| id.to_string());
    v1::Finding {
        severity: severity.into(),
        what: visible(&finding.what).into_owned(),
        mend: visible(&finding.mend).into_owned(),
        attachment_id: id.unwrap_or_default(),
        server: finding.server.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_fit_into_one_message_errors_first() {
        let finding = |severity| Finding {
            severity,
            what: "x".repeat(2000),
            mend: "volattach doctor".to_owned(),
            attachment: None,
            server: None,
        };
        let found = [Severity::Warning, Severity::Error].map(finding);
        let answer = findings(found.iter().cloned().cycle().take(5000).collect());
        assert!(answer.encoded_len() <= MAX_RESPONSE);
        let kept = answer.findings.len();
        assert!((1500..2500).contains(&kept), "{kept}");
        assert_eq!(kept + answer.left_out as usize, 5000);
        assert!(
            answer
                .findings
                .iter()
                .all(|it| it.severity() == v1::Severity::Error)
        );
        let few = findings(found.into());
        assert_eq!((few.findings.len(), few.left_out), (2, 0));
        assert_eq!(few.findings[0].severity(), v1::Severity::Error);
    }
}
