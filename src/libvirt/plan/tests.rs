use std::path::PathBuf;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::model::{Access, Dialect, DiskOptions, ImageFormat, Reason, SourceKind};

fn spec(options: DiskOptions) -> DiskSpec {
    DiskSpec {
        attachment: "a1".parse().unwrap(),
        volume: "v1".parse().unwrap(),
        path: PathBuf::from("/img/v1.raw"),
        kind: SourceKind::File,
        format: ImageFormat::Raw,
        access: Access::ReadWrite,
        keeps_owner: false,
        options,
    }
}

fn disk(target: &str, bus: &str, address: Option<&str>) -> DiskView {
    DiskView {
        target: target.into(),
        bus: bus.into(),
        alias: Some(format!("ua-{target}")),
        address: address.map(|address| address.parse().unwrap()),
        ..DiskView::default()
    }
}

/// A domain whose running and persistent configurations have these disks.
fn view(disks: Vec<DiskView>) -> DomainView {
    let mut view = DomainView::empty(Dialect::Qemu);
    view.domain.name = "web".into();
    view.live.scsi = disks
        .iter()
        .filter(|disk| disk.bus == "scsi")
        .filter_map(|disk| disk.address)
        .collect();
    view.live.pci = disks
        .iter()
        .filter(|disk| disk.bus == "virtio")
        .filter_map(|disk| disk.address)
        .collect();
    view.live.disks = disks;
    view.config = view.live.clone();
    view
}

fn scsi(options: DiskOptions) -> DiskOptions {
    DiskOptions {
        bus: Some(Bus::Scsi),
        ..options
    }
}

fn hint(target: &str) -> DiskOptions {
    DiskOptions {
        target: Some(target.into()),
        ..DiskOptions::default()
    }
}

fn at(address: &str) -> DiskOptions {
    DiskOptions {
        address: Some(address.parse().unwrap()),
        ..DiskOptions::default()
    }
}

fn target(view: &DomainView, options: DiskOptions) -> String {
    plan_disk(view, &spec(options)).unwrap().target
}

fn error(view: &DomainView, options: DiskOptions) -> (Reason, String) {
    let error = plan_disk(view, &spec(options)).unwrap_err();
    (error.reason(), error.to_string())
}

#[test]
fn the_first_free_target_is_taken() {
    let view = view(vec![
        disk("vda", "virtio", None),
        disk("sda", "sata", None),
        disk("vdc", "virtio", None),
    ]);
    assert_eq!(target(&view, DiskOptions::default()), "vdb");
    assert_eq!(target(&view, hint("vdzz")), "vdzz");
    assert_eq!(target(&view, scsi(DiskOptions::default())), "sdb");
    assert_eq!(
        target(&DomainView::empty(Dialect::Qemu), DiskOptions::default()),
        "vda"
    );
}

#[test]
fn letters_count_on_after_z() {
    let names: Vec<String> = [0, 25, 26, 27, 51, 52, 701, 702, 18277].map(letters).into();
    assert_eq!(
        names,
        ["a", "z", "aa", "ab", "az", "ba", "zz", "aaa", "zzz"]
    );
}

#[test]
fn a_bad_target_is_refused() {
    for bad in [
        "", "vd", "sda", "vdB", "vda1", "vdabcd", "hda", "vd\u{e4}", "/dev/vda",
    ] {
        let (reason, text) = error(&DomainView::empty(Dialect::Qemu), hint(bad));
        assert_eq!(reason, Reason::DiskOptionInvalid, "{bad}: {text}");
    }
    assert_snapshot!(error(&DomainView::empty(Dialect::Qemu), scsi(hint("vdb"))).1, @r#"disk option target "vdb" is invalid: on the scsi bus it is sd and one to 3 letters, such as sdb"#);
}

#[test]
fn an_address_that_virtio_scsi_lacks_is_refused() {
    let planned =
        |address: &str| plan_disk(&DomainView::empty(Dialect::Qemu), &spec(scsi(at(address))));
    let xml = planned("drive:0:0:255:16383").unwrap().xml;
    assert!(xml.contains(r#"target="255" unit="16383""#), "{xml}");
    for bad in ["drive:0:1:0:0", "drive:0:0:256:0", "drive:0:0:0:16384"] {
        let error = planned(bad).unwrap_err();
        assert_eq!(error.reason(), Reason::DiskOptionInvalid, "{bad}");
    }
}

#[test]
fn what_is_taken_is_refused() {
    let view = view(vec![
        disk("vda", "virtio", Some("pci:0000:00:07.0")),
        disk("sda", "scsi", Some("drive:0:0:0:0")),
        DiskView {
            alias: None,
            source: Some("/img/root".into()),
            ..disk("vdb", "virtio", None)
        },
        DiskView {
            alias: Some("ua-volattach-a1".into()),
            ..disk("vdx", "virtio", None)
        },
    ]);
    let mut other = view.clone();
    other.live.disks.pop();
    other.config.disks.pop();
    assert_snapshot!(error(&view, DiskOptions::default()).1, @"domain web (00000000-0000-0000-0000-000000000000) already has disk ua-volattach-a1, at target vdx; detach it first");
    assert_eq!(error(&view, DiskOptions::default()).0, Reason::VolumeInUse);
    for taken in [
        hint("vda"),
        hint("vdb"),
        at("pci:0000:00:07.0"),
        scsi(at("drive:0:0:0:0")),
    ] {
        assert_eq!(error(&other, taken).0, Reason::TargetInUse);
    }
    assert_snapshot!(error(&other, hint("vdb")).1, @"target vdb of domain web (00000000-0000-0000-0000-000000000000) is taken by the disk of /img/root; choose another, or none to get the first that is free");
    assert_snapshot!(error(&other, at("pci:0000:00:07.0")).1, @"address pci:0000:00:07.0 of domain web (00000000-0000-0000-0000-000000000000) is taken by disk ua-vda; choose another, or none to get the first that is free");
}

#[test]
fn an_address_must_fit_the_bus() {
    let view = view(vec![]);
    for bad in [
        at("drive:0:0:0:0"),
        scsi(at("pci:0000:00:07.0")),
        scsi(at("drive:1:0:0:0")),
    ] {
        assert_eq!(error(&view, bad).0, Reason::DiskOptionInvalid);
    }
    assert!(plan_disk(&view, &spec(scsi(at("drive:0:0:0:9")))).is_ok());
}

#[test]
fn a_unit_is_found_on_any_controller() {
    let unit = |view: &DomainView| {
        let xml = plan_disk(view, &spec(scsi(DiskOptions::default())))?.xml;
        Ok::<_, HypervisorError>(
            xml.lines()
                .find(|l| l.contains("<address"))
                .unwrap()
                .trim()
                .to_owned(),
        )
    };
    let mut full = view(vec![]);
    assert_snapshot!(unit(&full).unwrap(), @r#"<address type="drive" controller="0" bus="0" target="0" unit="0"/>"#);
    for n in 0..UNITS {
        full.live.scsi.push(DiskAddress::Drive {
            controller: 0,
            bus: 0,
            target: 0,
            unit: n,
        });
    }
    let error = unit(&full).unwrap_err();
    assert_eq!(error.reason(), Reason::BusFull);
    assert_snapshot!(error, @"domain web (00000000-0000-0000-0000-000000000000) has no free place for a scsi disk: every unit of its virtio-scsi controllers is taken; add a controller, or use bus virtio");
    full.live.virtio_scsi = vec![3, 0];
    assert_snapshot!(unit(&full).unwrap(), @r#"<address type="drive" controller="3" bus="0" target="0" unit="0"/>"#);
    full.live.virtio_scsi = vec![];
    assert_snapshot!(unit(&full).unwrap_err(), @"domain web (00000000-0000-0000-0000-000000000000) has no free place for a scsi disk: it has no virtio-scsi controller; add one (model='virtio-scsi'), or use bus virtio");
}

#[test]
fn the_scope_says_which_configuration_counts() {
    let mut view = view(vec![]);
    view.config.disks.push(disk("vda", "virtio", None));
    view.live.disks.push(disk("vdb", "virtio", None));
    let scoped = |scope| DiskOptions {
        scope,
        ..DiskOptions::default()
    };
    assert_eq!(target(&view, scoped(Scope::Live)), "vda");
    assert_eq!(target(&view, scoped(Scope::Config)), "vdb");
    assert_eq!(target(&view, scoped(Scope::LiveAndConfig)), "vdc");
    let stopped = DomainView {
        running: false,
        ..view.clone()
    };
    assert_snapshot!(error(&stopped, scoped(Scope::LiveAndConfig)).1, @"domain web (00000000-0000-0000-0000-000000000000) is not running, so its running configuration cannot change; start it first, or change its persistent configuration only");
    assert_eq!(target(&stopped, scoped(Scope::Config)), "vdb");
    let transient = DomainView {
        persistent: false,
        ..view
    };
    assert_snapshot!(error(&transient, scoped(Scope::LiveAndConfig)).1, @"domain web (00000000-0000-0000-0000-000000000000) is transient, so its persistent configuration cannot change; change its running configuration only");
    assert_eq!(
        error(&transient, scoped(Scope::Config)).0,
        Reason::DomainState
    );
}

proptest! {
    #[test]
    fn a_plan_never_takes_what_is_taken(
        targets in prop::collection::btree_set("[vs]d[a-c]{1,2}", 0..12),
        units in prop::collection::btree_set(0u32..6, 0..6),
        on_scsi: bool,
    ) {
        let mut view = view(targets.iter().map(|t| disk(t, "virtio", None)).collect());
        let address = |unit| DiskAddress::Drive { controller: 0, bus: 0, target: 0, unit };
        view.live.scsi = units.into_iter().map(address).collect();
        let options = if on_scsi { scsi(DiskOptions::default()) } else { DiskOptions::default() };
        let plan = plan_disk(&view, &spec(options)).unwrap();
        prop_assert!(!targets.contains(&plan.target));
        let read = Devices::read(&format!("<d><devices>{}</devices></d>", plan.xml)).unwrap();
        prop_assert_eq!(&read.disks[0].target, &plan.target);
        prop_assert_eq!(read.disks[0].alias.as_deref(), Some("ua-volattach-a1"));
        prop_assert!(read.scsi.iter().all(|address| !view.live.scsi.contains(address)));
        prop_assert_eq!(read.scsi.len(), usize::from(on_scsi));
    }
}

#[test]
fn a_path_that_apparmor_would_read_as_a_pattern_is_refused_where_it_is_asked() {
    let mut pattern = spec(DiskOptions::default());
    pattern.path = PathBuf::from("/img/v*.raw");
    let plan = |view: &DomainView, scope: Scope| {
        let options = DiskOptions {
            scope,
            ..DiskOptions::default()
        };
        let spec = DiskSpec {
            options,
            ..pattern.clone()
        };
        plan_disk(view, &spec).map_err(|error| (error.reason(), error.to_string()))
    };
    let scopes = [Scope::Live, Scope::Config, Scope::LiveAndConfig];
    let refused = |view: &DomainView| scopes.map(|scope| plan(view, scope).is_err());
    let mut view = view(Vec::new());
    assert_eq!(refused(&view), [false; 3]);

    // The label of the running domain says it; the persistent configuration has none, and the host's own way holds.
    view.live.profiled = Some(true);
    assert_eq!(refused(&view), [true, false, true]);
    let (reason, said) = plan(&view, Scope::Live).unwrap_err();
    assert_eq!(reason, Reason::VolumePathUnsafe);
    assert!(said.contains("AppArmor") && said.contains("'*'"), "{said}");
    view.profiles = true;
    assert_eq!(refused(&view), [true; 3]);
    view.live.profiled = None;
    assert_eq!(refused(&view), [false, true, true]);
    view.config.profiled = Some(false);
    assert_eq!(refused(&view), [false; 3]);

    view.config.profiled = None;
    view.dialect = Dialect::Xen;
    assert_eq!(
        plan(&view, Scope::Config).map(|disk| disk.dialect),
        Ok(Dialect::Xen)
    );
}
