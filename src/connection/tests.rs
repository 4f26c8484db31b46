use std::error::Error;

use proptest::prelude::*;

use super::{Common, ConnectionError, ConnectionInfo};
use crate::model::{AccessSource, IoTune, Reason};

fn fixture(name: &str) -> String {
    let path = format!(
        "{}/tests/data/connection-info/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).unwrap()
}

fn read(name: &str) -> ConnectionInfo {
    ConnectionInfo::from_cinder_json(&fixture(name)).unwrap()
}

/// An error's reason and its whole chain.
fn told(error: &ConnectionError) -> String {
    let mut text = format!("{}: {error}", error.reason());
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

fn refusal(json: &str) -> String {
    told(&ConnectionInfo::from_cinder_json(json).unwrap_err())
}

/// A flat `smbfs` document with these members besides.
fn smb(members: &str) -> String {
    format!(r#"{{"driver_volume_type":"smbfs","export":"//nas/vols","name":"v"{members}}}"#)
}

fn common(members: &str) -> Common {
    ConnectionInfo::from_cinder_json(&smb(members))
        .unwrap()
        .common
}

#[test]
fn every_fixture_is_read_or_refused_as_it_should() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/connection-info");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let outcomes: Vec<String> = names
        .iter()
        .map(|name| {
            let text = fixture(name.strip_suffix(".json").unwrap());
            match ConnectionInfo::from_cinder_json(&text) {
                Ok(_) => format!("{name}: read"),
                Err(error) => format!("{name}: {}", told(&error)),
            }
        })
        .collect();
    insta::assert_snapshot!(outcomes.join("\n"), @r#"
    iscsi.json: read
    local-image.json: read
    local.json: read
    nfs.json: read
    nvmeof-old.json: read
    nvmeof.json: read
    smb-bad-access-mode.json: INVALID_CONNECTION_INFO: connection info's data.access_mode is neither ro nor rw: expected ro or rw
    smb-encrypted.json: ENCRYPTION_UNSUPPORTED: the volume is encrypted (connection info's data.encrypted), which volattach does not do: attach an unencrypted volume
    smb-everything.json: read
    smb-flat.json: read
    smb-kerberos-cruid.json: MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "cruid" is refused: whose Kerberos credentials are used is set by this host's configuration alone (smb.kerberos)
    smb-kerberos.json: read
    smb-nested.json: read
    smb-no-options.json: read
    smb-vhdx.json: FORMAT_UNSUPPORTED: connection info's data.format "vhdx" is not supported: libvirt has no such disk format; convert the volume to raw, qcow2, vhd or vmdk (qemu-img convert)
    "#);
}

#[test]
fn cinders_nested_form_is_read() {
    insta::assert_debug_snapshot!(read("smb-nested"), @r#"
    ConnectionInfo {
        common: Common {
            read_only_by: [
                AccessMode,
            ],
            iotune: None,
            discard: false,
            logical_block_size: None,
            physical_block_size: None,
            multiattach: true,
        },
        protocol: Smb(
            SmbVolume {
                host: "10.0.0.5",
                share: "vols",
                folder: "",
                name: "volume-7c9e6679-7425-40de-944b-e07fc1f90ae7",
                format: Qcow2,
                credentials: Password {
                    username: "bob",
                    password: [redacted],
                    domain: None,
                },
                options: [],
            },
        ),
    }
    "#);
}

#[test]
fn cinders_flat_form_is_read() {
    insta::assert_debug_snapshot!(read("smb-flat"), @r#"
    ConnectionInfo {
        common: Common {
            read_only_by: [],
            iotune: None,
            discard: true,
            logical_block_size: None,
            physical_block_size: None,
            multiattach: false,
        },
        protocol: Smb(
            SmbVolume {
                host: "filer.example.org",
                share: "Volumes",
                folder: "tier 1",
                name: "volume-1.vhd",
                format: Vpc,
                credentials: Guest,
                options: [],
            },
        ),
    }
    "#);
}

#[test]
fn every_key_is_read() {
    insta::assert_debug_snapshot!(read("smb-everything"), @r#"
    ConnectionInfo {
        common: Common {
            read_only_by: [
                Readonly,
                MountOptions,
            ],
            iotune: Some(
                IoTune {
                    total_bytes_sec: Some(
                        1048576,
                    ),
                    read_bytes_sec: None,
                    write_bytes_sec: None,
                    total_iops_sec: None,
                    read_iops_sec: Some(
                        500,
                    ),
                    write_iops_sec: None,
                    total_bytes_sec_max: None,
                    read_bytes_sec_max: None,
                    write_bytes_sec_max: None,
                    total_iops_sec_max: None,
                    read_iops_sec_max: None,
                    write_iops_sec_max: None,
                    size_iops_sec: None,
                    total_bytes_sec_max_length: None,
                    read_bytes_sec_max_length: None,
                    write_bytes_sec_max_length: None,
                    total_iops_sec_max_length: None,
                    read_iops_sec_max_length: None,
                    write_iops_sec_max_length: None,
                    group_name: None,
                },
            ),
            discard: true,
            logical_block_size: Some(
                512,
            ),
            physical_block_size: Some(
                4096,
            ),
            multiattach: false,
        },
        protocol: Smb(
            SmbVolume {
                host: "fd00::5",
                share: "Bände & mehr",
                folder: "ordner",
                name: "größe/volume 1.vmdk",
                format: Vmdk,
                credentials: Password {
                    username: "bob",
                    password: [redacted],
                    domain: Some(
                        "DOM",
                    ),
                },
                options: [
                    (
                        "vers",
                        Some(
                            "3.0.2",
                        ),
                    ),
                    (
                        "seal",
                        None,
                    ),
                ],
            },
        ),
    }
    "#);
}

#[test]
fn nothing_but_the_volume_means_guest_raw_and_no_limits() {
    insta::assert_debug_snapshot!(read("smb-no-options"), @r#"
    ConnectionInfo {
        common: Common {
            read_only_by: [],
            iotune: None,
            discard: false,
            logical_block_size: None,
            physical_block_size: None,
            multiattach: false,
        },
        protocol: Smb(
            SmbVolume {
                host: "nas",
                share: "vols",
                folder: "",
                name: "v",
                format: Raw,
                credentials: Guest,
                options: [],
            },
        ),
    }
    "#);
}

#[test]
fn kerberos_is_read() {
    insta::assert_debug_snapshot!(read("smb-kerberos").protocol, @r#"
    Smb(
        SmbVolume {
            host: "dc1.lab.test",
            share: "vols",
            folder: "",
            name: "v",
            format: Raw,
            credentials: Kerberos {
                sec: "krb5",
                username: None,
                domain: None,
            },
            options: [],
        },
    )
    "#);
}

#[test]
fn local_volumes_are_read() {
    insta::assert_debug_snapshot!((read("local"), read("local-image")), @r#"
    (
        ConnectionInfo {
            common: Common {
                read_only_by: [],
                iotune: None,
                discard: false,
                logical_block_size: None,
                physical_block_size: None,
                multiattach: false,
            },
            protocol: Local(
                LocalVolume {
                    device_path: "/dev/vg/lv",
                    format: Raw,
                },
            ),
        },
        ConnectionInfo {
            common: Common {
                read_only_by: [
                    Readonly,
                ],
                iotune: None,
                discard: false,
                logical_block_size: None,
                physical_block_size: None,
                multiattach: false,
            },
            protocol: Local(
                LocalVolume {
                    device_path: "/srv/images/disk.qcow2",
                    format: Qcow2,
                },
            ),
        },
    )
    "#);
}

#[test]
fn any_one_key_on_any_level_makes_it_read_only() {
    let nested = |outer: &str, inner: &str| {
        let text = format!(
            r#"{{"driver_volume_type":"local"{outer},"data":{{"device_path":"/dev/x"{inner}}}}}"#
        );
        ConnectionInfo::from_cinder_json(&text)
            .unwrap()
            .common
            .read_only_by
    };
    use AccessSource::{AccessMode, AttachMode, Readonly};
    assert_eq!(nested("", ""), []);
    assert_eq!(nested("", r#","access_mode":"rw","readonly":"False""#), []);
    assert_eq!(nested("", r#","access_mode":"ro""#), [AccessMode]);
    assert_eq!(
        nested(r#","access_mode":"ro""#, r#","access_mode":"rw""#),
        [AccessMode]
    );
    assert_eq!(
        nested("", r#","readonly":true,"access_mode":"rw""#),
        [Readonly]
    );
    assert_eq!(nested(r#","readonly":"True""#, ""), [Readonly]);
    assert_eq!(
        nested(
            r#","readonly":true,"access_mode":"ro""#,
            r#","access_mode":"ro","readonly":"true""#
        ),
        [AccessMode, Readonly]
    );
    // The answer of Cinder 29 for an attachment with mode: ro.
    assert_eq!(
        nested("", r#","access_mode":"rw","attach_mode":"ro""#),
        [AttachMode]
    );
    assert_eq!(
        nested(
            r#","attach_mode":"ro","readonly":true"#,
            r#","access_mode":"ro""#
        ),
        [AccessMode, AttachMode, Readonly]
    );
    for nothing in [r#""rw""#, r#""null""#, "null"] {
        assert_eq!(nested(&format!(r#","attach_mode":{nothing}"#), ""), []);
    }
    let options = common(r#","options":"-o rw,ro""#).read_only_by;
    assert_eq!(options, [AccessSource::MountOptions]);
}

#[test]
fn limits_are_numbers_or_digits_and_nought_is_none() {
    let limits = common(
        r#","qos_specs":{"read_bytes_sec":"18446744073709551615","total_iops_sec":0,"vendor":"x"}"#,
    );
    let expected = IoTune {
        read_bytes_sec: Some(u64::MAX),
        ..IoTune::default()
    };
    assert_eq!(limits.iotune, Some(expected));
    assert_eq!(common(r#","qos_specs":{}"#).iotune, None);
    assert_eq!(
        common(r#","qos_specs":{"consumer":"back-end","total_iops_sec":5}"#).iotune,
        None
    );
}

#[test]
fn data_of_null_is_the_flat_form() {
    let flat = r#"{"driver_volume_type":"smbfs","export":"//n/s","name":"v"}"#;
    let null = flat.replace("{", r#"{"data":null,"#);
    assert_eq!(
        ConnectionInfo::from_cinder_json(&null).unwrap(),
        ConnectionInfo::from_cinder_json(flat).unwrap()
    );
}

#[test]
fn what_is_malformed_is_told_by_key_and_never_by_value() {
    let documents = [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        " ".repeat(70_000),
        "[".repeat(10_000),
        r#"{"driver_volume_type":5}"#.to_owned(),
        r#"{"driver_volume_type":""}"#.to_owned(),
        r#"{"driver_volume_type":"smbfs","data":[]}"#.to_owned(),
        r#"{"driver_volume_type":"smbfs","data":"x","export":"//n/s","name":"v"}"#.to_owned(),
        r#"{"driver_volume_type":"smbfs","data":{}}"#.to_owned(),
        r#"{"driver_volume_type":"smbfs","data":{"export":"//n/s"}}"#.to_owned(),
        r#"{"driver_volume_type":"smbfs","data":{"export":"//n/s","name":null}}"#.to_owned(),
        r#"{"driver_volume_type":"smbfs","data":{"export":["//n/s"],"name":"v"}}"#.to_owned(),
        r#"{"driver_volume_type":"local"}"#.to_owned(),
        r#"{"driver_volume_type":"local","device_path":""}"#.to_owned(),
        r#"{"driver_volume_type":"local","device_path":"dev/x"}"#.to_owned(),
        r#"{"driver_volume_type":"local","device_path":"/dev/../etc/shadow"}"#.to_owned(),
        r#"{"driver_volume_type":"local","device_path":"//"}"#.to_owned(),
        r#"{"driver_volume_type":"local","device_path":"/dev/x","encrypted":"True"}"#.to_owned(),
        smb(r#","format":"vdi""#),
        smb(r#","format":7"#),
        smb(r#","options":["ro"]"#),
        smb(r#","access_mode":true"#),
        smb(r#","access_mode":"""#),
        smb(r#","attach_mode":"r""#),
        smb(r#","readonly":"yes""#),
        smb(r#","readonly":1"#),
        smb(r#","multiattach":"maybe""#),
        smb(r#","discard":{}"#),
        smb(r#","qos_specs":"none""#),
        smb(r#","qos_specs":{"total_bytes_sec":"1e6"}"#),
        smb(r#","qos_specs":{"total_bytes_sec":-1}"#),
        smb(r#","qos_specs":{"total_bytes_sec":1.5}"#),
        smb(r#","qos_specs":{"total_bytes_sec":"18446744073709551616"}"#),
        smb(r#","logical_block_size":"513""#),
        smb(r#","logical_block_size":99999999999"#),
        smb(r#","physical_block_size":256"#),
        smb(r#","logical_block_size":4096,"physical_block_size":512"#),
    ];
    let refusals: Vec<String> = documents.iter().map(|json| refusal(json)).collect();
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    INVALID_CONNECTION_INFO: connection info is not JSON (line 1, column 0): send the object that Cinder gives
    INVALID_CONNECTION_INFO: connection info is not JSON (line 1, column 1): send the object that Cinder gives
    INVALID_CONNECTION_INFO: connection info's document is not a JSON object: expected the object that Cinder gives, with driver_volume_type
    INVALID_CONNECTION_INFO: connection info's document is not a JSON object: expected the object that Cinder gives, with driver_volume_type
    INVALID_CONNECTION_INFO: connection info lacks driver_volume_type: expected smbfs, local, iscsi, nvmeof or nfs
    INVALID_CONNECTION_INFO: connection info has 70000 bytes: more than 65536 cannot be right
    INVALID_CONNECTION_INFO: connection info is not JSON (line 1, column 128): send the object that Cinder gives
    INVALID_CONNECTION_INFO: connection info's driver_volume_type is not a string: expected smbfs, local, iscsi, nvmeof or nfs
    PROTOCOL_UNSUPPORTED: driver_volume_type "" is not supported: expected smbfs, local, iscsi, nvmeof or nfs
    INVALID_CONNECTION_INFO: connection info's data is not an object: expected an object
    INVALID_CONNECTION_INFO: connection info's data is not an object: expected an object
    INVALID_CONNECTION_INFO: connection info lacks data.export: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info lacks data.name: expected the volume's file beneath the export
    INVALID_CONNECTION_INFO: connection info lacks data.name: expected the volume's file beneath the export
    INVALID_CONNECTION_INFO: connection info's data.export is not a string: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info lacks device_path: expected an absolute path such as /dev/vg/volume
    INVALID_CONNECTION_INFO: connection info's device_path is empty: expected an absolute path such as /dev/vg/volume
    INVALID_CONNECTION_INFO: connection info's device_path is not absolute: expected an absolute path such as /dev/vg/volume
    VOLUME_PATH_UNSAFE: connection info's device_path has a component `.` or `..`: expected an absolute path such as /dev/vg/volume
    INVALID_CONNECTION_INFO: connection info's device_path is the root directory: expected an absolute path such as /dev/vg/volume
    ENCRYPTION_UNSUPPORTED: the volume is encrypted (connection info's encrypted), which volattach does not do: attach an unencrypted volume
    FORMAT_UNSUPPORTED: connection info's format "vdi" is not supported: expected raw (or none), qcow2, vhd (vpc) or vmdk
    INVALID_CONNECTION_INFO: connection info's format is not a string: expected the image format's name
    INVALID_CONNECTION_INFO: connection info's options is not a string: expected mount options
    INVALID_CONNECTION_INFO: connection info's access_mode is not a string: expected ro or rw
    INVALID_CONNECTION_INFO: connection info's access_mode is neither ro nor rw: expected ro or rw
    INVALID_CONNECTION_INFO: connection info's attach_mode is neither ro nor rw: expected ro or rw
    INVALID_CONNECTION_INFO: connection info's readonly is not a boolean: expected true or false
    INVALID_CONNECTION_INFO: connection info's readonly is not a boolean: expected true or false
    INVALID_CONNECTION_INFO: connection info's multiattach is not a boolean: expected true or false
    INVALID_CONNECTION_INFO: connection info's discard is not a boolean: expected true or false
    INVALID_CONNECTION_INFO: connection info's qos_specs is not an object: expected an object or null
    INVALID_CONNECTION_INFO: connection info's qos_specs.total_bytes_sec is not a whole number: expected a number of 0 or more
    INVALID_CONNECTION_INFO: connection info's qos_specs.total_bytes_sec is not a whole number: expected a number of 0 or more
    INVALID_CONNECTION_INFO: connection info's qos_specs.total_bytes_sec is not a whole number: expected a number of 0 or more
    INVALID_CONNECTION_INFO: connection info's qos_specs.total_bytes_sec is not a whole number: expected a number of 0 or more
    INVALID_CONNECTION_INFO: connection info's logical_block_size is no block size: expected a power of two from 512 to 2097152
    INVALID_CONNECTION_INFO: connection info's logical_block_size is too large: expected a power of two from 512 to 2097152
    INVALID_CONNECTION_INFO: connection info's physical_block_size is no block size: expected a power of two from 512 to 2097152
    INVALID_CONNECTION_INFO: connection info's physical_block_size is below the logical one: expected a power of two from 512 to 2097152
    "#);
}

#[test]
fn typed_fields_are_held_to_the_same_rules() {
    let local = ConnectionInfo::local("/dev/vg/lv", "", Common::default()).unwrap();
    assert_eq!(local.protocol, read("local").protocol);
    let odd = Common {
        logical_block_size: Some(1000),
        ..Common::default()
    };
    let error = ConnectionInfo::local("/dev/vg/lv", "", odd).unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidConnectionInfo);
}

/// Any JSON, with the keys and words that mean something turning up often.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let words = prop_oneof![
        Just("smbfs".to_owned()),
        Just("local".to_owned()),
        Just("//nas/vols".to_owned()),
        Just("-o username=a,password=b".to_owned()),
        Just("ro".to_owned()),
        Just("True".to_owned()),
        Just("512".to_owned()),
        ".{0,20}",
    ];
    let keys = prop_oneof![
        Just("data".to_owned()),
        Just("driver_volume_type".to_owned()),
        Just("export".to_owned()),
        Just("name".to_owned()),
        Just("options".to_owned()),
        Just("format".to_owned()),
        Just("qos_specs".to_owned()),
        Just("total_bytes_sec".to_owned()),
        Just("access_mode".to_owned()),
        Just("attach_mode".to_owned()),
        Just("readonly".to_owned()),
        Just("device_path".to_owned()),
        Just("logical_block_size".to_owned()),
        "[a-z_]{0,8}",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        words.prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 48, 12, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(keys.clone(), inner, 0..12)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn reading_is_total_on_text(text in ".*") {
        let _ = ConnectionInfo::from_cinder_json(&text);
    }

    #[test]
    fn reading_is_total_on_json(value in json(), protocol in "smbfs|local|iscsi|nvmeof|nfs") {
        let _ = ConnectionInfo::from_cinder_json(&value.to_string());
        let wrapped = serde_json::json!({"driver_volume_type": protocol, "data": value});
        if let Err(error) = ConnectionInfo::from_cinder_json(&wrapped.to_string()) {
            prop_assert!(!told(&error).is_empty());
        }
    }
}
