use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::model::{ImageFormat, Reason};

fn settings() -> config::Smb {
    let mut settings = config::Settings::built_in().smb;
    (settings.shares.uid, settings.shares.gid) = (64055, 108);
    settings.credentials_dirs = vec!["/etc/volattach/credentials".into()];
    settings
}

fn credentials(password: &str) -> SmbCredentials {
    SmbCredentials::Password {
        username: "bob".into(),
        password: password.into(),
        domain: Some("LAB".into()),
    }
}

fn volume() -> SmbVolume {
    SmbVolume {
        host: "Files.Example".into(),
        share: "Vols".into(),
        folder: String::new(),
        name: "volume-1".into(),
        format: ImageFormat::Raw,
        credentials: credentials("pa,ss\"w"),
        options: vec![],
    }
}

fn share(volume: &SmbVolume) -> Share<'_> {
    Share::new(&settings(), volume, Access::ReadOnly).unwrap()
}

fn refusal(settings: &config::Smb, volume: &SmbVolume) -> BackendError {
    match Share::new(settings, volume, Access::ReadOnly) {
        Ok(share) => panic!("accepted: {}", share.shown()),
        Err(error) => error,
    }
}

fn key() -> HostKey {
    HostKey::new([1; 32])
}

#[test]
fn a_plan_shows_everything_but_the_secret() {
    let volume = volume();
    let share = share(&volume);
    assert_snapshot!(share.source(), @"//files.example/Vols");
    assert_snapshot!(share.shown(), @"ro,nosuid,nodev,noexec,nosymfollow,ip=[resolved when connecting],vers=3.1.1,username=bob,domain=LAB,password=[redacted],port=445,file_mode=0600,dir_mode=0700,soft,echo_interval=10,nobrl,uid=64055,gid=108,forceuid,forcegid,iocharset=utf8,nosharesock,closetimeo=0");
    let data = share
        .data("10.0.0.5", share.dialects[1], &volume.credentials)
        .unwrap();
    assert_snapshot!(*data, @r#"ip=10.0.0.5,vers=3.0.2,username=bob,domain=LAB,password=pa,,ss"w,port=445,file_mode=0600,dir_mode=0700,soft,echo_interval=10,nobrl,uid=64055,gid=108,forceuid,forcegid,iocharset=utf8,nosharesock,closetimeo=0"#);
    assert_snapshot!(share.describe(&settings(), Path::new("/mnt/x")), @r#"ask Files.Example for the newest SMB version it has of 3.1.1, 3.0.2, 3.0, 2.1 (within 3 s an address), then mount //files.example/Vols read-only on /mnt/x as user "bob" of domain "LAB" (within 10 s); or join that mount where it is there already"#);
}

#[test]
fn a_literal_address_is_known_at_once() {
    let volume = SmbVolume {
        host: "fd00::5".into(),
        folder: "a/b c".into(),
        credentials: SmbCredentials::Guest,
        options: vec![
            ("vers".into(), Some("3.0".into())),
            ("port".into(), Some("1445".into())),
        ],
        ..volume()
    };
    let share = share(&volume);
    assert_snapshot!(share.source(), @"//fd00::5/Vols/a/b c");
    assert_snapshot!(share.shown(), @"ro,nosuid,nodev,noexec,nosymfollow,ip=fd00::5,vers=3.0,sec=none,file_mode=0600,dir_mode=0700,soft,echo_interval=10,nobrl,uid=64055,gid=108,port=1445,forceuid,forcegid,iocharset=utf8,nosharesock,closetimeo=0");
    assert_eq!(share.port().unwrap(), 1445);
    assert_eq!(share.dialects, [Dialect::from_name("3.0").unwrap()]);
}

#[test]
fn every_setting_says_where_it_comes_from() {
    let volume = SmbVolume {
        options: vec![("vers".into(), Some("2.1".into()))],
        ..volume()
    };
    let settings: Vec<_> = share(&volume)
        .settings()
        .into_iter()
        .map(|s| format!("{}={} ({})", s.name, s.value, s.origin))
        .collect();
    assert_snapshot!(settings.join("\n"), @"
    ip=[resolved when connecting] (built in)
    vers=2.1 (connection info)
    username=bob (connection info)
    domain=LAB (connection info)
    password=[redacted] (connection info)
    port=445 (built in)
    file_mode=0600 (built in)
    dir_mode=0700 (built in)
    soft= (built in)
    echo_interval=10 (built in)
    nobrl= (built in)
    uid=64055 (default)
    gid=108 (default)
    forceuid= (built in)
    forcegid= (built in)
    iocharset=utf8 (built in)
    nosharesock= (built in)
    closetimeo=0 (built in)
    ");
}

/// A volume by Kerberos, perhaps for a user that connection info names.
fn kerberos(username: Option<&str>) -> SmbVolume {
    SmbVolume {
        credentials: SmbCredentials::Kerberos {
            sec: "krb5i".into(),
            username: username.map(str::to_owned),
            domain: Some("LAB".into()),
        },
        ..volume()
    }
}

fn principal(name: &str, cruid: u32) -> Option<config::SmbKerberos> {
    Some(config::SmbKerberos {
        principal: name.into(),
        cruid,
    })
}

#[test]
fn kerberos_is_as_the_configured_principal_alone() {
    let refused = |settings: &config::Smb, user| refusal(settings, &kerberos(user)).to_string();
    assert_snapshot!(refused(&settings(), None), @"cannot log in to //files.example/Vols with Kerberos: this host's configuration names no principal for it: set smb.kerberos.principal, or give a user and password in the connection info");
    let mut configured = settings();
    configured.kerberos = principal("alice@LAB.TEST", 1000);
    let shown = |settings: &config::Smb, user| {
        let volume = kerberos(user);
        let share = Share::new(settings, &volume, Access::ReadOnly).unwrap();
        (share.shown(), share.id(&key()))
    };
    let by_default = shown(&configured, None);
    assert!(
        (by_default.0).contains(",sec=krb5i,username=alice@LAB.TEST,cruid=1000,"),
        "{by_default:?}"
    );
    // To name the same user is to say nothing.
    assert_eq!(shown(&configured, Some("alice")), by_default);
    assert_eq!(shown(&configured, Some("alice@LAB.TEST")), by_default);
    assert_snapshot!(refused(&configured, Some("bob")), @r#"cannot log in to //files.example/Vols with Kerberos: connection info names the user "bob", and this host logs in as "alice@LAB.TEST": leave username= out, or name that principal in the configuration"#);
    assert_eq!(
        refusal(&configured, &kerberos(Some("alice@OTHER"))).reason(),
        Reason::CredentialsInvalid
    );
    configured.server_kerberos.extend(
        principal("bob@LAB.TEST", 0).map(|kerberos| ("files.example".to_owned(), kerberos)),
    );
    let of_server = shown(&configured, Some("bob"));
    assert!(
        (of_server.0).contains(",username=bob@LAB.TEST,cruid=0,"),
        "{of_server:?}"
    );
    assert_ne!(of_server.1, by_default.1);
    let share = kerberos(None);
    let share = Share::new(&configured, &share, Access::ReadOnly).unwrap();
    let cruid = share.settings().into_iter().find(|s| s.name == "cruid");
    assert_eq!(cruid.unwrap().origin, "server");
}

#[test]
fn files_need_no_password_here() {
    let file = SmbVolume {
        credentials: SmbCredentials::File("/etc/volattach/credentials/bob".into()),
        ..volume()
    };
    let shown = share(&file).shown();
    assert!(
        shown.contains(",username=[from /etc/volattach/credentials/bob],password=[redacted],"),
        "{shown}"
    );
    let elsewhere = SmbVolume {
        credentials: SmbCredentials::File("/etc/shadow".into()),
        ..volume()
    };
    assert_eq!(
        refusal(&settings(), &elsewhere).reason(),
        Reason::CredentialsInvalid
    );
}

#[test]
fn smb1_needs_the_deployers_word() {
    let asked = SmbVolume {
        options: vec![("vers".into(), Some("1.0".into()))],
        ..volume()
    };
    assert_eq!(
        refusal(&settings(), &asked).reason(),
        Reason::ProtocolVersion
    );
    let mut allowing = settings();
    allowing.shares.servers.insert(
        "files.example".into(),
        config::ShareServer {
            versions: Some(vec!["3.0".into(), "1.0".into()]),
            ..Default::default()
        },
    );
    let share = Share::new(&allowing, &asked, Access::ReadOnly).unwrap();
    assert_eq!(share.dialects, [Dialect::Smb1]);
    let volume = volume();
    let share = Share::new(&allowing, &volume, Access::ReadOnly).unwrap();
    assert_eq!(names(&share.dialects), "3.0, 1.0");
}

#[test]
fn more_options_than_a_page_are_refused_beforehand() {
    let long = SmbVolume {
        credentials: SmbCredentials::Password {
            username: "b,".repeat(2000),
            password: "x".into(),
            domain: None,
        },
        ..volume()
    };
    let error = refusal(&settings(), &long);
    assert_eq!(error.reason(), Reason::MountOptionInvalid);
    let nul = SmbVolume {
        credentials: credentials("a\0b"),
        ..volume()
    };
    assert_eq!(
        refusal(&settings(), &nul).reason(),
        Reason::MountOptionInvalid
    );
}

#[test]
fn mounts_are_the_same_only_when_everything_is() {
    let id =
        |volume: &SmbVolume, access| Share::new(&settings(), volume, access).unwrap().id(&key());
    let read_only = |volume: &SmbVolume| id(volume, Access::ReadOnly);
    let base = read_only(&volume());
    let same = [
        SmbVolume {
            host: "FILES.example".into(),
            share: "vOLS".into(),
            ..volume()
        },
        SmbVolume {
            name: "volume-2".into(),
            format: ImageFormat::Qcow2,
            ..volume()
        },
    ];
    for volume in &same {
        assert_eq!(read_only(volume), base, "{volume:?}");
    }
    let vers = |version: &str| vec![("vers".to_owned(), Some(version.to_owned()))];
    let others = [
        SmbVolume {
            share: "Vols2".into(),
            ..volume()
        },
        SmbVolume {
            folder: "a".into(),
            ..volume()
        },
        SmbVolume {
            folder: "A".into(),
            ..volume()
        },
        SmbVolume {
            credentials: credentials("pa,ss\"x"),
            ..volume()
        },
        SmbVolume {
            credentials: SmbCredentials::Guest,
            ..volume()
        },
        SmbVolume {
            options: vers("3.0"),
            ..volume()
        },
        SmbVolume {
            options: vec![("seal".into(), None)],
            ..volume()
        },
    ];
    let mut ids: Vec<_> = others.iter().map(read_only).collect();
    ids.push(base.clone());
    ids.push(id(&volume(), Access::ReadWrite));
    ids.push(share(&volume()).id(&HostKey::new([2; 32])));
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

/// Takes a data string apart as the kernel does (fs/smb/client/fs_context.c, smb3_fs_context_parse_monolithic).
fn parse_as_the_kernel(data: &str) -> Vec<(String, Option<String>)> {
    let mut options = vec![String::new()];
    let mut rest = data.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ',' if rest.peek() == Some(&',') => {
                rest.next();
                options.last_mut().unwrap().push(',');
            }
            ',' => options.push(String::new()),
            c => options.last_mut().unwrap().push(c),
        }
    }
    options
        .into_iter()
        .map(|option| match option.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (option, None),
        })
        .collect()
}

proptest! {
    #[test]
    fn the_kernel_gets_every_value_as_it_is(password in "[^\0]{0,128}", username in "[^\0]{1,40}") {
        let volume = SmbVolume {
            credentials: SmbCredentials::Password {
                username: username.clone(),
                password: password.as_str().into(),
                domain: None,
            },
            ..volume()
        };
        let share = share(&volume);
        let data = share.data("::1", share.dialects[0], &volume.credentials).unwrap();
        let options = parse_as_the_kernel(&data);
        let value = |name: &str| {
            options.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.clone())
        };
        prop_assert_eq!(value("password"), Some(password.clone()));
        prop_assert_eq!(value("username"), Some(username.clone()));
        prop_assert_eq!(options.last().unwrap(), &("closetimeo".to_owned(), Some("0".to_owned())));
        if password.len() > 8 {
            prop_assert!(!share.shown().contains(&password));
        }
    }
}
