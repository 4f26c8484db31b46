//! A project of its own in the cloud, and a node of its own: the daemon's API over fakes, and the command line on it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use volattach::model::{Access, DiskPlan};

use crate::faults::{Fault, Ports, Proxy};
use crate::fixture::Cloud;
use crate::keystone::{LONG, PASSWORD, write_secret};
use crate::server::{Server, soon};

/// How a run of the command line ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: it was killed.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Its answer, of a run that succeeded.
    #[track_caller]
    pub(crate) fn answer(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// What it told people, of a run that failed.
    #[track_caller]
    pub(crate) fn words(&self) -> &str {
        assert!(!matches!(self.code, None | Some(0)), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        assert!(!self.stderr.trim().is_empty(), "{self:?}");
        &self.stderr
    }
}

/// An attachment, as all see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) volume: String,
    pub(crate) state: String,
}

pub(crate) struct Tenant {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) proxy: Proxy,
    pub(crate) server: Server,
    home: TempDir,
    storage: tokio::task::JoinHandle<()>,
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.storage.abort();
    }
}

impl Tenant {
    /// Makes project and user of that name, who is a member there, and a way to Cinder through a proxy.
    pub(crate) async fn new(cloud: &Arc<Cloud>, name: &str) -> Self {
        let keystone = &cloud.keystone;
        let ports = Ports {
            keystone: keystone.port(),
            cinder: cloud.port,
        };
        let proxy = Proxy::start(ports, name).await;
        let made = |kind: &str, path: &str, mut body: Value| {
            body["name"] = json!(name);
            body["domain_id"] = json!("default");
            let made = keystone.admin("POST", path, &json!({ kind: body }));
            made[kind]["id"].as_str().unwrap().to_owned()
        };
        let project = made("project", "/v3/projects", json!({}));
        let user = made("user", "/v3/users", json!({ "password": PASSWORD }));
        let role = keystone.id("role member");
        let path = format!("/v3/projects/{project}/users/{user}/roles/{role}");
        keystone.admin("PUT", &path, &Value::Null);
        let region = json!({ "region": { "id": name } });
        keystone.admin("POST", "/v3/regions", &region);
        // Both ways in which deployers write it.
        let rest = match name.len() % 2 {
            0 => "",
            _ => "/$(project_id)s",
        };
        let endpoint = json!({ "endpoint": {
            "service_id": cloud.service,
            "interface": "public",
            "region_id": name,
            "url": format!("http://127.0.0.1:{}/v3{rest}", proxy.port),
        }});
        keystone.admin("POST", "/v3/endpoints", &endpoint);
        let server = Server::start().await;
        server.world.state().stored = crate::GIB;
        Self {
            cloud: cloud.clone(),
            name: name.to_owned(),
            token: keystone.token(name, name),
            proxy,
            server,
            home: tempfile::tempdir().unwrap(),
            storage: tokio::spawn(async {}),
        }
    }

    /// Makes a volume, whose size on Cinder's storage the fakes' storage has from then on.
    pub(crate) fn create_volume(&mut self) -> String {
        let volume = self.cloud.create_volume(&self.token);
        self.storage.abort();
        let (cloud, world, id) = (
            self.cloud.clone(),
            self.server.world.clone(),
            volume.clone(),
        );
        self.storage = tokio::spawn(async move {
            loop {
                world.state().stored = cloud.stored(&id);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        volume
    }

    /// Runs `volattach cinder` as the user.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.run_as(&self.name, arguments).await
    }

    /// The same as the holder of a token, without a login, which takes longer than all else.
    pub(crate) async fn run_by(&self, token: &str, arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        command
            .env_remove("OS_AUTH_URL")
            .env("OS_AUTH_TYPE", "token")
            .env("OS_TOKEN", token)
            .env(
                "OS_VOLUME_ENDPOINT_OVERRIDE",
                format!("http://127.0.0.1:{}/v3", self.proxy.port),
            );
        self.finish(command).await
    }

    /// The same as another user of the tenant's project.
    pub(crate) async fn run_as(&self, user: &str, arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        command.env("OS_USERNAME", user);
        self.finish(command).await
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let keystone = self.proxy.port;
        let mut command = Command::new(env!("CARGO_BIN_EXE_volattach"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("VOLATTACH_SOCKET", &self.server.socket)
            .env("OS_AUTH_URL", format!("http://127.0.0.1:{keystone}/v3"))
            .env("OS_USERNAME", &self.name)
            .env("OS_PASSWORD", PASSWORD)
            .env("OS_PROJECT_NAME", &self.name)
            .env("OS_USER_DOMAIN_NAME", "Default")
            .env("OS_PROJECT_DOMAIN_NAME", "Default")
            .env("OS_REGION_NAME", &self.name)
            .arg("cinder")
            .args(arguments)
            .args(["-o", "json"])
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end, where a fault may kill it.
    pub(crate) async fn finish(&self, mut command: Command) -> Ended {
        let child = command.spawn().unwrap();
        self.proxy.aim(child.id());
        let output = soon(child.wait_with_output()).await.unwrap();
        self.proxy.aim(None);
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it while the request of that number to Cinder goes wrong; tells whether it came to that, and what was asked until then.
    pub(crate) async fn run_with_fault(
        &self,
        arguments: &[&str],
        (number, fault): (usize, Fault),
    ) -> (Ended, Option<String>) {
        self.proxy.arm(Some((number, fault)));
        let mut command = self.command(arguments);
        if fault == Fault::Silence {
            command.args(["--timeout", "3"]);
        }
        let ended = self.finish(command).await;
        let lines = self.proxy.lines();
        self.proxy.arm(None);
        (ended, lines.get(number).cloned())
    }

    /// Attaches a volume to the fakes' domain; returns the attachment's id.
    pub(crate) async fn attach(&self, volume: &str, more: &[&str]) -> String {
        let arguments = [&["attach", volume, "--domain", "web"], more].concat();
        let answer = self.run(&arguments).await.answer();
        answer["attachment_id"].as_str().unwrap().to_owned()
    }

    /// Writes clouds.yaml with a service's own credentials, as the cloud `service`.
    pub(crate) fn write_clouds(&self) {
        let path: PathBuf = self.home.path().join(".config/openstack");
        std::fs::create_dir_all(&path).unwrap();
        let keystone = self.cloud.keystone.port();
        let cloud = |name: &str, user: &str, project: &str| {
            format!(
                "  {name}:\n    region_name: {region}\n    auth:\n      auth_url: http://127.0.0.1:{keystone}/v3\n      \
                 username: {user}\n      password: {PASSWORD}\n      project_name: {project}\n      \
                 user_domain_name: Default\n      project_domain_name: Default\n",
                region = self.name,
            )
        };
        let text = format!(
            "clouds:\n{}{}",
            cloud("service", "volattach", "service"),
            cloud("user", &self.name, &self.name),
        );
        write_secret(&path.join("clouds.yaml"), &text);
    }

    /// The attachments that Cinder has of the project.
    pub(crate) fn in_cinder(&self) -> Vec<Seen> {
        let answer = self
            .cloud
            .must(&self.token, "GET", "/attachments/detail", &Value::Null);
        seen(&answer, "id", "status")
    }

    /// The attachments that the agent has.
    pub(crate) async fn in_agent(&self) -> Vec<Seen> {
        let output = Command::new(env!("CARGO_BIN_EXE_volattach"))
            .env_clear()
            .env("VOLATTACH_SOCKET", &self.server.socket)
            .args(["list", "-o", "json"])
            .output()
            .await
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        seen(&answer, "attachment_id", "state")
    }

    /// The disks of the fakes' domain.
    pub(crate) fn disks(&self) -> Vec<DiskPlan> {
        self.server.world.state().disks.values().cloned().collect()
    }

    /// The access of the only disk, by record and by XML.
    #[track_caller]
    pub(crate) fn access(&self) -> Access {
        let [disk] = self.disks().try_into().expect("one disk");
        match disk.xml.contains("<readonly") {
            true => Access::ReadOnly,
            false => Access::ReadWrite,
        }
    }

    /// Waits until a volume has that status.
    pub(crate) async fn becomes(&self, volume: &str, status: &str) {
        let deadline = Instant::now() + LONG;
        loop {
            let now = self.cloud.volume(&self.token, volume);
            if now["status"] == status {
                return;
            }
            assert!(Instant::now() < deadline, "it stays {now}, not {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is left of all attachments, in words; empty where nothing is.
    pub(crate) async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(
            self.in_cinder()
                .iter()
                .map(|it| format!("in Cinder {it:?}")),
        );
        left.extend(
            self.in_agent()
                .await
                .iter()
                .map(|it| format!("at the agent {it:?}")),
        );
        let state = self.server.world.state();
        left.extend(state.disks.keys().map(|it| format!("the disk {it}")));
        left.extend(
            state
                .connections
                .keys()
                .map(|it| format!("the connection {it}")),
        );
        left
    }
}

fn seen(answer: &Value, id: &str, state: &str) -> Vec<Seen> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = answer["attachments"].as_array();
    let all = all.unwrap_or_else(|| panic!("no attachments: {answer}"));
    let mut seen: Vec<_> = all
        .iter()
        .map(|it| Seen {
            id: text(&it[id]),
            volume: text(&it["volume_id"]),
            state: text(&it[state]),
        })
        .collect();
    seen.sort();
    seen
}
