//! Identity of a block device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest identity that a control plane may give, in bytes.
const MAX: usize = 255;

/// Identity of a block device, which its storage gives to no other volume. Spelled as the programs of this host do: for a SCSI disk as
/// multipathd and scsi_id(8), for an NVMe namespace as the kernel (drivers/nvme/host/core.c, `wwid_show`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wwid(String);

impl Wwid {
    /// Spells a SCSI designator (SPC-5 7.7.6.1): its type as one digit, then the designator.
    #[must_use]
    pub fn scsi(kind: u8, designator: &str) -> Self {
        Self(format!("{kind}{designator}"))
    }

    /// Spells an NVMe namespace's identity: the first that exists of UUID, NGUID and EUI-64. `None`: the namespace has none.
    #[must_use]
    pub fn nvme(uuid: Option<Uuid>, nguid: Option<Uuid>, eui64: Option<u64>) -> Option<Self> {
        let uuid = uuid.map(|uuid| format!("uuid.{uuid}"));
        let nguid = || nguid.map(|nguid| format!("eui.{}", nguid.simple()));
        let eui64 = || eui64.map(|eui64| format!("eui.{eui64:016x}"));
        uuid.or_else(nguid).or_else(eui64).map(Self)
    }

    /// Takes an identity already spelled by the kernel or multipathd.
    #[must_use]
    pub fn as_spelled(text: String) -> Self {
        Self(text)
    }

    /// The identity as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads a control plane's identity of a SCSI disk. Bare hexadecimal digits are an NAA's, as arrays and control planes write a WWN.
/// WWN.
impl FromStr for Wwid {
    type Err = &'static str;

    /// # Errors
    /// The text is no identity, or no valid EUI-64 or NAA identifier; the error names the fault.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '\\' | '"' | '\'');
        if text.is_empty() || text.len() > MAX || !text.chars().all(valid) {
            return Err("is no identity");
        }
        let hex = |digits: &str, lengths: &[usize]| {
            let digits: String = digits.chars().filter(|c| *c != ':').collect();
            (lengths.contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit()))
                .then(|| digits.to_ascii_lowercase())
        };
        let lower = text.to_ascii_lowercase();
        if let Some(digits) = lower.strip_prefix("eui.") {
            let digits = hex(digits, &[16, 24, 32]).ok_or("is no EUI-64")?;
            return Ok(Self::scsi(2, &digits));
        }
        let bare = lower.strip_prefix("0x").or(lower.strip_prefix("naa."));
        if let Some(digits) = hex(bare.unwrap_or(&lower), &[16, 32]) {
            return Ok(Self::scsi(3, &digits));
        }
        match bare {
            Some(_) => Err("is no NAA identifier"),
            // Either 3 and its digits, as spelled by this host, or a designator whose type is not a number.
            None => Ok(Self(
                hex(&lower, &[17, 33]).unwrap_or_else(|| text.to_owned()),
            )),
        }
    }
}

impl fmt::Display for Wwid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
