//! What holds of any document of libvirt's, of any disk that is written, and of any answer of xenstored.

use super::disk;
use super::view::{Devices, DiskView};
pub(crate) use super::xen::fuzz::xenstore;
use super::xml::Element;
use crate::model::{
    Access, Dialect, DiskOptions, DiskPlan, DiskSpec, ImageFormat, Scope, SourceKind,
};

/// Any text as a domain: what says read-only is read-only, and an element that was read is written and read again as the same.
pub(crate) fn domain_xml(text: &str) {
    let Ok(domain) = Element::read(text) else {
        return;
    };
    let devices = Devices::of(&domain);
    let disks = domain
        .child("devices")
        .into_iter()
        .flat_map(|devices| devices.children_named("disk"));
    for (element, disk) in disks.zip(&devices.disks) {
        assert_eq!(disk.readonly, element.child("readonly").is_some());
        if let (Some(alias), Some(source)) = (&disk.alias, &disk.source) {
            let plan = DiskPlan {
                alias: alias.clone(),
                source: source.clone(),
                sequence: None,
                target: disk.target.clone(),
                xml: String::new(),
                scope: Scope::Live,
                dialect: Dialect::Qemu,
                left_out: Vec::new(),
            };
            assert!(devices.find(&plan).is_some());
        }
    }
    if let Ok(written) = domain.write()
        && is_named(&domain)
    {
        let again = Element::read(&written);
        assert!(
            again.is_ok_and(|again| Devices::of(&again) == devices),
            "{written}"
        );
    }
}

/// Whether every name is one: the reader takes any, and what is written has ours.
fn is_named(element: &Element) -> bool {
    let plain = |name: &str| {
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic());
        first
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let names = element.attributes.iter().map(|(name, _)| name.as_str());
    plain(&element.name) && names.into_iter().all(plain) && element.children.iter().all(is_named)
}

/// Any two lines as a volume's path and serial: the XML is refused, or holds both as text and no element that is not the
/// disk's own.
pub(crate) fn disk_xml(text: &str) {
    let (path, serial) = text.split_once('\n').unwrap_or((text, ""));
    let (Ok(attachment), Ok(volume)) = ("a".parse(), "v".parse()) else {
        return;
    };
    let spec = DiskSpec {
        attachment,
        volume,
        path: path.into(),
        kind: SourceKind::File,
        format: ImageFormat::Raw,
        access: Access::ReadOnly,
        keeps_owner: false,
        options: DiskOptions {
            serial: Some(serial.to_owned()).filter(|serial| !serial.is_empty()),
            ..DiskOptions::default()
        },
    };
    let Ok(written) = disk::write(&spec, "vdb", None) else {
        return;
    };
    let read = Element::read(&written);
    assert!(read.is_ok(), "{written}");
    let Ok(element) = read else { return };
    let names: Vec<&str> = element
        .children
        .iter()
        .map(|child| child.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "driver",
            "source",
            "backingStore",
            "target",
            "readonly",
            "serial",
            "alias"
        ],
        "{written}"
    );
    assert!(
        element
            .children
            .iter()
            .all(|child| child.children.is_empty()),
        "{written}"
    );
    let view = DiskView::of(&element, Dialect::Qemu);
    assert_eq!(
        view.source.as_deref(),
        Some(spec.path.as_path()),
        "{written}"
    );
    assert_eq!(
        view.serial.as_deref(),
        Some(if serial.is_empty() { "v" } else { serial })
    );
    assert!(view.readonly && view.alias.as_deref() == Some("ua-volattach-a"));
}
