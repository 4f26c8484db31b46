use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::libvirt::plan_disk;
use crate::libvirt::view::Devices;
use crate::libvirt::xml::tests::xml_text;
use crate::model::{Access, Cache, Dialect, Discard, DiskOptions, DiskPlan, Reason, SourceKind};

fn spec(options: DiskOptions) -> DiskSpec {
    DiskSpec {
        attachment: "a1".parse().unwrap(),
        volume: "v1".parse().unwrap(),
        path: "/var/lib/volattach/mnt/1f/v1".into(),
        kind: SourceKind::File,
        format: ImageFormat::Raw,
        access: Access::ReadWrite,
        keeps_owner: true,
        options,
    }
}

/// A domain of Xen's with these `<disk>`s.
fn view(disks: &str) -> DomainView {
    let document = format!("<domain type='xen'><devices>{disks}</devices></domain>");
    let mut view = DomainView::empty(Dialect::Xen);
    view.domain.name = "web".into();
    view.device_model = false;
    view.live = Devices::read(&document).unwrap();
    view
}

fn planned(view: &DomainView, spec: &DiskSpec) -> Result<DiskPlan, (Reason, String)> {
    plan_disk(view, spec).map_err(|error| (error.reason(), error.to_string()))
}

fn refused(options: DiskOptions) -> String {
    let (reason, text) = planned(&view(""), &spec(options)).unwrap_err();
    assert_eq!(reason, Reason::DiskOptionInvalid);
    text
}

#[test]
fn a_file_for_the_kernel_and_an_image_for_the_device_model() {
    let plan = planned(&view(""), &spec(DiskOptions::default())).unwrap();
    assert_snapshot!(plan.xml, @r#"
<disk type="file" device="disk">
  <driver name="phy" type="raw"/>
  <source file="/var/lib/volattach/mnt/1f/v1"/>
  <target dev="xvda" bus="xen"/>
  <serial>ua-volattach-a1</serial>
</disk>
"#);
    let mut with_model = view("");
    with_model.device_model = true;
    let image = DiskSpec {
        format: ImageFormat::Qcow2,
        ..spec(DiskOptions {
            discard: Some(Discard::Unmap),
            ..DiskOptions::default()
        })
    };
    let plan = planned(&with_model, &image).unwrap();
    assert_snapshot!(plan.xml.lines().nth(1).unwrap(), @r#"  <driver name="qemu" type="qcow2" discard="unmap"/>"#);
}

#[test]
fn a_read_only_block_device() {
    let spec = DiskSpec {
        kind: SourceKind::Block,
        path: "/dev/sdb".into(),
        access: Access::ReadOnly,
        ..spec(DiskOptions::default())
    };
    let plan = planned(&view(""), &spec).unwrap();
    assert_snapshot!(plan.xml, @r#"
<disk type="block" device="disk">
  <driver name="phy" type="raw"/>
  <source dev="/dev/sdb"/>
  <target dev="xvda" bus="xen"/>
  <readonly/>
  <serial>ua-volattach-a1</serial>
</disk>
"#);
}

#[test]
fn images_that_xen_would_report_as_plugged_in_and_not_show() {
    let format = |device_model, format, access| {
        let mut view = view("");
        view.device_model = device_model;
        let spec = DiskSpec {
            format,
            access,
            ..spec(DiskOptions::default())
        };
        let (reason, text) = planned(&view, &spec).unwrap_err();
        assert_eq!(reason, Reason::FormatUnsupported);
        text
    };
    assert_snapshot!(format(false, ImageFormat::Qcow2, Access::ReadWrite), @"a volume of format qcow2 cannot be plugged in: it takes a device model (QEMU), and none runs for the domain: attach a raw image, or use a domain that has one (HVM, or with a <graphics> device)");
    assert_snapshot!(format(true, ImageFormat::Vpc, Access::ReadOnly), @"a volume of format vpc cannot be plugged in: Xen's device model serves no image read-only: attach a raw one");
    assert_snapshot!(format(true, ImageFormat::Vmdk, Access::ReadWrite), @"a volume of format vmdk cannot be plugged in: Xen serves raw volumes, and qcow2 and vpc images where a device model runs");
}

#[test]
fn what_the_guest_would_miss_is_refused() {
    let options = DiskOptions::default;
    assert_snapshot!(refused(DiskOptions { bus: Some(Bus::Virtio), ..options() }), @r#"disk option bus "virtio" is invalid: a Xen domain takes no disk while it runs but on the bus xen: leave it out"#);
    assert_snapshot!(refused(DiskOptions { target: Some("vdb".into()), ..options() }), @r#"disk option target "vdb" is invalid: on the xen bus it is xvd and one to 3 letters, such as xvdb"#);
    assert_snapshot!(refused(DiskOptions { boot_order: Some(1), ..options() }), @r#"disk option boot_order "1" is invalid: libvirt boots Xen's domains by <os><boot> alone: leave it out"#);
    assert_snapshot!(refused(DiskOptions { address: Some("drive:0:0:0:1".parse().unwrap()), ..options() }), @r#"disk option address "drive:0:0:0:1" is invalid: a Xen disk has none: its target is its place"#);
    let qemu = DomainView::empty(Dialect::Qemu);
    let xen = spec(DiskOptions {
        bus: Some(Bus::Xen),
        ..options()
    });
    assert_snapshot!(planned(&qemu, &xen).unwrap_err().1, @r#"disk option bus "xen" is invalid: only Xen's domains have it: use virtio or scsi, or leave it out"#);
}

#[test]
fn what_tunes_is_left_out_and_named() {
    let all = spec(DiskOptions {
        cache: Some(Cache::None),
        io: Some("native".parse().unwrap()),
        detect_zeroes: Some("on".parse().unwrap()),
        serial: Some("s".into()),
        shareable: true,
        iotune: Some(IoTune {
            total_iops_sec: Some(5),
            ..IoTune::default()
        }),
        logical_block_size: Some(512),
        physical_block_size: Some(4096),
        ..DiskOptions::default()
    });
    let plan = planned(&view(""), &all).unwrap();
    assert_eq!(
        plan.left_out.join(" "),
        "cache io detect_zeroes serial shareable iotune logical_block_size physical_block_size"
    );
    let plain = planned(&view(""), &spec(DiskOptions::default())).unwrap();
    assert_eq!(plan.xml, plain.xml);
    assert!(plain.left_out.is_empty());
}

/// What a guest with an emulated disk, a partition and a disk of another volume sees.
const DISKS: &str = "<disk type='file'><source file='/a'/><target dev='hda' bus='ide'/></disk>
     <disk type='file'><source file='/b'/><target dev='xvdb1' bus='xen'/></disk>
     <disk type='file'><source file='/c'/><target dev='xvdc' bus='xen'/><readonly/><serial>ua-volattach-a3</serial></disk>";

#[test]
fn a_place_is_taken_by_any_name() {
    let view = view(DISKS);
    let at = |target: &str| {
        let target = Some(target.to_owned());
        planned(
            &view,
            &spec(DiskOptions {
                target,
                ..DiskOptions::default()
            }),
        )
    };
    assert_eq!(
        planned(&view, &spec(DiskOptions::default()))
            .unwrap()
            .target,
        "xvdd"
    );
    assert_snapshot!(at("xvda").unwrap_err().1, @"target xvda of domain web (00000000-0000-0000-0000-000000000000) is taken by the disk of /a; choose another, or none to get the first that is free");
    assert_eq!(at("xvdb").unwrap_err().0, Reason::TargetInUse);
    assert_snapshot!(at("xvdc").unwrap_err().1, @"target xvdc of domain web (00000000-0000-0000-0000-000000000000) is taken by disk ua-volattach-a3; choose another, or none to get the first that is free");
    assert_eq!(at("xvde").unwrap().target, "xvde");
}

#[test]
fn a_domain_writes_to_a_volume_by_one_disk_alone() {
    let view = view(DISKS);
    let of = |path: &str, access| {
        let spec = DiskSpec {
            path: path.into(),
            access,
            ..spec(DiskOptions::default())
        };
        planned(&view, &spec).map(|plan| plan.target)
    };
    assert_snapshot!(of("/b", Access::ReadWrite).unwrap_err().1, @"domain web (00000000-0000-0000-0000-000000000000) already has the disk of /b, at target xvdb1; detach it first");
    assert_eq!(
        of("/c", Access::ReadWrite).unwrap_err().0,
        Reason::VolumeInUse
    );
    assert_eq!(of("/c", Access::ReadOnly).unwrap(), "xvdd");
    let mut elsewhere = self::view("");
    elsewhere.elsewhere = view
        .live
        .disks
        .iter()
        .map(|disk| (7, disk.clone()))
        .collect();
    let other = |access, shareable| {
        let options = DiskOptions {
            shareable,
            ..DiskOptions::default()
        };
        let spec = DiskSpec {
            path: "/c".into(),
            access,
            ..spec(options)
        };
        planned(&elsewhere, &spec).map_err(|(_, text)| text)
    };
    assert_snapshot!(other(Access::ReadWrite, false).unwrap_err(), @"domain number 7 already has disk ua-volattach-a3, at target xvdc; detach it first");
    assert!(other(Access::ReadWrite, true).is_ok());
    assert!(other(Access::ReadOnly, false).is_ok());
    let again = DiskSpec {
        attachment: "a3".parse().unwrap(),
        ..spec(DiskOptions::default())
    };
    assert_eq!(planned(&view, &again).unwrap_err().0, Reason::VolumeInUse);
}

proptest! {
    #[test]
    fn any_path_is_read_back(path in xml_text()) {
        let spec = DiskSpec { path: format!("/{path}").into(), ..spec(DiskOptions::default()) };
        let plan = planned(&view(""), &spec).unwrap();
        let shown = view(&plan.xml);
        prop_assert_eq!(shown.live.disks[0].source.as_ref(), Some(&spec.path));
        prop_assert!(shown.shows(&plan));
    }
}
