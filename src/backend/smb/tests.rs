use std::path::Path;
use std::time::Duration;

use super::*;
use crate::backend::closed::closed_port;
use crate::backend::{Backends, NoOthers, Quarantine};
use crate::model::{ImageFormat, Reason, Secret};

/// Of a volume that nobody else shares anything with.
const LAST: Release = Release {
    held: Vec::new(),
    keeps_read_only: false,
    force: false,
};

fn backend(mount_base: &Path) -> SmbBackend {
    let mut settings = config::Settings::built_in().smb;
    (settings.shares.uid, settings.shares.gid) = (64055, 108);
    settings.shares.versions = vec!["3.1.1".into(), "3.0".into()];
    settings.shares.probe_timeout = Duration::from_millis(200);
    let none = Workers::from_executable("/nonexistent".into());
    SmbBackend::new(
        settings,
        mount_base.into(),
        HostKey::new([1; 32]),
        none,
        Arc::new(Host::this()),
    )
}

fn info(host: &str, port: u16) -> Protocol {
    Protocol::Smb(SmbVolume {
        host: host.into(),
        share: "vols".into(),
        folder: String::new(),
        name: "sub/volume 1".into(),
        format: ImageFormat::Raw,
        credentials: SmbCredentials::Password {
            username: "bob".into(),
            password: "hunter2".into(),
            domain: None,
        },
        options: vec![("port".into(), Some(port.to_string()))],
    })
}

#[test]
fn a_plan_names_what_takes_it_down_and_no_secret() {
    let backend = backend(Path::new("/var/lib/volattach/mnt"));
    let info = info("10.0.0.5", 445);
    let plan = backend.plan(&info, Access::ReadOnly).unwrap();
    assert_eq!(plan, backend.plan(&info, Access::ReadOnly).unwrap());
    let mount = plan.mount().unwrap();
    let id = mount.target.file_name().unwrap().to_str().unwrap();
    assert_eq!(plan.claims, [Claim::Mount(format!("smb:{id}"))]);
    assert_eq!(plan.path, mount.target.join("sub/volume 1"));
    assert_eq!(plan.root, mount.target);
    assert!(
        mount
            .options
            .starts_with("ro,nosuid,nodev,noexec,nosymfollow,ip=10.0.0.5,vers=3.1.1,"),
        "{}",
        mount.options
    );
    let all = format!("{plan:?}{:?}", backend.describe(&info, &plan));
    assert!(!all.contains("hunter2"), "{all}");
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
    assert!(!error.to_string().contains("hunter2"));
    error
}

#[tokio::test]
async fn a_closed_port_is_told_and_nothing_is_left() {
    let port = closed_port().port();
    let error = connect_fails(&info("127.0.0.1", port)).await;
    assert_eq!(error.reason(), Reason::ServerUnreachable);
    let expected = format!(
        "cannot reach the server 127.0.0.1 (tried 127.0.0.1:{port} (connection refused)): check \
         that it runs, its address and port, and the way to it"
    );
    assert_eq!(error.to_string(), expected);
}

/// Calls that asked at the same time prove no more than one call.
#[tokio::test]
async fn a_silence_found_by_head_starts_at_once_counts_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let info = info("127.0.0.1", listener.local_addr().unwrap().port());
    let dir = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(crate::sys::worker::Registry::default());
    let own: Arc<dyn Backend> = Arc::new(backend(&dir.path().join("mnt")));
    let backends = Backends::new([own], quarantine.clone());
    let guarded = backends.get(PROTOCOL).unwrap();
    let plan = guarded.plan(&info, Access::ReadWrite).unwrap();
    let volume = HostVolume::from(plan.clone());
    let head_start = || guarded.head_start(&plan, &info);
    let (first, second) = tokio::join!(head_start(), head_start());
    for (head_start, quarantined) in [(first, 0), (second, 0), (HeadStart::default(), 1)] {
        let connected = guarded.connect(&volume, &info, &NoOthers, head_start).await;
        assert!(connected.unwrap_err().is_silence());
        assert_eq!(quarantine.servers().len(), quarantined);
    }
}

#[tokio::test]
async fn a_silent_server_is_told_and_nothing_is_left() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = connect_fails(&info("127.0.0.1", port)).await;
    assert_eq!(error.reason(), Reason::ServerTimeout);
    assert!(
        error.to_string().contains("no answer within 0.2 s"),
        "{error}"
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told() {
    // RFC 6761: never a name.
    let error = connect_fails(&info("files.invalid", 445)).await;
    assert_eq!(error.reason(), Reason::NameResolution, "{error}");
}

fn volume(info: Protocol) -> SmbVolume {
    match info {
        Protocol::Smb(volume) => volume,
        _ => panic!("another protocol"),
    }
}

/// What an error of mount(2) comes to, in words.
fn told(share: &Share<'_>, errno: Errno) -> String {
    match failure::meaning(errno, share, Path::new("/mnt/x"), share.dialects[0]) {
        Meaning::Final(error) => format!("{}: {error}", error.reason()),
        Meaning::OtherVersion(error) => format!("next version: {error}"),
        Meaning::Unreachable(why) => format!("next address: {why}"),
        Meaning::Silent(why) => format!("next address, silent: {why}"),
        Meaning::Broke(why) => format!("once more: {why}"),
    }
}

#[test]
fn kerberos_errors_are_told_in_words() {
    let mut settings = backend(Path::new("/mnt")).settings;
    settings.kerberos = Some(config::SmbKerberos {
        principal: "alice@LAB.TEST".into(),
        cruid: 0,
    });
    let volume = SmbVolume {
        credentials: SmbCredentials::Kerberos {
            sec: "krb5".into(),
            username: None,
            domain: None,
        },
        ..volume(info("files", 445))
    };
    let share = Share::new(&settings, &volume, Access::ReadWrite).unwrap();
    let all = [Errno::ENOKEY, Errno::EACCES].map(|errno| told(&share, errno));
    insta::assert_snapshot!(all.join("\n"), @r#"
    LOGON_FAILURE: cannot log in to //files/vols as the Kerberos principal "alice@LAB.TEST": the kernel got no ticket for cifs/files (ENOKEY): the credential cache of uid 0 has none that is valid and the keytab no key of the principal; or the realm does not answer; or it has no service of that name, since the export must name the server as its service principal does; or request-key has no rule for cifs.spnego (package cifs-utils). cifs.upcall tells which in the system log. Or the server says that the account is disabled or has expired
    LOGON_FAILURE: the server refuses the Kerberos principal "alice@LAB.TEST" access to //files/vols: a disabled or locked account, or no right to the share (EACCES); correct it on the server, or name another principal in the configuration
    "#);
}

#[test]
fn accounts_that_may_not_log_in_are_told_of_as_such() {
    let settings = backend(Path::new("/mnt")).settings;
    let volume = SmbVolume {
        credentials: SmbCredentials::Password {
            username: "bob".into(),
            password: Secret::new("hunter2".to_owned()),
            domain: None,
        },
        ..volume(info("files", 445))
    };
    let share = Share::new(&settings, &volume, Access::ReadWrite).unwrap();
    let all = [Errno::EKEYREVOKED, Errno::EKEYEXPIRED].map(|errno| told(&share, errno));
    insta::assert_snapshot!(all.join("\n"), @r#"
    LOGON_FAILURE: the server refuses user "bob" access to //files/vols: the account is disabled (EKEYREVOKED); enable it on the server, or name another user in the connection info
    LOGON_FAILURE: the server refuses user "bob" access to //files/vols: the account or its password has expired, or the password must be changed before the first login (EKEYEXPIRED); renew it on the server, or name another user in the connection info
    "#);
}

/// A share of this very host is used where it is: links are not followed, read-only is honoured, nothing is mounted.
#[tokio::test]
async fn a_share_of_this_very_host_is_not_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("vols");
    std::fs::create_dir_all(root.join("a")).unwrap();
    std::fs::write(root.join("a/v1"), b"0123456789").unwrap();
    std::fs::write(dir.path().join("outside"), b"secret").unwrap();
    std::os::unix::fs::symlink("../../outside", root.join("a/link")).unwrap();
    let mut backend = backend(&dir.path().join("mnt"));
    let share = ("nas".to_owned(), "vols".to_owned());
    backend.settings.local_shares.insert(share, root.clone());
    let info = |name: &str| {
        Protocol::Smb(SmbVolume {
            host: "NAS".into(),
            share: "Vols".into(),
            folder: "a".into(),
            name: name.into(),
            ..volume(super::tests::info("nas", 445))
        })
    };
    let plan = backend.plan(&info("v1"), Access::ReadOnly).unwrap();
    assert_eq!((&plan.claims[..], plan.mount()), (&[][..], None));
    assert!(plan.keeps_owner, "other users of the server hold it too");
    assert_eq!((&plan.path, &plan.root), (&root.join("a/v1"), &root));
    assert!(plan.access.is_read_only());
    let described = backend.describe(&info("v1"), &plan);
    assert_eq!(
        described.connect,
        format!(
            "nothing to mount: //nas/Vols/a is of this host, beneath {} (smb.local_shares)",
            root.display()
        )
    );
    let first = HostVolume::from(plan);
    assert_eq!(backend.find(&first).await.unwrap(), Presence::Present);
    let all = backend.find_all(vec![first.clone()]).await;
    assert!(matches!(all[..], [Ok(Presence::Present)]));
    let connected = backend
        .connect(&first, &info("v1"), &NoOthers, HeadStart::default())
        .await
        .unwrap();
    assert_eq!(
        (&connected.found, connected.inspected),
        (&first.found, false)
    );
    backend.inspect(&first).await.unwrap();
    assert_eq!(backend.extend(&first).await.unwrap(), 10);
    backend.disconnect(&first, &LAST).await.unwrap();
    assert!(!dir.path().join("mnt").exists());
    for (name, reason) in [
        ("link", Reason::VolumePathUnsafe),
        ("../../outside", Reason::VolumePathUnsafe),
        ("absent", Reason::VolumeNotFound),
        (".", Reason::VolumeNotRegular),
    ] {
        let plan = backend.plan(&info(name), Access::ReadWrite).unwrap();
        let error = backend.inspect(&plan.into()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
    let other = Protocol::Smb(SmbVolume {
        share: "other".into(),
        ..volume(super::tests::info("nas", 445))
    });
    let plan = backend.plan(&other, Access::ReadOnly).unwrap();
    assert!(plan.mount().is_some());
}

/// A changed file is another user's, or has another password.
#[tokio::test]
async fn a_share_is_joined_only_by_the_login_that_it_was_mounted_with() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nas");
    let write = |password: &str| {
        std::fs::write(&path, format!("username=bob\npassword={password}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("one");
    let mut backend = backend(&dir.path().join("mnt"));
    backend.settings.credentials_dirs = vec![dir.path().to_owned()];
    let volume = SmbVolume {
        credentials: SmbCredentials::File(path.clone()),
        ..volume(info("files", 445))
    };
    let plan = backend
        .plan(&Protocol::Smb(volume), Access::ReadOnly)
        .unwrap();
    let said = backend.said(&backend.read_login(&path).await.unwrap());
    let mut volume = HostVolume::from(plan.clone());
    volume.found.login = Some(said);
    backend.recall(std::slice::from_ref(&volume));
    for (password, is_another) in [("one", false), ("two", true), ("one", false)] {
        write(password);
        let error = backend.join(&volume).await.unwrap_err(); // nothing is mounted here
        let refused = matches!(error, BackendError::OtherLogin { .. });
        assert_eq!(refused, is_another, "{error}");
        assert!(!is_another || error.is_of_connection());
    }
    // The attachment that made the mount is detached, and the next daemon has only the joiner's record.
    let joiner = HostVolume {
        plan: plan.clone(),
        found: backend.survey(&plan).await.unwrap(),
    };
    let mut next = self::backend(&dir.path().join("mnt"));
    next.settings.credentials_dirs = vec![dir.path().to_owned()];
    next.recall(std::slice::from_ref(&joiner));
    write("two");
    let error = next.join(&plan.clone().into()).await.unwrap_err();
    assert!(matches!(error, BackendError::OtherLogin { .. }), "{error}");
    let beside = backend.beside(&plan).unwrap();
    assert_ne!(beside.claims, plan.claims);
    assert_eq!(beside.root.parent(), plan.root.parent());
    assert_eq!(beside.path.file_name(), plan.path.file_name());
    let all = std::iter::successors(Some(plan), |plan| backend.beside(plan));
    assert_eq!(all.count(), 9);
}

/// Every error of mount(2) has its reason, and says what to do.
#[test]
fn mount_errors_are_told_in_words() {
    let settings = backend(Path::new("/mnt")).settings;
    let volume = volume(info("files", 445));
    let share = Share::new(&settings, &volume, Access::ReadWrite).unwrap();
    let errnos = [
        Errno::EACCES,
        Errno::ENOENT,
        Errno::ECONNREFUSED,
        Errno::EHOSTUNREACH,
        Errno::EHOSTDOWN,
        Errno::ETIMEDOUT,
        Errno::EOPNOTSUPP,
        Errno::EINVAL,
        Errno::EPERM,
        Errno::ENODEV,
        Errno::EBUSY,
        Errno::EIO,
    ];
    let all: Vec<_> = errnos.into_iter().map(|e| told(&share, e)).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    LOGON_FAILURE: the server refuses user "bob" access to //files/vols: a wrong user, domain or password, a disabled or locked account, or no right to the share (EACCES); correct them on the server or in the connection info
    SHARE_NOT_FOUND: cannot mount //files/vols: the server has no such share, or the share no such folder (ENOENT): check the connection info's export
    next address: connection refused
    next address: no route to host
    next address, silent: host is down
    next address, silent: connection timed out
    PROTOCOL_VERSION: cannot agree on a protocol version with the server files (offered 3.1.1): the kernel and the server found no common ground at the mount itself (EOPNOTSUPP): an option such as seal may need a newer version than the server has
    MOUNT_OPTION_INVALID: cannot mount //files/vols with these options: the kernel refuses one of them (EINVAL) and may tell which in its log (dmesg)
    MOUNT_FAILED: cannot mount //files/vols on "/mnt/x": this process may not mount (EPERM): it needs CAP_SYS_ADMIN, and a confinement that lets mount(2) through
    MOUNT_FAILED: cannot mount //files/vols on "/mnt/x": this kernel has no cifs (ENODEV): load or install that module
    MOUNT_FAILED: cannot mount //files/vols on "/mnt/x": the mount point is busy (EBUSY)
    MOUNT_FAILED: cannot mount //files/vols on "/mnt/x": i/o error (EIO); the kernel's log (dmesg) may tell more
    "#);
}
