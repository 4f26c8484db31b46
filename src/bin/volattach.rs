//! The operator's command line; see [`volattach::cli`].

fn main() -> std::process::ExitCode {
    volattach::cli::run()
}
