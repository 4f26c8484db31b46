//! Completion scripts and man pages, generated from the arguments' definition.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use super::failure::Failure;
use super::output;

/// Prints the completion script of a shell.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "volattach", &mut script);
    output::to_stdout(String::from_utf8_lossy(&script).trim_end())
}

/// Writes the man pages, one a command.
pub(super) fn man(dir: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), dir).map_err(|error| {
        Failure::local(format!(
            "cannot write the man pages into {}: {error}",
            dir.display()
        ))
    })
}
