//! A real Cinder in the node, with storage of four kinds there (see cinder/lab-cinder), and the real Keystone on this machine that it asks.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    keystone::{Keystone, Lifetimes, PASSWORD, ask},
    nfs_servers::NfsServer,
    node::Node,
    process::{quote, wait_for},
    profile::{self, Activity},
    servers::SmbServer,
};

/// What storage there is: a volume type of that name for each.
pub(crate) const STORAGES: [Storage; 4] =
    [Storage::Lio, Storage::Nvmet, Storage::Smb, Storage::Nfs];

/// A kind of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Smb,
    Nfs,
    Lio,
    Nvmet,
}

impl Storage {
    fn name(self) -> &'static str {
        match self {
            Self::Smb => "smb",
            Self::Nfs => "nfs",
            Self::Lio => "lio",
            Self::Nvmet => "nvmet",
        }
    }
}

/// Where Cinder is in the node.
const CINDER: &str = "/opt/cinder";
/// Where it listens there.
const PORT: u16 = 8776;
/// The microversion of the tests' own requests: the latest of Cinder 29.
const VERSION: (&str, &str) = ("OpenStack-API-Version", "volume 3.71");
/// An emulated processor takes a minute to import all of Cinder.
const UP: Duration = Duration::from_secs(400);
const PATIENCE: Duration = Duration::from_secs(120);

/// Cinder and Keystone; taken away by [`Cloud::end`].
pub(crate) struct Cloud<'node> {
    node: &'node Node,
    keystone: Keystone,
    nfs: NfsServer<'node>,
    smb: SmbServer<'node>,
    /// The port of this machine that leads to Cinder.
    port: u16,
    admin: String,
    member: String,
}

impl<'node> Cloud<'node> {
    /// Starts all of it, with a volume type for each storage.
    pub(crate) fn start(node: &'node Node) -> Result<Self> {
        profile::span(Activity::Servers, "cinder start", || Self::start_all(node))
    }

    fn start_all(node: &'node Node) -> Result<Self> {
        let nfs = NfsServer::start(node, "files", 72, "rw,no_root_squash", "")?;
        let smb = SmbServer::start(node, "nas", 71, &["vols"], "")?;
        smb.user("bob", "pw")?;
        let keystone = Keystone::start(Lifetimes::default());
        node.forward_back(keystone.port())?;
        unpack(node)?;
        let script = format!(
            "lab-cinder start {} {}",
            quote(&format!("{}:{}", nfs.address, nfs.export())),
            quote(&smb.path("vols", "")),
        );
        let words = format!("{}\n{PASSWORD}\n", keystone.port());
        let output = node.run(&script, words.as_bytes(), PATIENCE)?;
        ensure!(output.status.success(), "{script}: {}", output.stderr);
        publish(&keystone);
        let cloud = Self {
            node,
            port: node.forward_address(&format!("127.0.0.1:{PORT}"))?.port(),
            admin: keystone.token("admin", "other"),
            member: keystone.token("member", "demo"),
            keystone,
            nfs,
            smb,
        };
        cloud.comes_up()?;
        for storage in STORAGES.map(Storage::name) {
            let wanted = json!({ "volume_backend_name": storage });
            let body = json!({ "volume_type": { "name": storage, "extra_specs": wanted } });
            cloud.admin("POST", "/types", &body)?;
        }
        Ok(cloud)
    }

    fn comes_up(&self) -> Result<()> {
        let all = STORAGES.len() + 1; // and the scheduler
        let up = wait_for("all of Cinder's services are up", UP, || {
            let state = self.node.sh("systemctl is-active lab-cinder || true")?;
            ensure!(state == "active", "Cinder has ended: {state}");
            let Ok(answer) = self.admin("GET", "/os-services", &Value::Null) else {
                return Ok(None);
            };
            let services = answer["services"].as_array();
            let up = services.is_some_and(|services| {
                services.len() == all && services.iter().all(|it| it["state"] == "up")
            });
            Ok(up.then_some(()))
        });
        up.with_context(|| {
            let log =
                "journalctl --no-pager -n 40 -u lab-cinder; tail -n 60 /srv/lab-cinder/cinder.log";
            self.node.sh(log).unwrap_or_default()
        })
    }

    /// Asks Cinder as the cloud's administrator.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.ask(&self.admin, method, path, body)
    }

    /// Asks Cinder as a member of the project, and it must succeed.
    pub(crate) fn member(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.ask(&self.member, method, path, body)
    }

    fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> Result<Value> {
        let headers = [("X-Auth-Token", token), VERSION];
        let answer = ask(
            self.port,
            method,
            &format!("/v3{path}"),
            &headers,
            Some(body),
        )?;
        ensure!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
        Ok(serde_json::from_str(&answer.body).unwrap_or_default())
    }

    /// Makes a volume of 1 GiB, and waits until it can be used.
    pub(crate) fn create(&self, storage: Storage) -> Result<String> {
        let volume = json!({ "size": 1, "volume_type": storage.name() });
        let made = self.member("POST", "/volumes", &json!({ "volume": volume }))?;
        let id = made["volume"]["id"].as_str().context("no id")?.to_owned();
        self.becomes(&id, "available")?;
        Ok(id)
    }

    /// Deletes a volume, and waits until it is gone.
    pub(crate) fn delete(&self, volume: &str) -> Result<()> {
        self.member("DELETE", &format!("/volumes/{volume}"), &Value::Null)?;
        wait_for(&format!("volume {volume} is gone"), PATIENCE, || {
            let all = self.member("GET", "/volumes/detail", &Value::Null)?;
            let all = all["volumes"].as_array().context("no volumes")?;
            let Some(volume) = all.iter().find(|it| it["id"] == volume) else {
                return Ok(Some(()));
            };
            ensure!(volume["status"] == "deleting", "{volume}");
            Ok(None)
        })
    }

    /// Waits until Cinder says that of a volume.
    pub(crate) fn becomes(&self, volume: &str, status: &str) -> Result<()> {
        wait_for(&format!("volume {volume} is {status}"), PATIENCE, || {
            let seen = self.volume(volume)?;
            match seen["status"].as_str() {
                Some(seen) if seen == status => Ok(Some(())),
                Some(seen) if seen.starts_with("error") => bail!("volume {volume} is {seen}"),
                _ => Ok(None),
            }
        })
    }

    /// What Cinder says of a volume.
    pub(crate) fn volume(&self, volume: &str) -> Result<Value> {
        let path = format!("/volumes/{volume}");
        Ok(self.member("GET", &path, &Value::Null)?["volume"].take())
    }

    /// The ids of the attachments that Cinder has.
    pub(crate) fn attachments(&self) -> Result<Vec<Value>> {
        let path = "/attachments?all_tenants=1";
        let all = self.admin("GET", path, &Value::Null)?;
        Ok(all["attachments"].as_array().cloned().unwrap_or_default())
    }

    /// Where the storage keeps a volume, as a path in the node.
    pub(crate) fn path(&self, storage: Storage, volume: &str) -> String {
        let file = format!("volume-{volume}");
        match storage {
            Storage::Smb => self.smb.path("vols", &file),
            Storage::Nfs => self.nfs.path(&file),
            Storage::Lio | Storage::Nvmet => format!("/dev/lab-cinder/{file}"),
        }
    }

    /// Runs `volattach -o json cinder ARGS` in the node as a user of the cloud: its answer, or what it told people.
    pub(crate) fn command(
        &self,
        (user, project): (&str, &str),
        args: &[&str],
    ) -> Result<Result<Value, String>> {
        let words: Vec<String> = args.iter().map(|arg| quote(arg)).collect();
        let environment = format!(
            "OS_AUTH_URL=http://127.0.0.1:{}/v3 OS_USERNAME={user} OS_PROJECT_NAME={project} OS_USER_DOMAIN_NAME=Default \
             OS_PROJECT_DOMAIN_NAME=Default",
            self.keystone.port(),
        );
        let script = format!(
            "read -r OS_PASSWORD && export OS_PASSWORD {environment} && volattach -o json cinder {}",
            words.join(" ")
        );
        let password = format!("{PASSWORD}\n");
        let output = profile::span(Activity::Agent, args[0], || {
            self.node
                .run(&script, password.as_bytes(), Duration::from_secs(300))
        })?;
        if !output.status.success() {
            return Ok(Err(format!("{}{}", output.stdout, output.stderr)));
        }
        let answer = serde_json::from_str(&output.stdout);
        Ok(Ok(
            answer.with_context(|| format!("{args:?}: {}", output.stdout))?
        ))
    }

    /// Takes all of it away; fails if Cinder's storage still has a volume, or shows one.
    pub(crate) fn end(self) -> Result<()> {
        let left = self.node.sh("lab-cinder left")?;
        self.node.sh("lab-cinder stop || true")?;
        ensure!(left.is_empty(), "left on the storage: {left}");
        Ok(())
    }
}

/// Puts Cinder into Keystone's catalog, and Keystone itself, which keystonemiddleware looks up.
fn publish(keystone: &Keystone) {
    let services = [
        ("identity", format!("http://127.0.0.1:{}", keystone.port())),
        ("block-storage", format!("http://127.0.0.1:{PORT}/v3")),
    ];
    for (kind, url) in services {
        let body = json!({ "service": { "type": kind, "name": kind } });
        let made = keystone.admin("POST", "/v3/services", &body);
        for interface in ["internal", "public"] {
            let body = json!({ "endpoint": {
                "service_id": made["service"]["id"],
                "interface": interface,
                "url": url,
            }});
            keystone.admin("POST", "/v3/endpoints", &body);
        }
    }
}

/// Puts Cinder and what starts it into the node, as tests/cinder/cinder.sh has installed it: Debian 12's Python runs it there too.
fn unpack(node: &Node) -> Result<()> {
    let place = std::env::var_os("VOLATTACH_CINDER").map(PathBuf::from);
    let place = place.context("VOLATTACH_CINDER names no Cinder: run make soak")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let archive = Command::new("tar")
        .args([
            "-cz",
            "--owner=0",
            "--group=0",
            "--exclude=*/tests",
            "--exclude=pip",
        ])
        .arg("-C")
        .arg(place.join("template"))
        .arg("cinder.sqlite")
        .arg("-C")
        .arg(place.join("venv"))
        .arg("etc/cinder")
        .arg("-C")
        .arg(place.join("venv/lib/python3.11"))
        .arg("site-packages")
        .arg("-C")
        .arg(source.join("tests/cinder"))
        .args(["serve.py", "smb_driver.py"])
        .arg("-C")
        .arg(source.join("tests/lab/cinder"))
        .args(["nvmet", "lab-cinder"])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        archive.status.success(),
        "packing Cinder: {}",
        archive.status
    );
    let script = format!(
        "mkdir -p {CINDER} && tar -xz -C {CINDER} && mv {CINDER}/lab-cinder /usr/local/sbin"
    );
    let output = node.run(&script, &archive.stdout, UP)?;
    ensure!(output.status.success(), "{script}: {}", output.stderr);
    Ok(())
}
