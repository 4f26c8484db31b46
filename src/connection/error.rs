//! What can be wrong with connection info. No error tells a value that could hold a secret.

use crate::model::Reason;
use crate::model::mount_options::OptionError;

/// Why connection info cannot be used. `key` is the path of the key, such as `data.export`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The text is not JSON.
    #[error(
        "connection info is not JSON (line {line}, column {column}): send the object that Cinder gives"
    )]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// The text is too long to be connection info.
    #[error("connection info has {bytes} bytes: more than {limit} cannot be right")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A key is missing.
    #[error("connection info lacks {key}: expected {expected}")]
    Missing {
        /// The key.
        key: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A key's value does not fit.
    #[error("connection info's {key} {problem}: expected {expected}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong, without the value.
        problem: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// The server's name or address does not fit.
    #[error(
        "the host in connection info's {key} {problem}: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]"
    )]
    Host {
        /// The key.
        key: String,
        /// What is wrong, without the value.
        problem: &'static str,
    },
    /// No backend for the protocol.
    #[error(
        "driver_volume_type {protocol:?} is not supported: expected {}",
        super::cinder::PROTOCOLS
    )]
    Protocol {
        /// The protocol.
        protocol: String,
    },
    /// The transport is none that volattach speaks.
    #[error(
        "connection info's {key} is {transport:?}, which volattach does not do: expected tcp (NVMe over RDMA or Fibre Channel needs another agent)"
    )]
    Transport {
        /// The key.
        key: String,
        /// The transport.
        transport: String,
    },
    /// The volume is encrypted.
    #[error(
        "the volume is encrypted (connection info's {key}), which volattach does not do: attach an unencrypted volume"
    )]
    Encrypted {
        /// The key.
        key: String,
    },
    /// The image format cannot be served.
    #[error("connection info's {key} {format:?} is not supported: {why}")]
    Format {
        /// The key.
        key: String,
        /// The format.
        format: String,
        /// Why, and which are.
        why: &'static str,
    },
    /// A path leaves its root.
    #[error("connection info's {key} {problem}: expected {expected}")]
    UnsafePath {
        /// The key.
        key: String,
        /// What is wrong, without the value.
        problem: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// A mount option is not allowed, or its value does not fit.
    #[error("connection info's {key} cannot be used")]
    MountOption {
        /// The key.
        key: String,
        /// Which option, and why.
        #[source]
        source: OptionError,
    },
    /// An option is not known, and its name may be a piece of a password.
    #[error(
        "option {position} in connection info's {key} is not known, and not shown, since it may be a piece of a password: write a \
         comma in a password twice, or put the password in quotes"
    )]
    OptionAfterPassword {
        /// The key.
        key: String,
        /// Its place, from 1.
        position: usize,
    },
    /// The mount options cannot be parsed.
    #[error("connection info's {key} cannot be parsed: {problem}")]
    Options {
        /// The key.
        key: String,
        /// What is wrong, and how to write it.
        problem: String,
    },
    /// The credentials can never work.
    #[error("the credentials in connection info's {key} cannot be used: {problem}")]
    Credentials {
        /// The key.
        key: String,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
}

impl ConnectionError {
    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotJson { .. }
            | Self::TooLong { .. }
            | Self::Missing { .. }
            | Self::Host { .. }
            | Self::Invalid { .. } => Reason::InvalidConnectionInfo,
            Self::Protocol { .. } | Self::Transport { .. } => Reason::ProtocolUnsupported,
            Self::Encrypted { .. } => Reason::EncryptionUnsupported,
            Self::Format { .. } => Reason::FormatUnsupported,
            Self::UnsafePath { .. } => Reason::VolumePathUnsafe,
            Self::MountOption {
                source: OptionError::Value { .. },
                ..
            }
            | Self::Options { .. } => Reason::MountOptionInvalid,
            Self::MountOption { .. } | Self::OptionAfterPassword { .. } => {
                Reason::MountOptionRefused
            }
            Self::Credentials { .. } => Reason::CredentialsInvalid,
        }
    }
}
