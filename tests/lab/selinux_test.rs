//! A node that enforces Debian's SELinux policy, with volattach's module in it: docs/selinux.md says what its tests show.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    nfs_servers::NfsServer,
    node::Node,
    nvme_servers::{A, NvmeServer},
    servers::{SmbServer, smb_info},
    targets::{Targets, head_hex, iscsi_info, multipath_info, with_chap},
};

pub(crate) const SOAK: &[Test] = &[
    Test {
        name: "selinux_volumes_come_and_go",
        run: come_and_go,
    },
    Test {
        name: "selinux_chap_sessions_are_told_apart",
        run: chap,
    },
    Test {
        name: "selinux_booleans_are_off",
        run: booleans,
    },
    Test {
        name: "selinux_labelled_export",
        run: labelled,
    },
    Test {
        name: "selinux_audit_and_lvm",
        run: audit_and_lvm,
    },
    Test {
        name: "selinux_acts_outside_the_policy",
        run: outside,
    },
];

const HEAD: &str = "sixteen bytes...";

/// A directory whose files Debian's policy takes for guests' images.
const IMAGES: &str = "/var/lib/libvirt/images/lab";

/// Where the kernel's audit goes.
const AUDIT_LOG: &str = "/var/log/audit/audit.log";

/// Puts a mark of its own behind all that the audit has had so far, once it is in the log.
fn mark(node: &Node) -> Result<String> {
    let mark = node.sh("mark=lab-$(date +%s%N) && auditctl -m $mark >/dev/null && echo $mark")?;
    let written = format!("grep -q {mark} {AUDIT_LOG}");
    let deadline = Duration::from_secs(60);
    node.wait("the mark is in the audit's log", &written, deadline)?;
    Ok(mark)
}

/// What SELinux has denied since the mark and volattach has to do with, in either role: a line each.
fn denials(node: &Node, since: &str) -> Result<String> {
    mark(node)?;
    node.sh(&format!(
        "sed -n '/{since}/,$p' {AUDIT_LOG} | grep -a '^type=AVC .*volattachd_' || true"
    ))
}

/// Starts the daemon and acts; nothing of volattach's may be denied meanwhile.
fn undenied(node: &Node, config: &str, act: impl FnOnce(&Agent<'_>) -> Result<()>) -> Result<()> {
    let since = mark(node)?;
    let acted = Agent::start(node, config).and_then(|agent| act(&agent));
    let denied = denials(node, &since)?;
    if !denied.is_empty() {
        return acted
            .and_then(|()| bail!("nothing failed"))
            .context(format!("denied:\n{denied}"));
    }
    acted?;
    is_confined(node)
}

/// The node enforces its policy on the daemon and on its guest.
fn is_confined(node: &Node) -> Result<()> {
    let enforced = node.sh(
        "getenforce; ps -o label= -p $(systemctl show -p MainPID --value volattachd); \
         ps -o label= -p $(pgrep -f '^/usr/bin/qemu-system.*guest=inner')",
    )?;
    let enforced: Vec<_> = enforced.lines().collect();
    ensure!(
        enforced.len() == 3
            && enforced[0] == "Enforcing"
            && enforced[1].contains(":volattachd_t:")
            && enforced[2].contains(":svirt_t:"),
        "{enforced:?}"
    );
    Ok(())
}

/// Turns both booleans for shares `on` or `off`, until the next boot.
fn turn(node: &Node, to: &str) -> Result<()> {
    node.sh(&format!("setsebool virt_use_samba={to} virt_use_nfs={to}"))
        .map(drop)
}

fn local(path: &str) -> Value {
    json!({"driver_volume_type": "local", "data": {"device_path": path}})
}

/// Attaches the volume, which the guest reads and writes, and detaches it.
fn comes_and_goes(
    node: &Node,
    agent: &Agent<'_>,
    volume: &str,
    info: &Value,
    head: &str,
) -> Result<()> {
    let come_and_go = || -> Result<()> {
        agent.attach("a1", volume, info, &[])??;
        let disk = guest::sees(node, volume)?;
        ensure!(disk.head == head && disk.write == Ok(()), "{disk:?}");
        agent.detach("a1")??;
        guest::gone(node, volume)
    };
    come_and_go().with_context(|| volume.to_owned())
}

/// A volume of each backend.
fn come_and_go(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    node.sh(&format!(
        "mkdir -p {IMAGES} && cd {IMAGES} &&
         for file in v.raw disk; do printf %s '{HEAD}' >$file && truncate -s 8M $file; done"
    ))?;
    let device = node.sh(&format!("losetup -f --show {IMAGES}/disk"))?;
    let result = each_backend(node, &device);
    node.sh(&format!("losetup -d {device}; rm -r {IMAGES}"))?;
    result
}

fn each_backend(node: &Node, device: &str) -> Result<()> {
    turn(node, "on")?;
    let config = format!("[local]\nroots = [\"{IMAGES}\", \"/dev\"]\n");
    let smb = SmbServer::start(node, "win", 11, &["vols"], "")?;
    smb.user("bob", "pw")?;
    smb.volume("vols", "v.raw", 8, HEAD)?;
    let nfs = NfsServer::start(node, "nas", 10, "rw", "")?;
    nfs.volume("v.raw", HEAD)?;
    let targets = Targets::new(node, &["one", "map"])?;
    targets.target("t", &[21, 22], &[(1, "one"), (2, "map")])?;
    let nvme = NvmeServer::start(node, "nv", &[31])?;
    // The daemon may not make them.
    node.sh(
        "mkdir -p /etc/nvme && cd /etc/nvme && cat /proc/sys/kernel/random/uuid >hostid &&
         echo nqn.2014-08.org.nvmexpress:uuid:$(cat hostid) >hostnqn",
    )?;
    let head = guest::hex(HEAD);
    undenied(node, &config, |agent| {
        targets.run(&["multipathd"])?; // by the settings that came with the daemon
        for (volume, info, head) in [
            ("file", local(&format!("{IMAGES}/v.raw")), &head),
            ("device", local(device), &head),
            (
                "smb",
                smb_info(&smb, "vols", "v.raw", "-o username=bob,password=pw"),
                &head,
            ),
            ("nfs", nfs.info("v.raw", ""), &head),
            ("one", iscsi_info(21, "t", 1), &head_hex("one")),
            (
                "map",
                multipath_info(&[(21, "t"), (22, "t")], 2),
                &head_hex("map"),
            ),
            ("nvme", nvme.info(A), &guest::hex("volume A........")),
        ] {
            comes_and_goes(node, agent, volume, &info, head)?;
        }
        Ok(())
    })?;
    turn(node, "off")
}

/// The kernel tells by which login a session was made: a volume by the same login joins it, one by another or by none does not.
fn chap(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let targets = Targets::new(node, &["va", "vb"])?;
    targets.target("t", &[21], &[(1, "va"), (2, "vb")])?;
    targets.run(&["chap", "t", "bob", "initiator-secret"])?;
    let info = |lun, password| with_chap(iscsi_info(21, "t", lun), "bob", password);
    undenied(node, "", |agent| {
        agent.attach("a1", "va", &info(1, "initiator-secret"), &[])??;
        guest::sees(node, "va")?;
        for other in [info(2, "another-secret.."), iscsi_info(21, "t", 2)] {
            let refused = agent.attach("a2", "vb", &other, &[])?.err();
            let refused = refused.context("a session was joined by another login")?;
            ensure!(refused.reason == "LOGON_FAILURE", "{refused:?}");
        }
        agent.attach("a2", "vb", &info(2, "initiator-secret"), &[])??;
        let disk = guest::sees(node, "vb")?;
        ensure!(
            disk.head == head_hex("vb") && disk.write == Ok(()),
            "{disk:?}"
        );
        let sessions = node.sh("ls /sys/class/iscsi_session | wc -l")?;
        ensure!(sessions == "1", "{sessions} sessions");
        for (id, volume) in [("a1", "va"), ("a2", "vb")] {
            agent.detach(id)??;
            guest::gone(node, volume)?;
        }
        Ok(())
    })
}

/// A guest that could not open its disk is not given it.
fn booleans(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let smb = SmbServer::start(node, "win", 11, &["vols"], "")?;
    smb.user("bob", "pw")?;
    smb.volume("vols", "v.raw", 8, HEAD)?;
    let nfs = NfsServer::start(node, "nas", 10, "rw", "")?;
    nfs.volume("v.raw", HEAD)?;
    let login = "-o username=bob,password=pw";
    undenied(node, "", |agent| {
        for (boolean, info) in [
            ("virt_use_samba", smb_info(&smb, "vols", "v.raw", login)),
            ("virt_use_nfs", nfs.info("v.raw", "")),
        ] {
            refused(node, agent, &info, boolean)?;
            node.sh(&format!("setsebool {boolean}=on"))?;
            comes_and_goes(node, agent, "v", &info, &guest::hex(HEAD))?;
            node.sh(&format!("setsebool {boolean}=off"))?;
        }
        Ok(())
    })
}

fn refused(node: &Node, agent: &Agent<'_>, info: &Value, boolean: &str) -> Result<()> {
    let refused = agent.attach("a1", "v", info, &[])?.err();
    let refused = refused.with_context(|| format!("attached without {boolean}"))?;
    ensure!(
        refused.reason == "SELINUX_BOOLEAN" && refused.message.contains(boolean),
        "{refused:?}"
    );
    node.sh("! grep /var/lib/volattach/mnt/ /proc/mounts")
        .map(drop)
}

/// Files of an export that keeps labels have one of each guest's own, and need no boolean. Exported without, they do.
fn labelled(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let options = "rw,no_root_squash";
    let nfs = NfsServer::start(node, "nas", 10, &format!("{options},security_label"), "")?;
    nfs.volume("v.raw", HEAD)?;
    let exported = nfs.path("");
    node.sh(&format!("chcon -R -t virt_image_t {exported}"))?;
    undenied(node, "", |agent| {
        let info = nfs.info("v.raw", "");
        agent.attach("a1", "v", &info, &[])??;
        let disk = guest::sees(node, "v")?;
        ensure!(
            disk.head == guest::hex(HEAD) && disk.write == Ok(()),
            "{disk:?}"
        );
        let own = node.sh(&format!("stat -c %C {}", nfs.path("v.raw")))?;
        ensure!(own.contains(":svirt_image_t:s0:c"), "{own}");
        agent.detach("a1")??;
        guest::gone(node, "v")?;
        nfs.export_anew(options)?;
        refused(node, agent, &info, "virt_use_nfs")
    })
}

/// The audit has a file of its own, and a host without the rules for udev is asked what LVM does.
fn audit_and_lvm(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let (log, mask) = ("/var/log/volattach", "/etc/udev/rules.d/63-volattach.rules");
    node.sh(&format!("mkdir -p {log} && restorecon -RF {log}"))?;
    node.sh(&format!("ln -s /dev/null {mask}"))?;
    let config = format!("audit_file = \"{log}/audit.json\"\n");
    let found = undenied(node, &config, |agent| {
        agent.call(&["list"], "")??;
        let written = format!("grep -q '\"audit\"' {log}/audit.json");
        node.wait("the audit's file", &written, Duration::from_secs(60))?;
        let found = node.sh("volattach doctor || true")?;
        ensure!(
            found.contains("it acts on each disk that appears"),
            "{found}"
        );
        Ok(())
    });
    node.sh(&format!("rm {mask}"))?;
    found?;
    Agent::start(node, "")?;
    node.sh(&format!("rm -r {log}")).map(drop)
}

/// In the daemon's domain and in its worker's, `cat` reads what is theirs, and nothing else; the denials are seen.
fn outside(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    Agent::start(node, "")?;
    let dir = "/usr/local/lib/lab-selinux";
    // Like the daemon, `env` is started by systemd, and starts the worker.
    node.sh(&format!(
        "mkdir -p {dir} && cd {dir} && cp /usr/bin/cat daemon && cp /usr/bin/cat worker && cp /usr/bin/env start &&
         chcon -t volattachd_exec_t daemon start && chcon -t volattachd_worker_exec_t worker"
    ))?;
    let act = |program: &str, path: &str| {
        let run = format!("systemd-run -q --collect --wait {dir}/{program} {path}");
        node.run(&run, b"", Duration::from_secs(60))
            .map(|ended| ended.status.success())
    };
    let worker = format!("start {dir}/worker");
    for (program, domain, may, may_not) in [
        (
            "daemon",
            "volattachd_t",
            "/etc/volattach/volattachd.toml",
            [
                ("/etc/shadow", "shadow"),
                ("/root/.ssh/authorized_keys", ".ssh"),
            ],
        ),
        (
            &worker,
            "volattachd_worker_t",
            "/sys/kernel/mm/transparent_hugepage/enabled",
            [
                ("/etc/shadow", "shadow"),
                ("/etc/volattach/volattachd.toml", "volattach"),
            ],
        ),
    ] {
        ensure!(act(program, may)?, "{domain} may read {may}");
        for (path, name) in may_not {
            let since = mark(node)?;
            ensure!(!act(program, path)?, "{domain} reads {path}");
            let denied = denials(node, &since)?;
            let of_it = |line: &&str| {
                line.contains(&format!(":{domain}:")) && line.contains(&format!("name=\"{name}\""))
            };
            ensure!(denied.lines().any(|line| of_it(&line)), "{path}: {denied}");
        }
    }
    node.sh(&format!("rm -r {dir}")).map(drop)
}
