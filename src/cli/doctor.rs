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
const VERSION: &str = env!("CARGO_PKG_VERSION");

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
fn versions(daemon: &str, program: &str) -> Option<v1::Finding> {
    (daemon != program).then(|| v1::Finding {
        severity: Severity::Warning.into(),
        what: format!("the daemon is of version {daemon}, and volattach of {program}"),
        mend: "systemctl restart volattachd, or install the same version of both".to_owned(),
        attachment_id: String::new(),
    })
}

/// `error` or `warning`. A newer daemon may have weights that this program does not know.
fn severity(finding: &v1::Finding) -> &'static str {
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
    let lines = diagnosis.findings.iter().map(|finding| {
        let subject = match finding.attachment_id.as_str() {
            "" => String::new(),
            id => format!("attachment {id}: "),
        };
        let weight = severity(finding);
        let what = visible(&finding.what);
        let mend = visible(&finding.mend);
        format!("{weight}: {}{what}\n  mend: {mend}", visible(&subject))
    });
    let mut lines: Vec<String> = lines.collect();
    if diagnosis.left_out > 0 {
        let more = diagnosis.left_out;
        lines.push(format!("and {more} more findings: mend these first"));
    }
    lines.join("\n")
}

/// For programs.
fn document(diagnosis: &v1::DiagnoseResponse) -> Value {
    let findings = diagnosis.findings.iter().map(|finding| {
        let id = Some(&finding.attachment_id).filter(|id| !id.is_empty());
        json!({
            "severity": severity(finding),
            "what": finding.what,
            "mend": finding.mend,
            "attachment_id": id,
        })
    });
    json!({
        "findings": findings.collect::<Vec<_>>(),
        "left_out": diagnosis.left_out,
        "daemon_version": diagnosis.version,
        "program_version": VERSION,
    })
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
