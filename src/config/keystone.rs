//! `[keystone]`: who is asked about tokens.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{Fault, Problem};
use super::tree::Section;
use super::url::{HttpUrl, urls};
use super::value;

/// The longest that an answer of Keystone's may be kept: a revoked token is good that long.
const MAX_CACHE_TIME: Duration = Duration::from_secs(3600);

/// The longest time after its end in which a token may still count: 31 days.
const MAX_WINDOW: Duration = Duration::from_secs(31 * 24 * 3600);

/// `[keystone]`: who is asked about tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keystone {
    /// Its addresses, tried in this order.
    pub urls: Vec<HttpUrl>,
    /// PEM: the authorities that its certificate may be from; there where one of the addresses is `https`.
    pub ca: Option<PathBuf>,
    /// How long one address may take to answer; default 3 s.
    pub timeout: Duration,
    /// The agent's own user; default `volattach`.
    pub user: String,
    /// The name of that user's domain; default `Default`.
    pub user_domain: String,
    /// The project that the agent's own tokens are for; default `service`.
    pub project: String,
    /// The name of that project's domain; default `Default`.
    pub project_domain: String,
    /// The file with the user's password, which its owner alone may read.
    pub password_file: PathBuf,
    /// A service's token has one of these roles; default `service`.
    pub service_token_roles: Vec<String>,
    /// A service's token with this role may come without a user's; default `None`: no token may.
    pub audit_role: Option<String>,
    /// How long an answer is used again, at most; zero: never; default 60 s.
    pub cache_time: Duration,
    /// How long after its end a user's token counts where a service's comes with it; default 48 h, as Keystone's.
    pub allow_expired_window: Duration,
}

/// Reads the section.
pub(super) fn decode(mut section: Section, problems: &mut Vec<Problem>) -> Option<Keystone> {
    let urls = section.require(problems, "urls", urls);
    let https = urls.iter().flatten().any(|url| url.tls);
    let ca = match https {
        true => section.require(problems, "ca", value::path),
        false => section.read(problems, "ca", |_| {
            Err(Fault::Expected("it with an https:// address alone"))
        }),
    };
    let timeout = section.read(problems, "timeout", value::duration);
    let name = value::text("a name");
    let user = section.read(problems, "user", &name);
    let user_domain = section.read(problems, "user_domain", &name);
    let project = section.read(problems, "project", &name);
    let project_domain = section.read(problems, "project_domain", &name);
    let password_file = section.require(problems, "password_file", value::path);
    let service_token_roles = section.read(problems, "service_token_roles", value::roles);
    let audit_role = section.read(problems, "audit_role", value::text("a role's name"));
    let cache_time = section.read(
        problems,
        "cache_time",
        value::span(
            MAX_CACHE_TIME,
            "a duration from \"0s\" to \"1h\", such as \"60s\"",
        ),
    );
    let allow_expired_window = section.read(
        problems,
        "allow_expired_window",
        value::span(
            MAX_WINDOW,
            "a duration from \"0s\" to \"744h\", such as \"48h\"",
        ),
    );
    section.finish(problems);
    let or_default = |domain: Option<String>| domain.unwrap_or_else(|| "Default".to_owned());
    Some(Keystone {
        urls: urls?.into_iter().map(without_version).collect(),
        ca,
        timeout: timeout.unwrap_or(Duration::from_secs(3)),
        user: user.unwrap_or_else(|| "volattach".to_owned()),
        user_domain: or_default(user_domain),
        project: project.unwrap_or_else(|| "service".to_owned()),
        project_domain: or_default(project_domain),
        password_file: password_file?,
        service_token_roles: service_token_roles.unwrap_or_else(|| vec!["service".to_owned()]),
        audit_role,
        cache_time: cache_time.unwrap_or(Duration::from_secs(60)),
        allow_expired_window: allow_expired_window.unwrap_or(Duration::from_secs(48 * 3600)),
    })
}

/// Keystone's address is written with its version and without.
fn without_version(mut url: HttpUrl) -> HttpUrl {
    let length = url
        .path
        .strip_suffix("/v3")
        .map_or(url.path.len(), str::len);
    url.path.truncate(length);
    url
}

#[cfg(test)]
mod tests {
    use crate::config::tests::settings;

    #[test]
    fn what_is_not_said_has_a_default() {
        assert_eq!(settings("").unwrap().keystone, None);
        let s = settings(
            r#"
            [keystone]
            urls = ["http://[::1]:5000"]
            password_file = "/p"
            "#,
        );
        insta::assert_debug_snapshot!(s.unwrap().keystone.unwrap());
    }

    #[test]
    fn every_key_is_read() {
        let s = settings(
            r#"
            [keystone]
            urls = ["https://a.example.org:5000/identity/v3/", "https://b.example.org"]
            ca = "/ca.pem"
            timeout = "1s"
            user = "agent"
            user_domain = "D"
            project = "services"
            project_domain = "E"
            password_file = "/p"
            service_token_roles = ["service", "admin"]
            audit_role = "auditor"
            cache_time = "0s"
            allow_expired_window = "0s"
            "#,
        );
        insta::assert_debug_snapshot!(s.unwrap().keystone.unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let with = |line: &str| {
            let rest = "urls = [\"http://localhost\"]\npassword_file = \"/p\"";
            settings(&format!("[keystone]\n{rest}\n{line}")).unwrap_err()
        };
        let wrong = [
            settings("[keystone]").unwrap_err(),
            settings("[keystone]\nurls = [\"https://ks\"]\npassword_file = \"/p\"").unwrap_err(),
            settings("[keystone]\nurls = [\"https://a:b@ks\"]\npassword_file = \"/p\"")
                .unwrap_err(),
            with("password = \"hunter2\""),
            with("ca = \"/ca.pem\""),
            with("service_token_roles = []"),
            with("cache_time = \"2h\""),
            with("cache_time = 0"),
            with("allow_expired_window = \"745h\""),
            with("timeout = \"0s\""),
        ];
        assert!(!wrong.iter().any(|why| why.contains("hunter2")));
        insta::assert_snapshot!(wrong.join("\n"));
    }
}
