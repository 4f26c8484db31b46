//! SMB servers of every kind: each version of the protocol, another implementation, links to other servers, and this very
//! host.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::Agent,
    guest,
    process::quote,
    servers::{SmbServer, smb_info},
    smb_test::mounts,
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "smb_versions",
        run: versions,
    },
    Test {
        name: "smb_dfs_link",
        run: dfs_link,
    },
    Test {
        name: "smb_other_implementation",
        run: other_implementation,
    },
    Test {
        name: "smb_share_of_this_very_host",
        run: this_very_host,
    },
];

const LOGIN: &str = "-o username=bob,password=pw";

fn server<'node>(
    lab: &'node Lab,
    name: &'static str,
    octet: u8,
    global: &str,
) -> Result<SmbServer<'node>> {
    let server = SmbServer::start(&lab.node, name, octet, &["vols"], global)?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    Ok(server)
}

/// The newest version that both sides allow is taken; each that is asked for is taken, where both have it, with the options
/// that it has; SMB 1 only where the deployer names it.
fn versions(lab: &Lab) -> Result<()> {
    let config = "[smb.servers.\"10.99.0.13\"]\nversions = [\"3.1.1\", \"1.0\"]\n";
    let agent = Agent::start(&lab.node, config)?;
    let old = server(lab, "old", 11, "server max protocol = SMB2_10")?;
    let every = server(lab, "every", 12, "server min protocol = NT1")?;
    let oldest = server(
        lab,
        "oldest",
        13,
        "server min protocol = NT1\nserver max protocol = NT1",
    )?;
    let info = |server: &SmbServer<'_>, options: &str| {
        smb_info(server, "vols", "v.raw", &format!("{LOGIN},{options}"))
    };
    let taken = |server: &SmbServer<'_>, options: &str, shown: &[&str]| {
        let connected = agent
            .connect("c1", "v", &info(server, options), &[])?
            .with_context(|| format!("with {options}"))?;
        let path = connected["host_path"].as_str().unwrap_or_default();
        let head = lab.node.sh(&format!("head -c 16 {}", quote(path)))?;
        ensure!(head == "sixteen bytes...", "{options}: {head:?}");
        let mounted = mounts(lab)?;
        for option in shown {
            ensure!(mounted[0].contains(option), "{option}: {mounted:?}");
        }
        agent.disconnect("c1")??;
        anyhow::Ok(())
    };
    taken(&old, "", &["vers=2.1,"])?;
    for version in ["2.0", "2.1", "3.0", "3.0.2", "3.1.1"] {
        let shown = format!("vers={version},").replace("3.0.2", "3.02"); // the kernel's spelling
        taken(&every, &format!("vers={version}"), &[&shown])?;
    }
    taken(&every, "vers=3.0,seal", &["vers=3.0,", ",seal"])?;
    taken(
        &every,
        "seal,multichannel,max_channels=2",
        &["vers=3.1.1,", ",seal", ",multichannel", ",max_channels=2"],
    )?;
    taken(&oldest, "vers=1.0", &["vers=1.0,"])?;
    taken(&oldest, "", &["vers=1.0,"])?;

    for (server, options) in [
        (&old, "vers=3.1.1"),
        (&old, "seal"),
        (&every, "vers=2.1,seal"),
        (&every, "vers=1.0"),
        (&oldest, "vers=3.1.1"),
    ] {
        let refused = agent.connect("c1", "v", &info(server, options), &[])?;
        let refused = refused.err().with_context(|| options.to_owned())?;
        ensure!(
            refused.reason == "PROTOCOL_VERSION",
            "{options}: {refused:?}"
        );
    }
    Ok(())
}

/// A link on a share to another server's: mounted beneath it by the kernel, and unmounted with it.
fn dfs_link(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let root = server(
        lab,
        "root",
        11,
        "host msdfs = yes\n[dfs]\npath = /srv/lab/root/shares/vols\nmsdfs root = yes\nread only = no",
    )?;
    let target = server(lab, "target", 12, "")?;
    lab.node
        .sh(r"ln -s 'msdfs:10.99.0.12\vols' /srv/lab/root/shares/vols/there")?;
    let info = |options: &str| smb_info(&root, "dfs", "there/v.raw", &format!("{LOGIN}{options}"));
    for (id, access) in [("a1", "rw"), ("a2", "ro")] {
        agent.attach(id, id, &info(""), &["--access", access])??;
        let disk = guest::sees(&lab.node, id)?;
        ensure!(disk.write.is_ok() == (access == "rw"), "{disk:?}");
        let mounted = mounts(lab)?;
        ensure!(mounted.len() == 2, "{mounted:?}");
        for mount in &mounted {
            let has = |option: &str| mount.contains(option);
            ensure!(has(&format!(" {access},")) && has("nosuid"), "{mount}");
        }
        agent.detach(id)??;
        guest::gone(&lab.node, id)?;
        ensure!(mounts(lab)?.is_empty(), "{:?}", mounts(lab)?);
    }
    let written = quote(&target.path("vols", "v.raw"));
    lab.node.sh(&format!("grep -q guest-was-here {written}"))?;
    let refused = agent.connect("c1", "v", &info(",nodfs"), &[])?.err();
    refused.context("followed a link that it must not")?;
    Ok(())
}

/// impacket's server instead of Samba.
fn other_implementation(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = SmbServer::start_impacket(&lab.node)?;
    server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    let options = format!("{LOGIN},vers=2.0,noserverino");
    let info = smb_info(&server, "vols", "v.raw", &options);
    agent.attach("a1", "rw", &info, &[])??;
    let disk = guest::sees(&lab.node, "rw")?;
    ensure!(disk.write == Ok(()) && disk.sectors == 8 * 2048, "{disk:?}");
    agent.detach("a1")??;
    guest::gone(&lab.node, "rw")?;
    let image = quote(&server.path("vols", "v.raw"));
    let written = format!("tail -c +{} {image} | head -c 24", guest::WRITTEN_AT + 1);
    ensure!(lab.node.sh(&written)? == "volattach-guest-was-here");
    agent.attach("a2", "ro", &info, &["--access", "ro"])??;
    let disk = guest::sees(&lab.node, "ro")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    agent.detach("a2")??;
    let wrong = options.replace("password=pw", "password=no");
    let refused = agent.connect("c1", "v", &smb_info(&server, "vols", "v.raw", &wrong), &[])?;
    let refused = refused.err().context("a wrong password")?;
    ensure!(refused.reason == "LOGON_FAILURE", "{refused:?}");
    Ok(())
}

/// A share that the deployer says is a directory of this host: no mount, and no server.
fn this_very_host(lab: &Lab) -> Result<()> {
    let agent = Agent::start(
        &lab.node,
        "[smb.local_shares]\n\"//nas.lab.test/vols\" = \"/srv/vols\"\n",
    )?;
    lab.node.sh("set -e
         mkdir -p /srv/vols/a
         printf 'sixteen bytes...' >/srv/vols/a/v.raw
         truncate -s 8M /srv/vols/a/v.raw
         chown -R libvirt-qemu /srv/vols/a
         ln -s /etc/shadow /srv/vols/a/link")?;
    let info = |name: &str| -> Value {
        json!({
            "driver_volume_type": "smbfs",
            "data": { "export": r"\\NAS.lab.test\Vols\a", "name": name, "format": "raw", "options": LOGIN },
        })
    };
    for (id, access) in [("a1", "rw"), ("a2", "ro")] {
        let attached = agent.attach(id, id, &info("v.raw"), &["--access", access])??;
        ensure!(attached["host_path"] == "/srv/vols/a/v.raw", "{attached}");
        let disk = guest::sees(&lab.node, id)?;
        ensure!(disk.write.is_ok() == (access == "rw"), "{disk:?}");
        ensure!(disk.read_only == (access == "ro"), "{disk:?}");
        ensure!(lab.node.sh("! grep ' cifs ' /proc/mounts").is_ok());
        agent.detach(id)??;
        guest::gone(&lab.node, id)?;
    }
    lab.node.sh("grep -q guest-was-here /srv/vols/a/v.raw")?;
    for (name, reason) in [
        ("link", "VOLUME_PATH_UNSAFE"),
        ("absent", "VOLUME_NOT_FOUND"),
    ] {
        let refused = agent.connect("c1", "v", &info(name), &[])?.err();
        let refused = refused.context(name)?;
        ensure!(refused.reason == reason, "{refused:?}");
    }
    lab.node.sh("rm -r /srv/vols")?;
    Ok(())
}
