//! `plan --offline` for volumes behind targets.

use super::offline::{check, nested};

#[test]
fn iscsi_volumes_are_planned_or_refused() {
    check(
        &[
            (
                r#""target_discovered":false,"target_portal":"10.0.0.1:3260","target_iqn":"iqn.2010-10.org.openstack:volume-1","target_lun":1,"volume_id":"1","auth_method":"CHAP","auth_username":"u","auth_password":"hunter2""#,
                r#"rw: log in as "u" by CHAP, scan for LUN 1 of iqn.2010-10.org.openstack:volume-1 at 10.0.0.1:3260; the disk must tell its identity as raw"#,
            ),
            (
                r#""target_portals":["10.0.0.1:3260","[fd00::2]:3260"],"target_iqns":["iqn.a","iqn.b"],"target_luns":[1,1],"target_portal":"10.0.0.1:3260","target_iqn":"iqn.a","target_lun":1,"discovery_auth_method":"CHAP","discovery_auth_username":"u","discovery_auth_password":"hunter2""#,
                "rw: log in without credentials, scan for LUN 1 of iqn.a at 10.0.0.1:3260 and for LUN 1 of iqn.b at [fd00::2]:3260; the disk must tell its identity, the same on every path; have multipathd join the paths as raw",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":0"#,
                "rw: log in without credentials, scan for LUN 0 of iqn.a at 10.0.0.1:3260; the disk must tell its identity as raw",
            ),
            (
                r#""target_portal":"10.0.0.1:3260","target_iqn":"iqn.a","target_lun":"16383","addressing_mode":"SAM2""#,
                "rw: log in without credentials, scan for LUN 32767 of iqn.a at 10.0.0.1:3260; the disk must tell its identity as raw",
            ),
            (
                r#""target_iqn":"iqn.a","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_portal: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":"10.0.0.1:3260","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_iqn: expected a target's name such as iqn.2010-10.org.openstack:volume-1",
            ),
            (
                r#""target_portal":"10.0.0.1:3260","target_iqn":"iqn.a""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_lun: expected a number from 0 to 16383",
            ),
            (
                r#""target_portal":"","target_iqn":"iqn.a","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portal is empty: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":["10.0.0.1"],"target_iqn":"iqn.a","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portal is not a string: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":"fd00::2:3260","target_iqn":"iqn.a","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portal is an IPv6 address without brackets: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":"fd00::2","target_iqn":"iqn.a","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portal is an IPv6 address without brackets: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":"10.0.0.1:99999","target_iqn":"iqn.a","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portal is no address with a port: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_iqn is empty: expected a target's name such as iqn.2010-10.org.openstack:volume-1",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":16384"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_lun is too large: expected a number from 0 to 16383",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":18446744073709551616"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_lun is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":-1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_lun is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":"x""#,
                "INVALID_CONNECTION_INFO: connection info's data.target_lun is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":1.5"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_lun is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""target_portals":[],"target_iqns":[],"target_luns":[]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portals is empty: expected lists of equal length in target_portals, target_iqns and target_luns",
            ),
            (
                r#""target_portals":["10.0.0.1","10.0.0.2"],"target_iqns":["iqn.a"],"target_luns":[1,1]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_iqns is not as long as target_portals: expected lists of equal length in target_portals, target_iqns and target_luns",
            ),
            (
                r#""target_portals":["10.0.0.1"],"target_iqns":["iqn.a"],"target_luns":[1,2]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_luns is not as long as target_portals: expected lists of equal length in target_portals, target_iqns and target_luns",
            ),
            (
                r#""target_portals":["10.0.0.1"],"target_luns":[1]"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_iqns: expected lists of equal length in target_portals, target_iqns and target_luns",
            ),
            (
                r#""target_portals":"10.0.0.1","target_iqns":["iqn.a"],"target_luns":[1]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portals is not a list of strings: expected lists of equal length in target_portals, target_iqns and target_luns",
            ),
            (
                r#""target_portals":["10.0.0.1",7],"target_iqns":["iqn.a","iqn.b"],"target_luns":[1,1]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portals is not a list of strings: expected lists of equal length in target_portals, target_iqns and target_luns",
            ),
            (
                r#""target_portals":["10.0.0.1"],"target_iqns":["iqn.a"],"target_luns":[true]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_luns is not a list of whole numbers: expected lists of equal length in target_portals, target_iqns and target_luns",
            ),
            (
                r#""target_portals":["10.0.0.1",""],"target_iqns":["iqn.a","iqn.b"],"target_luns":[1,1]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portals[1] is empty: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":1,"auth_method":"SRP","auth_username":"u","auth_password":"hunter2""#,
                "INVALID_CONNECTION_INFO: connection info's data.auth_method is not CHAP: expected CHAP, or null where there is none",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":1,"auth_method":"CHAP","auth_username":"u""#,
                "CREDENTIALS_INVALID: the credentials in connection info's data.auth_password cannot be used: is empty",
            ),
            (
                r#""target_portal":"[fd00::2]","target_iqn":"iqn.a","target_lun":1,"enforce_multipath":true,"discovery_auth_method":"CHAP","discovery_auth_username":"u","discovery_auth_password":"hunter2""#,
                r#"rw: ask the portal for the target's others as "u" by CHAP, log in without credentials, scan for LUN 1 of iqn.a at [fd00::2]:3260; the disk must tell its identity, the same on every path; have multipathd join the paths as raw"#,
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":1,"enforce_multipath":true"#,
                "rw: ask the portal for the target's others, log in without credentials, scan for LUN 1 of iqn.a at 10.0.0.1:3260; the disk must tell its identity, the same on every path; have multipathd join the paths as raw",
            ),
            (
                r#""target_portal":"[fd00::2]:3260","target_lun":1,"enforce_multipath":true"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_iqn: expected a target's name such as iqn.2010-10.org.openstack:volume-1",
            ),
            (
                r#""target_portal":"[fe80::1%eth0]:3260","target_iqn":"iqn.a","target_lun":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portal is no address with a port: expected an address and port such as 10.0.0.1:3260 or [fd00::2]:3260",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":1,"enforce_multipath":true,"discovery_auth_method":"CHAP","discovery_auth_username":"u""#,
                "CREDENTIALS_INVALID: the credentials in connection info's data.discovery_auth_password cannot be used: is empty",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":1,"enforce_multipath":true,"discovery_auth_username":"u""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.discovery_auth_method: expected CHAP, since there is a username",
            ),
            (
                r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":1,"encrypted":true"#,
                "ENCRYPTION_UNSUPPORTED: the volume is encrypted (connection info's data.encrypted), which volattach does not do: attach an unencrypted volume",
            ),
        ],
        |members| nested("iscsi", members),
    );
}

#[test]
fn nvme_volumes_are_planned_or_refused() {
    check(
        &[
            (
                r#""target_nqn":"nqn.x","vol_uuid":"7c9e6679-7425-40de-944b-e07fc1f90ae7","portals":[["1.1.1.1","4420","tcp"],["fd00::2",4420,"TCP"]],"ns_id":null,"access_mode":"ro""#,
                "ro: connect by NVMe/TCP to 1.1.1.1:4420, [fd00::2]:4420; the namespace uuid.7c9e6679-7425-40de-944b-e07fc1f90ae7 of nqn.x must tell its identity, the same on every path; make its device read-only as raw",
            ),
            (
                r#""target_nqn":"nqn.x","vol_uuid":null,"volume_nguid":"7C9E6679742540DE944BE07FC1F90AE7","portals":[["[fd00::2]","4420","tcp"],["fd00::2","4420","tcp"]],"host_nqn":"nqn.me","volume_replicas":null"#,
                "rw: connect by NVMe/TCP to [fd00::2]:4420; the namespace eui.7c9e6679742540de944be07fc1f90ae7 of nqn.x must tell its identity, the same on every path; make its device writable as raw",
            ),
            (
                r#""target_nqn":"nqn.x","vol_uuid":null,"ns_id":4294967294,"portals":[["1.1.1.1","4420","tcp"]],"format":"qcow2""#,
                "rw: connect by NVMe/TCP to 1.1.1.1:4420; the namespace 4294967294 of nqn.x must tell its identity, the same on every path; make its device writable as qcow2",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","transport_type":"tcp","ns_id":"10","host_nqn":"","dhchap_key":"""#,
                "rw: connect by NVMe/TCP to 1.1.1.1:4420; the namespace 10 of nqn.x must tell its identity, the same on every path; make its device writable as raw",
            ),
            (
                r#""target_portal":"[fd00::2]","target_port":"4420","nqn":"nqn.x","transport_type":"tcp","volume_nguid":"7c9e6679742540de944be07fc1f90ae7","ns_id":10"#,
                "rw: connect by NVMe/TCP to [fd00::2]:4420; the namespace eui.7c9e6679742540de944be07fc1f90ae7 of nqn.x must tell its identity, the same on every path; make its device writable as raw",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","transport_type":"tcp","ns_id":1,"dhchap_key":"hunter2""#,
                "CREDENTIALS_INVALID: the credentials in connection info's data.dhchap_key cannot be used: they are for DH-HMAC-CHAP, which this host cannot prove to take place: the kernel may accept the secret, ignore it and connect unauthenticated; export the volume without authentication, to this host's NQN alone",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["1.1.1.1","4420","tcp"]],"auth_dhchap_ctrl_secret":"hunter2""#,
                "CREDENTIALS_INVALID: the credentials in connection info's data.auth_dhchap_ctrl_secret cannot be used: they are for DH-HMAC-CHAP, which this host cannot prove to take place: the kernel may accept the secret, ignore it and connect unauthenticated; export the volume without authentication, to this host's NQN alone",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["1.1.1.1","4420","tcp"]],"volume_replicas":[{"target_nqn":"nqn.y"}]"#,
                "INVALID_CONNECTION_INFO: connection info's data.volume_replicas makes one volume of several, which volattach does not do: expected a volume without replicas",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["1.1.1.1","4420","tcp"],["1.1.1.2","4420","RoCEv2"]]"#,
                r#"PROTOCOL_UNSUPPORTED: connection info's data.portals[1][2] is "RoCEv2", which volattach does not do: expected tcp (NVMe over RDMA or Fibre Channel needs another agent)"#,
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["nas.example","4420","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.portals[0][0] is not an IP address: expected an IPv4 or IPv6 address",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["fd00::2:4420","0","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.portals[0][1] is not a port: expected a port from 1 to 65535, such as 4420",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["0.0.0.0","4420","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.portals[0][0] is no server's address: expected an IPv4 or IPv6 address",
            ),
            (
                r#""target_nqn":"nqn.x,dhchap_secret=hunter2","ns_id":1,"portals":[["1.1.1.1","4420","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_nqn holds a comma, a space or a control character: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…",
            ),
            (
                r#""target_nqn":7,"ns_id":1,"portals":[["1.1.1.1","4420","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_nqn is not a string: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…",
            ),
            (
                r#""target_nqn":"nqn.x","vol_uuid":"00000000-0000-0000-0000-000000000000","portals":[["1.1.1.1","4420","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.vol_uuid is all zero, which names nothing: expected 16 bytes in hexadecimal that are not all zero, as a UUID is written",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":-1,"portals":[["1.1.1.1","4420","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.ns_id is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["1.1.1.1","4420","tcp"]],"host_nqn":"me""#,
                "INVALID_CONNECTION_INFO: connection info's data.host_nqn is not an NQN: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"transport_type":"tcp","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.nqn: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…",
            ),
            (
                r#""target_port":4420,"nqn":"nqn.x","transport_type":"tcp","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_portal: expected an IPv4 or IPv6 address",
            ),
            (
                r#""target_portal":"1.1.1.1","nqn":"nqn.x","transport_type":"tcp","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_port: expected a port from 1 to 65535, such as 4420",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.transport_type: expected tcp",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","transport_type":"tcp""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.vol_uuid: expected what tells the volume from others: vol_uuid, volume_nguid or ns_id",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","transport_type":"rdma","ns_id":1"#,
                r#"PROTOCOL_UNSUPPORTED: connection info's data.transport_type is "rdma", which volattach does not do: expected tcp (NVMe over RDMA or Fibre Channel needs another agent)"#,
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":"x","nqn":"nqn.x","transport_type":"tcp","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_port is not a whole number: expected a number of 0 or more",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":70000,"nqn":"nqn.x","transport_type":"tcp","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_port is not a port: expected a port from 1 to 65535, such as 4420",
            ),
            (
                r#""target_portal":"","target_port":4420,"nqn":"nqn.x","transport_type":"tcp","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.target_portal is not an IP address: expected an IPv4 or IPv6 address",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"","transport_type":"tcp","ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info's data.nqn is not an NQN: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","transport_type":"tcp","ns_id":0"#,
                "INVALID_CONNECTION_INFO: connection info's data.ns_id is no namespace id: expected a namespace id from 1 to 4294967294",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","transport_type":"tcp","ns_id":4294967296"#,
                "INVALID_CONNECTION_INFO: connection info's data.ns_id is no namespace id: expected a namespace id from 1 to 4294967294",
            ),
            (
                r#""target_portal":"1.1.1.1","target_port":4420,"nqn":"nqn.x","transport_type":"tcp","ns_id":"""#,
                "INVALID_CONNECTION_INFO: connection info lacks data.vol_uuid: expected what tells the volume from others: vol_uuid, volume_nguid or ns_id",
            ),
            (
                r#""target_nqn":"nqn.x","vol_uuid":"7","portals":[["1.1.1.1","4420","tcp"]]"#,
                "INVALID_CONNECTION_INFO: connection info's data.vol_uuid is not 16 bytes in hexadecimal: expected 16 bytes in hexadecimal that are not all zero, as a UUID is written",
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[]"#,
                r#"INVALID_CONNECTION_INFO: connection info lacks data.portals: expected a list of [address, port, "tcp"], at least one"#,
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":[["1.1.1.1","4420"]]"#,
                r#"INVALID_CONNECTION_INFO: connection info's data.portals[0] is not a list of three: expected [address, port, "tcp"]"#,
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":["1.1.1.1:4420"]"#,
                r#"INVALID_CONNECTION_INFO: connection info's data.portals[0] is not a list of three: expected [address, port, "tcp"]"#,
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1,"portals":"1.1.1.1""#,
                r#"INVALID_CONNECTION_INFO: connection info's data.portals is not a list: expected a list of [address, port, "tcp"], at least one"#,
            ),
            (
                r#""target_nqn":"nqn.x","ns_id":1"#,
                r#"INVALID_CONNECTION_INFO: connection info lacks data.portals: expected a list of [address, port, "tcp"], at least one"#,
            ),
            (
                r#""portals":[["1.1.1.1","4420","tcp"]],"ns_id":1"#,
                "INVALID_CONNECTION_INFO: connection info lacks data.target_nqn: expected an NQN such as nqn.2014-08.org.nvmexpress:uuid:…",
            ),
        ],
        |members| nested("nvmeof", members),
    );
}
