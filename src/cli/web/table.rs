//! The tables of a host: its attachments, and its storage servers.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::html::Html;
use super::servers::Server;
use crate::api::v1::{self, Finding};
use crate::cli::doctor::severity;
use crate::cli::output::{self, Health, health, or_dash};

/// Rows shown of one host at most: what is wrong comes first, and nobody reads more.
const MAX_ROWS: usize = 2000;

/// Columns of the attachments, as `volattach list` names them.
const COLUMNS: [&str; 11] = [
    "State",
    "Attachment",
    "Volume",
    "Domain",
    "Target",
    "Backend",
    "Access",
    "Permissions",
    "Read Only",
    "Paths",
    "Age",
];

/// Findings by attachment.
pub(super) type Findings<'a> = BTreeMap<&'a str, Vec<&'a Finding>>;

/// The attachments of a host, what is wrong first, with their findings where they are wrong.
pub(super) fn attachments<'a>(
    html: &mut Html,
    host: usize,
    attachments: impl Iterator<Item = &'a v1::Attachment>,
    findings: &Findings<'_>,
    now: SystemTime,
) {
    let mut sorted: Vec<_> = attachments.collect();
    output::wrong_first(&mut sorted);
    if sorted.is_empty() {
        html.raw("<p class=\"none\">No attachments.</p>");
        return;
    }
    head(html, "long", "Attachments, what is wrong first", &COLUMNS);
    for attachment in sorted.iter().take(MAX_ROWS) {
        row(html, host, attachment, now);
        let id = attachment.attachment_id.as_str();
        let findings = findings.get(id).map(Vec::as_slice).unwrap_or_default();
        if !attachment.error_reason.is_empty() || !findings.is_empty() {
            why(html, attachment, findings);
        }
    }
    html.raw("</tbody></table>");
    let more = sorted.len().saturating_sub(MAX_ROWS);
    if more > 0 {
        html.raw("<p class=\"none\">And ").number(more as u64);
        html.raw(" more, which <code>volattach list</code> has.</p>");
    }
}

/// Roles are written out: cards on narrow screens are no table to browsers otherwise. `class`: how the cards look.
pub(super) fn head(
    html: &mut Html,
    class: &'static str,
    caption: &'static str,
    columns: &[&'static str],
) {
    html.raw("<table role=\"table\" class=\"").raw(class);
    html.raw("\"><caption>").raw(caption);
    html.raw("</caption><thead role=\"rowgroup\"><tr role=\"row\">");
    for column in columns {
        html.raw("<th scope=\"col\" role=\"columnheader\">");
        html.raw(column).raw("</th>");
    }
    html.raw("</tr></thead><tbody role=\"rowgroup\">");
}

/// A cell that tells its column by itself on narrow screens.
pub(super) fn cell(html: &mut Html, column: &'static str, class: &'static str, text: &str) {
    html.raw("<td role=\"cell\" data-column=\"").raw(column);
    html.raw("\" class=\"").raw(class).raw("\">");
    html.text(text).raw("</td>");
}

fn row(html: &mut Html, host: usize, attachment: &v1::Attachment, now: SystemTime) {
    let class = match health(attachment) {
        Health::Failing => "failing",
        Health::MissingPaths => "short",
        Health::Sound => "sound",
    };
    html.raw("<tr role=\"row\" class=\"").raw(class).raw("\">");
    cell(html, "State", "state", &output::state(attachment.state));
    let id = &attachment.attachment_id;
    html.raw("<th scope=\"row\" role=\"rowheader\" data-column=\"Attachment\" class=\"id\" tabindex=\"-1\" id=\"a");
    html.number(host as u64).raw("-").text(id).raw("\">");
    html.text(id).raw("</th>");
    cell(html, "Volume", "id", &attachment.volume_id);
    cell(html, "Domain", "", or_dash(&attachment.domain_name));
    cell(html, "Target", "", or_dash(&attachment.target));
    let backend = match attachment.servers.as_slice() {
        [] => attachment.protocol.clone(),
        servers => format!("{} from {}", attachment.protocol, servers.join(", ")),
    };
    cell(html, "Backend", "", &backend);
    cell(html, "Access", "", output::access(attachment.access));
    let permissions = or_dash(&attachment.permissions);
    cell(html, "Permissions", "", permissions);
    cell(html, "Read Only", "", &output::read_only(attachment));
    let paths = attachment.paths.as_ref().map(output::paths);
    let paths = paths.unwrap_or_default();
    cell(html, "Paths", "paths", or_dash(&paths));
    html.raw("<td role=\"cell\" data-column=\"Age\" class=\"age\"><time datetime=\"");
    let created = attachment.created_at.as_ref();
    html.text(&output::time(created)).raw("\">");
    html.text(&output::age(created, now))
        .raw("</time></td></tr>");
}

/// What is wrong with an attachment, across its row: as `doctor` found it, or as the attachment itself says.
fn why(html: &mut Html, attachment: &v1::Attachment, findings: &[&Finding]) {
    html.raw("<tr role=\"row\" class=\"why\"><td role=\"cell\" colspan=\"11\">");
    if !attachment.error_reason.is_empty() {
        html.raw("<b>").text(&attachment.error_reason).raw("</b> ");
    }
    match findings {
        [] => {
            html.text(&attachment.error);
        }
        findings => {
            for finding in findings {
                told(html, finding);
            }
        }
    }
    html.raw("</td></tr>");
}

/// What a finding says, and the command that mends it.
fn told(html: &mut Html, finding: &Finding) {
    html.raw("<span>").text(&finding.what).raw("</span> ");
    html.raw("<span class=\"mend\">mend: <code>");
    html.text(&finding.mend).raw("</code></span> ");
}

/// The findings that no row has; `is_row`: whether an attachment has a row.
pub(super) fn findings<'a>(
    html: &mut Html,
    host: usize,
    findings: impl Iterator<Item = &'a Finding>,
    is_row: impl Fn(&str) -> bool,
) {
    html.raw("<ul class=\"findings\">");
    for finding in findings {
        let weight = severity(finding);
        html.raw("<li><b class=\"").raw(weight).raw("\">");
        html.raw(weight).raw("</b> ");
        let id = &finding.attachment_id;
        if is_row(id) {
            // An id has no character that means something in an address.
            html.raw("attachment <a href=\"#a").number(host as u64);
            html.raw("-").text(id).raw("\">").text(id).raw("</a>: ");
        } else if !id.is_empty() {
            html.raw("attachment ").text(id).raw(": ");
        }
        told(html, finding);
        html.raw("</li>");
    }
    html.raw("</ul>");
}

/// The storage servers.
pub(super) fn servers(html: &mut Html, servers: &[(String, Server)]) {
    if servers.is_empty() {
        return;
    }
    head(
        html,
        "brief",
        "Storage servers",
        &["Server", "Health", "Backend", "Attachments", "Failing"],
    );
    for (name, server) in servers {
        let class = match server.is_sound() {
            true => "sound",
            false if server.silent || server.failing > 0 => "failing",
            false => "short",
        };
        html.raw("<tr role=\"row\" class=\"").raw(class);
        html.raw("\"><th scope=\"row\" role=\"rowheader\" data-column=\"Server\" class=\"id\">");
        html.text(name).raw("</th>");
        cell(html, "Health", "health", server.health());
        let protocols: Vec<_> = server.protocols.iter().map(String::as_str).collect();
        cell(html, "Backend", "", or_dash(&protocols.join(", ")));
        cell(html, "Attachments", "", &server.attachments.to_string());
        cell(html, "Failing", "", &server.failing.to_string());
        html.raw("</tr>");
    }
    html.raw("</tbody></table>");
}
