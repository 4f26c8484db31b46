//! Who may attach what, read-only or read-write, as two guests of two users see it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    guest::{self, Second},
    nfs_servers::NfsServer,
    node::Node,
    process::quote,
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "permission_two_users_of_one_volume",
        run: two_users,
    },
    Test {
        name: "permission_modes_decide_later_attaches",
        run: modes,
    },
];

/// Users of the node who may call the daemon: the one of the inner guest, and the one of the second. Other tests' servers have
/// users too.
const ALICE: &str = "permitted-alice";
const BOB: &str = "permitted-bob";

const HEAD: &str = "sixteen bytes...";

/// Where in a disk is written after others have come, in bytes: not where guests write by themselves.
pub(crate) const LATER_AT: u64 = 8192;

/// The node's users, let in by their group; gone when this is dropped.
struct Users<'node> {
    node: &'node Node,
    agent: Agent<'node>,
}

impl<'node> Users<'node> {
    fn new(node: &'node Node, agent: Agent<'node>) -> Result<Self> {
        let users = Self { node, agent };
        for user in [ALICE, BOB] {
            node.sh(&format!("useradd -M -G volattach {user}"))?;
        }
        Ok(users)
    }

    fn attach(
        &self,
        user: &str,
        id: &str,
        volume: &str,
        info: &Value,
        options: &[&str],
    ) -> Result<Result<Value, Failure>> {
        let domain = match user {
            BOB => Second::NAME,
            _ => "inner",
        };
        let place = ["attach", "--domain", domain, "--id", id];
        let source = ["--volume", volume, "--connection-info", "-"];
        let args = [&place[..], &source, options].concat();
        self.agent.call_as(user, &args, &info.to_string())
    }

    fn id(&self, user: &str) -> Result<String> {
        let id = self.node.sh(&format!("id -u {user}"))?;
        Ok(format!("uid:{}", id.trim()))
    }
}

impl Drop for Users<'_> {
    fn drop(&mut self) {
        for user in [ALICE, BOB] {
            // One that was not made need not be removed.
            let _ = self.node.sh(&format!("userdel {user}"));
        }
    }
}

fn refused(answer: Result<Value, Failure>, what: &str, reason: &str) -> Result<Failure> {
    let failure = answer.err().with_context(|| format!("{what}: it worked"))?;
    ensure!(failure.reason == reason, "{what}: {failure:?}");
    Ok(failure)
}

/// Has the QEMU of a domain write a byte of a disk, by the way that its guest's requests take.
pub(crate) fn write_through(node: &Node, domain: &str, attachment: &str, byte: u8) -> Result<()> {
    let disk = format!("/machine/peripheral/ua-volattach-{attachment}/virtio-backend");
    let command = format!("qemu-io -d {disk} \"write -P {byte:#x} {LATER_AT} 512\"");
    // What came of it, it says on its standard output, which it does not flush.
    let command = quote(&command);
    node.sh(&format!(
        "virsh qemu-monitor-command {domain} --hmp {command}"
    ))?;
    Ok(())
}

/// The second user's guest gets it read-only, and its write fails, while the first goes on writing; when that one has left, it
/// may be written again.
fn two_users(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let users = Users::new(node, agent)?;
    let second = Second::start(node)?;
    let smb = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    smb.user("carol", "pw")?;
    smb.volume("vols", "v.raw", 8, HEAD)?;
    let nfs = NfsServer::start(node, "filer", 11, "rw", "")?;
    nfs.volume("v.raw", HEAD)?;
    node.sh(&format!(
        "mkdir -p /srv/local && printf %s '{HEAD}' >/srv/local/v.raw && truncate -s 8M /srv/local/v.raw"
    ))?;
    let local = json!({"driver_volume_type": "local", "data": {"device_path": "/srv/local/v.raw"}});
    let alice = users.id(ALICE)?;

    for (volume, info, file) in [
        (
            "by-smb",
            smb_info(&smb, "vols", "v.raw", "-o username=carol,password=pw"),
            smb.path("vols", "v.raw"),
        ),
        ("by-nfs", nfs.info("v.raw", ""), nfs.path("v.raw")),
        ("by-local", local, "/srv/local/v.raw".to_owned()),
    ] {
        let first = users.attach(ALICE, "a1", volume, &info, &[])??;
        ensure!(first["access"] == "rw", "{volume}: {first}");
        let disk = guest::sees(node, volume)?;
        ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");

        let required = users.attach(BOB, "b1", volume, &info, &["--require-rw"])?;
        refused(required, volume, "READ_WRITE_REFUSED")?;
        let made = users.attach(BOB, "b1", volume, &info, &[])??;
        let why = format!("user {alice} has the volume attached read-write");
        ensure!(
            made["access"] == "ro" && made["access_reason"] == why.as_str(),
            "{volume}: {made}"
        );
        let disk = second.sees(volume)?;
        ensure!(
            disk.read_only && disk.write.is_err() && disk.head == guest::hex(HEAD),
            "{volume}: {disk:?}"
        );
        let table = node.sh("volattach list")?;
        for words in ["Permissions", "Read Only", &format!("yes: {why}")] {
            ensure!(table.contains(words), "{words}: {table}");
        }

        let stored = || {
            let file = quote(&file);
            node.sh(&format!("tail -c +{} {file} | head -c 1", LATER_AT + 1))
        };
        write_through(node, "inner", "a1", b'A')?;
        ensure!(stored()? == "A", "{volume}: {}", stored()?);
        write_through(node, Second::NAME, "b1", b'B')?;
        ensure!(stored()? == "A", "{volume}: {}", stored()?);

        users.agent.call_as(ALICE, &["detach", "a1"], "")??;
        guest::gone(node, volume)?;
        users.agent.call_as(BOB, &["detach", "b1"], "")??;
        let later = users.attach(BOB, "b2", volume, &info, &[])??;
        ensure!(later["access"] == "rw", "{volume}: {later}");
        let disk = second.sees(volume)?;
        ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");
        users.agent.call_as(BOB, &["detach", "b2"], "")??;
    }
    node.sh("rm -r /srv/local")?;

    // One device for the whole node.
    let targets = Targets::new(node, &["lun1"])?;
    targets.target("t", &[21], &[(1, "lun1")])?;
    let info = iscsi_info(21, "t", 1);
    users.attach(ALICE, "a1", "by-iscsi", &info, &[])??;
    let answer = users.attach(BOB, "b1", "by-iscsi", &info, &[])?;
    let failure = refused(answer, "a reader beside a writer", "VOLUME_IN_USE")?;
    ensure!(
        failure.message.contains("one device on this host"),
        "{failure:?}"
    );
    users.agent.call_as(ALICE, &["detach", "a1"], "")??;
    Ok(())
}

/// Owner, group and others each get what their digit says, and a change counts for who comes later.
fn modes(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let users = Users::new(node, Agent::start(node, "")?)?;
    let second = Second::start(node)?;
    let smb = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    smb.user("carol", "pw")?;
    smb.volume("vols", "v.raw", 8, HEAD)?;
    let info = smb_info(&smb, "vols", "v.raw", "-o username=carol,password=pw");
    let (alice, group) = (users.id(ALICE)?, node.sh(&format!("id -g {BOB}"))?);
    let group = format!("gid:{}", group.trim());
    let told = ["--user", &alice, "--group", &group, "--permissions", "640"];

    let made = users.attach(BOB, "b1", "volume", &info, &told)??;
    ensure!(
        made["access"] == "ro" && made["permissions"] == "640",
        "{made}"
    );
    let disk = second.sees("volume")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    users.agent.call_as(BOB, &["detach", "b1"], "")??;
    let made = users.attach(ALICE, "a1", "volume", &info, &told)??;
    ensure!(made["access"] == "rw", "{made}");
    let disk = guest::sees(node, "volume")?;
    ensure!(disk.write == Ok(()), "{disk:?}");

    let set = users.agent.call(&["permissions", "volume", "440"], "")??;
    ensure!(
        set["permissions"] == "440" && set["source"] == "set" && set["owner"]["user_id"] == *alice,
        "{set}"
    );
    let shown = users.agent.call_as(ALICE, &["show", "a1"], "")??;
    ensure!(shown["access"] == "rw", "what is attached stays: {shown}");
    users.agent.call_as(ALICE, &["detach", "a1"], "")??;
    guest::gone(node, "volume")?;
    // What is known of it outlives the daemon.
    node.sh("systemctl restart volattachd.service")?;
    users.attach(ALICE, "a2", "volume", &info, &told)??;
    let disk = guest::sees(node, "volume")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    let shown = node.sh("volattach show a2")?;
    for words in [
        "yes: the volume's permissions 440 do not let its owner write",
        "Permissions",
    ] {
        ensure!(shown.contains(words), "{words}: {shown}");
    }
    users.agent.call_as(ALICE, &["detach", "a2"], "")??;

    users.agent.call(&["permissions", "volume", "none"], "")??;
    let unknown = users.agent.call(&["permissions", "volume"], "")??;
    ensure!(unknown["permissions"] == Value::Null, "{unknown}");
    let strangers = ["--user", "uid:0", "--permissions", "660"];
    let answer = users.attach(BOB, "b2", "volume", &info, &strangers)?;
    refused(answer, "a volume of root's alone", "PERMISSION_DENIED")?;
    Ok(())
}
