//! The operator's command line, `volattach`: the API for people, and for scripts with `-o json`.
//!
//! Invariants: connection info, which holds secrets, comes from a file or standard input and never from an argument;
//! standard output carries answers (and, with `-o json`, errors: a program reads one stream), standard error what people
//! read; every failure has an exit code that docs/cli.md and `--help` list.

mod args;
mod cinder;
mod client;
mod commands;
mod doctor;
mod failure;
mod generate;
mod journal;
mod limits;
mod offline;
mod output;
mod progress;
mod request;
mod watch;
mod web;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, Format};
use failure::Failure;

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.global.output;
    let done = |()| ExitCode::SUCCESS;
    let result = match cli.command {
        Command::Completions { shell } => generate::completions(shell).map(done),
        Command::Man { dir } => generate::man(&dir).map(done),
        Command::Journal(args) => journal::run(args, format).map(done),
        Command::Plan(plan) if plan.offline => offline::plan(plan, format).map(done),
        Command::Cinder(args) => asynchronously(cinder::run(cli.global, args)),
        Command::Doctor => asynchronously(doctor::run(cli.global)),
        Command::Web(web) => asynchronously(web::run(cli.global, web)).map(done),
        command => asynchronously(commands::run(cli.global, command)).map(done),
    };
    match result {
        Ok(code) => code,
        // Whoever read the answer has seen enough of it.
        Err(failure) if failure.broken_pipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell where these cannot be written.
            if format == Format::Json {
                let _ = output::to_stdout(&failure.to_json());
            }
            let _ = output::to_stderr(&failure.to_text());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn asynchronously<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local(format!("cannot start: {error}")))?
        .block_on(work)
}
