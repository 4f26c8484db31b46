//! `cinder extend`: Cinder grows the volume, then this host and its guests see it.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::agent::Agent;
use super::answers::Volume;
use super::api::Cinder;
use super::error::CinderError;
use super::interrupt::Interrupt;
use crate::cli::args::Format;
use crate::cli::failure::Failure;
use crate::model::VolumeId;

/// Time between two looks at the volume.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes of a GiB.
const GIB: u64 = 1 << 30;

/// What came of it.
pub(super) struct Extended {
    /// In GiB, in Cinder.
    pub(super) size: u64,
    /// This host's attachments of the volume, and how many bytes each has now.
    pub(super) here: Vec<(String, u64)>,
}

impl Extended {
    pub(super) fn shown(&self, format: Format, volume: &VolumeId) -> String {
        let here = self.here.iter();
        if format == Format::Json {
            let here = here.map(|(id, bytes)| json!({ "attachment_id": id, "size_bytes": bytes }));
            let here: Vec<_> = here.collect();
            return json!({ "volume_id": volume.as_str(), "size_gib": self.size, "attachments": here })
                .to_string();
        }
        let mut lines = vec![format!("{volume} has {} GiB", self.size)];
        lines.extend(here.map(|(id, bytes)| format!("{id} has {bytes} bytes")));
        if self.here.is_empty() {
            lines.push("no attachment of it is on this host".to_owned());
        }
        lines.join("\n")
    }
}

/// Extends. A repeat goes on where the command before ended.
pub(super) async fn run(
    cinder: &Cinder,
    agent: &Agent,
    interrupt: &Interrupt,
    id: &VolumeId,
    gib: u64,
    timeout: Duration,
) -> Result<Extended, Failure> {
    let volume = cinder.volume(id.as_str()).await?;
    if volume.size > gib {
        let why = format!(
            "volume {id} has {} GiB, and a smaller one than that loses data: ask for more",
            volume.size
        );
        return Err(CinderError::Unsuitable(why).into());
    }
    if volume.size < gib {
        if volume.status != "extending" {
            cinder.extend(id.as_str(), gib).await?;
        }
        grown(cinder, interrupt, id, gib, timeout).await?;
    }
    let mut here = Vec::new();
    for attachment in agent.attachments(Some(id.as_str())).await? {
        let attachment = attachment.attachment_id;
        let bytes = agent.extend(&attachment, gib * GIB).await.map_err(|failure| {
            failure.note(&format!(
                "volume {id} has {gib} GiB in Cinder by now; the same command again has attachment {attachment} see it"
            ))
        })?;
        here.push((attachment, bytes));
    }
    Ok(Extended { size: gib, here })
}

/// Waits until Cinder says that the volume has grown.
async fn grown(
    cinder: &Cinder,
    interrupt: &Interrupt,
    id: &VolumeId,
    gib: u64,
    timeout: Duration,
) -> Result<(), CinderError> {
    let deadline = Instant::now() + timeout;
    loop {
        let volume = cinder.volume(id.as_str()).await?;
        if is_grown(&volume, gib)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CinderError::Late {
                what: format!("Cinder has not grown volume {id} to {gib} GiB"),
                within: timeout,
            });
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = interrupt.wait() => {}
        }
        interrupt.check(
            "Cinder goes on to grow the volume; the same command again has this host see it",
        )?;
    }
}

/// Whether the volume has grown, or why it never will.
fn is_grown(volume: &Volume, gib: u64) -> Result<bool, CinderError> {
    match volume.status.as_str() {
        _ if volume.size >= gib => Ok(true),
        "extending" => Ok(false),
        // As before: Cinder's driver refused it, and says so to nobody but `volume message list`.
        "in-use" | "available" => Err(CinderError::Unsuitable(format!(
            "Cinder did not grow volume {id}, which has {} GiB: see openstack volume message list --resource-id {id}, and the log of \
             cinder-volume; not every driver grows a volume in use",
            volume.size,
            id = volume.id,
        ))),
        status => Err(CinderError::Unsuitable(format!(
            "volume {id} is in status {status:?} after it was to grow to {gib} GiB: see openstack volume message list --resource-id {id}",
            id = volume.id,
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(status: &str, size: u64) -> Volume {
        let body = json!({ "id": "v", "status": status, "size": size });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_volume_has_grown_grows_or_never_will() {
        assert!(is_grown(&volume("in-use", 2), 2).unwrap());
        assert!(!is_grown(&volume("extending", 1), 2).unwrap());
        let refused = is_grown(&volume("in-use", 1), 2).unwrap_err();
        assert!(refused.to_string().contains("message list"), "{refused}");
        let failed = is_grown(&volume("error_extending", 1), 2).unwrap_err();
        assert!(failed.to_string().contains("error_extending"), "{failed}");
    }
}
