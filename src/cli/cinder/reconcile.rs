//! `cinder reconcile`: what Cinder and this host's daemon differ in, and the end of it.
//!
//! | Cinder | the daemon | mended by |
//! |---|---|---|
//! | has it, with the mark of this host's `volattach`, or incomplete | has it not | DELETE in Cinder |
//! | has it no more, and has its volume | has it | DetachVolume |
//! | has it incomplete | has it attached | os-complete |
//! | has it incomplete | failed at it | DetachVolume, then DELETE |
//!
//! What Nova made, and what never was Cinder's, stays as it is. What is under way looks like a difference, so each is looked at twice.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::agent::Agent;
use super::answers::Attachment;
use super::api::Cinder;
use super::detach;
use super::error::CinderError;
use super::interrupt::Interrupt;
use super::survey::Survey;
use crate::api::v1;
use crate::cli::args::Format;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::model::visible;

/// Time between the two looks: longer than it takes from an answer of Cinder to the daemon's record.
const PAUSE: Duration = Duration::from_secs(2);

/// The exit code where something differs that is not mended; the list is in [`crate::cli::args`].
const DIFFERS: u8 = 9;

/// How a difference is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mend {
    DeleteInCinder,
    DetachHere,
    Complete,
    DetachAndDelete,
    /// By somebody who knows more.
    Nobody,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    id: Uuid,
    volume: String,
    what: String,
    mend: Mend,
    /// What is done, or is to do.
    how: String,
}

/// What differs, and what is left alone.
#[derive(Debug, Default)]
struct Findings {
    differ: Vec<Finding>,
    left_alone: Vec<String>,
}

impl Findings {
    fn of(survey: &Survey) -> Self {
        let mut findings = Self::default();
        for (id, attachment) in &survey.cinder {
            match survey.agent.get(id) {
                Some(here) => findings.both(attachment, here),
                None => findings.cinders(survey, attachment),
            }
        }
        for id in &survey.ended {
            if let Some(here) = survey.agent.get(id) {
                findings.ours(survey, *id, here);
            }
        }
        for attachment in &survey.of_unknown_host {
            findings.somebodys(attachment);
        }
        if survey.foreign > 0 {
            let many = survey.foreign;
            let why =
                format!("{many} of this host's attachments are of no volume that Cinder shows");
            findings.left_alone.push(why);
        }
        findings
    }

    fn push(&mut self, id: Uuid, volume: &str, what: String, mend: Mend, how: &str) {
        self.differ.push(Finding {
            id,
            volume: volume.to_owned(),
            what,
            mend,
            how: how.to_owned(),
        });
    }

    fn both(&mut self, attachment: &Attachment, here: &v1::Attachment) {
        let (id, volume) = (attachment.id, &attachment.volume_id);
        let state = output::state(here.state);
        if attachment.is_complete() {
            if !matches!(here.state(), v1::State::Attached | v1::State::Connected) {
                self.left_alone.push(format!(
                    "attachment {id} of volume {volume} is {state} on this host: volattach show {id} says why, and what to do"
                ));
            }
            return;
        }
        let what = format!(
            "is {} in Cinder, and {state} on this host",
            attachment.status
        );
        match here.state() {
            v1::State::Attached | v1::State::Connected => {
                self.push(id, volume, what, Mend::Complete, "complete it in Cinder");
            }
            v1::State::Connecting | v1::State::Attaching => {
                self.left_alone
                    .push(format!("attachment {id} is being attached"));
            }
            _ => {
                let how = "detach it from this host, then delete it in Cinder";
                self.push(id, volume, what, Mend::DetachAndDelete, how);
            }
        }
    }

    fn cinders(&mut self, survey: &Survey, attachment: &Attachment) {
        let (id, volume) = (attachment.id, &attachment.volume_id);
        if let Some(instance) = &attachment.instance {
            let why = format!(
                "attachment {id} of volume {volume} is of server {instance}: Nova's, or cinder detach ends it"
            );
            self.left_alone.push(why);
            return;
        }
        let what = format!("is {} in Cinder, and not on this host", attachment.status);
        let here = survey
            .agent
            .iter()
            .find(|(id, here)| here.volume_id == *volume && survey.ended.contains(id));
        match here {
            None if survey.unmarked.contains(&id) => {
                let what = format!("{what}, and was not made by volattach cinder");
                let how = format!(
                    "see whose it is; if it is nobody's: openstack volume attachment delete {id}"
                );
                self.push(id, volume, what, Mend::Nobody, &how);
            }
            None => self.push(
                id,
                volume,
                what,
                Mend::DeleteInCinder,
                "delete it in Cinder",
            ),
            Some((other, _)) => {
                let what = format!("{what}, which has the volume as {other}");
                let how = "see whose that one is, and detach it before this one is deleted";
                self.push(id, volume, what, Mend::Nobody, how);
            }
        }
    }

    fn somebodys(&mut self, attachment: &Attachment) {
        let (id, volume) = (attachment.id, &attachment.volume_id);
        if attachment.is_reserved() {
            let why = format!(
                "attachment {id} of volume {volume} is reserved for no host yet: end it by openstack volume attachment delete {id} if \
                 nobody goes on with it"
            );
            self.left_alone.push(why);
            return;
        }
        let status = &attachment.status;
        let what = format!("is {status} in Cinder, which does not show its host to this user");
        let how = "ask as an administrator of Cinder, or end it where it was begun";
        self.push(id, volume, what, Mend::Nobody, how);
    }

    fn ours(&mut self, survey: &Survey, id: Uuid, here: &v1::Attachment) {
        let volume = &here.volume_id;
        let state = output::state(here.state);
        let what = format!("is {state} on this host, and no more in Cinder");
        match survey.taken.contains(&id) {
            false => self.push(
                id,
                volume,
                what,
                Mend::DetachHere,
                "detach it from this host",
            ),
            true => {
                let what = format!("{what}, which has another attachment of the volume");
                let how = "see whose it is, and detach it by volattach detach";
                self.push(id, volume, what, Mend::Nobody, how);
            }
        }
    }

    /// Those that were found before too.
    fn confirm(&mut self, before: &Self) {
        let was = |it: &Finding| {
            before
                .differ
                .iter()
                .any(|b| b.id == it.id && b.mend == it.mend)
        };
        self.differ.retain(was);
    }
}

/// What became of a difference: `None`: nothing was tried.
type Outcome = Option<Result<(), Failure>>;

/// Compares, mends with `yes`, and prints.
pub(super) async fn run(
    cinder: &Cinder,
    agent: &Agent,
    interrupt: &Interrupt,
    format: Format,
    yes: bool,
) -> Result<ExitCode, Failure> {
    let first = Findings::of(&Survey::take(cinder, agent).await?);
    let mut findings = first;
    if !findings.differ.is_empty() {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = interrupt.wait() => {}
        }
        interrupt.check("nothing was changed")?;
        let mut second = Findings::of(&Survey::take(cinder, agent).await?);
        second.confirm(&findings);
        findings = second;
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for finding in &findings.differ {
        let mends = yes && finding.mend != Mend::Nobody && !interrupt.is_set();
        outcomes.push(match mends {
            true => Some(mend(cinder, agent, finding).await),
            false => None,
        });
    }
    output::to_stdout(&match format {
        Format::Table => text(&findings, &outcomes),
        Format::Json => document(&findings, &outcomes).to_string(),
    })?;
    let mended = outcomes.iter().all(|it| matches!(it, Some(Ok(()))));
    Ok(match mended {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DIFFERS),
    })
}

async fn mend(cinder: &Cinder, agent: &Agent, finding: &Finding) -> Result<(), Failure> {
    let id = finding.id;
    match finding.mend {
        Mend::DeleteInCinder => {
            // It may have come since, or be one that the daemon lists for its own user alone: then this fails.
            if let Some(here) = agent.find(&id.to_string()).await? {
                let state = output::state(here.state);
                let why = format!("attachment {id} is {state} on this host by now");
                return Err(CinderError::Unsuitable(why).into());
            }
            cinder.delete(id).await?;
        }
        Mend::Complete => cinder.complete(id).await?,
        Mend::DetachHere => match cinder.attachment(id).await {
            Ok(_) => {
                let why = format!("attachment {id} is in Cinder again");
                return Err(CinderError::Unsuitable(why).into());
            }
            Err(error) if !error.is_not_found() => return Err(error.into()),
            Err(_) => agent.detach(&id.to_string(), false).await?,
        },
        Mend::DetachAndDelete => detach::run(cinder, agent, id, false).await?,
        Mend::Nobody => {}
    }
    Ok(())
}

/// For people: two lines a difference.
fn text(findings: &Findings, outcomes: &[Outcome]) -> String {
    let mut lines = Vec::new();
    for (finding, outcome) in findings.differ.iter().zip(outcomes) {
        let Finding {
            id,
            volume,
            what,
            how,
            ..
        } = finding;
        lines.push(format!(
            "attachment {id} of volume {}: {}",
            visible(volume),
            visible(what)
        ));
        lines.push(match (outcome, finding.mend) {
            (Some(Ok(())), _) => format!("  done: {how}"),
            (Some(Err(failure)), _) => format!("  not done: {how}: {}", failure.message()),
            (None, Mend::Nobody) => format!("  mend: {how}"),
            (None, _) => format!("  with --yes: {how}"),
        });
    }
    if lines.is_empty() {
        lines.push("Cinder and this host agree".to_owned());
    }
    let left = findings
        .left_alone
        .iter()
        .map(|it| format!("left alone: {}", visible(it)));
    lines.extend(left);
    lines.join("\n")
}

/// For programs.
fn document(findings: &Findings, outcomes: &[Outcome]) -> Value {
    let both = findings.differ.iter().zip(outcomes);
    let differ = both.map(|(finding, outcome)| {
        let error = match outcome {
            Some(Err(failure)) => Some(failure.message()),
            _ => None,
        };
        json!({
            "attachment_id": finding.id,
            "volume_id": finding.volume,
            "what": finding.what,
            "mend": finding.how,
            "mendable": finding.mend != Mend::Nobody,
            "mended": matches!(outcome, Some(Ok(()))),
            "error": error,
        })
    });
    json!({ "findings": differ.collect::<Vec<_>>(), "left_alone": findings.left_alone })
}

#[cfg(test)]
mod tests;
