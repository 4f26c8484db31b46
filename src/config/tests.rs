use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::load::decode;
use super::{ConfigError, Fault, Settings, tree};
use crate::model::mount_options::Origin;

/// Settings from one document, or what is wrong with it.
pub(super) fn settings(text: &str) -> Result<Settings, String> {
    let mut problems = Vec::new();
    let table = tree::parse(Path::new("c.toml"), text).map_err(|error| error.to_string())?;
    let settings = decode(table, &mut problems);
    match problems.is_empty() {
        true => Ok(settings),
        false => Err(ConfigError::Invalid(problems).to_string()),
    }
}

#[test]
fn nothing_configured_is_the_built_in_settings() {
    let built_in = Settings::built_in();
    assert_eq!(settings("").unwrap(), built_in);
    assert_eq!(
        built_in.smb.shares.versions,
        ["3.1.1", "3.0.2", "3.0", "2.1"]
    );
    assert_eq!(built_in.smb.shares.probe_timeout, Duration::from_secs(3));
    assert!(built_in.local.roots.is_empty() && built_in.smb.credentials_dirs.is_empty());
}

/// A document with each key of the tables that it has, and none with its default.
pub(super) const EVERY_KEY: &str = r#"
    state_dir = "/s"
    mount_base = "/m//x/"
    audit_file = "/a.json"
    metrics_file = "/m.prom"
    metrics_listen = "unix:/m.sock"
    metrics_io = "volumes"
    otlp_endpoint = "http://[::1]:4317"
    [policy]
    file = "/p.yaml"
    directory = "/p.d"
    roles = ["cinder:reader-admin"]
    remote_timeout = "8s"
    remote_ca = "/p.pem"
    [listen]
    socket = "/run/x.sock"
    group = "wheel"
    [libvirt]
    uri = "xen:///system"
    call_timeout = "9s"
    [smb]
    versions = ["2.0.2", "3.11", "1.0"]
    uid = 4711
    gid = 4712
    credentials_dirs = ["/etc/volattach/cred"]
    probe_timeout = "500ms"
    error_policy = "report"
    mount_timeout = "1m"
    default_options = "seal, echo_interval=5,nosuid"
    mandatory_options = "srcaddr=10.0.0.1"
    [smb.kerberos]
    principal = "volattach@EXAMPLE.ORG"
    cruid = "root"
    [smb.local_shares]
    "//NAS2/Völs" = "/srv//vols"
    [smb.servers."NAS.example.org"]
    versions = ["3.0"]
    read_only = true
    default_options = "hard"
    mandatory_options = "port=4455"
    kerberos.principal = "host/nas@EXAMPLE.ORG"
    [nfs]
    versions = ["3", "4.1"]
    uid = 4713
    gid = 4714
    probe_timeout = "2s"
    error_policy = "report"
    mount_timeout = "20s"
    default_options = "hard"
    mandatory_options = "sec=krb5"
    [nfs.servers."[FD00::5]"]
    versions = ["4.0"]
    read_only = true
    default_options = "noac"
    mandatory_options = "nconnect=4"
    [local]
    error_policy = "report"
    roots = ["/dev/vg"]
    [detach]
    unplug_timeout = "7s"
    [iscsi]
    error_policy = "report"
    nodes = "/var/lib/iscsi/nodes"
    interface = "storage0"
    probe_timeout = "1s"
    login_timeout = "2s"
    device_timeout = "4s"
    [nvmeof]
    error_policy = "report"
    probe_timeout = "500ms"
    connect_timeout = "4s"
    device_timeout = "1m"
    keep_alive_tmo = "3s"
    reconnect_delay = "1s"
    fast_io_fail_tmo = "5s"
    ctrl_loss_tmo = "2m"
    [limits]
    calls_per_second = 10
    burst = 20
    calls = 30
    work = 31
    work_per_caller = 32
    work_per_server = 33
    watches = 4
    all_watches = 50
    connections = 60
    connections_per_user = 7
    streams = 8
    keepalive = "9s"
    "#;

#[test]
fn every_key_is_read() {
    let s = settings(EVERY_KEY).unwrap();
    insta::assert_debug_snapshot!(s, @r#"
    Settings {
        listen: Listen {
            socket: "/run/x.sock",
            group: "wheel",
            tls: None,
        },
        policy: Policy {
            file: "/p.yaml",
            directory: "/p.d",
            roles: [
                "cinder:reader-admin",
            ],
            remote_timeout: 8s,
            remote_ca: Some(
                "/p.pem",
            ),
        },
        audit_file: Some(
            "/a.json",
        ),
        metrics_file: Some(
            "/m.prom",
        ),
        metrics_listen: Some(
            Unix(
                "/m.sock",
            ),
        ),
        metrics_io: Volumes,
        otlp_endpoint: Some(
            HttpUrl {
                tls: false,
                host: "::1",
                port: 4317,
                path: "",
            },
        ),
        auth: Auth {
            local: None,
            certificates: {},
        },
        keystone: None,
        libvirt: Libvirt {
            uri: "xen:///system",
            call_timeout: 9s,
        },
        state_dir: "/s",
        mount_base: "/m/x",
        smb: Smb {
            shares: Shares {
                versions: [
                    "3.1.1",
                    "2.0",
                    "1.0",
                ],
                uid: 4711,
                gid: 4712,
                probe_timeout: 500ms,
                error_policy: Report,
                mount_timeout: 60s,
                default_options: [
                    (
                        "seal",
                        None,
                    ),
                    (
                        "echo_interval",
                        Some(
                            "5",
                        ),
                    ),
                ],
                mandatory_options: [
                    (
                        "srcaddr",
                        Some(
                            "10.0.0.1",
                        ),
                    ),
                ],
                servers: {
                    "nas.example.org": ShareServer {
                        versions: Some(
                            [
                                "3.0",
                            ],
                        ),
                        read_only: true,
                        default_options: [
                            (
                                "hard",
                                None,
                            ),
                        ],
                        mandatory_options: [
                            (
                                "port",
                                Some(
                                    "4455",
                                ),
                            ),
                        ],
                    },
                },
            },
            credentials_dirs: [
                "/etc/volattach/cred",
            ],
            kerberos: Some(
                SmbKerberos {
                    principal: "volattach@EXAMPLE.ORG",
                    cruid: 0,
                },
            ),
            server_kerberos: {
                "nas.example.org": SmbKerberos {
                    principal: "host/nas@EXAMPLE.ORG",
                    cruid: 0,
                },
            },
            local_shares: {
                (
                    "nas2",
                    "völs",
                ): "/srv/vols",
            },
        },
        nfs: Nfs {
            shares: Shares {
                versions: [
                    "4.1",
                    "3",
                ],
                uid: 4713,
                gid: 4714,
                probe_timeout: 2s,
                error_policy: Report,
                mount_timeout: 20s,
                default_options: [
                    (
                        "hard",
                        None,
                    ),
                ],
                mandatory_options: [
                    (
                        "sec",
                        Some(
                            "krb5",
                        ),
                    ),
                ],
                servers: {
                    "fd00::5": ShareServer {
                        versions: Some(
                            [
                                "4.0",
                            ],
                        ),
                        read_only: true,
                        default_options: [
                            (
                                "noac",
                                None,
                            ),
                        ],
                        mandatory_options: [
                            (
                                "nconnect",
                                Some(
                                    "4",
                                ),
                            ),
                        ],
                    },
                },
            },
        },
        local: Local {
            roots: [
                "/dev/vg",
            ],
            error_policy: Report,
        },
        detach: Detach {
            unplug_timeout: 7s,
        },
        iscsi: Iscsi {
            nodes: "/var/lib/iscsi/nodes",
            interface: "storage0",
            probe_timeout: 1s,
            login_timeout: 2s,
            device_timeout: 4s,
            error_policy: Report,
        },
        nvmeof: Nvmeof {
            probe_timeout: 500ms,
            error_policy: Report,
            connect_timeout: 4s,
            device_timeout: 60s,
            keep_alive_tmo: 3s,
            reconnect_delay: 1s,
            fast_io_fail_tmo: 5s,
            ctrl_loss_tmo: Some(
                120s,
            ),
        },
        limits: Limits {
            calls_per_second: 10,
            burst: 20,
            calls: 30,
            work: WorkLimits {
                all: 31,
                per_caller: 32,
                per_server: 33,
            },
            watches: 4,
            all_watches: 50,
            connections: 60,
            connections_per_user: 7,
            streams: 8,
            keepalive: 9s,
        },
    }
    "#);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let wrong = [
        "mout_base = \"/m\"",
        "[smb]\nmandatory_option = \"seal\"",
        "[smb.servers.\"nas.example\"]\nreadonly = true",
        "zzqq = 1",
        "mount_base = \"/\"",
        "mount_base = \"relative\"",
        "mount_base = \"/a/../b\"",
        "state_dir = 1.5",
        "smb = 1",
        "[smb]\nservers.nas = 1",
        "[smb]\nversions = [\"3.2\"]",
        "[smb]\nversions = []",
        "[smb]\nprobe_timeout = 3",
        "[smb]\nprobe_timeout = \"0s\"",
        "[smb]\nprobe_timeout = \"2h\"",
        "[smb]\nmount_timeout = \"99999999999999999999s\"",
        "[smb]\nuid = -1",
        "[smb]\nuid = \"no-such-user-here\"",
        "[smb]\ngid = \"no-such-group-here\"",
        "[smb]\ndefault_options = \"echo_intervall=5\"",
        "[smb]\ndefault_options = \"echo_interval=601\"",
        "[smb]\ndefault_options = \"username=bob,password=hunter2\"",
        "[smb]\nmandatory_options = \"ro\"",
        "[smb]\nmandatory_options = \"mfsymlinks\"",
        "[smb]\nmandatory_options = \"vers=3.0\"",
        "[smb.servers.\"nas:445\"]\nread_only = true",
        "[smb.servers.NAS]\n[smb.servers.nas]",
        "[smb.kerberos]\nprincipal = \"alice\"",
        "[smb.kerberos]\nprincipal = \"a;uid=0@B\"",
        "[smb.kerberos]\nprincipal = \"a@B\"\ncruid = 4294967294",
        "[smb.servers.nas.kerberos]\ncruid = 0",
        "[smb.local_shares]\n\"nas/vols\" = \"/srv\"",
        "[smb.local_shares]\n\"//nas/vols/folder\" = \"/srv\"",
        "[smb.local_shares]\n\"//nas/vols\" = \"srv\"",
        "[smb.local_shares]\n\"//nas/vols\" = \"/srv\"\n\"//NAS/Vols\" = \"/srv\"",
        "[local]\nroots = [\"/\"]",
        "[listen]\nsocket = \"\"",
        "[libvirt]\nuri = \"system\"",
        "[smb",
        "a = 1\na = 2",
    ]
    .map(|text| settings(text).unwrap_err());
    insta::assert_snapshot!(wrong.join("\n"), @r#"
    the configuration is invalid: c.toml:1:1: mout_base: unknown key; did you mean "mount_base"?
    the configuration is invalid: c.toml:2:1: smb.mandatory_option: unknown key; did you mean "mandatory_options"?
    the configuration is invalid: c.toml:2:1: smb.servers."nas.example".readonly: unknown key; did you mean "read_only"?
    the configuration is invalid: c.toml:1:1: zzqq: unknown key; known here: state_dir, mount_base, listen, audit_file, metrics_file, metrics_listen, metrics_io, otlp_endpoint, policy, auth, keystone, libvirt, smb, nfs, local, detach, iscsi, nvmeof, limits
    the configuration is invalid: c.toml:1:1: mount_base: expected an absolute path other than "/", without ".."
    the configuration is invalid: c.toml:1:1: mount_base: expected an absolute path other than "/", without ".."
    the configuration is invalid: c.toml:1:1: mount_base: expected an absolute path other than "/", without ".."
    the configuration is invalid: c.toml:1:1: state_dir: expected an absolute path other than "/", without ".."
    the configuration is invalid: c.toml:1:1: smb: expected a table
    the configuration is invalid: c.toml:2:9: smb.servers.nas: expected a table
    the configuration is invalid: c.toml:2:1: smb.versions: expected a list of one or more of "3.1.1", "3.0.2", "3.0", "2.1", "2.0", "1.0"
    the configuration is invalid: c.toml:2:1: smb.versions: expected a list of one or more of "3.1.1", "3.0.2", "3.0", "2.1", "2.0", "1.0"
    the configuration is invalid: c.toml:2:1: smb.probe_timeout: expected a duration with its unit, such as "3s", "500ms" or "2m", more than 0 and at most an hour
    the configuration is invalid: c.toml:2:1: smb.probe_timeout: expected a duration with its unit, such as "3s", "500ms" or "2m", more than 0 and at most an hour
    the configuration is invalid: c.toml:2:1: smb.probe_timeout: expected a duration with its unit, such as "3s", "500ms" or "2m", more than 0 and at most an hour
    the configuration is invalid: c.toml:2:1: smb.mount_timeout: expected a duration with its unit, such as "3s", "500ms" or "2m", more than 0 and at most an hour
    the configuration is invalid: c.toml:2:1: smb.uid: expected a number from 0 to 4294967294
    the configuration is invalid: c.toml:2:1: smb.uid: this host has no user "no-such-user-here": name one, or give its number
    the configuration is invalid: c.toml:2:1: smb.gid: this host has no group "no-such-group-here": name one, or give its number
    the configuration is invalid: c.toml:2:1: smb.default_options: mount option "echo_intervall" is not allowed; did you mean "echo_interval"?
    the configuration is invalid: c.toml:2:1: smb.default_options: mount option "echo_interval" takes a number from 1 to 600
    the configuration is invalid: c.toml:2:1: smb.default_options: mount option "username" is refused: credentials belong to the volume's connection info, not among this host's options
    the configuration is invalid: c.toml:2:1: smb.mandatory_options: mount option "ro" is refused: set read_only for the server instead
    the configuration is invalid: c.toml:2:1: smb.mandatory_options: mount option "mfsymlinks" is refused: links and special files made up from file contents could lead out of the share
    the configuration is invalid: c.toml:2:1: smb.mandatory_options: mount option "vers" is refused: set versions instead
    the configuration is invalid: c.toml:1:14: smb.servers."nas:445": expected a server's name or address, without a port
    the configuration is invalid: c.toml:2:14: smb.servers.nas: expected each server once: this is another spelling of one above
    the configuration is invalid: c.toml:2:1: smb.kerberos.principal: expected a Kerberos principal with its realm, such as "name@EXAMPLE.ORG"
    the configuration is invalid: c.toml:2:1: smb.kerberos.principal: expected a Kerberos principal with its realm, such as "name@EXAMPLE.ORG"
    the configuration is invalid: c.toml:3:1: smb.kerberos.cruid: this host has no user "4294967294": name one, or give its number
    the configuration is invalid: c.toml:2:1: smb.servers.nas.kerberos.cruid: expected a principal beside it
    the configuration is invalid: c.toml:2:1: smb.local_shares."nas/vols": expected a share, such as "//host/share"
    the configuration is invalid: c.toml:2:1: smb.local_shares."//nas/vols/folder": expected a share, such as "//host/share"
    the configuration is invalid: c.toml:2:1: smb.local_shares."//nas/vols": expected an absolute path other than "/", without ".."
    the configuration is invalid: c.toml:2:1: smb.local_shares."//nas/vols": expected each share once: this is another spelling of one above
    the configuration is invalid: c.toml:2:1: local.roots: expected an absolute path other than "/", without ".."
    the configuration is invalid: c.toml:2:1: listen.socket: expected an absolute path other than "/", without ".."
    the configuration is invalid: c.toml:2:1: libvirt.uri: expected a libvirt URI such as "qemu:///system"
    c.toml:1:5: unclosed table, expected `]`
    c.toml:2:1: duplicate key
    "#);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let error = settings("mout_base = \"/m\"\n[detach]\nunplug_timeout = 3").unwrap_err();
    insta::assert_snapshot!(error, @r#"
    the configuration is invalid:
      c.toml:1:1: mout_base: unknown key; did you mean "mount_base"?
      c.toml:3:1: detach.unplug_timeout: expected a duration with its unit, such as "3s", "500ms" or "2m", more than 0 and at most an hour
    "#);
}

#[test]
fn drop_ins_are_read_in_order_and_the_later_wins() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("volattachd.toml");
    let drop_ins = dir.path().join("volattachd.toml.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(
        &main,
        "[local]\nroots = [\"/a\", \"/b\"]\n[smb]\nuid = 1\n[smb.servers.nas]\nread_only = true",
    )
    .unwrap();
    fs::write(
        drop_ins.join("10-a.toml"),
        "[local]\nroots = [\"/c\"]\n[smb]\nuid = 2\n",
    )
    .unwrap();
    fs::write(
        drop_ins.join("20-b.toml"),
        "[smb]\nuid = 3\n[smb.servers.nas]\nversions = [\"3.0\"]",
    )
    .unwrap();
    fs::write(drop_ins.join(".30-c.toml"), "this is no TOML").unwrap();
    fs::write(drop_ins.join("40-d.conf"), "this is no TOML").unwrap();
    let s = Settings::load(&main).unwrap();
    assert_eq!(s.local.roots, [Path::new("/c")]);
    assert_eq!(s.smb.shares.uid, 3);
    let nas = s.smb.shares.servers["nas"].clone();
    assert!(nas.read_only && nas.versions.as_deref() == Some(&["3.0".to_owned()]));
    assert!(s.smb.shares.read_only("nas") && !s.smb.shares.read_only("other"));
    assert_eq!(s.smb.shares.versions_for("nas").0, ["3.0"]);

    fs::write(drop_ins.join("50-e.toml"), "\n  [smb]\n  uidd = 3").unwrap();
    let error = Settings::load(&main).unwrap_err().to_string();
    let place = format!("{}:3:3: smb.uidd", drop_ins.join("50-e.toml").display());
    assert!(error.contains(&place), "{error}");
}

#[test]
fn a_file_that_is_named_and_missing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no.toml");
    let error = Settings::load(&path).unwrap_err();
    assert!(error.to_string().contains("no.toml"), "{error}");
    assert!(matches!(error, ConfigError::Read { .. }));
}

/// The keys that the schema has, in the paths of docs/configuration.md: learned from what it says of an unknown key.
pub(super) fn schema() -> BTreeSet<String> {
    let text = "zzqq=1\n[listen]\nzzqq=1\n[listen.tls]\nzzqq=1\n[policy]\nzzqq=1\n[auth]\nzzqq=1\n[keystone]\nzzqq=1\n[libvirt]\nzzqq=1\n[smb]\nzzqq=1\n[smb.kerberos]\nzzqq=1\n[smb.servers.NAME]\nzzqq=1\n[smb.servers.NAME.kerberos]\nzzqq=1\n[nfs]\nzzqq=1\n[nfs.servers.NAME]\nzzqq=1\n[local]\nzzqq=1\n[detach]\nzzqq=1\n[iscsi]\nzzqq=1\n[nvmeof]\nzzqq=1\n[limits]\nzzqq=1";
    let mut problems = Vec::new();
    decode(
        tree::parse(Path::new("c.toml"), text).unwrap(),
        &mut problems,
    );
    let tables = [
        "listen",
        "listen.tls",
        "policy",
        "auth",
        "keystone",
        "libvirt",
        "smb",
        "smb.kerberos",
        "smb.servers",
        "smb.servers.NAME.kerberos",
        "nfs",
        "nfs.servers",
        "local",
        "detach",
        "iscsi",
        "nvmeof",
        "limits",
    ];
    problems
        .iter()
        .filter(|problem| problem.fault != Fault::Missing)
        .flat_map(|problem| {
            let prefix = problem.key.strip_suffix("zzqq").unwrap();
            let Fault::Unknown { known, .. } = &problem.fault else {
                panic!("{problem}");
            };
            known.iter().map(move |key| format!("{prefix}{key}"))
        })
        .filter(|key| !tables.contains(&key.as_str()))
        .collect()
}

#[test]
fn a_stronger_layer_replaces_a_weaker_one_and_what_contradicts_it() {
    let s = settings(
        r#"
        [smb]
        uid = 1
        gid = 2
        default_options = "echo_interval=5,rsize=65536,actimeo=3"
        mandatory_options = "seal"
        [smb.servers.nas]
        default_options = "hard,rsize=131072"
        mandatory_options = "wsize=65536"
        "#,
    )
    .unwrap();
    let option = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let given = [
        option("soft", None),
        option("wsize", Some("4096")),
        option("gid", Some("7")),
        option("acregmax", Some("9")),
        option("seal", None),
        option("iocharset", Some("utf8")),
    ];
    let shown: Vec<String> = s
        .smb
        .effective_options("NAS", &given)
        .iter()
        .map(|o| match &o.value {
            Some(value) => format!("{}={value} ({:?})", o.name, o.origin),
            None => format!("{} ({:?})", o.name, o.origin),
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    port=445 (BuiltIn)
    file_mode=0600 (BuiltIn)
    dir_mode=0700 (BuiltIn)
    nobrl (BuiltIn)
    uid=1 (Default)
    echo_interval=5 (Default)
    actimeo=3 (Default)
    rsize=131072 (ServerDefault)
    soft (ConnectionInfo)
    gid=7 (ConnectionInfo)
    acregmax=9 (ConnectionInfo)
    wsize=65536 (ServerMandatory)
    seal (Mandatory)
    forceuid (Fixed)
    forcegid (Fixed)
    iocharset=utf8 (Fixed)
    nosharesock (Fixed)
    closetimeo=0 (Fixed)
    "#);
    let elsewhere = s.smb.effective_options("other", &[]);
    assert!(elsewhere.iter().all(|o| !matches!(
        o.origin,
        Origin::ServerDefault | Origin::ServerMandatory | Origin::ConnectionInfo
    )));
}
