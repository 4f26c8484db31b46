use crate::connection::{Common, ConnectionInfo, Protocol, SmbCredentials, SmbVolume};

/// The volume of Cinder's JSON with these options.
fn volume(options: &str) -> SmbVolume {
    let json = serde_json::json!({"driver_volume_type": "smbfs",
        "data": {"export": "//10.0.0.5/vols", "name": "v", "options": options}});
    match ConnectionInfo::from_cinder_json(&json.to_string())
        .unwrap()
        .protocol
    {
        Protocol::Smb(volume) => volume,
        Protocol::Local(_) => panic!("not local"),
    }
}

#[test]
fn a_first_shape_is_read() {
    let v = volume("-o username=DOM\\bob,password=my pass,vers=3.02 -o seal,echo_interval=5");
    assert_eq!(
        (v.host.as_str(), v.share.as_str(), v.name.as_str()),
        ("10.0.0.5", "vols", "v")
    );
    let SmbCredentials::Password {
        username,
        password,
        domain,
    } = v.credentials
    else {
        panic!("{:?}", v.credentials);
    };
    assert_eq!(
        (username.as_str(), password.expose(), domain.as_deref()),
        ("bob", "my pass", Some("DOM"))
    );
    let options: Vec<_> = v
        .options
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_deref()))
        .collect();
    assert_eq!(
        options,
        [
            ("vers", Some("3.0.2")),
            ("seal", None),
            ("echo_interval", Some("5"))
        ]
    );
    assert!(ConnectionInfo::smb("//h/s", "v", "", "seal", None, Common::default()).is_ok());
}
