//! The rules that hold where no file says otherwise, named and worded as Cinder's are.

/// A rule in code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleDefault {
    /// What files call it.
    pub name: &'static str,
    /// The rule.
    pub check: &'static str,
    /// What it is for, in a sentence.
    pub description: &'static str,
    /// The paths of the calls that ask for it; none: other rules refer to it.
    pub operations: &'static [&'static str],
    /// The scopes that a token may have; none: any.
    pub scopes: &'static [Scope],
    /// What it was before.
    pub deprecated: Option<Deprecated>,
}

/// What a rule was in an earlier version: files may still have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deprecated {
    /// Its name then.
    pub name: &'static str,
    /// The rule then.
    pub check: &'static str,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole deployment.
    System,
    /// A domain of Keystone's.
    Domain,
    /// A project; also what a token without any scope is taken for.
    Project,
}

impl Scope {
    /// As oslo.policy calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Domain => "domain",
            Self::Project => "project",
        }
    }
}

/// A method of `volattach.v1.VolumeAttach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rpc {
    /// `AttachVolume`
    AttachVolume,
    /// `DetachVolume`
    DetachVolume,
    /// `CancelDetach`
    CancelDetach,
    /// `ConnectVolume`
    ConnectVolume,
    /// `DisconnectVolume`
    DisconnectVolume,
    /// `GetAttachment`
    GetAttachment,
    /// `ListAttachments`
    ListAttachments,
    /// `WatchAttachments`
    WatchAttachments,
    /// `PlanAttach`
    PlanAttach,
    /// `GetConnector`
    GetConnector,
    /// `ExtendVolume`
    ExtendVolume,
    /// `SetIoTune`
    SetIoTune,
    /// `GetAttachmentStats`
    GetAttachmentStats,
    /// `GetVolumePermissions`
    GetVolumePermissions,
    /// `SetVolumePermissions`
    SetVolumePermissions,
    /// `Diagnose`
    Diagnose,
    /// `ForgetAttachment`
    ForgetAttachment,
}

impl Rpc {
    /// Every call.
    pub const ALL: [Self; 17] = [
        Self::AttachVolume,
        Self::DetachVolume,
        Self::CancelDetach,
        Self::ConnectVolume,
        Self::DisconnectVolume,
        Self::GetAttachment,
        Self::ListAttachments,
        Self::WatchAttachments,
        Self::PlanAttach,
        Self::GetConnector,
        Self::ExtendVolume,
        Self::SetIoTune,
        Self::GetAttachmentStats,
        Self::GetVolumePermissions,
        Self::SetVolumePermissions,
        Self::Diagnose,
        Self::ForgetAttachment,
    ];

    /// The rule that decides who may call it.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::AttachVolume => "volume:attachment_create",
            Self::DetachVolume => "volume:attachment_delete",
            Self::CancelDetach => "volume_extension:volume_actions:roll_detaching",
            Self::ConnectVolume => "volume_extension:volume_actions:initialize_connection",
            Self::DisconnectVolume => "volume_extension:volume_actions:terminate_connection",
            Self::GetAttachment => "volume:attachment_get",
            Self::ListAttachments => "volume:attachment_get_all",
            Self::WatchAttachments => "volume:attachment_watch",
            Self::PlanAttach => "volume:attachment_plan",
            Self::GetConnector => "volume:connector_get",
            Self::ExtendVolume => "volume:extend",
            Self::SetIoTune => "volume_extension:qos_specs_manage:update",
            Self::GetAttachmentStats => "volume:attachment_stats",
            Self::GetVolumePermissions => "volume:permissions_get",
            Self::SetVolumePermissions => "volume:permissions_update",
            Self::Diagnose => "volume:host_diagnose",
            Self::ForgetAttachment => "volume:host_forget",
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit_once('/').map_or(path, |(_, name)| name)
    }

    /// Its path in gRPC.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::AttachVolume => "/volattach.v1.VolumeAttach/AttachVolume",
            Self::DetachVolume => "/volattach.v1.VolumeAttach/DetachVolume",
            Self::CancelDetach => "/volattach.v1.VolumeAttach/CancelDetach",
            Self::ConnectVolume => "/volattach.v1.VolumeAttach/ConnectVolume",
            Self::DisconnectVolume => "/volattach.v1.VolumeAttach/DisconnectVolume",
            Self::GetAttachment => "/volattach.v1.VolumeAttach/GetAttachment",
            Self::ListAttachments => "/volattach.v1.VolumeAttach/ListAttachments",
            Self::WatchAttachments => "/volattach.v1.VolumeAttach/WatchAttachments",
            Self::PlanAttach => "/volattach.v1.VolumeAttach/PlanAttach",
            Self::GetConnector => "/volattach.v1.VolumeAttach/GetConnector",
            Self::ExtendVolume => "/volattach.v1.VolumeAttach/ExtendVolume",
            Self::SetIoTune => "/volattach.v1.VolumeAttach/SetIoTune",
            Self::GetAttachmentStats => "/volattach.v1.VolumeAttach/GetAttachmentStats",
            Self::GetVolumePermissions => "/volattach.v1.VolumeAttach/GetVolumePermissions",
            Self::SetVolumePermissions => "/volattach.v1.VolumeAttach/SetVolumePermissions",
            Self::Diagnose => "/volattach.v1.VolumeAttach/Diagnose",
            Self::ForgetAttachment => "/volattach.v1.VolumeAttach/ForgetAttachment",
        }
    }
}

/// What a call may ask for that another rule must allow beside the call's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// `force`: what the guest wrote last may be lost.
    Force,
}

impl Privilege {
    /// The rule that decides who may ask for it.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Force => "volume_extension:volume_admin_actions:force_detach",
        }
    }

    /// The paths of the calls that may ask for it.
    #[must_use]
    pub const fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Force => {
                const PATHS: &[&str] = &[Rpc::DetachVolume.path(), Rpc::DisconnectVolume.path()];
                PATHS
            }
        }
    }
}

/// The rule that `is_admin` is computed from.
pub(super) const CONTEXT_IS_ADMIN: &str = "context_is_admin";

/// The rule that stands in for one that is missing.
pub(super) const DEFAULT_RULE: &str = "default";

/// What rules may ask of the caller.
pub(super) const CREDENTIALS: [&str; 15] = [
    "user_id",
    "user_domain_id",
    "project_id",
    "project_domain_id",
    "domain_id",
    "system",
    "system_scope",
    "roles",
    "is_admin",
    "is_admin_project",
    "service_user_id",
    "service_user_domain_id",
    "service_project_id",
    "service_project_domain_id",
    "service_roles",
];

/// What rules may ask of what is called for. What does not apply to a call is left out, so that a check of it is false.
pub(super) const TARGET: [&str; 6] = [
    "project_id",
    "user_id",
    "attachment_id",
    "volume_id",
    "domain",
    "access",
];

/// Roles that a Keystone has once it is set up, and the one that services are given.
pub(super) const ROLES: [&str; 5] = ["admin", "manager", "member", "reader", "service"];

const fn base(name: &'static str, check: &'static str, description: &'static str) -> RuleDefault {
    RuleDefault {
        name,
        check,
        description,
        operations: &[],
        scopes: &[],
        deprecated: None,
    }
}

macro_rules! rpc {
    ($rpc:ident, $check:expr, $description:literal) => {
        RuleDefault {
            operations: &[Rpc::$rpc.path()],
            ..base(Rpc::$rpc.rule(), $check, $description)
        }
    };
}

const MEMBER: &str = "rule:xena_system_admin_or_project_member";
const READER: &str = "rule:xena_system_admin_or_project_reader";

/// The rules of this service.
pub const DEFAULTS: &[RuleDefault] = &[
    base(
        CONTEXT_IS_ADMIN,
        "role:admin",
        "Who is an administrator: what is_admin is computed from, once per request.",
    ),
    base(
        "admin_api",
        "is_admin:True or (role:admin and is_admin_project:True)",
        "Administrators.",
    ),
    base(
        "admin_or_owner",
        "is_admin:True or (role:admin and is_admin_project:True) or project_id:%(project_id)s",
        "Administrators, and everyone in the project that the volume belongs to, whatever their roles.",
    ),
    base(
        "xena_system_admin_or_project_reader",
        "(role:admin) or (role:reader and project_id:%(project_id)s)",
        "Administrators, and those who may look at what is in the volume's project.",
    ),
    base(
        "xena_system_admin_or_project_member",
        "(role:admin) or (role:member and project_id:%(project_id)s)",
        "Administrators, and those who may change what is in the volume's project.",
    ),
    rpc!(AttachVolume, MEMBER, "Attach a volume to a domain."),
    rpc!(DetachVolume, MEMBER, "Detach a volume from its domain."),
    rpc!(
        CancelDetach,
        MEMBER,
        "Cancel a detach whose guest has not released the disk."
    ),
    rpc!(
        ConnectVolume,
        MEMBER,
        "Connect a volume to this host, without a domain."
    ),
    rpc!(
        DisconnectVolume,
        MEMBER,
        "Disconnect a volume from this host."
    ),
    rpc!(
        ExtendVolume,
        MEMBER,
        "Have this host and the guest see a volume that its storage has grown."
    ),
    RuleDefault {
        operations: Privilege::Force.paths(),
        ..base(
            Privilege::Force.rule(),
            "rule:admin_api",
            "Detach or disconnect a volume even if what the guest wrote last is lost (force): asked for beside the call's own rule.",
        )
    },
    rpc!(
        SetIoTune,
        "rule:admin_api",
        "Limit the I/O of an attachment's disk, or end its limits."
    ),
    rpc!(
        GetAttachmentStats,
        READER,
        "Show the I/O on an attachment's disk, and its limits."
    ),
    rpc!(GetVolumePermissions, READER, "Show who may use a volume."),
    rpc!(
        SetVolumePermissions,
        "rule:admin_api or (user_id:%(user_id)s and role:member and project_id:%(project_id)s)",
        "Set who may use a volume on this host: administrators, and the volume's owner."
    ),
    rpc!(GetAttachment, READER, "Show one attachment."),
    rpc!(ListAttachments, READER, "List attachments."),
    rpc!(WatchAttachments, READER, "Watch attachments."),
    rpc!(
        PlanAttach,
        MEMBER,
        "Tell what attaching a volume would do, without doing it."
    ),
    rpc!(
        GetConnector,
        "rule:admin_api or service_roles:service",
        "Show what this host can connect to: its initiator's name, its addresses. It belongs to no project."
    ),
    rpc!(
        Diagnose,
        "rule:admin_api",
        "Show what is wrong on this host, with everybody's attachments and what they left behind. It belongs to no project."
    ),
    rpc!(
        ForgetAttachment,
        "rule:admin_api",
        "Forget an attachment that cannot be detached, and leave what is left of it on this host and in its domain."
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_there_once_and_described() {
        let names: BTreeSet<_> = DEFAULTS.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), DEFAULTS.len());
        assert!(DEFAULTS.iter().all(|rule| rule.description.ends_with('.')));
    }
}
