//! `doctor`: what is wrong on this host, and the command that mends it.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{Format, Global};
use super::client::Client;
use super::failure::Failure;
use super::output;
use crate::api::v1::{self, Severity};
use crate::model::visible;

/// The exit code where anything is wrong; the list is in [`super::args`].
const WRONG: u8 = 9;

/// Version of this program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the daemon's findings and this program's own.
pub(super) async fn run(global: Global) -> Result<ExitCode, Failure> {
    let mut client = Client::connect(&global).await?;
    let message = client.request(v1::DiagnoseRequest {});
    let answer = client.rpc.diagnose(message).await;
    let mut diagnosis = client.answer(answer)?;
    let versions = versions(&diagnosis.version, VERSION);
    diagnosis.findings.extend(versions);
    output::to_stdout(&match global.output {
        Format::Table => text(&diagnosis),
        Format::Json => document(&diagnosis).to_string(),
    })?;
    Ok(match is_sound(&diagnosis) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(WRONG),
    })
}

fn is_sound(diagnosis: &v1::DiagnoseResponse) -> bool {
    diagnosis.findings.is_empty() && diagnosis.left_out == 0
}

/// A daemon of another version than this program, as after an upgrade without a restart.
pub(super) fn versions(daemon: &str, program: &str) -> Option<v1::Finding> {
    (daemon != program).then(|| v1::Finding {
        severity: Severity::Warning.into(),
        what: format!("the daemon is of version {daemon}, and volattach of {program}"),
        mend: "systemctl restart volattachd, or install the same version of both".to_owned(),
        ..v1::Finding::default()
    })
}

/// `error` or `warning`. A newer daemon may have weights that this program does not know.
pub(super) fn severity(finding: &v1::Finding) -> &'static str {
    match finding.severity() {
        Severity::Error => "error",
        Severity::Warning | Severity::Unspecified => "warning",
    }
}

/// For people: two lines a finding.
fn text(diagnosis: &v1::DiagnoseResponse) -> String {
    if is_sound(diagnosis) {
        return "nothing is wrong".to_owned();
    }
    let mut lines: Vec<String> = diagnosis.findings.iter().map(line).collect();
    if diagnosis.left_out > 0 {
        let more = diagnosis.left_out;
        lines.push(format!("and {more} more findings: mend these first"));
    }
    lines.join("\n")
}

/// What forgetting an attachment leaves, for people.
pub(super) fn forgotten(id: &str, forgotten: &v1::ForgetAttachmentResponse) -> String {
    let mut lines: Vec<String> = forgotten.left.iter().map(line).collect();
    if forgotten.left_out > 0 {
        lines.push(format!("and {} more things", forgotten.left_out));
    }
    let nothing = lines.is_empty();
    let (left, end) = match forgotten.forgotten {
        true => ("leaves this behind", format!("{id} is forgotten")),
        false => (
            "would leave this behind",
            format!("nothing is forgotten yet: volattach forget {id} --yes"),
        ),
    };
    let head = match nothing {
        true => "no leftover is found on this host".to_owned(),
        false => format!("{id} {left}, without a record:"),
    };
    lines.insert(0, head);
    if !forgotten.kept.is_empty() {
        lines.push(format!(
            "the record is kept in {}",
            visible(&forgotten.kept)
        ));
    }
    lines.push(end);
    lines.join("\n")
}

fn line(finding: &v1::Finding) -> String {
    let subject = match finding.attachment_id.as_str() {
        "" => String::new(),
        id => format!("attachment {id}: "),
    };
    let weight = severity(finding);
    let what = visible(&finding.what);
    let mend = visible(&finding.mend);
    format!("{weight}: {}{what}\n  mend: {mend}", visible(&subject))
}

/// For programs.
fn document(diagnosis: &v1::DiagnoseResponse) -> Value {
    json!({
        "findings": findings(&diagnosis.findings),
        "left_out": diagnosis.left_out,
        "daemon_version": diagnosis.version,
        "program_version": VERSION,
    })
}

/// Findings, for programs.
pub(super) fn findings(findings: &[v1::Finding]) -> Vec<Value> {
    let documents = findings.iter().map(|finding| {
        let id = Some(&finding.attachment_id).filter(|id| !id.is_empty());
        json!({
            "severity": severity(finding),
            "what": finding.what,
            "mend": finding.mend,
            "attachment_id": id,
            "server": Some(&finding.server).filter(|server| !server.is_empty()),
        })
    });
    documents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_of_another_version_is_a_finding() {
        assert_eq!(versions("1.2.3", "1.2.3"), None);
        let findings: Vec<_> = versions("1.2.2", "1.2.3").into_iter().collect();
        let diagnosis = v1::DiagnoseResponse {
            findings,
            version: "1.2.2".to_owned(),
            left_out: 0,
        };
        insta::assert_snapshot!(text(&diagnosis), @r"
        warning: the daemon is of version 1.2.2, and volattach of 1.2.3
          mend: systemctl restart volattachd, or install the same version of both
        ");
    }

    #[test]
    fn findings_that_found_no_room_are_counted() {
        let diagnosis = v1::DiagnoseResponse {
            left_out: 3,
            ..v1::DiagnoseResponse::default()
        };
        assert_eq!(text(&diagnosis), "and 3 more findings: mend these first");
        assert_eq!(text(&v1::DiagnoseResponse::default()), "nothing is wrong");
    }
}
