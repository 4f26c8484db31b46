//! `cinder attach`: an attachment in Cinder, the volume in the domain, and Cinder's record complete; or none of it.
//!
//! ```text
//!   POST /attachments ──▶ AttachVolume ──▶ os-complete
//!        │ undo: DELETE      │ undo: DetachVolume
//! ```
//!
//! Cinder's attachment outlives the agent's: while this host may have the volume, its storage is not told otherwise.

use std::collections::BTreeSet;

use serde_json::Value;
use uuid::Uuid;

use super::agent::Agent;
use super::answers::{Attachment, Volume};
use super::api::Cinder;
use super::args::AttachArgs;
use super::error::CinderError;
use super::interrupt::Interrupt;
use super::{lost, permissions};
use crate::api::status::code;
use crate::api::v1;
use crate::cli::failure::Failure;
use crate::cli::output::connector_json;
use crate::model::{Permissions, Reason};

type Result<T> = std::result::Result<T, Failure>;

/// The beginning of the `mountpoint` in each connector. Cinder shows it as the volume's `device`, to its project too.
pub(super) const MARK: &str = "volattach:";

/// The same from that host.
pub(super) fn mark(host: &str) -> String {
    format!("{MARK}{host}:")
}

/// Attaches.
pub(super) async fn run(
    cinder: &Cinder,
    agent: &Agent,
    interrupt: &Interrupt,
    args: AttachArgs,
) -> Result<v1::Attachment> {
    let volume = cinder.volume(args.volume.as_str()).await?;
    let permissions = permissions::of(&volume)?;
    let flagged = volume.read_only_flag() == Some(true);
    if args.require_rw && flagged {
        return Err(refused(&volume.id, "its metadata has readonly"));
    }
    let here = agent.attachments(Some(args.volume.as_str())).await?;
    let here: BTreeSet<_> = here.into_iter().map(|it| it.attachment_id).collect();
    let others = cinder
        .attachments(&[("volume_id", args.volume.as_str())])
        .await?;
    let facts = facts(&volume, permissions, &others, &here);
    let connector = agent.connector().await?;
    let marker = format!("{}{}", mark(&connector.host), Uuid::new_v4());
    interrupt.check("nothing was begun")?;

    let connector = presented(&connector, &marker);
    let read_only = args.read_only || flagged;
    let created = cinder.create(&args.volume, &connector, read_only).await;
    let attachment = match created {
        Ok(attachment) => attachment,
        Err(error) if error.may_be_done() => {
            let before = others.iter().map(|it| it.id).collect();
            let call = lost::Call {
                volume: args.volume.as_str(),
                marker: &marker,
                before,
                here: &here,
            };
            return Err(call.end(cinder, error).await);
        }
        Err(error) => return Err(error.into()),
    };
    let mut begun = Begun {
        cinder,
        agent,
        interrupt,
        id: attachment.id,
        agent_asked: false,
    };
    let access = match read_only {
        true => Ok(true),
        false => is_read_only(cinder, &volume, &attachment).await,
    };
    let attached = match access {
        Ok(read_only) => begun.finish(args, &attachment, read_only, facts).await,
        Err(error) => Err(error.into()),
    };
    match attached {
        Ok(attached) => Ok(attached),
        Err(failure) => Err(begun.undo(failure).await),
    }
}

/// Whether a new attachment is read-only although nobody asked for that.
async fn is_read_only(
    cinder: &Cinder,
    volume: &Volume,
    attachment: &Attachment,
) -> std::result::Result<bool, CinderError> {
    if !attachment.has_mode_ro() {
        return Ok(attachment.is_read_only(volume));
    }
    // The flag may have been set since the volume was looked at. From now on it stays: Cinder sets it for available volumes alone.
    let now = cinder.volume(&attachment.volume_id).await?;
    Ok(attachment.is_read_only(&now))
}

/// An attachment that Cinder has made.
struct Begun<'a> {
    cinder: &'a Cinder,
    agent: &'a Agent,
    interrupt: &'a Interrupt,
    id: Uuid,
    /// Whether the daemon may have something of it.
    agent_asked: bool,
}

impl Begun<'_> {
    async fn finish(
        &mut self,
        args: AttachArgs,
        attachment: &Attachment,
        read_only: bool,
        facts: v1::VolumeFacts,
    ) -> Result<v1::Attachment> {
        if args.require_rw && read_only {
            let why = "Cinder made its attachment read-only";
            return Err(refused(&attachment.volume_id, why));
        }
        let info = attachment.connection_json().ok_or_else(|| {
            CinderError::Unsuitable(format!(
                "Cinder gives no connection info for attachment {}: see the log of cinder-volume",
                self.id
            ))
        })?;
        self.interrupt.check("the attach is undone")?;
        let access = match read_only {
            true => v1::Access::ReadOnly,
            false => v1::Access::ReadWrite,
        };
        self.agent_asked = true;
        let request = v1::AttachVolumeRequest {
            attachment_id: self.id.to_string(),
            volume_id: args.volume.to_string(),
            domain: args.domain,
            connection_info: Some(v1::ConnectionInfo {
                form: Some(v1::connection_info::Form::CinderJson(info)),
            }),
            access: access.into(),
            disk: Some(args.disk.into()),
            volume: Some(facts),
            require_rw: args.require_rw,
            boot: args.boot,
        };
        let attached = self.agent.attach(request).await?;
        self.interrupt.check("the attach is undone")?;
        self.cinder.complete(self.id).await?;
        Ok(attached)
    }

    /// Undoes what was done, the last first, and adds to the failure what could not be undone.
    async fn undo(&self, failure: Failure) -> Failure {
        let id = self.id;
        if self.agent_asked
            && let Err(left) = self.agent.undo(&id.to_string()).await
            && !left.is_refusal_as(&failure)
        {
            // A guest that still has the disk would see what the storage maps there next.
            return failure.note(&format!(
                "attachment {id} could not be detached from this host again: {}; it therefore stays in Cinder too; volattach cinder \
                 reconcile finds it",
                left.message()
            ));
        }
        match self.cinder.delete(id).await {
            Ok(()) => failure.note(&format!("attachment {id} is undone")),
            Err(left) => failure.note(&format!(
                "this host has nothing of attachment {id}, but Cinder: {}; volattach cinder reconcile finds it",
                Failure::from(left).message()
            )),
        }
    }
}

fn refused(volume: &str, why: &str) -> Failure {
    let reason = Reason::ReadWriteRefused;
    let message =
        format!("volume {volume} can only be attached read-only, and --require-rw is given: {why}");
    Failure::new(reason.as_str(), code(reason), message)
}

/// What Cinder says of the volume. Its uses on this host are left out: the daemon has them, with their users.
fn facts(
    volume: &Volume,
    permissions: Option<Permissions>,
    others: &[Attachment],
    here: &BTreeSet<String>,
) -> v1::VolumeFacts {
    let elsewhere = others
        .iter()
        .filter(|it| it.is_use() && !here.contains(&it.id.to_string()));
    let attached = elsewhere.map(|it| v1::VolumeUse {
        user_id: String::new(),
        access: i32::from(match it.is_read_only(volume) {
            true => v1::Access::ReadOnly,
            false => v1::Access::ReadWrite,
        }),
    });
    v1::VolumeFacts {
        project_id: volume.project_id.clone().unwrap_or_default(),
        user_id: volume.user_id.clone().unwrap_or_default(),
        group_id: String::new(),
        permissions: permissions.map(|it| it.to_string()).unwrap_or_default(),
        service_owned: false,
        attached: attached.collect(),
    }
}

/// The connector as drivers of Cinder read it: what the host has not is left out.
fn presented(connector: &v1::Connector, marker: &str) -> Value {
    let mut connector = connector_json(connector);
    if let Value::Object(properties) = &mut connector {
        properties.retain(|_, value| !value.is_null());
        properties.insert("mountpoint".to_owned(), marker.into());
    }
    connector
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(metadata: Value) -> Volume {
        serde_json::from_value(json!({
            "id": "v", "status": "in-use", "size": 1, "metadata": metadata,
            "user_id": "u1", "os-vol-tenant-attr:tenant_id": "p1",
        }))
        .unwrap()
    }

    fn attachment(id: u128, status: &str, mode: &str) -> Attachment {
        let id = Uuid::from_u128(id);
        let body = json!({ "id": id, "volume_id": "v", "status": status, "attach_mode": mode });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn the_facts_are_cinders_and_the_uses_those_elsewhere() {
        let others = [
            attachment(1, "attached", "ro"),
            attachment(2, "attaching", "null"),
            attachment(3, "detached", "rw"),
            attachment(4, "attached", "rw"),
        ];
        let here = BTreeSet::from([Uuid::from_u128(4).to_string()]);
        let volume = volume(json!({ "permissions": "640" }));
        let facts = facts(&volume, permissions::of(&volume).unwrap(), &others, &here);
        assert_eq!(
            (facts.user_id.as_str(), facts.project_id.as_str()),
            ("u1", "p1")
        );
        assert_eq!(facts.permissions, "640");
        let uses: Vec<_> = facts.attached.iter().map(v1::VolumeUse::access).collect();
        assert_eq!(uses, [v1::Access::ReadOnly, v1::Access::ReadWrite]);
    }

    #[test]
    fn a_connector_has_what_the_host_has_and_a_mark() {
        let connector = v1::Connector {
            host: "node1".to_owned(),
            ip: "10.0.0.2".to_owned(),
            nqn: "nqn.x".to_owned(),
            ..v1::Connector::default()
        };
        let shown = presented(&connector, "m");
        assert_eq!(shown["host"], "node1");
        assert_eq!(shown["nqn"], "nqn.x");
        assert_eq!(shown["mountpoint"], "m");
        assert_eq!(shown.get("initiator"), None);
    }
}
