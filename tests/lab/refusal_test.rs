//! What cannot be attached: the exact reason each, and nothing left over (which the runner checks after each test).

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    process::quote,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "refusal_server_and_share",
        run: server_and_share,
    },
    Test {
        name: "refusal_volume",
        run: volume,
    },
    Test {
        name: "refusal_image_header",
        run: image_header,
    },
    Test {
        name: "refusal_options_and_domain",
        run: options_and_domain,
    },
];

const LOGIN: &str = "-o username=bob,password=pw";

fn server(lab: &Lab) -> Result<SmbServer<'_>> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["vols"], "")?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 4, "sixteen bytes...")?;
    Ok(server)
}

/// Attaches, and expects to be refused with this reason.
fn refused(
    agent: &Agent<'_>,
    what: &str,
    info: &Value,
    options: &[&str],
    reason: &str,
) -> Result<Failure> {
    let answer = agent.attach("refused", "volume", info, options)?;
    let failure = answer
        .err()
        .with_context(|| format!("{what}: was attached"))?;
    ensure!(failure.reason == reason, "{what}: {failure:?}");
    let left = agent.call(&["list"], "")??;
    ensure!(
        left["attachments"] == serde_json::json!([]),
        "{what}: {left}"
    );
    Ok(failure)
}

fn server_and_share(lab: &Lab) -> Result<()> {
    // Longer than the kernel looks for a host that is not there (3 s).
    let agent = Agent::start(&lab.node, "[smb]\nprobe_timeout = \"8s\"\n")?;
    let server = server(lab)?;
    let of = |share: &str, login: &str| smb_info(&server, share, "v.raw", login);
    let wrong = of("vols", "-o username=bob,password=hunter2");
    let failure = refused(&agent, "wrong password", &wrong, &[], "LOGON_FAILURE")?;
    ensure!(!failure.message.contains("hunter2"), "{failure:?}");
    let unknown = of("vols", "-o username=mallory,password=pw");
    refused(&agent, "unknown user", &unknown, &[], "LOGON_FAILURE")?;
    refused(
        &agent,
        "no share",
        &of("nothing", LOGIN),
        &[],
        "SHARE_NOT_FOUND",
    )?;

    let mut elsewhere = of("vols", LOGIN);
    elsewhere["data"]["export"] = "//10.99.0.77/vols".into();
    refused(
        &agent,
        "no host there",
        &elsewhere,
        &[],
        "SERVER_UNREACHABLE",
    )?;
    elsewhere["data"]["export"] = "//nowhere.invalid/vols".into();
    refused(&agent, "no such name", &elsewhere, &[], "NAME_RESOLUTION")?;
    let closed = of("vols", &format!("{LOGIN},port=446"));
    refused(&agent, "closed port", &closed, &[], "SERVER_UNREACHABLE")?;
    server.silence()?;
    refused(
        &agent,
        "silent server",
        &of("vols", LOGIN),
        &[],
        "SERVER_TIMEOUT",
    )?;
    server.unsilence()?;
    Ok(())
}

fn volume(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    let of = |name: &str| smb_info(&server, "vols", name, LOGIN);
    refused(
        &agent,
        "no file",
        &of("missing.raw"),
        &[],
        "VOLUME_NOT_FOUND",
    )?;
    refused(
        &agent,
        "upwards",
        &of("../../../etc/shadow"),
        &[],
        "VOLUME_PATH_UNSAFE",
    )?;
    refused(
        &agent,
        "absolute",
        &of("/etc/shadow"),
        &[],
        "VOLUME_PATH_UNSAFE",
    )?;
    lab.node.sh(&format!(
        "cd {} && mkdir folder && ln -s /etc/shadow link && ln -s ../v.raw folder/inside && mkfifo pipe",
        quote(&server.path("vols", ""))
    ))?;
    refused(
        &agent,
        "directory",
        &of("folder"),
        &[],
        "VOLUME_NOT_REGULAR",
    )?;
    // Samba follows links within the share itself, and shows one that leads out of it as not there or as forbidden.
    let answer = agent.attach("refused", "volume", &of("link"), &[])?;
    let failure = answer.err().context("a link to /etc/shadow was attached")?;
    ensure!(
        [
            "VOLUME_NOT_FOUND",
            "VOLUME_UNREADABLE",
            "VOLUME_PATH_UNSAFE"
        ]
        .contains(&failure.reason.as_str()),
        "{failure:?}"
    );
    Ok(())
}

/// Images that name other files, in each format that can.
fn image_header(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    lab.node.sh(&format!(
        "cd {} &&
         qemu-img create -q -f qcow2 -b /etc/shadow -F raw backed.qcow2 4M 2>/dev/null ||
             qemu-img create -q -f qcow2 -u -b /etc/shadow -F raw backed.qcow2 4M
         qemu-img create -q -f qcow2 -o data_file=data.raw,data_file_raw=on outside.qcow2 4M
         qemu-img create -q -f qcow2 whole.qcow2 4M
         qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 4M
         chmod 666 *",
        quote(&server.path("vols", ""))
    ))?;
    let of = |name: &str, format: &str| {
        let mut info = smb_info(&server, "vols", name, LOGIN);
        info["data"]["format"] = format.into();
        info
    };
    let references = "IMAGE_REFERENCES_FILE";
    let failure = refused(
        &agent,
        "backing file",
        &of("backed.qcow2", "qcow2"),
        &[],
        references,
    )?;
    ensure!(failure.message.contains("backing"), "{failure:?}");
    refused(
        &agent,
        "data file",
        &of("outside.qcow2", "qcow2"),
        &[],
        references,
    )?;
    refused(&agent, "extent", &of("flat.vmdk", "vmdk"), &[], references)?;
    refused(
        &agent,
        "not qcow2",
        &of("v.raw", "qcow2"),
        &[],
        "IMAGE_MALFORMED",
    )?;
    refused(
        &agent,
        "vhdx",
        &of("v.raw", "vhdx"),
        &[],
        "FORMAT_UNSUPPORTED",
    )?;
    agent.attach("a1", "whole", &of("whole.qcow2", "qcow2"), &[])??;
    agent.detach("a1")??;
    // No format is raw: the guest gets the bytes of the header, whatever they say.
    agent.attach("a1", "raw", &of("backed.qcow2", "raw"), &["--access", "ro"])??;
    let disk = super::guest::sees(&lab.node, "raw")?;
    ensure!(disk.head.starts_with("514649fb"), "{disk:?}");
    agent.detach("a1")??;
    Ok(())
}

fn options_and_domain(lab: &Lab) -> Result<()> {
    let agent = Agent::start(&lab.node, "")?;
    let server = server(lab)?;
    let of = |options: &str| smb_info(&server, "vols", "v.raw", options);
    for option in [
        "suid",
        "dev",
        "exec",
        "mfsymlinks",
        "prefixpath=/x",
        "made-up=1",
    ] {
        let info = of(&format!("{LOGIN},{option}"));
        refused(&agent, option, &info, &[], "MOUNT_OPTION_REFUSED")?;
    }
    let target = ["--dev", "sdb", "--bus", "virtio"];
    refused(&agent, "target", &of(LOGIN), &target, "DISK_OPTION_INVALID")?;
    let elsewhere = agent.call(
        &[
            "attach",
            "--volume",
            "v",
            "--domain",
            "nobody",
            "--connection-info",
            "-",
        ],
        &of(LOGIN).to_string(),
    )?;
    let failure = elsewhere.err().context("attached to nobody")?;
    ensure!(failure.reason == "DOMAIN_NOT_FOUND", "{failure:?}");
    ensure!(failure.exit_code == 3, "{failure:?}");
    Ok(())
}
