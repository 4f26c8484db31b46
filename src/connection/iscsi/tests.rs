use proptest::prelude::*;

use super::*;

/// A flat document with these members.
fn parse(members: &str) -> Result<ConnectionInfo, ConnectionError> {
    ConnectionInfo::from_cinder_json(&format!(r#"{{"driver_volume_type":"iscsi",{members}}}"#))
}

fn volume(members: &str) -> IscsiVolume {
    match parse(members).unwrap().protocol {
        Protocol::Iscsi(volume) => volume,
        other => panic!("iscsi became {}", other.name()),
    }
}

fn refusal(members: &str) -> String {
    parse(members).unwrap_err().to_string()
}

/// One portal, and these members besides.
fn one(members: &str) -> String {
    format!(
        r#""target_portal":"10.0.0.1:3260","target_iqn":"iqn.2010-10.org.openstack:v","target_lun":1{members}"#
    )
}

fn path(portal: &str, target: &str, lun: u64) -> IscsiPath {
    IscsiPath {
        portal: portal.parse().unwrap(),
        target: target.into(),
        lun,
    }
}

#[test]
fn one_portal_and_lists_are_read() {
    let single = volume(&one(""));
    assert_eq!(
        single,
        IscsiVolume {
            paths: vec![path("10.0.0.1:3260", "iqn.2010-10.org.openstack:v", 1)],
            chap: None,
            identity: None,
            enforce_multipath: false,
            discovery: None,
        }
    );
    assert_eq!(volume(&one(r#","format":"raw""#)), single);
    // The lists win over the one portal beside them, and one of it twice is one path.
    let lists = r#","target_portals":["10.0.0.1:3260","[fd00::2]","10.0.0.1:3260"],
        "target_iqns":["iqn.a","iqn.b","iqn.a"],"target_luns":[0,"7",0],"enforce_multipath":true"#;
    let several = volume(&one(lists));
    assert_eq!(
        several.paths,
        [
            path("10.0.0.1:3260", "iqn.a", 0),
            path("[fd00::2]:3260", "iqn.b", 7)
        ]
    );
    assert!(several.enforce_multipath && several.discovery.is_none());
    let same_lun = r#","target_portals":["10.0.0.1","10.0.0.2"],"target_iqns":["iqn.a","iqn.a"]"#;
    let luns: Vec<u64> = volume(&one(same_lun)).paths.iter().map(|p| p.lun).collect();
    assert_eq!(luns, [1, 1]);
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let refusals = [
        r#""target_iqn":"iqn.a","target_lun":1"#.to_owned(),
        r#""target_portal":"10.0.0.1:3260","target_lun":1"#.into(),
        r#""target_portal":"10.0.0.1:3260","target_iqn":"iqn.a""#.into(),
        r#""target_portal":"","target_iqn":"iqn.a","target_lun":1"#.into(),
        r#""target_portal":["10.0.0.1"],"target_iqn":"iqn.a","target_lun":1"#.into(),
        r#""target_portal":"fd00::2:3260","target_iqn":"iqn.a","target_lun":1"#.into(),
        r#""target_portal":"[fe80::1%2]:3260","target_iqn":"iqn.a","target_lun":1"#.into(),
        r#""target_portal":"storage:3260","target_iqn":"iqn.a","target_lun":1"#.into(),
        r#""target_portal":"10.0.0.1:0","target_iqn":"iqn.a","target_lun":1"#.into(),
        r#""target_portal":"0.0.0.0:3260","target_iqn":"iqn.a","target_lun":1"#.into(),
        r#""target_portal":"10.0.0.1","target_iqn":"","target_lun":1"#.into(),
        r#""target_portal":"10.0.0.1","target_iqn":"volume-1","target_lun":1"#.into(),
        r#""target_portal":"10.0.0.1","target_iqn":"iqn.a/../../b","target_lun":1"#.into(),
        r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":16384"#.into(),
        r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":-1"#.into(),
        one(r#","target_luns":[1]"#),
        one(r#","target_portals":[],"target_iqns":[]"#),
        one(r#","target_portals":["10.0.0.1"]"#),
        one(r#","target_portals":["10.0.0.1"],"target_iqns":["iqn.a","iqn.b"]"#),
        one(r#","target_portals":["10.0.0.1"],"target_iqns":["iqn.a"],"target_luns":[]"#),
        one(r#","target_portals":["10.0.0.1"],"target_iqns":["iqn.a"],"target_luns":[true]"#),
        one(r#","target_portals":["10.0.0.1","fd00::1"],"target_iqns":["iqn.a","iqn.b"]"#),
        one(r#","addressing_mode":"SAM9""#),
        one(r#","auth_method":"SRP","auth_username":"u","auth_password":"p""#),
        one(r#","auth_method":"CHAP","auth_username":"u""#),
        one(r#","auth_method":"CHAP","auth_username":"u","auth_password":"p\nnode.x = y""#),
        one(r#","auth_username":"u","auth_password":"p""#),
        one(r#","auth_method":"CHAP","auth_username":"u","auth_password":"p","auth_username_in":"t""#),
        one(
            r#","auth_method":"CHAP","auth_username":"u","auth_password":"p","auth_username_in":"t","auth_password_in":"p""#,
        ),
        one(r#","wwn":"0x123""#),
        one(r#","format":"qcow2""#),
        one(r#","format":"vhdx""#),
    ]
    .map(|members| refusal(&members));
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    connection info lacks target_portal: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info lacks target_iqn: expected a target's name such as iqn.2010-10.org.openstack:volume-1
    connection info lacks target_lun: expected a number from 0 to 16383
    connection info's target_portal is empty: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's target_portal is not a string: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's target_portal is an IPv6 address without brackets: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's target_portal has a scope: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's target_portal is no address with a port: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's target_portal has port 0: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's target_portal is no host's address: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's target_iqn is empty: expected a target's name such as iqn.2010-10.org.openstack:volume-1
    connection info's target_iqn begins with none of iqn., eui. and naa.: expected a target's name such as iqn.2010-10.org.openstack:volume-1
    connection info's target_iqn holds a character that no name has: expected a target's name such as iqn.2010-10.org.openstack:volume-1
    connection info's target_lun is too large: expected a number from 0 to 16383
    connection info's target_lun is not a whole number: expected a number of 0 or more
    connection info's target_luns is given without target_portals: expected lists of equal length in target_portals, target_iqns and target_luns
    connection info's target_portals is empty: expected lists of equal length in target_portals, target_iqns and target_luns
    connection info lacks target_iqns: expected lists of equal length in target_portals, target_iqns and target_luns
    connection info's target_iqns is not as long as target_portals: expected lists of equal length in target_portals, target_iqns and target_luns
    connection info's target_luns is not as long as target_portals: expected lists of equal length in target_portals, target_iqns and target_luns
    connection info's target_luns is not a list of whole numbers: expected lists of equal length in target_portals, target_iqns and target_luns
    connection info's target_portals[1] is an IPv6 address without brackets: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260
    connection info's addressing_mode is not known: expected SAM, transparent, SAM2 or SAM3-flat
    connection info's auth_method is not CHAP: expected CHAP, or null where there is none
    the credentials in connection info's auth_password cannot be used: is empty
    the credentials in connection info's auth_password cannot be used: has a control character, or a space at an end, which no node record can hold
    connection info lacks auth_method: expected CHAP, since there is a username
    the credentials in connection info's auth_password_in cannot be used: is empty
    the credentials in connection info's auth_password_in cannot be used: is the same as password: the two directions of mutual CHAP need two
    connection info's wwn is no NAA identifier: expected the volume's identity, such as 60014051b2d3e4f5061728394a5b6c7d
    connection info's format "qcow2" is not supported: expected raw (or none): a guest has an iSCSI disk as it is
    connection info's format "vhdx" is not supported: libvirt has no such disk format; convert the volume to raw, qcow2, vhd or vmdk (qemu-img convert)
    "#);
}

#[test]
fn addressing_modes_are_os_bricks() {
    for (mode, lun, expected) in [
        ("SAM", 300, 300),
        ("transparent", 1, 1),
        ("SAM2", 255, 255),
        ("SAM2", 256, 16640),
        ("SAM3-flat", 1, 16385),
    ] {
        let members = format!(
            r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":{lun},"addressing_mode":"{mode}""#
        );
        assert_eq!(volume(&members).paths[0].lun, expected, "{mode} {lun}");
    }
}

#[test]
fn logins_are_one_way_or_mutual_and_do_not_show() {
    for members in [
        "",
        r#","auth_method":null,"auth_username":null"#,
        r#","auth_method":"None""#,
        r#","discovery_auth_method":"CHAP","discovery_auth_username":"u","discovery_auth_password":"p""#,
    ] {
        assert_eq!(volume(&one(members)).chap, None, "{members}");
    }
    let login = r##","auth_method":"CHAP","auth_username":"u","auth_password":"pass word\"#""##;
    let chap = volume(&one(login)).chap.unwrap();
    assert_eq!(
        (chap.password.expose(), &chap.target),
        ("pass word\"#", &None)
    );
    let both = format!(r#"{login},"auth_username_in":"t","auth_password_in":"hunter2""#);
    let info = parse(&one(&both)).unwrap();
    assert!(!format!("{info:?}").contains("hunter2"));
    let spelling = info.canonical();
    assert!(
        spelling.ends_with("\npass word\"#\nhunter2"),
        "{}",
        *spelling
    );
    assert_eq!(spelling.capacity(), spelling.len());
    assert_ne!(spelling, parse(&one(login)).unwrap().canonical());
}

#[test]
fn an_identity_has_one_spelling() {
    let naa = "60014051b2d3e4f5061728394a5b6c7d";
    for text in [
        naa.to_owned(),
        format!("0x{naa}"),
        format!("naa.{}", naa.to_uppercase()),
        format!("3{naa}"),
    ] {
        let identity = volume(&one(&format!(r#","wwn":"{text}""#))).identity;
        assert_eq!(identity, Some(Wwid::scsi(3, naa)), "{text}");
    }
    for (text, identity) in [
        ("eui.0011223344556677", "20011223344556677"),
        ("50:01:40:5a:bc:de:f0:12", "35001405abcdef012"),
        ("1LIO_vol", "1LIO_vol"),
    ] {
        assert_eq!(self::identity("k", text).unwrap().as_str(), identity);
    }
}

#[test]
fn typed_fields_come_to_the_same() {
    let given = IscsiPathText {
        portal: "10.0.0.1:3260".into(),
        target: "iqn.2010-10.org.openstack:v".into(),
        lun: 1,
    };
    let typed =
        |paths: &[IscsiPathText]| ConnectionInfo::iscsi(paths, None, "", false, Common::default());
    let info = typed(&[given.clone(), given.clone()]).unwrap();
    assert_eq!(info, parse(&one("")).unwrap());
    assert!(typed(&[]).is_err());
    let huge = IscsiPathText {
        lun: 1 << 20,
        ..given
    };
    assert!(typed(&[huge]).is_err());
}

proptest! {
    #[test]
    fn a_portal_is_read_as_it_is_written(v6: bool, address: u128, port in 1u16..) {
        let address = match v6 {
            true => SocketAddr::new(std::net::Ipv6Addr::from(address).into(), port),
            false => SocketAddr::new(std::net::Ipv4Addr::from(address as u32).into(), port),
        };
        prop_assume!(!address.ip().is_unspecified() && !address.ip().is_multicast());
        prop_assert_eq!(portal("k", &address.to_string()).unwrap(), address);
    }

    #[test]
    fn reading_is_total(text in ".*", lun: u64) {
        let _ = portal("k", &text);
        let _ = identity("k", &text);
        if let Ok(name) = name("k", &text) {
            prop_assert!(!name.contains(['/', ' ']) && !name.starts_with('-'));
        }
        let flat = super::lun("k", lun, Mode::Sam3Flat);
        prop_assert_eq!(flat.ok(), (lun < 16384).then(|| lun.wrapping_add(16384)));
    }
}
