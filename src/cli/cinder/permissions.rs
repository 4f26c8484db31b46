//! `cinder permissions`: who may use a volume, as its metadata has it.

use serde_json::json;

use super::answers::Volume;
use super::api::{Cinder, PERMISSIONS};
use super::error::CinderError;
use crate::cli::args::{Format, Mode};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::model::{Permissions, VolumeId};

type Result<T> = std::result::Result<T, Failure>;

/// Sets them, if they are given, and prints what they are now.
pub(super) async fn run(
    cinder: &Cinder,
    format: Format,
    id: &VolumeId,
    mode: Option<Mode>,
) -> Result<()> {
    match mode {
        Some(Mode::Set(permissions)) => cinder.set_permissions(id, Some(permissions)).await?,
        Some(Mode::Forget) => cinder.set_permissions(id, None).await?,
        None => {}
    }
    let volume = cinder.volume(id.as_str()).await?;
    let permissions = of(&volume)?.map(|it| it.to_string());
    output::to_stdout(&match format {
        Format::Table => {
            let words = permissions.as_deref();
            let words = words.unwrap_or("none set: everybody may use it");
            format!("{id}: {words}")
        }
        Format::Json => json!({ "volume_id": id.as_str(), "permissions": permissions }).to_string(),
    })
}

/// Who may use the volume, as its metadata has it. What cannot be read lets nobody in.
pub(super) fn of(volume: &Volume) -> Result<Option<Permissions>> {
    let Some(text) = volume.metadata.get(PERMISSIONS) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|error| {
        let why = format!(
            "volume {id} has {text:?} for its metadata {PERMISSIONS}: {error}; correct it by volattach cinder permissions {id} MODE",
            id = volume.id
        );
        CinderError::Unsuitable(why).into()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn volume(metadata: Value) -> Volume {
        let body = json!({ "id": "v", "status": "available", "size": 1, "metadata": metadata });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn permissions_that_cannot_be_read_let_nobody_in() {
        assert_eq!(of(&volume(json!({}))).unwrap(), None);
        let failure = of(&volume(json!({ "permissions": "rw-" }))).unwrap_err();
        assert!(
            failure.message().contains("permissions v MODE"),
            "{}",
            failure.message()
        );
    }
}
