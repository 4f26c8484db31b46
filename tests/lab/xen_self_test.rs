//! The lab tests its Xen node. Needs no volattachd.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Lab, Test, guest, leftovers,
    process::wait_for,
    self_test::{IMAGE, healthy, plug, unplug, written},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "xen_self_node",
        run: node,
    },
    Test {
        name: "xen_self_guest_reads_and_writes",
        run: guest_reads_and_writes,
    },
    Test {
        name: "xen_self_leftovers",
        run: finds_leftovers,
    },
];

/// The node is a healthy first domain of Xen, which is libvirt's choice where none is named.
fn node(lab: &Lab) -> Result<()> {
    healthy(lab)?;
    ensure!(lab.node.sh("cat /proc/xen/capabilities")? == "control_d");
    ensure!(lab.node.sh("virsh uri")?.trim() == "xen:///system");
    Ok(())
}

fn guest_reads_and_writes(lab: &Lab) -> Result<()> {
    plug(lab, "xvdb")?;
    let disk = guest::sees(&lab.node, "xvdb")?;
    ensure!(disk.sectors == 16 * 2048, "{disk:?}");
    ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");
    ensure!(disk.head == guest::hex("sixteen bytes..."), "{disk:?}");
    ensure!(written(lab, &disk)?, "the guest's line is not in the image");
    unplug(lab, "xvdb")?;
    nothing_left(lab)
}

/// Xen lets go of a disk some time after the guest has.
fn nothing_left(lab: &Lab) -> Result<()> {
    wait_for("the end of the disk", Duration::from_secs(180), || {
        Ok(leftovers::find(&lab.node, Duration::from_secs(2))?
            .is_empty()
            .then_some(()))
    })
}

/// The search for leftovers finds each kind of them that a Xen node adds.
fn finds_leftovers(lab: &Lab) -> Result<()> {
    plug(lab, "xvdb")?;
    guest::sees(&lab.node, "xvdb")?;
    let found = leftovers::find(&lab.node, Duration::from_secs(2))?.join("\n");
    for kind in [
        "disk of inner: ",
        IMAGE,
        "disk in xenstore: /local/domain/0/backend/vbd/",
        "disk in xenstore: /libxl/",
    ] {
        ensure!(
            found.contains(kind),
            "{kind:?} is not among what was found: {found}"
        );
    }
    unplug(lab, "xvdb")?;
    nothing_left(lab)
}
