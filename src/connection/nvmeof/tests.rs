use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const UUID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

fn list() -> Value {
    json!({"driver_volume_type": "nvmeof", "target_nqn": "nqn.x", "vol_uuid": UUID, "portals": [["1.1.1.1", "4420", "tcp"]]})
}

fn old() -> Value {
    json!({"driver_volume_type": "nvmeof", "nqn": "nqn.x", "target_portal": "1.1.1.1", "target_port": 4420,
        "transport_type": "tcp", "ns_id": "10"})
}

fn read(document: &Value) -> Result<NvmeVolume, ConnectionError> {
    match ConnectionInfo::from_cinder_json(&document.to_string())?.protocol {
        Protocol::Nvme(volume) => Ok(volume),
        other => panic!("nvmeof became {}", other.name()),
    }
}

fn with(mut document: Value, key: &str, value: Value) -> Value {
    document[key] = value;
    document
}

#[test]
fn both_shapes_are_read_with_numbers_as_strings_too() {
    let volume = read(&with(
        list(),
        "portals",
        json!([
            ["1.1.1.1", "4420", "tcp"],
            ["[fd00::2]", 4421, "TCP"],
            ["1.1.1.1", 4420, "tcp"]
        ]),
    ))
    .unwrap();
    assert_eq!(volume.nqn, "nqn.x");
    let portals: Vec<String> = volume.portals.iter().map(ToString::to_string).collect();
    assert_eq!(portals, ["1.1.1.1:4420", "[fd00::2]:4421"]);
    assert_eq!(
        volume.uuid.map(|uuid| uuid.to_string()).as_deref(),
        Some(UUID)
    );
    let old_shape = read(&with(
        old(),
        "volume_nguid",
        json!(UUID.replace('-', "").to_uppercase()),
    ))
    .unwrap();
    assert_eq!((old_shape.nsid, old_shape.uuid), (Some(10), None));
    assert_eq!(old_shape.nguid, volume.uuid);
    assert_eq!(old_shape.portals, volume.portals[..1]);
    assert_eq!(
        read(&with(old(), "ns_id", json!(10))).unwrap().nsid,
        Some(10)
    );
}

#[test]
fn what_is_malformed_is_told_by_key() {
    let portals = |value: Value| with(list(), "portals", value);
    let documents = [
        with(list(), "target_nqn", json!(null)),
        with(list(), "target_nqn", json!("")),
        with(list(), "target_nqn", json!("iqn.2010-10.org.openstack:x")),
        with(list(), "target_nqn", json!("nqn.x,hostnqn=nqn.other")),
        with(list(), "target_nqn", json!("nqn.x\n")),
        with(
            list(),
            "target_nqn",
            json!(format!("nqn.{}", "x".repeat(220))),
        ),
        with(list(), "host_nqn", json!("me")),
        with(list(), "vol_uuid", json!("1")),
        with(list(), "vol_uuid", json!(5)),
        with(
            list(),
            "vol_uuid",
            json!("00000000-0000-0000-0000-000000000000"),
        ),
        with(list(), "vol_uuid", json!(null)),
        with(list(), "volume_nguid", json!("xyz")),
        portals(json!(null)),
        portals(json!([])),
        portals(json!("1.1.1.1:4420")),
        portals(json!(["1.1.1.1", "4420", "tcp"])),
        portals(json!([["1.1.1.1", "4420"]])),
        portals(json!([["1.1.1.1", "4420", "tcp"], [7, 4420, "tcp"]])),
        portals(json!([["1.1.1.1", "", "tcp"]])),
        portals(json!([["1.1.1.1", "0", "tcp"]])),
        portals(json!([["1.1.1.1", 65536, "tcp"]])),
        portals(json!([["1.1.1.1", -1, "tcp"]])),
        portals(json!([["", 4420, "tcp"]])),
        portals(json!([["fd00::2:4420:x", 4420, "tcp"]])),
        portals(json!([["nas", 4420, "tcp"]])),
        portals(json!([["0.0.0.0", 4420, "tcp"]])),
        portals(json!([
            ["1.1.1.1", "4420", "tcp"],
            ["1.1.1.2", "4420", "RoCEv2"]
        ])),
        with(list(), "volume_replicas", json!([list()])),
        with(old(), "transport_type", json!("rdma")),
        with(old(), "transport_type", json!(null)),
        with(old(), "target_portal", json!("1.1.1.1:4420")),
        with(old(), "target_port", json!(null)),
        with(old(), "target_port", json!("http")),
        with(old(), "nqn", json!(null)),
        with(old(), "ns_id", json!(null)),
        with(old(), "ns_id", json!("-1")),
        with(old(), "ns_id", json!(0)),
        with(old(), "ns_id", json!(4_294_967_295_u64)),
        with(old(), "ns_id", json!("99999999999999999999")),
        with(old(), "dhchap_key", json!("DHHC-1:00:hunter2:")),
        with(old(), "dhchap_ctrl_secret", json!("DHHC-1:00:hunter2:")),
    ];
    let told: Vec<String> = documents
        .iter()
        .map(|document| match read(document) {
            Ok(volume) => format!("{document} was read: {volume:?}"),
            Err(error) => format!("{}: {error}", error.reason()),
        })
        .collect();
    let told = told.join("\n");
    assert!(!told.contains("hunter2"), "{told}");
    insta::assert_snapshot!(told, @r#"
    INVALID_CONNECTION_INFO: connection info lacks target_nqn: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info's target_nqn is not an NQN: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info's target_nqn is not an NQN: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info's target_nqn holds a comma, a space or a control character: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info's target_nqn holds a comma, a space or a control character: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info's target_nqn is longer than 223 bytes: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info's host_nqn is not an NQN: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info's vol_uuid is not 16 bytes in hexadecimal: expected 16 bytes in hexadecimal that are not all zero, as a UUID is written
    INVALID_CONNECTION_INFO: connection info's vol_uuid is not a string: expected 16 bytes in hexadecimal that are not all zero, as a UUID is written
    INVALID_CONNECTION_INFO: connection info's vol_uuid is all zero, which names nothing: expected 16 bytes in hexadecimal that are not all zero, as a UUID is written
    INVALID_CONNECTION_INFO: connection info lacks vol_uuid: expected what tells the volume from others: vol_uuid, volume_nguid or ns_id
    INVALID_CONNECTION_INFO: connection info's volume_nguid is not 16 bytes in hexadecimal: expected 16 bytes in hexadecimal that are not all zero, as a UUID is written
    INVALID_CONNECTION_INFO: connection info lacks portals: expected a list of [address, port, "tcp"], at least one
    INVALID_CONNECTION_INFO: connection info lacks portals: expected a list of [address, port, "tcp"], at least one
    INVALID_CONNECTION_INFO: connection info's portals is not a list: expected a list of [address, port, "tcp"], at least one
    INVALID_CONNECTION_INFO: connection info's portals[0] is not a list of three: expected [address, port, "tcp"]
    INVALID_CONNECTION_INFO: connection info's portals[0] is not a list of three: expected [address, port, "tcp"]
    INVALID_CONNECTION_INFO: connection info's portals[1] has an address or transport that is not a string: expected [address, port, "tcp"]
    INVALID_CONNECTION_INFO: connection info's portals[0] has a port that is not a number: expected [address, port, "tcp"]
    INVALID_CONNECTION_INFO: connection info's portals[0][1] is not a port: expected a port from 1 to 65535, such as 4420
    INVALID_CONNECTION_INFO: connection info's portals[0][1] is not a port: expected a port from 1 to 65535, such as 4420
    INVALID_CONNECTION_INFO: connection info's portals[0] has a port that is not a number: expected [address, port, "tcp"]
    INVALID_CONNECTION_INFO: connection info's portals[0][0] is not an IP address: expected an IPv4 or IPv6 address
    INVALID_CONNECTION_INFO: connection info's portals[0][0] is not an IP address: expected an IPv4 or IPv6 address
    INVALID_CONNECTION_INFO: connection info's portals[0][0] is not an IP address: expected an IPv4 or IPv6 address
    INVALID_CONNECTION_INFO: connection info's portals[0][0] is no server's address: expected an IPv4 or IPv6 address
    PROTOCOL_UNSUPPORTED: connection info's portals[1][2] is "RoCEv2", which volattach does not do: expected tcp (NVMe over RDMA or Fibre Channel needs another agent)
    INVALID_CONNECTION_INFO: connection info's volume_replicas makes one volume of several, which volattach does not do: expected a volume without replicas
    PROTOCOL_UNSUPPORTED: connection info's transport_type is "rdma", which volattach does not do: expected tcp (NVMe over RDMA or Fibre Channel needs another agent)
    INVALID_CONNECTION_INFO: connection info lacks transport_type: expected tcp
    INVALID_CONNECTION_INFO: connection info's target_portal is not an IP address: expected an IPv4 or IPv6 address
    INVALID_CONNECTION_INFO: connection info lacks target_port: expected a port from 1 to 65535, such as 4420
    INVALID_CONNECTION_INFO: connection info's target_port is not a whole number: expected a number of 0 or more
    INVALID_CONNECTION_INFO: connection info lacks nqn: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…
    INVALID_CONNECTION_INFO: connection info lacks vol_uuid: expected what tells the volume from others: vol_uuid, volume_nguid or ns_id
    INVALID_CONNECTION_INFO: connection info's ns_id is not a whole number: expected a number of 0 or more
    INVALID_CONNECTION_INFO: connection info's ns_id is no namespace id: expected a namespace id from 1 to 4294967294
    INVALID_CONNECTION_INFO: connection info's ns_id is no namespace id: expected a namespace id from 1 to 4294967294
    INVALID_CONNECTION_INFO: connection info's ns_id is not a whole number: expected a number of 0 or more
    CREDENTIALS_INVALID: the credentials in connection info's dhchap_key cannot be used: they are for DH-HMAC-CHAP, which this host cannot prove to take place: the kernel may accept the secret, ignore it and connect unauthenticated; export the volume without authentication, to this host's NQN alone
    CREDENTIALS_INVALID: the credentials in connection info's dhchap_ctrl_secret cannot be used: they are for DH-HMAC-CHAP, which this host cannot prove to take place: the kernel may accept the secret, ignore it and connect unauthenticated; export the volume without authentication, to this host's NQN alone
    "#);
}

#[test]
fn a_secret_that_is_none_is_no_reason_to_refuse() {
    for none in [json!(null), json!("")] {
        assert!(read(&with(old(), "dhchap_key", none)).is_ok());
    }
}

#[test]
fn typed_fields_are_held_to_the_same_rules() {
    let good = NvmeFields {
        nqn: "nqn.x".into(),
        portals: vec![("1.1.1.1".into(), 4420)],
        uuid: UUID.into(),
        ..NvmeFields::default()
    };
    let typed = |fields: &NvmeFields| {
        ConnectionInfo::nvme(fields, Common::default()).map(|info| info.protocol)
    };
    assert_eq!(typed(&good), Ok(Protocol::Nvme(read(&list()).unwrap())));
    for bad in [
        NvmeFields {
            nqn: "x".into(),
            ..good.clone()
        },
        NvmeFields {
            portals: vec![],
            ..good.clone()
        },
        NvmeFields {
            portals: vec![("nas".into(), 4420)],
            ..good.clone()
        },
        NvmeFields {
            portals: vec![("1.1.1.1".into(), 70_000)],
            ..good.clone()
        },
        NvmeFields {
            uuid: String::new(),
            ..good.clone()
        },
        NvmeFields {
            nguid: "1".into(),
            ..good.clone()
        },
        NvmeFields {
            nsid: u32::MAX,
            ..good.clone()
        },
        NvmeFields {
            host_nqn: "me".into(),
            ..good.clone()
        },
    ] {
        assert!(typed(&bad).is_err(), "{bad:?}");
    }
}

proptest! {
    /// Whatever is accepted cannot break out of its option in the kernel's connect string.
    #[test]
    fn an_accepted_nqn_is_one_option(name in "(nqn\\.)?[ -~,\\n]{0,240}") {
        if let Ok(volume) = read(&with(list(), "target_nqn", json!(name))) {
            prop_assert!(volume.nqn.starts_with("nqn.") && volume.nqn.len() <= MAX_NQN);
            prop_assert!(!volume.nqn.contains([',', '\n', ' ']));
        }
    }
}
