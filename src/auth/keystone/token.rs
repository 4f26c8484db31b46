//! What Keystone says of a token (the identity API, version 3: "Validate and show information for token").

use std::time::SystemTime;

use prost_types::Timestamp;
use serde::Deserialize;

use crate::model::Identity;

/// What Keystone says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenInfo {
    /// Whose it is.
    pub(super) identity: Identity,
    /// Its end.
    pub(super) expires_at: SystemTime,
}

#[derive(Deserialize)]
struct Body {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    user: User,
    project: Option<Project>,
    domain: Option<Domain>,
    system: Option<System>,
    roles: Option<Vec<Role>>,
    expires_at: String,
    is_admin_project: Option<bool>,
}

#[derive(Deserialize)]
struct User {
    id: String,
    name: String,
    domain: Option<Domain>,
    #[serde(rename = "OS-FEDERATION")]
    federation: Option<Federation>,
}

#[derive(Deserialize)]
struct Federation {
    groups: Option<Vec<Group>>,
}

#[derive(Deserialize)]
struct Group {
    id: String,
}

#[derive(Deserialize)]
struct Project {
    id: String,
    domain: Option<Domain>,
}

#[derive(Deserialize)]
struct Domain {
    id: Option<String>,
}

#[derive(Deserialize)]
struct System {
    all: bool,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

impl TokenInfo {
    /// Reads an answer's body. What is wrong with it is told without its text.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let Body { token } = serde_json::from_slice(body).map_err(|error| {
            format!(
                "it describes no token (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let expires_at = token
            .expires_at
            .parse::<Timestamp>()
            .ok()
            .and_then(|at| SystemTime::try_from(at).ok())
            .ok_or("the token's expires_at is no time")?;
        let system = match token.system {
            None => false,
            Some(System { all: true }) => true,
            Some(System { all: false }) => return Err("the token's system is not all".into()),
        };
        let scopes = [token.project.is_some(), token.domain.is_some(), system];
        if scopes.iter().filter(|scope| **scope).count() > 1 {
            return Err("the token is for several things at once".into());
        }
        let named = |text: &String| !text.is_empty();
        let ids = [Some(&token.user.id), token.project.as_ref().map(|p| &p.id)];
        if !ids.into_iter().flatten().all(named) {
            return Err("the token's user or project has no id".into());
        }
        let domain_id = match token.domain {
            None => None,
            Some(Domain { id: Some(id) }) if named(&id) => Some(id),
            Some(_) => return Err("the token's domain has no id".into()),
        };
        let groups = token.user.federation.and_then(|it| it.groups);
        let (project_id, project_domain) = match token.project {
            Some(project) => (Some(project.id), project.domain),
            None => (None, None),
        };
        Ok(Self {
            identity: Identity {
                user_id: token.user.id,
                user_name: token.user.name,
                user_domain_id: token.user.domain.and_then(|domain| domain.id),
                project_id,
                project_domain_id: project_domain.and_then(|domain| domain.id),
                domain_id,
                system,
                is_admin_project: token.is_admin_project.unwrap_or(false),
                roles: (token.roles.into_iter().flatten())
                    .map(|role| role.name)
                    .collect(),
                groups: (groups.into_iter().flatten())
                    .map(|group| group.id)
                    .collect(),
            },
            expires_at,
        })
    }
}

/// Whether a body is Keystone's own word that there is no such token, rather than some web server's on a wrong path.
pub(super) fn says_not_found(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        error: Code,
    }
    #[derive(Deserialize)]
    struct Code {
        code: u16,
    }
    serde_json::from_slice::<Body>(body).is_ok_and(|body| body.error.code == 404)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn body() -> Value {
        json!({ "token": {
            "methods": ["password"],
            "user": { "id": "u1", "name": "Ann", "domain": { "id": "default", "name": "Default" } },
            "audit_ids": ["x"],
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2026-01-01T01:00:00.500000Z",
        }})
    }

    fn parse(change: impl FnOnce(&mut Value)) -> Result<TokenInfo, String> {
        let mut body = body();
        change(&mut body["token"]);
        TokenInfo::parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_token_for_nothing_has_no_role() {
        let info = parse(|_| {}).unwrap();
        let hour = Duration::from_secs(1_767_229_200) + Duration::from_millis(500);
        assert_eq!(info.expires_at, SystemTime::UNIX_EPOCH + hour);
        let identity = Identity {
            user_id: "u1".into(),
            user_name: "Ann".into(),
            user_domain_id: Some("default".into()),
            ..Identity::default()
        };
        assert_eq!(info.identity, identity);
    }

    #[test]
    fn scopes_roles_and_groups_are_read() {
        let info = parse(|token| {
            token["project"] =
                json!({ "id": "p1", "name": "p", "domain": { "id": "d1", "name": "d" } });
            token["roles"] =
                json!([{ "id": "r", "name": "member" }, { "id": "s", "name": "reader" }]);
            token["is_admin_project"] = json!(true);
            token["user"]["OS-FEDERATION"] =
                json!({ "groups": [{ "id": "g1" }, { "id": "g2" }], "protocol": { "id": "x" } });
        });
        let identity = info.unwrap().identity;
        assert_eq!(identity.project_id.as_deref(), Some("p1"));
        assert_eq!(identity.project_domain_id.as_deref(), Some("d1"));
        assert_eq!(identity.roles, ["member", "reader"]);
        assert_eq!(identity.groups, ["g1", "g2"]);
        assert!(identity.is_admin_project && !identity.system);

        let system = parse(|token| token["system"] = json!({ "all": true })).unwrap();
        assert!(system.identity.system && !system.identity.is_admin_project);
        let domain = parse(|token| token["domain"] = json!({ "id": "d1", "name": "d" })).unwrap();
        assert_eq!(domain.identity.domain_id.as_deref(), Some("d1"));
    }

    #[test]
    fn what_is_no_token_is_refused_without_its_text() {
        let mut wrong: Vec<(&str, Result<TokenInfo, String>)> = [
            "",
            "True",
            "{}",
            "[]",
            "null",
            r#"{"token":null}"#,
            r#"{"token":{}}"#,
            r#"{"token":"hunter2"}"#,
            "<html>",
        ]
        .map(|body| (body, TokenInfo::parse(body.as_bytes())))
        .into();
        wrong.extend([
            (
                "user",
                parse(|t| t["user"] = json!({ "id": "", "name": "" })),
            ),
            (
                "user",
                parse(|t| t["user"] = json!({ "id": 7, "name": "" })),
            ),
            ("project", parse(|t| t["project"] = json!({ "id": "" }))),
            ("domain", parse(|t| t["domain"] = json!({ "name": "d" }))),
            ("system", parse(|t| t["system"] = json!({ "all": false }))),
            ("system", parse(|t| t["system"] = json!({}))),
            ("roles", parse(|t| t["roles"] = json!("admin"))),
            ("roles", parse(|t| t["roles"] = json!([{ "id": "x" }]))),
            ("expires", parse(|t| t["expires_at"] = json!("never"))),
            ("expires", parse(|t| t["expires_at"] = json!(null))),
            ("admin", parse(|t| t["is_admin_project"] = json!("true"))),
            (
                "two",
                parse(|t| {
                    t["project"] = json!({ "id": "p" });
                    t["system"] = json!({ "all": true });
                }),
            ),
        ]);
        for (what, parsed) in wrong {
            let why = parsed.expect_err(what);
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn only_keystone_says_that_there_is_no_token() {
        assert!(says_not_found(
            br#"{"error":{"code":404,"title":"Not Found","message":"..."}}"#
        ));
        for other in ["", "<h1>404</h1>", "{}", r#"{"error":{"code":500}}"#] {
            assert!(!says_not_found(other.as_bytes()), "{other}");
        }
    }
}
