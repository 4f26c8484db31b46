//! How many of a volume's paths work.

use serde::{Deserialize, Serialize};

/// Paths of a connected volume on a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathCount {
    /// Paths that lead to the volume now.
    pub working: u32,
    /// Paths of the connection info and, where its only portal was asked for more, of the target.
    pub planned: u32,
}

impl PathCount {
    /// Whether a path is missing.
    #[must_use]
    pub fn is_short(self) -> bool {
        self.working < self.planned
    }
}
