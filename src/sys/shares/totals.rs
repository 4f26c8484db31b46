//! Totals by share that never fall.
//!
//! The kernel's counters go with their superblock or tree connection: their sum falls with the end of one, which Prometheus takes for a
//! restart from 0, so that a rate shows everything that the others ever did once more. What was counted is therefore kept here, and each
//! reading adds what has grown since the last one.

use std::collections::BTreeMap;

use super::{Share, ShareIo, Tallies, Tally};

/// The totals of the shares that are mounted. A share without a tally is forgotten with its total: it begins with what the kernel has counted
/// when it is next mounted.
#[derive(Debug, Default)]
pub struct Totals(BTreeMap<Share, Total>);

#[derive(Debug, Default)]
struct Total {
    sum: ShareIo,
    /// As they were read last.
    tallies: Vec<Tally>,
}

impl Totals {
    /// Adds what the shares' tallies have grown by since the last reading.
    pub fn update(&mut self, read: Tallies) {
        let mut before = std::mem::take(&mut self.0);
        let shares = read.into_iter().map(|(share, tallies)| {
            let mut total = before.remove(&share).unwrap_or_default();
            total.sum.add(growth(&total.tallies, &tallies));
            total.tallies = tallies;
            (share, total)
        });
        self.0 = shares.collect();
    }

    /// The shares and their totals, in the order of their names.
    pub fn values(&self) -> impl ExactSizeIterator<Item = (&Share, &ShareIo)> {
        self.0.iter().map(|(share, total)| (share, &total.sum))
    }
}

/// The least by which each counter of a share can have grown.
///
/// Linux 6.1 does not name tree connections, so an SMB share's tallies may have come, gone and grown in more ways than one. Those that stay keep
/// their order: the least over all ways that keep it counts nothing twice, and may miss something of the interval in which one went.
fn growth(before: &[Tally], now: &[Tally]) -> ShareIo {
    // By how many of the tallies of now are accounted for, with the earlier ones so far.
    let mut least = vec![ShareIo::default()];
    least.extend(now.iter().scan(ShareIo::default(), |sum, tally| {
        sum.add(tally.io);
        Some(*sum)
    }));
    for earlier in before {
        let mut without_both = ShareIo::default();
        for (at, tally) in now.iter().enumerate() {
            let gone = least[at + 1];
            let new = plus(least[at], tally.io);
            let same = tally.since(earlier).map(|grown| plus(without_both, grown));
            without_both = gone;
            let ways = [new].into_iter().chain(same);
            least[at + 1] = ways.fold(gone, ShareIo::least);
        }
    }
    least.pop().unwrap_or_default()
}

fn plus(mut io: ShareIo, other: ShareIo) -> ShareIo {
    io.add(other);
    io
}

impl ShareIo {
    fn least(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Self {
            read_bytes: least(self.read_bytes, other.read_bytes),
            written_bytes: least(self.written_bytes, other.written_bytes),
            operations: self.operations.min(other.operations),
            failed: self.failed.min(other.failed),
            retransmissions: least(self.retransmissions, other.retransmissions),
        }
    }
}

impl Tally {
    /// What was counted since the earlier reading; `None`: that was of another superblock or tree connection.
    fn since(&self, earlier: &Self) -> Option<ShareIo> {
        let grown = |now: Option<u64>, before: Option<u64>| match (now, before) {
            (Some(now), Some(before)) => now.checked_sub(before).map(Some),
            (now, None) => Some(now),
            (None, Some(_)) => None,
        };
        if self.id != earlier.id || self.age < earlier.age {
            return None;
        }
        let (now, before) = (&self.io, &earlier.io);
        Some(ShareIo {
            read_bytes: grown(now.read_bytes, before.read_bytes)?,
            written_bytes: grown(now.written_bytes, before.written_bytes)?,
            operations: operations(now.operations, before.operations)?,
            failed: now.failed.checked_sub(before.failed)?,
            retransmissions: grown(now.retransmissions, before.retransmissions)?,
        })
    }
}

/// The operations since the earlier number. The kernel counts those on SMB in 32 bits (`num_smbs_sent`), which are full after some weeks, and
/// then begin at 0 without the other counters; those before that are left out.
fn operations(now: u64, before: u64) -> Option<u64> {
    const FULL: u64 = 1 << 32;
    // More than all that a connection can do between two readings.
    const MOST: u64 = 1 << 28;
    let is_full = (FULL - MOST..FULL).contains(&before) && now < MOST;
    now.checked_sub(before).or(is_full.then_some(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(name: &str) -> Share {
        Share {
            protocol: "smbfs",
            server: "srv".into(),
            share: name.into(),
        }
    }

    fn tally(id: &str, operations: u64, read: u64) -> Tally {
        Tally {
            id: id.into(),
            age: 0,
            io: ShareIo {
                read_bytes: Some(read),
                operations,
                ..ShareIo::default()
            },
        }
    }

    /// The operations of a share after each reading of its tallies; none without a share.
    fn operations_by(readings: &[&[Tally]]) -> Vec<Option<u64>> {
        let mut totals = Totals::default();
        let after = |tallies: &&[Tally]| {
            let read = (!tallies.is_empty()).then(|| (share("vols"), tallies.to_vec()));
            totals.update(read.into_iter().collect());
            totals.values().map(|(_, io)| io.operations).next()
        };
        readings.iter().map(after).collect()
    }

    #[test]
    fn an_nfs_mount_that_goes_leaves_what_it_counted() {
        let one = tally("0:51", 1000, 0);
        let other = |operations| tally("0:52", operations, 0);
        let totals = operations_by(&[
            &[one.clone(), other(10)],
            &[other(12)],
            &[other(15), tally("0:51", 3, 0)],
            &[other(15), tally("0:51", 4, 0)],
        ]);
        assert_eq!(totals, [1010, 1012, 1018, 1019].map(Some));
    }

    #[test]
    fn a_mount_made_anew_counts_from_zero() {
        // By its counters, and by its age where the counters have overtaken the earlier ones.
        let aged = |age, operations| Tally {
            age,
            ..tally("0:51", operations, operations)
        };
        let totals = operations_by(&[&[aged(90, 100)], &[aged(95, 7)], &[aged(3, 9)]]);
        assert_eq!(totals, [100, 107, 116].map(Some));
    }

    #[test]
    fn a_tree_connection_that_goes_leaves_what_it_counted() {
        let smb = |operations| tally("", operations, operations);
        // The newest is first in the kernel's list.
        let totals = operations_by(&[
            &[smb(10), smb(1000)],
            &[smb(1001)],
            &[smb(5), smb(1002)],
            &[smb(7)],
            &[smb(2)],
        ]);
        assert_eq!(totals, [1010, 1011, 1017, 1019, 1021].map(Some));
        // Of two, the one that could have been either is taken for the one that has grown less.
        assert_eq!(
            operations_by(&[&[smb(900), smb(20)], &[smb(950)]]),
            [920, 970].map(Some)
        );
    }

    #[test]
    fn a_tree_connection_of_another_time_is_another() {
        let since = |time| tally(time, 5, 0);
        let totals = operations_by(&[&[since("08:00")], &[since("09:00")], &[since("09:00")]]);
        assert_eq!(totals, [5, 10, 10].map(Some));
    }

    #[test]
    fn a_share_without_a_mount_is_forgotten() {
        let one = [tally("0:51", 100, 0)];
        let totals = operations_by(&[&one, &[], &[tally("0:51", 3, 0)]]);
        assert_eq!(totals, [Some(100), None, Some(3)]);
    }

    #[test]
    fn a_full_counter_of_operations_goes_on() {
        let near = (1 << 32) - 10;
        let grown = growth(&[tally("", near, 50)], &[tally("", 5, 60)]);
        assert_eq!((grown.operations, grown.read_bytes), (5, Some(10)));
    }

    /// Whether each tree connection stays, and its operations meanwhile; the operations of new ones.
    type Change = (Vec<(bool, u64)>, Vec<u64>);

    /// Tree connections that come, at the head of the kernel's list, go and grow.
    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = (
            prop::collection::vec((any::<bool>(), 0..100u64), 6),
            prop::collection::vec(0..100u64, 0..3),
        );
        prop::collection::vec(change, 1..8)
    }

    proptest! {
        #[test]
        fn a_total_never_falls_and_counts_nothing_twice(changes in changes(), named: bool) {
            let mut totals = Totals::default();
            let mut connections = vec![(0, 50)];
            let (mut done, mut last) = (50, 0);
            for (number, (fates, new)) in changes.into_iter().enumerate() {
                let tallies = connections.iter().map(|(made, operations)| {
                    let id = if named { format!("{made}") } else { String::new() };
                    tally(&id, *operations, *operations)
                });
                totals.update(BTreeMap::from([(share("vols"), tallies.collect())]));
                let total = totals.values().map(|(_, io)| io.operations).next().unwrap();
                prop_assert!(total >= last && total <= done, "{last} {total} {done}");
                prop_assert!(!named || total == done);
                last = total;
                let fates = fates.into_iter().chain(std::iter::repeat((true, 1)));
                connections = connections.into_iter().zip(fates).filter_map(|((made, operations), (stays, more))| {
                    done += if stays { more } else { 0 };
                    stays.then_some((made, operations + more))
                }).collect();
                for operations in new {
                    connections.insert(0, ((number + 1) * 10 + connections.len(), operations));
                    done += operations;
                }
            }
        }
    }
}
