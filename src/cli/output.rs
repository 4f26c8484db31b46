//! Answers, for people and for programs.

use std::borrow::Borrow;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

use super::args::Format;
use super::failure::Failure;
use crate::api::v1;
use crate::model::visible;

/// Writes an answer and a line end.
pub(super) fn to_stdout(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::output(&error))
}

/// Writes what is no answer.
pub(super) fn to_stderr(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{text}")
}

/// `ro` or `rw`.
pub(super) fn access(access: i32) -> &'static str {
    match v1::Access::try_from(access) {
        Ok(v1::Access::ReadOnly) => "ro",
        Ok(v1::Access::ReadWrite) => "rw",
        _ => "unknown",
    }
}

/// The state in lower case: `attached`. A newer daemon may have states that this program does not know.
pub(super) fn state(state: i32) -> String {
    let name = v1::State::try_from(state).map_or("STATE_UNKNOWN", |state| state.as_str_name());
    name.strip_prefix("STATE_").unwrap_or(name).to_lowercase()
}

/// Working paths of all.
pub(super) fn paths(paths: &v1::PathCount) -> String {
    format!("{} of {}", paths.working, paths.planned)
}

/// The state, and the paths if some are missing: `attached, 1 of 2 paths`.
fn state_and_paths(attachment: &v1::Attachment) -> String {
    let state = state(attachment.state);
    match attachment.paths.as_ref() {
        Some(count) if is_short(count) => format!("{state}, {} paths", paths(count)),
        _ => state,
    }
}

/// Whether paths are missing.
pub(super) fn is_short(paths: &v1::PathCount) -> bool {
    paths.working < paths.planned
}

/// How wrong an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    /// It has an error.
    Failing,
    /// It works, over fewer paths than planned.
    MissingPaths,
    /// Nothing is wrong with it.
    Sound,
}

/// How wrong an attachment is.
pub(super) fn health(attachment: &v1::Attachment) -> Health {
    if !attachment.error_reason.is_empty() {
        return Health::Failing;
    }
    match attachment.paths.as_ref().is_some_and(is_short) {
        true => Health::MissingPaths,
        false => Health::Sound,
    }
}

/// Puts what is wrong first; the rest stays in order.
pub(super) fn wrong_first<A: Borrow<v1::Attachment>>(attachments: &mut [A]) {
    attachments.sort_by_key(|attachment| health(attachment.borrow()));
}

/// How long ago something was: `<1m`, `59m`, `47h`, `12d`; `-` where that is not known.
pub(super) fn age(since: Option<&prost_types::Timestamp>, now: SystemTime) -> String {
    let Some(since) = since.and_then(|since| SystemTime::try_from(*since).ok()) else {
        return "-".to_owned();
    };
    // A clock that was set back has times of the future.
    let minutes = now.duration_since(since).unwrap_or_default().as_secs() / 60;
    match minutes {
        0 => "<1m".to_owned(),
        1..120 => format!("{minutes}m"),
        120..2880 => format!("{}h", minutes / 60),
        _ => format!("{}d", minutes / 1440),
    }
}

pub(super) fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.map(ToString::to_string).unwrap_or_default()
}

/// A string, or null where there is none.
fn given(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        text.into()
    }
}

/// Whose a volume is; null: not known.
fn owner_json(owner: Option<&v1::VolumeOwner>) -> Value {
    let owner = owner.map(|owner| {
        json!({
            "project_id": given(&owner.project_id),
            "user_id": given(&owner.user_id),
            "group_id": given(&owner.group_id),
            "service_owned": owner.service_owned,
        })
    });
    owner.unwrap_or_default()
}

/// Whose a volume is, for people.
fn owner(owner: Option<&v1::VolumeOwner>) -> String {
    let Some(owner) = owner else {
        return String::new();
    };
    let ids = [
        ("user", &owner.user_id),
        ("group", &owner.group_id),
        ("project", &owner.project_id),
    ];
    let ids = ids.iter().filter(|(_, id)| !id.is_empty());
    let mut words: Vec<_> = ids.map(|(what, id)| format!("{what} {id}")).collect();
    if owner.service_owned {
        words.push("a service's own".to_owned());
    }
    words.join(", ")
}

/// For whom something is, for people.
fn holder(user: &str, project: &str) -> String {
    match (user, project) {
        (user, "") => user.to_owned(),
        (user, project) => format!("{user} of project {project}"),
    }
}

/// An attachment as JSON.
pub(super) fn attachment_json(attachment: &v1::Attachment) -> Value {
    let domain = (!attachment.domain_uuid.is_empty())
        .then(|| json!({ "uuid": attachment.domain_uuid, "name": attachment.domain_name }));
    let error = (!attachment.error_reason.is_empty())
        .then(|| json!({ "reason": attachment.error_reason, "message": attachment.error }));
    json!({
        "attachment_id": attachment.attachment_id,
        "volume_id": attachment.volume_id,
        "domain": domain,
        "protocol": attachment.protocol,
        "servers": attachment.servers,
        "paths": attachment.paths.as_ref().map(|it| json!({ "working": it.working, "planned": it.planned })),
        "access": access(attachment.access),
        "access_reason": attachment.access_reason,
        "permissions": given(&attachment.permissions),
        "owner": owner_json(attachment.owner.as_ref()),
        "user_id": given(&attachment.user_id),
        "project_id": given(&attachment.project_id),
        "state": state(attachment.state),
        "host_path": given(&attachment.host_path),
        "target": given(&attachment.target),
        "disk_xml": given(&attachment.disk_xml),
        "error": error,
        "created_at": given(&time(attachment.created_at.as_ref())),
        "updated_at": given(&time(attachment.updated_at.as_ref())),
    })
}

/// Columns for people, without lines. What would act on a terminal is shown instead.
pub(super) fn table<const N: usize>(
    head: Option<[&str; N]>,
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut builder = Builder::default();
    if let Some(head) = head {
        builder.push_record(head);
    }
    for row in rows {
        builder.push_record(row.map(|cell| visible(&cell).into_owned()));
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    let text = table.to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// One line a key; what is empty is left out.
fn key_values<const N: usize>(rows: [(&str, String); N]) -> String {
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    table(None, rows.map(|(key, value)| [key.to_owned(), value]))
}

/// Whether it is read-only, and why.
pub(super) fn read_only(attachment: &v1::Attachment) -> String {
    match attachment.access() {
        v1::Access::ReadOnly => format!("yes: {}", attachment.access_reason),
        v1::Access::ReadWrite => "no".to_owned(),
        v1::Access::Unspecified => "unknown".to_owned(),
    }
}

pub(super) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// The columns of attachments.
const COLUMNS: [&str; 9] = [
    "Attachment",
    "Volume",
    "Domain",
    "Target",
    "Access",
    "State",
    "Protocol",
    "Permissions",
    "Read Only",
];

fn cells(attachment: &v1::Attachment) -> [String; 9] {
    [
        attachment.attachment_id.clone(),
        attachment.volume_id.clone(),
        or_dash(&attachment.domain_name).to_owned(),
        or_dash(&attachment.target).to_owned(),
        access(attachment.access).to_owned(),
        state_and_paths(attachment),
        attachment.protocol.clone(),
        or_dash(&attachment.permissions).to_owned(),
        read_only(attachment),
    ]
}

/// Attachments, one a line.
pub(super) fn attachments(attachments: &[v1::Attachment]) -> String {
    table(Some(COLUMNS), attachments.iter().map(cells))
}

/// Attachments, one a line, with one column more. An attachment in no state is not on this host.
pub(super) fn attachments_beside(
    column: &str,
    rows: impl Iterator<Item = (v1::Attachment, String)>,
) -> String {
    let mut head = [column; 10];
    head[..9].copy_from_slice(&COLUMNS);
    let rows = rows.map(|(attachment, more)| {
        let mut row: [String; 10] = std::array::from_fn(|_| "-".to_owned());
        let known = match attachment.state() {
            v1::State::Unspecified => 2,
            _ => 9,
        };
        for (cell, text) in row.iter_mut().zip(cells(&attachment)).take(known) {
            *cell = text;
        }
        row[9] = more;
        row
    });
    table(Some(head), rows)
}

/// One attachment, everything about it.
pub(super) fn attachment(format: Format, attachment: &v1::Attachment) -> String {
    if format == Format::Json {
        return attachment_json(attachment).to_string();
    }
    let domain = match attachment.domain_uuid.as_str() {
        "" => String::new(),
        uuid => format!("{} ({uuid})", attachment.domain_name),
    };
    let error = match attachment.error_reason.as_str() {
        "" => String::new(),
        reason => format!("{reason}: {}", attachment.error),
    };
    let mut text = key_values([
        ("Attachment", attachment.attachment_id.clone()),
        ("Volume", attachment.volume_id.clone()),
        ("Domain", domain),
        ("Target", attachment.target.clone()),
        ("Access", access(attachment.access).to_owned()),
        ("Read Only", read_only(attachment)),
        ("Permissions", or_dash(&attachment.permissions).to_owned()),
        ("Owner", owner(attachment.owner.as_ref())),
        (
            "Attached for",
            holder(&attachment.user_id, &attachment.project_id),
        ),
        ("State", state(attachment.state)),
        ("Protocol", attachment.protocol.clone()),
        ("Servers", attachment.servers.join(", ")),
        (
            "Paths",
            attachment.paths.as_ref().map(paths).unwrap_or_default(),
        ),
        ("Host path", attachment.host_path.clone()),
        ("Error", error),
        ("Created", time(attachment.created_at.as_ref())),
        ("Updated", time(attachment.updated_at.as_ref())),
    ]);
    if !attachment.disk_xml.is_empty() {
        text.push_str("\n\n");
        text.push_str(&xml(&attachment.disk_xml));
    }
    text
}

/// A line of `watch`. `left`: the attachment no longer matches the filter.
pub(super) fn change(format: Format, attachment: &v1::Attachment, left: bool) -> String {
    if format == Format::Json {
        let mut line = attachment_json(attachment);
        line["left_filter"] = left.into();
        return line.to_string();
    }
    let mut line = format!(
        "{} {} {} {} {}",
        attachment.attachment_id,
        state_and_paths(attachment),
        access(attachment.access),
        attachment.volume_id,
        or_dash(&attachment.domain_name),
    );
    if !attachment.error_reason.is_empty() {
        let error = format!(" {}: {}", attachment.error_reason, attachment.error);
        line.push_str(&error);
    }
    if left {
        line.push_str(" (no longer matches)");
    }
    visible(&line).into_owned()
}

/// Who may use a volume.
pub(super) fn permissions(format: Format, known: &v1::VolumePermissions) -> String {
    let source = match known.source() {
        v1::PermissionsSource::Set => "set",
        v1::PermissionsSource::Told => "told",
        v1::PermissionsSource::Unspecified => "",
    };
    let at = time(known.set_at.as_ref());
    if format == Format::Json {
        let set = known.set_at.map(|_| {
            json!({
                "user_id": given(&known.set_by_user_id),
                "project_id": given(&known.set_by_project_id),
                "at": at,
            })
        });
        return json!({
            "volume_id": known.volume_id,
            "permissions": given(&known.permissions),
            "source": given(source),
            "owner": owner_json(known.owner.as_ref()),
            "set": set,
        })
        .to_string();
    }
    let by = holder(&known.set_by_user_id, &known.set_by_project_id);
    let source = match source {
        "set" => format!("set on this host by {by}, {at}"),
        "told" => "told with an attachment".to_owned(),
        _ => String::new(),
    };
    let permissions = match known.permissions.as_str() {
        "" => "none known: everybody may use it",
        permissions => permissions,
    };
    key_values([
        ("Volume", known.volume_id.clone()),
        ("Permissions", permissions.to_owned()),
        ("Source", source),
        ("Owner", owner(known.owner.as_ref())),
    ])
}

/// What an attach would do.
pub(super) fn plan(format: Format, plan: &v1::PlanAttachResponse) -> String {
    match format {
        Format::Table => plan_text(plan),
        Format::Json => plan_json(plan).to_string(),
    }
}

fn plan_json(plan: &v1::PlanAttachResponse) -> Value {
    let step = |step: &v1::PlanStep| json!({ "name": step.name, "description": step.description });
    let setting = |setting: &v1::Setting| json!({ "name": setting.name, "value": setting.value, "origin": setting.origin });
    let mount = plan.mount.as_ref().map(|mount| {
        json!({
            "source": mount.source,
            "fstype": mount.fstype,
            "options": mount.options,
            "target": mount.target,
        })
    });
    json!({
        "access": access(plan.access),
        "access_reason": plan.access_reason,
        "permissions": given(&plan.permissions),
        "steps": plan.steps.iter().map(step).collect::<Vec<_>>(),
        "mount": mount,
        "disk_xml": plan.disk_xml,
        "settings": plan.settings.iter().map(setting).collect::<Vec<_>>(),
    })
}

fn plan_text(plan: &v1::PlanAttachResponse) -> String {
    let access = access(plan.access);
    let mut text = format!("Access: {access} ({})\n", visible(&plan.access_reason));
    if !plan.permissions.is_empty() {
        text.push_str(&format!("Permissions: {}\n", visible(&plan.permissions)));
    }
    text.push_str("\nSteps:\n");
    let steps = plan.steps.iter().zip(1..).map(|(step, number)| {
        [
            number.to_string(),
            step.name.clone(),
            step.description.clone(),
        ]
    });
    text.push_str(&table(None, steps));
    if let Some(mount) = &plan.mount {
        text.push_str("\n\nMount:\n");
        text.push_str(&key_values([
            ("Source", mount.source.clone()),
            ("Type", mount.fstype.clone()),
            ("Options", mount.options.clone()),
            ("Target", mount.target.clone()),
        ]));
    }
    if !plan.settings.is_empty() {
        text.push_str("\n\nSettings:\n");
        let settings = plan.settings.iter().map(|setting| {
            [
                setting.name.clone(),
                setting.value.clone(),
                setting.origin.clone(),
            ]
        });
        text.push_str(&table(Some(["Name", "Value", "Origin"]), settings));
    }
    text.push_str("\n\nDisk:\n");
    text.push_str(&xml(&plan.disk_xml));
    text
}

/// XML as it is shown: line by line, and what would act as an escape spelt out.
fn xml(xml: &str) -> String {
    let lines = xml.trim_end().lines().map(visible);
    lines.collect::<Vec<_>>().join("\n")
}

/// What this host can connect to, as os-brick has it.
pub(super) fn connector_json(connector: &v1::Connector) -> Value {
    json!({
        "host": connector.host,
        "ip": connector.ip,
        "platform": connector.platform,
        "os_type": connector.os_type,
        "system uuid": given(&connector.system_uuid),
        "initiator": given(&connector.initiator),
        "multipath": connector.multipath,
        "nqn": given(&connector.nqn),
        "nvme_hostid": given(&connector.nvme_hostid),
        "nvme_native_multipath": connector.nvme_native_multipath,
    })
}

/// What this host can connect to.
pub(super) fn connector(format: Format, connector: &v1::Connector) -> String {
    let yes = |it: bool| if it { "yes" } else { "no" }.to_owned();
    if format == Format::Json {
        return connector_json(connector).to_string();
    }
    key_values([
        ("Host", connector.host.clone()),
        ("Address", connector.ip.clone()),
        ("Platform", connector.platform.clone()),
        ("System", connector.os_type.clone()),
        ("System UUID", connector.system_uuid.clone()),
        ("iSCSI initiator", connector.initiator.clone()),
        ("Multipath", yes(connector.multipath)),
        ("NVMe host NQN", connector.nqn.clone()),
        ("NVMe host id", connector.nvme_hostid.clone()),
        ("NVMe multipath", yes(connector.nvme_native_multipath)),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_age_is_in_the_unit_that_matters() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * 86_400);
        let ages = [
            (0, "<1m"),
            (59, "<1m"),
            (60, "1m"),
            (119 * 60, "119m"),
            (2 * 3600, "2h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (99 * 86_400, "99d"),
        ];
        for (seconds, words) in ages {
            let since = (now - Duration::from_secs(seconds)).into();
            assert_eq!(age(Some(&since), now), words);
        }
        let later = (now + Duration::from_secs(600)).into();
        assert_eq!(age(Some(&later), now), "<1m");
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn errors_come_first_then_missing_paths_and_the_rest_stays_in_order() {
        let of = |id: &str, reason: &str, working| v1::Attachment {
            attachment_id: id.to_owned(),
            error_reason: reason.to_owned(),
            paths: Some(v1::PathCount {
                working,
                planned: 2,
            }),
            ..v1::Attachment::default()
        };
        let mut all = vec![
            of("a", "", 2),
            of("b", "", 1),
            of("c", "DISK_LOST", 2),
            of("d", "", 2),
            of("e", "DISK_LOST", 0),
        ];
        wrong_first(&mut all);
        let order: Vec<_> = all.iter().map(|it| it.attachment_id.as_str()).collect();
        assert_eq!(order, ["c", "e", "b", "a", "d"]);
    }
}
