use std::time::Duration;

use super::version::Version;
use super::*;
use crate::backend::NoOthers;
use crate::backend::closed::wait_closed;
use crate::model::mount_options::MountOption;
use crate::model::{ImageFormat, Reason};

/// Of a volume that nobody else shares anything with.
const LAST: Release = Release {
    held: Vec::new(),
    keeps_read_only: false,
    force: false,
};

fn backend(mount_base: &Path) -> NfsBackend {
    let mut settings = config::Settings::built_in().nfs;
    (settings.shares.uid, settings.shares.gid) = (64055, 108);
    settings.shares.probe_timeout = Duration::from_millis(200);
    let none = Workers::from_executable("/nonexistent".into());
    NfsBackend::new(
        settings,
        mount_base.into(),
        HostKey::new([1; 32]),
        none,
        Arc::new(Host::this()),
    )
}

fn option(name: &str, value: &str) -> MountOption {
    (name.to_owned(), Some(value.to_owned()))
}

fn info(host: &str, options: &[MountOption]) -> Protocol {
    Protocol::Nfs(NfsVolume {
        host: host.into(),
        path: "/exp".into(),
        name: "sub/volume 1".into(),
        format: ImageFormat::Raw,
        options: options.to_vec(),
    })
}

fn plan(options: &[MountOption]) -> Result<HostPlan, BackendError> {
    backend(Path::new("/mnt")).plan(&info("10.0.0.5", options), Access::ReadWrite)
}

#[test]
fn a_plan_names_what_takes_it_down() {
    let backend = backend(Path::new("/var/lib/volattach/mnt"));
    let info = info("fd00::5", &[option("rsize", "65536")]);
    let plan = backend.plan(&info, Access::ReadOnly).unwrap();
    assert_eq!(plan, backend.plan(&info, Access::ReadOnly).unwrap());
    let mount = plan.mount().unwrap();
    let id = mount.target.file_name().unwrap().to_str().unwrap();
    assert_eq!(plan.claims, [Claim::Mount(format!("nfs:{id}"))]);
    assert_eq!(plan.path, mount.target.join("sub/volume 1"));
    assert_eq!(mount.source, "[fd00::5]:/exp");
    assert_eq!(
        mount.options,
        "ro,nosuid,nodev,noexec,nosymfollow,vers=4.2,addr=fd00::5,proto=tcp6,port=2049,sec=sys,softerr,timeo=100,\
         retrans=2,nolock,rsize=65536,nosharecache"
    );
    let words = backend.describe(&info, &plan);
    assert!(
        words
            .inspect
            .starts_with("as user 64055 and group 108, open")
    );
    assert!(
        words
            .connect
            .contains("the newest NFS version it has of 4.2, 4.1, 4.0")
    );
}

#[tokio::test]
async fn a_confined_guest_is_refused_a_version_without_labels_before_it_is_mounted() {
    let root = tempfile::tempdir().unwrap();
    let selinux = root.path().join("sys/fs/selinux");
    std::fs::create_dir_all(selinux.join("booleans")).unwrap();
    std::fs::write(selinux.join("enforce"), "1").unwrap();
    std::fs::write(selinux.join("booleans/virt_use_nfs"), "0 0").unwrap();
    let mut backend = backend(Path::new("/mnt"));
    backend.host = Arc::new(Host::beneath(root.path()));
    for (options, refused) in [
        (vec![], None),
        (vec![option("vers", "4")], None),
        (vec![option("vers", "4.1")], Some(Reason::SelinuxBoolean)),
        (vec![option("vers", "4.0")], Some(Reason::SelinuxBoolean)),
    ] {
        let plan = plan(&options).unwrap();
        let error = backend.check_confined(&plan).await.err();
        assert_eq!(error.map(|error| error.reason()), refused, "{options:?}");
    }
}

#[test]
fn two_mounts_are_one_only_if_all_is_the_same() {
    let shared = |options: &[MountOption]| plan(options).unwrap().claims;
    assert_eq!(shared(&[]), shared(&[option("timeo", "100")]));
    assert_ne!(shared(&[]), shared(&[option("timeo", "101")]));
    assert_ne!(shared(&[]), shared(&[option("vers", "4.2")]));
    // The transport is TCP whatever is said.
    assert_eq!(shared(&[]), shared(&[option("proto", "tcp6")]));
}

#[test]
fn version_3_is_for_servers_whose_configuration_names_it() {
    let error = plan(&[option("vers", "3")]).unwrap_err();
    assert_eq!(error.reason(), Reason::ProtocolVersion, "{error}");
    assert!(plan(&[option("vers", "4.0")]).is_ok());

    let mut backend = backend(Path::new("/mnt"));
    backend.settings.shares.versions = vec!["4.1".into(), "3".into()];
    let versions = |options: &[MountOption]| {
        let Protocol::Nfs(volume) = info("nas", options) else {
            panic!("another protocol")
        };
        let export = Export::new(&backend.settings, &volume, Access::ReadOnly)?;
        Ok::<_, BackendError>(version::names(&export.versions))
    };
    assert_eq!(versions(&[]).unwrap(), "4.1, 3");
    assert_eq!(versions(&[option("vers", "4")]).unwrap(), "4.1");
    assert_eq!(versions(&[option("vers", "3")]).unwrap(), "3");
}

#[test]
fn version_3_is_told_where_its_mountd_is() {
    let backend = backend(Path::new("/mnt"));
    let Protocol::Nfs(volume) = info("nas", &[option("mountport", "99")]) else {
        panic!("another protocol")
    };
    let export = Export::new(&backend.settings, &volume, Access::ReadWrite).unwrap();
    assert_eq!(export.mount_port(), Some(99));
    assert_eq!(
        export.data("10.0.0.5", Version::V3, Some(20_048)).unwrap(),
        "vers=3,addr=10.0.0.5,proto=tcp,mountaddr=10.0.0.5,mountproto=tcp,mountport=20048,port=2049,sec=sys,softerr,\
         timeo=100,retrans=2,nolock,nosharecache"
    );
    let newer = export.data("10.0.0.5", Version::V4(2), None).unwrap();
    assert!(!newer.contains("mount"), "{newer}");
}

/// What a failed connect leaves: nothing.
async fn connect_fails(info: &Protocol) -> BackendError {
    let dir = tempfile::tempdir().unwrap();
    let backend = backend(&dir.path().join("mnt"));
    let volume = backend.plan(info, Access::ReadWrite).unwrap().into();
    let error = backend
        .connect(&volume, info, &NoOthers, HeadStart::default())
        .await
        .unwrap_err();
    assert_eq!(backend.find(&volume).await.unwrap(), Presence::Absent);
    let all = backend.find_all(vec![volume.clone()]).await;
    assert!(matches!(all[..], [Ok(Presence::Absent)]));
    backend.disconnect(&volume, &LAST).await.unwrap();
    error
}

#[tokio::test]
async fn a_closed_port_and_a_silent_server_are_told_and_nothing_is_left() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let at_port = info("127.0.0.1", &[option("port", &port)]);
    let error = connect_fails(&at_port).await;
    assert_eq!(error.reason(), Reason::ServerTimeout, "{error}");
    let address = listener.local_addr().unwrap();
    drop(listener);
    wait_closed(address);
    let error = connect_fails(&at_port).await;
    assert_eq!(error.reason(), Reason::ServerUnreachable, "{error}");
    // RFC 6761: never a name.
    let error = connect_fails(&info("files.invalid", &[])).await;
    assert_eq!(error.reason(), Reason::NameResolution, "{error}");
}

/// Every error of mount(2) has its reason, and says what to do.
#[test]
fn mount_errors_are_told_in_words() {
    let settings = backend(Path::new("/mnt")).settings;
    let told = |errno, options: &[MountOption]| {
        let Protocol::Nfs(volume) = info("files", options) else {
            panic!("another protocol")
        };
        let export = Export::new(&settings, &volume, Access::ReadWrite).unwrap();
        match failure::meaning(errno, &export, Path::new("/mnt/x"), Version::V4(2)) {
            Meaning::Final(error) => format!("{}: {error}", error.reason()),
            Meaning::OtherVersion(error) => format!("next version: {}: {error}", error.reason()),
            Meaning::Unreachable(why) => format!("next address: {why}"),
            Meaning::Silent(why) => format!("next address, silent: {why}"),
            Meaning::Broke(why) => format!("once more: {why}"),
        }
    };
    let errnos = [
        Errno::EACCES,
        Errno::ENOENT,
        Errno::ENOTDIR,
        Errno::ESTALE,
        Errno::ECONNREFUSED,
        Errno::ETIMEDOUT,
        Errno::EPROTONOSUPPORT,
        Errno::EINVAL,
        Errno::ENOKEY,
        Errno::EPERM,
        Errno::ENODEV,
        Errno::EBUSY,
        Errno::EIO,
    ];
    let mut all: Vec<_> = errnos.into_iter().map(|errno| told(errno, &[])).collect();
    all.push(told(Errno::EACCES, &[option("sec", "krb5p")]));
    insta::assert_snapshot!(all.join("\n"), @r#"
    LOGON_FAILURE: the server refuses this host access to files:/exp: it does not export this path to this host's address, or not with sec=sys (EACCES): check its exports (exportfs -v)
    SHARE_NOT_FOUND: cannot mount files:/exp: the server has no such export, or does not export it to this host (ENOENT): check the connection info's export, and the server's (exportfs -v)
    SHARE_NOT_FOUND: cannot mount files:/exp: what the server has there is no directory (ENOTDIR): export one
    SHARE_NOT_FOUND: cannot mount files:/exp: the server lost the directory of this export (ESTALE): export it anew there (exportfs -ra)
    next address: connection refused
    next address, silent: connection timed out
    next version: PROTOCOL_VERSION: cannot agree on a protocol version with the server files (offered 4.2): the kernel and the server found no common ground at the mount itself (EPROTONOSUPPORT): this host's kernel may lack that version
    MOUNT_OPTION_INVALID: cannot mount files:/exp with these options: the kernel refuses one of them (EINVAL) and may tell which in its log (dmesg)
    LOGON_FAILURE: the server refuses this host access to files:/exp: there are no valid Kerberos credentials for the server: check that rpc.gssd runs here, with a keytab or a ticket
    LOGON_FAILURE: the server refuses this host access to files:/exp: it does not take this export's callers with the sec= that was asked for (EPERM): ask for another, as in sec=krb5, in the connection info or the configuration; unless the daemon itself lacks CAP_SYS_ADMIN
    MOUNT_FAILED: cannot mount files:/exp on "/mnt/x": this kernel has no nfs (ENODEV): load or install that module
    MOUNT_FAILED: cannot mount files:/exp on "/mnt/x": the mount point is busy (EBUSY)
    MOUNT_FAILED: cannot mount files:/exp on "/mnt/x": i/o error (EIO); the kernel's log (dmesg) may tell more
    LOGON_FAILURE: the server refuses this host access to files:/exp: it does not export this path to this host with Kerberos, or takes not this host's credentials (EACCES): check its exports (exportfs -v), the time on both, and that rpc.gssd runs here with a keytab or a ticket
    "#);
}
