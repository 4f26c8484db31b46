//! A real Keystone for tests: its own database, on loopback, stopped when it is dropped.
//!
//! | user | roles, and where |
//! |---|---|
//! | `member`, `reader` | that role in the project `demo` |
//! | `admin` | that role in the project `other` |
//! | `stranger` | `member` in the project `other` |
//! | `observer` | `cinder:reader-admin` in `other` |
//! | `guide` | `cinder:reader-admin` and `member` in `other` |
//! | `pretender` | `member`, and one called `service`, in `demo` |
//! | `auditor` | `auditor` in the project `service` |
//! | `nova` | `service` in the project `service` |
//! | `volattach` | the same: the agent's own |
//!
//! The password of each is [`PASSWORD`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use volattach::config::{self, HttpUrl};

/// Everybody's, that of the administrator whom tests/keystone/keystone.sh made included.
pub(crate) const PASSWORD: &str = "hunter2-of-keystone";

/// How long Keystone may take to start, or to answer: far more than it does.
pub(crate) const LONG: Duration = Duration::from_secs(30);

const USERS: [(&str, &[&str], &str); 10] = [
    ("member", &["member"], "demo"),
    ("reader", &["reader"], "demo"),
    ("admin", &["admin"], "other"),
    ("stranger", &["member"], "other"),
    ("observer", &["cinder:reader-admin"], "other"),
    ("guide", &["cinder:reader-admin", "member"], "other"),
    ("pretender", &["member", "service"], "demo"),
    ("auditor", &["auditor"], "service"),
    ("nova", &["service"], "service"),
    ("volattach", &["service"], "service"),
];

/// How long tokens last, in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Lifetimes {
    /// From their issue to their end.
    pub(crate) expiration: u32,
    /// From their end to that of Keystone's patience.
    pub(crate) allow_expired_window: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            expiration: 3600,
            allow_expired_window: 3600,
        }
    }
}

/// A running Keystone.
pub(crate) struct Keystone {
    dir: TempDir,
    port: u16,
    process: Mutex<Option<Child>>,
    lifetimes: Lifetimes,
    /// The administrator's token, and when to get another.
    admin: Mutex<Option<(String, Instant)>>,
    ids: BTreeMap<String, String>,
}

impl Drop for Keystone {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where tests/keystone/keystone.sh has put it.
fn place() -> PathBuf {
    std::env::var_os("VOLATTACH_KEYSTONE")
        .expect("VOLATTACH_KEYSTONE names no Keystone to start: run make keystone-test")
        .into()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

impl Keystone {
    /// Starts one and makes the users.
    pub(crate) fn start(lifetimes: Lifetimes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&place().join("template"), dir.path());
        let home = dir.path().join("template");
        let port = dead_port();
        let settings = format!(
            "[DEFAULT]\nlog_file = {home}/keystone.log\n\
             [database]\nconnection = sqlite:///{home}/keystone.db\n\
             [fernet_tokens]\nkey_repository = {home}/fernet-keys\n\
             [credential]\nkey_repository = {home}/credential-keys\n\
             [cache]\nenabled = true\nbackend = oslo_cache.dict\n\
             [identity]\npassword_hash_rounds = 4\n\
             [token]\nexpiration = {expiration}\nallow_expired_window = {window}\n",
            home = home.display(),
            expiration = lifetimes.expiration,
            window = lifetimes.allow_expired_window,
        );
        fs::write(home.join("keystone.conf"), settings).unwrap();
        // Keystone takes the command line for its own: gunicorn reads this from where it is started.
        let gunicorn = format!(
            "wsgi_app = 'keystone.wsgi.api:application'\nbind = '127.0.0.1:{port}'\nworkers = 1\ntimeout = 0\ngraceful_timeout = 1\n"
        );
        fs::write(home.join("gunicorn.conf.py"), gunicorn).unwrap();
        // Once: while it is written it is empty, and tests run side by side.
        write_secret(&home.join("password"), PASSWORD);
        let mut keystone = Self {
            dir,
            port,
            process: Mutex::new(None),
            lifetimes,
            admin: Mutex::new(None),
            ids: BTreeMap::new(),
        };
        keystone.start_again();
        keystone.populate();
        keystone
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("template")
    }

    /// Starts it where it was stopped, and waits until it answers.
    pub(crate) fn start_again(&self) {
        let home = self.home();
        let output = fs::File::create(home.join("output")).unwrap();
        let child = Command::new(place().join("venv/bin/gunicorn"))
            .current_dir(&home)
            .env("OS_KEYSTONE_CONFIG_FILES", home.join("keystone.conf"))
            .env("PYTHONWARNINGS", "ignore")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        *self.lock() = Some(child);
        let deadline = Instant::now() + LONG;
        while self.ask("GET", "/v3", &[], None).is_err() {
            let output = fs::read_to_string(home.join("output")).unwrap_or_default();
            let ended = self.lock().as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "Keystone does not start: {output}");
            assert!(Instant::now() < deadline, "Keystone is not there: {output}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it, and waits for its end.
    pub(crate) fn stop(&self) {
        let Some(mut child) = self.lock().take() else {
            return;
        };
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = child.wait();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The settings of an agent that asks it, with those of its user who has the password.
    pub(crate) fn settings(&self) -> config::Keystone {
        config::Keystone {
            urls: vec![HttpUrl::parse(&format!("http://127.0.0.1:{}", self.port)).unwrap()],
            ca: None,
            timeout: LONG,
            user: "volattach".into(),
            user_domain: "Default".into(),
            project: "service".into(),
            project_domain: "Default".into(),
            password_file: self.home().join("password"),
            service_token_roles: vec!["service".into()],
            audit_role: None,
            cache_time: Duration::from_secs(60),
            allow_expired_window: Duration::from_secs(3600),
        }
    }

    /// The id of a user, project or role.
    pub(crate) fn id(&self, name: &str) -> &str {
        &self.ids[name]
    }

    /// A new token of a user's, for a project.
    pub(crate) fn token(&self, user: &str, project: &str) -> String {
        let scope = json!({ "project": { "name": project, "domain": { "id": "default" } } });
        self.login(user, PASSWORD, scope)
    }

    /// A new token of the administrator's, for the whole deployment.
    pub(crate) fn system_token(&self) -> String {
        self.login("admin", PASSWORD, json!({ "system": { "all": true } }))
    }

    fn login(&self, user: &str, password: &str, scope: Value) -> String {
        let user = json!({ "name": user, "domain": { "id": "default" }, "password": password });
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": user } },
            "scope": scope,
        }});
        let answer = self.ask("POST", "/v3/auth/tokens", &[], Some(&body));
        let answer = answer.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.token.unwrap()
    }

    /// Makes a token bad before its end.
    pub(crate) fn revoke(&self, token: &str) {
        let admin = self.admin_token();
        let headers = [("X-Auth-Token", admin.as_str()), ("X-Subject-Token", token)];
        let answer = self
            .ask("DELETE", "/v3/auth/tokens", &headers, None)
            .unwrap();
        assert_eq!(answer.status, 204, "{}", answer.body);
    }

    /// Gives a user another password; Keystone takes that for the end of all the user's tokens.
    pub(crate) fn set_password(&self, user: &str, password: &str) {
        let path = format!("/v3/users/{}", self.id(user));
        self.admin("PATCH", &path, &json!({ "user": { "password": password } }));
    }

    fn admin_token(&self) -> String {
        let mut admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        match admin.as_ref() {
            Some((token, renew)) if Instant::now() < *renew => return token.clone(),
            _ => {}
        }
        let renew = Instant::now() + Duration::from_secs(self.lifetimes.expiration.into()) / 2;
        let token = self.token("admin", "admin");
        *admin = Some((token.clone(), renew));
        token
    }

    /// Waits until new tokens of a user whose password was changed are good: those of the same second are taken for older ones.
    pub(crate) fn settle(&self, user: &str, password: &str, project: &str) {
        let scope = json!({ "project": { "name": project, "domain": { "id": "default" } } });
        let deadline = Instant::now() + LONG;
        loop {
            let token = self.login(user, password, scope.clone());
            let admin = self.admin_token();
            let headers = [
                ("X-Auth-Token", admin.as_str()),
                ("X-Subject-Token", &*token),
            ];
            let answer = self.ask("GET", "/v3/auth/tokens", &headers, None);
            if answer.unwrap().status == 200 {
                return;
            }
            assert!(Instant::now() < deadline, "no token of {user}'s is good");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Does something as the administrator.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let token = self.admin_token();
        let headers = [("X-Auth-Token", token.as_str())];
        let answer = self.ask(method, path, &headers, Some(body)).unwrap();
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {}",
            answer.body
        );
        serde_json::from_str(&answer.body).unwrap_or_default()
    }

    fn populate(&mut self) {
        let roles = self.admin("GET", "/v3/roles", &Value::Null);
        for role in roles["roles"].as_array().unwrap() {
            let id = |key: &str| role[key].as_str().unwrap().to_owned();
            self.ids.insert(format!("role {}", id("name")), id("id"));
        }
        for role in ["cinder:reader-admin", "auditor"] {
            self.create("role", "roles", role, json!({ "name": role }));
        }
        for project in ["demo", "other", "service"] {
            let body = json!({ "name": project, "domain_id": "default" });
            self.create("project", "projects", project, body);
        }
        for (user, roles, project) in USERS {
            let body = json!({ "name": user, "domain_id": "default", "password": PASSWORD });
            if user == "admin" {
                let users = self.admin("GET", "/v3/users?name=admin", &Value::Null);
                let id = users["users"][0]["id"].as_str().unwrap().to_owned();
                self.ids.insert(user.to_owned(), id);
            } else {
                self.create("user", "users", user, body);
            }
            for role in roles {
                let path = format!(
                    "/v3/projects/{}/users/{}/roles/{}",
                    self.id(project),
                    self.id(user),
                    self.id(&format!("role {role}")),
                );
                self.admin("PUT", &path, &Value::Null);
            }
        }
    }

    fn create(&mut self, kind: &str, path: &str, name: &str, body: Value) {
        let mut wrapped = serde_json::Map::new();
        wrapped.insert(kind.to_owned(), body);
        let made = self.admin("POST", &format!("/v3/{path}"), &Value::Object(wrapped));
        let id = made[kind]["id"].as_str().unwrap().to_owned();
        let name = match kind {
            "role" => format!("role {name}"),
            _ => name.to_owned(),
        };
        let before = self.ids.insert(name, id);
        assert_eq!(before, None, "two things have one name");
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> std::io::Result<Answer> {
        ask(self.port, method, path, headers, body)
    }
}

/// A request in HTTP/1.0's manner, to that port of this host: one a connection, which ends the answer.
pub(crate) fn ask(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LONG))?;
    let body = body.filter(|body| !body.is_null()).map(Value::to_string);
    let body = body.unwrap_or_default();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(stream, "{request}\r\n{body}")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::InvalidData)?;
    let token = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("x-subject-token")
            .then(|| value.to_owned())
    });
    Ok(Answer {
        status: head[9..12].parse().unwrap(),
        token,
        body: body.to_owned(),
    })
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) token: Option<String>,
    pub(crate) body: String,
}

/// A port where nobody listens.
pub(crate) fn dead_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Writes a file that its owner alone may read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
