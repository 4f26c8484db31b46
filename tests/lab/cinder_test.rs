//! Volumes of a real Cinder, by `volattach cinder`, as the guest sees them; too long for every run: Cinder takes minutes to start here.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Lab, Test,
    agent::Agent,
    cinder_cloud::{Cloud, STORAGES, Storage},
    guest,
    process::quote,
};

pub(crate) const SOAK: &[Test] = &[Test {
    name: "cinder_volumes_as_the_guest_sees_them",
    run: volumes,
}];

const GIB: u64 = 1 << 30;
const MEMBER: (&str, &str) = ("member", "demo");
const ADMIN: (&str, &str) = ("admin", "other");

fn volumes(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "")?;
    let cloud = Cloud::start(node)?;
    for storage in STORAGES {
        let volume = cloud.create(storage)?;
        grows(lab, &cloud, storage, &volume).with_context(|| format!("{storage:?}"))?;
        can_be_read_only(lab, &cloud, &volume).with_context(|| format!("{storage:?}"))?;
        cloud.delete(&volume)?;
    }
    // What a command leaves that was killed between its two sides is found and mended.
    let volume = cloud.create(Storage::Lio)?;
    let mut host = agent.call(&["connector"], "")??;
    let properties = host.as_object_mut().context("no connector")?;
    properties.retain(|_, value| !value.is_null());
    let body = json!({ "attachment": { "volume_uuid": volume, "connector": host } });
    cloud.member("POST", "/attachments", &body)?;
    let reconcile = |more: &[&str]| cloud.command(ADMIN, &[&["reconcile"], more].concat());
    let told = reconcile(&[])?.err();
    ensure!(told.is_some_and(|told| told.contains(&volume)));
    reconcile(&["--yes"])?.map_err(anyhow::Error::msg)?;
    reconcile(&[])?.map_err(anyhow::Error::msg)?;
    cloud.delete(&volume)?;

    ensure!(cloud.attachments()?.is_empty());
    let listed = agent.call(&["list"], "")??;
    ensure!(listed == json!({ "attachments": [] }), "{listed}");
    cloud.end()
}

/// Attached, written to by the guest, grown where the driver can, refused to others, and detached.
fn grows(lab: &Lab, cloud: &Cloud<'_>, storage: Storage, volume: &str) -> Result<()> {
    let node = &lab.node;
    let id = attach(cloud, volume, &[])?;
    let disk = guest::sees(node, serial(volume))?;
    ensure!(disk.write == Ok(()), "{disk:?}");
    ensure!(disk.sectors == GIB / 512, "{disk:?}");
    cloud.becomes(volume, "in-use")?;

    let second = cloud.command(MEMBER, &["attach", volume, "--domain", "inner"])?;
    let words = second.err().context("attached twice")?;
    ensure!(
        words.contains(volume) && words.contains("in-use"),
        "{words}"
    );
    ensure!(cloud.attachments()?.len() == 1);

    let extended = cloud.command(MEMBER, &["extend", volume, "2"])?;
    match storage {
        // Cinder's own driver refuses to.
        Storage::Nfs => {
            let words = extended.err().context("extended")?;
            ensure!(words.contains("error_extending"), "{words}");
            let body = json!({ "os-reset_status": { "status": "in-use" } });
            cloud.admin("POST", &format!("/volumes/{volume}/action"), &body)?;
        }
        _ => {
            extended.map_err(anyhow::Error::msg)?;
            guest::sees_bytes(node, serial(volume), 2 * GIB)?;
            ensure!(cloud.volume(volume)?["size"] == 2);
        }
    }

    detach(lab, cloud, volume, &id)?;
    let path = quote(&cloud.path(storage, volume));
    let written = format!(
        "dd if={path} iflag=skip_bytes skip={} bs=512 count=1 status=none | tr -d '\\0'",
        guest::WRITTEN_AT
    );
    let written = node.sh(&written)?;
    ensure!(written.trim() == disk.pattern().trim(), "{written:?}");
    Ok(())
}

/// Read-only by each of the ways, and after them it can be written to again.
fn can_be_read_only(lab: &Lab, cloud: &Cloud<'_>, volume: &str) -> Result<()> {
    let flag = |set: bool| {
        let body = json!({ "os-update_readonly_flag": { "readonly": set } });
        cloud.member("POST", &format!("/volumes/{volume}/action"), &body)
    };
    let permit = |mode: &str| {
        let done = cloud.command(MEMBER, &["permissions", volume, mode])?;
        done.map_err(anyhow::Error::msg)
    };
    reads_only(lab, cloud, volume, &["--read-only"])?;
    flag(true)?;
    reads_only(lab, cloud, volume, &[])?;
    flag(false)?;
    // The daemon is called by root, who is neither the volume's owner nor of its project.
    permit("444")?;
    reads_only(lab, cloud, volume, &[])?;
    permit("none")?;
    let id = attach(cloud, volume, &[])?;
    let disk = guest::sees(&lab.node, serial(volume))?;
    ensure!(disk.write == Ok(()), "{disk:?}");
    detach(lab, cloud, volume, &id)
}

fn reads_only(lab: &Lab, cloud: &Cloud<'_>, volume: &str, more: &[&str]) -> Result<()> {
    let id = attach(cloud, volume, more)?;
    let disk = guest::sees(&lab.node, serial(volume))?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    detach(lab, cloud, volume, &id)
}

fn attach(cloud: &Cloud<'_>, volume: &str, more: &[&str]) -> Result<String> {
    let args = [&["attach", volume, "--domain", "inner"], more].concat();
    let answer = cloud.command(MEMBER, &args)?.map_err(anyhow::Error::msg)?;
    let id = answer["attachment_id"].as_str();
    Ok(id.context("no attachment id")?.to_owned())
}

fn detach(lab: &Lab, cloud: &Cloud<'_>, volume: &str, id: &str) -> Result<()> {
    let done = cloud.command(MEMBER, &["detach", id])?;
    done.map_err(anyhow::Error::msg)?;
    guest::gone(&lab.node, serial(volume))?;
    cloud.becomes(volume, "available")
}

/// What the guest tells of the serial: virtio has room for 20 bytes.
fn serial(volume: &str) -> &str {
    &volume[..20]
}
