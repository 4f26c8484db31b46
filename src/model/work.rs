//! How much work may be under way.

/// How many calls may be at work at a time: attaches, detaches, connects, disconnects, extends. Twice as many of each may wait for their
/// turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkLimits {
    /// Of all callers together; default 256.
    pub all: u32,
    /// Of one caller; default 128.
    pub per_caller: u32,
    /// For one storage server, of all callers together; default 32. Reconcile has at most a quarter of them.
    pub per_server: u32,
}
