//! Checks that ask a server, by a server that is there.

use super::{Files, run, web};

const CALLER: &str = r#"{"user_id": "u1", "project_id": "p1", "roles": ["member"]}"#;

/// What a rule comes to for a caller and a target: the tool's exit code, and what it says on standard error.
fn decide(rule: &str, target: &str) -> (i32, String) {
    let (code, _, said) = ask("check", rule, target);
    (code, said)
}

fn ask(tool: &str, rule: &str, target: &str) -> (i32, String, String) {
    let files = Files::new();
    let policy = files.write("policy.yaml", &format!("t: {rule}\n"));
    let caller = files.write("caller.json", CALLER);
    let target = files.write("target.json", target);
    run(&[
        tool,
        "--policy",
        &policy,
        "--credentials",
        &caller,
        "--target",
        &target,
        "t",
    ])
}

#[test]
fn a_server_decides() {
    let (address, asked) = web::serve(|path| match path {
        "/yes/p..1%3F%20%25" => web::ok("True"),
        "/" => web::ok("True"),
        _ => web::ok("False"),
    });
    let hostile = r#"{"project_id": "p..1? %", "volume_id": "v1"}"#;
    let yes = format!("http://{address}/yes/%(project_id)s");
    assert_eq!(decide(&yes, hostile), (0, String::new()));
    let asked = asked
        .recv_timeout(std::time::Duration::from_secs(30))
        .unwrap();
    assert_eq!(asked.line, "POST /yes/p..1%3F%20%25 HTTP/1.1");
    let body = asked.body.replace("%22", "'").replace("%3A", ":");
    insta::assert_snapshot!(body, @"rule='t'&target=%7B'project_id':'p..1%3F%20%25'%2C'volume_id':'v1'%7D&credentials=%7B'user_id':'u1'%2C'project_id':'p1'%2C'roles':%5B'member'%5D%2C'is_admin':false%7D");
    assert_eq!(decide(&yes, r#"{"project_id": "other"}"#).0, 1);
    // A plain answer is one like that of any check.
    assert_eq!(decide(&format!("http://{address}"), "{}").0, 0);
    assert_eq!(decide(&format!("not http://{address}/no"), "{}").0, 0);
    assert_eq!(
        decide(&format!("role:admin or http://{address}/no"), "{}").0,
        1
    );
}

#[test]
fn an_explanation_asks_no_more_than_the_decision() {
    let (address, asked) = web::serve(|path| match path {
        "/yes" => web::ok("True"),
        _ => web::ok("False"),
    });
    let rule = format!("http://{address}/no or http://{address}/yes or http://{address}/more");
    let (code, text, _) = ask("explain", &rule, "{}");
    assert_eq!(code, 0);
    let text = text.replace(&address.to_string(), "SERVER");
    let file = text.find('(').unwrap()..text.find("policy.yaml").unwrap();
    insta::assert_snapshot!(text.replace(&text[file], "("), @r#"
    allow: rule "t" says so
    yes   t  (policy.yaml:1)
    yes     or
    no        http://SERVER/no
    yes       http://SERVER/yes
    -         http://SERVER/more  (not asked)
    "#);
    let paths: Vec<_> = asked.try_iter().map(|asked| asked.line).collect();
    assert_eq!(paths, ["POST /no HTTP/1.1", "POST /yes HTTP/1.1"]);
}

#[test]
fn only_one_answer_allows_and_what_is_none_denies_also_beneath_not() {
    let (address, _asked) = web::serve(|path| match path {
        "/quoted" => web::ok("\"True\""),
        "/line" => web::ok("True\n"),
        "/long" => web::ok(&"True".repeat(20_000)),
        "/created" => web::ok("True").replace("200 OK", "201 Created"),
        "/error" => web::ok("True").replace("200 OK", "500 Oops"),
        "/moved" => web::ok("True").replace("200 OK", "302 Found\r\nLocation: /quoted"),
        "/text" => "True\r\n\r\n".to_owned(),
        _ => String::new(),
    });
    for path in ["quoted", "line"] {
        assert_eq!(decide(&format!("http://{address}/{path}"), "{}").0, 1);
        assert_eq!(decide(&format!("not http://{address}/{path}"), "{}").0, 0);
    }
    for (check, why) in [
        (format!("http://{address}/long"), "65536 bytes"),
        (format!("http://{address}/created"), "the status 201"),
        (format!("http://{address}/error"), "the status 500"),
        (format!("http://{address}/moved"), "the status 302"),
        (format!("http://{address}/text"), "does not speak HTTP"),
        (
            format!("http://{address}/silent"),
            "no answer within 5000 ms",
        ),
        ("http://127.0.0.1:1/".to_owned(), "refused"),
        (
            format!("https://{address}/"),
            "no authorities are configured",
        ),
        ("http:x".to_owned(), "it names no server"),
        (
            format!("http://user@{address}/"),
            "it is no address of a server",
        ),
        (
            "http://%(project_id)s/".to_owned(),
            "its server must be fixed",
        ),
        (
            format!("http://{address}/%(nothing)s"),
            "the target has no nothing",
        ),
        (
            format!("http://{address}/a/%(up)s/b"),
            "no address can have",
        ),
        (
            format!("http://{address}/a/%(over)s"),
            "no address can have",
        ),
        (format!("http://{address}/%(cut).2s"), "a % stands alone"),
        (format!("http://{address}/a%%"), "a % stands alone"),
        (format!("http://{address}/%(up)s#x"), "without #"),
        (format!("http://{address}/%(list)s"), "no address can have"),
    ] {
        let target =
            r#"{"project_id": "p1", "list": ["a b"], "up": "..", "over": "../x", "cut": "???"}"#;
        for rule in [format!("'@ and not {check}'"), format!("'not {check}'")] {
            let (code, said) = decide(&rule, target);
            assert_eq!(code, 1, "{rule}: {said}");
            assert!(said.contains(why), "{rule}: {said}");
        }
    }
}
