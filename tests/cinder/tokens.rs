//! Whose tokens Cinder gets, and what it decides by them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use volattach::api::v1;

use crate::faults::Fault;
use crate::fixture::Cloud;
use crate::keystone::{PASSWORD, ask};
use crate::server::info;
use crate::tenant::Tenant;

/// An instance that no Nova has.
const INSTANCE: &str = "19c90908-234a-476a-9c57-af77b20c170d";

#[tokio::test(flavor = "multi_thread")]
async fn what_each_caller_may() {
    let mut tenant = Tenant::new(&Cloud::shared(), "tokens").await;
    tenant.write_clouds();
    let volume = tenant.create_volume();
    let attach = ["attach", &*volume, "--domain", "web"];

    let id = tenant.attach(&volume, &[]).await;
    tenant.run(&["detach", &id]).await.answer();
    let id = tenant
        .attach(&volume, &["--service-cloud", "service"])
        .await;
    let mut command = tenant.command(&["detach", &id]);
    command.env("OS_SERVICE_CLOUD", "service");
    tenant.finish(command).await.answer();

    // By clouds.yaml alone, without a variable.
    let mut command = tenant.command(&[&attach[..], &["--os-cloud", "user"]].concat());
    for name in [
        "AUTH_URL",
        "USERNAME",
        "PASSWORD",
        "PROJECT_NAME",
        "USER_DOMAIN_NAME",
        "PROJECT_DOMAIN_NAME",
        "REGION_NAME",
    ] {
        command.env_remove(format!("OS_{name}"));
    }
    let answer = tenant.finish(command).await.answer();
    let id = answer["attachment_id"].as_str().unwrap();
    tenant.run(&["detach", id]).await.answer();

    // A service has no more rights of its own than anybody: the volume is of another project.
    let mut command = tenant.command(&attach);
    command
        .env("OS_USERNAME", "volattach")
        .env("OS_PROJECT_NAME", "service");
    let ended = tenant.finish(command).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.words().contains(&volume), "{ended:?}");

    // A reader may look; a service's token beside the reader's does not change that.
    let reader = tenant.name.clone() + "-reader";
    make_reader(&tenant, &reader);
    tenant.run_as(&reader, &["list"]).await.answer();
    for more in [&[][..], &["--service-cloud", "service"]] {
        let ended = tenant.run_as(&reader, &[&attach[..], more].concat()).await;
        assert_eq!(ended.code, Some(8), "{ended:?}");
        assert!(ended.words().contains("attachment_create"), "{ended:?}");
    }

    let mut command = tenant.command(&attach);
    command.env("OS_PASSWORD", "wrong-one");
    let ended = tenant.finish(command).await;
    assert!(!ended.words().contains("wrong-one"), "{ended:?}");
    assert_eq!(ended.code, Some(8), "{ended:?}");
    assert_eq!(tenant.left().await, [""; 0]);
}

/// Makes an attachment for an instance, as Nova does, and has the agent attach it.
async fn attach_for_instance(tenant: &Tenant, volume: &str) -> String {
    let body = json!({ "attachment": {
        "volume_uuid": volume,
        "instance_uuid": INSTANCE,
        "connector": { "host": "node", "ip": "10.0.0.2", "platform": "x86_64", "os_type": "linux", "multipath": false },
    }});
    let made = tenant
        .cloud
        .must(&tenant.token, "POST", "/attachments", &body);
    let attachment = &made["attachment"];
    let id = attachment["id"].as_str().unwrap().to_owned();
    let request = v1::AttachVolumeRequest {
        attachment_id: id.clone(),
        volume_id: volume.to_owned(),
        domain: "web".to_owned(),
        connection_info: info(&attachment["connection_info"].to_string()),
        ..Default::default()
    };
    let mut client = tenant.server.client().await;
    client.attach_volume(request).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_of_an_instance_is_ended_with_a_services_token_alone() {
    let mut tenant = Tenant::new(&Cloud::shared(), "instance").await;
    tenant.write_clouds();
    let volume = tenant.create_volume();
    let id = attach_for_instance(&tenant, &volume).await;
    // Without it Cinder would ask a Nova, which does not exist, and fail. This is known before anything is detached.
    let ended = tenant.run(&["detach", &id]).await;
    let words = ended.words();
    assert!(
        words.contains(&id) && words.contains("--service-cloud"),
        "{words}"
    );
    assert_eq!(tenant.disks().len(), 1);
    assert_eq!(tenant.in_cinder().len(), 1);
    let path = format!("/attachments/{id}");
    let user = [("X-Auth-Token", tenant.token.as_str())];
    let (status, answer) = tenant.cloud.ask(&user, "DELETE", &path, &Value::Null);
    assert_eq!(status, 500, "{answer}");

    // What the words advise. The first time the last request fails, after the user's login and GET of versions and attachment; the
    // service logs in past the proxy.
    let detach = ["detach", &*id, "--service-cloud", "service"];
    let fault = (3, Fault::Status(500));
    let (ended, line) = tenant.run_with_fault(&detach, fault).await;
    assert!(line.is_some_and(|it| it.starts_with("DELETE")), "{ended:?}");
    assert!(ended.words().contains("the same command"), "{ended:?}");
    assert_eq!(tenant.disks().len(), 0);
    assert_eq!(tenant.in_cinder().len(), 1);
    tenant.run(&detach).await.answer();
    tenant.becomes(&volume, "available").await;
    assert_eq!(tenant.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cinder_decides_by_each_token() {
    let mut tenant = Tenant::new(&Cloud::shared(), "decides").await;
    let volume = tenant.create_volume();
    let cloud = tenant.cloud.clone();
    let user = tenant.token.as_str();
    let service = cloud.keystone.token("volattach", "service");
    let other = cloud.keystone.token("member", "demo");
    let service = service.as_str();
    let of_user = |token| ("X-Auth-Token", token);
    let of_service = |token| ("X-Service-Token", token);
    let other = other.as_str();
    let observer = cloud.keystone.token("observer", "other");
    let observer = observer.as_str();
    let expired = expired_token(&tenant).await;
    let expired = expired.as_str();
    for (case, tokens, expected) in [
        ("observer", &[of_user(observer)][..], 200),
        ("expired user", &[of_user(expired)], 401),
        (
            "expired user, and a service",
            &[of_user(expired), of_service(service)],
            200,
        ),
        ("user", &[of_user(user)], 200),
        ("service alone", &[of_user(service)], 404),
        ("service in its place, alone", &[of_service(service)], 401),
        ("both", &[of_user(user), of_service(service)], 200),
        (
            "a user's token in the service's place",
            &[of_user(user), of_service(user)],
            401,
        ),
        (
            "a user of another project, and a service",
            &[of_user(other), of_service(service)],
            404,
        ),
    ] {
        let path = format!("/volumes/{volume}");
        let (status, answer) = cloud.ask(tokens, "GET", &path, &Value::Null);
        assert_eq!(status, expected, "{case}: {answer}");
    }
    // Who may look at every project's may still attach nothing.
    tenant.run_by(observer, &["list"]).await.answer();
    let attach = ["attach", &*volume, "--domain", "web"];
    let ended = tenant.run_by(observer, &attach).await;
    assert_eq!(ended.code, Some(8), "{ended:?}");
    assert!(ended.words().contains("attachment_create"), "{ended:?}");
    assert_eq!(tenant.left().await, [""; 0]);
}

/// A token of the tenant's user that has run out: Keystone lets none outlive the application credential that it was got by.
async fn expired_token(tenant: &Tenant) -> String {
    let keystone = &tenant.cloud.keystone;
    let users = keystone.admin(
        "GET",
        &format!("/v3/users?name={}", tenant.name),
        &Value::Null,
    );
    let user = users["users"][0]["id"].as_str().unwrap();
    let end = SystemTime::now() + Duration::from_secs(3);
    let seconds = end.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut date = std::process::Command::new("date");
    let date = date
        .args(["-u", "-d", &format!("@{seconds}"), "+%FT%TZ"])
        .output();
    let text = String::from_utf8(date.unwrap().stdout).unwrap();
    let body = json!({ "application_credential": { "name": "short", "expires_at": text.trim() } });
    let path = format!("/v3/users/{user}/application_credentials");
    let by_user = [("X-Auth-Token", tenant.token.as_str())];
    let made = ask(keystone.port(), "POST", &path, &by_user, Some(&body)).unwrap();
    assert_eq!(made.status, 201, "{}", made.body);
    let made: Value = serde_json::from_str(&made.body).unwrap();
    let made = &made["application_credential"];
    let body = json!({ "auth": { "identity": {
        "methods": ["application_credential"],
        "application_credential": { "id": made["id"], "secret": made["secret"] },
    }}});
    let answer = ask(keystone.port(), "POST", "/v3/auth/tokens", &[], Some(&body)).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    while SystemTime::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    answer.token.unwrap()
}

fn make_reader(tenant: &Tenant, name: &str) {
    let keystone = &tenant.cloud.keystone;
    let body = json!({ "user": { "name": name, "domain_id": "default", "password": PASSWORD } });
    let made = keystone.admin("POST", "/v3/users", &body);
    let user = made["user"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v3/projects?name={}", tenant.name);
    let projects = keystone.admin("GET", &path, &Value::Null);
    let project = projects["projects"][0]["id"].as_str().unwrap().to_owned();
    let role = keystone.id("role reader");
    let path = format!("/v3/projects/{project}/users/{user}/roles/{role}");
    keystone.admin("PUT", &path, &Value::Null);
}
