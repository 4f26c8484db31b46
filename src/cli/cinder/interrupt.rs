//! Ctrl-C, and SIGTERM: what is under way is finished or undone, not left half done.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::error::CinderError;
use crate::cli::failure::Failure;
use crate::cli::output;

/// Whether the user wants out.
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Takes the signals from now on. The second one ends this process as it is, as kill -9 does.
    pub(super) fn listen() -> Result<Self, Failure> {
        let cannot = |error| Failure::local(format!("cannot wait for signals: {error}"));
        let mut interrupts = signal(SignalKind::interrupt()).map_err(cannot)?;
        let mut terminations = signal(SignalKind::terminate()).map_err(cannot)?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                if sender.send_replace(true) {
                    std::process::exit(i32::from(Failure::EXIT_INTERRUPTED));
                }
                // Nobody is left to tell where this cannot be written.
                let _ = output::to_stderr(
                    "interrupted: what is under way is finished or undone; once more leaves it to volattach cinder reconcile",
                );
            }
        });
        Ok(Self(receiver))
    }

    /// Whether the user wants out.
    pub(super) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Fails if the user wants out. `left`: what comes of that.
    pub(super) fn check(&self, left: &str) -> Result<(), CinderError> {
        match self.is_set() {
            true => Err(CinderError::Interrupted(left.to_owned())),
            false => Ok(()),
        }
    }

    /// Waits until the user wants out.
    pub(super) async fn wait(&self) {
        let mut receiver = self.0.clone();
        // The sender lives as long as the process.
        let _ = receiver.wait_for(|interrupted| *interrupted).await;
    }
}
