use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// Linux 6.1, with a share that is mounted by two sessions, one that is mounted elsewhere, and the pipes of their server.
const CIFS: &str = include_str!("../../../fuzz/seeds/cifs_stats/two_sessions");
/// Linux 6.1, with two NFS 4.2 mounts of one export, whose counters are equal, and one over IPv6.
const NFS: &str = include_str!("../../../fuzz/seeds/mountstats/three_mounts");

const BASE: &str = "/var/lib/volattach/mnt";

const MOUNTS: &str = "\
24 1 8:1 / / rw - ext4 /dev/sda1 rw
36 24 0:51 / /var/lib/volattach/mnt/a ro - cifs //10.99.0.10/Vols/folder ro,vers=3.1.1
37 24 0:52 / /var/lib/volattach/mnt/b rw - cifs //10.99.0.10/vols rw,vers=3.1.1
38 24 0:53 / /srv/other rw - cifs //10.99.0.10/other rw,vers=3.1.1
39 24 0:54 / /var/lib/volattach/mnt/c rw - cifs //10.99.0.12/unheard rw,vers=3.1.1
40 24 0:61 / /var/lib/volattach/mnt/6242f30e ro - nfs4 10.99.0.11:/ill ro,vers=4.2
41 24 0:62 / /var/lib/volattach/mnt/c6031b38 rw - nfs4 10.99.0.11:/ill rw,vers=4.2
42 24 0:63 / /srv/an\\134other rw - nfs4 fd99::12:/my\\040export rw,vers=4.2
";

fn share(protocol: &'static str, server: &str, share: &str) -> Share {
    Share {
        protocol,
        server: server.to_owned(),
        share: share.to_owned(),
    }
}

/// The NFS shares beneath a directory, with the tallies of each.
fn nfs(mounts: &str, stats: &str, beneath: &str) -> Option<BTreeMap<Name, Vec<Tally>>> {
    let mounts = Mounts::parse(mounts.as_bytes()).unwrap();
    nfs::of_mounts(&mounts, Path::new(beneath), nfs::parse(stats.as_bytes()))
}

/// A share's counters by the first reading.
fn summed(tallies: &[Tally]) -> ShareIo {
    let mut sum = ShareIo::default();
    tallies.iter().for_each(|tally| sum.add(tally.io));
    sum
}

#[test]
fn shares_beneath_the_directory_have_the_kernels_counters() {
    let mounts = Mounts::parse(MOUNTS.as_bytes()).unwrap();
    let nfs = nfs(MOUNTS, NFS, BASE).unwrap();
    let mut totals = Totals::default();
    totals.update(by_share(&mounts, Path::new(BASE), smb::parse(CIFS), nfs));
    let expected = [
        (
            share("nfs", "10.99.0.11", "/ill"),
            ShareIo {
                read_bytes: Some(2 * 8192),
                written_bytes: Some(2 * 65536),
                operations: 2 * 19,
                failed: 2,
                retransmissions: Some(2 * 3),
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
    let found: Vec<_> = totals.values().map(|(share, io)| (share, *io)).collect();
    assert_eq!(found, expected.each_ref().map(|(share, io)| (share, *io)));
}

#[test]
fn a_superblock_counts_once_and_equal_counters_of_two_count_twice() {
    let tallies = |mounts: &str| nfs(mounts, NFS, BASE).unwrap().into_values().next();
    let ids = |mounts: &str| -> Vec<String> {
        let tallies = tallies(mounts).unwrap_or_default();
        tallies.into_iter().map(|tally| tally.id).collect()
    };
    assert_eq!(ids(MOUNTS), ["0:61", "0:62"]);
    assert_eq!(ids(&MOUNTS.replace("0:62", "0:61")), ["0:61"]);
    // In the order of their numbers, which do not depend on their mount points.
    let swapped = MOUNTS.replace("0:61", "0:70");
    assert_eq!(ids(&swapped), ["0:62", "0:70"]);
}

#[test]
fn a_mount_point_that_occurs_twice_counts_by_its_superblocks() {
    let point = "/var/lib/volattach/mnt/6242f30e";
    let sections = NFS.replace("/var/lib/volattach/mnt/c6031b38", point);
    let tallies = |device: &str| {
        let mounts = MOUNTS.replace("/var/lib/volattach/mnt/c6031b38", point);
        let found = nfs(&mounts.replace("0:62", device), &sections, BASE);
        found.unwrap().into_values().next().unwrap().len()
    };
    assert_eq!(tallies("0:61"), 1, "a copy by propagation");
    assert_eq!(tallies("0:62"), 2, "a mount on the mount");
}

#[test]
fn a_mount_table_of_another_time_is_refused() {
    let (before, _) = MOUNTS.split_once("41 24").unwrap();
    assert_eq!(nfs(before, NFS, BASE), None);
    assert_eq!(nfs(MOUNTS, "", BASE), None);
    let moved = MOUNTS.replace("c6031b38", "elsewhere");
    assert_eq!(nfs(&moved, NFS, BASE), None);
}

#[test]
fn names_in_mountstats_are_unescaped() {
    let everywhere = nfs(MOUNTS, NFS, "/").unwrap();
    assert!(everywhere.contains_key(&("fd99::12".to_owned(), "/my export".to_owned())));
    assert_eq!(nfs(MOUNTS, NFS, r"/srv/an\other").unwrap().len(), 1);
}

#[test]
fn a_counter_of_32_bits_has_no_sign() {
    let text = "1) \\\\srv\\vols\nSMBs: -2\nCreates: 9 total -1 failed\n";
    let shares = smb::parse(text);
    let io = shares.into_values().next().unwrap()[0].io;
    let expected = (u64::from(u32::MAX) - 1, u64::from(u32::MAX));
    assert_eq!((io.operations, io.failed), expected);
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
        let found = smb::parse(&text).into_iter().map(|(name, tallies)| (name, summed(&tallies)));
        prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect());
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
        let mut mounts = "1 0 0:1 / /proc rw - proc proc rw\n".to_owned();
        for (number, ((server, path), (read, written, ended, again, errors))) in shares.iter().enumerate() {
            let sent = u64::from(*ended) + u64::from(*again);
            write!(
                text,
                "device {server}:/{path} mounted on /m/{path} with fstype nfs4 statvers=1.1\n\
                 \topts:\trw,vers=4.2\n\tage:\t{age}\n\tbytes:\t1 2 3 4 {read} {written} 7 8\n\
                 \tper-op statistics\n\t        READ: {ended} {sent} 0 1 2 3 4 5 {errors}\n"
            )
            .unwrap();
            let number = number + 2;
            writeln!(mounts, "{number} 1 0:{number} / /m/{path} rw - nfs4 {server}:/{path} rw").unwrap();
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
        let found = nfs(&mounts, &text, "/m").unwrap();
        let found = found.into_iter().map(|(name, tallies)| {
            assert_eq!(tallies[0].age, u64::from(age));
            (name, summed(&tallies))
        });
        prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect());
        prop_assert_eq!(nfs(&mounts, &text, "/other"), Some(BTreeMap::new()));
    }
}
