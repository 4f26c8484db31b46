//! SMB's. Names and ranges are those of Linux 6.1, `fs/smb/client/fs_context.c` (`smb3_fs_parameters`);
//! mount.cifs(8) tells what they mean.

use super::takes::{Spec, Takes, Versions, flag, number, value};
use super::{Refusals, Table};

/// The protocol versions there are (`2.0` is SMB 2.0.2).
pub static SMB_VERSIONS: Versions = Versions {
    names: &["3.1.1", "3.0.2", "3.0", "2.1", "2.0", "1.0"],
    spellings: &[("2.0.2", "2.0"), ("3.02", "3.0.2"), ("3.11", "3.1.1")],
};

/// The options of SMB shares.
pub static SMB: Table = Table {
    allowed: ALLOWED,
    deployer: DEPLOYER,
    dropped: DROPPED,
    refused: REFUSED,
    refused_of_deployer: REFUSED_OF_DEPLOYER,
    aliases: &[("dirmode", "dir_mode")],
};

const HANDLES: &[&str] = &[
    "persistenthandles",
    "nopersistenthandles",
    "resilienthandles",
    "noresilienthandles",
];
const MAPPINGS: &[&str] = &["mapposix", "nomapposix", "mapchars", "nomapchars"];
/// One day in seconds: the kernel's CIFS_MAX_ACTIMEO is (1 << 30) jiffies, more on any build.
const DAY: u32 = 86_400;

const ALLOWED: &[Spec] = &[
    value("vers", Takes::Version(&SMB_VERSIONS)),
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
    value("file_mode", Takes::Mode),
    value("dir_mode", Takes::Mode),
    value("iocharset", Takes::Word(&["utf8"])),
    value("sec", Takes::Word(&["ntlmssp", "ntlmsspi"])),
];

const DEPLOYER: &[Spec] = &[value("srcaddr", Takes::Address)];

const DROPPED: &[&str] = &[
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
const KERBEROS: &str =
    "whose Kerberos credentials are used is set by this host's configuration alone (smb.kerberos)";
const READ_ONLY: &str = "set read_only for the server instead";

const REFUSED: Refusals = &[
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
    (&["cruid"], KERBEROS),
];

const REFUSED_OF_DEPLOYER: Refusals = &[
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
        ],
        CREDENTIALS,
    ),
    (&["ro", "rw"], READ_ONLY),
    (&["vers"], "set versions instead"),
];
