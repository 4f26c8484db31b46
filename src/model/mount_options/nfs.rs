//! NFS's. Names and ranges are those of Linux 6.1, `fs/nfs/fs_context.c` (`nfs_fs_parameters`); nfs(5) tells what they
//! mean.

use super::takes::{Spec, Takes, Versions, flag, number, value};
use super::{Refusals, Table};

/// The protocol versions there are.
pub static NFS_VERSIONS: Versions = Versions {
    names: &["4.2", "4.1", "4.0", "3"],
    spellings: &[("3.0", "3")],
};

/// The options of NFS exports.
pub static NFS: Table = Table {
    allowed: ALLOWED,
    deployer: &[],
    dropped: DROPPED,
    refused: REFUSED,
    refused_of_deployer: REFUSED_OF_DEPLOYER,
    aliases: &[("nfsvers", "vers")],
};

/// One day in seconds: no volume's attributes are kept longer.
const DAY: u32 = 86_400;
const LOSS: &[&str] = &["soft", "softerr", "hard"];
const ATTRIBUTES: &[&str] = &["acregmin", "acregmax", "acdirmin", "acdirmax"];
/// `tcp6` is TCP too: the address says which it is.
const TRANSPORT: Takes = Takes::Word(&["tcp", "tcp6"]);

const ALLOWED: &[Spec] = &[
    value("vers", Takes::Version(&NFS_VERSIONS)),
    flag("soft", LOSS),
    flag("softerr", LOSS),
    flag("hard", LOSS),
    number("timeo", 1, 6_000), // NFS_MAX_TCP_TIMEOUT, in tenths of a second
    number("retrans", 1, 100),
    value("proto", TRANSPORT),
    number("port", 1, 65_535),
    value("mountproto", TRANSPORT),
    number("mountport", 1, 65_535),
    number("rsize", 1_024, 1_048_576), // NFS_MIN_FILE_IO_SIZE, NFS_MAX_FILE_IO_SIZE
    number("wsize", 1_024, 1_048_576),
    number("nconnect", 1, 16), // NFS_MAX_CONNECTIONS
    value("sec", Takes::Word(&["sys", "krb5", "krb5i", "krb5p"])),
    number("acregmin", 0, DAY),
    number("acregmax", 0, DAY),
    number("acdirmin", 0, DAY),
    number("acdirmax", 0, DAY),
    Spec {
        name: "actimeo",
        takes: Takes::Number(0, DAY),
        replaces: ATTRIBUTES,
    },
    flag("ac", &["noac"]),
    flag("noac", &["ac"]),
    flag("lock", &["nolock"]),
    flag("nolock", &["lock"]),
    value(
        "lookupcache",
        Takes::Word(&["all", "none", "pos", "positive"]),
    ),
    flag("rdirplus", &["nordirplus"]),
    flag("nordirplus", &["rdirplus"]),
    flag("cto", &["nocto"]),
    flag("nocto", &["cto"]),
    flag("acl", &["noacl"]),
    flag("noacl", &["acl"]),
    flag("resvport", &["noresvport"]),
    flag("noresvport", &["resvport"]),
];

const DROPPED: &[&str] = &[
    "nosuid",
    "nodev",
    "noexec",
    "nosharecache",
    "tcp",
    "fg",
    "intr",
    "nointr",
    "defaults",
    "async",
    "noatime",
    "nodiratime",
    "relatime",
    "_netdev",
    "noauto",
    "nofail",
];

const ALWAYS_NOSUID: &str = "exports are always mounted nosuid,nodev,noexec";
const FROM_EXPORT: &str = "the server and path come from the export alone";
const MORE: &str = "it does more on this host than mount the export";

const REFUSED: Refusals = &[
    (
        &["suid", "dev", "exec", "user", "users", "owner"],
        ALWAYS_NOSUID,
    ),
    (
        &[
            "addr",
            "clientaddr",
            "mountaddr",
            "mounthost",
            "source",
            "fsid",
        ],
        FROM_EXPORT,
    ),
    (
        &["context", "fscontext", "defcontext", "rootcontext"],
        "the security labels of this host are its own",
    ),
    (
        &["fsc", "remount", "bind", "loop", "x-systemd.automount"],
        MORE,
    ),
    (
        &["bg", "retry"],
        "an attach ends at its deadlines, and does not go on in the background",
    ),
    (
        &["udp", "rdma"],
        "NFS is spoken over TCP alone, where a lost packet corrupts nothing",
    ),
    (&["sloppy"], "it hides errors that must be seen"),
    (&["sharecache"], "what it turns off is always on"),
    (
        &[
            "bsize",
            "namlen",
            "mountvers",
            "local_lock",
            "posix",
            "noposix",
            "migration",
            "nomigration",
            "max_connect",
            "trunkdiscovery",
            "notrunkdiscovery",
            "softreval",
            "nosoftreval",
            "write",
            "xprtsec",
            "sync",
            "atime",
            "strictatime",
        ],
        "no volume needs it",
    ),
];

const REFUSED_OF_DEPLOYER: Refusals = &[
    (&["ro", "rw"], "set read_only for the server instead"),
    (&["vers", "minorversion"], "set versions instead"),
];
