//! A Keystone and a Cinder that keep their state in memory, and fail when they are told to. What they answer is as a Cinder 29.0.0 does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// The project, which is in each path.
const PROJECT: &str = "0123456789abcdef0123456789abcdef";
/// The tokens that Keystone gives to users of these names.
pub(super) const TOKENS: [(&str, &str); 2] = [("ann", "token-of-ann"), ("svc", "token-of-svc")];
pub(super) const PASSWORD: &str = "hunter2";

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fails {
    /// It is refused with that status, and nothing is done.
    With(u16),
    /// It is done, and answered with that status.
    DoneBut(u16),
    /// It is done, and never answered.
    Silent,
    /// It is done, and the connection breaks.
    Lost,
}

pub(super) struct Volume {
    pub(super) status: &'static str,
    pub(super) size: u64,
    pub(super) metadata: BTreeMap<String, String>,
    /// Whether it grows when it is told to.
    pub(super) grows: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) volume: String,
    pub(super) status: &'static str,
    pub(super) host: String,
    pub(super) mountpoint: String,
    pub(super) mode: String,
    pub(super) instance: Option<String>,
}

pub(super) struct State {
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) attachments: BTreeMap<Uuid, Attachment>,
    /// Whether callers may search by a host, and see other projects.
    pub(super) admin: bool,
    /// Whether there is a Nova, and the attachments that its servers use.
    pub(super) nova: bool,
    pub(super) novas: BTreeSet<Uuid>,
    pub(super) newest: &'static str,
    /// The `access_mode` in connection info.
    pub(super) access_mode: &'static str,
    /// Requests that fail: the method, what the path has in it, and how. Each once.
    pub(super) faults: Vec<(&'static str, &'static str, Fails)>,
    /// Requests that changed something, as they came.
    pub(super) changes: Vec<String>,
    /// The last request's head.
    pub(super) head: String,
    /// Bodies of new attachments.
    pub(super) created: Vec<Value>,
    /// Whether the driver connects volumes.
    pub(super) connects: bool,
    /// Whether another host's attach comes right before the next one.
    pub(super) rival: bool,
    /// An attachment that ends as soon as a list has shown it.
    pub(super) goes: Option<Uuid>,
    /// Time that a new attachment takes.
    pub(super) slow: Duration,
}

/// The servers, until they are dropped.
pub(super) struct Fake {
    pub(super) port: u16,
    state: Arc<Mutex<State>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            volumes: BTreeMap::new(),
            attachments: BTreeMap::new(),
            admin: true,
            nova: false,
            novas: BTreeSet::new(),
            newest: "3.71",
            access_mode: "rw",
            faults: Vec::new(),
            changes: Vec::new(),
            head: String::new(),
            created: Vec::new(),
            connects: true,
            rival: false,
            goes: None,
            slow: Duration::ZERO,
        }));
        let served = state.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, served.clone(), port));
            }
        });
        Self {
            port,
            state,
            serving,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn set_metadata(&self, volume: &str, key: &str, value: &str) {
        let mut state = self.state();
        let metadata = &mut state.volumes.get_mut(volume).unwrap().metadata;
        metadata.insert(key.to_owned(), value.to_owned());
    }

    /// A volume that is free.
    pub(super) fn volume(&self) -> String {
        let id = Uuid::new_v4().to_string();
        let volume = Volume {
            status: "available",
            size: 1,
            metadata: BTreeMap::new(),
            grows: true,
        };
        self.state().volumes.insert(id.clone(), volume);
        id
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, port: u16) {
    let mut request = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let mut words = head.split_whitespace();
    let (method, target) = (
        words.next().unwrap().to_owned(),
        words.next().unwrap().to_owned(),
    );
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    let slow = {
        let state = state.lock().unwrap();
        match method == "POST" && target.ends_with("/attachments") {
            true => state.slow,
            false => Duration::ZERO,
        }
    };
    let (fails, (status, answer)) = {
        let mut state = state.lock().unwrap();
        state.head = head;
        let at = state
            .faults
            .iter()
            .position(|(m, path, _)| *m == method && target.contains(path));
        let fails = at.map(|at| state.faults.remove(at).2);
        let answer = match fails {
            Some(Fails::With(status)) => error(status, "it was told to fail"),
            _ => state.answer(&method, &target, &body, port),
        };
        (fails, answer)
    };
    tokio::time::sleep(slow).await;
    let (status, answer) = match fails {
        Some(Fails::Silent) => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            return;
        }
        Some(Fails::Lost) => return,
        Some(Fails::DoneBut(status)) => error(status, "it was told to fail"),
        Some(Fails::With(_)) | None => (status, answer),
    };
    let token = match answer["of"].as_str() {
        Some(token) => format!("X-Subject-Token: {token}\r\n"),
        None => String::new(),
    };
    let text = if answer.is_null() {
        String::new()
    } else {
        answer.to_string()
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nx-openstack-request-id: req-7\r\n{token}Content-Length: {}\r\n\r\n",
        text.len()
    );
    // The caller may have given up.
    let _ = stream.write_all((head + &text).as_bytes()).await;
}

fn error(status: u16, message: &str) -> (u16, Value) {
    (
        status,
        json!({ "error": { "code": status, "message": message } }),
    )
}

impl State {
    fn answer(&mut self, method: &str, target: &str, body: &Value, port: u16) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == "/identity/v3/auth/tokens" {
            return login(body, port, self.nova);
        }
        if path == "/v3/" {
            let version = json!({ "id": "v3.0", "version": self.newest, "min_version": "3.0" });
            return (200, json!({ "versions": [version] }));
        }
        if method != "GET" {
            self.changes.push(format!(
                "{method} {}",
                path.split('/').skip(3).collect::<Vec<_>>().join("/")
            ));
        }
        let parts: Vec<_> = path
            .strip_prefix(&format!("/v3/{PROJECT}/"))
            .unwrap_or("")
            .split('/')
            .collect();
        match (method, parts.as_slice()) {
            ("GET", ["volumes", id]) => {
                let id = percent_decode_str(id).decode_utf8_lossy().into_owned();
                match self.volumes.contains_key(&id) {
                    true => (200, json!({ "volume": self.volume(&id) })),
                    false => error(404, "Volume could not be found."),
                }
            }
            ("POST", ["volumes", id, "action"]) => self.extend(id, body),
            ("POST", ["volumes", id, "metadata"]) => {
                let metadata = &mut self.volumes.get_mut(*id).unwrap().metadata;
                for (key, value) in body["metadata"].as_object().unwrap() {
                    metadata.insert(key.clone(), value.as_str().unwrap().to_owned());
                }
                (200, json!({ "metadata": metadata }))
            }
            ("DELETE", ["volumes", id, "metadata", key]) => {
                match self.volumes.get_mut(*id).unwrap().metadata.remove(*key) {
                    Some(_) => (200, Value::Null),
                    None => error(404, "no such key"),
                }
            }
            ("POST", ["attachments"]) => self.create(&body["attachment"]),
            ("GET", ["attachments", "detail"]) => self.list(query),
            (method, ["attachments", id, rest @ ..]) => {
                let id: Uuid = id.parse().unwrap();
                match (self.attachments.get_mut(&id), method, rest) {
                    (None, ..) => error(404, "Volume attachment could not be found."),
                    (Some(_), "GET", []) => (200, json!({ "attachment": self.attachment(id) })),
                    (Some(it), "POST", ["action"]) => {
                        it.status = "attached";
                        let volume = it.volume.clone();
                        self.volumes.get_mut(&volume).unwrap().status = "in-use";
                        (204, Value::Null)
                    }
                    (Some(_), "DELETE", []) => self.delete(id),
                    _ => error(405, "no such method"),
                }
            }
            _ => error(404, "no such path"),
        }
    }

    fn volume(&self, id: &str) -> Value {
        let volume = &self.volumes[id];
        let attached = self
            .attachments
            .iter()
            .filter(|(_, it)| it.volume == id && it.status == "attached");
        let attached = attached.map(|(attachment, it)| {
            let host = self.admin.then_some(&it.host);
            json!({ "id": id, "attachment_id": attachment, "device": it.mountpoint, "host_name": host, "server_id": it.instance })
        });
        json!({
            "id": id, "status": volume.status, "size": volume.size, "metadata": volume.metadata,
            "user_id": "ann", "os-vol-tenant-attr:tenant_id": PROJECT, "attachments": attached.collect::<Vec<_>>(),
        })
    }

    fn attachment(&self, id: Uuid) -> Value {
        let it = &self.attachments[&id];
        let info = json!({
            "driver_volume_type": "smbfs", "export": "//files/vols", "name": it.volume, "options": "-o username=bob,password=hunter2",
            "access_mode": self.access_mode, "encrypted": false, "qos_specs": null, "cacheable": false, "enforce_multipath": false,
            "attachment_id": id,
        });
        json!({
            "id": id, "volume_id": it.volume, "status": it.status, "instance": it.instance, "attach_mode": it.mode,
            "attached_at": "", "detached_at": "", "connection_info": info,
        })
    }

    fn create(&mut self, body: &Value) -> (u16, Value) {
        self.created.push(body.clone());
        let volume_id = body["volume_uuid"].as_str().unwrap().to_owned();
        let volume = self.volumes.get_mut(&volume_id).unwrap();
        if std::mem::take(&mut self.rival) {
            volume.status = "attaching";
            let rival = Attachment {
                volume: volume_id.clone(),
                status: "attaching",
                host: "elsewhere".to_owned(),
                mountpoint: "volattach:elsewhere:1".to_owned(),
                mode: "rw".to_owned(),
                instance: None,
            };
            self.attachments.insert(Uuid::new_v4(), rival);
        }
        if volume.status != "available" {
            let why = format!(
                "Invalid volume: Volume {volume_id} status must be available or downloading to reserve"
            );
            return (
                400,
                json!({ "badRequest": { "code": 400, "message": why } }),
            );
        }
        volume.status = "attaching";
        // As Cinder has it, whatever the flag's word is.
        let flagged = volume.metadata.contains_key("readonly");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let id = Uuid::new_v4();
        let mut attachment = Attachment {
            volume: volume_id,
            status: "attaching",
            host: text(&body["connector"]["host"]),
            mountpoint: text(&body["connector"]["mountpoint"]),
            mode: match flagged {
                true => "ro".to_owned(),
                false => text(&body["mode"]),
            },
            instance: None,
        };
        if !self.connects {
            // It stays as it was before it had a connector.
            attachment.status = "reserved";
            attachment.host.clear();
            attachment.mountpoint.clear();
            self.attachments.insert(id, attachment);
            let why = "Driver initialize connection failed";
            let why = format!("Unable to create attachment for volume ({why}).");
            return error(500, &why);
        }
        self.attachments.insert(id, attachment);
        (200, json!({ "attachment": self.attachment(id) }))
    }

    fn delete(&mut self, id: Uuid) -> (u16, Value) {
        let server = self.attachments[&id].instance.is_some();
        if server && !self.head.contains("x-service-token") {
            // Cinder asks Nova.
            match self.nova {
                false => return error(500, "The server has either erred or is incapable."),
                true if self.novas.contains(&id) => {
                    return error(409, "Detach volume from instance using the Compute API");
                }
                true => {}
            }
        }
        self.forget(id);
        (200, json!({ "attachments": [] }))
    }

    pub(super) fn forget(&mut self, id: Uuid) {
        let gone = self.attachments.remove(&id).unwrap();
        if !self.attachments.values().any(|it| it.volume == gone.volume) {
            self.volumes.get_mut(&gone.volume).unwrap().status = "available";
        }
    }

    fn extend(&mut self, id: &str, body: &Value) -> (u16, Value) {
        let volume = self
            .volumes
            .get_mut(&*percent_decode_str(id).decode_utf8_lossy())
            .unwrap();
        if volume.grows {
            volume.size = body["os-extend"]["new_size"].as_u64().unwrap();
        }
        (202, Value::Null)
    }

    fn list(&mut self, query: &str) -> (u16, Value) {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut pairs: BTreeMap<_, _> = pairs
            .map(|(key, value)| (key.to_owned(), decode(value)))
            .collect();
        let marker = pairs.remove("marker").map(|it| it.parse::<Uuid>().unwrap());
        if marker.is_some_and(|marker| !self.attachments.contains_key(&marker)) {
            return error(404, "Volume attachment could not be found.");
        }
        pairs.remove("limit");
        pairs.remove("all_tenants");
        let open = |key: &String| ["volume_id", "attach_status"].contains(&key.as_str());
        if !self.admin && !pairs.keys().all(open) {
            return error(
                400,
                "Invalid filters attached_host are found in query options.",
            );
        }
        let matches = |it: &Attachment| {
            pairs.iter().all(|(key, value)| match key.as_str() {
                "volume_id" => it.volume == *value,
                "attach_status" => it.status == *value,
                "attached_host" => it.host == *value,
                "mountpoint" => it.mountpoint == *value,
                _ => false,
            })
        };
        let found = self
            .attachments
            .iter()
            .filter(|(id, it)| matches(it) && marker.is_none_or(|marker| **id > marker));
        // Pages of one, so that there are several.
        let page: Vec<_> = found.take(1).map(|(id, _)| self.attachment(*id)).collect();
        if let Some(goes) = self.goes
            && page.iter().any(|it| it["id"] == json!(goes))
        {
            self.attachments.remove(&goes);
        }
        (200, json!({ "attachments": page }))
    }
}

fn login(body: &Value, port: u16, nova: bool) -> (u16, Value) {
    let user = &body["auth"]["identity"]["password"]["user"];
    let token = TOKENS
        .iter()
        .find(|(name, _)| user["name"] == *name && user["password"] == PASSWORD);
    let Some((_, token)) = token else {
        return error(401, "The request you have made requires authentication.");
    };
    let endpoint = json!({ "interface": "public", "region": "r", "region_id": "r", "url": format!("http://127.0.0.1:{port}/v3/{PROJECT}") });
    let catalog = json!([
        { "type": "volumev3", "name": "cinderv3", "endpoints": [endpoint] },
        { "type": if nova { "compute" } else { "image" }, "endpoints": [] },
    ]);
    (
        201,
        json!({ "of": token, "token": { "project": { "id": PROJECT }, "catalog": catalog } }),
    )
}
