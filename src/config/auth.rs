//! `[auth]`: who may call without a token, and with which roles.

use std::collections::BTreeMap;

use super::error::Problem;
use super::tree::{Section, Value};
use super::{owner, value};

/// `[auth]`: who may call without a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// `[auth.local]`; `None`: root, the daemon's own user and `listen.group`, all with the role `admin`.
    pub local: Option<LocalRoles>,
    /// `[auth.certificates]`: a name in a client's certificate (a URI or a DNS name), and the roles of whoever holds it;
    /// default none.
    pub certificates: BTreeMap<String, Vec<String>>,
}

/// `[auth.local]`: the roles of processes of this host, by their user and their groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalRoles {
    /// By user.
    pub users: BTreeMap<u32, Vec<String>>,
    /// By group.
    pub groups: BTreeMap<u32, Vec<String>>,
}

/// Reads the section.
pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Auth {
    let local = section.optional(problems, "local");
    let certificates = section.section(problems, "certificates");
    section.finish(problems);
    let certificates = certificates.values(problems, value::roles);
    Auth {
        local: local.map(|local| decode_local(local, problems)),
        certificates: certificates
            .into_iter()
            .map(|(name, _, _, roles)| (name, roles))
            .collect(),
    }
}

/// Names are looked up here, once: nothing asks the name service while a call waits.
fn decode_local(section: Section, problems: &mut Vec<Problem>) -> LocalRoles {
    let mut local = LocalRoles::default();
    for (name, at, key, mut roles) in section.values(problems, value::roles) {
        let (of, found) = match name.strip_prefix('@') {
            Some(group) => (&mut local.groups, owner::group(&name_or_number(group))),
            None => (
                &mut local.users,
                owner::user(&name_or_number(&name)).map(|user| user.uid),
            ),
        };
        match found {
            // Two spellings of one user or group add up.
            Ok(id) => of.entry(id).or_default().append(&mut roles),
            Err(fault) => problems.push(Problem { at, key, fault }),
        }
    }
    local
}

/// Keys are text: one of digits is a number.
fn name_or_number(text: &str) -> Value {
    match text.parse() {
        Ok(number) => Value::Number(number),
        Err(_) => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::settings;

    #[test]
    fn who_may_call_is_read_by_name_and_number() {
        let s = settings(
            r#"
            [auth.local]
            root = ["admin"]
            "4711" = ["reader"]
            "@root" = ["member", "reader"]
            "@4712" = ["auditor"]
            [auth.certificates]
            "spiffe://example.org/cinder" = ["service"]
            "ctl.example.org" = ["admin"]
            "#,
        )
        .unwrap()
        .auth;
        let local = s.local.unwrap();
        assert_eq!(local.users[&0], ["admin"]);
        assert_eq!(local.users[&4711], ["reader"]);
        assert_eq!(local.groups[&0], ["member", "reader"]);
        assert_eq!(local.groups[&4712], ["auditor"]);
        assert_eq!(s.certificates["spiffe://example.org/cinder"], ["service"]);
        assert_eq!(s.certificates.len(), 2);
    }

    #[test]
    fn a_table_that_is_empty_lets_nobody_in_and_one_that_is_absent_is_the_default() {
        let local = |text| settings(text).unwrap().auth.local;
        assert_eq!(local(""), None);
        let nobody = local("[auth.local]").unwrap();
        assert!(nobody.users.is_empty() && nobody.groups.is_empty());
    }

    #[test]
    fn what_names_nobody_is_refused() {
        let wrong = [
            "[auth.local]\nno-such-user-here = [\"admin\"]",
            "[auth.local]\n\"@no-such-group-here\" = [\"admin\"]",
            "[auth.local]\nroot = []",
            "[auth.local]\nroot = \"admin\"",
            "[auth.certificates]\n\"ctl.example.org\" = [1]",
        ]
        .map(|text| settings(text).unwrap_err());
        insta::assert_snapshot!(wrong.join("\n"));
    }
}
