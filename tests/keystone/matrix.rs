//! The golden matrix: who may call what, over gRPC, by tokens of a real Keystone.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use tokio::net::UnixListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use volattach::admission::Admission;
use volattach::api::v1::volume_attach_client::VolumeAttachClient;
use volattach::api::{Api, PeerStream, v1};
use volattach::attach::Engine;
use volattach::auth::{Authenticator, LocalPeers, Peer, PeerCredentials};
use volattach::config::Settings;
use volattach::host::Host;
use volattach::model::{VolumeFacts, VolumeOwner};
use volattach::policy::{DEFAULTS, PolicyFiles, PolicyStore};

use crate::fakes::{self, World, admit, attach, by_root, connect, root, smb};
use crate::fixture::{Keystone, LONG, Lifetimes};
use crate::{shared, socket};

/// Cinder's recipe for an administrator who may look and not touch, as the documentation has it.
fn observer() -> &'static str {
    let page = include_str!("../../docs/policy.md");
    let section = page.split("\n## An administrator who only looks\n").nth(1);
    let block = section.and_then(|section| section.split("```yaml\n").nth(1));
    block.and_then(|block| block.split("```").next()).unwrap()
}

/// Who calls.
#[derive(Clone)]
struct Caller {
    name: &'static str,
    /// Who the kernel says that it is.
    peer: Option<u32>,
    user: Option<String>,
    service: Option<String>,
    /// Further metadata.
    forged: &'static [(&'static str, &'static str)],
}

impl Caller {
    fn new(name: &'static str, user: Option<&str>, service: Option<&str>) -> Self {
        Self {
            name,
            peer: None,
            user: user.map(str::to_owned),
            service: service.map(str::to_owned),
            forged: &[],
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let tokens = [
            ("x-auth-token", &self.user),
            ("x-service-token", &self.service),
        ];
        for (name, token) in tokens {
            if let Some(token) = token {
                request.metadata_mut().insert(name, token.parse().unwrap());
            }
        }
        for (name, value) in self.forged {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        request
    }
}

/// A daemon without a daemon, over a world of fakes; who calls is Keystone's word.
struct Server {
    dir: tempfile::TempDir,
    admission: Arc<Admission>,
    world: World,
    engine: Engine,
    clients: BTreeMap<Option<u32>, VolumeAttachClient<Channel>>,
    serving: Vec<tokio::task::JoinHandle<()>>,
    /// Of the volumes: whose they are.
    owner: VolumeOwner,
    made: u32,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Server {
    /// By the rules in code and those of `policy`.
    async fn start(keystone: &Keystone, policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.yaml");
        std::fs::write(&file, policy).unwrap();
        let files = PolicyFiles {
            file,
            ..PolicyFiles::default()
        };
        let policy = PolicyStore::open(files, |_| {}).unwrap();
        let mut settings = keystone.settings();
        settings.audit_role = Some("auditor".to_owned());
        let admission = Arc::new(Admission::new(policy, settings.audit_role.clone()));
        let asked = volattach::auth::Keystone::new(&settings).unwrap();
        let authenticator = Authenticator::new(LocalPeers::with_ids(0, None)).with_keystone(asked);
        let world = World::new();
        let engine = world.engine();
        let host = Arc::new(Host::beneath(dir.path().join("host")));
        let limits = Settings::built_in().limits;
        let api = Api::new(
            engine.clone(),
            host,
            authenticator,
            admission.clone(),
            &limits,
        );
        let api = api.await.unwrap();
        let mut clients = BTreeMap::new();
        let mut serving = Vec::new();
        for peer in [None, Some(0), Some(4711)] {
            let socket = dir.path().join(format!("socket{peer:?}"));
            let listener = UnixListener::bind(&socket).unwrap();
            let server = tonic::transport::Server::builder().add_routes(api.routes());
            let accepted = tokio_stream::wrappers::UnixListenerStream::new(listener);
            let accepted = accepted.map(move |stream| {
                let peer = peer.map(|uid| {
                    Peer::Local(PeerCredentials {
                        uid,
                        gid: uid,
                        groups: Vec::new(),
                        pid: None,
                    })
                });
                stream.map(|stream| PeerStream::unix(stream, peer))
            });
            serving.push(tokio::spawn(async move {
                server.serve_with_incoming(accepted).await.unwrap();
            }));
            let endpoint = Endpoint::from_static("http://server.invalid");
            let channel = socket::connect(endpoint, &socket).await;
            clients.insert(peer, VolumeAttachClient::new(channel.unwrap()));
        }
        let owner = VolumeOwner {
            project_id: Some(keystone.id("demo").to_owned()),
            user_id: Some(keystone.id("member").to_owned()),
            ..VolumeOwner::default()
        };
        Self {
            dir,
            admission,
            world,
            engine,
            clients,
            serving,
            owner,
            made: 0,
        }
    }

    /// From now on its policy file says this.
    fn rule(&self, policy: &str) {
        std::fs::write(self.dir.path().join("policy.yaml"), policy).unwrap();
        // A file is read once it has looked the same twice.
        self.admission.refresh();
        self.admission.refresh();
    }

    fn told(&self) -> v1::VolumeFacts {
        v1::VolumeFacts {
            project_id: self.owner.project_id.clone().unwrap_or_default(),
            user_id: self.owner.user_id.clone().unwrap_or_default(),
            service_owned: self.owner.service_owned,
            ..v1::VolumeFacts::default()
        }
    }

    /// What each call comes to for the caller: on attachments of its own making, which are the owner's.
    async fn row(&mut self, caller: &Caller) -> Vec<(&'static str, String)> {
        let mut cells = Vec::new();
        for call in CALLS {
            self.made += 1;
            let id = format!("a{}", self.made);
            let facts = Some(VolumeFacts {
                owner: self.owner.clone(),
                ..VolumeFacts::default()
            });
            let volume = format!("v-{id}");
            if call.contains("onnect") {
                if *call != "ConnectVolume" && *call != "GetConnector" {
                    let mut request = connect(&id, &volume, smb(&id));
                    request.facts = facts;
                    self.engine.connect(by_root(request)).await.unwrap();
                }
            } else if !matches!(*call, "AttachVolume" | "PlanAttach") {
                let mut request = attach(&id, &volume, smb(&id));
                request.facts = facts;
                self.engine.attach(by_root(request)).await.unwrap();
            }
            let status = self.call(caller, call, &id, &volume).await;
            cells.push((*call, status.unwrap_or_else(|status| word(&status))));
            for end in [true, false] {
                let request = admit(root(), self.owner.clone(), fakes::end(&id));
                let ended = match end {
                    true => self.engine.detach(request).await,
                    false => self.engine.disconnect(request).await,
                };
                drop(ended);
            }
        }
        assert!(self.world.state().disks.is_empty());
        cells
    }

    async fn call(
        &self,
        caller: &Caller,
        call: &str,
        id: &str,
        volume: &str,
    ) -> Result<String, Status> {
        let mut client = self.clients[&caller.peer].clone();
        let id = id.to_owned();
        let volume_id = volume.to_owned();
        let info = Some(v1::ConnectionInfo {
            form: Some(v1::connection_info::Form::Smb(v1::SmbVolume {
                export: "//files/vols".to_owned(),
                name: id.clone(),
                ..v1::SmbVolume::default()
            })),
        });
        let attach = v1::AttachVolumeRequest {
            attachment_id: id.clone(),
            volume_id: volume_id.clone(),
            domain: "web".to_owned(),
            connection_info: info.clone(),
            volume: Some(self.told()),
            ..v1::AttachVolumeRequest::default()
        };
        let filter = Some(v1::AttachmentFilter {
            volume_id: volume_id.clone(),
            ..v1::AttachmentFilter::default()
        });
        let yes = "yes".to_owned();
        macro_rules! ask {
            ($method:ident($message:expr)) => {
                client.$method(caller.request($message)).await?.into_inner()
            };
        }
        Ok(match call {
            "AttachVolume" => {
                ask!(attach_volume(attach));
                yes
            }
            "PlanAttach" => {
                let request = Some(attach);
                ask!(plan_attach(v1::PlanAttachRequest { request }));
                yes
            }
            "DetachVolume" | "DetachVolume, force" => {
                ask!(detach_volume(v1::DetachVolumeRequest {
                    attachment_id: id,
                    force: call.ends_with("force"),
                }));
                yes
            }
            "ConnectVolume" => {
                ask!(connect_volume(v1::ConnectVolumeRequest {
                    attachment_id: id,
                    volume_id,
                    connection_info: info,
                    volume: Some(self.told()),
                    ..v1::ConnectVolumeRequest::default()
                }));
                yes
            }
            "DisconnectVolume" => {
                ask!(disconnect_volume(v1::DisconnectVolumeRequest {
                    attachment_id: id,
                    force: false,
                }));
                yes
            }
            "CancelDetach" => {
                ask!(cancel_detach(v1::CancelDetachRequest { attachment_id: id }));
                yes
            }
            "ExtendVolume" => {
                ask!(extend_volume(v1::ExtendVolumeRequest {
                    attachment_id: id,
                    size_bytes: 0,
                }));
                yes
            }
            "SetIoTune" => {
                ask!(set_io_tune(v1::SetIoTuneRequest {
                    attachment_id: id,
                    limits: Some(v1::set_io_tune_request::Limits::Iotune(
                        v1::IoTune::default(),
                    )),
                }));
                yes
            }
            "GetAttachmentStats" => {
                ask!(get_attachment_stats(v1::GetAttachmentStatsRequest {
                    attachment_id: id
                }));
                yes
            }
            "GetAttachment" => {
                ask!(get_attachment(v1::GetAttachmentRequest {
                    attachment_id: id
                }));
                yes
            }
            "ListAttachments" => {
                let list = ask!(list_attachments(v1::ListAttachmentsRequest {
                    filter,
                    ..v1::ListAttachmentsRequest::default()
                }));
                let seen = list.attachments.len();
                format!("sees {seen}")
            }
            "WatchAttachments" => {
                ask!(watch_attachments(v1::WatchAttachmentsRequest {
                    filter,
                    ..Default::default()
                }));
                yes
            }
            "GetConnector" => {
                ask!(get_connector(v1::GetConnectorRequest {}));
                yes
            }
            "Diagnose" => {
                ask!(diagnose(v1::DiagnoseRequest {}));
                yes
            }
            "ForgetAttachment" => {
                let message = v1::ForgetAttachmentRequest {
                    attachment_id: id,
                    confirmed: false,
                };
                let forgotten = client.forget_attachment(caller.request(message)).await;
                match forgotten {
                    // Let in: the attachment is not one to forget.
                    Err(status) if status.code() == Code::FailedPrecondition => yes,
                    forgotten => forgotten.map(|_| yes)?,
                }
            }
            "GetVolumePermissions" => {
                ask!(get_volume_permissions(v1::GetVolumePermissionsRequest {
                    volume_id
                }));
                yes
            }
            "SetVolumePermissions" => {
                ask!(set_volume_permissions(v1::SetVolumePermissionsRequest {
                    volume_id,
                    permissions: "640".to_owned(),
                }));
                yes
            }
            other => panic!("{other}"),
        })
    }
}

const CALLS: &[&str] = &[
    "AttachVolume",
    "DetachVolume",
    "DetachVolume, force",
    "CancelDetach",
    "ConnectVolume",
    "DisconnectVolume",
    "ExtendVolume",
    "SetIoTune",
    "GetAttachmentStats",
    "PlanAttach",
    "GetAttachment",
    "ListAttachments",
    "WatchAttachments",
    "GetConnector",
    "GetVolumePermissions",
    "SetVolumePermissions",
    "Diagnose",
    "ForgetAttachment",
];

fn word(status: &Status) -> String {
    match status.code() {
        Code::PermissionDenied => "no".to_owned(),
        Code::Unauthenticated => "who?".to_owned(),
        Code::Unavailable => "later".to_owned(),
        other => format!("{other:?}: {}", status.message()),
    }
}

/// A line a caller, a column a call.
async fn matrix(server: &mut Server, callers: &[Caller]) -> String {
    let mut lines = Vec::new();
    let mut head = String::new();
    for caller in callers {
        let cells = server.row(caller).await;
        let mut line = format!("{:<26}", caller.name);
        head = format!("{:<26}", "");
        for (call, said) in cells {
            let short: String = match call {
                "DetachVolume, force" => "Force".to_owned(),
                other => other
                    .replace("Volume", "")
                    .replace("Attachments", "")
                    .replace("Attachment", ""),
            };
            let width = short.len().max(6) + 1;
            head.push_str(&format!("{short:<width$}"));
            line.push_str(&format!("{said:<width$}"));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.insert(0, head.trim_end().to_owned());
    lines.join("\n")
}

/// Everybody, with new tokens.
fn everybody(keystone: &Keystone) -> Vec<Caller> {
    let token = |user: &str| {
        let project = match user {
            "stranger" | "admin" | "observer" | "guide" => "other",
            "nova" | "auditor" => "service",
            _ => "demo",
        };
        keystone.token(user, project)
    };
    let nova = token("nova");
    let mut callers = vec![
        Caller::new("anonymous", None, None),
        Caller {
            peer: Some(0),
            ..Caller::new("local root", None, None)
        },
        Caller {
            peer: Some(4711),
            ..Caller::new("local stranger", None, None)
        },
    ];
    for (alone, with, user) in [
        ("other project's", "other project's + service", "stranger"),
        ("reader", "reader + service", "reader"),
        ("member", "member + service", "member"),
        ("role called service", "", "pretender"),
        ("admin", "admin + service", "admin"),
        ("observer", "observer + service", "observer"),
        ("observer and member", "", "guide"),
    ] {
        let token = token(user);
        callers.push(Caller::new(alone, Some(&token), None));
        if !with.is_empty() {
            callers.push(Caller::new(with, Some(&token), Some(&nova)));
        }
    }
    let auditor = token("auditor");
    callers.extend([
        Caller::new("service alone", None, Some(&nova)),
        Caller::new("service as a user", Some(&nova), None),
        Caller::new("auditor alone", None, Some(&auditor)),
        Caller::new("auditor as a user", Some(&auditor), None),
        Caller::new(
            "member + no service",
            Some(&token("member")),
            Some(&token("reader")),
        ),
        Caller {
            peer: Some(0),
            ..Caller::new("bad token of root's", Some("no-such-token"), None)
        },
    ]);
    callers
}

/// The callers of these names.
fn some(keystone: &Keystone, names: &[&str]) -> Vec<Caller> {
    let mut callers = everybody(keystone);
    callers.retain(|caller| names.contains(&caller.name));
    assert_eq!(callers.len(), names.len());
    callers
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_may_do_what_the_matrix_says() {
    let keystone = shared();
    let mut server = Server::start(&keystone, "").await;
    let said = matrix(&mut server, &everybody(&keystone)).await;
    insta::assert_snapshot!(said, @r"
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    anonymous                 who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    local root                yes    yes    yes    yes          yes     yes        yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      yes
    local stranger            no     no     no     no           no      no         no     no        no       no         no     no     no     no           no             no             no       no
    other project's           no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    no           no             no             no       no
    other project's + service no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    yes          no             no             no       no
    reader                    no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    no           yes            no             no       no
    reader + service          no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             no       no
    member                    no     yes    no     yes          no      no         yes    no        yes      no         yes    sees 1 yes    no           yes            yes            no       no
    member + service          yes    yes    no     yes          yes     yes        yes    no        yes      yes        yes    sees 1 yes    yes          yes            yes            no       no
    role called service       no     yes    no     yes          no      no         yes    no        yes      no         yes    sees 1 yes    no           yes            no             no       no
    admin                     yes    yes    no     yes          no      no         yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      no
    admin + service           yes    yes    yes    yes          yes     yes        yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      yes
    observer                  no     no     no     no           no      no         no     no        no       no         no     no     no     no           no             no             no       no
    observer + service        no     no     no     no           no      no         no     no        no       no         no     no     no     yes          no             no             no       no
    observer and member       no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    no           no             no             no       no
    service alone             who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    service as a user         no     no     no     no           no      no         no     no        no       no         no     no     no     no           no             no             no       no
    auditor alone             no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             yes      no
    auditor as a user         no     no     no     no           no      no         no     no        no       no         no     no     no     no           no             no             no       no
    member + no service       who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    bad token of root's       who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn cinders_observer_sees_all_and_changes_nothing() {
    let keystone = shared();
    let mut server = Server::start(&keystone, observer()).await;
    let names = [
        "observer",
        "observer + service",
        "observer and member",
        "admin + service",
        "member + service",
        "other project's",
    ];
    let said = matrix(&mut server, &some(&keystone, &names)).await;
    insta::assert_snapshot!(said, @r"
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    other project's           no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    no           no             no             no       no
    member + service          yes    yes    no     yes          yes     yes        yes    no        yes      yes        yes    sees 1 yes    no           yes            no             no       no
    admin + service           yes    yes    yes    yes          yes     yes        yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      yes
    observer                  no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             yes      no
    observer + service        no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             yes      no
    observer and member       no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             yes      no
    ");
}

/// Whoever has no service's token makes no volume the own project's by saying so, whatever the policy takes the caller for.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_alone_does_not_say_whose_a_volume_is() {
    let keystone = shared();
    // As Cinder's own rules for changes are in that recipe.
    let strict = "(not role:cinder:reader-admin and is_admin:True) or project_id:%(project_id)s";
    let strict = format!("{}\"volume:attachment_create\": \"{strict}\"\n", observer());
    for policy in ["", observer(), &strict] {
        let mut server = Server::start(&keystone, policy).await;
        server.owner.project_id = Some(keystone.id("other").to_owned());
        let liars = ["other project's", "observer", "observer and member"];
        for liar in some(&keystone, &liars) {
            for call in ["AttachVolume", "PlanAttach", "ConnectVolume"] {
                let said = server.call(&liar, call, "a", "v").await.unwrap_err();
                assert_eq!(word(&said), "no", "{}: {call}: {said:?}", liar.name);
            }
        }
    }
}

/// What is left where a policy lets everybody do everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_allows_all_does_not_lift_the_floor() {
    let keystone = shared();
    let asked_for = DEFAULTS.iter().filter(|rule| !rule.operations.is_empty());
    let open: String = asked_for
        .map(|rule| format!("{:?}: '@'\n", rule.name))
        .collect();
    let mut server = Server::start(&keystone, &open).await;
    let names = [
        "anonymous",
        "local stranger",
        "other project's",
        "other project's + service",
        "role called service",
        "admin",
        "service alone",
        "service as a user",
        "auditor alone",
    ];
    let callers = some(&keystone, &names);
    let said = matrix(&mut server, &callers).await;
    insta::assert_snapshot!(said, @r"
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    anonymous                 who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    local stranger            no     no     no     no           no      no         no     no        no       no         no     no     no     no           no             no             no       no
    other project's           yes    yes    no     yes          no      no         yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      no
    other project's + service yes    yes    yes    yes          yes     yes        yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      yes
    role called service       yes    yes    no     yes          no      no         yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      no
    admin                     yes    yes    no     yes          no      no         yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      no
    service alone             who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    service as a user         yes    yes    no     yes          no      no         yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      no
    auditor alone             no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             yes      no
    ");
    server.owner.service_owned = true;
    let said = matrix(&mut server, &callers).await;
    insta::assert_snapshot!(said, @r"
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    anonymous                 who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    local stranger            no     no     no     no           no      no         no     no        no       no         no     no     no     no           no             no             no       no
    other project's           no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    yes          no             no             yes      no
    other project's + service yes    yes    yes    yes          yes     yes        yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      yes
    role called service       no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    yes          no             no             yes      no
    admin                     no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    yes          no             no             yes      no
    service alone             who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    service as a user         no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    yes          no             no             yes      no
    auditor alone             no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             yes      no
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_own_volume_takes_both_halves() {
    let keystone = shared();
    let mut server = Server::start(&keystone, "").await;
    server.owner.service_owned = true;
    let names = [
        "member",
        "member + service",
        "admin",
        "admin + service",
        "service alone",
        "auditor alone",
        "local root",
    ];
    let said = matrix(&mut server, &some(&keystone, &names)).await;
    insta::assert_snapshot!(said, @r"
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    local root                yes    yes    yes    yes          yes     yes        yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      yes
    member                    no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    no           no             no             no       no
    member + service          yes    yes    no     yes          yes     yes        yes    no        yes      yes        yes    sees 1 yes    yes          yes            yes            no       no
    admin                     no     no     no     no           no      no         no     no        no       no         no     sees 0 yes    yes          no             no             yes      no
    admin + service           yes    yes    yes    yes          yes     yes        yes    yes       yes      yes        yes    sees 1 yes    yes          yes            yes            yes      yes
    service alone             who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    auditor alone             no     no     no     no           no      no         no     no        yes      no         yes    sees 1 yes    yes          yes            no             yes      no
    ");
}

/// Who leaves out, or denies, what was told with an earlier attachment gets no further.
#[tokio::test(flavor = "multi_thread")]
async fn a_services_own_volume_remains_so_whatever_a_later_request_says() {
    let keystone = shared();
    let mut server = Server::start(&keystone, "").await;
    let mut request = connect("first", "v", smb("first"));
    request.facts = Some(VolumeFacts {
        owner: VolumeOwner {
            service_owned: true,
            ..server.owner.clone()
        },
        ..VolumeFacts::default()
    });
    request.disk.shareable = true;
    server.engine.connect(by_root(request)).await.unwrap();
    let [admin, both] = &some(&keystone, &["admin", "admin + service"])[..] else {
        panic!("two callers");
    };
    let told = server.owner.clone();
    for owner in [told, VolumeOwner::default()] {
        server.owner = owner;
        for call in ["AttachVolume", "PlanAttach"] {
            let said = server.call(admin, call, "second", "v").await.unwrap_err();
            assert_eq!(word(&said), "no", "{call}: {said:?}");
        }
    }
    let said = server.call(both, "AttachVolume", "second", "v").await;
    assert_eq!(said.unwrap(), "yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_says_of_itself_counts_for_nothing() {
    let keystone = shared();
    let mut server = Server::start(&keystone, "").await;
    let honest = some(
        &keystone,
        &["anonymous", "reader", "other project's + service"],
    );
    let forged = honest.iter().cloned().map(|caller| Caller {
        forged: &[
            ("x-identity-status", "Confirmed"),
            ("x-user-id", "admin"),
            ("x-roles", "admin,service,auditor"),
            ("x-service-identity-status", "Confirmed"),
            ("x-service-roles", "service"),
            ("x-project-id", "demo"),
            ("x-is-admin-project", "True"),
        ],
        ..caller
    });
    let forged: Vec<_> = forged.collect();
    let expected = matrix(&mut server, &honest).await;
    assert_eq!(matrix(&mut server, &forged).await, expected);
}

/// A watch tells of what the caller may see at that moment, and of nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_leaves_out_what_the_caller_may_not_see() {
    let keystone = shared();
    let server = Server::start(&keystone, "").await;
    let [reader] = &some(&keystone, &["reader"])[..] else {
        panic!("one reader");
    };
    let attach_of = async |id: &str, project: &str| {
        let mut request = attach(id, &format!("v-{id}"), smb(id));
        request.facts = Some(VolumeFacts {
            owner: VolumeOwner {
                project_id: Some(project.to_owned()),
                ..VolumeOwner::default()
            },
            ..VolumeFacts::default()
        });
        server.engine.attach(by_root(request)).await.unwrap();
    };
    attach_of("before", keystone.id("other")).await;
    let mut client = server.clients[&None].clone();
    let request = reader.request(v1::WatchAttachmentsRequest::default());
    let mut changes = client
        .watch_attachments(request)
        .await
        .unwrap()
        .into_inner();
    attach_of("hidden", keystone.id("other")).await;
    attach_of("shown", keystone.id("demo")).await;
    let mut next = async || {
        loop {
            let change = tokio::time::timeout(LONG, changes.message()).await.unwrap();
            if let Some(attachment) = change.unwrap().unwrap().attachment {
                return attachment;
            }
        }
    };
    loop {
        let change = next().await;
        assert_eq!(change.attachment_id, "shown");
        if change.state() == v1::State::Attached {
            break;
        }
    }
    server.rule("'volume:attachment_watch': '\"last\":%(attachment_id)s'\n");
    attach_of("hidden-too", keystone.id("demo")).await;
    attach_of("last", keystone.id("demo")).await;
    assert_eq!(next().await.attachment_id, "last");
}

/// Short lives: of those tokens that are made once, and of Keystone itself.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_are_revoked_and_cannot_be_asked_about() {
    let keystone = Keystone::start(Lifetimes {
        expiration: 8,
        allow_expired_window: 3600,
    });
    let mut server = Server::start(&keystone, "").await;
    let member = keystone.token("member", "demo");
    let revoked = keystone.token("member", "demo");
    keystone.revoke(&revoked);
    let row = |name, user: &str, service: Option<&str>| Caller::new(name, Some(user), service);
    let mut said = matrix(&mut server, &[row("revoked member", &revoked, None)]).await;
    let deadline = std::time::Instant::now() + LONG;
    while server
        .call(&row("", &member, None), "ListAttachments", "x", "x")
        .await
        .is_ok()
    {
        assert!(
            std::time::Instant::now() < deadline,
            "the token does not expire"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let nova = keystone.token("nova", "service");
    let expired = [
        row("expired member", &member, None),
        row("expired member + service", &member, Some(&nova)),
    ];
    said += "\n";
    said += &matrix(&mut server, &expired).await;
    let known = keystone.token("member", "demo");
    server
        .call(&row("", &known, None), "ListAttachments", "x", "x")
        .await
        .unwrap();
    let unknown = keystone.token("member", "demo");
    keystone.stop();
    said += "\n";
    said += &matrix(
        &mut server,
        &[row("unknown, Keystone down", &unknown, None)],
    )
    .await;
    let still = server
        .call(&row("", &known, None), "ListAttachments", "x", "x")
        .await;
    said += &format!("\nknown, Keystone down: {}", still.unwrap());
    insta::assert_snapshot!(said, @r"
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    revoked member            who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    expired member            who?   who?   who?   who?         who?    who?       who?   who?      who?     who?       who?   who?   who?   who?         who?           who?           who?     who?
    expired member + service  yes    yes    no     yes          yes     yes        yes    no        yes      yes        yes    sees 1 yes    yes          yes            yes            no       no
                              Attach Detach Force  CancelDetach Connect Disconnect Extend SetIoTune GetStats PlanAttach Get    List   Watch  GetConnector GetPermissions SetPermissions Diagnose Forget
    unknown, Keystone down    later  later  later  later        later   later      later  later     later    later      later  later  later  later        later          later          later    later
    known, Keystone down: sees 0
    ");
}
