use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::model::IoCounts;
use crate::model::{Dialect, DiskPlan, Scope};

fn disk(number: usize, domain: u128) -> AttachedDisk {
    AttachedDisk {
        id: format!("a{number:04}").parse().unwrap(),
        volume: format!("v{number:04}").parse().unwrap(),
        domain: Uuid::from_u128(domain),
        disk: DiskPlan {
            alias: format!("ua-volattach-a{number:04}"),
            source: "/v".into(),
            sequence: None,
            target: "vdb".into(),
            xml: String::new(),
            scope: Scope::Live,
            dialect: Dialect::Qemu,
            left_out: Vec::new(),
        },
    }
}

fn written(bytes: u64) -> Option<DiskIo> {
    Some(DiskIo {
        write: IoCounts {
            bytes: Some(bytes),
            ..IoCounts::default()
        },
        ..DiskIo::default()
    })
}

fn figures(asked: MetricsIo) -> IoFigures {
    IoFigures::new(asked, "/mnt".into()).unwrap()
}

/// A round in which each domain answers, but for those that hang.
fn round(figures: &IoFigures, disks: Vec<AttachedDisk>, bytes: u64, hangs: &[u128]) {
    let domains = figures.held().choose(disks);
    for (domain, disks) in domains {
        if !hangs.contains(&domain.as_u128()) {
            let counters = disks.iter().map(|_| written(bytes)).collect();
            figures.held().note(disks, counters);
        }
    }
    figures.held().disks.read = Some(Instant::now());
}

fn shown(figures: &IoFigures) -> Vec<(String, Option<u64>)> {
    let disks = figures.snapshot().disks;
    let each = disks.into_iter();
    each.map(|(id, _, io)| (id.to_string(), io.write.bytes))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_hangs_keeps_its_last_values_with_their_age() {
    let figures = figures(MetricsIo::Attachments);
    let disks = || vec![disk(1, 1), disk(2, 2)];
    assert_eq!(figures.snapshot().ages, [("disks", None), ("shares", None)]);
    round(&figures, disks(), 1, &[]);
    advance(Duration::from_secs(15)).await;
    round(&figures, disks(), 2, &[2]);
    let expected = [("a0001", Some(2)), ("a0002", Some(1))];
    assert_eq!(shown(&figures), expected.map(|(id, n)| (id.to_owned(), n)));
    assert_eq!(figures.snapshot().ages[0], ("disks", Some(15)));
    // Once it is detached it is gone, whether its domain hangs or not.
    round(&figures, vec![disk(1, 1)], 3, &[2]);
    assert_eq!(shown(&figures), [("a0001".to_owned(), Some(3))]);
    assert_eq!(figures.snapshot().ages[0], ("disks", Some(0)));
}

#[tokio::test]
async fn a_disk_for_which_nobody_counts_has_no_figures() {
    let figures = figures(MetricsIo::Attachments);
    figures.held().note(vec![disk(1, 1)], vec![written(1)]);
    figures.held().note(vec![disk(1, 1)], vec![None]);
    assert_eq!(shown(&figures), []);
}

#[tokio::test]
async fn what_is_beyond_the_most_is_left_out_and_counted() {
    let figures = figures(MetricsIo::Attachments);
    round(
        &figures,
        (0..MOST + 2).map(|n| disk(n, 1)).collect(),
        1,
        &[],
    );
    let shares = (0..MOST + 3).map(|n| {
        let share = Share {
            protocol: "nfs",
            server: "s".into(),
            share: format!("/{n}"),
        };
        (share, Vec::new())
    });
    figures.held().note_shares(shares.collect());
    let snapshot = figures.snapshot();
    assert_eq!((snapshot.disks.len(), snapshot.shares.len()), (MOST, MOST));
    assert_eq!(snapshot.left_out, [("disks", 2), ("shares", 3)]);
    // Those that had figures keep them.
    assert_eq!(snapshot.disks[MOST - 1].0.as_str(), "a0999");
}

#[tokio::test]
async fn a_volume_is_named_only_where_that_is_asked() {
    assert!(IoFigures::new(MetricsIo::None, "/mnt".into()).is_none());
    for (asked, volume) in [
        (MetricsIo::Attachments, None),
        (MetricsIo::Volumes, Some("v0001".parse().unwrap())),
    ] {
        let figures = figures(asked);
        round(&figures, vec![disk(1, 1)], 1, &[]);
        assert_eq!(figures.snapshot().disks[0].1, volume);
    }
}
