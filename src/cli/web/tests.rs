//! The page of hosts that are empty, full, broken and hostile.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::board::{Board, Known, Link, Trouble};
use super::page;
use super::servers::servers;
use crate::api::v1::{self, Access, Finding, Severity, State};
use crate::cli::client::Place;
use crate::cli::doctor::VERSION;
use crate::cli::failure::Failure;

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}

fn board(names: &[&str]) -> Board {
    let place = |name: &&str| ((*name).to_owned(), Place::Socket("/run/s".into()));
    Board::new(names.iter().map(place).collect())
}

fn attachment(id: &str) -> v1::Attachment {
    let hours = |hours: i64| prost_types::Timestamp {
        seconds: 1_700_000_000 - 3600 * hours,
        nanos: 0,
    };
    v1::Attachment {
        attachment_id: id.to_owned(),
        volume_id: format!("vol-{id}"),
        domain_uuid: "6f2a".to_owned(),
        domain_name: "web".to_owned(),
        protocol: "smbfs".to_owned(),
        access: Access::ReadOnly.into(),
        access_reason: "the request asks for read-only".to_owned(),
        state: State::Attached.into(),
        target: "vdb".to_owned(),
        permissions: "640".to_owned(),
        servers: vec!["files".to_owned()],
        created_at: Some(hours(3)),
        ..v1::Attachment::default()
    }
}

fn lost(id: &str) -> v1::Attachment {
    v1::Attachment {
        state: State::Lost.into(),
        error_reason: "DISK_LOST".to_owned(),
        error: "the domain has the disk no more".to_owned(),
        ..attachment(id)
    }
}

fn short(id: &str) -> v1::Attachment {
    v1::Attachment {
        paths: Some(v1::PathCount {
            working: 1,
            planned: 2,
        }),
        servers: vec!["array".to_owned()],
        protocol: "iscsi".to_owned(),
        ..attachment(id)
    }
}

fn finding(what: &str) -> Finding {
    Finding {
        severity: Severity::Error.into(),
        what: what.to_owned(),
        mend: "mend it".to_owned(),
        ..Finding::default()
    }
}

fn set(board: &Board, host: usize, attachments: Vec<v1::Attachment>, findings: Vec<Finding>) {
    board.change(host, |known| {
        let attachments = attachments.into_iter();
        let by_id = attachments.map(|it| (it.attachment_id.clone(), it));
        known.attachments = Some(by_id.collect());
        let diagnosis = v1::DiagnoseResponse {
            findings,
            version: VERSION.to_owned(),
            left_out: 0,
        };
        known.diagnosis = Some((diagnosis, now()));
        known.link = Link::Up;
    });
}

fn down(known: &mut Known) {
    let failure = Failure::unanswered(Duration::from_secs(10));
    known.link = Link::Down(Trouble {
        since: now(),
        ..Trouble::new(&failure, None)
    });
}

/// What stands in it, without markup, a line a row.
fn text(html: &str) -> String {
    let body = html.split_once("</style>").map_or(html, |(_, body)| body);
    let body = body.split("<script>").next().unwrap();
    let body = body.replace("</tr>", "\n").replace("</td>", "|");
    let mut text = String::new();
    let mut inside = false;
    for c in body.chars() {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            c if !inside => text.push(c),
            _ => {}
        }
    }
    text
}

/// Where each is, in this order.
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, after) = rest
            .split_once(part)
            .unwrap_or_else(|| panic!("no {part} after the others in {text}"));
        rest = after;
    }
}

#[test]
fn an_empty_host_says_so() {
    let board = board(&["rack1"]);
    set(&board, 0, vec![], vec![]);
    let shown = text(&page::whole(&board, now()));
    for part in [
        "0 attachments, 0 wrong",
        "Nothing is wrong, as of 2023-11-14T22:13:20Z",
        "No attachments.",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn a_row_has_the_words_of_list() {
    let board = board(&["rack1"]);
    set(&board, 0, vec![attachment("a1")], vec![]);
    let shown = text(&page::whole(&board, now()));
    let row = "attached|a1vol-a1|web|vdb|smbfs from files|ro|640|yes: the request asks for read-only|-|3h|";
    assert!(shown.contains(row), "{shown}");
}

#[test]
fn a_full_host_has_a_row_for_each_and_what_is_wrong_first() {
    let board = board(&["rack1"]);
    let mut all: Vec<_> = (0..998).map(|n| attachment(&format!("a{n:03}"))).collect();
    all.extend([lost("z1"), short("y1")]);
    set(&board, 0, all, vec![]);
    let html = page::whole(&board, now());
    assert_eq!(
        html.matches("scope=\"row\"").count(),
        1000 + 2,
        "two servers"
    );
    let shown = text(&html);
    assert!(shown.contains("1000 attachments, 2 wrong"), "{shown}");
    assert_in_order(&shown, &["lost|z1", "attached|y1", "attached|a000"]);
}

#[test]
fn more_rows_than_anybody_reads_are_counted() {
    let board = board(&["rack1"]);
    let all = (0..2003).map(|n| attachment(&format!("a{n:04}"))).collect();
    set(&board, 0, all, vec![]);
    let shown = text(&page::whole(&board, now()));
    assert!(shown.contains("And 3 more, which volattach list has."));
}

#[test]
fn what_is_wrong_is_told_where_it_is_with_the_command_that_mends_it() {
    let board = board(&["rack1"]);
    let of_row = Finding {
        attachment_id: "a1".to_owned(),
        ..finding("lost: no disk")
    };
    // Its attachment is sound by now, or was never seen.
    let stale = Finding {
        attachment_id: "a2".to_owned(),
        ..finding("it was lost")
    };
    let silent = Finding {
        server: "array".to_owned(),
        ..finding("the server array has not answered")
    };
    let all = vec![lost("a1"), attachment("a2"), lost("a3"), short("a4")];
    set(&board, 0, all, vec![of_row, stale, silent]);
    let html = page::whole(&board, now());
    let shown = text(&html);
    assert_in_order(
        &shown,
        &[
            "error attachment a2: it was lost mend: mend it",
            "error the server array has not answered",
            "array",
            "does not answer|iscsi|1|0|",
            "files",
            "attachments fail|smbfs|3|2|",
            "lost|a1",
            "DISK_LOST lost: no disk mend: mend it",
            "DISK_LOST the domain has the disk no more",
            "attached|a4",
            "1 of 2|3h",
            "attached|a2",
        ],
    );
    assert!(html.contains("<a href=\"#a0-a2\">") && html.contains("id=\"a0-a2\""));
}

#[test]
fn a_daemon_of_another_version_is_told() {
    let board = board(&["rack1"]);
    set(&board, 0, vec![], vec![]);
    board.change(0, |known| {
        if let Some((diagnosis, _)) = &mut known.diagnosis {
            diagnosis.version = "0.0.1".to_owned();
        }
    });
    let shown = text(&page::whole(&board, now()));
    assert!(shown.contains("the daemon is of version 0.0.1"), "{shown}");
}

#[test]
fn a_host_that_is_not_reached_is_told_and_the_others_go_on() {
    let board = board(&["sound", "asked", "down", "wrong"]);
    set(&board, 0, vec![attachment("a1")], vec![]);
    set(&board, 2, vec![attachment("a2")], vec![]);
    board.change(2, down);
    set(&board, 3, vec![lost("a3")], vec![]);
    let shown = text(&page::whole(&board, now()));
    assert_in_order(
        &shown,
        &[
            // The summary has what is wrong first,
            "downnot reached|1|0|0|",
            "askedno answer yet|-|-|-|",
            "wrongsomething is wrong|1|1|0|",
            "soundnothing is wrong|1|0|0|",
            // and the hosts are where they always are.
            "attached|a1",
            "The daemon has not answered yet",
            "Not reached since 2023-11-14T22:13:20Z: the daemon did not answer within 10 s.",
            "What follows is as it was then.",
            "attached|a2",
            "lost|a3",
        ],
    );
}

#[test]
fn a_part_is_changed_when_its_host_is() {
    let board = board(&["one", "two"]);
    let before = board.versions().borrow().clone();
    assert!(page::changed(Some(&before), &before).is_empty());
    assert_eq!(page::changed(None, &before).len(), 3);
    board.change(1, down);
    let after = board.versions().borrow().clone();
    let changed = page::changed(Some(&before), &after);
    let names: Vec<_> = changed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host-1", "summary"]);
    for (name, version) in changed {
        let part = page::part(&board, &name, now()).unwrap().into_string();
        assert!(
            part.contains(&format!("data-version=\"{version}\"")),
            "{part}"
        );
        assert!(part.contains(&format!("id=\"{name}\"")), "{part}");
    }
    for none in ["host-2", "host-", "", "host-01", "x"] {
        assert!(page::part(&board, none, now()).is_none(), "{none}");
    }
}

#[test]
fn the_page_asks_for_nothing_from_elsewhere() {
    let board = board(&["one", "two"]);
    set(&board, 0, vec![lost("a1")], vec![finding("x")]);
    let html = page::whole(&board, now());
    for loader in [
        "src=",
        "url(",
        "@import",
        "<link",
        "<img",
        "<iframe",
        "<form",
        "style=",
        "onclick",
        "http-equiv",
    ] {
        assert!(!html.contains(loader), "{loader}");
    }
}

#[test]
fn health_of_servers_is_that_of_their_attachments() {
    let board = board(&["rack1"]);
    let many = v1::Attachment {
        servers: vec!["b".to_owned(), "c".to_owned()],
        ..attachment("a2")
    };
    set(&board, 0, vec![short("a1"), many], vec![]);
    let known = board.hosts()[0].known();
    let told = servers(&known);
    let told: Vec<_> = told
        .iter()
        .map(|(name, it)| (name.as_str(), it.health()))
        .collect();
    let expected = [
        ("array", "paths are missing"),
        ("b", "nothing is wrong"),
        ("c", "nothing is wrong"),
    ];
    assert_eq!(told, expected);
}

/// An attachment whose every text is this one, and a finding of it.
fn of_text(text: &str) -> (v1::Attachment, Finding) {
    let text = || text.to_owned();
    let attachment = v1::Attachment {
        attachment_id: text(),
        volume_id: text(),
        domain_uuid: text(),
        domain_name: text(),
        protocol: text(),
        access_reason: text(),
        host_path: text(),
        target: text(),
        error: text(),
        error_reason: text(),
        permissions: text(),
        servers: vec![text()],
        ..attachment("a")
    };
    let finding = Finding {
        attachment_id: text(),
        server: text(),
        mend: text(),
        ..finding(&text())
    };
    (attachment, finding)
}

/// The names of the elements, in order.
fn elements(html: &str) -> Vec<&str> {
    let parts = html.split('<').skip(1);
    parts
        .map(|part| part.split([' ', '>']).next().unwrap())
        .collect()
}

fn page_of(value: &str) -> String {
    let board = board(&[value, "other"]);
    let (attachment, of_row) = of_text(value);
    let of_none = Finding {
        attachment_id: format!("{value}-"),
        ..of_row.clone()
    };
    set(&board, 0, vec![attachment], vec![of_row, of_none]);
    board.change(0, |known| {
        if let Some((diagnosis, _)) = &mut known.diagnosis {
            diagnosis.version = value.to_owned();
        }
        known.link = Link::Down(Trouble {
            since: now(),
            message: value.to_owned(),
            advice: None,
        });
    });
    page::whole(&board, now())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a daemon says, the page has the same elements and attributes.
    #[test]
    fn no_value_adds_to_the_markup(value in r#"[<>&"'a-z=/ \PC]{1,40}"#) {
        let (plain, hostile) = (page_of("x"), page_of(&value));
        prop_assert_eq!(elements(&plain), elements(&hostile));
        for mark in ['"', '<', '>'] {
            let body = |html: &str| html.matches(mark).count();
            prop_assert_eq!(body(&plain), body(&hostile), "{}", mark);
        }
    }
}

#[test]
fn markup_in_names_is_shown_as_text() {
    let html = page_of("</style><script>alert(1)</script><img src=x onerror=alert(1)>");
    assert_eq!(html.matches("<script").count(), 1);
    assert!(!html.contains("<img"));
    assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;"));
}
