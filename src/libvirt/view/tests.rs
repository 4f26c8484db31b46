use proptest::prelude::*;

use super::*;
use crate::libvirt::xml::tests::xml_text;

/// Cut down from `virsh dumpxml` of a running domain (libvirt 9.0).
const RUNNING: &str = "<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>a &amp; b</name>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/img/a&amp;b.raw' index='2'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
      <serial>s1</serial>
      <alias name='ua-v1'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='block' device='lun'>
      <source dev='/dev/sdx'/>
      <target dev='sda' bus='scsi'/>
      <alias name='scsi0-0-0-3'/>
      <address type='drive' controller='0' bus='0' target='0' unit='3'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='hda' bus='sata'/>
      <readonly/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <controller type='scsi' index='0' model='virtio-scsi'>
      <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
    </controller>
    <controller type='scsi' index='1' model='lsilogic'/>
    <controller type='sata' index='0'><address type='pci' domain='0' bus='0' slot='31' function='2'/></controller>
    <hostdev mode='subsystem' type='scsi'>
      <address type='drive' controller='0' bus='0' target='0' unit='4'/>
    </hostdev>
    <interface type='user'><address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>
    <serial type='pty'><target type='isa-serial' port='0'/></serial>
  </devices>
</domain>";

fn unit(unit: u32) -> DiskAddress {
    DiskAddress::Drive {
        controller: 0,
        bus: 0,
        target: 0,
        unit,
    }
}

fn plan(alias: &str, source: &str) -> DiskPlan {
    DiskPlan {
        alias: alias.into(),
        source: source.into(),
        sequence: None,
        target: "vda".into(),
        xml: String::new(),
        scope: Scope::Live,
        dialect: Dialect::Qemu,
        left_out: Vec::new(),
    }
}

#[test]
fn a_running_domain() {
    let devices = Devices::read(RUNNING).unwrap();
    assert_eq!(devices.machine, "pc-q35-7.2");
    assert_eq!(devices.virtio_scsi, [0]);
    // The SATA drive's unit 0 is on another controller.
    assert_eq!(devices.scsi, [unit(3), unit(4)]);
    let pci: Vec<String> = devices.pci.iter().map(ToString::to_string).collect();
    assert_eq!(
        pci,
        [
            "pci:0000:04:00.0",
            "pci:0000:02:00.0",
            "pci:0000:00:1f.2",
            "pci:0000:01:00.0"
        ]
    );
    assert_eq!(
        devices.find(&plan("ua-v1", "/img/a&b.raw")),
        Some(&DiskView {
            target: "vda".into(),
            bus: "virtio".into(),
            alias: Some("ua-v1".into()),
            serial: Some("s1".into()),
            source: Some("/img/a&b.raw".into()),
            readonly: true,
            address: Some("pci:0000:04:00.0".parse().unwrap()),
            tune: None,
        })
    );
    assert_eq!(devices.disks[1].source, Some("/dev/sdx".into()));
    assert_eq!(devices.disks[2].source, None);
    assert_eq!(devices.find(&plan("ua-v2", "/img/a&b.raw")), None);
    // Another attachment's or program's disk, with the same alias.
    assert_eq!(devices.find(&plan("ua-v1", "/img/b.raw")), None);
    // The first disk has the planned target.
    assert!(devices.has_another_at(&plan("ua-volattach-a1", "/img/a&b.raw")));
    assert!(!devices.has_another_at(&plan("ua-v1", "/img/a&b.raw")));
}

#[test]
fn what_is_unknown_is_left_out() {
    let odd = "<domain><devices><disk/><disk><target/><address type='pci' slot='zz'/></disk>\
        <controller type='scsi' model='virtio-scsi' index='-1'/></devices></domain>";
    let devices = Devices::read(odd).unwrap();
    assert_eq!(devices.disks, [DiskView::default(), DiskView::default()]);
    assert_eq!((devices.virtio_scsi.len(), devices.pci.len()), (0, 0));
    assert_eq!(Devices::read("<domain/>").unwrap(), Devices::default());
    assert!(Devices::read("libvirt").is_err());
}

proptest! {
    #[test]
    fn reading_never_panics(cut in 0..RUNNING.len(), insert in "[<>/'\" a-z0-9x&;=-]{0,8}", skip in 0usize..20, text in xml_text()) {
        let (head, tail) = RUNNING.split_at(cut);
        let _ = Devices::read(&format!("{head}{insert}{}", tail.get(skip..).unwrap_or_default()));
        let _ = Devices::read(&text);
    }
}

/// Labels as libvirt 9.0 writes them of running domains.
#[test]
fn a_domain_that_selinux_confines_is_told() {
    let confined = |labels: &str| {
        let document = format!("<domain type='kvm'><devices/>{labels}</domain>");
        Devices::read(&document).unwrap().confined
    };
    let selinux = |kind: &str, label: &str| {
        format!(
            "<seclabel type='{kind}' model='selinux' relabel='yes'><label>{label}</label></seclabel>"
        )
    };
    let dac =
        "<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel>";
    let svirt = "system_u:system_r:svirt_t:s0:c132,c392";
    assert!(confined(&selinux("dynamic", svirt)));
    assert!(confined(&format!(
        "{}{dac}",
        selinux("static", "system_u:system_r:svirt_tcg_t:s0")
    )));
    assert!(!confined(dac));
    assert!(!confined("<seclabel type='none' model='selinux'/>"));
    assert!(!confined(&selinux(
        "static",
        "system_u:system_r:unconfined_t:s0"
    )));
    assert!(!confined(""));
}

#[test]
fn a_profile_is_known_by_the_label() {
    let says = |labels: &str| {
        profiled(&Element::read(&format!("<domain type='kvm'>{labels}</domain>")).unwrap())
    };
    for (labels, expected) in [
        ("", None),
        ("<seclabel model='dac' type='dynamic' relabel='yes'/>", None),
        ("<seclabel model='selinux' type='dynamic'/>", None),
        ("<seclabel type='none'/>", Some(false)),
        ("<seclabel type='none' model='none'/>", Some(false)),
        ("<seclabel type='none' model='apparmor'/>", Some(false)),
        ("<seclabel type='dynamic' model='apparmor'/>", Some(true)),
        (
            "<seclabel model='dac' type='none'/><seclabel type='dynamic' model='apparmor' relabel='yes'/>",
            Some(true),
        ),
        (
            "<seclabel type='dynamic' model='apparmor' relabel='no'/>",
            Some(false),
        ),
        ("<seclabel type='static' model='apparmor'/>", Some(false)),
        (
            "<seclabel type='static' model='apparmor' relabel='yes'/>",
            Some(true),
        ),
    ] {
        assert_eq!(says(labels), expected, "{labels}");
    }
}
