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
mod permissions;
mod reconcile;
mod session;
mod survey;
mod web;
mod yaml;

pub(super) use args::CinderArgs;

use std::process::ExitCode;

use serde_json::json;

use super::args::{Format, Global};
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
    if let Action::Permissions { volume, mode } = action {
        permissions::run(cinder, format, &volume, mode).await?;
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
            output::to_stdout(&extended.shown(format, &volume))?;
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
