//! Credentials as OpenStack's own clients take them: the variables `OS_*`, or a cloud of clouds.yaml.
//!
//! Passwords and tokens are in [`Secret`] from here on, and no option of the command line has one.

use std::path::{Path, PathBuf};

use super::error::CinderError;
use super::yaml::Node;
use crate::config::HttpUrl;
use crate::model::{Secret, hint, nearest};

/// Reads a variable of the environment.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Who asks, and how to reach the cloud.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cloud {
    pub(super) auth: Auth,
    /// `None`: the catalog's first.
    pub(super) region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(super) interface: String,
    /// PEM: the authorities of the servers' certificates; `None`: those that the host's packages trust.
    pub(super) ca: Option<PathBuf>,
    /// Cinder's address; `None`: the catalog's.
    pub(super) endpoint: Option<String>,
}

/// How a request gets its token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Auth {
    /// A token that is used as it is.
    Bare(Secret),
    /// One from Keystone.
    Login {
        keystone: HttpUrl,
        proof: Box<Proof>,
    },
}

/// How somebody shows Keystone who it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Password {
        user: Named,
        password: Secret,
        project: Named,
    },
    /// A token, to be exchanged for one of the project.
    Token {
        token: Secret,
        project: Named,
    },
    Application {
        which: Which,
        secret: Secret,
    },
}

/// An application credential, by its id or by its name and user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Which {
    Id(String),
    Name(String, Named),
}

/// Something in Keystone, by its id or by its name in a domain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) domain_id: Option<String>,
    pub(super) domain_name: Option<String>,
}

/// Keys of a cloud that change how its servers are spoken to, and that are not read here: with another meaning than the user's, they
/// would be ignored in silence.
const REFUSED: [(&str, &str); 3] = [
    (
        "profile",
        "profiles of vendors are not read: write auth_url",
    ),
    ("cert", "client certificates are not used"),
    ("key", "client certificates are not used"),
];

/// Where a setting comes from: `get("auth_url")` is `OS_AUTH_URL`, or `auth.auth_url` of a cloud.
struct Source<'a> {
    get: &'a dyn Fn(&str) -> Option<Secret>,
    /// How a setting is written there, for errors.
    written: &'a dyn Fn(&str) -> String,
}

impl Cloud {
    /// The cloud of that name, or what the environment says.
    pub(super) fn read(name: Option<&str>, env: Environment<'_>) -> Result<Self, CinderError> {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => Self::from_files(name, &Files::of(env)),
            None => Self::from_environment(env),
        }
    }

    fn from_environment(env: Environment<'_>) -> Result<Self, CinderError> {
        let written = |key: &str| match key {
            "block_storage_endpoint_override" => "OS_VOLUME_ENDPOINT_OVERRIDE".to_owned(),
            key => format!("OS_{}", key.to_uppercase()),
        };
        let get = |key: &str| {
            let value = env(&written(key)).filter(|value| !value.is_empty());
            value.map(Secret::new)
        };
        Self::from(&Source {
            get: &get,
            written: &written,
        })
    }

    fn from_files(name: &str, files: &Files) -> Result<Self, CinderError> {
        let clouds = files.clouds()?;
        let cloud = match clouds.get(name) {
            Some(cloud @ Node::Map(_)) => cloud,
            _ => {
                let Node::Map(known) = &clouds else {
                    return Err(no_clouds(name, files));
                };
                let hint = hint(nearest(name, known.keys().map(String::as_str)));
                let why = format!("clouds.yaml has no cloud {name:?}{hint}");
                return Err(CinderError::Credentials(why));
            }
        };
        for (key, why) in REFUSED {
            if cloud.get(key).is_some() {
                let why = format!("cloud {name:?} has the key {key:?}: {why}");
                return Err(CinderError::Credentials(why));
            }
        }
        let verify = cloud.get("verify").and_then(Node::text);
        if verify.is_some_and(|it| it.expose().eq_ignore_ascii_case("false")) {
            let why = format!(
                "cloud {name:?} says verify: false, and servers are always verified: name their authorities by cacert"
            );
            return Err(CinderError::Credentials(why));
        }
        let get = |key: &str| {
            let auth = cloud.get("auth").and_then(|auth| auth.get(key));
            let found = auth.or_else(|| cloud.get(key));
            let found = found.or_else(|| match key {
                // os-client-config's older name for it, by the type in older catalogs.
                "block_storage_endpoint_override" => cloud.get("volume_endpoint_override"),
                "region_name" => cloud.get("region"),
                _ => None,
            });
            found.and_then(Node::text).cloned()
        };
        let written = |key: &str| format!("{key} of cloud {name:?}");
        Self::from(&Source {
            get: &get,
            written: &written,
        })
    }

    fn from(source: &Source<'_>) -> Result<Self, CinderError> {
        let endpoint = source.text("block_storage_endpoint_override");
        let endpoint = endpoint.or_else(|| source.text("endpoint"));
        let auth = Auth::from(source)?;
        if matches!(auth, Auth::Bare(_)) && endpoint.is_none() {
            return Err(source.missing("block_storage_endpoint_override"));
        }
        let interface = source.text("interface");
        let interface = interface.or_else(|| source.text("endpoint_type"));
        let interface = interface.unwrap_or_else(|| "public".to_owned());
        Ok(Self {
            auth,
            region: source.text("region_name"),
            interface: interface.trim_end_matches("URL").to_owned(),
            ca: source.text("cacert").map(PathBuf::from),
            endpoint,
        })
    }
}

impl Auth {
    fn from(source: &Source<'_>) -> Result<Self, CinderError> {
        let kind = source.text("auth_type");
        let kind = kind.as_deref().unwrap_or("password");
        let keystone = source.text("auth_url");
        let is_token = matches!(kind, "token" | "v3token");
        let Some(url) = keystone.filter(|_| kind != "admin_token") else {
            return match is_token || kind == "admin_token" {
                true => Ok(Self::Bare(source.secret("token")?)),
                false => Err(source.missing("auth_url")),
            };
        };
        let keystone = HttpUrl::parse(&url).ok_or_else(|| {
            let written = (source.written)("auth_url");
            let why = format!("{written} is no address such as https://keystone:5000/v3");
            CinderError::Credentials(why)
        })?;
        let project = || source.named("project").known(source, "project_name");
        let user = || source.named("user").known(source, "username");
        let proof = match kind {
            "password" | "v3password" => Proof::Password {
                user: user()?,
                password: source.secret("password")?,
                project: project()?,
            },
            _ if is_token => Proof::Token {
                token: source.secret("token")?,
                project: project()?,
            },
            "v3applicationcredential" => Proof::Application {
                which: match source.text("application_credential_id") {
                    Some(id) => Which::Id(id),
                    None => match source.text("application_credential_name") {
                        Some(name) => Which::Name(name, user()?),
                        None => return Err(source.missing("application_credential_id")),
                    },
                },
                secret: source.secret("application_credential_secret")?,
            },
            other => {
                let written = (source.written)("auth_type");
                let why = format!(
                    "{written} is {other:?}, and password, token, v3applicationcredential and admin_token are known"
                );
                return Err(CinderError::Credentials(why));
            }
        };
        let proof = Box::new(proof);
        Ok(Self::Login { keystone, proof })
    }
}

impl Source<'_> {
    fn text(&self, key: &str) -> Option<String> {
        (self.get)(key).map(|text| text.expose().to_owned())
    }

    fn secret(&self, key: &str) -> Result<Secret, CinderError> {
        (self.get)(key).ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &str) -> CinderError {
        let written = (self.written)(key);
        CinderError::Credentials(format!(
            "{written} is not set; set it, or name a cloud of clouds.yaml by --os-cloud"
        ))
    }

    /// A user or a project. A domain that is not named is `default_domain`'s, or Keystone's own default.
    fn named(&self, what: &str) -> Named {
        let name = match what {
            "user" => self.text("username"),
            _ => self
                .text("project_name")
                .or_else(|| self.text("tenant_name")),
        };
        let domain = |kind: &str| {
            let own = self.text(&format!("{what}_domain_{kind}"));
            own.or_else(|| self.text(&format!("default_domain_{kind}")))
                .or_else(|| match kind {
                    "name" => self.text("default_domain"),
                    _ => None,
                })
        };
        let (mut domain_id, domain_name) = (domain("id"), domain("name"));
        if domain_id.is_none() && domain_name.is_none() {
            domain_id = Some("default".to_owned());
        }
        Named {
            id: self.text(&format!("{what}_id")),
            name,
            domain_id,
            domain_name,
        }
    }
}

impl Named {
    /// The same, if it names anything.
    fn known(self, source: &Source<'_>, key: &str) -> Result<Self, CinderError> {
        match (&self.id, &self.name) {
            (None, None) => Err(source.missing(key)),
            _ => Ok(self),
        }
    }
}

/// Where clouds.yaml and secure.yaml may be, in order: the first that exists counts.
struct Files {
    clouds: Vec<PathBuf>,
    secure: Vec<PathBuf>,
}

impl Files {
    fn of(env: Environment<'_>) -> Self {
        let set = |name: &str| env(name).filter(|it| !it.is_empty()).map(PathBuf::from);
        let configuration = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
        let mut folders = vec![PathBuf::from(".")];
        folders.extend(configuration.map(|it| it.join("openstack")));
        folders.push("/etc/openstack".into());
        let within = |variable: &str, name: &str| {
            let named = set(variable).into_iter();
            named
                .chain(folders.iter().map(|it| it.join(name)))
                .collect()
        };
        Self {
            clouds: within("OS_CLIENT_CONFIG_FILE", "clouds.yaml"),
            secure: within("OS_CLIENT_SECURE_FILE", "secure.yaml"),
        }
    }

    /// The clouds of clouds.yaml, with what secure.yaml adds to them.
    fn clouds(&self) -> Result<Node, CinderError> {
        let mut document = read_first(&self.clouds)?;
        document.merge(read_first(&self.secure)?);
        Ok(document.get("clouds").cloned().unwrap_or(Node::Null))
    }
}

fn no_clouds(name: &str, files: &Files) -> CinderError {
    let places: Vec<_> = files
        .clouds
        .iter()
        .map(|it| it.display().to_string())
        .collect();
    CinderError::Credentials(format!(
        "cloud {name:?} is asked for, and no clouds.yaml with clouds is at {}",
        places.join(", ")
    ))
}

fn read_first(paths: &[PathBuf]) -> Result<Node, CinderError> {
    match paths.iter().find(|path| path.exists()) {
        Some(path) => read(path),
        None => Ok(Node::Null),
    }
}

fn read(path: &Path) -> Result<Node, CinderError> {
    let text = std::fs::read_to_string(path).map_err(|source| CinderError::File {
        path: path.to_owned(),
        source,
    })?;
    let text = Secret::new(text);
    Node::parse(text.expose()).map_err(|source| CinderError::Yaml {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
