//! Volumes on SMB shares, as the guest sees them: read-only and read-write, any name and password, shared mounts.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    process::quote,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "smb_read_only",
        run: read_only,
    },
    Test {
        name: "smb_read_write",
        run: read_write,
    },
    Test {
        name: "smb_scsi_and_every_disk_option",
        run: disk_options,
    },
    Test {
        name: "smb_passwords",
        run: passwords,
    },
    Test {
        name: "smb_names",
        run: names,
    },
    Test {
        name: "smb_two_volumes_on_one_share",
        run: two_volumes,
    },
    Test {
        name: "smb_other_credentials_and_access",
        run: separate_mounts,
    },
    Test {
        name: "smb_guest_login_and_credentials_file",
        run: other_logins,
    },
    Test {
        name: "smb_images_of_other_hypervisors",
        run: images,
    },
    Test {
        name: "smb_connect_to_the_host_alone",
        run: host_alone,
    },
];

/// One server with the share `vols`, its user `bob` with password `pw`, and a volume `v.raw` of 8 MiB.
fn server(lab: &Lab) -> Result<SmbServer<'_>> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["vols"], "")?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    Ok(server)
}

const LOGIN: &str = "-o username=bob,password=pw";

/// The first 16 bytes of every volume of these tests, as the guest tells them.
const HEAD: &str = "7369787465656e2062797465732e2e2e";

fn sha256(lab: &Lab, path: &str) -> Result<String> {
    lab.node.sh(&format!("sha256sum <{}", quote(path)))
}

/// What the node's kernel has mounted beneath the mount base.
pub(crate) fn mounts(lab: &Lab) -> Result<Vec<String>> {
    let mounts = lab
        .node
        .sh("awk '$2 ~ \"^/var/lib/volattach/mnt/\" {print $1, $2, $4}' /proc/mounts")?;
    Ok(mounts.lines().map(str::to_owned).collect())
}

fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

/// Read-only wherever it can be: the mount, the XML, the guest, whose write fails and changes no byte.
pub(crate) fn read_only(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    let image = server.path("vols", "v.raw");
    let before = sha256(lab, &image)?;
    let mut info = smb_info(&server, "vols", "v.raw", LOGIN);
    info["data"]["access_mode"] = json!("ro");

    let attached = agent.attach("a1", "ro-volume", &info, &[])??;
    ensure!(text(&attached, "access") == "ro", "{attached}");
    ensure!(text(&attached, "state") == "attached", "{attached}");
    ensure!(
        text(&attached, "access_reason").contains("access_mode"),
        "{attached}"
    );
    let disk = guest::sees(&lab.node, "ro-volume")?;
    ensure!(disk.sectors == 8 * 2048 && disk.head == HEAD, "{disk:?}");
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    let mounted = mounts(lab)?;
    ensure!(mounted.len() == 1, "{mounted:?}");
    for option in [" ro,", "nosuid", "nodev", "noexec", "nosymfollow"] {
        ensure!(mounted[0].contains(option), "{option}: {mounted:?}");
    }
    ensure!(
        lab.node
            .sh("virsh dumpxml inner | grep -c '<readonly/>'")
            .is_ok()
    );

    agent.detach("a1")??;
    guest::gone(&lab.node, "ro-volume")?;
    ensure!(sha256(lab, &image)? == before, "the image has changed");
    Ok(())
}

/// What the guest writes is in the image on the server.
pub(crate) fn read_write(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    let info = smb_info(&server, "vols", "v.raw", LOGIN);
    let attached = agent.attach("a1", "rw-volume", &info, &["--access", "rw"])??;
    ensure!(text(&attached, "access") == "rw", "{attached}");
    let disk = guest::sees(&lab.node, "rw-volume")?;
    ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");
    agent.detach("a1")??;
    guest::gone(&lab.node, "rw-volume")?;
    let image = quote(&server.path("vols", "v.raw"));
    let pattern = disk.pattern();
    let found = lab.node.sh(&format!(
        "tail -c +{} {image} | head -c {}",
        guest::WRITTEN_AT + 1,
        pattern.len()
    ))?;
    ensure!(found == pattern.trim_end(), "{found:?}");
    Ok(())
}

/// virtio-scsi, and every option of the disk at once: libvirt takes the XML, the guest the disk.
fn disk_options(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    let mut info = smb_info(&server, "vols", "v.raw", LOGIN);
    info["data"]["qos_specs"] = json!({ "total_iops_sec": "500", "consumer": "front-end" });
    let options = [
        "--bus",
        "scsi",
        "--dev",
        "sdc",
        "--cache",
        "none",
        "--io",
        "native",
        "--discard",
        "unmap",
        "--detect-zeroes",
        "unmap",
        "--serial",
        "other-serial",
        "--logical-block-size",
        "512",
        "--physical-block-size",
        "4096",
        "--address",
        "drive:0:0:0:5",
    ];
    let attached = agent.attach("a1", "scsi-volume", &info, &options)??;
    ensure!(text(&attached, "target") == "sdc", "{attached}");
    let disk = guest::sees(&lab.node, "other-serial")?;
    ensure!(
        disk.name.starts_with("sd") && disk.write == Ok(()),
        "{disk:?}"
    );
    let xml = lab.node.sh("virsh dumpxml inner")?;
    for part in [
        "cache='none'",
        "io='native'",
        "discard='unmap'",
        "detect_zeroes='unmap'",
        "<total_iops_sec>500</total_iops_sec>",
        "physical_block_size='4096'",
        "<alias name='ua-volattach-a1'/>",
        "unit='5'",
    ] {
        ensure!(xml.contains(part), "{part} is not in {xml}");
    }
    server.volume("vols", "other.raw", 8, "sixteen bytes...")?;
    let other = smb_info(&server, "vols", "other.raw", LOGIN);
    let taken = agent.attach("a2", "other", &other, &["--bus", "scsi", "--dev", "sdc"])?;
    let taken = taken.err().context("attached twice at one target")?;
    ensure!(taken.reason == "TARGET_IN_USE", "{taken:?}");
    agent.detach("a1")??;
    Ok(())
}

/// Passwords with everything that options give a meaning, and as long as NTLM carries.
fn passwords(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    let longest = "x".repeat(128);
    let passwords = [
        "a,b c",
        r#""so" it's"#,
        r"back\slash\\",
        "grüße=100%🐧",
        "tail ",
        &longest,
    ];
    for (n, password) in passwords.into_iter().enumerate() {
        server.user("bob", password)?;
        let quoted = password.replace('\\', r"\\").replace('"', "\\\"");
        let options = format!("-o username=bob,password=\"{quoted}\"");
        let info = smb_info(&server, "vols", "v.raw", &options);
        let volume = format!("password-{n}");
        let connected = agent
            .connect("c1", &volume, &info, &[])?
            .with_context(|| format!("with the password {password:?}"))?;
        ensure!(text(&connected, "state") == "connected", "{connected}");
        agent.disconnect("c1")??;
    }
    let too_long = format!("-o username=bob,password={}", "x".repeat(129));
    let info = smb_info(&server, "vols", "v.raw", &too_long);
    let refused = agent.connect("c1", "v", &info, &[])?.err();
    let refused = refused.context("129 characters were let through")?;
    ensure!(refused.reason == "CREDENTIALS_INVALID", "{refused:?}");
    ensure!(refused.message.contains("128"), "{refused:?}");
    Ok(())
}

/// Shares, folders and volumes with spaces and in any script.
fn names(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = SmbServer::start(&lab.node, "nas", 10, &["My Sháre 磁盘"], "")?;
    server.user("bob", "pw")?;
    let name = "tíer one/vol 卷 'a' & 1.raw";
    server.volume("My Sháre 磁盘", name, 8, "sixteen bytes...")?;
    let info = smb_info(&server, "My Sháre 磁盘", name, LOGIN);
    agent.attach("a1", "named", &info, &["--access", "ro"])??;
    let disk = guest::sees(&lab.node, "named")?;
    ensure!(disk.head == HEAD && disk.read_only, "{disk:?}");
    agent.detach("a1")??;

    let mut info = smb_info(&server, "My Sháre 磁盘", "vol 卷 'a' & 1.raw", LOGIN);
    info["data"]["export"] = json!(format!(r"\\{}\My Sháre 磁盘\tíer one", server.address));
    agent.attach("a1", "in-a-folder", &info, &[])??;
    let disk = guest::sees(&lab.node, "in-a-folder")?;
    ensure!(disk.head == HEAD, "{disk:?}");
    agent.detach("a1")??;
    Ok(())
}

/// One mount for two volumes, which goes with the last of them.
fn two_volumes(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    server.volume("vols", "w.raw", 4, "another one.....")?;
    agent.attach(
        "a1",
        "first",
        &smb_info(&server, "vols", "v.raw", LOGIN),
        &[],
    )??;
    agent.attach(
        "a2",
        "second",
        &smb_info(&server, "VOLS", "w.raw", LOGIN),
        &[],
    )??;
    ensure!(guest::sees(&lab.node, "first")?.write == Ok(()));
    ensure!(guest::sees(&lab.node, "second")?.write == Ok(()));
    ensure!(mounts(lab)?.len() == 1, "{:?}", mounts(lab)?);
    agent.detach("a1")??;
    ensure!(mounts(lab)?.len() == 1, "{:?}", mounts(lab)?);
    agent.detach("a2")??;
    ensure!(mounts(lab)?.is_empty(), "{:?}", mounts(lab)?);
    Ok(())
}

/// The same share with another user, and read-only: a mount of its own for each.
fn separate_mounts(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    server.user("carol", "pw")?;
    for volume in ["w.raw", "x.raw", "y.raw"] {
        server.volume("vols", volume, 4, "sixteen bytes...")?;
    }
    let of = |volume: &str, login: &str| smb_info(&server, "vols", volume, login);
    agent.attach("a1", "by-bob", &of("v.raw", LOGIN), &[])??;
    agent.attach(
        "a2",
        "by-carol",
        &of("w.raw", "-o username=carol,password=pw"),
        &[],
    )??;
    agent.attach("a3", "by-bob-ro", &of("x.raw", LOGIN), &["--access", "ro"])??;
    agent.attach(
        "a4",
        "by-bob-soft",
        &of("y.raw", "-o username=bob,password=pw,noserverino"),
        &[],
    )??;
    let mounted = mounts(lab)?;
    ensure!(mounted.len() == 4, "{mounted:?}");
    let read_only = mounted
        .iter()
        .filter(|mount| mount.contains(" ro,"))
        .count();
    ensure!(read_only == 1, "{mounted:?}");
    // A session is whose mount it is: the server knows both users.
    ensure!(guest::sees(&lab.node, "by-bob")?.write == Ok(()));
    ensure!(guest::sees(&lab.node, "by-carol")?.write == Ok(()));
    ensure!(guest::sees(&lab.node, "by-bob-ro")?.write.is_err());
    for id in ["a1", "a2", "a3", "a4"] {
        agent.detach(id)??;
    }
    Ok(())
}

/// A share that lets guests in, and a login from a file of this host.
fn other_logins(lab: &Lab) -> Result<()> {
    let agent = Agent::start(
        &lab.node,
        "[smb]\ncredentials_dirs = [\"/etc/volattach/credentials\"]\n",
    )?;
    let server = SmbServer::start(
        &lab.node,
        "nas",
        10,
        &["vols"],
        "map to guest = Bad User\nguest account = root\n[open]\npath = /srv/lab/nas/shares/vols\n\
         guest ok = yes\nread only = no",
    )?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 4, "sixteen bytes...")?;
    agent.attach(
        "a1",
        "open",
        &smb_info(&server, "open", "v.raw", "-o guest"),
        &[],
    )??;
    ensure!(guest::sees(&lab.node, "open")?.head == HEAD);
    agent.detach("a1")??;

    lab.node.sh(
        "install -d -m 700 /etc/volattach/credentials && cd /etc/volattach/credentials && umask 077 && \
         printf 'username=bob\\npassword=pw\\n' >nas && cp nas /root/elsewhere",
    )?;
    let from = |file: &str| smb_info(&server, "vols", "v.raw", &format!("-o credentials={file}"));
    agent.connect("c1", "v", &from("/etc/volattach/credentials/nas"), &[])??;
    agent.disconnect("c1")??;
    let refused = agent
        .connect("c1", "v", &from("/root/elsewhere"), &[])?
        .err();
    let refused = refused.context("a file from anywhere")?;
    ensure!(refused.reason == "CREDENTIALS_INVALID", "{refused:?}");
    lab.node
        .sh("rm -r /etc/volattach/credentials /root/elsewhere")?;
    Ok(())
}

/// Connect gives a path that the host can read and XML that libvirt takes.
fn host_alone(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    let info = smb_info(&server, "vols", "v.raw", LOGIN);
    let connected = agent.connect("c1", "boot-volume", &info, &["--dev", "vdh"])??;
    let head = lab.node.sh(&format!(
        "head -c 16 {}",
        quote(text(&connected, "host_path"))
    ))?;
    ensure!(head == "sixteen bytes...", "{head:?}");
    lab.node
        .write("/tmp/disk.xml", text(&connected, "disk_xml").as_bytes())?;
    lab.node
        .sh("virsh -q attach-device inner /tmp/disk.xml --live")?;
    let disk = guest::sees(&lab.node, "boot-volume")?;
    ensure!(disk.write == Ok(()), "{disk:?}");
    lab.node
        .sh("virsh -q detach-device inner /tmp/disk.xml --live && rm /tmp/disk.xml")?;
    guest::gone(&lab.node, "boot-volume")?;
    let wrong = agent.detach("c1")?.err().context("detached a connection")?;
    ensure!(wrong.reason == "ATTACHMENT_KIND", "{wrong:?}");
    agent.disconnect("c1")??;
    Ok(())
}

/// VHD, fixed and growing, and VMDK, as other hypervisors keep them on SMB: read and written, and never made larger here.
fn images(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let server = server(lab)?;
    let images = [
        ("fixed.vhd", "vhd", "vpc", "subformat=fixed,force_size=on"),
        ("grows.vhd", "vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("sparse.vmdk", "vmdk", "vmdk", "subformat=monolithicSparse"),
    ];
    for (name, format, driver, options) in images {
        node.sh(&format!(
            "cd {} && qemu-img convert -f raw -O {driver} -o {options} v.raw {name} && chmod 666 {name}",
            quote(&server.path("vols", ""))
        ))?;
        let mut info = smb_info(&server, "vols", name, LOGIN);
        info["data"]["format"] = json!(format);
        let id = &name.replace('.', "-");
        agent.attach(id, id, &info, &[])??;
        let disk = guest::sees(node, id)?;
        ensure!(
            disk.sectors == 8 * 2048 && disk.head == HEAD,
            "{name}: {disk:?}"
        );
        ensure!(disk.write == Ok(()), "{name}: {disk:?}");
        let larger = agent.extend(id, 16 << 20)?.err();
        let larger = larger.with_context(|| format!("{name} was made larger"))?;
        ensure!(larger.reason == "RESIZE_UNSUPPORTED", "{name}: {larger:?}");
        agent.detach(id)??;
        guest::gone(node, id)?;

        let written = node.sh(&format!(
            "cd {} && qemu-img convert -f {driver} -O raw {name} after.raw && dd if=after.raw bs=4096 skip=1 count=1 status=none | tr -d '\\0'",
            quote(&server.path("vols", ""))
        ))?;
        ensure!(written.trim() == disk.pattern().trim(), "{name}: {written}");

        info["data"]["access_mode"] = json!("ro");
        agent.attach(id, "ro", &info, &[])??;
        let disk = guest::sees(node, "ro")?;
        ensure!(disk.read_only && disk.write.is_err(), "{name}: {disk:?}");
        agent.detach(id)??;
        guest::gone(node, "ro")?;
    }
    Ok(())
}
