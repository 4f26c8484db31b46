//! The lists: what may be used, what is dropped, what is refused and why.

use std::fmt;

use super::SMB_VERSIONS;

/// What an option takes after `=`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    Nothing,
    Number(u32, u32),
    /// Permission bits, in octal.
    Mode,
    Word(&'static [&'static str]),
    Version,
    Address,
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no value"),
            Self::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Self::Mode => f.write_str("permissions in octal, at most 0777"),
            Self::Word(words) => write!(f, "one of {}", words.join(", ")),
            Self::Version => write!(
                f,
                "one of {}; leave it out to take the newest that this host and the server both allow",
                SMB_VERSIONS.join(", ")
            ),
            Self::Address => f.write_str("an IP address"),
        }
    }
}

/// An option that may be used.
pub(super) struct Spec {
    /// The kernel's name.
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// The other options that it replaces: those that contradict it.
    pub(super) replaces: &'static [&'static str],
}

const fn flag(name: &'static str, replaces: &'static [&'static str]) -> Spec {
    Spec {
        name,
        takes: Takes::Nothing,
        replaces,
    }
}

const fn number(name: &'static str, min: u32, max: u32) -> Spec {
    Spec {
        name,
        takes: Takes::Number(min, max),
        replaces: &[],
    }
}

const fn value(name: &'static str, takes: Takes) -> Spec {
    Spec {
        name,
        takes,
        replaces: &[],
    }
}

const HANDLES: &[&str] = &[
    "persistenthandles",
    "nopersistenthandles",
    "resilienthandles",
    "noresilienthandles",
];
const MAPPINGS: &[&str] = &["mapposix", "nomapposix", "mapchars", "nomapchars"];
/// One day in seconds: the kernel's CIFS_MAX_ACTIMEO is (1 << 30) jiffies, more on any build.
const DAY: u32 = 86_400;

/// What connection info and the deployer may both use.
pub(super) const ALLOWED: &[Spec] = &[
    value("vers", Takes::Version),
    flag("seal", &[]),
    flag("sign", &[]),
    flag("soft", &["hard"]),
    flag("hard", &["soft"]),
    number("echo_interval", 1, 600), // SMB_ECHO_INTERVAL_MIN, _MAX
    number("port", 1, 65_535),
    number("rsize", 4_096, 16_777_216),
    number("wsize", 4_096, 16_777_216),
    number("bsize", 16_384, 16_777_216), // CIFS_MAX_MSGSIZE, 4 * SMB3_DEFAULT_IOSIZE
    number("rasize", 1_048_576, 33_554_432), // CIFS_DEFAULT_IOSIZE, 8 * SMB3_DEFAULT_IOSIZE
    value("cache", Takes::Word(&["none", "strict", "loose"])),
    Spec {
        name: "actimeo",
        takes: Takes::Number(0, DAY),
        replaces: &["acregmax", "acdirmax"], // the kernel ignores actimeo beside these
    },
    number("acregmax", 0, DAY),
    number("acdirmax", 0, DAY),
    number("max_credits", 20, 60_000),
    flag("multichannel", &["nomultichannel"]),
    flag("nomultichannel", &["multichannel", "max_channels"]),
    Spec {
        name: "max_channels",
        takes: Takes::Number(1, 16), // CIFS_MAX_CHANNELS
        replaces: &["nomultichannel"],
    },
    flag("brl", &["nobrl"]),
    flag("nobrl", &["brl"]),
    flag("serverino", &["noserverino"]),
    flag("noserverino", &["serverino"]),
    flag("mapposix", MAPPINGS),
    flag("nomapposix", MAPPINGS),
    flag("mapchars", MAPPINGS),
    flag("nomapchars", MAPPINGS),
    flag("handlecache", &["nohandlecache"]),
    flag("nohandlecache", &["handlecache"]),
    number("handletimeout", 0, 960_000), // SMB3_MAX_HANDLE_TIMEOUT, milliseconds
    flag("persistenthandles", HANDLES),
    flag("nopersistenthandles", HANDLES),
    flag("resilienthandles", HANDLES),
    flag("noresilienthandles", HANDLES),
    flag("strictsync", &["nostrictsync"]),
    flag("nostrictsync", &["strictsync"]),
    flag("nolease", &[]),
    flag("nosparse", &[]),
    flag("nodfs", &[]),
    flag("perm", &["noperm"]),
    flag("noperm", &["perm"]),
    number("uid", 0, u32::MAX - 1),
    number("gid", 0, u32::MAX - 1),
    number("cruid", 0, u32::MAX - 1),
    value("file_mode", Takes::Mode),
    value("dir_mode", Takes::Mode),
    value("iocharset", Takes::Word(&["utf8"])),
    value("sec", Takes::Word(&["ntlmssp", "ntlmsspi"])),
];

/// What only the deployer may use.
pub(super) const DEPLOYER: &[Spec] = &[value("srcaddr", Takes::Address)];

/// Accepted, and dropped: always in force, or without meaning in the kernel.
pub(super) const DROPPED: &[&str] = &[
    "nosuid",
    "nodev",
    "noexec",
    "nosharesock",
    "defaults",
    "forceuid",
    "forcegid",
    "noatime",
    "relatime",
    "_netdev",
    "noauto",
    "nofail",
];

const ALWAYS_NOSUID: &str = "shares are always mounted nosuid,nodev,noexec";
const SYMLINKS: &str =
    "links and special files made up from file contents could lead out of the share";
const FROM_EXPORT: &str = "the server and path come from the export alone";
const LOCAL_FILES: &str = "who may open the files on this host is not read off the server";
const CREDENTIALS: &str =
    "credentials belong to the volume's connection info, not among this host's options";
const READ_ONLY: &str = "set read_only for the server instead";

/// Refused on purpose.
pub(super) const REFUSED: &[(&[&str], &str)] = &[
    (
        &["suid", "dev", "exec", "user", "users", "owner"],
        ALWAYS_NOSUID,
    ),
    (
        &["mfsymlinks", "sfu", "unix", "linux", "posix", "posixpaths"],
        SYMLINKS,
    ),
    (
        &[
            "ip",
            "addr",
            "unc",
            "source",
            "prefixpath",
            "servern",
            "netbiosname",
        ],
        FROM_EXPORT,
    ),
    (
        &[
            "cifsacl",
            "idsfromsid",
            "setuidfromacl",
            "modefromsid",
            "modesid",
            "multiuser",
            "dynperm",
            "setuids",
            "backupuid",
            "backupgid",
        ],
        LOCAL_FILES,
    ),
    (
        &["ignore_signature", "signloosely", "sloppy"],
        "it hides errors that must be seen",
    ),
    (
        &[
            "fsc",
            "rootfs",
            "remount",
            "bind",
            "loop",
            "x-systemd.automount",
        ],
        "it does more on this host than mount the share",
    ),
    (
        &[
            "acl",
            "noacl",
            "closetimeo",
            "compress",
            "domainauto",
            "esize",
            "forcemand",
            "forcemandatorylock",
            "ignorecase",
            "intr",
            "nointr",
            "locallease",
            "max_cached_dirs",
            "min_enc_offload",
            "noac",
            "noautotune",
            "noblocksend",
            "nocase",
            "nodelete",
            "nohard",
            "nosoft",
            "rdma",
            "rwpidforward",
            "snapshot",
            "tcpnodelay",
            "notcpnodelay",
            "user_xattr",
            "nouser_xattr",
            "ver",
            "witness",
        ],
        "no volume needs it",
    ),
    (
        &["noforceuid", "noforcegid", "sharesock"],
        "what it turns off is always on",
    ),
];

/// Refused of the deployer besides: connection info has its own rules for them.
pub(super) const REFUSED_OF_DEPLOYER: &[(&[&str], &str)] = &[
    (
        &[
            "username",
            "password",
            "pass",
            "domain",
            "dom",
            "workgroup",
            "credentials",
            "cred",
            "guest",
            "sec",
            "cruid",
        ],
        CREDENTIALS,
    ),
    (&["ro", "rw"], READ_ONLY),
    (&["vers"], "set versions instead"),
];
