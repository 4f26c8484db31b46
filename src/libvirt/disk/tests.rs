use std::path::PathBuf;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::libvirt::xml::tests::xml_text;
use crate::model::{Access, DetectZeroes, Discard, IoTune, Reason};

fn spec(options: DiskOptions) -> DiskSpec {
    DiskSpec {
        attachment: "att-1".parse().unwrap(),
        volume: "6f2a7f52-3b1f-4d6c-9f0e-0d9f6f6a3c11".parse().unwrap(),
        path: PathBuf::from("/var/lib/volattach/mnt/1f/vol.raw"),
        kind: SourceKind::File,
        format: ImageFormat::Raw,
        access: Access::ReadWrite,
        keeps_owner: false,
        options,
    }
}

fn refused(options: DiskOptions) -> String {
    let error = write(&spec(options), "vdb", None).unwrap_err();
    assert_eq!(error.reason(), Reason::DiskOptionInvalid);
    error.to_string()
}

#[test]
fn a_read_only_file_on_virtio() {
    let spec = DiskSpec {
        access: Access::ReadOnly,
        ..spec(DiskOptions::default())
    };
    assert_snapshot!(write(&spec, "vdb", None).unwrap(), @r#"
<disk type="file" device="disk">
  <driver name="qemu" type="raw" cache="none"/>
  <source file="/var/lib/volattach/mnt/1f/vol.raw"/>
  <backingStore/>
  <target dev="vdb" bus="virtio"/>
  <readonly/>
  <serial>6f2a7f52-3b1f-4d6c-9f0e-0d9f6f6a3c11</serial>
  <alias name="ua-volattach-att-1"/>
</disk>
"#);
}

#[test]
fn a_shared_device_on_scsi_with_every_option() {
    let spec = DiskSpec {
        path: PathBuf::from("/dev/vg/a&b"),
        kind: SourceKind::Block,
        ..spec(DiskOptions {
            bus: Some(Bus::Scsi),
            target: None,
            cache: Some(Cache::Directsync),
            io: Some(IoMode::Native),
            discard: Some(Discard::Unmap),
            detect_zeroes: Some(DetectZeroes::Unmap),
            serial: Some("A.1".into()),
            shareable: true,
            iotune: Some(IoTune {
                total_bytes_sec: Some(1 << 20),
                read_iops_sec: Some(100),
                ..IoTune::default()
            }),
            logical_block_size: Some(512),
            physical_block_size: Some(4096),
            address: None,
            boot_order: Some(2),
            scope: crate::model::Scope::Live,
            error_policy: Some(ErrorPolicy::Enospace),
            rerror_policy: None,
        })
    };
    let address = DiskAddress::Drive {
        controller: 1,
        bus: 0,
        target: 0,
        unit: 5,
    };
    assert_snapshot!(write(&spec, "sda", Some(address)).unwrap(), @r#"
<disk type="block" device="disk">
  <driver name="qemu" type="raw" cache="directsync" io="native" discard="unmap" detect_zeroes="unmap" error_policy="enospace" rerror_policy="report"/>
  <source dev="/dev/vg/a&amp;b"/>
  <backingStore/>
  <target dev="sda" bus="scsi"/>
  <iotune>
    <total_bytes_sec>1048576</total_bytes_sec>
    <read_iops_sec>100</read_iops_sec>
  </iotune>
  <blockio logical_block_size="512" physical_block_size="4096"/>
  <boot order="2"/>
  <shareable/>
  <serial>A.1</serial>
  <alias name="ua-volattach-att-1"/>
  <address type="drive" controller="1" bus="0" target="0" unit="5"/>
</disk>
"#);
}

#[test]
fn a_pci_address() {
    let address = "pci:0000:0a:1f.7".parse().unwrap();
    let xml = write(&spec(DiskOptions::default()), "vdb", Some(address)).unwrap();
    let line = xml.lines().find(|line| line.contains("<address")).unwrap();
    assert_snapshot!(line, @r#"  <address type="pci" domain="0x0000" bus="0x0a" slot="0x1f" function="0x7"/>"#);
}

#[test]
fn options_that_cannot_work_are_refused() {
    assert_snapshot!(refused(DiskOptions {
        io: Some(IoMode::Native),
        cache: Some(Cache::Writeback),
        ..DiskOptions::default()
    }), @r#"disk option io "native" is invalid: it needs cache none or directsync, and cache is writeback"#);
    assert_snapshot!(refused(DiskOptions { serial: Some("a b".into()), ..DiskOptions::default() }), @r#"disk option serial "a b" is invalid: use the characters A-Z a-z 0-9 - _ . +"#);
    assert_snapshot!(refused(DiskOptions { serial: Some(String::new()), ..DiskOptions::default() }), @r#"disk option serial "" is invalid: use the characters A-Z a-z 0-9 - _ . +"#);
    assert_snapshot!(refused(DiskOptions {
        bus: Some(Bus::Scsi),
        serial: Some("x".repeat(37)),
        ..DiskOptions::default()
    }), @r#"disk option serial "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" is invalid: a scsi disk's serial has at most 36 characters (by default it is the volume id)"#);
    assert_snapshot!(refused(DiskOptions { boot_order: Some(0), ..DiskOptions::default() }), @r#"disk option boot_order "0" is invalid: the first place is 1"#);
    assert_snapshot!(refused(DiskOptions { logical_block_size: Some(1000), ..DiskOptions::default() }), @r#"disk option logical_block_size "1000" is invalid: use a power of two from 512 to 2097152 bytes"#);
    assert_snapshot!(refused(DiskOptions {
        logical_block_size: Some(4096),
        physical_block_size: Some(512),
        ..DiskOptions::default()
    }), @r#"disk option logical_block_size "4096" is invalid: it must not exceed physical_block_size, which is 512"#);
    assert_snapshot!(refused(DiskOptions {
        iotune: Some(IoTune {
            total_iops_sec: Some(1),
            write_iops_sec: Some(1),
            ..IoTune::default()
        }),
        ..DiskOptions::default()
    }), @r#"disk option iotune "total_iops_sec" is invalid: it excludes read_iops_sec and write_iops_sec: leave out either"#);
    assert_snapshot!(refused(DiskOptions {
        iotune: Some(IoTune { size_iops_sec: Some(u64::MAX), ..IoTune::default() }),
        ..DiskOptions::default()
    }), @r#"disk option iotune "size_iops_sec 18446744073709551615" is invalid: the most is 1000000000000000"#);
    let shared = DiskSpec {
        format: ImageFormat::Qcow2,
        ..spec(DiskOptions {
            shareable: true,
            ..DiskOptions::default()
        })
    };
    assert_snapshot!(write(&shared, "vdb", None).unwrap_err(), @r#"disk option shareable "true" is invalid: several writers would corrupt a qcow2 image: only raw can be shared for writing"#);
    assert!(
        write(
            &DiskSpec {
                access: Access::ReadOnly,
                ..shared
            },
            "vdb",
            None
        )
        .is_ok()
    );
}

#[test]
fn paths_that_xml_cannot_carry_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let mut bad = spec(DiskOptions::default());
    bad.path = PathBuf::from("/a\u{1}b");
    assert_snapshot!(write(&bad, "vdb", None).unwrap_err(), @r#"disk option path "/a\u{1}b" is invalid: it holds a character that XML cannot carry: rename the file"#);
    bad.path = PathBuf::from(std::ffi::OsString::from_vec(vec![b'/', 0xff]));
    assert_eq!(
        write(&bad, "vdb", None).unwrap_err().reason(),
        Reason::DiskOptionInvalid
    );
}

/// Reads back everything that [`write`] writes.
fn read(xml: &str) -> (DiskSpec, String, Option<DiskAddress>) {
    let disk = Element::read(xml).unwrap();
    let driver = disk.child("driver").unwrap();
    let source = disk.child("source").unwrap();
    let target = disk.child("target").unwrap();
    let blockio = disk.child("blockio");
    let (kind, path) = match disk.attribute("type").unwrap() {
        "file" => (SourceKind::File, source.attribute("file")),
        "block" => (SourceKind::Block, source.attribute("dev")),
        other => panic!("type {other}"),
    };
    let size = |name: &str| {
        blockio
            .and_then(|e| e.attribute(name))
            .map(|v| v.parse().unwrap())
    };
    let spec = DiskSpec {
        attachment: disk.child("alias").unwrap().attribute("name").unwrap()
            ["ua-volattach-".len()..]
            .parse()
            .unwrap(),
        volume: spec(DiskOptions::default()).volume,
        path: path.unwrap().into(),
        kind,
        format: driver.attribute("type").unwrap().parse().unwrap(),
        access: match disk.child("readonly") {
            Some(_) => Access::ReadOnly,
            None => Access::ReadWrite,
        },
        keeps_owner: false,
        options: DiskOptions {
            bus: target.attribute("bus").map(|v| v.parse().unwrap()),
            target: None,
            cache: driver.attribute("cache").map(|v| v.parse().unwrap()),
            io: driver.attribute("io").map(|v| v.parse().unwrap()),
            discard: driver.attribute("discard").map(|v| v.parse().unwrap()),
            detect_zeroes: driver
                .attribute("detect_zeroes")
                .map(|v| v.parse().unwrap()),
            serial: disk.child("serial").map(|e| e.text.clone()),
            shareable: disk.child("shareable").is_some(),
            iotune: disk.child("iotune").map(|e| {
                let mut tune = IoTune::default();
                for limit in &e.children {
                    match limit.name.as_str() {
                        "group_name" => tune.group_name = Some(limit.text.clone()),
                        name => assert!(tune.set(name, limit.text.parse().unwrap())),
                    }
                }
                tune
            }),
            logical_block_size: size("logical_block_size"),
            physical_block_size: size("physical_block_size"),
            address: None,
            boot_order: disk
                .child("boot")
                .map(|e| e.attribute("order").unwrap().parse().unwrap()),
            scope: crate::model::Scope::Live,
            error_policy: driver.attribute("error_policy").map(|v| v.parse().unwrap()),
            rerror_policy: driver
                .attribute("rerror_policy")
                .map(|v| v.parse().unwrap()),
        },
    };
    let number = |e: &Element, name: &str| {
        let text = e.attribute(name).unwrap();
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
            None => text.parse().unwrap(),
        }
    };
    let address = disk
        .child("address")
        .map(|e| match e.attribute("type").unwrap() {
            "pci" => DiskAddress::Pci {
                domain: number(e, "domain").try_into().unwrap(),
                bus: number(e, "bus").try_into().unwrap(),
                slot: number(e, "slot").try_into().unwrap(),
                function: number(e, "function").try_into().unwrap(),
            },
            _ => DiskAddress::Drive {
                controller: number(e, "controller"),
                bus: number(e, "bus"),
                target: number(e, "target"),
                unit: number(e, "unit"),
            },
        });
    (spec, target.attribute("dev").unwrap().to_owned(), address)
}

/// Limits that QEMU can have.
fn any_limits() -> impl Strategy<Value = IoTune> {
    use prop::option::of;
    let limit = of((1..=1_000_000u64, 0..=1_000_000u64, of(1..=100u64)));
    let group = of("[-A-Za-z0-9_.]{1,64}");
    (
        any::<bool>(),
        prop::array::uniform6(limit),
        of(1u64..4096),
        group,
    )
        .prop_map(|(split, limits, size, group)| {
            let mut tune = IoTune {
                size_iops_sec: size,
                ..IoTune::default()
            };
            let ways = ["total", "read", "write"];
            let keys = ways.into_iter().flat_map(|way| {
                ["bytes_sec", "iops_sec"].map(|quantity| (way, format!("{way}_{quantity}")))
            });
            for ((way, key), limit) in keys.zip(limits) {
                let Some((limit, more, length)) = limit.filter(|_| (way == "total") != split)
                else {
                    continue;
                };
                tune.set(&key, limit);
                if let Some(length) = length {
                    tune.set(&format!("{key}_max"), limit + more);
                    tune.set(&format!("{key}_max_length"), length);
                }
            }
            tune.size_iops_sec = tune.size_iops_sec.filter(|_| {
                let mut limits = tune.limits();
                limits.any(|(key, _)| key.ends_with("_iops_sec") && key != "size_iops_sec")
            });
            tune.group_name = group.filter(|_| tune.limits().next().is_some());
            tune
        })
}

fn any_options() -> impl Strategy<Value = DiskOptions> {
    use prop::option::of;
    use prop::sample::select;
    let modes = (
        select(vec![Bus::Virtio, Bus::Scsi]),
        select(vec![Cache::None, Cache::Directsync]),
        of(select(vec![
            IoMode::Threads,
            IoMode::Native,
            IoMode::IoUring,
        ])),
        of(select(vec![Discard::Unmap, Discard::Ignore])),
        of(select(vec![
            DetectZeroes::Off,
            DetectZeroes::On,
            DetectZeroes::Unmap,
        ])),
    );
    let policies = of((
        select(vec![
            ErrorPolicy::Stop,
            ErrorPolicy::Report,
            ErrorPolicy::Enospace,
        ]),
        select(vec![ReadErrorPolicy::Stop, ReadErrorPolicy::Report]),
    ));
    let sizes = of((9u32..=15, 15u32..=21));
    let rest = ("[-A-Za-z0-9_.+]{1,36}", any::<bool>(), of(1u32..));
    (modes, any_limits(), sizes, rest, policies).prop_map(|(modes, tune, sizes, rest, policies)| {
        DiskOptions {
            bus: Some(modes.0),
            target: None,
            cache: Some(modes.1),
            io: modes.2,
            discard: modes.3,
            detect_zeroes: modes.4,
            serial: Some(rest.0),
            shareable: rest.1,
            iotune: (tune != IoTune::default()).then_some(tune),
            logical_block_size: sizes.map(|(logical, _)| 1 << logical),
            physical_block_size: sizes.map(|(_, physical)| 1 << physical),
            address: None,
            boot_order: rest.2,
            scope: crate::model::Scope::Live,
            error_policy: policies.map(|(writes, _)| writes),
            rerror_policy: policies.map(|(_, reads)| reads),
        }
    })
}

fn any_address() -> impl Strategy<Value = Option<DiskAddress>> {
    let pci =
        (any::<u16>(), any::<u8>(), 0u8..32, 0u8..8).prop_map(|(domain, bus, slot, function)| {
            DiskAddress::Pci {
                domain,
                bus,
                slot,
                function,
            }
        });
    let drive = any::<[u32; 4]>().prop_map(|[controller, bus, target, unit]| DiskAddress::Drive {
        controller,
        bus,
        target,
        unit,
    });
    prop::option::of(prop_oneof![pci, drive])
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(
        options in any_options(),
        address in any_address(),
        path in xml_text(),
        block: bool,
        read_only: bool,
        format in prop::sample::select(vec![ImageFormat::Raw, ImageFormat::Qcow2]),
    ) {
        let spec = DiskSpec {
            path: PathBuf::from(path),
            kind: if block { SourceKind::Block } else { SourceKind::File },
            access: if read_only { Access::ReadOnly } else { Access::ReadWrite },
            format: if options.shareable { ImageFormat::Raw } else { format },
            ..spec(options)
        };
        let xml = write(&spec, "vdb", address).unwrap();
        prop_assert_eq!(read(&xml), (spec, "vdb".to_owned(), address));
    }

    #[test]
    fn any_serial_is_written_or_refused(serial in prop_oneof![xml_text(), any::<String>()]) {
        let spec = spec(DiskOptions { serial: Some(serial.clone()), ..DiskOptions::default() });
        match write(&spec, "vdb", None) {
            Ok(xml) => prop_assert_eq!(read(&xml).0.options.serial, Some(serial)),
            Err(error) => prop_assert_eq!(error.reason(), Reason::DiskOptionInvalid),
        }
    }
}
