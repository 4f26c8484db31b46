//! Image formats by the names that control planes use.

use super::ConnectionError;
use crate::model::ImageFormat;

/// The format of that name; none and the empty name mean raw. A format is never guessed, from a suffix least of all.
pub(super) fn parse(key: &str, name: Option<&str>) -> Result<ImageFormat, ConnectionError> {
    let name = name.unwrap_or_default();
    let why = match name {
        "" | "raw" => return Ok(ImageFormat::Raw),
        "qcow2" => return Ok(ImageFormat::Qcow2),
        "vhd" | "vpc" => return Ok(ImageFormat::Vpc),
        "vmdk" => return Ok(ImageFormat::Vmdk),
        // libvirt 9, src/util/virstoragefile.c: virStorageFileFormat.
        "vhdx" => {
            "libvirt has no such disk format; convert the volume to raw, qcow2, vhd or vmdk (qemu-img convert)"
        }
        _ => "expected raw (or none), qcow2, vhd (vpc) or vmdk",
    };
    Err(ConnectionError::Format {
        key: key.to_owned(),
        format: name.chars().take(32).collect(),
        why,
    })
}
