//! Volumes on domains of Xen, as the guest sees them. Much of what is tested on KVM is the same test here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    domains_test, fault_test,
    guest::{self, Second},
    iscsi_test, local_test,
    nfs_servers::NfsServer,
    nfs_test,
    node::Node,
    secret_test,
    servers::{SmbServer, smb_info},
    smb_test,
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "xen_smb_read_only",
        run: smb_test::read_only,
    },
    Test {
        name: "xen_smb_read_write",
        run: smb_test::read_write,
    },
    Test {
        name: "xen_local_device_and_file",
        run: local_test::device_and_file,
    },
    Test {
        name: "xen_identity_two_attachments_of_one_volume",
        run: local_test::two_of_one,
    },
    Test {
        name: "xen_nfs_volumes_as_the_guest_sees_them",
        run: nfs_test::volumes,
    },
    Test {
        name: "xen_iscsi_access_and_a_shared_session",
        run: iscsi_test::shared_session,
    },
    Test {
        name: "xen_secret_is_nowhere",
        run: secret_test::nowhere,
    },
    Test {
        name: "xen_guest_does_not_answer_the_unplug",
        run: fault_test::suspended_guest,
    },
    Test {
        name: "xen_images_need_a_device_model",
        run: images,
    },
    Test {
        name: "xen_disks_grow_and_get_lost",
        run: grow_and_get_lost,
    },
    Test {
        name: "xen_domains_end_is_shown_at_once",
        run: domains_test::end_of_domain,
    },
    Test {
        name: "xen_what_is_refused",
        run: refusals,
    },
    Test {
        name: "xen_guest_does_not_connect",
        run: never_connected,
    },
    Test {
        name: "xen_volumes_that_root_cannot_have",
        run: not_for_root,
    },
    Test {
        name: "xen_hotplug_script_fails",
        run: script_fails,
    },
];

/// Those whose guest is not paravirtual.
pub(crate) const HVM: &[Test] = &[Test {
    name: "xen_pvh_guest",
    run: pvh,
}];

/// Those that take half a minute and more, and whose like is among the others.
pub(crate) const SOAK: &[Test] = &[
    Test {
        name: "xen_libvirtd_restarts",
        run: fault_test::libvirtd_restarts,
    },
    Test {
        name: "xen_daemon_is_killed",
        run: fault_test::daemon_killed,
    },
];

/// QEMU's firmware takes the better part of a minute to load a kernel here.
pub(crate) const HVM_SOAK: &[Test] = &[Test {
    name: "xen_hvm_guest",
    run: hvm,
}];

const LOGIN: &str = "-o username=bob,password=pw";

/// Attaches to that domain, and expects to be refused with this reason.
fn refused(
    agent: &Agent<'_>,
    domain: &str,
    volume: &str,
    info: &Value,
    options: &[&str],
    reason: &str,
) -> Result<Failure> {
    let answer = agent.attach_to(domain, "refused", volume, info, options)?;
    let failure = answer
        .err()
        .with_context(|| format!("attached, and was to be refused with {reason}"))?;
    ensure!(failure.reason == reason, "{reason}: {failure:?}");
    Ok(failure)
}

/// Files of the node itself, gone when this is dropped.
struct Files<'node>(&'node Node);

impl<'node> Files<'node> {
    const CONFIG: &'static str = "[local]\nroots = [\"/srv/local\"]\n";

    fn new(node: &'node Node, names: &[&str]) -> Result<Self> {
        let files = Self(node);
        for name in names {
            node.sh(&format!(
                "mkdir -p /srv/local && truncate -s 8M /srv/local/{name}"
            ))?;
        }
        Ok(files)
    }

    fn info(name: &str) -> Value {
        json!({"driver_volume_type": "local", "data": {"device_path": format!("/srv/local/{name}")}})
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        let _ = self.0.sh("rm -rf /srv/local");
    }
}

/// An image is refused before anything is connected if a server serves it, if no device model runs, or if it is read-only; with a device
/// model, the guest has its disk. No attach succeeds without a disk.
fn images(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, Files::CONFIG)?;
    let _files = Files::new(node, &["raw.raw"])?;
    node.sh("qemu-img create -q -f qcow2 /srv/local/v.qcow2 16M")?;
    let as_image = |mut info: Value| {
        info["data"]["format"] = json!("qcow2");
        info
    };
    let info = |name: &str| as_image(Files::info(name));
    let none = refused(
        &agent,
        "inner",
        "v",
        &info("v.qcow2"),
        &[],
        "FORMAT_UNSUPPORTED",
    )?;
    ensure!(none.message.contains("device model"), "{none:?}");

    let second = Second::start_as(node, "pv-qemu")?;
    let to = |info: &Value, options: &[&str], reason| {
        refused(&agent, Second::NAME, "v", info, options, reason)
    };
    // No such server exists: a connection to it would fail with another reason.
    let served = as_image(json!({
        "driver_volume_type": "smbfs",
        "data": {"export": "//10.99.0.10/vols", "name": "v.qcow2", "options": LOGIN},
    }));
    let served = to(&served, &[], "FORMAT_UNSUPPORTED")?;
    ensure!(served.message.contains("its server"), "{served:?}");
    to(&info("v.qcow2"), &["--access", "ro"], "FORMAT_UNSUPPORTED")?;
    to(&info("raw.raw"), &[], "IMAGE_MALFORMED")?;
    agent.attach_to(Second::NAME, "a1", "v", &info("v.qcow2"), &[])??;
    let disk = second.sees("v")?;
    ensure!(disk.sectors == 16 * 2048, "{disk:?}");
    ensure!(disk.write == Ok(()), "{disk:?}");
    agent.detach("a1")??;
    let found = node.sh(&format!(
        "qemu-img convert -O raw /srv/local/v.qcow2 /tmp/raw && tail -c +{} /tmp/raw | head -c 24; rm /tmp/raw",
        guest::WRITTEN_AT + 1
    ))?;
    ensure!(found == "volattach-guest-was-here", "{found:?}");
    Ok(())
}

/// A guest without a device model.
fn pvh(lab: &Lab) -> Result<()> {
    other_kind(lab, "pvh")
}

/// A guest with one, which serves it an image too.
fn hvm(lab: &Lab) -> Result<()> {
    other_kind(lab, "hvm")
}

/// Read-write and read-only in a guest that is not paravirtual.
fn other_kind(lab: &Lab, kind: &str) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, Files::CONFIG)?;
    let _files = Files::new(node, &["a.raw", "b.raw"])?;
    node.sh("qemu-img create -q -f qcow2 /srv/local/c.qcow2 16M")?;
    let [a, b, mut c] = ["a.raw", "b.raw", "c.qcow2"].map(Files::info);
    c["data"]["format"] = json!("qcow2");
    let second = Second::start_as(node, kind)?;
    agent.attach_to(Second::NAME, "a1", "va", &a, &[])??;
    agent.attach_to(Second::NAME, "a2", "vb", &b, &["--access", "ro"])??;
    let disk = second.sees("va")?;
    ensure!(disk.write == Ok(()), "{disk:?}");
    let disk = second.sees("vb")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    if kind == "hvm" {
        agent.attach_to(Second::NAME, "a3", "vc", &c, &[])??;
        let disk = second.sees("vc")?;
        ensure!(
            disk.sectors == 16 * 2048 && disk.write == Ok(()),
            "{disk:?}"
        );
        agent.detach("a3")??;
    } else {
        refused(&agent, Second::NAME, "vc", &c, &[], "FORMAT_UNSUPPORTED")?;
    }
    for id in ["a1", "a2"] {
        agent.detach(id)??;
    }
    Ok(())
}

/// A file that its guest writes and one that it only reads grow under it. What the toolstack has taken away behind libvirt's back
/// is lost, comes back when it is asked for again, and is gone when it is not wanted.
fn grow_and_get_lost(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, Files::CONFIG)?;
    let _files = Files::new(node, &["a.raw", "b.raw"])?;
    let attach = |id, volume, file, access| {
        agent.attach(id, volume, &Files::info(file), &["--access", access])
    };
    attach("a1", "va", "a.raw", "rw")??;
    attach("a2", "vb", "b.raw", "ro")??;
    node.sh("truncate -s 12M /srv/local/a.raw /srv/local/b.raw")?;
    for (id, volume) in [("a1", "va"), ("a2", "vb")] {
        ensure!(agent.extend(id, 12 << 20)?? == 12 << 20, "{volume}");
        guest::sees_bytes(node, volume, 12 << 20)?;
    }
    agent.detach("a2")??;

    let take_away = || {
        let target = guest::sees(node, "va")?.name;
        node.sh(&format!("xl block-detach inner {target}"))
    };
    take_away()?;
    attach("a1", "va", "a.raw", "rw")??;
    take_away()?;
    agent.detach("a1")??;
    // libvirt has not heard of either, and would show them until its guest ends.
    node.sh("lab-guest end inner && lab-guest start inner")?;
    Ok(())
}

/// What libvirt reports as plugged in and no guest connects to is undone. The guest is paused while the server keeps the agent
/// waiting, which has looked at the guest before.
fn never_connected(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[smb]\nprobe_timeout = \"60s\"\n")?;
    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 8, "")?;
    let info = smb_info(&server, "vols", "v.raw", LOGIN);
    server.pause()?;
    let failure = std::thread::scope(|scope| {
        let attaching = scope.spawn(|| agent.attach("a1", "v", &info, &["--timeout", "150"]));
        let paused = node
            .wait(
                "the attach is under way",
                "volattach show a1",
                Duration::from_secs(180),
            )
            .and_then(|()| node.sh("virsh -q suspend inner"));
        server.resume()?;
        let answer = attaching
            .join()
            .map_err(|_| anyhow::anyhow!("the attach panicked"))?;
        node.sh("virsh -q resume inner")?;
        paused?;
        answer?.err().context("attached to a paused guest")
    })?;
    ensure!(failure.reason == "HYPERVISOR_ERROR", "{failure:?}");
    ensure!(
        failure.message.contains("waiting for the guest"),
        "{failure:?}"
    );

    agent.attach("a1", "v", &info, &[])??;
    ensure!(guest::sees(node, "v")?.write == Ok(()));
    agent.detach("a1")??;
    Ok(())
}

/// The exact reason each.
fn refusals(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, Files::CONFIG)?;
    let _files = Files::new(node, &["a.raw", "b.raw"])?;
    let [a, b, none] = ["a.raw", "b.raw", "none.raw"].map(Files::info);
    let inner = |volume, info, options: &[&str], reason| {
        refused(&agent, "inner", volume, info, options, reason)
    };
    // What tunes is left out, and said to be.
    let plan = [
        "plan", "--volume", "va", "--domain", "inner", "--cache", "none",
    ];
    let plan = [&plan[..], &["--serial", "s", "--connection-info", "-"]].concat();
    let plan = agent.call(&plan, &a.to_string())??.to_string();
    ensure!(plan.contains("without cache, serial"), "{plan}");

    // The connection is to Xen, whether a domain is named or not.
    let connected = agent.connect("c1", "vb", &b, &[])??.to_string();
    ensure!(connected.contains("xvda"), "{connected}");
    agent.disconnect("c1")??;

    agent.attach("a1", "va", &a, &["--dev", "xvdc"])??;
    ensure!(guest::sees(node, "va")?.name == "xvdc");
    inner("vb", &b, &["--dev", "xvdc"], "TARGET_IN_USE")?;
    inner("va", &a, &[], "VOLUME_IN_USE")?;
    // The same file for another volume: nothing but the agent keeps a domain from writing to it twice, nor two domains.
    inner("other", &a, &[], "VOLUME_IN_USE")?;
    inner("vb", &b, &["--bus", "virtio"], "DISK_OPTION_INVALID")?;
    inner("vb", &b, &["--dev", "vdc"], "DISK_OPTION_INVALID")?;
    inner("vb", &b, &["--boot-order", "1"], "DISK_OPTION_INVALID")?;
    inner("none", &none, &[], "VOLUME_NOT_FOUND")?;
    let second = Second::start(node)?;
    refused(&agent, Second::NAME, "other", &a, &[], "VOLUME_IN_USE")?;
    agent.attach_to(Second::NAME, "b1", "vb", &b, &[])??;
    ensure!(second.sees("vb")?.write == Ok(()));
    agent.detach("b1")??;
    agent.detach("a1")??;

    // Its guest would have to connect to the disk itself.
    node.sh("virsh -q suspend inner")?;
    let paused = inner("va", &a, &[], "DOMAIN_STATE");
    node.sh("virsh -q resume inner")?;
    paused.map(drop)
}

/// What is asked for read-write from where nobody may write, and what is for QEMU's user alone, which serves nothing here.
fn not_for_root(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let server = SmbServer::start(
        node,
        "nas",
        10,
        &["vols"],
        "write list =\nread list = bob\n",
    )?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    let info = smb_info(&server, "vols", "v.raw", LOGIN);
    refused(&agent, "inner", "v", &info, &[], "VOLUME_UNREADABLE")?;
    agent.attach("a1", "v", &info, &["--access", "ro"])??;
    let disk = guest::sees(node, "v")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    agent.detach("a1")??;

    let server = NfsServer::start(node, "squashing", 11, "rw,root_squash", "")?;
    server.volume("v.raw", "sixteen bytes...")?;
    let info = server.info("v.raw", "");
    let squashed = refused(&agent, "inner", "v", &info, &[], "VOLUME_UNREADABLE")?;
    ensure!(squashed.message.contains("root"), "{squashed:?}");
    Ok(())
}

/// Xen's hot-plug script, replaced until this is dropped.
pub(crate) struct Script<'node>(&'node Node);

impl<'node> Script<'node> {
    const PATH: &'static str = "/etc/xen/scripts/block";

    /// `body` comes before what the script does.
    pub(crate) fn with(node: &'node Node, body: &str) -> Result<Self> {
        node.sh(&format!("cp -a {0} {0}.kept", Self::PATH))?;
        let script = Self(node);
        let head = "#!/bin/bash\ncd \"$(dirname \"$0\")\"\n";
        node.write(
            Self::PATH,
            format!("{head}{body}\nexec {}.kept \"$@\"\n", Self::PATH).as_bytes(),
        )?;
        Ok(script)
    }
}

impl Drop for Script<'_> {
    fn drop(&mut self) {
        let _ = self.0.sh(&format!("mv {0}.kept {0}", Self::PATH));
    }
}

/// What a failing hot-plug script says is told, and what it leaves is no hindrance to a good attach at the same target: neither
/// to ours, nor where somebody else's attach has failed there.
fn script_fails(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, Files::CONFIG)?;
    let _files = Files::new(node, &["a.raw"])?;
    let info = Files::info("a.raw");
    let at = ["--dev", "xvdb"];
    let works = || {
        agent.attach("a1", "v", &info, &at)??;
        ensure!(guest::sees(node, "v")?.write == Ok(()));
        agent.detach("a1")??;
        anyhow::Ok(())
    };
    {
        let _script = Script::with(node, ". ./block-common.sh; fatal \"the lab says no\"")?;
        let failure = refused(&agent, "inner", "v", &info, &at, "HYPERVISOR_ERROR")?;
        ensure!(failure.message.contains("the lab says no"), "{failure:?}");
    }
    works()?;
    {
        let _script = Script::with(node, "exit 1")?;
        refused(&agent, "inner", "v", &info, &at, "HYPERVISOR_ERROR")?;
    }
    works()?;
    {
        let _script = Script::with(node, ". ./block-common.sh; fatal \"the lab says no\"")?;
        node.sh("! virsh -q attach-disk inner /srv/local/a.raw xvdb --live")?;
        let stale =
            node.sh("xenstore-ls -f /local/domain/0/backend/vbd | grep -c hotplug-error")?;
        ensure!(stale == "1", "{stale}");
    }
    works()
}
