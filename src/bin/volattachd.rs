//! volattachd

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = volattach::sys::worker::run_if_worker() {
        return code;
    }
    ExitCode::SUCCESS
}
