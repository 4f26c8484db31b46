//! Hostile input, tried for real: what each comes to is told with its exact reason, and afterwards nothing is left (the runner looks),
//! the daemon is the same process, takes a good volume, and has no line in its log that it did not mean. docs/hostile-input.md lists all.

#[path = "../hostile/call.rs"]
mod call;
#[path = "../hostile/fields.rs"]
mod fields;
#[path = "hostile/images.rs"]
mod images;
#[path = "hostile/servers.rs"]
mod servers;
#[path = "hostile/swap.rs"]
mod swap;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use prost_reflect::Value as Field;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use volattach::api::v1::{DetachVolumeRequest, volume_attach_client::VolumeAttachClient};

use super::servers::{SmbServer, smb_info};
use super::{Lab, Test, agent::Agent, guest, node::Node, process::quote};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "hostile_options_and_paths",
        run: options_and_paths,
    },
    Test {
        name: "hostile_images",
        run: images::images,
    },
    Test {
        name: "hostile_swap",
        run: swap::swap,
    },
    Test {
        name: "hostile_smb_server",
        run: servers::smb,
    },
    Test {
        name: "hostile_nfs_server",
        run: servers::nfs,
    },
    Test {
        name: "hostile_iscsi_discovery",
        run: servers::iscsi,
    },
    Test {
        name: "hostile_fields",
        run: every_field,
    },
];

const HEAD: &str = "sixteen bytes...";

/// Sees that the daemon goes through a test unharmed.
struct Witness<'node> {
    node: &'node Node,
    pid: String,
    /// Where its log began.
    cursor: String,
}

impl<'node> Witness<'node> {
    fn new(node: &'node Node) -> Result<Self> {
        let pid = "systemctl show -p MainPID --value volattachd";
        let cursor = "journalctl -q -n 0 --show-cursor | sed 's/^-- cursor: //'";
        node.sh(&format!("mkdir -p /srv/local && cd /srv/local && printf %s '{HEAD}' >good && truncate -s 8M good"))?;
        Ok(Self {
            node,
            pid: node.sh(pid)?,
            cursor: node.sh(cursor)?,
        })
    }

    fn holds(&self, agent: &Agent<'_>) -> Result<()> {
        let pid = self
            .node
            .sh("systemctl show -p MainPID --value volattachd")?;
        ensure!(pid == self.pid, "the daemon was {} and is {pid}", self.pid);
        agent.attach("good", "good", &local("/srv/local/good"), &[])??;
        let disk = guest::sees(self.node, "good")?;
        ensure!(disk.head == guest::hex(HEAD), "{disk:?}");
        agent.detach("good")??;
        // What is not plain text is a list of bytes there.
        let forged = self.node.sh(&format!(
            "journalctl -q -u volattachd -o json --after-cursor={} | python3 -c '
import json, sys
plain = 0
for line in sys.stdin:
    said = json.loads(line)[\"MESSAGE\"]
    if not isinstance(said, str) or \"FORGED\" in said.split(\"\\\\\")[0][:8] or not said.isprintable():
        print(said)
    else:
        plain += 1
if not plain:
    print(\"nothing at all\")'",
            quote(&self.cursor)
        ))?;
        ensure!(forged.is_empty(), "in the log: {forged}");
        self.node.sh("rm -r /srv/local").map(drop)
    }
}

fn local(path: &str) -> Value {
    json!({"driver_volume_type": "local", "data": {"device_path": path}})
}

/// Attaches, and expects to be refused with this reason, in one line.
fn refused(agent: &Agent<'_>, what: &str, info: &Value, reason: &str) -> Result<()> {
    let answer = agent.attach("refused", "volume", info, &[])?;
    let failure = answer
        .err()
        .with_context(|| format!("{what:?}: was attached"))?;
    ensure!(failure.reason == reason, "{what:?}: {failure:?}");
    ensure!(
        !failure.message.contains(char::is_control),
        "{what:?}: {failure:?}"
    );
    Ok(())
}

/// What is valid beside a hostile field. Nobody listens at these servers, but for SMB.
fn valid(field: &str) -> Option<Field> {
    let text = match field {
        "ConnectionInfo.cinder_json" => local("/srv/local/good").to_string(),
        "SmbVolume.export" => "//10.99.0.10/vols".into(),
        "NfsVolume.export" => "127.0.0.1:/vols".into(),
        "LocalVolume.device_path" => "/srv/local/good".into(),
        "SmbVolume.name" | "NfsVolume.name" => "h".into(),
        "SmbCredentials.username" | "IscsiChap.username" => "bob".into(),
        "SmbCredentials.password" | "IscsiChap.password" => "pw-pw-pw-pw-pw".into(),
        "IscsiPath.portal" => "127.0.0.1:9".into(),
        "IscsiPath.target" => "iqn.2026-01.org.lab:t".into(),
        "NvmeVolume.nqn" => "nqn.2014-08.org.nvmexpress:h".into(),
        "NvmeVolume.uuid" => "7c9e6679-7425-40de-944b-e07fc1f90ae7".into(),
        "NvmePortal.address" => "127.0.0.1".into(),
        "NvmePortal.port" => return Some(Field::U32(9)),
        "VolumeFacts.permissions" => "777".into(),
        "VolumeUse.access" => return Some(Field::EnumNumber(1)),
        name if name.ends_with(".attachment_id") || name.ends_with(".volume_id") => "h".into(),
        name if name.ends_with("VolumeRequest.domain") => "inner".into(),
        _ => return None,
    };
    Some(Field::String(text))
}

/// Every string field of every request, by the descriptor, against each hostile text.
fn every_field(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let witness = Witness::new(node)?;
    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    server.user("bob", "pw-pw-pw-pw-pw")?;
    server.volume("vols", "h", 8, HEAD)?;
    let socket = node.forward("/run/volattach/volattachd.sock")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel: Channel = runtime.block_on(endpoint.connect_with_connector(connector))?;
    let mut client = VolumeAttachClient::new(channel.clone());
    let nodes = "virsh dumpxml inner | grep -c '<disk '; true";
    let before = node.sh(nodes)?;

    let under_the_limit = "a".repeat((1 << 20) - 4096);
    let over_the_limit = "a".repeat(10 << 20);
    let mut found: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for (what, text) in [
        (
            "markup",
            "\"/><disk type='file'><source file='/etc/shadow'/></disk>]]>&lt;<!ENTITY x SYSTEM 'file:///etc/shadow'>",
        ),
        ("line", "h\nFORGED: attached\n<0>FORGED"),
        ("escape", "h\u{1b}[2J\u{1b}]0;FORGED\u{7}"),
        ("direction", "h\u{202e}FORGED\u{2066}"),
        ("nul", "h\0FORGED"),
        ("options", "h,suid,dev,uid=0"),
        ("traversal", "../../etc/shadow"),
        ("device", "/etc/shadow"),
        ("long", &under_the_limit),
        ("too long", &over_the_limit),
        ("no UTF-8", "QQQQQQQQ"),
    ] {
        for case in fields::cases(text, &valid)? {
            // They ask the same as an attach, and tests/contract/hostile.rs asks them too.
            if case.method.ends_with("PlanAttach") || case.method.ends_with("ConnectVolume") {
                continue;
            }
            // 10 MB over an emulated wire: some fields tell what all do.
            if what == "too long" && !case.field.contains("smb") {
                continue;
            }
            let case = if what == "no UTF-8" {
                case.broken(text)?
            } else {
                case
            };
            let deadline = Duration::from_secs(180);
            let answer = runtime.block_on(async {
                tokio::time::timeout(deadline, call::call(&channel, &case)).await
            });
            let answer = answer
                .with_context(|| format!("{what} in {} {}: no answer", case.method, case.field))?;
            let came = match answer {
                Ok(_) => "taken".to_owned(),
                Err(status) => call::reason(&status),
            };
            let inside = [
                "HYPERVISOR_ERROR",
                "JOURNAL_FAILED",
                "INTERNAL",
                "UNDO_FAILED",
                "Unknown",
                "Unavailable",
            ];
            ensure!(
                !inside.contains(&came.as_str()),
                "{what} in {} {}: {came}",
                case.method,
                case.field
            );
            if came == "taken" && case.method.ends_with("AttachVolume") {
                let xml = node.sh("virsh dumpxml inner")?;
                ensure!(
                    !xml.contains("shadow") && !xml.contains("ENTITY"),
                    "{what} in {}: {xml}",
                    case.field
                );
                let attachment_id = "h".to_owned();
                runtime
                    .block_on(client.detach_volume(DetachVolumeRequest {
                        attachment_id,
                        force: false,
                    }))
                    .with_context(|| format!("{what} in {}", case.field))?;
            }
            *found.entry(what).or_default().entry(came).or_default() += 1;
        }
    }
    ensure!(found["too long"].keys().eq(["OutOfRange"]), "{found:?}");
    ensure!(found["no UTF-8"].keys().eq(["Internal"]), "{found:?}");
    ensure!(!found["long"].contains_key("taken"), "{found:?}");
    ensure!(node.sh(nodes)? == before);

    // A name that may hold such characters reaches libvirt as text; one that AppArmor would read as a pattern does not get there.
    let name = "/srv/local/ab<c>&'d>&lt;";
    let pattern = "/srv/local/a\"b<c>&'d]]>&lt;";
    for name in [name, pattern] {
        node.sh(&format!("cp /srv/local/good {}", quote(name)))?;
    }
    let failure = agent.attach("odd", "odd", &local(pattern), &[])?.err();
    ensure!(failure.is_some_and(|it| it.reason == "VOLUME_PATH_UNSAFE"));
    let elements = "virsh dumpxml inner | grep -o '<[a-z]*' | sort";
    agent.attach("plain", "plain", &local("/srv/local/good"), &[])??;
    let plain = node.sh(elements)?;
    agent.detach("plain")??;
    guest::gone(node, "plain")?;
    agent.attach("odd", "odd", &local(name), &["--serial", "odd"])??;
    ensure!(guest::sees(node, "odd")?.head == guest::hex(HEAD));
    ensure!(
        node.sh(elements)? == plain,
        "other elements than a plain volume's"
    );
    agent.detach("odd")??;
    witness.holds(&agent)
}

/// Options and paths that would lead elsewhere, and the options of what does get mounted.
fn options_and_paths(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, "[local]\nroots = [\"/srv/local\"]\n")?;
    let witness = Witness::new(node)?;
    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    let password = "pw,uid=0,suid \"dev\" 'x'";
    server.user("bob", password)?;
    server.volume("vols", "v.raw", 8, HEAD)?;
    let smb = |options: &str| smb_info(&server, "vols", "v.raw", options);
    for (options, reason) in [
        ("username=bob,password=pw,suid", "MOUNT_OPTION_REFUSED"),
        ("username=bob,password=pw,exec", "MOUNT_OPTION_REFUSED"),
        ("username=bob,password=pw\n,dev", "MOUNT_OPTION_INVALID"),
        ("username=bob\0,password=pw", "MOUNT_OPTION_INVALID"),
        (
            "username=bob,password=pw,credentials=/etc/shadow",
            "CREDENTIALS_INVALID",
        ),
        ("credentials=/etc/shadow", "CREDENTIALS_INVALID"),
        (
            "username=bob,password=pw,ip=10.99.0.1",
            "MOUNT_OPTION_REFUSED",
        ),
        (
            "username=bob,password=pw,unc=//10.99.0.1/x",
            "MOUNT_OPTION_REFUSED",
        ),
        // The comma is the domain's.
        ("username=bob,domain=LAB,,suid,password=pw", "LOGON_FAILURE"),
    ] {
        refused(&agent, options, &smb(options), reason)?;
    }
    // Two commas are one of the password.
    let quoted = password.replace(',', ",,");
    let options = format!("-o username=bob,password={quoted}");
    agent.attach("a", "injected", &smb(&options), &[])??;
    let mounted = node.sh("grep ' cifs ' /proc/mounts")?;
    for option in ["nosuid", "nodev", "noexec", "nosymfollow", "forceuid"] {
        ensure!(mounted.contains(option), "{mounted}");
    }
    let owner = node.sh("id -u libvirt-qemu")?;
    ensure!(
        mounted.contains(&format!(",uid={owner},")) && !mounted.contains(",suid"),
        "{mounted}"
    );
    agent.detach("a")??;

    let unsafe_path = "VOLUME_PATH_UNSAFE";
    let invalid = "INVALID_CONNECTION_INFO";
    let long = "a/".repeat(3000);
    for (name, reason) in [
        ("../../etc/shadow", unsafe_path),
        ("/etc/shadow", unsafe_path),
        ("a//v.raw", unsafe_path),
        ("./v.raw", unsafe_path),
        ("v.raw/", unsafe_path),
        ("v.raw/..", unsafe_path),
        ("v.raw\0", invalid),
        ("..\\v.raw", unsafe_path),
        (&long, invalid),
    ] {
        let info = smb_info(&server, "vols", name, &options);
        refused(&agent, name, &info, reason)?;
        let nfs = json!({
            "driver_volume_type": "nfs", "data": {"export": "127.0.0.1:/vols", "name": name},
        });
        refused(&agent, name, &nfs, reason)?;
    }
    // A name like any.
    let encoded = smb_info(&server, "vols", "%2e%2e/v.raw", &options);
    refused(&agent, "encoded", &encoded, "VOLUME_NOT_FOUND")?;
    for (export, reason) in [
        ("//10.99.0.10/../x", unsafe_path),
        ("//10.99.0.10/vols/../..", unsafe_path),
        ("//10.99.0.10/vols/\0", invalid),
        ("//10.99.0.10/a\nb", invalid),
        ("//10.99.0.10", invalid),
        ("//", invalid),
    ] {
        let mut info = smb(&options);
        info["data"]["export"] = json!(export);
        refused(&agent, export, &info, reason)?;
    }
    for (export, reason) in [
        ("127.0.0.1:/a/../b", unsafe_path),
        ("127.0.0.1:/a\nb", invalid),
        ("127.0.0.1:a", invalid),
        ("-h:/a", invalid),
        ("a,b:/c", invalid),
        (":/a", invalid),
    ] {
        let info = json!({"driver_volume_type": "nfs", "data": {"export": export, "name": "v"}});
        refused(&agent, export, &info, reason)?;
    }
    for (path, reason) in [
        ("/etc/shadow", unsafe_path),
        ("/srv/local/../../etc/shadow", unsafe_path),
        ("/srv/local", unsafe_path),
        ("/srv/localx/good", unsafe_path),
        ("/srv/local/good\0", invalid),
        ("srv/local/good", invalid),
    ] {
        refused(&agent, path, &local(path), reason)?;
    }
    witness.holds(&agent)
}
