//! A daemon that answers from what it was given.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};
use volattach::api::v1::volume_attach_server::VolumeAttach;
use volattach::api::v1::{self, Access, Attachment, Finding, Severity, State};

/// What a daemon answers.
#[derive(Clone)]
pub(crate) struct Canned {
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) changes: broadcast::Sender<Attachment>,
}

impl Canned {
    fn new(attachments: Vec<Attachment>, findings: Vec<Finding>) -> Self {
        Self {
            attachments,
            findings,
            changes: broadcast::Sender::new(16),
        }
    }

    fn watch(&self) -> BoxStream<'static, Result<v1::WatchAttachmentsResponse, Status>> {
        let message = |attachment, revision: &str| v1::WatchAttachmentsResponse {
            attachment,
            revision: revision.to_owned(),
            left_filter: false,
        };
        let there = self.attachments.iter().cloned();
        let mut there: Vec<_> = there.map(|it| message(Some(it), "")).collect();
        there.push(message(None, "1"));
        let changes = futures::stream::unfold(self.changes.subscribe(), |mut changes| async {
            let change = changes.recv().await.ok()?;
            Some((change, changes))
        });
        futures::stream::iter(there)
            .chain(changes.map(move |it| message(Some(it), "2")))
            .map(Ok)
            .boxed()
    }
}

macro_rules! canned {
    ($($name:ident: $request:ident -> $answer:ident,)*) => {
        #[tonic::async_trait]
        impl VolumeAttach for Canned {
            $(async fn $name(&self, _: Request<v1::$request>) -> Result<Response<v1::$answer>, Status> {
                Err(Status::unimplemented("the page reads only"))
            })*

            type WatchAttachmentsStream = BoxStream<'static, Result<v1::WatchAttachmentsResponse, Status>>;

            async fn watch_attachments(
                &self,
                _: Request<v1::WatchAttachmentsRequest>,
            ) -> Result<Response<Self::WatchAttachmentsStream>, Status> {
                Ok(Response::new(self.watch()))
            }

            async fn diagnose(
                &self,
                _: Request<v1::DiagnoseRequest>,
            ) -> Result<Response<v1::DiagnoseResponse>, Status> {
                Ok(Response::new(v1::DiagnoseResponse {
                    findings: self.findings.clone(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    left_out: 0,
                }))
            }
        }
    };
}

canned! {
    attach_volume: AttachVolumeRequest -> AttachVolumeResponse,
    detach_volume: DetachVolumeRequest -> DetachVolumeResponse,
    cancel_detach: CancelDetachRequest -> CancelDetachResponse,
    connect_volume: ConnectVolumeRequest -> ConnectVolumeResponse,
    disconnect_volume: DisconnectVolumeRequest -> DisconnectVolumeResponse,
    get_attachment: GetAttachmentRequest -> Attachment,
    list_attachments: ListAttachmentsRequest -> ListAttachmentsResponse,
    plan_attach: PlanAttachRequest -> PlanAttachResponse,
    get_connector: GetConnectorRequest -> Connector,
    extend_volume: ExtendVolumeRequest -> ExtendVolumeResponse,
    set_io_tune: SetIoTuneRequest -> SetIoTuneResponse,
    get_attachment_stats: GetAttachmentStatsRequest -> AttachmentStats,
    get_volume_permissions: GetVolumePermissionsRequest -> VolumePermissions,
    set_volume_permissions: SetVolumePermissionsRequest -> VolumePermissions,
    forget_attachment: ForgetAttachmentRequest -> ForgetAttachmentResponse,
}

/// A number that looks like chance and is always the same.
fn scattered(number: u64) -> u128 {
    u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

/// The attachment of that number, sound.
pub(crate) fn attachment(number: u64) -> Attachment {
    let uuid =
        |number| uuid::Builder::from_random_bytes(scattered(number).to_be_bytes()).into_uuid();
    let age = Duration::from_secs(scattered(number) as u64 % (9 * 86_400));
    let (protocol, servers, planned): (&str, &[&str], u32) = match number % 5 {
        0 => ("smbfs", &["files.example.org"], 0),
        1 => ("nfs", &["nas-1.example.org"], 0),
        2 => ("iscsi", &["10.20.0.11", "10.20.0.12"], 2),
        3 => ("nvmeof", &["10.20.1.21", "10.20.1.22"], 2),
        _ => ("local", &[], 0),
    };
    let read_only = number.is_multiple_of(7);
    let why = match number % 2 {
        0 => "the request asks for read-only",
        _ => "permissions 640 let the group only read",
    };
    Attachment {
        attachment_id: uuid(number + 1).to_string(),
        volume_id: uuid(number + 100_001).to_string(),
        domain_uuid: uuid(number / 4).to_string(),
        domain_name: format!("instance-{:08x}", number / 4 + 0x1a0),
        protocol: protocol.to_owned(),
        access: if read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        }
        .into(),
        access_reason: why.to_owned(),
        state: State::Attached.into(),
        target: format!("vd{}", ['b', 'c', 'd', 'e'][number as usize % 4]),
        permissions: if number.is_multiple_of(3) { "640" } else { "" }.to_owned(),
        servers: servers.iter().map(|it| (*it).to_owned()).collect(),
        paths: (planned > 0).then_some(v1::PathCount {
            working: planned,
            planned,
        }),
        created_at: Some((SystemTime::now() - age).into()),
        ..Attachment::default()
    }
}

/// The same, with an error.
pub(crate) fn failing(number: u64, state: State, reason: &str, error: &str) -> Attachment {
    Attachment {
        state: state.into(),
        error_reason: reason.to_owned(),
        error: error.to_owned(),
        ..attachment(number)
    }
}

fn finding(severity: Severity, id: &str, what: &str, mend: &str) -> Finding {
    Finding {
        severity: severity.into(),
        what: what.to_owned(),
        mend: mend.to_owned(),
        attachment_id: id.to_owned(),
        server: String::new(),
    }
}

/// A host without an attachment.
pub(crate) fn empty() -> Canned {
    Canned::new(vec![], vec![])
}

/// A host with a thousand sound attachments.
pub(crate) fn full() -> Canned {
    Canned::new((0..1000).map(attachment).collect(), vec![])
}

/// A host with everything wrong, and names that are markup.
pub(crate) fn broken() -> Canned {
    let mut all: Vec<_> = (0..24).map(attachment).collect();
    all[3] = failing(
        3,
        State::Lost,
        "DISK_LOST",
        "the domain has the disk no more: somebody else detached it",
    );
    all[8] = failing(
        8,
        State::Detaching,
        "UNPLUG_PENDING",
        "the guest has not let go of vdb",
    );
    all[10] = failing(
        10,
        State::Failed,
        "SERVER_TIMEOUT",
        "cannot unmount /var/lib/volattach/mnt/6242f30e95a1ede203e6767f08771615: files.example.org does not answer",
    );
    all[15].domain_name =
        "</td><script>alert(1)</script><img src=//evil.example/x>\u{202e}".to_owned();
    for short in [12, 17] {
        if let Some(paths) = &mut all[short].paths {
            paths.working = 1;
        }
    }
    let id = |number: usize| all[number].attachment_id.as_str();
    let mut silent = finding(
        Severity::Error,
        "",
        "the server files.example.org has not answered since 2026-01-05T08:12:44Z (SERVER_TIMEOUT), and calls that need it fail; it is asked for a sign of life again in 16 s; attachments on it: 5",
        "start the server, or mend the way to it (ping files.example.org); volattach list --server files.example.org shows its attachments; calls go on by themselves once it answers",
    );
    silent.server = "files.example.org".to_owned();
    let findings = vec![
        silent,
        finding(
            Severity::Error,
            id(3),
            "lost: the domain has the disk no more: somebody else detached it",
            &format!(
                "volattach attach … again by the same request, or volattach detach {}",
                id(3)
            ),
        ),
        finding(
            Severity::Error,
            id(10),
            "failed (SERVER_TIMEOUT): cannot unmount /var/lib/volattach/mnt/6242f30e95a1ede203e6767f08771615: files.example.org does not answer",
            &format!("volattach detach {}", id(10)),
        ),
        finding(
            Severity::Error,
            "",
            "no record of iSCSI session 7 to iqn.2010-10.org.openstack:volume-9 at 10.20.0.11:3260",
            "iscsiadm -m node -T iqn.2010-10.org.openstack:volume-9 -p 10.20.0.11:3260 --logout",
        ),
        finding(
            Severity::Warning,
            id(8),
            "detaching (unanswered unplug requests: 4, the last at 2026-01-05T08:20:01Z): the guest has not let go of vdb",
            &format!("volattach cancel-detach {}, or wait for the guest", id(8)),
        ),
        finding(
            Severity::Warning,
            id(12),
            "1 of 2 paths to its volume work",
            "check the network and the portals of 10.20.0.11, 10.20.0.12: the daemon makes missing paths again once their portals answer",
        ),
        finding(
            Severity::Warning,
            "",
            "the file system of /var/lib/volattach has 3 % left (400 MiB), below 5 %",
            "df -h /var/lib/volattach; remove what fills it, or give it more room",
        ),
        finding(
            Severity::Warning,
            "gone-before",
            "its record cannot be read: it has version 9",
            "install the build of volattachd that wrote it",
        ),
    ];
    let ids: BTreeSet<_> = all.iter().map(|it| &it.attachment_id).collect();
    assert_eq!(ids.len(), all.len());
    Canned::new(all, findings)
}
