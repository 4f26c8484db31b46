//! This host, as control planes and storage want to know it.

/// What this host can connect to: the connector properties of os-brick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connector {
    /// The host's name.
    pub host: String,
    /// The address by which other hosts reach it.
    pub ip: String,
    /// The machine, such as `x86_64`.
    pub platform: String,
    /// The operating system, such as `linux`.
    pub os_type: String,
    /// The machine's UUID; empty where the firmware tells none.
    pub system_uuid: String,
}
