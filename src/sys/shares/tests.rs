use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// Linux 6.1, with a share that is mounted by two sessions, one that is mounted elsewhere, and the pipes of their server.
const CIFS: &str = include_str!("../../../fuzz/seeds/cifs_stats/two_sessions");
/// Linux 6.1, with two NFS 4.2 mounts of one export and one over IPv6.
const NFS: &str = include_str!("../../../fuzz/seeds/mountstats/three_mounts");

const MOUNTS: &str = "\
24 1 8:1 / / rw - ext4 /dev/sda1 rw
36 24 0:51 / /var/lib/volattach/mnt/a ro - cifs //10.99.0.10/Vols/folder ro,vers=3.1.1
37 24 0:52 / /var/lib/volattach/mnt/b rw - cifs //10.99.0.10/vols rw,vers=3.1.1
38 24 0:53 / /srv/other rw - cifs //10.99.0.10/other rw,vers=3.1.1
39 24 0:54 / /var/lib/volattach/mnt/c rw - cifs //10.99.0.12/unheard rw,vers=3.1.1
";

fn share(protocol: &'static str, server: &str, share: &str) -> Share {
    Share {
        protocol,
        server: server.to_owned(),
        share: share.to_owned(),
    }
}

#[test]
fn shares_beneath_the_directory_have_the_kernels_counters() {
    let base = Path::new("/var/lib/volattach/mnt");
    let mounts = Mounts::parse(MOUNTS.as_bytes()).unwrap();
    let found = of_mounts(&mounts, base, &smb::parse(CIFS), nfs::parse(NFS, base));
    let expected = [
        (
            share("nfs", "10.99.0.11", "/ill"),
            ShareIo {
                read_bytes: Some(8192),
                written_bytes: Some(65536),
                operations: 19,
                failed: 1,
                retransmissions: Some(3),
            },
        ),
        (
            share("smbfs", "10.99.0.10", "vols"),
            ShareIo {
                read_bytes: Some(36864),
                written_bytes: Some(1048577),
                operations: 50,
                failed: 4,
                retransmissions: None,
            },
        ),
    ];
    assert_eq!(found, expected.into());
    let everywhere = nfs::parse(NFS, Path::new("/"));
    assert!(everywhere.contains_key(&("fd99::12".to_owned(), "/my export".to_owned())));
}

#[test]
fn a_share_s_name_has_two_parts() {
    let name = |text| smb::name(text);
    let expected = Some(("srv".to_owned(), "my vols".to_owned()));
    assert_eq!(name(r"\\Srv\My Vols"), expected);
    assert_eq!(name("//srv/my vols/a/b"), expected);
    for none in [
        "",
        "//",
        "//srv",
        "//srv/",
        "/srv/vols",
        "srv/vols",
        "///vols",
    ] {
        assert_eq!(name(none), None, "{none}");
    }
}

/// A word that may be a server's or a share's name.
fn word() -> impl Strategy<Value = String> {
    "[a-z0-9.-]{1,12}"
}

proptest! {
    #[test]
    fn what_is_written_of_smb_shares_is_read(
        shares in prop::collection::btree_map(
            (word(), word()),
            (any::<u32>(), any::<u64>(), any::<u64>(), any::<u16>()),
            0..6,
        ),
    ) {
        let mut text = "Resources in use\nCIFS Session: 1\nOperations (MIDs): 0\n".to_owned();
        for (number, ((server, share), (smbs, read, written, failed))) in shares.iter().enumerate() {
            write!(
                text,
                "\nMax requests in flight: 3\n{}) \\\\{server}\\{share}\tDISCONNECTED \nSMBs: {smbs}\n\
                 Bytes read: {read}  Bytes written: {written}\nOpen files: 0 total (local), 0 open on server\n\
                 Creates: 9 total {failed} failed",
                number + 1
            )
            .unwrap();
        }
        let expected = shares.into_iter().map(|(name, (smbs, read, written, failed))| {
            let io = ShareIo {
                read_bytes: Some(read),
                written_bytes: Some(written),
                operations: smbs.into(),
                failed: failed.into(),
                retransmissions: None,
            };
            (name, io)
        });
        prop_assert_eq!(smb::parse(&text), expected.collect());
    }

    #[test]
    fn what_is_written_of_nfs_mounts_is_read(
        shares in prop::collection::btree_map(
            (word(), word()),
            (any::<u64>(), any::<u64>(), any::<u32>(), any::<u8>(), any::<u16>()),
            0..6,
        ),
        age in any::<u32>(),
    ) {
        let mut text = "device proc mounted on /proc with fstype proc\n".to_owned();
        for ((server, path), (read, written, ended, again, errors)) in &shares {
            let sent = u64::from(*ended) + u64::from(*again);
            write!(
                text,
                "device {server}:/{path} mounted on /m/{path} with fstype nfs4 statvers=1.1\n\
                 \topts:\trw,vers=4.2\n\tage:\t{age}\n\tbytes:\t1 2 3 4 {read} {written} 7 8\n\
                 \tper-op statistics\n\t        READ: {ended} {sent} 0 1 2 3 4 5 {errors}\n"
            )
            .unwrap();
        }
        let expected = shares.into_iter().map(|((server, path), (read, written, ended, again, errors))| {
            let io = ShareIo {
                read_bytes: Some(read),
                written_bytes: Some(written),
                operations: ended.into(),
                failed: errors.into(),
                retransmissions: Some(again.into()),
            };
            ((server, format!("/{path}")), io)
        });
        prop_assert_eq!(nfs::parse(&text, Path::new("/m")), expected.collect());
        prop_assert!(nfs::parse(&text, Path::new("/other")).is_empty());
    }
}
