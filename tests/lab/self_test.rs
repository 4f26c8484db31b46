//! The lab tests itself: that what the other tests stand on is what it claims to be. Needs no volattachd.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{Lab, Test, guest, leftovers, process::quote, servers::SmbServer};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "lab_self_node",
        run: node,
    },
    Test {
        name: "lab_self_guest_reads_and_writes",
        run: guest_reads_and_writes,
    },
    Test {
        name: "lab_self_guest_read_only",
        run: guest_read_only,
    },
    Test {
        name: "lab_self_guest_scsi",
        run: guest_scsi,
    },
    Test {
        name: "lab_self_smb_mounts",
        run: smb_mounts,
    },
    Test {
        name: "lab_self_smb_faults",
        run: smb_faults,
    },
    Test {
        name: "lab_self_leftovers",
        run: finds_leftovers,
    },
];

/// The node is a healthy one with KVM in which the inner guest is running.
fn node(lab: &Lab) -> Result<()> {
    healthy(lab)?;
    ensure!(
        lab.node
            .sh("test -c /dev/kvm && virsh dumpxml inner | head -n 1")?
            .contains("type='kvm'")
    );
    Ok(())
}

/// systemd runs it, nothing has failed, the inner guest is running, and its clock is right.
pub(crate) fn healthy(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    ensure!(node.sh("ps -o comm= 1")? == "systemd");
    ensure!(
        node.sh("systemctl --failed -q")?.is_empty(),
        "failed units: {}",
        node.sh("systemctl --failed -q")?
    );
    ensure!(node.sh("virsh domstate inner")?.trim() == "running");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let there: u64 = node.sh("date +%s")?.parse()?;
    ensure!(
        now.abs_diff(there) < 60,
        "the node's clock is {} s off",
        now.abs_diff(there)
    );
    Ok(())
}

/// A local disk in the node, plugged into the inner guest by virsh.
pub(crate) const IMAGE: &str = "/var/lib/libvirt/images/self.raw";

pub(crate) fn plug(lab: &Lab, options: &str) -> Result<()> {
    lab.node.sh(&format!(
        "printf 'sixteen bytes...' >{IMAGE} && truncate -s 16M {IMAGE} && \
         virsh -q attach-disk inner {IMAGE} --live {options}"
    ))?;
    Ok(())
}

pub(crate) fn unplug(lab: &Lab, serial: &str) -> Result<()> {
    lab.node
        .sh(&format!("virsh -q detach-disk inner {IMAGE} --live"))?;
    guest::gone(&lab.node, serial)?;
    lab.node.sh(&format!("rm {IMAGE}"))?;
    Ok(())
}

pub(crate) fn written(lab: &Lab, disk: &guest::Disk) -> Result<bool> {
    let pattern = disk.pattern();
    let offset = guest::WRITTEN_AT + 1; // tail counts from one
    let found = lab.node.sh(&format!(
        "tail -c +{offset} {IMAGE} | head -c {}",
        pattern.len()
    ))?;
    Ok(found == pattern.trim_end())
}

fn guest_reads_and_writes(lab: &Lab) -> Result<()> {
    plug(lab, "vdb --serial self-rw")?;
    let disk = guest::sees(&lab.node, "self-rw")?;
    ensure!(disk.sectors == 16 * 2048, "{disk:?}");
    ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");
    ensure!(disk.head == "7369787465656e2062797465732e2e2e", "{disk:?}");
    ensure!(written(lab, &disk)?, "the guest's line is not in the image");
    unplug(lab, "self-rw")
}

fn guest_read_only(lab: &Lab) -> Result<()> {
    plug(lab, "vdb --serial self-ro --mode readonly")?;
    let disk = guest::sees(&lab.node, "self-ro")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    ensure!(!written(lab, &disk)?, "the guest wrote to a read-only disk");
    unplug(lab, "self-ro")
}

fn guest_scsi(lab: &Lab) -> Result<()> {
    plug(lab, "sda --targetbus scsi --serial self-scsi")?;
    let disk = guest::sees(&lab.node, "self-scsi")?;
    ensure!(
        disk.name.starts_with("sd") && disk.write == Ok(()),
        "{disk:?}"
    );
    ensure!(written(lab, &disk)?, "the guest's line is not in the image");
    unplug(lab, "self-scsi")
}

/// mount(2) as such: mount(8) has a mind of its own about quotes in options.
fn mount(lab: &Lab, source: &str, options: &str) -> Result<String> {
    let program = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs("/mnt/self", exist_ok=True)
failed = libc.mount(sys.argv[1].encode(), b"/mnt/self", b"cifs", 1, sys.argv[2].encode())
print(os.strerror(ctypes.get_errno()) if failed else "mounted")"#;
    lab.node.sh(&format!(
        "python3 -c {} {} {}",
        quote(program),
        quote(source),
        quote(options)
    ))
}

fn smb_mounts(lab: &Lab) -> Result<()> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["volumes", "My Sháre"], "")?;
    server.user("alice", r#"pa,ss "wörd\"#)?;
    server.volume("My Sháre", "a volume.raw", 8, "content")?;
    let options = |password: &str| {
        format!(
            "username=alice,password={password},ip={0},port=445,vers=3.1.1,soft",
            server.address
        )
    };
    let source = format!("//{}/My Sháre", server.address);
    ensure!(mount(lab, &source, &options("wrong"))? == "Permission denied");
    ensure!(mount(lab, &source, &options(r#"pa,,ss "wörd\"#))? == "mounted");
    let content = lab
        .node
        .sh("head -c 7 '/mnt/self/a volume.raw'; umount /mnt/self; rmdir /mnt/self")?;
    ensure!(content == "content", "{content:?}");
    Ok(())
}

/// Whether a server answers an SMB negotiate within `seconds`.
fn answers(lab: &Lab, server: &SmbServer<'_>, seconds: u64) -> Result<bool> {
    // The request that every server since Windows 2000 understands, offering SMB 2 (MS-SMB2 section 3.2.4.2.1).
    let program = r#"
import socket, sys
dialects = b"\x02SMB 2.002\0\x02SMB 2.???\0"
request = b"\xffSMB\x72\0\0\0\0\x18\x01\x28" + bytes(20) + b"\0" + len(dialects).to_bytes(2, "little") + dialects
try:
    server = socket.create_connection((sys.argv[1], 445), timeout=int(sys.argv[2]))
    server.sendall(len(request).to_bytes(4, "big") + request)
    print("answered" if server.recv(8)[4:] == b"\xfeSMB" else "closed")
except TimeoutError:
    print("silent")"#;
    let script = format!("python3 -c {} {} {seconds}", quote(program), server.address);
    let output = lab
        .node
        .run(&script, b"", Duration::from_secs(2 * seconds + 30))?;
    match output.stdout.trim_end() {
        "answered" => Ok(true),
        "silent" => Ok(false),
        _ => bail!(
            "asking {}: {}{}",
            server.address,
            output.stdout,
            output.stderr
        ),
    }
}

/// A server that is stopped or silent keeps a client waiting, and another server serves meanwhile.
fn smb_faults(lab: &Lab) -> Result<()> {
    let ill = SmbServer::start(&lab.node, "ill", 11, &["volumes"], "")?;
    let well = SmbServer::start(&lab.node, "well", 12, &["volumes"], "")?;
    let is_well = |server| -> Result<()> {
        ensure!(
            answers(lab, server, 60)?,
            "a server in good health does not answer"
        );
        Ok(())
    };
    is_well(&ill)?;
    ill.pause()?;
    ensure!(!answers(lab, &ill, 5)?, "a stopped server answers");
    is_well(&well)?;
    ill.resume()?;
    is_well(&ill)?;
    ill.silence()?;
    ensure!(!answers(lab, &ill, 5)?, "a silent server answers");
    is_well(&well)?;
    ill.unsilence()?;
    is_well(&ill)
}

/// The search for leftovers finds each kind of them.
fn finds_leftovers(lab: &Lab) -> Result<()> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["volumes"], "")?;
    server.user("alice", "secret")?;
    let options = format!(
        "username=alice,password=secret,ip={},port=445",
        server.address
    );
    ensure!(mount(lab, &format!("//{}/volumes", server.address), &options)? == "mounted");
    lab.node.sh("mkdir -p /var/lib/volattach/mnt/left")?;
    plug(lab, "vdb --serial left")?;
    guest::sees(&lab.node, "left")?;
    let found = leftovers::find(&lab.node, Duration::from_secs(2))?.join("\n");
    for kind in [
        "mount: ",
        "beneath the mount base: ",
        "disk of inner: ",
        "block node of inner: ",
        "CIFS and NFS sessions",
    ] {
        ensure!(
            found.contains(kind),
            "{kind:?} is not among what was found: {found}"
        );
    }
    unplug(lab, "left")?;
    lab.node
        .sh("umount /mnt/self; rmdir /mnt/self /var/lib/volattach/mnt/left")?;
    Ok(())
}
