//! A real Cinder for tests, beside a real Keystone: its own database, on loopback, stopped when it is dropped.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::keystone::{Keystone, LONG, Lifetimes, PASSWORD, ask, dead_port};

/// The microversion of the tests' own requests: the latest of Cinder 29.
const VERSION: (&str, &str) = ("OpenStack-API-Version", "volume 3.71");

/// Where tests/cinder/cinder.sh has put Cinder.
fn place() -> PathBuf {
    std::env::var_os("VOLATTACH_CINDER")
        .expect("VOLATTACH_CINDER names no Cinder to start: run make cinder-test")
        .into()
}

/// A Cinder and the Keystone that it asks.
pub(crate) struct Cloud {
    pub(crate) keystone: Keystone,
    dir: TempDir,
    /// Where Cinder listens.
    pub(crate) port: u16,
    /// A token of the cloud's administrator.
    pub(crate) admin: String,
    /// The id of Cinder's service in the catalog.
    pub(crate) service: String,
    process: Child,
}

/// A storage that fails at something.
pub(crate) struct Failing(PathBuf);

impl Drop for Failing {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Cloud {
    /// The cloud of all tests, each of which has a project in it; it ends with the last of them.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cloud>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *shared = Arc::downgrade(&started);
            started
        })
    }

    fn start() -> Self {
        let keystone = start_keystone();
        let service = register(&keystone, "block-storage");
        let admin = keystone.token("admin", "admin");
        let dir = tempfile::tempdir().unwrap();
        fs::copy(
            place().join("template/cinder.sqlite"),
            dir.path().join("cinder.sqlite"),
        )
        .unwrap();
        fs::create_dir(dir.path().join("share")).unwrap(); // smb_directory
        let port = dead_port();
        fs::write(dir.path().join("policy.yaml"), OBSERVERS).unwrap();
        let configuration = dir.path().join("cinder.conf");
        let settings = settings(&dir.path().display().to_string(), port, keystone.port());
        fs::write(&configuration, settings).unwrap();
        let output = fs::File::create(dir.path().join("output")).unwrap();
        let process = Command::new(place().join("venv/bin/python"))
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/cinder/serve.py"
            ))
            .arg(configuration)
            .current_dir(dir.path())
            .env("PYTHONWARNINGS", "ignore")
            .env("PYTHONDONTWRITEBYTECODE", "1") // the driver lies in the checkout
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut cloud = Self {
            keystone,
            dir,
            port,
            admin,
            service,
            process,
        };
        cloud.answers();
        cloud
    }

    /// Waits until Cinder's services are up.
    fn answers(&mut self) {
        let deadline = Instant::now() + LONG * 4; // far more than it takes to compile what was installed, once
        loop {
            let said = || fs::read_to_string(self.dir.path().join("output")).unwrap_or_default();
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "Cinder does not start: {}", said());
            assert!(Instant::now() < deadline, "Cinder is not there: {}", said());
            let headers = [("X-Auth-Token", self.admin.as_str()), VERSION];
            if let Ok(answer) = ask(self.port, "GET", "/v3/os-services", &headers, None) {
                let services: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                let up = |binary: &str| {
                    let all = services["services"].as_array();
                    all.is_some_and(|all| {
                        all.iter()
                            .any(|it| it["binary"] == binary && it["state"] == "up")
                    })
                };
                if up("cinder-volume") && up("cinder-scheduler") {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What Cinder has logged as wrong, without its traces, for a failed test.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("cinder.log")).unwrap_or_default();
        let is_wrong = |line: &&str| {
            let of = [" ERROR ", " WARNING ", "Filter"];
            of.iter().any(|it| line.contains(it)) && line.contains('[')
        };
        let errors: Vec<&str> = log.lines().filter(is_wrong).collect();
        errors[errors.len().saturating_sub(40)..].join("\n")
    }

    /// Asks Cinder itself, past every proxy.
    pub(crate) fn ask(
        &self,
        tokens: &[(&str, &str)],
        method: &str,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let headers: Vec<_> = tokens.iter().copied().chain([VERSION]).collect();
        let path = format!("/v3{path}");
        let answer = ask(self.port, method, &path, &headers, Some(body)).unwrap();
        let body = serde_json::from_str(&answer.body).unwrap_or_default();
        (answer.status, body)
    }

    /// The same with this user's token, and it must succeed.
    pub(crate) fn must(&self, token: &str, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(&[("X-Auth-Token", token)], method, path, body);
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}\n{}",
            self.log()
        );
        answer
    }

    /// Makes a volume of 1 GiB, and waits until it can be used.
    pub(crate) fn create_volume(&self, token: &str) -> String {
        let body = json!({ "volume": { "size": 1 } });
        let made = self.must(token, "POST", "/volumes", &body);
        let id = made["volume"]["id"].as_str().unwrap().to_owned();
        let deadline = Instant::now() + LONG;
        loop {
            let volume = self.volume(token, &id);
            match volume["status"].as_str().unwrap() {
                "available" => return id,
                "creating" => {}
                other => panic!("the new volume is {other}\n{}", self.log()),
            }
            assert!(Instant::now() < deadline, "{volume}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What Cinder says of a volume.
    pub(crate) fn volume(&self, token: &str, id: &str) -> Value {
        self.must(token, "GET", &format!("/volumes/{id}"), &Value::Null)["volume"].take()
    }

    /// Has Cinder do something to a volume.
    pub(crate) fn act(&self, token: &str, id: &str, action: &Value) {
        self.must(token, "POST", &format!("/volumes/{id}/action"), action);
    }

    /// Has the storage fail at `connect` or `extend` of a volume, until the returned guard is dropped.
    pub(crate) fn fail(&self, volume: &str, action: &str) -> Failing {
        let path = self.share().join(format!("volume-{volume}.{action}"));
        fs::write(&path, "").unwrap();
        Failing(path)
    }

    fn share(&self) -> PathBuf {
        self.dir.path().join("share")
    }

    /// How many bytes a volume has on the storage.
    pub(crate) fn stored(&self, volume: &str) -> u64 {
        let file = self.share().join(format!("volume-{volume}"));
        fs::metadata(file).map_or(0, |file| file.len())
    }
}

fn start_keystone() -> Keystone {
    let keystone = Keystone::start(Lifetimes::default());
    // keystonemiddleware looks Keystone up: without an internal endpoint of the type identity every answer of Cinder's is 500.
    let service = register(&keystone, "identity");
    for interface in ["internal", "public"] {
        let endpoint = json!({ "endpoint": {
            "service_id": service,
            "interface": interface,
            "url": format!("http://127.0.0.1:{}", keystone.port()),
        }});
        keystone.admin("POST", "/v3/endpoints", &endpoint);
    }
    keystone
}

/// Puts a service of that type into the catalog; each tenant's way to Cinder is an endpoint of its own, in a region of its own.
fn register(keystone: &Keystone, kind: &str) -> String {
    let body = json!({ "service": { "type": kind, "name": kind } });
    let made = keystone.admin("POST", "/v3/services", &body);
    made["service"]["id"].as_str().unwrap().to_owned()
}

/// Services are never taken for dead: of several in one process, Cinder has one alone send signs of life.
/// An administrator who looks and changes nothing, after Cinder's policy HOWTO: sees all projects, and has no right that asks for `admin`.
const OBSERVERS: &str = r#"
context_is_admin: "role:admin or role:cinder:reader-admin"
xena_system_admin_or_project_reader: "role:admin or role:cinder:reader-admin or (role:reader and project_id:%(project_id)s)"
"#;

fn settings(home: &str, port: u16, keystone: u16) -> String {
    format!(
        "[DEFAULT]\n\
         transport_url = fake:/\n\
         auth_strategy = keystone\n\
         api_paste_config = {venv}/etc/cinder/api-paste.ini\n\
         resource_query_filters_file = {venv}/etc/cinder/resource_filters.json\n\
         osapi_volume_listen = 127.0.0.1\n\
         osapi_volume_listen_port = {port}\n\
         osapi_volume_workers = 1\n\
         enabled_backends = smb\n\
         host = lab\n\
         service_down_time = 86400\n\
         state_path = {home}\n\
         log_file = {home}/cinder.log\n\
         [database]\n\
         connection = sqlite:///{home}/cinder.sqlite\n\
         [oslo_policy]\n\
         policy_file = {home}/policy.yaml\n\
         [oslo_concurrency]\n\
         lock_path = {home}/locks\n\
         [coordination]\n\
         backend_url = file://{home}/coordination\n\
         [keystone_authtoken]\n\
         www_authenticate_uri = http://127.0.0.1:{keystone}\n\
         auth_url = http://127.0.0.1:{keystone}\n\
         auth_type = password\n\
         username = nova\n\
         password = {PASSWORD}\n\
         user_domain_name = Default\n\
         project_name = service\n\
         project_domain_name = Default\n\
         service_token_roles = service\n\
         service_token_roles_required = true\n\
         [smb]\n\
         volume_driver = smb_driver.SmbDriver\n\
         volume_backend_name = smb\n\
         smb_export = //files/vols\n\
         smb_directory = {home}/share\n\
         smb_mount_options = -o username=bob,password=hunter2\n",
        venv = place().join("venv").display(),
    )
}
