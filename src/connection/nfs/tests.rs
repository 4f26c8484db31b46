use proptest::prelude::*;

use super::*;
use crate::model::{ImageFormat, Reason};

fn read(export: &str, name: &str, options: &str) -> Result<ConnectionInfo, ConnectionError> {
    ConnectionInfo::nfs(export, name, "", options, Common::default())
}

fn volume(export: &str, options: &str) -> Result<NfsVolume, ConnectionError> {
    match read(export, "volume-1", options)?.protocol {
        Protocol::Nfs(volume) => Ok(volume),
        other => panic!("{other:?}"),
    }
}

/// The mount options as text.
fn options(text: &str) -> Result<String, ConnectionError> {
    let spelled = |(name, value): (String, Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name,
    };
    let options = volume("nas:/exp", text)?.options;
    Ok(options
        .into_iter()
        .map(spelled)
        .collect::<Vec<_>>()
        .join(","))
}

#[test]
fn cinder_sends_it_nested_and_flat() {
    let nested = r#"{"driver_volume_type": "nfs", "data": {"export": "10.0.0.5:/exp", "name": "volume-1",
        "format": "qcow2", "options": "-o vers=4.1", "access_mode": "ro"}}"#;
    let flat = r#"{"driver_volume_type": "nfs", "export": "10.0.0.5:/exp/", "name": "volume-1",
        "format": "qcow2", "options": "nfsvers=4.1", "access_mode": "ro", "status": "x"}"#;
    let info = ConnectionInfo::from_cinder_json(nested).unwrap();
    assert_eq!(info, ConnectionInfo::from_cinder_json(flat).unwrap());
    assert_eq!(info.common.read_only_by, [AccessSource::AccessMode]);
    assert_eq!(
        info.protocol,
        Protocol::Nfs(NfsVolume {
            host: "10.0.0.5".into(),
            path: "/exp".into(),
            name: "volume-1".into(),
            format: ImageFormat::Qcow2,
            options: vec![("vers".into(), Some("4.1".into()))],
        })
    );
    assert_eq!(info.canonical().as_str().matches("nfs").count(), 1);
}

#[test]
fn an_export_has_one_spelling() {
    for (text, host, path) in [
        ("NAS.example.org:/exp//a b/", "nas.example.org", "/exp/a b"),
        ("[FD00:0::1]:/exp", "fd00::1", "/exp"),
        ("10.0.0.5:/", "10.0.0.5", "/"),
        ("nas:/a:/b", "nas", "/a:/b"),
    ] {
        let volume = volume(text, "").unwrap();
        assert_eq!((&*volume.host, &*volume.path), (host, path), "{text}");
    }
}

#[test]
fn what_is_no_export_is_told() {
    let mut told = Vec::new();
    for export in [
        "",
        "nas",
        "nas:exp",
        "/exp",
        ":/exp",
        "//nas/exp",
        "fd00::1:/exp",
        "[fd00::1]/exp",
        "[fd00::1%eth0]:/exp",
        "[nas]:/exp",
        "nas:2049:/exp",
        "bob@nas:/exp",
        "nas:/exp/../etc",
        "nas:/exp\n",
    ] {
        let error = volume(export, "").unwrap_err();
        told.push(format!("{export:?}: {}: {error}", error.reason()));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    "": INVALID_CONNECTION_INFO: connection info's export is empty: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "nas": INVALID_CONNECTION_INFO: connection info's export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "nas:exp": INVALID_CONNECTION_INFO: connection info's export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "/exp": INVALID_CONNECTION_INFO: connection info's export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    ":/exp": INVALID_CONNECTION_INFO: connection info's export names no host: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "//nas/exp": INVALID_CONNECTION_INFO: connection info's export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "fd00::1:/exp": INVALID_CONNECTION_INFO: connection info's export has an IPv6 address without brackets: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "[fd00::1]/exp": INVALID_CONNECTION_INFO: connection info's export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "[fd00::1%eth0]:/exp": INVALID_CONNECTION_INFO: the host in connection info's export is no IPv6 address: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    "[nas]:/exp": INVALID_CONNECTION_INFO: the host in connection info's export is no IPv6 address: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    "nas:2049:/exp": INVALID_CONNECTION_INFO: the host in connection info's export holds a port: give it as the mount option port=: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    "bob@nas:/exp": INVALID_CONNECTION_INFO: the host in connection info's export is neither a name nor an address: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    "nas:/exp/../etc": VOLUME_PATH_UNSAFE: connection info's export has a component `.` or `..`: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "nas:/exp\n": INVALID_CONNECTION_INFO: connection info's export holds a control character: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp
    "#);
}

#[test]
fn a_name_stays_beneath_the_export() {
    for name in ["../x", "/etc/shadow", "a/../b", "a//b", "."] {
        let error = read("nas:/exp", name, "").unwrap_err();
        assert_eq!(error.reason(), Reason::VolumePathUnsafe, "{name}");
    }
    assert!(read("nas:/exp", "folder/volume 1", "").is_ok());
}

#[test]
fn the_version_is_said_once_however_it_is_written() {
    for (text, expected) in [
        ("", ""),
        ("-o vers=4.2", "vers=4.2"),
        ("nfsvers=3.0", "vers=3"),
        ("vers=4", "vers=4"),
        ("vers=4,minorversion=1", "vers=4.1"),
        ("minorversion=0", "vers=4.0"),
        ("vers=4.1 -o minorversion=1", "vers=4.1"),
        ("vers=3,vers=4.0", "vers=4.0"),
        ("vers=default", ""),
    ] {
        assert_eq!(options(text).unwrap(), expected, "{text}");
    }
    for text in [
        "vers=2",
        "vers=4.3",
        "vers=5",
        "vers",
        "vers=3,minorversion=1",
        "vers=4.2,minorversion=1",
        "vers=4,minorversion=9",
    ] {
        let error = options(text).unwrap_err();
        assert_eq!(error.reason(), Reason::MountOptionInvalid, "{text}");
    }
}

#[test]
fn options_are_those_on_the_list() {
    assert_eq!(
        options("-o hard,timeo=600,nosuid -o 'sec=krb5p,_netdev' -o rsize=1048576,ro,noac")
            .unwrap(),
        "hard,timeo=600,sec=krb5p,rsize=1048576,noac"
    );
    let info = read("nas:/exp", "v", "rw,ro").unwrap();
    assert_eq!(info.common.read_only_by, [AccessSource::MountOptions]);
    let mut told = Vec::new();
    for text in [
        "suid",
        "dev",
        "exec",
        "addr=10.0.0.9",
        "clientaddr=10.0.0.9",
        "mounthost=x",
        "fsc",
        "context=system_u:object_r:x",
        "bg",
        "retry=5",
        "udp",
        "proto=udp",
        "proto=rdma",
        "sharecache",
        "remount",
        "sec=none",
        "timeo=0",
        "timeoo=5",
        "nolok",
        "ro=1",
        "hard=yes",
        "a=hunter2 is not an option",
        "wrong name here",
        "=5",
    ] {
        let error = options(text).unwrap_err();
        told.push(format!(
            "{text}: {}: {}",
            error.reason(),
            crate::model::chain(&error)
        ));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    suid: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "suid" is refused: exports are always mounted nosuid,nodev,noexec
    dev: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "dev" is refused: exports are always mounted nosuid,nodev,noexec
    exec: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "exec" is refused: exports are always mounted nosuid,nodev,noexec
    addr=10.0.0.9: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "addr" is refused: the server and path come from the export alone
    clientaddr=10.0.0.9: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "clientaddr" is refused: the server and path come from the export alone
    mounthost=x: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "mounthost" is refused: the server and path come from the export alone
    fsc: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "fsc" is refused: it does more on this host than mount the export
    context=system_u:object_r:x: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "context" is refused: the security labels of this host are its own
    bg: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "bg" is refused: an attach ends at its deadlines, and does not go on in the background
    retry=5: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "retry" is refused: an attach ends at its deadlines, and does not go on in the background
    udp: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "udp" is refused: NFS is spoken over TCP alone, where a lost packet corrupts nothing
    proto=udp: MOUNT_OPTION_INVALID: connection info's options cannot be used: mount option "proto" takes one of tcp, tcp6
    proto=rdma: MOUNT_OPTION_INVALID: connection info's options cannot be used: mount option "proto" takes one of tcp, tcp6
    sharecache: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "sharecache" is refused: what it turns off is always on
    remount: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "remount" is refused: it does more on this host than mount the export
    sec=none: MOUNT_OPTION_INVALID: connection info's options cannot be used: mount option "sec" takes one of sys, krb5, krb5i, krb5p
    timeo=0: MOUNT_OPTION_INVALID: connection info's options cannot be used: mount option "timeo" takes a number from 1 to 6000
    timeoo=5: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "timeoo" is not allowed; did you mean "timeo"?
    nolok: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "nolok" is not allowed; did you mean "nolock"?
    ro=1: MOUNT_OPTION_INVALID: connection info's options cannot be used: mount option "ro" takes no value
    hard=yes: MOUNT_OPTION_INVALID: connection info's options cannot be used: mount option "hard" takes no value
    a=hunter2 is not an option: MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "a" is not allowed; did you mean "ac"?
    wrong name here: MOUNT_OPTION_INVALID: connection info's options cannot be parsed: option 1 is not an option of NFS
    =5: MOUNT_OPTION_INVALID: connection info's options cannot be parsed: option 1 has a value and no name
    "#);
}

proptest! {
    #[test]
    fn reading_is_total(export in ".{0,40}", name in ".{0,20}", options in ".{0,60}") {
        if let Ok(info) = read(&export, &name, &options) {
            let Protocol::Nfs(volume) = info.protocol else { panic!("another protocol") };
            prop_assert!(volume.path.starts_with('/'));
            prop_assert!(!volume.path.split('/').any(|part| part == ".."));
        }
    }
}
