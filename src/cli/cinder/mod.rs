//! `volattach cinder`: Cinder as the control plane, from this host.
//!
//! Invariants: an attach is in Cinder and on this host, or in neither: what fails is undone, the last first, and what cannot be undone is
//! named, and found again by `reconcile`. Cinder's attachment is made before this host's and ends after it: storage is never taken from
//! beneath a guest. Passwords and tokens are in [`crate::model::Secret`], and in no argument, log or error. What Nova attached is left alone.

mod agent;
mod answers;
mod api;
mod args;
mod attach;
mod cloud;
mod detach;
mod error;
mod extend;
mod interrupt;
mod list;
mod lost;
mod reconcile;
mod session;
mod survey;
mod web;
mod yaml;

pub(super) use args::CinderArgs;

use std::process::ExitCode;

use serde_json::json;

use super::args::{Format, Global, Mode};
use super::failure::Failure;
use super::{output, progress};
use agent::Agent;
use api::Cinder;
use args::Action;
use interrupt::Interrupt;

/// Runs one command.
pub(super) async fn run(global: Global, args: CinderArgs) -> Result<ExitCode, Failure> {
    let interrupt = Interrupt::listen()?;
    let env = |name: &str| std::env::var(name).ok();
    let cinder = Box::pin(Cinder::connect(&args.cloud, &env, global.timeout)).await?;
    let code = Box::pin(act(&global, &cinder, &interrupt, args.action)).await?;
    // What was under way is finished, and the user wanted out.
    Ok(match interrupt.is_set() {
        true => ExitCode::from(Failure::EXIT_INTERRUPTED),
        false => code,
    })
}

async fn act(
    global: &Global,
    cinder: &Cinder,
    interrupt: &Interrupt,
    action: Action,
) -> Result<ExitCode, Failure> {
    let format = global.output;
    if let Action::Permissions { volume, mode } = &action {
        if let Some(mode) = mode {
            let permissions = match mode {
                Mode::Set(permissions) => Some(*permissions),
                Mode::Forget => None,
            };
            cinder.set_permissions(volume, permissions).await?;
        }
        let volume = cinder.volume(volume.as_str()).await?;
        let permissions = attach::permissions(&volume)?.map(|it| it.to_string());
        output::to_stdout(&match format {
            Format::Table => {
                let words = permissions
                    .as_deref()
                    .unwrap_or("none set: everybody may use it");
                format!("{}: {words}", volume.id)
            }
            Format::Json => {
                json!({ "volume_id": volume.id, "permissions": permissions }).to_string()
            }
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let agent = Agent::connect(global).await?;
    match action {
        Action::Attach(args) => {
            let attached = attach::run(cinder, &agent, interrupt, *args).await?;
            output::to_stdout(&output::attachment(format, &attached))?;
        }
        Action::Detach { attachment, force } => {
            detach::run(cinder, &agent, attachment, force).await?;
            output::to_stdout(&match format {
                Format::Table => format!("{attachment} is detached"),
                Format::Json => {
                    json!({ "attachment_id": attachment, "detached": true }).to_string()
                }
            })?;
        }
        Action::Extend { volume, size } => {
            let work = extend::run(cinder, &agent, interrupt, &volume, size, global.timeout);
            let extended = progress::spin(format, "growing the volume", work).await?;
            output::to_stdout(&extended_text(format, volume.as_str(), &extended))?;
        }
        Action::List => list::run(cinder, &agent, format).await?,
        Action::Reconcile { yes } => {
            return reconcile::run(cinder, &agent, interrupt, format, yes).await;
        }
        // Above: it asks no daemon.
        Action::Permissions { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn extended_text(format: Format, volume: &str, extended: &extend::Extended) -> String {
    if format == Format::Json {
        let here = extended.here.iter();
        let here = here.map(|(id, bytes)| json!({ "attachment_id": id, "size_bytes": bytes }));
        return json!({
            "volume_id": volume,
            "size_gib": extended.size,
            "attachments": here.collect::<Vec<_>>(),
        })
        .to_string();
    }
    let mut lines = vec![format!("{volume} has {} GiB", extended.size)];
    lines.extend(
        extended
            .here
            .iter()
            .map(|(id, bytes)| format!("{id} has {bytes} bytes")),
    );
    if extended.here.is_empty() {
        lines.push("no attachment of it is on this host".to_owned());
    }
    lines.join("\n")
}
