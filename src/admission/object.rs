//! What a call is about, as far as decisions look at it.

use crate::model::{Access, Actor, Attachment, AttachmentId, VolumeId, VolumeOwner};
use crate::policy::{Attributes, Target, Value};

/// An attachment, a volume, or nothing of anybody's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object {
    /// Whose the volume is, as far as somebody vouched for it.
    pub owner: VolumeOwner,
    /// The attachment.
    pub attachment: Option<AttachmentId>,
    /// The volume.
    pub volume: Option<VolumeId>,
    /// The domain's name or UUID.
    pub domain: Option<String>,
    /// What was asked for, or is there.
    pub access: Option<Access>,
}

impl Object {
    /// What is the caller's own as long as nobody else has it: an attachment that is not there, all that it may see.
    #[must_use]
    pub fn of_caller(actor: &Actor) -> Self {
        let principal = actor.principal();
        Self {
            owner: VolumeOwner {
                project_id: principal.and_then(|half| half.project_id.clone()),
                user_id: principal.map(|half| half.user_id.clone()),
                group_id: None,
                service_owned: false,
            },
            ..Self::default()
        }
    }

    /// The attributes that rules may ask of it; docs/policy.md lists them. What is not there is left out.
    pub(super) fn target(&self) -> Target {
        let mut attributes = Attributes::new();
        let mut add = |name: &str, value: Option<&str>| {
            let value = value.filter(|value| !value.is_empty());
            let text = value.map(|value| Value::Text(value.to_owned()));
            attributes.extend(text.map(|text| (name.to_owned(), text)));
        };
        add("project_id", self.owner.project_id.as_deref());
        add("user_id", self.owner.user_id.as_deref());
        add(
            "attachment_id",
            self.attachment.as_ref().map(AttachmentId::as_str),
        );
        add("volume_id", self.volume.as_ref().map(VolumeId::as_str));
        add("domain", self.domain.as_deref());
        add("access", self.access.map(Access::as_str));
        Target::new(attributes)
    }
}

impl From<&Attachment> for Object {
    fn from(attachment: &Attachment) -> Self {
        Self {
            owner: attachment.rights.owner.clone(),
            attachment: Some(attachment.id.clone()),
            volume: Some(attachment.volume.clone()),
            domain: attachment
                .domain
                .as_ref()
                .map(|domain| domain.uuid.to_string()),
            access: Some(attachment.access.access),
        }
    }
}
