//! What a request says of its volume.

use super::{DecodeError, Result, access, field};
use crate::api::v1;
use crate::model::{Permissions, Use, VolumeFacts, VolumeOwner};

/// The longest id of a user, project or group taken, in bytes: Keystone's have 64 at most.
const MAX_ID: usize = 255;

/// The most uses taken: an attachment is a host's, and no storage serves more of them.
const MAX_USES: usize = 1024;

/// What is said; `None`: nothing.
pub(super) fn facts(facts: Option<v1::VolumeFacts>) -> Result<Option<VolumeFacts>> {
    let Some(facts) = facts else {
        return Ok(None);
    };
    if facts.attached.len() > MAX_USES {
        let why = format!(
            "it has {} elements: at most {MAX_USES} are taken",
            facts.attached.len()
        );
        return Err(field("volume.attached", why));
    }
    Ok(Some(VolumeFacts {
        owner: VolumeOwner {
            project_id: id("volume.project_id", facts.project_id)?,
            user_id: id("volume.user_id", facts.user_id)?,
            group_id: id("volume.group_id", facts.group_id)?,
            service_owned: facts.service_owned,
        },
        permissions: permissions("volume.permissions", &facts.permissions)?,
        attached: facts
            .attached
            .into_iter()
            .map(one_use)
            .collect::<Result<_>>()?,
    }))
}

fn one_use(one: v1::VolumeUse) -> Result<Use> {
    let name = "volume.attached.access";
    Ok(Use {
        user_id: id("volume.attached.user_id", one.user_id)?.unwrap_or_default(),
        access: access(name, one.access)?.ok_or(DecodeError::Missing { field: name })?,
    })
}

/// An id that somebody else made: it is shown in reasons, and so no line may end in it.
fn id(name: &'static str, id: String) -> Result<Option<String>> {
    if id.len() > MAX_ID {
        let why = format!("it has {} bytes: at most {MAX_ID} are taken", id.len());
        return Err(field(name, why));
    }
    if id.chars().any(char::is_control) {
        return Err(field(name, "it has a control character"));
    }
    Ok((!id.is_empty()).then_some(id))
}

/// Permissions; empty: none.
pub(super) fn permissions(name: &'static str, text: &str) -> Result<Option<Permissions>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map_err(|error| field(name, error))?;
    Ok(Some(parsed))
}
