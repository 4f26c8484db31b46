//! The page, whole and in parts.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::board::{Board, Host, Known, Link, Trouble};
use super::html::Html;
use super::servers::servers;
use super::table::{self, Findings};
use crate::api::v1::Finding;
use crate::cli::doctor;
use crate::cli::output::{self, Health, health};

/// The style sheet, as it stands in the page.
pub(super) const STYLE: &str = include_str!("page.css");
/// The script, as it stands in the page.
pub(super) const SCRIPT: &str = include_str!("page.js");

/// The part with all hosts.
pub(super) const SUMMARY: &str = "summary";

/// The whole page.
pub(super) fn whole(board: &Board, now: SystemTime) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.raw("<title>volattach: ");
    match board.hosts() {
        [host] => html.text(&host.name),
        hosts => html.number(hosts.len() as u64).raw(" hosts"),
    };
    html.raw("</title><style>")
        .raw(STYLE)
        .raw("</style></head><body>");
    html.raw("<a class=\"skip\" href=\"#hosts\">Skip to the hosts</a>");
    html.raw("<header><h1>volattach</h1><p id=\"live\" role=\"status\">As of ");
    html.text(&time(now)).raw("; reload for news</p></header>");
    html.raw("<main id=\"hosts\" tabindex=\"-1\">");
    for name in parts(board) {
        if let Some(part) = part(board, &name, now) {
            html.part(&part);
        }
    }
    html.raw("</main><script>").raw(SCRIPT);
    html.raw("</script></body></html>\n");
    html.into_string()
}

/// The names of the parts, in order.
fn parts(board: &Board) -> Vec<String> {
    let summary = (board.hosts().len() > 1).then(|| SUMMARY.to_owned());
    let hosts = (0..board.hosts().len()).map(host_part);
    summary.into_iter().chain(hosts).collect()
}

/// The name of a host's part.
fn host_part(host: usize) -> String {
    format!("host-{host}")
}

/// The names and numbers of the parts whose numbers are others than before; `None`: all.
pub(super) fn changed(before: Option<&[u64]>, now: &[u64]) -> Vec<(String, u64)> {
    let old = |host: usize| before.and_then(|before| before.get(host));
    let hosts = now.iter().enumerate();
    let hosts = hosts.filter(|(host, version)| old(*host) != Some(*version));
    let mut changed: Vec<_> = hosts
        .map(|(host, version)| (host_part(host), *version))
        .collect();
    if now.len() > 1 && !changed.is_empty() {
        changed.push((SUMMARY.to_owned(), now.iter().sum()));
    }
    changed
}

/// One part of the page, by name.
pub(super) fn part(board: &Board, name: &str, now: SystemTime) -> Option<Html> {
    // Before the part is made, so that a change meanwhile makes it again.
    let versions = board.versions().borrow().clone();
    if name == SUMMARY {
        return (versions.len() > 1).then(|| summary(board, versions.iter().sum()));
    }
    let host = (0..versions.len()).find(|host| host_part(*host) == name)?;
    Some(section(
        host,
        board.hosts().get(host)?,
        *versions.get(host)?,
        now,
    ))
}

/// What a host comes to.
struct Count {
    /// Worse first.
    order: u8,
    word: &'static str,
    /// `None`: not known.
    attachments: Option<usize>,
    wrong: Option<usize>,
    findings: Option<usize>,
}

fn count(known: &Known) -> Count {
    let attachments = known.attachments.iter().flat_map(BTreeMap::values);
    let wrong = attachments.filter(|it| health(it) != Health::Sound).count();
    let (others, _) = findings(known);
    let findings = others.len() + usize::from(known.undiagnosed.is_some());
    let (order, word) = match known.link {
        Link::Down(_) => (0, "not reached"),
        Link::Asked(_) => (1, "no answer yet"),
        Link::Up if wrong + findings > 0 => (2, "something is wrong"),
        Link::Up => (3, "nothing is wrong"),
    };
    Count {
        order,
        word,
        attachments: known.attachments.as_ref().map(BTreeMap::len),
        wrong: known.attachments.as_ref().map(|_| wrong),
        findings: known.diagnosis.as_ref().map(|_| findings),
    }
}

/// All hosts, what is wrong first.
fn summary(board: &Board, version: u64) -> Html {
    let hosts = board.hosts().iter().enumerate();
    let mut hosts: Vec<_> = hosts
        .map(|(at, host)| (at, host, count(&host.known())))
        .collect();
    hosts.sort_by_key(|(_, _, count)| count.order);
    let mut html = Html::default();
    html.raw("<section id=\"summary\" data-version=\"")
        .number(version);
    html.raw("\" aria-label=\"All hosts\">");
    let columns = ["Host", "Condition", "Attachments", "Wrong", "Findings"];
    table::head(&mut html, "brief", "Hosts, what is wrong first", &columns);
    for (at, host, count) in hosts {
        let class = ["failing", "short", "short", "sound"];
        let class = class.get(usize::from(count.order)).unwrap_or(&"sound");
        html.raw("<tr role=\"row\" class=\"").raw(class);
        html.raw("\"><th scope=\"row\" role=\"rowheader\" data-column=\"Host\"><a id=\"to-");
        html.number(at as u64).raw("\" href=\"#host-");
        html.number(at as u64).raw("\">");
        html.text(&host.name).raw("</a></th>");
        table::cell(&mut html, "Condition", "health", count.word);
        for (column, number) in [
            ("Attachments", count.attachments),
            ("Wrong", count.wrong),
            ("Findings", count.findings),
        ] {
            let number = number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            table::cell(&mut html, column, "", &number);
        }
        html.raw("</tr>");
    }
    html.raw("</tbody></table></section>");
    html
}

/// The findings that no wrong attachment's row has, and those that one has.
fn findings(known: &Known) -> (Vec<&Finding>, Findings<'_>) {
    let mut others = Vec::new();
    let mut of_rows = Findings::new();
    for finding in known.diagnosis.iter().flat_map(|(it, _)| &it.findings) {
        let attachments = known.attachments.as_ref();
        let attachment = attachments.and_then(|all| all.get(&finding.attachment_id));
        match attachment.filter(|it| health(it) != Health::Sound) {
            Some(it) => of_rows.entry(&it.attachment_id).or_default().push(finding),
            None => others.push(finding),
        }
    }
    (others, of_rows)
}

/// One host.
fn section(at: usize, host: &Host, version: u64, now: SystemTime) -> Html {
    let known = host.known();
    let mut html = Html::default();
    html.raw("<section id=\"host-").number(at as u64);
    html.raw("\" data-version=\"").number(version);
    html.raw("\" aria-labelledby=\"name-").number(at as u64);
    html.raw("\"><h2 id=\"name-").number(at as u64).raw("\">");
    html.text(&host.name).raw("</h2>");
    facts(&mut html, host, &known, now);
    match &known.link {
        Link::Up => {}
        Link::Asked(since) => {
            html.raw("<p class=\"trouble\">The daemon has not answered yet: asked at ");
            html.text(&time(*since)).raw(".</p>");
        }
        Link::Down(it) => {
            trouble(&mut html, "Not reached since ", it);
            if known.attachments.is_some() {
                html.raw("<p class=\"none\">What follows is as it was then.</p>");
            }
        }
    }
    if let Some(it) = &known.undiagnosed {
        trouble(&mut html, "Without new findings since ", it);
    }
    let (mut others, of_rows) = findings(&known);
    let program = known.diagnosis.as_ref();
    let program = program.and_then(|(it, _)| doctor::versions(&it.version, doctor::VERSION));
    others.extend(&program);
    table_of_findings(&mut html, at, &known, &others);
    table::servers(&mut html, &servers(&known));
    if let Some(attachments) = &known.attachments {
        table::attachments(&mut html, at, attachments.values(), &of_rows, now);
    }
    html.raw("</section>");
    html
}

fn table_of_findings(html: &mut Html, at: usize, known: &Known, others: &[&Finding]) {
    let Some((diagnosis, asked)) = &known.diagnosis else {
        return;
    };
    html.raw("<h3>Doctor</h3>");
    if others.is_empty() && diagnosis.left_out == 0 {
        let rows = diagnosis.findings.is_empty();
        html.raw("<p class=\"none\">");
        html.raw(match rows {
            true => "Nothing is wrong",
            false => "Nothing else is wrong than with the attachments below",
        });
        html.raw(", as of ").text(&time(*asked)).raw(".</p>");
        return;
    }
    let is_row = |id: &str| {
        known
            .attachments
            .as_ref()
            .is_some_and(|all| all.contains_key(id))
    };
    table::findings(html, at, others.iter().copied(), is_row);
    if diagnosis.left_out > 0 {
        html.raw("<p class=\"none\">And ")
            .number(diagnosis.left_out);
        html.raw(" more findings: mend these first.</p>");
    }
}

/// Where its daemon is, and what there is.
fn facts(html: &mut Html, host: &Host, known: &Known, now: SystemTime) {
    html.raw("<p class=\"facts\"><span>");
    html.text(&host.place.to_string()).raw("</span>");
    if let Some((diagnosis, _)) = &known.diagnosis {
        html.raw("<span>volattachd ").text(&diagnosis.version);
        html.raw("</span>");
    }
    if let Count {
        attachments: Some(attachments),
        wrong: Some(wrong),
        ..
    } = count(known)
    {
        html.raw("<span>").number(attachments as u64);
        html.raw(match attachments {
            1 => " attachment, ",
            _ => " attachments, ",
        });
        html.number(wrong as u64).raw(" wrong</span>");
    }
    html.raw("<span>as of ").text(&time(now));
    html.raw("</span></p>");
}

fn trouble(html: &mut Html, what: &'static str, trouble: &Trouble) {
    html.raw("<p class=\"trouble\"><b>").raw(what);
    html.text(&time(trouble.since)).raw(":</b> ");
    html.text(&trouble.message).raw(". ");
    if let Some(advice) = trouble.advice {
        html.raw(advice);
    }
    html.raw("</p>");
}

/// A time as the API writes it, to the second.
fn time(time: SystemTime) -> String {
    let time = prost_types::Timestamp::from(time);
    output::time(Some(&prost_types::Timestamp { nanos: 0, ..time }))
}
