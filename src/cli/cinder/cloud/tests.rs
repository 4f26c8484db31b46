use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::chain;

fn from(variables: &[(&str, &str)]) -> Result<Cloud, CinderError> {
    named(None, variables)
}

fn named(name: Option<&str>, variables: &[(&str, &str)]) -> Result<Cloud, CinderError> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    Cloud::read(name, &|name| variables.get(name).map(|it| (*it).to_owned()))
}

fn why(result: Result<Cloud, CinderError>) -> String {
    let why = chain(&result.unwrap_err());
    assert!(!why.contains("hunter2"), "{why}");
    why
}

const PASSWORD: [(&str, &str); 4] = [
    ("OS_AUTH_URL", "https://ks:5000/v3"),
    ("OS_USERNAME", "ann"),
    ("OS_PASSWORD", "hunter2"),
    ("OS_PROJECT_NAME", "web"),
];

fn default_domain(id: Option<&str>, name: Option<&str>) -> Named {
    Named {
        id: id.map(str::to_owned),
        name: name.map(str::to_owned),
        domain_id: Some("default".to_owned()),
        domain_name: None,
    }
}

fn proof(auth: Auth) -> Proof {
    match auth {
        Auth::Login { proof, .. } => *proof,
        Auth::Bare(_) => panic!("Keystone is not asked"),
    }
}

fn password(auth: Auth) -> (Named, Secret, Named) {
    match proof(auth) {
        Proof::Password {
            user,
            password,
            project,
        } => (user, password, project),
        other => panic!("no password: {other:?}"),
    }
}

#[test]
fn the_variables_are_those_of_openstacks_clients() {
    let cloud = from(&PASSWORD).unwrap();
    assert_eq!(
        cloud,
        Cloud {
            auth: Auth::Login {
                keystone: HttpUrl::parse("https://ks:5000/v3").unwrap(),
                proof: Box::new(Proof::Password {
                    user: default_domain(None, Some("ann")),
                    password: Secret::from("hunter2"),
                    project: default_domain(None, Some("web")),
                }),
            },
            region: None,
            interface: "public".to_owned(),
            ca: None,
            endpoint: None,
        }
    );
    assert!(!format!("{cloud:?}").contains("hunter2"));

    let more = [
        ("OS_USER_DOMAIN_NAME", "staff"),
        ("OS_PROJECT_DOMAIN_ID", "d1"),
        ("OS_INTERFACE", "internalURL"),
        ("OS_REGION_NAME", "west"),
        ("OS_CACERT", "/ca.pem"),
        ("OS_VOLUME_ENDPOINT_OVERRIDE", "http://c:8776/v3"),
    ];
    let cloud = from(&[&PASSWORD[..], &more].concat()).unwrap();
    let (user, _, project) = password(cloud.auth);
    assert_eq!(user.domain_name.as_deref(), Some("staff"));
    assert_eq!(project.domain_id.as_deref(), Some("d1"));
    assert_eq!(cloud.interface, "internal");
    assert_eq!(cloud.region.as_deref(), Some("west"));
    assert_eq!(cloud.ca, Some("/ca.pem".into()));
    assert_eq!(cloud.endpoint.as_deref(), Some("http://c:8776/v3"));
}

#[test]
fn tokens_and_application_credentials_are_taken() {
    let token = [
        ("OS_AUTH_TYPE", "token"),
        ("OS_TOKEN", "hunter2"),
        ("OS_AUTH_URL", "https://ks"),
        ("OS_PROJECT_ID", "p"),
    ];
    let exchanged = proof(from(&token).unwrap().auth);
    assert!(matches!(exchanged, Proof::Token { .. }));
    // Without Keystone the token is the whole of it, and the catalog is missing.
    let bare = [
        token[0],
        token[1],
        ("OS_VOLUME_ENDPOINT_OVERRIDE", "http://c"),
    ];
    assert_eq!(
        from(&bare).unwrap().auth,
        Auth::Bare(Secret::from("hunter2"))
    );
    assert!(why(from(&token[..2])).contains("OS_VOLUME_ENDPOINT_OVERRIDE is not set"));

    let application = [
        ("OS_AUTH_TYPE", "v3applicationcredential"),
        ("OS_AUTH_URL", "https://ks"),
        ("OS_APPLICATION_CREDENTIAL_ID", "id"),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "hunter2"),
    ];
    assert_eq!(
        proof(from(&application).unwrap().auth),
        Proof::Application {
            which: Which::Id("id".to_owned()),
            secret: Secret::from("hunter2"),
        }
    );
    let without = [application[0], application[1], application[3]];
    assert!(why(from(&without)).contains("OS_APPLICATION_CREDENTIAL_ID is not set"));
}

#[test]
fn what_is_missing_is_named() {
    for (index, (name, _)) in PASSWORD.iter().enumerate() {
        let mut some = PASSWORD.to_vec();
        some.remove(index);
        assert!(why(from(&some)).contains(*name), "{name}");
        // An empty variable is none.
        some.push((*name, ""));
        assert!(why(from(&some)).contains(*name), "{name}");
    }
    let kerberos = [&PASSWORD[..], &[("OS_AUTH_TYPE", "v3kerberos")]].concat();
    assert!(why(from(&kerberos)).contains("v3kerberos"));
    let mut wrong = PASSWORD.to_vec();
    wrong[0].1 = "ftp://ks";
    assert!(why(from(&wrong)).contains("OS_AUTH_URL is no address"));
}

#[test]
fn a_cloud_is_read_with_what_secure_yaml_adds() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("openstack");
    std::fs::create_dir(&folder).unwrap();
    let clouds = "clouds:\n  lab:\n    region_name: west\n    interface: internal\n    cacert: /ca.pem\n    volume_endpoint_override: http://c/v3\n    auth: {auth_url: 'https://ks:5000', username: ann, project_id: p, user_domain_name: Default}\n";
    std::fs::write(folder.join("clouds.yaml"), clouds).unwrap();
    let home = [("XDG_CONFIG_HOME", dir.path().to_str().unwrap())];
    assert!(why(named(Some("lab"), &home)).contains("password of cloud \"lab\" is not set"));
    let secure = "clouds: {lab: {auth: {password: hunter2}}}";
    std::fs::write(folder.join("secure.yaml"), secure).unwrap();
    let cloud = named(Some("lab"), &home).unwrap();
    let (user, password, project) = password(cloud.auth);
    assert_eq!(user.domain_name.as_deref(), Some("Default"));
    assert_eq!(password.expose(), "hunter2");
    assert_eq!(project, default_domain(Some("p"), None));
    assert_eq!(cloud.endpoint.as_deref(), Some("http://c/v3"));

    let unknown = why(named(Some("lap"), &home));
    assert!(
        unknown.contains("no cloud \"lap\"") && unknown.contains("lab"),
        "{unknown}"
    );
    // A cloud that is named counts, whatever the variables say.
    assert!(named(Some("lap"), &[&PASSWORD[..], &home].concat()).is_err());
    for (key, words) in [("profile: x", "profile"), ("verify: false", "cacert")] {
        let text = clouds.replace("region_name: west", key);
        std::fs::write(folder.join("clouds.yaml"), text).unwrap();
        assert!(why(named(Some("lab"), &home)).contains(words), "{key}");
    }
    std::fs::write(folder.join("clouds.yaml"), "clouds:\n  - x: hunter2: y\n").unwrap();
    let broken = why(named(Some("lab"), &home));
    assert!(broken.contains("clouds.yaml: line 2"), "{broken}");
}

#[test]
fn a_cloud_without_a_file_tells_where_it_was_looked_for() {
    let why = why(named(
        Some("lab"),
        &[("OS_CLIENT_CONFIG_FILE", "/nonexistent/c.yaml")],
    ));
    assert!(
        why.contains("/nonexistent/c.yaml") && why.contains("/etc/openstack"),
        "{why}"
    );
}

proptest! {
    #[test]
    fn any_cloud_is_read_or_refused_without_its_secret(
        keys in proptest::collection::btree_map("(auth_url|auth_type|username|user_id|project_name|project_id|region_name|token|interface|cacert)", "[a-z0-9:/.]{0,20}", 0..8)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        let mut auth: BTreeMap<&str, &str> = keys.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        auth.insert("password", "hunter2");
        let document = serde_json::json!({ "clouds": { "x": { "auth": auth } } });
        std::fs::write(&file, document.to_string()).unwrap();
        let variables = [("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap())];
        let shown = match named(Some("x"), &variables) {
            Ok(cloud) => format!("{cloud:?}"),
            Err(error) => chain(&error).to_string(),
        };
        prop_assert!(!shown.contains("hunter2"), "{}", shown);
    }
}
