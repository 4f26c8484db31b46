//! The commands that ask the daemon.

use serde_json::json;
use uuid::Uuid;

use super::args::{AttachArgs, Command, ConnectArgs, Format, Global, Mode, PlanArgs};
use super::client::Client;
use super::failure::Failure;
use super::{doctor, limits, output, progress, request, watch};
use crate::api::v1;

type Result<T> = std::result::Result<T, Failure>;

/// Attachments asked for at a time.
const PAGE: u32 = 500;

/// Runs one command.
pub(super) async fn run(global: Global, command: Command) -> Result<()> {
    let format = global.output;
    match command {
        // Boxed: the futures are large.
        Command::Attach(args) => Box::pin(attach(&global, args)).await,
        Command::Detach { id, force } => detach(&global, id, force).await,
        Command::CancelDetach { id } => {
            let mut client = Client::connect(&global).await?;
            let message = client.request(v1::CancelDetachRequest { attachment_id: id });
            let answer = client.rpc.cancel_detach(message).await;
            let attachment = client.answer(answer)?.attachment.unwrap_or_default();
            output::to_stdout(&output::attachment(format, &attachment))
        }
        Command::Forget { id, yes } => forget(&global, id, yes).await,
        Command::Connect(args) => Box::pin(connect(&global, args)).await,
        Command::Disconnect { id, force } => disconnect(&global, id, force).await,
        Command::Extend { id, size } => extend(&global, id, size).await,
        Command::Iotune(args) => limits::iotune(&global, args).await,
        Command::Stats { id, watch } => limits::stats(&global, &id, watch).await,
        Command::Permissions { id, mode } => permissions(&global, id, mode).await,
        Command::List(filter) => {
            let found = list(Client::connect(&global).await?, filter.into()).await?;
            output::to_stdout(&match format {
                Format::Table => output::attachments(&found),
                Format::Json => {
                    let found: Vec<_> = found.iter().map(output::attachment_json).collect();
                    json!({ "attachments": found }).to_string()
                }
            })
        }
        Command::Show { id } => {
            let mut client = Client::connect(&global).await?;
            let message = client.request(v1::GetAttachmentRequest { attachment_id: id });
            let answer = client.rpc.get_attachment(message).await;
            let attachment = client.answer(answer)?;
            output::to_stdout(&output::attachment(format, &attachment))
        }
        Command::Watch(filter) => watch::run(&global, filter).await,
        Command::Plan(args) => plan(&global, args).await,
        Command::Connector => {
            let mut client = Client::connect(&global).await?;
            let message = client.request(v1::GetConnectorRequest {});
            let answer = client.rpc.get_connector(message).await;
            let connector = client.answer(answer)?;
            output::to_stdout(&output::connector(format, &connector))
        }
        // `super::run` does these: they ask no daemon, or have an exit code of their own.
        Command::Cinder(_)
        | Command::Completions { .. }
        | Command::Doctor
        | Command::Journal(_)
        | Command::Man { .. }
        | Command::Web(_) => Ok(()),
    }
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

async fn attach(global: &Global, args: AttachArgs) -> Result<()> {
    let (domain, args) = (args.domain, args.connect);
    let (require_rw, boot) = (args.source.require_rw, args.source.boot);
    let (connection_info, access) = args.source.read()?;
    let id = args.id.unwrap_or_else(new_id);
    let client = Client::connect(global).await?;
    let message = client.request(v1::AttachVolumeRequest {
        attachment_id: id.clone(),
        volume_id: args.volume,
        domain,
        connection_info: Some(connection_info),
        access,
        disk: Some(args.disk.into()),
        volume: args.facts.into(),
        require_rw,
        boot,
    });
    let mut rpc = client.rpc.clone();
    let work = Box::pin(rpc.attach_volume(message));
    let answer = progress::follow(&client, global.output, &id, "attaching", work).await;
    let answer = client.answer(answer).map(|answer| answer.attachment);
    made(global.output, &id, answer)
}

async fn connect(global: &Global, args: ConnectArgs) -> Result<()> {
    let (require_rw, boot) = (args.source.require_rw, args.source.boot);
    let (connection_info, access) = args.source.read()?;
    let id = args.id.unwrap_or_else(new_id);
    let client = Client::connect(global).await?;
    let message = client.request(v1::ConnectVolumeRequest {
        attachment_id: id.clone(),
        volume_id: args.volume,
        connection_info: Some(connection_info),
        access,
        disk: Some(args.disk.into()),
        volume: args.facts.into(),
        require_rw,
        boot,
    });
    let mut rpc = client.rpc.clone();
    let work = Box::pin(rpc.connect_volume(message));
    let answer = progress::follow(&client, global.output, &id, "connecting", work).await;
    let answer = client.answer(answer).map(|answer| answer.attachment);
    made(global.output, &id, answer)
}

/// Prints what attach or connect made. A failure tells the id: it may have been chosen here, and may be needed.
fn made(format: Format, id: &str, answer: Result<Option<v1::Attachment>>) -> Result<()> {
    let attachment = answer.map_err(|failure| failure.note(&format!("attachment {id}")))?;
    let attachment = attachment.unwrap_or_default();
    output::to_stdout(&output::attachment(format, &attachment))
}

async fn detach(global: &Global, id: String, force: bool) -> Result<()> {
    let client = Client::connect(global).await?;
    let message = client.request(v1::DetachVolumeRequest {
        attachment_id: id.clone(),
        force,
    });
    let mut rpc = client.rpc.clone();
    let work = rpc.detach_volume(message);
    let answer = progress::follow(&client, global.output, &id, "detaching", work).await;
    client.answer(answer)?;
    output::to_stdout(&match global.output {
        Format::Table => format!("{id} is detached"),
        Format::Json => json!({ "attachment_id": id, "detached": true }).to_string(),
    })
}

async fn forget(global: &Global, id: String, confirmed: bool) -> Result<()> {
    let mut client = Client::connect(global).await?;
    let message = client.request(v1::ForgetAttachmentRequest {
        attachment_id: id.clone(),
        confirmed,
    });
    let answer = client.rpc.forget_attachment(message).await;
    let forgotten = client.answer(answer)?;
    output::to_stdout(&match global.output {
        Format::Table => doctor::forgotten(&id, &forgotten),
        Format::Json => json!({
            "attachment_id": id,
            "forgotten": forgotten.forgotten,
            "left": doctor::findings(&forgotten.left),
            "left_out": forgotten.left_out,
            "kept": Some(forgotten.kept).filter(|kept| !kept.is_empty()),
        })
        .to_string(),
    })
}

async fn disconnect(global: &Global, id: String, force: bool) -> Result<()> {
    let client = Client::connect(global).await?;
    let message = client.request(v1::DisconnectVolumeRequest {
        attachment_id: id.clone(),
        force,
    });
    let mut rpc = client.rpc.clone();
    let work = rpc.disconnect_volume(message);
    let answer = progress::follow(&client, global.output, &id, "disconnecting", work).await;
    client.answer(answer)?;
    output::to_stdout(&match global.output {
        Format::Table => format!("{id} is disconnected"),
        Format::Json => json!({ "attachment_id": id, "disconnected": true }).to_string(),
    })
}

/// Shows a volume's permissions, or sets them and shows what they are now.
async fn permissions(global: &Global, volume_id: String, mode: Option<Mode>) -> Result<()> {
    let mut client = Client::connect(global).await?;
    let answer = match mode {
        None => {
            let message = client.request(v1::GetVolumePermissionsRequest { volume_id });
            client.rpc.get_volume_permissions(message).await
        }
        Some(mode) => {
            let permissions = match mode {
                Mode::Set(permissions) => permissions.to_string(),
                Mode::Forget => String::new(),
            };
            let message = client.request(v1::SetVolumePermissionsRequest {
                volume_id,
                permissions,
            });
            client.rpc.set_volume_permissions(message).await
        }
    };
    let known = client.answer(answer)?;
    output::to_stdout(&output::permissions(global.output, &known))
}

async fn extend(global: &Global, id: String, size_bytes: u64) -> Result<()> {
    let mut client = Client::connect(global).await?;
    let message = client.request(v1::ExtendVolumeRequest {
        attachment_id: id.clone(),
        size_bytes,
    });
    let answer = client.rpc.extend_volume(message).await;
    let bytes = client.answer(answer)?.size_bytes;
    output::to_stdout(&match global.output {
        Format::Table => format!("{id} has {bytes} bytes"),
        Format::Json => json!({ "attachment_id": id, "size_bytes": bytes }).to_string(),
    })
}

/// Every attachment that matches, page by page.
pub(super) async fn list(
    mut client: Client,
    filter: v1::AttachmentFilter,
) -> Result<Vec<v1::Attachment>> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let message = client.request(v1::ListAttachmentsRequest {
            filter: Some(filter.clone()),
            page_size: PAGE,
            page_token,
        });
        let answer = client.rpc.list_attachments(message).await;
        let page = client.answer(answer)?;
        found.extend(page.attachments);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            output::wrong_first(&mut found);
            return Ok(found);
        }
    }
}

async fn plan(global: &Global, args: PlanArgs) -> Result<()> {
    let message = request::plan(args)?;
    let mut client = Client::connect(global).await?;
    let message = client.request(v1::PlanAttachRequest {
        request: Some(message),
    });
    let answer = client.rpc.plan_attach(message).await;
    let plan = client.answer(answer)?;
    output::to_stdout(&output::plan(global.output, &plan))
}
