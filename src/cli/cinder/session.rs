//! A login to Keystone, and what comes of it: a token, and Cinder's address in the catalog (the identity API, version 3).

use hyper::body::Bytes;
use hyper::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::cloud::{Auth, Cloud, Named, Proof, Which};
use super::error::CinderError;
use super::web::{Ask, send};
use crate::auth::HttpClient;
use crate::config::HttpUrl;
use crate::connection::Wiped;
use crate::model::Secret;

/// The names of Cinder's service type in catalogs, the official one first (service-types-authority, aliases).
const SERVICE_TYPES: [&str; 3] = ["block-storage", "block-store", "volumev3"];

/// What a request's body takes, in bytes: each byte of a password may be escaped as six.
const ROOM: usize = 64 * 1024;

/// Somebody who may ask.
pub(super) struct Session {
    pub(super) token: Secret,
    /// The project that the token is for; `None`: Keystone was not asked.
    project_id: Option<String>,
    /// `None`: not known.
    catalog: Option<Vec<Service>>,
}

impl Session {
    /// Logs in, unless the token is to be used as it is.
    pub(super) async fn open(http: &HttpClient, cloud: &Cloud) -> Result<Self, CinderError> {
        let (keystone, proof) = match &cloud.auth {
            Auth::Bare(token) => {
                return Ok(Self {
                    token: token.clone(),
                    project_id: None,
                    catalog: None,
                });
            }
            Auth::Login { keystone, proof } => (keystone, proof),
        };
        let ask = Ask {
            tried: "log in to Keystone",
            method: Method::POST,
            target: match keystone.path.ends_with("/v3") {
                true => "/auth/tokens",
                false => "/v3/auth/tokens",
            },
            headers: HeaderMap::new(),
            body: body(proof)?,
        };
        let answer = send(http, keystone, ask).await?;
        let token = answer.header("x-subject-token").map(Secret::from);
        let token = token.ok_or_else(|| answer.malformed("it has no token"))?;
        let body: Body = answer.read()?;
        Ok(Self {
            token,
            project_id: body.token.project.map(|project| project.id),
            catalog: body.token.catalog,
        })
    }

    /// Whether the cloud may have a Nova: its catalog has one, or is not known.
    pub(super) fn may_have_nova(&self) -> bool {
        let catalog = self.catalog.as_ref();
        catalog.is_none_or(|catalog| catalog.iter().any(|it| it.kind == "compute"))
    }

    /// Cinder's address: the one that was given, or the catalog's.
    pub(super) fn cinder(&self, cloud: &Cloud) -> Result<HttpUrl, CinderError> {
        let text = match &cloud.endpoint {
            Some(text) => self.filled(text)?,
            None => self.find(cloud)?.to_owned(),
        };
        HttpUrl::parse(&text).ok_or_else(|| {
            // Not what it is: somebody may have written a password into it.
            let which = match &cloud.endpoint {
                Some(_) => "that is given (volume_endpoint_override)",
                None => "of the catalog",
            };
            let why = format!("Cinder's endpoint {which} is no address of a web server");
            CinderError::Unsuitable(why)
        })
    }

    /// An endpoint with the project's id in the place that is left for it (keystoneauth's `endpoint_override`).
    fn filled(&self, text: &str) -> Result<String, CinderError> {
        let places = ["%(project_id)s", "%(tenant_id)s"];
        if !places.iter().any(|place| text.contains(place)) {
            return Ok(text.to_owned());
        }
        let Some(id) = &self.project_id else {
            let why = "Cinder's endpoint needs a project's id, and the token has none".to_owned();
            return Err(CinderError::Credentials(why));
        };
        Ok(places
            .iter()
            .fold(text.to_owned(), |text, place| text.replace(place, id)))
    }

    fn find(&self, cloud: &Cloud) -> Result<&str, CinderError> {
        let in_region = |it: &&Endpoint| match &cloud.region {
            None => true,
            Some(region) => [&it.region, &it.region_id].contains(&&Some(region.clone())),
        };
        let services = SERVICE_TYPES.iter().flat_map(|kind| {
            self.catalog
                .iter()
                .flatten()
                .filter(move |it| it.kind == **kind)
        });
        let mut endpoints = services.flat_map(|service| &service.endpoints);
        let found = endpoints.find(|it| it.interface == cloud.interface && in_region(it));
        found.map(|it| it.url.as_str()).ok_or_else(|| {
            let region = cloud.region.as_deref().unwrap_or("any");
            CinderError::Unsuitable(format!(
                "Keystone's catalog has no endpoint of {} with interface {:?} in region {region:?}: see openstack catalog list, or give \
                 OS_VOLUME_ENDPOINT_OVERRIDE",
                SERVICE_TYPES.join(", "),
                cloud.interface,
            ))
        })
    }
}

#[derive(Deserialize)]
struct Body {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    project: Option<Id>,
    catalog: Option<Vec<Service>>,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    region: Option<String>,
    region_id: Option<String>,
    url: String,
}

/// The body of a login.
fn body(proof: &Proof) -> Result<Bytes, CinderError> {
    // The secret is written in last, in its place: a value that is put into another one is copied, and the copy is not wiped.
    let (method, identity, place, secret, project) = match proof {
        Proof::Password {
            user,
            password,
            project,
        } => {
            let user = json!({ "user": reference(user) });
            ("password", user, "/user/password", password, Some(project))
        }
        Proof::Token { token, project } => ("token", json!({}), "/id", token, Some(project)),
        // Such a credential is for one project.
        Proof::Application { which, secret } => {
            let which = match which {
                Which::Id(id) => json!({ "id": id }),
                Which::Name(name, user) => json!({ "name": name, "user": reference(user) }),
            };
            ("application_credential", which, "/secret", secret, None)
        }
    };
    let mut request =
        Wiped(json!({ "auth": { "identity": { "methods": [method], method: identity } } }));
    if let Some(project) = project {
        request.0["auth"]["scope"] = json!({ "project": reference(project) });
    }
    let (parent, key) = place.rsplit_once('/').unwrap_or_default();
    let parent = format!("/auth/identity/{method}{parent}");
    if let Some(parent) = request.0.pointer_mut(&parent) {
        parent[key] = secret.expose().into();
    }
    // Room enough from the start: a vector that grows leaves what it held behind.
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *text, &request.0)
        .map_err(|_| CinderError::Credentials("they cannot be written as JSON".to_owned()))?;
    Ok(Bytes::from_owner(text))
}

/// A user or a project, as Keystone looks it up: it refuses a domain beside an id.
fn reference(named: &Named) -> Value {
    match (&named.id, &named.domain_id) {
        (Some(id), _) => json!({ "id": id }),
        (None, Some(domain)) => json!({ "name": named.name, "domain": { "id": domain } }),
        (None, None) => json!({ "name": named.name, "domain": { "name": named.domain_name } }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cloud(region: Option<&str>, interface: &str, endpoint: Option<&str>) -> Cloud {
        Cloud {
            auth: Auth::Bare(Secret::from("t")),
            region: region.map(str::to_owned),
            interface: interface.to_owned(),
            ca: None,
            endpoint: endpoint.map(str::to_owned),
        }
    }

    fn session(catalog: Value) -> Session {
        let body = json!({ "token": { "project": { "id": "p1" }, "catalog": catalog } });
        let body: Body = serde_json::from_value(body).unwrap();
        Session {
            token: Secret::from("t"),
            project_id: body.token.project.map(|it| it.id),
            catalog: body.token.catalog,
        }
    }

    fn endpoint(interface: &str, region: &str, url: &str) -> Value {
        json!({ "id": "x", "interface": interface, "region": region, "region_id": region, "url": url })
    }

    #[test]
    fn the_endpoint_is_the_catalogs_of_region_and_interface() {
        let session = session(json!([
            { "type": "volumev3", "name": "cinderv3", "endpoints": [endpoint("public", "west", "http://old/v3/p1")] },
            { "type": "block-storage", "name": "cinder", "endpoints": [
                endpoint("internal", "west", "http://in.west/v3"),
                endpoint("public", "east", "http://east:8776/v3/p1"),
                endpoint("public", "west", "http://west/v3"),
            ] },
            { "type": "compute", "name": "nova" },
        ]));
        let found = |region, interface| {
            let url = session.cinder(&cloud(region, interface, None));
            url.map(|it| it.to_string()).map_err(|it| it.to_string())
        };
        assert_eq!(found(None, "public").unwrap(), "http://east:8776/v3/p1");
        assert_eq!(found(Some("west"), "public").unwrap(), "http://west:80/v3");
        assert_eq!(
            found(Some("west"), "internal").unwrap(),
            "http://in.west:80/v3"
        );
        let none = found(Some("north"), "admin").unwrap_err();
        assert!(
            none.contains("\"north\"") && none.contains("\"admin\""),
            "{none}"
        );
        let given = session.cinder(&cloud(None, "public", Some("http://c/v3/%(project_id)s")));
        assert_eq!(given.unwrap().to_string(), "http://c:80/v3/p1");
    }

    #[test]
    fn a_catalog_shows_whether_there_is_a_nova() {
        assert!(session(json!([{ "type": "compute" }])).may_have_nova());
        assert!(!session(json!([{ "type": "identity" }])).may_have_nova());
        assert!(session(Value::Null).may_have_nova());
    }

    fn written(proof: &Proof) -> Value {
        serde_json::from_slice(&body(proof).unwrap()).unwrap()
    }

    fn named(id: Option<&str>, name: Option<&str>, domain: Option<&str>) -> Named {
        Named {
            id: id.map(str::to_owned),
            name: name.map(str::to_owned),
            domain_id: Some("default".to_owned()).filter(|_| domain.is_none()),
            domain_name: domain.map(str::to_owned),
        }
    }

    #[test]
    fn logins_are_written_as_keystone_reads_them() {
        let password = Proof::Password {
            user: named(None, Some("ann"), Some("staff")),
            password: Secret::from("hunter2"),
            project: named(Some("p1"), Some("ignored"), None),
        };
        let user = json!({ "name": "ann", "domain": { "name": "staff" }, "password": "hunter2" });
        let expected = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": user } },
            "scope": { "project": { "id": "p1" } },
        } });
        assert_eq!(written(&password), expected);
        let token = Proof::Token {
            token: Secret::from("t"),
            project: named(None, Some("web"), None),
        };
        let expected = json!({ "auth": {
            "identity": { "methods": ["token"], "token": { "id": "t" } },
            "scope": { "project": { "name": "web", "domain": { "id": "default" } } },
        } });
        assert_eq!(written(&token), expected);
        let user = named(Some("u1"), None, None);
        for (which, expected) in [
            (Which::Id("a".into()), json!({ "id": "a", "secret": "s" })),
            (
                Which::Name("n".into(), user),
                json!({ "name": "n", "user": { "id": "u1" }, "secret": "s" }),
            ),
        ] {
            let secret = Secret::from("s");
            let login = written(&Proof::Application { which, secret });
            let expected = json!({ "identity": {
                "methods": ["application_credential"], "application_credential": expected,
            } });
            assert_eq!(login["auth"], expected);
        }
    }

    proptest! {
        #[test]
        fn any_answer_of_keystones_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<Body>(&body);
        }

        #[test]
        fn no_catalog_gives_an_address_that_is_none(url in "[a-z:/.0-9@?#%-]{0,30}", interface in "(public|internal)") {
            let session = session(json!([{ "type": "volumev3", "endpoints": [endpoint(&interface, "r", &url)] }]));
            if let Ok(found) = session.cinder(&cloud(None, "public", None)) {
                prop_assert_eq!(HttpUrl::parse(&found.to_string()), Some(found));
            }
        }
    }
}
