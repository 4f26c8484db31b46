//! Random policies, callers and targets: right ones, and the odd ones near them.

use std::fmt::Write;

use serde_json::{Value, json};

/// Random numbers that are the same on every machine (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const NAMES: [&str; 8] = ["t", "a", "b", "c", "d:e", "default", "missing", "t2"];
const KEYS: [&str; 13] = [
    "project_id",
    "user_id",
    "user.enabled",
    "none",
    "name",
    "nested",
    "n",
    "f",
    "spaced",
    "list",
    "missing",
    "e",
    "neg",
];
const PATHS: [&str; 27] = [
    "project_id",
    "user_id",
    "user_id.id",
    "user_id.domain.id",
    "user_id.domain",
    "user_id.domain.id.x",
    "groups",
    "groups.id",
    "groups.x",
    "tags",
    "tags.x",
    "n",
    "n.x",
    "f",
    "none",
    "none.x",
    "is_admin",
    "system_scope",
    "system",
    "missing",
    "missing.x",
    "user-id",
    "odd..key",
    "mixed.id",
    "roles",
    "deep.list",
    "é",
];
const LITERALS: [&str; 30] = [
    "True",
    "False",
    "None",
    "16",
    "0x10",
    "1_6",
    "'Member'",
    "\"Member\"",
    "'p1'",
    "-7",
    "1.5",
    "15e-1",
    "'a b'",
    "0o20",
    "0b1",
    "'\\x70\\x31'",
    "[1,2]",
    "(1,)",
    "1,",
    "'p''1'",
    "{}",
    "()",
    "u'p1'",
    "r'p1'",
    "...",
    "+5",
    "--5",
    "-0",
    "1e16",
    "'''p1'''",
];
const ODD: [&str; 40] = [
    "class",
    "",
    "2x",
    "007",
    "'p1",
    "p1'",
    "a..b",
    ".a",
    "a.",
    "a!b",
    "a$",
    "a[0]",
    "a[",
    "a]",
    "f(x)",
    "f()",
    "f(",
    "a-b",
    "a+",
    "user.class",
    "lambda",
    "not",
    "a==b",
    "a=b",
    "1+2",
    "~5",
    "1..x",
    "1.x",
    "@",
    "!",
    "a;b",
    "a,b",
    ",",
    "a#b",
    "#a",
    "€",
    "x@y",
    "if",
    "None.x",
    "*",
];
const SOUP: [&str; 34] = [
    "a", "1", ".", "'", "\"", "[", "]", "(", ")", "{", "}", ",", "-", "+", "*", "/", "%", "_",
    "0x", "e", "\\", "#", "=", "<", "!", "~", "None", "not", "if", "in", "f", "r", "é", "&",
];
const CONVERSIONS: [&str; 26] = [
    "s", "s", "s", "s", "s", "s", "r", "d", "i", "u", "x", "X", "o", "f", "e", "g", "c", "a", "F",
    "E", "G", "z", "%", "", "b", "ld",
];
const FLAGS: [&str; 18] = [
    "", "", "", "", "", "", "5", "05", "-5", "+", " ", "#", ".2", "8.3", "#.0", "-08.1", "*", ".",
];
const VALUES: [&str; 22] = [
    "p1", "p2", "u1", "Member", "member", "d1", "g2", "x", "5", "16", "1.5", "True", "False",
    "None", "true", "100%", "%", "%%", "%(n", "", "['p1']", "all",
];
/// Checks that hold, as long as nothing else was put in place of what they ask for.
const HOLD: [&str; 26] = [
    "system:all",
    "system_scope:all",
    "user_id.domain.id:d1",
    "user_id.id:%(user_id)s",
    "groups.id:g2",
    "tags:y",
    "n:5",
    "f:1.5",
    "f:%(f)s",
    "none:None",
    "none:%(none)s",
    "is_admin:False",
    "is_admin:True",
    "project_id:%(project_id)s",
    "True:%(user.enabled)s",
    "'Member':%(name)s",
    "'Mem':%(name).3s",
    "16:%(n)d",
    "'10':%(n)x",
    "0x10:%(n)s",
    "mixed.id:g2",
    "deep.list:p1",
    "odd..key:p1",
    "user-id:u1",
    "1.5:%(f)g",
    "service_roles:service",
];
const ROLES: [&str; 6] = [
    "Member",
    "member",
    "MEMBER",
    "reader",
    "admin",
    "cinder:reader-admin",
];

/// A question to both.
pub(crate) fn question(random: &mut Random) -> Value {
    let mut rules = serde_json::Map::new();
    for name in NAMES {
        if name == "t" || random.one_in(if name == "default" { 8 } else { 2 }) && name != "missing"
        {
            rules.insert(name.to_owned(), rule(random, name));
        }
    }
    let rule = if random.one_in(12) {
        random.pick(&NAMES)
    } else {
        "t"
    };
    json!({"rules": rules, "credentials": credentials(random), "target": target(random), "rule": rule})
}

/// A question for the two sides of a check; one of them is plain.
pub(crate) fn sides_question(random: &mut Random) -> Value {
    let (left, right) = match random.one_in(2) {
        true => (
            "is_admin".to_owned(),
            format!("{}{}", right(random), right(random)),
        ),
        false => (left(random), "x".to_owned()),
    };
    json!({"left": left, "right": right, "credentials": credentials(random), "target": target(random)})
}

/// A question whose policy is a text, in which little is sure.
pub(crate) fn yaml_question(random: &mut Random) -> Value {
    const PLAIN: [&str; 44] = [
        "",
        "~",
        "null",
        "Null",
        "true",
        "False",
        "yes",
        "No",
        "on",
        "off",
        "y",
        "n",
        "0",
        "1",
        "-1",
        "0x1f",
        "0o7",
        "017",
        "1_000",
        "1.5",
        ".5",
        "1e3",
        "1.0e+3",
        ".inf",
        "-.INF",
        ".nan",
        "1:30",
        "190:20:30.15",
        "2001-01-01",
        "2001-01-01 10:00:00",
        "=",
        "<<",
        "!",
        "@",
        "%(a)s",
        "{}",
        "[]",
        "[[]]",
        "role:member",
        "user_id:u1",
        "role:x or role:reader",
        "- a",
        "&x role:member",
        "*x",
    ];
    const QUOTED: [&str; 10] = [
        "'@'",
        "\"!\"",
        "'role:member'",
        "\"role:\\x6dember\"",
        "[role:member, [role:x, '@']]",
        "[[role:member], []]",
        ">-\n  role:x or\n  role:reader",
        "|\n  role:reader",
        "\"role:x\n  or role:reader\"",
        "!!str role:member",
    ];
    let mut text = String::new();
    let names = ["t", "'b'", "\"a:b\"", "c"];
    let count = 1 + random.below(names.len());
    for usual in names.into_iter().take(count) {
        let name = match random.one_in(10) {
            true => random.pick(&["t", "'t'", "on", "1", "<<", "? t\n", "a b", "~", ""]),
            false => usual,
        };
        let value = if !random.one_in(3) {
            random.pick(&QUOTED)
        } else {
            random.pick(&PLAIN)
        };
        let end = random.pick(&[
            "",
            "",
            "",
            "",
            "",
            " # comment",
            " # comment",
            "#no comment",
        ]);
        writeln!(text, "{name}: {value}{end}").unwrap();
    }
    json!({"yaml": text, "credentials": credentials(random), "target": target(random), "rule": "t"})
}

/// A question whose policy is a text as people write it, but for a character or two that slipped in.
pub(crate) fn slip_question(random: &mut Random) -> Value {
    const NAMES: [&str; 5] = ["t", "'b'", "\"a:b\"", "c", "default"];
    const IN_LINES: [&str; 9] = [
        "'@'",
        "\"!\"",
        "role:member",
        "'role:member'",
        "[role:member, [role:x, '@']]",
        "role:x or role:reader",
        ">-\n  role:x or\n  role:reader",
        "|\n  role:reader",
        "\"role:x\n  or role:reader\"",
    ];
    const IN_BRACES: [&str; 5] = ["'@'", "\"!\"", "role:member", "[role:member]", "'role:x'"];
    const SLIPS: [&str; 37] = [
        "\t", "\r", "\n", "\r\n", " ", "\u{85}", "\u{2028}", "\u{2029}", "\u{feff}", "\u{7f}",
        "\u{b}", "\u{1b}", "\u{a0}", "\u{fffe}", "?", ":", ": ", "{", "}", "[", "]", ",", "#",
        " #", "%", ">", "|", "'", "\"", "-", "- ", "!", "&", "*", "...", "---", "\\",
    ];
    let braces = random.one_in(3);
    let mut text = if braces { "{" } else { "" }.to_owned();
    for name in NAMES.iter().take(1 + random.below(NAMES.len())) {
        let (value, end) = match braces {
            true => (random.pick(&IN_BRACES), ",\n "),
            false => (
                random.pick(&IN_LINES),
                random.pick(&["\n", " # why: it is\n", "\n\n# t: '@'\n"]),
            ),
        };
        write!(text, "{name}: {value}{end}").unwrap();
    }
    text.push_str(if braces { "}" } else { "" });
    for _ in 0..=random.below(2) {
        let places: Vec<_> = text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .collect();
        text.insert_str(places[random.below(places.len())], random.pick(&SLIPS));
    }
    json!({"yaml": text, "credentials": credentials(random), "target": target(random), "rule": "t"})
}

fn rule(random: &mut Random, name: &str) -> Value {
    if !random.one_in(10) {
        return Value::from(expression(random, name, 3));
    }
    let items = (0..random.below(4)).map(|_| match random.below(4) {
        0 => Value::from(leaf(random, name)),
        1 => Value::from(expression(random, name, 1)),
        _ => (0..random.below(3))
            .map(|_| Value::from(leaf(random, name)))
            .collect(),
    });
    items.collect()
}

/// A rule that is right in most cases: a token may be lost, doubled or in the wrong place.
fn expression(random: &mut Random, name: &str, depth: usize) -> String {
    let mut text = match random.below(if depth == 0 { 1 } else { 6 }) {
        0 => leaf(random, name),
        1 => {
            let word = random.pick(&["not", "NOT", "not not"]);
            format!("{word} {}", group(random, name, depth - 1))
        }
        _ => {
            let mut text = group(random, name, depth - 1);
            for _ in 0..=random.below(3) {
                let word = random.pick(&["and", "or", "And", "OR", "and", "or"]);
                let space = random.pick(&[
                    " ", " ", " ", "  ", "\t", "\u{a0}", "\u{1c}", "\n", "\u{3000}",
                ]);
                let next = group(random, name, depth - 1);
                write!(text, "{space}{word} {next}").unwrap();
            }
            text
        }
    };
    if random.one_in(25) {
        let words: Vec<_> = text.split(' ').map(ToOwned::to_owned).collect();
        let at = random.below(words.len());
        let mut words = words;
        match random.below(4) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[at].clone()),
            2 => words[at].push(')'),
            _ => words[at].insert(0, '('),
        }
        text = words.join(" ");
    }
    text
}

fn group(random: &mut Random, name: &str, depth: usize) -> String {
    let inner = expression(random, name, depth);
    match random.below(3) {
        0 => inner,
        1 => format!("({inner})"),
        _ => format!("( {inner} )"),
    }
}

fn leaf(random: &mut Random, name: &str) -> String {
    match random.below(24) {
        0 => "@".to_owned(),
        1 => "!".to_owned(),
        2 => random
            .pick(&[
                "foo",
                "'quoted'",
                "\"",
                "",
                "((",
                ")",
                "Role:member",
                "role",
                ":",
                "::",
            ])
            .to_owned(),
        3..=6 => format!("role:{}", random.pick(&ROLES)),
        7 => format!("role:{}", right(random)),
        8..=10 => reference(random, name),
        11..=15 => random.pick(&HOLD).to_owned(),
        _ => format!("{}:{}", left(random), right(random)),
    }
}

/// Mostly to rules that come later, so that circles are few.
fn reference(random: &mut Random, name: &str) -> String {
    let at = NAMES.iter().position(|known| *known == name).unwrap();
    let to = match random.one_in(20) {
        true => random.pick(&NAMES),
        false => NAMES
            .get(at + 1 + random.below(3))
            .copied()
            .unwrap_or("nowhere"),
    };
    format!("rule:{to}")
}

fn left(random: &mut Random) -> String {
    match random.below(12) {
        0..=5 => random.pick(&PATHS).to_owned(),
        6..=8 => random.pick(&LITERALS).to_owned(),
        9 => random.pick(&ODD).to_owned(),
        _ => (0..=random.below(5)).map(|_| random.pick(&SOUP)).collect(),
    }
}

fn right(random: &mut Random) -> String {
    match random.below(8) {
        0..=2 => random.pick(&VALUES).to_owned(),
        3 => format!("{}{}", random.pick(&VALUES), template(random)),
        _ => template(random),
    }
}

fn template(random: &mut Random) -> String {
    match random.below(30) {
        0 => format!("%{}{}", random.pick(&FLAGS), random.pick(&CONVERSIONS)),
        1 => format!("%({}", random.pick(&KEYS)),
        2..=14 => format!("%({})s", random.pick(&KEYS)),
        _ => format!(
            "%({}){}{}",
            random.pick(&KEYS),
            random.pick(&FLAGS),
            random.pick(&CONVERSIONS)
        ),
    }
}

fn any_value(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Null,
        1 => Value::from(random.one_in(2)),
        2 => Value::from(i64::try_from(random.below(40)).unwrap() - 20),
        3 => [
            json!(1.5),
            json!(-0.0),
            json!(1e16),
            json!(1e-7),
            json!(123456789.125),
            json!(2.5),
        ][random.below(6)]
        .clone(),
        4 => json!(["p1", "x", null]),
        5 => json!({"id": "g2", "b": [1, {"c": "it's"}], "a": "\"q\""}),
        6 => json!("é\u{200b}\n"),
        7 => json!([]),
        _ => Value::from(random.pick(&VALUES)),
    }
}

fn credentials(random: &mut Random) -> Value {
    let mut caller = json!({
        "user_id": {"id": "u1", "domain": {"id": "d1", "name": "Default"}}, "system_scope": null, "domain_id": null, "project_id": "p1",
        "roles": ["Member", "reader"], "is_admin_project": false, "is_admin": false, "service_roles": ["service"],
        "groups": [{"id": "g1"}, {"id": "g2"}], "tags": ["x", "y"], "n": 5, "f": 1.5, "none": null,
        "mixed": [{"id": "x"}, "p1", {"id": "g2"}], "deep": {"list": [["x"], "p1"]}, "odd": {"": {"key": "p1"}}, "user-id": "u1",
    });
    if random.one_in(3) {
        caller["system_scope"] = json!("all");
    }
    if random.one_in(3) {
        caller["is_admin"] = json!(true);
    }
    for _ in 0..random.below(3) {
        let key = random.pick(&[
            "project_id",
            "user_id",
            "n",
            "f",
            "none",
            "tags",
            "domain_id",
            "system_scope",
            "é",
        ]);
        caller[key] = any_value(random);
    }
    if random.one_in(4) {
        caller["roles"] = json!([random.pick(&ROLES)]);
    }
    if random.one_in(40) {
        caller["roles"] = json!(["reader", 5]);
    }
    if random.one_in(40) {
        caller.as_object_mut().unwrap().remove("roles");
    }
    caller
}

fn target(random: &mut Random) -> Value {
    let mut target = json!({
        "project_id": "p1", "user_id": "u1", "user.enabled": true, "none": null, "name": "Member", "nested": {"a": 1}, "n": 16,
        "f": 1.5, "spaced": "a b", "list": ["p1"], "e": "é", "neg": -7,
    });
    for _ in 0..random.below(3) {
        let key = random.pick(&KEYS);
        target[key] = any_value(random);
    }
    if random.one_in(10) {
        target.as_object_mut().unwrap().remove("project_id");
    }
    target
}
