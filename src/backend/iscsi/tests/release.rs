//! What is cached of a disk or a map, and cannot be written any more.

use std::fs;

use super::*;

/// One path, to the LUN of the kernel's disk.
fn single() -> Protocol {
    info(r#""target_portal":"10.0.0.1","target_iqn":"iqn.a","target_lun":3"#)
}

/// A backend of that kernel whose flushes fail, and whose deletions remove LUN 3. Another's disk keeps the session.
fn unwritable(kernel: &Path, errno: Errno) -> IscsiBackend {
    let units = kernel.join("devices/platform/host2/session7/target2:0:0");
    fs::create_dir(units.join("2:0:0:4")).unwrap();
    let failed = format!(
        r#"{{"failed":{{"step":"flush","errno":{}}}}}"#,
        errno as i32
    );
    let script = format!(
        "jobs=$(cat); echo \"$jobs\" >>{}
         case $jobs in *flush*) echo '{failed}'; exit;; *delete*) rm -r {};; esac; echo '\"done\"'",
        kernel.join("jobs").display(),
        units.join("2:0:0:3").display(),
    );
    IscsiBackend {
        workers: scripted(kernel, &script),
        ..backend(kernel)
    }
}

/// The jobs of each worker, in order.
fn jobs(kernel: &Path) -> Vec<Vec<&'static str>> {
    let log = fs::read_to_string(kernel.join("jobs")).unwrap();
    let name = |job: &serde_json::Value| match job.to_string() {
        job if job.contains("flush") => "flush",
        job if job.contains("delete") => "delete",
        job if job.contains("protect") => "protect",
        job => panic!("{job}"),
    };
    log.lines()
        .map(|line| serde_json::from_str::<Vec<_>>(line).unwrap())
        .map(|jobs| jobs.iter().map(name).collect())
        .collect()
}

#[tokio::test]
async fn a_disk_that_cannot_be_flushed_stays_unless_nobody_wrote_or_what_was_written_may_be_lost() {
    for (errno, verified, force, removed) in [
        (Errno::EIO, true, false, false),
        (Errno::EIO, true, true, true),
        // The clean-up of a connect that failed.
        (Errno::EIO, false, false, true),
        // The storage took it away.
        (Errno::ENXIO, true, false, true),
        (Errno::EBUSY, true, true, false),
        (Errno::EBUSY, false, false, false),
    ] {
        let kernel = kernel();
        let kernel = kernel.path();
        fs::remove_dir_all(kernel.join("block")).unwrap();
        let backend = unwritable(kernel, errno);
        let plan = backend.plan(&single(), Access::ReadWrite).unwrap();
        let path = first_path(&plan);
        let volume = match verified {
            true => connected(plan, "/dev/sda", WWID),
            false => plan.into(),
        };
        let how = Release {
            force,
            ..Release::default()
        };
        let outcome = backend.disconnect(&volume, &how).await;
        let case = format!("{errno}, {verified}, {force}: {outcome:?}");
        assert_eq!(outcome.is_ok(), removed, "{case}");
        assert_eq!(backend.at(path).is_none(), removed, "{case}");
        match outcome {
            // The second is not done where the first fails.
            Ok(()) => assert_eq!(
                jobs(kernel),
                [vec!["flush", "delete"], vec!["delete"]],
                "{case}"
            ),
            Err(error) => {
                assert_eq!(jobs(kernel), [["flush", "delete"]], "{case}");
                assert_eq!(error.reason(), Reason::DeviceBusy, "{case}");
                let why = match errno {
                    Errno::EBUSY => "this host itself uses it",
                    _ => "what was written last is lost",
                };
                assert!(error.to_string().contains(why), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_disk_that_others_made_stays_and_one_of_our_own_goes() {
    for made_here in [false, true] {
        let kernel = kernel();
        let kernel = kernel.path();
        fs::write(kernel.join("block/sda/diskseq"), "5\n").unwrap();
        fs::remove_dir_all(kernel.join("block/dm-0")).unwrap();
        fs::remove_dir_all(kernel.join("block/sda/holders")).unwrap();
        let backend = unwritable(kernel, Errno::ENXIO);
        if made_here {
            backend.own.note(backend.sysfs(), Some(5));
        }
        let plan = backend.plan(&single(), Access::ReadWrite).unwrap();
        let path = first_path(&plan);
        let found = backend.survey(&plan).await.unwrap();
        let of_others = if made_here { vec![] } else { vec![5] };
        assert_eq!(found.disks_of_others, of_others);
        let mut volume = connected(plan, "/dev/sda", WWID);
        volume.found.disks_of_others = found.disks_of_others;
        // The next daemon distinguishes both cases by the journal.
        let next = started_anew(&backend);
        next.recall(std::slice::from_ref(&volume));
        assert_eq!(next.of_others(std::slice::from_ref(&path)), of_others);
        next.disconnect(&volume, &Release::default()).await.unwrap();
        assert_eq!(next.at(path).is_none(), made_here);
    }
}

/// An attachment read a disk that others made. The disk stays after the detach, and is writable again unless somebody else reads it.
#[tokio::test]
async fn a_disk_of_others_is_writable_after_its_last_reader() {
    for keeps_read_only in [true, false] {
        let kernel = kernel();
        let kernel = kernel.path();
        fs::write(kernel.join("block/sda/diskseq"), "5\n").unwrap();
        fs::remove_dir_all(kernel.join("block/dm-0")).unwrap();
        fs::remove_dir_all(kernel.join("block/sda/holders")).unwrap();
        let backend = started_anew(&unwritable(kernel, Errno::ENXIO));
        let plan = backend.plan(&single(), Access::ReadOnly).unwrap();
        let mut volume = connected(plan, "/dev/sda", WWID);
        volume.found.disks_of_others = vec![5];
        volume.found.protected = true;
        backend.recall(std::slice::from_ref(&volume));
        let device = volume.found.device.clone().unwrap();
        // Of a second reader, which found the device read-only.
        let is_due = || {
            let due = backend.protection(&device, "sda", Access::ReadOnly);
            due.unwrap()
        };
        fs::write(kernel.join("block/sda/ro"), "1\n").unwrap();
        assert!(is_due());
        let how = Release {
            keeps_read_only,
            ..Release::default()
        };
        backend.disconnect(&volume, &how).await.unwrap();
        match keeps_read_only {
            true => assert!(!kernel.join("jobs").exists()),
            false => assert_eq!(jobs(kernel), [["protect"]]),
        }
        assert_eq!(is_due(), keeps_read_only);
    }
}

/// The same backend in a daemon that has just started.
fn started_anew(before: &IscsiBackend) -> IscsiBackend {
    IscsiBackend {
        own: Arc::default(),
        protected: Arc::default(),
        seen: Arc::default(),
        ..before.clone()
    }
}

#[tokio::test]
async fn a_map_that_cannot_be_flushed_stays_and_its_paths_too() {
    let kernel = kernel();
    let kernel = kernel.path();
    let backend = unwritable(kernel, Errno::EIO);
    let plan = backend.plan(&single(), Access::ReadWrite).unwrap();
    let volume = connected(plan, "/dev/dm-0", WWID);
    for (force, why) in [
        (false, "what was written last is lost"),
        // It goes on, and there is nobody to remove the map.
        (true, "multipathd"),
    ] {
        let how = Release {
            force,
            ..Release::default()
        };
        let error = backend.disconnect(&volume, &how).await.unwrap_err();
        assert_eq!(error.reason(), Reason::DeviceBusy, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(jobs(kernel), [["flush"], ["flush"]]);
}
