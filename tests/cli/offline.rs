//! `plan --offline` for every shape of connection info that control planes send, and for what is wrong with each: the plan, or
//! the exact reason.

use super::plan;

/// Cinder's outer form.
pub(crate) fn nested(protocol: &str, members: &str) -> String {
    format!(r#"{{"driver_volume_type":"{protocol}","data":{{{members}}}}}"#)
}

/// Plans each document that `document` makes of a case. A plan is told as its access, what is mounted (or else how it is
/// connected) and the image's format; an error as its reason and message.
pub(crate) fn check(cases: &[(&str, &str)], document: impl Fn(&str) -> String) {
    let mut wrong = Vec::new();
    for (case, expected) in cases {
        let told = match plan(&document(case), &[]) {
            Ok(plan) => {
                let text =
                    |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let source = match plan["mount"].is_null() {
                    true => text(&plan["steps"][0]["description"]),
                    false => text(&plan["mount"]["source"]),
                };
                let xml = text(&plan["disk_xml"]);
                let formats = ["raw", "qcow2", "vpc", "vmdk"].into_iter();
                let format = formats.filter(|format| xml.contains(&format!("type=\"{format}\"")));
                let format = format.collect::<Vec<_>>().join(" ");
                format!("{}: {source} as {format}", text(&plan["access"]))
            }
            Err((exit, error)) => {
                let error = &error["error"];
                let (reason, message) = (&error["reason"], &error["message"]);
                let (reason, message) = (reason.as_str().unwrap(), message.as_str().unwrap());
                assert_eq!(exit, 1, "{case}: {message}");
                let inner = message.strip_prefix("the connection info cannot be used: ");
                format!("{reason}: {}", inner.unwrap_or(message))
            }
        };
        assert!(!told.contains("hunter2"), "{case}: {told}");
        if told != *expected {
            wrong.push(format!("{case}\n  expected {expected}\n  but      {told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn documents_are_read_or_refused() {
    check(
        &[
            (
                "",
                "INVALID_CONNECTION_INFO: connection info is not JSON (line 1, column 0): send the object that Cinder gives",
            ),
            (
                "null",
                "INVALID_CONNECTION_INFO: connection info's document is not a JSON object: expected the object that Cinder gives, with driver_volume_type",
            ),
            (
                "[]",
                "INVALID_CONNECTION_INFO: connection info's document is not a JSON object: expected the object that Cinder gives, with driver_volume_type",
            ),
            (
                "{}",
                "INVALID_CONNECTION_INFO: connection info lacks driver_volume_type: expected smbfs, local, iscsi, nvmeof or nfs",
            ),
            (
                r#"{"data":{}}"#,
                "INVALID_CONNECTION_INFO: connection info lacks driver_volume_type: expected smbfs, local, iscsi, nvmeof or nfs",
            ),
            (
                r#"{"driver_volume_type":7}"#,
                "INVALID_CONNECTION_INFO: connection info's driver_volume_type is not a string: expected smbfs, local, iscsi, nvmeof or nfs",
            ),
            (
                r#"{"driver_volume_type":""}"#,
                r#"PROTOCOL_UNSUPPORTED: driver_volume_type "" is not supported: expected smbfs, local, iscsi, nvmeof or nfs"#,
            ),
            (
                r#"{"driver_volume_type":"rbd","data":{"name":"pool/v"}}"#,
                r#"PROTOCOL_UNSUPPORTED: driver_volume_type "rbd" is not supported: expected smbfs, local, iscsi, nvmeof or nfs"#,
            ),
            (
                r#"{"driver_volume_type":"SMBFS","data":{}}"#,
                r#"PROTOCOL_UNSUPPORTED: driver_volume_type "SMBFS" is not supported: expected smbfs, local, iscsi, nvmeof or nfs"#,
            ),
            (
                r#"{"driver_volume_type":"smbfs","data":[]}"#,
                "INVALID_CONNECTION_INFO: connection info's data is not an object: expected an object",
            ),
            (
                r#"{"driver_volume_type":"smbfs","data":"x"}"#,
                "INVALID_CONNECTION_INFO: connection info's data is not an object: expected an object",
            ),
            (
                r#"{"driver_volume_type":"smbfs","data":null}"#,
                "INVALID_CONNECTION_INFO: connection info lacks export: expected //host/share or //host/share/folder",
            ),
            (
                r#"{"driver_volume_type":"smbfs"}"#,
                "INVALID_CONNECTION_INFO: connection info lacks export: expected //host/share or //host/share/folder",
            ),
            (
                r#"{"driver_volume_type":"smbfs","data":{}} x"#,
                "INVALID_CONNECTION_INFO: connection info is not JSON (line 1, column 42): send the object that Cinder gives",
            ),
        ],
        |document| document.to_owned(),
    );
}

#[test]
fn smb_volumes_are_planned_or_refused() {
    check(
        &[
            (
                r#""export":"//10.0.0.5/vols","name":"v""#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"volume-1.vhdx","format":"vhdx","options":"-o username=bob,password=hunter2","access_mode":"ro","qos_specs":null,"encrypted":false"#,
                r#"FORMAT_UNSUPPORTED: connection info's data.format "vhdx" is not supported: libvirt has no such disk format; convert the volume to raw, qcow2, vhd or vmdk (qemu-img convert)"#,
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","format":"vhd","options":"-o username=bob,password=hunter2""#,
                "rw: //10.0.0.5/vols as vpc",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","format":"raw","options":"username=bob,password=hunter2""#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":null"#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":"-o ro -o username=bob,password=hunter2""#,
                "ro: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":"""#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","unknown":{"a":[1]}"#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""name":"v""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.export: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":"//10.0.0.5/vols""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.name: expected the volume's file beneath the export",
            ),
            (
                r#""export":null,"name":"v""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.export: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":"","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export is empty: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":5,"name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export is not a string: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"""#,
                "INVALID_CONNECTION_INFO: connection info's data.name is empty: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":["v"]"#,
                "INVALID_CONNECTION_INFO: connection info's data.name is not a string: expected the volume's file beneath the export",
            ),
            (
                r#""export":"10.0.0.5:/vols","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export does not begin with //: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":"//10.0.0.5","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export names no share: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":"///vols","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export names no host: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":"//fd00::5/vols","name":"v""#,
                "rw: //fd00::5/vols as raw",
            ),
            (
                r#""export":"//[fd00::5]/vols","name":"v""#,
                "rw: //fd00::5/vols as raw",
            ),
            (
                r#""export":"//[fd00::5/vols","name":"v""#,
                "INVALID_CONNECTION_INFO: the host in connection info's data.export holds a port: give it as the mount option port=: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]",
            ),
            (
                r#""export":"//na s/vols","name":"v""#,
                "INVALID_CONNECTION_INFO: the host in connection info's data.export is neither a name nor an address: expected a name or an address such as nas, 10.0.0.5 or [fd00::5]",
            ),
            (
                r#""export":"//nas/../vols","name":"v""#,
                "VOLUME_PATH_UNSAFE: connection info's data.export has a component `.` or `..`: expected //host/share or //host/share/folder",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"../v""#,
                "VOLUME_PATH_UNSAFE: connection info's data.name has a component `.` or `..`: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"/etc/shadow""#,
                "VOLUME_PATH_UNSAFE: connection info's data.name is absolute: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"a//v""#,
                "VOLUME_PATH_UNSAFE: connection info's data.name has an empty component: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"a\\v""#,
                "VOLUME_PATH_UNSAFE: connection info's data.name holds a backslash: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v\n""#,
                "INVALID_CONNECTION_INFO: connection info's data.name holds a control character: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","format":"""#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","format":"vdi""#,
                r#"FORMAT_UNSUPPORTED: connection info's data.format "vdi" is not supported: expected raw (or none), qcow2, vhd (vpc) or vmdk"#,
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","format":7"#,
                "INVALID_CONNECTION_INFO: connection info's data.format is not a string: expected the image format's name",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":7"#,
                "INVALID_CONNECTION_INFO: connection info's data.options is not a string: expected mount options",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":["-o ro"]"#,
                "INVALID_CONNECTION_INFO: connection info's data.options is not a string: expected mount options",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":"-o suid""#,
                r#"MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "suid" is refused: shares are always mounted nosuid,nodev,noexec"#,
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":"-o vers=9""#,
                r#"MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "vers" takes one of 3.1.1, 3.0.2, 3.0, 2.1, 2.0, 1.0; leave it out to take the newest that this host and the server both allow"#,
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":"-o username=""#,
                "CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: the user name is empty: name a user, or write guest",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","options":"-o password=hunter2""#,
                "CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: a password is given without a user: add username=",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","access_mode":"rx""#,
                "INVALID_CONNECTION_INFO: connection info's data.access_mode is neither ro nor rw: expected ro or rw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","access_mode":"""#,
                "INVALID_CONNECTION_INFO: connection info's data.access_mode is neither ro nor rw: expected ro or rw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","access_mode":null"#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","access_mode":true"#,
                "INVALID_CONNECTION_INFO: connection info's data.access_mode is not a string: expected ro or rw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","readonly":"True""#,
                "ro: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","readonly":"maybe""#,
                "INVALID_CONNECTION_INFO: connection info's data.readonly is not a boolean: expected true or false",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","readonly":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.readonly is not a boolean: expected true or false",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","encrypted":true"#,
                "ENCRYPTION_UNSUPPORTED: the volume is encrypted (connection info's data.encrypted), which volattach does not do: attach an unencrypted volume",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","encrypted":"False""#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","qos_specs":[]"#,
                "INVALID_CONNECTION_INFO: connection info's data.qos_specs is not an object: expected an object or null",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","qos_specs":{"read_iops_sec":"many"}"#,
                "INVALID_CONNECTION_INFO: connection info's data.qos_specs.read_iops_sec is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","qos_specs":{"read_iops_sec":-1}"#,
                "INVALID_CONNECTION_INFO: connection info's data.qos_specs.read_iops_sec is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","qos_specs":{"read_iops_sec":"500","consumer":"front-end"}"#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","logical_block_size":"512","physical_block_size":"4096""#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","logical_block_size":"513""#,
                "INVALID_CONNECTION_INFO: connection info's data.logical_block_size is no block size: expected a power of two from 512 to 2097152",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","logical_block_size":4096,"physical_block_size":512"#,
                "INVALID_CONNECTION_INFO: connection info's data.physical_block_size is below the logical one: expected a power of two from 512 to 2097152",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","logical_block_size":"99999999999""#,
                "INVALID_CONNECTION_INFO: connection info's data.logical_block_size is too large: expected a power of two from 512 to 2097152",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","discard":"yes""#,
                "INVALID_CONNECTION_INFO: connection info's data.discard is not a boolean: expected true or false",
            ),
        ],
        |members| nested("smbfs", members),
    );
}

#[test]
fn flat_connection_info_is_as_good() {
    check(
        &[
            (
                r#""export":"//10.0.0.5/vols","name":"v""#,
                "rw: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","status":"attached","instance":"i","attached_at":null,"detached_at":null,"access_mode":"ro""#,
                "ro: //10.0.0.5/vols as raw",
            ),
            (
                r#""export":"//10.0.0.5/vols","name":"v","data":null"#,
                "rw: //10.0.0.5/vols as raw",
            ),
        ],
        |members| format!(r#"{{"driver_volume_type":"smbfs",{members}}}"#),
    );
}

#[test]
fn local_volumes_are_planned_or_refused() {
    check(
        &[
            (
                r#""device_path":"/dev/vg/lv""#,
                "rw: nothing to connect: /dev/vg/lv is of this host as raw",
            ),
            (
                r#""device_path":"/srv/volumes/v","format":"qcow2","access_mode":"ro""#,
                "ro: nothing to connect: /srv/volumes/v is of this host as qcow2",
            ),
            (
                "",
                "INVALID_CONNECTION_INFO: connection info lacks data.device_path: expected an absolute path such as /dev/vg/volume",
            ),
            (
                r#""device_path":"""#,
                "INVALID_CONNECTION_INFO: connection info's data.device_path is empty: expected an absolute path such as /dev/vg/volume",
            ),
            (
                r#""device_path":null"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.device_path: expected an absolute path such as /dev/vg/volume",
            ),
            (
                r#""device_path":7"#,
                "INVALID_CONNECTION_INFO: connection info's data.device_path is not a string: expected an absolute path such as /dev/vg/volume",
            ),
            (
                r#""device_path":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.device_path is not absolute: expected an absolute path such as /dev/vg/volume",
            ),
            (
                r#""device_path":"/etc/shadow""#,
                r#"VOLUME_PATH_UNSAFE: the volume "/etc/shadow" is refused: it lies in none of the directories that this host's configuration names for local volumes (local.roots)"#,
            ),
            (
                r#""device_path":"/srv/volumes""#,
                r#"VOLUME_PATH_UNSAFE: the volume "/srv/volumes" is refused: it lies in none of the directories that this host's configuration names for local volumes (local.roots)"#,
            ),
            (
                r#""device_path":"/srv/volumes/../x""#,
                "VOLUME_PATH_UNSAFE: connection info's data.device_path has a component `.` or `..`: expected an absolute path such as /dev/vg/volume",
            ),
            (
                r#""device_path":"/srv/volumes/v","format":"vhdx""#,
                r#"FORMAT_UNSUPPORTED: connection info's data.format "vhdx" is not supported: libvirt has no such disk format; convert the volume to raw, qcow2, vhd or vmdk (qemu-img convert)"#,
            ),
        ],
        |members| nested("local", members),
    );
}

#[test]
fn nfs_volumes_are_planned_or_refused() {
    check(
        &[
            (
                r#""export":"10.0.0.5:/exp","name":"volume-1","format":"raw","options":"-o vers=4.1""#,
                "rw: 10.0.0.5:/exp as raw",
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"v","options":null"#,
                "rw: 10.0.0.5:/exp as raw",
            ),
            (
                r#""export":"[fd00::5]:/exp","name":"v""#,
                "rw: [fd00::5]:/exp as raw",
            ),
            (
                r#""name":"v""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.export: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":"10.0.0.5:/exp""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.name: expected the volume's file beneath the export",
            ),
            (
                r#""export":"","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export is empty: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":"10.0.0.5","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":"10.0.0.5:exp","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":"//10.0.0.5/exp","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export is not of the form host:/path: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":"fd00::5:/exp","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export has an IPv6 address without brackets: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":":/exp","name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export names no host: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":["10.0.0.5:/exp"],"name":"v""#,
                "INVALID_CONNECTION_INFO: connection info's data.export is not a string: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":"10.0.0.5:/exp/../x","name":"v""#,
                "VOLUME_PATH_UNSAFE: connection info's data.export has a component `.` or `..`: expected host:/path, an IPv6 address in brackets, such as 10.0.0.5:/exp or [fd00::5]:/exp",
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"../v""#,
                "VOLUME_PATH_UNSAFE: connection info's data.name has a component `.` or `..`: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"""#,
                "INVALID_CONNECTION_INFO: connection info's data.name is empty: expected the volume's file beneath the export, such as volume-1 or folder/volume-1",
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"v","options":"-o vers=5""#,
                r#"MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "vers" takes one of 4.2, 4.1, 4.0, 3; leave it out to take the newest that this host and the server both allow"#,
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"v","options":"-o exec""#,
                r#"MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "exec" is refused: exports are always mounted nosuid,nodev,noexec"#,
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"v","options":7"#,
                "INVALID_CONNECTION_INFO: connection info's data.options is not a string: expected mount options",
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"v","format":"vdi""#,
                r#"FORMAT_UNSUPPORTED: connection info's data.format "vdi" is not supported: expected raw (or none), qcow2, vhd (vpc) or vmdk"#,
            ),
            (
                r#""export":"10.0.0.5:/exp","name":"v","access_mode":"ro""#,
                "ro: 10.0.0.5:/exp as raw",
            ),
        ],
        |members| nested("nfs", members),
    );
}
