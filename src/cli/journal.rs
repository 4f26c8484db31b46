//! `journal`: looks into the journal's file without a daemon.

use serde_json::json;

use super::args::{Format, JournalAction, JournalArgs};
use super::failure::Failure;
use super::output;
use crate::api::encode;
use crate::config::{DEFAULT_PATH, Settings};
use crate::journal::{Inspection, Record};

/// Reads the whole file, then does one of the three.
pub(super) fn run(args: JournalArgs, format: Format) -> Result<(), Failure> {
    let path = match (args.file, args.state_dir) {
        (Some(file), _) => file,
        (None, Some(directory)) => directory.join("journal.redb"),
        (None, None) => {
            let config = args.config.unwrap_or_else(|| DEFAULT_PATH.into());
            let settings =
                Settings::load(&config).map_err(|e| Failure::from_error(&e, e.reason()))?;
            settings.state_dir.join("journal.redb")
        }
    };
    let inspection = Inspection::read(&path).map_err(|e| Failure::from_error(&e, e.reason()))?;
    match args.action {
        JournalAction::Show => output::to_stdout(&show(&inspection, format)),
        JournalAction::Check => check(&inspection, format),
        JournalAction::Export => output::to_stdout(&inspection.to_json().to_string()),
    }
}

fn show(inspection: &Inspection, format: Format) -> String {
    let records = inspection.records().map(Record::to_attachment);
    let attachments: Vec<_> = records.map(encode::attachment).collect();
    match format {
        Format::Table => output::attachments(&attachments),
        Format::Json => {
            let attachments: Vec<_> = attachments.iter().map(output::attachment_json).collect();
            json!({ "attachments": attachments }).to_string()
        }
    }
}

/// Prints the findings; any is a failure.
fn check(inspection: &Inspection, format: Format) -> Result<(), Failure> {
    let records = inspection.unreadable();
    let records = records.map(|it| format!("the record of attachment {}: {}", it.id, it.why));
    let permissions = inspection.unreadable_permissions();
    let permissions =
        permissions.map(|(volume, why)| format!("the permissions of volume {volume}: {why}"));
    let mut findings: Vec<String> = records.chain(permissions).collect();
    if let Some(loss) = inspection.loss() {
        findings.push(format!("an earlier journal was lost: {}", loss.why));
    }
    let number = inspection.records().count();
    if findings.is_empty() {
        return output::to_stdout(&match format {
            Format::Table => format!("the journal is sound: {number} attachments"),
            Format::Json => json!({"attachments": number, "sound": true}).to_string(),
        });
    }
    Err(Failure::local(format!(
        "of the journal, {number} attachments can be read, and not: {}",
        findings.join("; ")
    )))
}
