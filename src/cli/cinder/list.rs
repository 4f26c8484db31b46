//! `cinder list`: Cinder's attachments of this host, with the daemon's state of each.

use serde_json::{Value, json};
use uuid::Uuid;

use super::agent::Agent;
use super::answers::Attachment;
use super::api::Cinder;
use super::survey::Survey;
use crate::api::v1;
use crate::cli::args::Format;
use crate::cli::failure::Failure;
use crate::cli::output;

/// One that either side has.
type Row<'a> = (Uuid, Option<&'a Attachment>, Option<&'a v1::Attachment>);

/// Prints them.
pub(super) async fn run(cinder: &Cinder, agent: &Agent, format: Format) -> Result<(), Failure> {
    let survey = Survey::take(cinder, agent).await?;
    let rows = rows(&survey);
    output::to_stdout(&match format {
        Format::Table => {
            let rows = rows.iter().map(cells);
            output::attachments_beside("Cinder", rows)
        }
        Format::Json => {
            let rows: Vec<_> = rows.iter().map(document).collect();
            json!({ "attachments": rows }).to_string()
        }
    })
}

/// Cinder's, and those that were Cinder's.
fn rows(survey: &Survey) -> Vec<Row<'_>> {
    let cinders = survey.cinder.iter();
    let mut rows: Vec<Row<'_>> = cinders
        .map(|(id, attachment)| (*id, Some(attachment), survey.agent.get(id)))
        .collect();
    let ended = survey.ended.iter();
    rows.extend(ended.map(|id| (*id, None, survey.agent.get(id))));
    rows.sort_by_key(|(id, ..)| *id);
    rows
}

/// The state in Cinder, as far as there is one.
fn in_cinder(attachment: Option<&Attachment>) -> String {
    match attachment {
        None => "-".to_owned(),
        Some(it) => match &it.instance {
            Some(instance) => format!("{}, server {instance}", it.status),
            None => it.status.clone(),
        },
    }
}

fn cells((id, cinder, here): &Row<'_>) -> (v1::Attachment, String) {
    let shown = match here {
        Some(here) => (*here).clone(),
        None => v1::Attachment {
            attachment_id: id.to_string(),
            volume_id: cinder.map(|it| it.volume_id.clone()).unwrap_or_default(),
            ..v1::Attachment::default()
        },
    };
    (shown, in_cinder(*cinder))
}

fn document((id, cinder, here): &Row<'_>) -> Value {
    let volume = here.map(|it| it.volume_id.as_str());
    json!({
        "attachment_id": id,
        "volume_id": cinder.map(|it| it.volume_id.as_str()).or(volume),
        "cinder": cinder.map(|it| json!({ "status": it.status, "mode": it.attach_mode, "instance": it.instance })),
        "host": here.map(output::attachment_json),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_beside_each_other() {
        let body = |id: u128, instance| json!({ "id": Uuid::from_u128(id), "volume_id": "v", "status": "attached", "instance": instance });
        let mut survey = Survey::default();
        for (id, instance) in [(1, Some("server")), (2, None)] {
            let attachment: Attachment = serde_json::from_value(body(id, instance)).unwrap();
            survey.cinder.insert(attachment.id, attachment);
        }
        for id in [2, 3] {
            let here = v1::Attachment {
                attachment_id: Uuid::from_u128(id).to_string(),
                volume_id: "v".to_owned(),
                state: v1::State::Attached.into(),
                ..v1::Attachment::default()
            };
            survey.agent.insert(Uuid::from_u128(id), here);
        }
        survey.ended.insert(Uuid::from_u128(3));
        let rows = rows(&survey);
        let words: Vec<_> = rows.iter().map(|row| cells(row).1).collect();
        assert_eq!(words, ["attached, server server", "attached", "-"]);
        let documents: Vec<_> = rows.iter().map(document).collect();
        assert_eq!(documents[0]["host"], Value::Null);
        assert_eq!(documents[1]["host"]["state"], "attached");
        assert_eq!(documents[2]["cinder"], Value::Null);
        assert_eq!(documents[2]["volume_id"], "v");
        let table = output::attachments_beside("Cinder", rows.iter().map(cells));
        assert!(
            table.lines().next().unwrap().ends_with("Read Only  Cinder"),
            "{table}"
        );
        assert!(
            table
                .lines()
                .nth(1)
                .unwrap()
                .ends_with("attached, server server"),
            "{table}"
        );
    }
}
