//! The agent of a compute node; see `volattach::app`.

fn main() -> std::process::ExitCode {
    volattach::app::main()
}
