//! How a disk may appear in a domain. Names and meanings are libvirt's (`formatdomain`, "Hard drives").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A word that is not one of those an option takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {value:?} is not known: use one of {}", .known.join(", "))]
pub struct UnknownWord {
    option: &'static str,
    value: String,
    known: &'static [&'static str],
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $option:literal, { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// The word in libvirt's XML.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(value: &str) -> Result<Self, UnknownWord> {
                match value {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownWord {
                        option: $option,
                        value: value.chars().take(64).collect(),
                        known: &[$($text,)*],
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(
    /// The bus a disk sits on.
    Bus, "bus", {
        /// virtio-blk: one PCI slot a disk, targets `vd*`.
        Virtio = "virtio",
        /// virtio-scsi: units on a controller, targets `sd*`.
        Scsi = "scsi",
        /// Xen's paravirtual block device, the one bus of Xen's domains: targets `xvd*`.
        Xen = "xen",
    }
);
words!(
    /// The host's cache for the disk.
    Cache, "cache", {
        /// O_DIRECT; the guest flushes.
        None = "none",
        /// Every write reaches the storage before it returns.
        Writethrough = "writethrough",
        /// The host's page cache; the guest flushes.
        Writeback = "writeback",
        /// O_DIRECT and synchronous.
        Directsync = "directsync",
        /// Flushes are ignored.
        Unsafe = "unsafe",
    }
);
words!(
    /// How QEMU submits I/O.
    IoMode, "io", {
        /// A thread pool.
        Threads = "threads",
        /// Linux AIO; needs O_DIRECT (cache `none` or `directsync`).
        Native = "native",
        /// io_uring.
        IoUring = "io_uring",
    }
);
words!(
    /// What becomes of the guest's discards.
    Discard, "discard", {
        /// Passed to the storage.
        Unmap = "unmap",
        /// Dropped.
        Ignore = "ignore",
    }
);
words!(
    /// What becomes of writes of zeroes.
    DetectZeroes, "detect_zeroes", {
        /// Written as they are.
        Off = "off",
        /// Written efficiently.
        On = "on",
        /// Discarded, where `discard` is `unmap`.
        Unmap = "unmap",
    }
);
words!(
    /// What becomes of a request of the guest that the storage failed.
    ErrorPolicy, "error_policy", {
        /// The guest is told.
        Report = "report",
        /// The guest is paused, and the request is made again when the guest goes on.
        Stop = "stop",
        /// Paused for want of space, told of anything else.
        Enospace = "enospace",
    }
);
words!(
    /// The same of reads alone, which need no space.
    ReadErrorPolicy, "rerror_policy", {
        /// The guest is told.
        Report = "report",
        /// The guest is paused, and the request is made again when the guest goes on.
        Stop = "stop",
    }
);

impl ErrorPolicy {
    /// The same for reads.
    #[must_use]
    pub fn of_reads(self) -> ReadErrorPolicy {
        match self {
            Self::Stop => ReadErrorPolicy::Stop,
            Self::Report | Self::Enospace => ReadErrorPolicy::Report,
        }
    }
}

words!(
    /// The format of a volume's image; the words are libvirt's.
    ImageFormat, "format", {
        /// Bytes as they are: also what no format means (an image's format is never guessed).
        Raw = "raw",
        /// QEMU's copy-on-write format, version 2 or 3.
        Qcow2 = "qcow2",
        /// Microsoft's VHD, which QEMU and libvirt call `vpc`.
        Vpc = "vpc",
        /// VMware's format, monolithic images only.
        Vmdk = "vmdk",
    }
);

/// Which of a domain's configurations a call changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The running domain.
    #[default]
    Live,
    /// The persistent configuration.
    Config,
    /// Both.
    LiveAndConfig,
}

impl Scope {
    /// Whether the running domain changes.
    #[must_use]
    pub fn live(self) -> bool {
        matches!(self, Self::Live | Self::LiveAndConfig)
    }

    /// Whether the persistent configuration changes.
    #[must_use]
    pub fn config(self) -> bool {
        matches!(self, Self::Config | Self::LiveAndConfig)
    }
}

/// Where in the domain a disk sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskAddress {
    /// A PCI slot: virtio-blk.
    Pci {
        /// 0 to 0xffff.
        domain: u16,
        /// 0 to 0xff.
        bus: u8,
        /// 0 to 0x1f.
        slot: u8,
        /// 0 to 7.
        function: u8,
    },
    /// A unit on a SCSI controller: virtio-scsi.
    Drive {
        /// The controller's index.
        controller: u32,
        /// The controller's bus.
        bus: u32,
        /// The target on the bus.
        target: u32,
        /// The unit (LUN) of the target.
        unit: u32,
    },
}

/// A string that is not a disk address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "address {0:?} is not known: write pci:DOMAIN:BUS:SLOT.FUNCTION in hexadecimal (pci:0000:00:07.0) \
     or drive:CONTROLLER:BUS:TARGET:UNIT (drive:0:0:0:5)"
)]
pub struct InvalidAddress(String);

impl FromStr for DiskAddress {
    type Err = InvalidAddress;

    fn from_str(value: &str) -> Result<Self, InvalidAddress> {
        parse_pci(value)
            .or_else(|| parse_drive(value))
            .ok_or_else(|| InvalidAddress(value.chars().take(64).collect()))
    }
}

/// Digits of the radix only: `from_str_radix` alone would take a sign.
fn digits(text: &str, radix: u32, max: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    plain
        .then(|| u32::from_str_radix(text, radix).ok())
        .flatten()
        .filter(|n| *n <= max)
}

fn parse_pci(value: &str) -> Option<DiskAddress> {
    let (rest, function) = value.strip_prefix("pci:")?.split_once('.')?;
    let mut parts = rest.split(':');
    let mut next = |max| digits(parts.next()?, 16, max);
    let (domain, bus, slot) = (next(0xffff)?, next(0xff)?, next(0x1f)?);
    let function = digits(function, 16, 7)?;
    parts.next().is_none().then_some(DiskAddress::Pci {
        domain: u16::try_from(domain).ok()?,
        bus: u8::try_from(bus).ok()?,
        slot: u8::try_from(slot).ok()?,
        function: u8::try_from(function).ok()?,
    })
}

fn parse_drive(value: &str) -> Option<DiskAddress> {
    let mut parts = value.strip_prefix("drive:")?.split(':');
    let mut next = || digits(parts.next()?, 10, u32::MAX);
    let (controller, bus, target, unit) = (next()?, next()?, next()?, next()?);
    parts.next().is_none().then_some(DiskAddress::Drive {
        controller,
        bus,
        target,
        unit,
    })
}

impl fmt::Display for DiskAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci {
                domain,
                bus,
                slot,
                function,
            } => {
                write!(f, "pci:{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
            }
            Self::Drive {
                controller,
                bus,
                target,
                unit,
            } => {
                write!(f, "drive:{controller}:{bus}:{target}:{unit}")
            }
        }
    }
}

macro_rules! iotune {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Limits on a disk's I/O: libvirt's `<iotune>`. `None` is no limit.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct IoTune {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<u64>,)*
            /// Group of disks of one domain that share these limits; setting them on one disk sets them on all.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub group_name: Option<String>,
        }

        impl IoTune {
            /// The limits' element names, in libvirt's order.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($field),)*];

            /// The limits that are set, by element name.
            pub fn limits(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*]
                    .into_iter()
                    .filter_map(|(key, value)| value.map(|value| (key, value)))
            }

            /// The limit of that name; `None` also where there is none of that name.
            #[must_use]
            pub fn get(&self, key: &str) -> Option<u64> {
                match key {
                    $(stringify!($field) => self.$field,)*
                    _ => None,
                }
            }

            /// Ends the limit of that name, if it is known.
            pub fn clear(&mut self, key: &str) {
                match key {
                    $(stringify!($field) => self.$field = None,)*
                    _ => {}
                }
            }

            /// Sets the limit of that name; false where there is none of that name.
            pub fn set(&mut self, key: &str, value: u64) -> bool {
                match key {
                    $(stringify!($field) => self.$field = Some(value),)*
                    _ => return false,
                }
                true
            }
        }
    };
}

iotune! {
    /// Bytes a second, reads and writes together.
    total_bytes_sec,
    /// Bytes a second read.
    read_bytes_sec,
    /// Bytes a second written.
    write_bytes_sec,
    /// Operations a second.
    total_iops_sec,
    /// Reads a second.
    read_iops_sec,
    /// Writes a second.
    write_iops_sec,
    /// Burst of `total_bytes_sec`.
    total_bytes_sec_max,
    /// Burst of `read_bytes_sec`.
    read_bytes_sec_max,
    /// Burst of `write_bytes_sec`.
    write_bytes_sec_max,
    /// Burst of `total_iops_sec`.
    total_iops_sec_max,
    /// Burst of `read_iops_sec`.
    read_iops_sec_max,
    /// Burst of `write_iops_sec`.
    write_iops_sec_max,
    /// The size in bytes that counts as one operation.
    size_iops_sec,
    /// Longest burst of `total_bytes_sec_max`, in seconds.
    total_bytes_sec_max_length,
    /// Longest burst of `read_bytes_sec_max`, in seconds.
    read_bytes_sec_max_length,
    /// Longest burst of `write_bytes_sec_max`, in seconds.
    write_bytes_sec_max_length,
    /// Longest burst of `total_iops_sec_max`, in seconds.
    total_iops_sec_max_length,
    /// Longest burst of `read_iops_sec_max`, in seconds.
    read_iops_sec_max_length,
    /// Longest burst of `write_iops_sec_max`, in seconds.
    write_iops_sec_max_length,
}

/// How the caller wants the disk to appear; what is `None` is left to the volume and the domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskOptions {
    /// The bus; default: `virtio`, or `xen` in a Xen domain.
    pub bus: Option<Bus>,
    /// The target, such as `vdb`; default: the first that is free.
    pub target: Option<String>,
    /// The host's cache; default `none`.
    pub cache: Option<Cache>,
    /// How QEMU submits I/O; default: libvirt's.
    pub io: Option<IoMode>,
    /// What becomes of discards; default: the connection info's.
    pub discard: Option<Discard>,
    /// What becomes of writes of zeroes.
    pub detect_zeroes: Option<DetectZeroes>,
    /// The serial that the guest sees; default: the volume id.
    pub serial: Option<String>,
    /// Whether other attachments may use the volume while this one writes it.
    pub shareable: bool,
    /// Limits; default: the connection info's.
    pub iotune: Option<IoTune>,
    /// Bytes; default: the connection info's.
    pub logical_block_size: Option<u32>,
    /// Bytes; default: the connection info's.
    pub physical_block_size: Option<u32>,
    /// The place on the bus; default: libvirt's choice (PCI) or the first that is free (SCSI).
    pub address: Option<DiskAddress>,
    /// The place in the boot order, from 1.
    pub boot_order: Option<u32>,
    /// Which configuration changes.
    pub scope: Scope,
    /// What becomes of requests that fail; default: the backend's.
    // Left out of a request's hash where nothing is said: the hashes of earlier builds stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_policy: Option<ErrorPolicy>,
    /// The same of reads; default: `error_policy`'s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerror_policy: Option<ReadErrorPolicy>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unknown_word_names_the_known_ones() {
        let error = "ide".parse::<Bus>().unwrap_err().to_string();
        assert_eq!(
            error,
            "bus \"ide\" is not known: use one of virtio, scsi, xen"
        );
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for bad in [
            "",
            "pci",
            "pci:0:0:20.0",
            "pci:0:0:1.8",
            "pci:0:0:+1.0",
            "drive:0:0:0",
            "drive:0:0:0:0:0",
            "usb:1",
        ] {
            assert!(bad.parse::<DiskAddress>().is_err(), "{bad}");
        }
    }

    /// The hash of a request is over this: a repeat after an upgrade is the same request.
    #[test]
    fn options_of_earlier_builds_are_spelled_as_they_were() {
        let mut options = DiskOptions::default();
        let spelled = serde_json::to_string(&options).unwrap();
        assert_eq!(
            spelled,
            r#"{"bus":null,"target":null,"cache":null,"io":null,"discard":null,"detect_zeroes":null,"serial":null,"shareable":false,"iotune":null,"logical_block_size":null,"physical_block_size":null,"address":null,"boot_order":null,"scope":"live"}"#
        );
        let tune = IoTune {
            read_iops_sec: Some(7),
            ..IoTune::default()
        };
        options.iotune = Some(tune);
        let spelled = serde_json::to_string(&options).unwrap();
        assert!(
            spelled.contains(r#""iotune":{"read_iops_sec":7},"#),
            "{spelled}"
        );
    }

    proptest! {
        #[test]
        fn addresses_survive_writing(domain: u16, bus: u8, slot in 0u8..32, function in 0u8..8, n: [u32; 4]) {
            let pci = DiskAddress::Pci { domain, bus, slot, function };
            prop_assert_eq!(pci.to_string().parse::<DiskAddress>().unwrap(), pci);
            let [controller, bus, target, unit] = n;
            let drive = DiskAddress::Drive { controller, bus, target, unit };
            prop_assert_eq!(drive.to_string().parse::<DiskAddress>().unwrap(), drive);
        }
    }
}
