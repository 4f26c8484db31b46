//! The operator's command line, `volattach`: the API for people, and for scripts with `-o json`.
//!
//! Invariants: connection info, which holds secrets, comes from a file or standard input and never from an argument;
//! standard output carries answers (and, with `-o json`, errors: a program reads one stream), standard error what people
//! read; every failure has an exit code that docs/cli.md and `--help` list.

mod args;
mod client;
mod commands;
mod failure;
mod generate;
mod journal;
mod offline;
mod output;
mod progress;
mod request;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, Format};
use failure::Failure;

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.global.output;
    let result = match cli.command {
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(&dir),
        Command::Journal(args) => journal::run(args, format),
        Command::Plan(plan) if plan.offline => offline::plan(plan, format),
        command => asynchronously(commands::run(cli.global, command)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
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

fn asynchronously(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local(format!("cannot start: {error}")))?
        .block_on(work)
}
