//! Exports and the names of volumes.

use super::{from_cinder, told};
use crate::connection::{ConnectionError, SmbVolume};

fn with_export(export: &str) -> Result<SmbVolume, ConnectionError> {
    from_cinder(serde_json::json!({"export": export, "name": "v"}))
}

fn with_name(name: &str) -> Result<SmbVolume, ConnectionError> {
    from_cinder(serde_json::json!({"export": "//nas/vols", "name": name}))
}

#[test]
fn an_export_has_one_spelling() {
    for (text, host, share, folder) in [
        ("//nas/vols", "nas", "vols", ""),
        ("//NAS.Example.ORG/Vols/", "nas.example.org", "Vols", ""),
        (r"\\nas\vols\a\b", "nas", "vols", "a/b"),
        ("//10.0.0.5/my vols//a//b/", "10.0.0.5", "my vols", "a/b"),
        ("//[fd00::1]/größe", "fd00::1", "größe", ""),
        ("//fd00::1/s", "fd00::1", "s", ""),
        ("//fd00--1.ipv6-literal.net/s", "fd00::1", "s", ""),
        ("//nas/c$", "nas", "c$", ""),
        ("//nas/a,b=c/…", "nas", "a,b=c", "…"),
    ] {
        let volume = with_export(text).unwrap();
        assert_eq!(
            (
                volume.host.as_str(),
                volume.share.as_str(),
                volume.folder.as_str()
            ),
            (host, share, folder),
            "{text}"
        );
    }
}

#[test]
fn exports_and_names_that_lead_elsewhere_are_refused() {
    let long = format!("//nas/{}", "x".repeat(256));
    let longer = format!("//nas/vols/{}", "x/".repeat(2100));
    let exports = [
        "",
        "nas/vols",
        "/nas/vols",
        "smb://nas/vols",
        "10.0.0.5:/exp",
        "//",
        "///vols",
        "//nas",
        "//nas/",
        "//nas//vols",
        "//nas:445/vols",
        "//bob@nas/vols",
        "//bob:hunter2@nas/vols",
        "//na s/vols",
        "//[nas]/vols",
        "//10.0.0/vols",
        "//nas/..",
        "//nas/vols/../c$",
        r"\\nas\vols\.\x",
        "//nas/IPC$",
        "//nas/vo\0ls",
        "//nas/vols/a\nb",
        &long,
        &longer,
    ]
    .map(|export| told(&with_export(export).expect_err(export)));
    let names = [
        "", "/v", "../v", "a/../v", "./v", "a/./v", "..", "a//v", "v/", r"a\v", "v\0", "v\n",
    ]
    .map(|name| told(&with_name(name).expect_err(name)));
    insta::assert_snapshot!([exports.join("\n"), names.join("\n")].join("\n\n"), @r#"
    INVALID_CONNECTION_INFO: connection info's data.export is empty: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export does not begin with //: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export does not begin with //: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export does not begin with //: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export does not begin with //: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export names no share: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export names no host: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export names no share: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export names no share: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export names no share: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: the host in connection info's data.export holds a port: give it as the mount option port=: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    INVALID_CONNECTION_INFO: connection info's data.export has a user in its host: give it as the mount option username=: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export has a user in its host: give it as the mount option username=: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: the host in connection info's data.export is neither a name nor an address: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    INVALID_CONNECTION_INFO: the host in connection info's data.export is no IPv6 address: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    INVALID_CONNECTION_INFO: the host in connection info's data.export is no IPv4 address: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]
    VOLUME_PATH_UNSAFE: connection info's data.export has a component `.` or `..`: expected //host/share or //host/share/folder
    VOLUME_PATH_UNSAFE: connection info's data.export has a component `.` or `..`: expected //host/share or //host/share/folder
    VOLUME_PATH_UNSAFE: connection info's data.export has a component `.` or `..`: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export names IPC$, which holds no files: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export holds a control character: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export holds a control character: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export has a component longer than 255 bytes: expected //host/share or //host/share/folder
    INVALID_CONNECTION_INFO: connection info's data.export is longer than 4095 bytes: expected //host/share or //host/share/folder

    INVALID_CONNECTION_INFO: connection info's data.name is empty: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name is absolute: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name has a component `.` or `..`: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name has a component `.` or `..`: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name has a component `.` or `..`: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name has a component `.` or `..`: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name has a component `.` or `..`: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name has an empty component: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name has an empty component: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    VOLUME_PATH_UNSAFE: connection info's data.name holds a backslash: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    INVALID_CONNECTION_INFO: connection info's data.name holds a control character: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    INVALID_CONNECTION_INFO: connection info's data.name holds a control character: expected the volume's file beneath the export, such as volume-1 or folder/volume-1
    "#);
    assert_eq!(with_name("größe/..a b..").unwrap().name, "größe/..a b..");
}
