//! Does one job of the daemon's that may hang, and ends; see `volattach::sys::worker`.

fn main() -> std::process::ExitCode {
    volattach::sys::worker::work()
}
