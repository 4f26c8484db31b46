//! What the options string, exports and names come to.

mod paths;
mod properties;

use std::error::Error;

use super::SmbLogin;
use crate::connection::{
    Common, ConnectionError, ConnectionInfo, Protocol, SmbCredentials, SmbVolume,
};
use crate::model::{Reason, Secret};

fn from_cinder(data: serde_json::Value) -> Result<SmbVolume, ConnectionError> {
    let json = serde_json::json!({"driver_volume_type": "smbfs", "data": data});
    ConnectionInfo::from_cinder_json(&json.to_string()).map(|info| match info.protocol {
        Protocol::Smb(volume) => volume,
        other => panic!("smbfs became {}", other.name()),
    })
}

fn with_options(options: &str) -> Result<SmbVolume, ConnectionError> {
    from_cinder(serde_json::json!({"export": "//nas/vols", "name": "v", "options": options}))
}

/// An error's reason and its whole chain.
fn told(error: &ConnectionError) -> String {
    let mut text = format!("{}: {error}", error.reason());
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// User, password and domain of an options string.
fn login(options: &str) -> (String, String, Option<String>) {
    match with_options(options).map(|volume| volume.credentials) {
        Ok(SmbCredentials::Password {
            username,
            password,
            domain,
        }) => (username, password.expose().to_owned(), domain),
        Ok(other) => panic!("{options}: {other:?}"),
        Err(error) => panic!("{options}: {}", told(&error)),
    }
}

/// The mount options of an options string, written as the kernel takes them.
fn mount(options: &str) -> String {
    let volume =
        with_options(options).unwrap_or_else(|error| panic!("{options}: {}", told(&error)));
    let written: Vec<String> = volume
        .options
        .into_iter()
        .map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}={value}")))
        .collect();
    written.join(",")
}

#[test]
fn passwords_arrive_as_meant() {
    for (options, password) in [
        ("-o username=bob,password=x", "x"),
        ("username=bob,password=x", "x"),
        ("-ousername=bob,pass=x", "x"),
        ("  -o user=bob -o password=x  ", "x"),
        ("-o username=bob,password=my pass", "my pass"),
        ("-o username=bob,password=my pass -o vers=3.0", "my pass"),
        ("-o password=two  spaces -o username=bob", "two  spaces"),
        ("-o password=-o,username=bob", "-o"),
        ("-o password=a-o b,username=bob", "a-o b"),
        ("-o password=a -other,username=bob", "a -other"),
        ("-o username=bob,password=a,,b", "a,b"),
        ("-o username=bob,password=a,,,vers=3.0", "a,"),
        ("-o username=bob,password=,,a", ",a"),
        ("-o username=bob,password=a,,", "a,"),
        (r"-o username=bob,password=a\,b", "a,b"),
        (r"-o username=bob,password=a\b\n", r"a\b\n"),
        (r"-o username=bob,password=a\\b", r"a\b"),
        (r"-o username=bob,password=a\", r"a\"),
        (r#"-o username=bob,password=it's "so""#, r#"it's "so""#),
        (
            r#"-o username=bob,password="a,b c -o d",vers=3.0"#,
            "a,b c -o d",
        ),
        (r#"-o username=bob,password="\"q\\\n\",""#, r#""q\\n","#),
        (
            r#"-o username=bob,password='a,"b\c ' -o seal"#,
            r#"a,"b\c "#,
        ),
        (r#"-o username=bob,password=\"a\""#, r#""a""#),
        (r"-o username=bob,password=\'a", "'a"),
        (r"-o username=bob,password=a\ ", "a "),
        (r"-o username=bob,password=\ a ,vers=3.0", " a"),
        ("-o 'username=bob,password=a b'", "a b"),
        (
            r#"-o "username=bob,password=a b" -o 'vers=3.0,seal'"#,
            "a b",
        ),
        ("-o username=bob,password=a=b%c", "a=b%c"),
        ("-o username=bob%a%b", "a%b"),
        ("-o username=bob%", ""),
        ("-o username=bob,password=", ""),
        ("-o username=bob,password=,vers=3.0", ""),
        ("-o username=bob,password= -o vers=3.0", ""),
        ("-o username=bob,password=päß😀\u{a0}", "päß😀\u{a0}"),
        ("-o username=bob,password=x,password=x,", "x"),
    ] {
        let (username, found, _) = login(options);
        assert_eq!(
            (username.as_str(), found.as_str()),
            ("bob", password),
            "{options}"
        );
    }
}

#[test]
fn users_and_domains_are_parted() {
    for (options, username, domain) in [
        (r"username=DOM\bob,password=x", "bob", Some("DOM")),
        (r"username=DOM\\bob,password=x", "bob", Some("DOM")),
        (r#"username="DOM\bob",password=x"#, "bob", Some("DOM")),
        ("user=DOM/bob%x", "bob", Some("DOM")),
        (r"username=\bob,password=x", "bob", None),
        (
            r"username=DOM\bob,domain=DOM,password=x",
            "bob",
            Some("DOM"),
        ),
        ("username=bob@LAB.TEST,password=x", "bob@LAB.TEST", None),
        ("username=bob,password=x,domain=D", "bob", Some("D")),
        ("username=bob,password=x,dom=D", "bob", Some("D")),
        (
            "username=bob,password=x,workgroup=My Group",
            "bob",
            Some("My Group"),
        ),
        ("username=bob,password=x,domain=", "bob", None),
        (r"username=50\%off,password=x", "50%off", None),
        (r#"username="50%off",password=x"#, "50%off", None),
    ] {
        let (found, password, found_domain) = login(options);
        assert_eq!(
            (found.as_str(), password.as_str(), found_domain.as_deref()),
            (username, "x", domain),
            "{options}"
        );
    }
}

#[test]
fn without_a_user_it_is_guest_kerberos_or_a_file() {
    for options in [
        "",
        "-o",
        "-o ",
        "-o guest",
        "sec=none",
        "guest,password=",
        "vers=3.0,",
    ] {
        let credentials = with_options(options).unwrap().credentials;
        assert_eq!(credentials, SmbCredentials::Guest, "{options}");
    }
    let kerberos = |username: Option<&str>, domain: Option<&str>| SmbCredentials::Kerberos {
        sec: "krb5i".to_owned(),
        username: username.map(str::to_owned),
        domain: domain.map(str::to_owned),
    };
    assert_eq!(
        with_options("sec=krb5i").unwrap().credentials,
        kerberos(None, None)
    );
    let named = with_options("sec=krb5i,username=alice,domain=LAB").unwrap();
    assert_eq!(named.credentials, kerberos(Some("alice"), Some("LAB")));
    let file = with_options("-o credentials=/etc/volattach/cred/nas 1,seal").unwrap();
    assert_eq!(
        file.credentials,
        SmbCredentials::File("/etc/volattach/cred/nas 1".into())
    );
}

#[test]
fn mount_options_are_spelled_as_the_kernel_takes_them() {
    for (options, spelled) in [
        ("vers=3.02,seal", "vers=3.0.2,seal"),
        ("vers=3.11", "vers=3.1.1"),
        ("vers=2.0.2", "vers=2.0"),
        ("vers=1.0", "vers=1.0"),
        ("vers=default,rw,nosuid,nodev,noexec,_netdev", ""),
        ("hard , echo_interval = 5", "hard,echo_interval=5"),
        ("uid=0107,gid=107,forceuid", "uid=107,gid=107"),
        (
            "file_mode=660,dirmode=0770,noperm",
            "file_mode=0660,dir_mode=0770,noperm",
        ),
        ("username=u,password=p,sec=ntlmsspi", "sec=ntlmsspi"),
        (
            "cache=none,nobrl,iocharset=utf8,max_channels=16",
            "cache=none,nobrl,iocharset=utf8,max_channels=16",
        ),
    ] {
        assert_eq!(mount(options), spelled, "{options}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason_and_without_its_value() {
    let long = format!("username=bob,password={}", "x".repeat(129));
    let refused = [
        "username=bob",
        "password=hunter2",
        "domain=D",
        "sec=ntlmssp",
        "username=,password=hunter2",
        r"username=a\b\c,password=hunter2",
        "guest,username=bob,password=hunter2",
        "guest,domain=D",
        "sec=none,sec=krb5",
        "sec=krb5,sec=krb5i",
        "sec=krb5,username=bob,password=hunter2",
        "sec=krb5p",
        "sec=ntlm",
        "username=a,username=b,password=hunter2",
        "username=a%hunter1,password=hunter2",
        r"username=D\a,domain=E,password=hunter2",
        "credentials=/etc/c,username=bob",
        "credentials=/etc/c,cred=/etc/d",
        "credentials=etc/c",
        "credentials=/etc/../c",
        "credentials=/",
        "credentials",
        "username",
        "ro=1",
        "guest=yes",
        "=hunter2",
        "password='hunter2",
        "password='hunter2'x",
        "username=bob,password=hun\nter2",
        "seal=1",
        "vers",
        "vers=3",
        "vers=3.0,,seal",
        "echo_interval=0",
        "echo_interval=601",
        "echo_interval=+5",
        "port=65536",
        "rsize=4k",
        "cache=ro",
        "file_mode=4755",
        "file_mode=rw",
        "iocharset=koi8-r",
        "echo_intervall=5",
        "Seal",
        "frobnicate",
        "frob nicate",
        "username=bob,password=hunter,hunted",
        "username=bob%hunter,hunted=2",
        "username=bob,password=hunter,mfsymlinks",
        "suid",
        "dev",
        "exec",
        "sfu",
        "unix",
        "posix",
        "prefixpath=/x",
        "ip=10.0.0.1",
        "addr=10.0.0.1",
        "unc=//a/b",
        "source=//a/b",
        "srcaddr=10.0.0.1",
        "multiuser",
        "cifsacl",
        "fsc",
        "sloppy",
        "rdma",
        "bind",
        &long,
    ];
    let told: Vec<String> = refused
        .iter()
        .map(|options| {
            let error = with_options(options).expect_err(options);
            let text = told(&error);
            assert!(!text.contains("hunte"), "{text}");
            format!(
                "{}\n  {text}",
                options.chars().take(60).collect::<String>().escape_debug()
            )
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    username=bob
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: a user is named without a password: add password=, or write guest for none
    password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: a password is given without a user: add username=
    domain=D
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: a domain is named without a user: add username= and password=
    sec=ntlmssp
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: sec= asks for NTLM without a user: add username= and password=
    username=,password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: the user name is empty: name a user, or write guest
    username=a\\b\\c,password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: the user name holds more than one slash or backslash: write DOMAIN\user
    guest,username=bob,password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: guest (or sec=none) is given beside a user, password, domain or file: keep one
    guest,domain=D
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: guest (or sec=none) is given beside a user, password, domain or file: keep one
    sec=none,sec=krb5
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: guest (or sec=none) is given beside another sec=: keep one
    sec=krb5,sec=krb5i
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: two different values of sec= are given
    sec=krb5,username=bob,password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: Kerberos (sec=krb5 or krb5i) takes no password and no credentials file: its tickets are this host's
    sec=krb5p
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "sec" takes one of ntlmssp, ntlmsspi, krb5, krb5i, none
    sec=ntlm
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "sec" takes one of ntlmssp, ntlmsspi, krb5, krb5i, none
    username=a,username=b,password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: two different users are named
    username=a%hunter1,password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: two different passwords are given
    username=D\\a,domain=E,password=hunter2
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: two different domains are named
    credentials=/etc/c,username=bob
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: credentials= is given beside a user, password or domain: put them into the file
    credentials=/etc/c,cred=/etc/d
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: two different credentials files are named
    credentials=etc/c
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: credentials= takes the absolute path of a file, without `..`
    credentials=/etc/../c
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: credentials= takes the absolute path of a file, without `..`
    credentials=/
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: credentials= takes the absolute path of a file, without `..`
    credentials
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "credentials" takes a value
    username
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "username" takes a value
    ro=1
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "ro" takes no value
    guest=yes
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "guest" takes no value
    =hunter2
      MOUNT_OPTION_INVALID: connection info's data.options cannot be parsed: option 1 has a value and no name
    password=\'hunter2
      MOUNT_OPTION_INVALID: connection info's data.options cannot be parsed: the value of option 1 begins with a quote that is not closed at its end: put the whole value in quotes, or write \' for the quote itself
    password=\'hunter2\'x
      MOUNT_OPTION_INVALID: connection info's data.options cannot be parsed: the value of option 1 begins with a quote that is not closed at its end: put the whole value in quotes, or write \' for the quote itself
    username=bob,password=hun\nter2
      MOUNT_OPTION_INVALID: connection info's data.options cannot be parsed: it holds a control character
    seal=1
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "seal" takes no value
    vers
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "vers" takes one of 3.1.1, 3.0.2, 3.0, 2.1, 2.0, 1.0; leave it out to take the newest that this host and the server both allow
    vers=3
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "vers" takes one of 3.1.1, 3.0.2, 3.0, 2.1, 2.0, 1.0; leave it out to take the newest that this host and the server both allow
    vers=3.0,,seal
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "vers" takes one of 3.1.1, 3.0.2, 3.0, 2.1, 2.0, 1.0; leave it out to take the newest that this host and the server both allow
    echo_interval=0
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "echo_interval" takes a number from 1 to 600
    echo_interval=601
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "echo_interval" takes a number from 1 to 600
    echo_interval=+5
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "echo_interval" takes a number from 1 to 600
    port=65536
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "port" takes a number from 1 to 65535
    rsize=4k
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "rsize" takes a number from 4096 to 16777216
    cache=ro
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "cache" takes one of none, strict, loose
    file_mode=4755
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "file_mode" takes permissions in octal, at most 0777
    file_mode=rw
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "file_mode" takes permissions in octal, at most 0777
    iocharset=koi8-r
      MOUNT_OPTION_INVALID: connection info's data.options cannot be used: mount option "iocharset" takes one of utf8
    echo_intervall=5
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "echo_intervall" is not allowed; did you mean "echo_interval"?
    Seal
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "Seal" is not allowed; did you mean "seal"?
    frobnicate
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "frobnicate" is not allowed
    frob nicate
      MOUNT_OPTION_REFUSED: option 1 in connection info's data.options is not known, and not shown, since it may be a piece of a password: write a comma in a password twice, or put the password in quotes
    username=bob,password=hunter,hunted
      MOUNT_OPTION_REFUSED: option 3 in connection info's data.options is not known, and not shown, since it may be a piece of a password: write a comma in a password twice, or put the password in quotes
    username=bob%hunter,hunted=2
      MOUNT_OPTION_REFUSED: option 2 in connection info's data.options is not known, and not shown, since it may be a piece of a password: write a comma in a password twice, or put the password in quotes
    username=bob,password=hunter,mfsymlinks
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "mfsymlinks" is refused: links and special files made up from file contents could lead out of the share
    suid
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "suid" is refused: shares are always mounted nosuid,nodev,noexec
    dev
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "dev" is refused: shares are always mounted nosuid,nodev,noexec
    exec
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "exec" is refused: shares are always mounted nosuid,nodev,noexec
    sfu
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "sfu" is refused: links and special files made up from file contents could lead out of the share
    unix
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "unix" is refused: links and special files made up from file contents could lead out of the share
    posix
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "posix" is refused: links and special files made up from file contents could lead out of the share
    prefixpath=/x
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "prefixpath" is refused: the server and path come from the export alone
    ip=10.0.0.1
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "ip" is refused: the server and path come from the export alone
    addr=10.0.0.1
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "addr" is refused: the server and path come from the export alone
    unc=//a/b
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "unc" is refused: the server and path come from the export alone
    source=//a/b
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "source" is refused: the server and path come from the export alone
    srcaddr=10.0.0.1
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "srcaddr" is not allowed
    multiuser
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "multiuser" is refused: who may open the files on this host is not read off the server
    cifsacl
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "cifsacl" is refused: who may open the files on this host is not read off the server
    fsc
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "fsc" is refused: it does more on this host than mount the share
    sloppy
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "sloppy" is refused: it hides errors that must be seen
    rdma
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "rdma" is refused: no volume needs it
    bind
      MOUNT_OPTION_REFUSED: connection info's data.options cannot be used: mount option "bind" is refused: it does more on this host than mount the share
    username=bob,password=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      CREDENTIALS_INVALID: the credentials in connection info's data.options cannot be used: the password is longer than 128 characters (UTF-16 units), which no SMB logon carries: set a shorter one
    "#);
}

#[test]
fn an_options_string_is_no_longer_than_a_page() {
    assert!(with_options(&" ".repeat(4096)).is_ok());
    let error = with_options(&" ".repeat(4097)).unwrap_err();
    assert_eq!(error.reason(), Reason::MountOptionInvalid);
    assert!(error.to_string().contains("4096 bytes"), "{error}");
}

#[test]
fn the_longest_password_is_128_utf16_units() {
    let just = |password: String| with_options(&format!("username=bob,password={password}"));
    assert!(just("ä".repeat(128)).is_ok());
    assert!(just("😀".repeat(64)).is_ok());
    for password in ["ä".repeat(129), "😀".repeat(65)] {
        let error = just(password).unwrap_err();
        assert_eq!(error.reason(), Reason::CredentialsInvalid);
        assert!(error.to_string().contains("128 characters"), "{error}");
    }
}

#[test]
fn typed_fields_are_the_same_volume() {
    let typed = |options: &str, login: Option<(&str, &str, &str)>| {
        let login = login.map(|(username, password, domain)| SmbLogin {
            username: username.to_owned(),
            password: Secret::from(password),
            domain: domain.to_owned(),
        });
        ConnectionInfo::smb("//nas/vols", "v", "vhd", options, login, Common::default())
    };
    let cinder = from_cinder(
        serde_json::json!({"export": "//nas/vols", "name": "v", "format": "vpc",
        "options": r#"username=DOM\bob,password="a,%b",seal"#}),
    )
    .unwrap();
    for login in [("bob", "a,%b", "DOM"), (r"DOM\bob", "a,%b", "")] {
        let info = typed("seal", Some(login)).unwrap();
        assert_eq!(info.protocol, Protocol::Smb(cinder.clone()));
    }
    assert!(typed("ro", None).unwrap().common.read_only_by.len() == 1);
    let refused = [
        typed("username=bob,password=hunter2", None),
        typed("password=hunter2", Some(("bob", "hunter2", ""))),
        typed("guest", Some(("bob", "hunter2", ""))),
        typed("", Some(("", "hunter2", ""))),
        typed("", Some((r"DOM\bob", "hunter2", "OTHER"))),
        typed("mfsymlinks", None),
    ]
    .map(|result| told(&result.unwrap_err()));
    insta::assert_snapshot!(refused.join("\n"), @r#"
    CREDENTIALS_INVALID: the credentials in connection info's options cannot be used: user, password and domain have fields of their own (credentials): put them there
    CREDENTIALS_INVALID: the credentials in connection info's options cannot be used: user, password and domain have fields of their own (credentials): put them there
    CREDENTIALS_INVALID: the credentials in connection info's credentials cannot be used: guest (or sec=none) is given beside a user, password, domain or file: keep one
    CREDENTIALS_INVALID: the credentials in connection info's credentials cannot be used: the user name is empty: name a user, or write guest
    CREDENTIALS_INVALID: the credentials in connection info's credentials cannot be used: two different domains are named
    MOUNT_OPTION_REFUSED: connection info's options cannot be used: mount option "mfsymlinks" is refused: links and special files made up from file contents could lead out of the share
    "#);
}
