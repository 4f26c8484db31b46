//! Cinder's calls, one method each.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::answers::{
    Attachment, ManyAttachments, Microversion, OneAttachment, OneVolume, Versions, Volume,
};
use super::args::CloudArgs;
use super::cloud::{Cloud, Environment};
use super::error::CinderError;
use super::session::Session;
use super::web::{Answered, Ask, send, token_header};
use crate::auth::HttpClient;
use crate::config::HttpUrl;
use crate::model::{Permissions, Secret, VolumeId};

/// The longest answer taken, in bytes: a page of 500 attachments with their connection info is a tenth.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Attachments asked for at a time.
const PAGE: &str = "500";
/// How often a list is begun.
const TRIES: usize = 5;

/// The key of a volume's metadata that has its permissions.
pub(super) const PERMISSIONS: &str = "permissions";

type Result<T> = std::result::Result<T, CinderError>;

/// Asks Cinder, as somebody.
pub(super) struct Cinder {
    http: HttpClient,
    endpoint: HttpUrl,
    token: Secret,
    /// A service's own, which calls on the user's behalf.
    service_token: Option<Secret>,
    version: Option<Microversion>,
    /// Whether the cloud may have a Nova.
    pub(super) may_have_nova: bool,
}

/// The way to a cloud's servers.
fn http(cloud: &Cloud, timeout: Duration) -> Result<HttpClient> {
    let http = match &cloud.ca {
        Some(ca) => HttpClient::new(Some(ca), timeout)?,
        None => HttpClient::trusting_host(timeout)?,
    };
    Ok(http.with_limit(MAX_ANSWER))
}

impl Cinder {
    /// Logs in, and agrees on a version.
    pub(super) async fn connect(
        args: &CloudArgs,
        env: Environment<'_>,
        timeout: Duration,
    ) -> Result<Self> {
        let cloud = Cloud::read(args.os_cloud.as_deref(), env)?;
        let client = http(&cloud, timeout)?;
        let session = Session::open(&client, &cloud).await?;
        let service = args.service_cloud.as_deref().filter(|it| !it.is_empty());
        let service_token = match service {
            Some(name) => {
                let service = Cloud::read(Some(name), env)?;
                let client = http(&service, timeout)?;
                Some(Session::open(&client, &service).await?.token)
            }
            None => None,
        };
        let mut cinder = Self {
            endpoint: session.cinder(&cloud)?,
            may_have_nova: session.may_have_nova(),
            http: client,
            token: session.token,
            service_token,
            version: None,
        };
        cinder.version = Some(cinder.agree().await?);
        Ok(cinder)
    }

    /// Whether a service's token goes along.
    pub(super) fn has_service_token(&self) -> bool {
        self.service_token.is_some()
    }

    /// The version to speak, by the list that Cinder has at the root of its API.
    async fn agree(&self) -> Result<Microversion> {
        let mut root = self.endpoint.clone();
        // The project's id follows, in catalogs of older clouds.
        if let Some((before, _)) = format!("{}/", root.path).rsplit_once("/v3/") {
            root.path = format!("{before}/v3");
        }
        let tried = "ask Cinder for its versions";
        let answer = self
            .ask(&root, self.service(), tried, Method::GET, "/", None)
            .await?;
        let versions: Versions = answer.read()?;
        versions.common().map_err(|why| {
            CinderError::Unsuitable(format!("cannot use Cinder at {}: {why}", self.endpoint))
        })
    }

    fn service(&self) -> Option<&Secret> {
        self.service_token.as_ref()
    }

    async fn ask(
        &self,
        server: &HttpUrl,
        service: Option<&Secret>,
        tried: &str,
        method: Method,
        target: &str,
        body: Option<Value>,
    ) -> Result<Answered> {
        let mut headers = HeaderMap::new();
        token_header(&mut headers, "x-auth-token", &self.token)?;
        if let Some(token) = service {
            token_header(&mut headers, "x-service-token", token)?;
        }
        if let Some(version) = self.version
            && let Ok(value) = HeaderValue::from_str(&format!("volume {version}"))
        {
            headers.insert("openstack-api-version", value);
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let ask = Ask {
            tried,
            method,
            target,
            headers,
            body,
        };
        send(&self.http, server, ask).await
    }

    async fn call(
        &self,
        tried: &str,
        method: Method,
        target: &str,
        body: Option<Value>,
    ) -> Result<Answered> {
        let service = self.service();
        self.ask(&self.endpoint, service, tried, method, target, body)
            .await
    }

    pub(super) async fn volume(&self, id: &str) -> Result<Volume> {
        let tried = format!("look at volume {id}");
        let target = format!("/volumes/{}", escaped(id));
        let answer = self.call(&tried, Method::GET, &target, None).await?;
        Ok(answer.read::<OneVolume>()?.volume)
    }

    /// Makes an attachment, and connects the storage to the host that the connector is of.
    pub(super) async fn create(
        &self,
        volume: &VolumeId,
        connector: &Value,
        read_only: bool,
    ) -> Result<Attachment> {
        let tried = format!("create an attachment of volume {volume}");
        let body = json!({ "attachment": {
            "volume_uuid": volume.as_str(),
            "connector": connector,
            "mode": if read_only { "ro" } else { "rw" },
        } });
        let answer = self
            .call(&tried, Method::POST, "/attachments", Some(body))
            .await?;
        Ok(answer.read::<OneAttachment>()?.attachment)
    }

    pub(super) async fn attachment(&self, id: Uuid) -> Result<Attachment> {
        let tried = format!("look at attachment {id}");
        let target = format!("/attachments/{id}");
        let answer = self.call(&tried, Method::GET, &target, None).await?;
        Ok(answer.read::<OneAttachment>()?.attachment)
    }

    /// Tells Cinder that the volume is in use.
    pub(super) async fn complete(&self, id: Uuid) -> Result<()> {
        let tried = format!("complete attachment {id}");
        let target = format!("/attachments/{id}/action");
        let body = json!({ "os-complete": {} });
        self.call(&tried, Method::POST, &target, Some(body)).await?;
        Ok(())
    }

    /// Ends an attachment; one that does not exist is fine.
    pub(super) async fn delete(&self, id: Uuid) -> Result<()> {
        self.delete_by(id, self.service()).await
    }

    /// The same unless Nova uses the attachment: without a service's token Cinder asks Nova.
    pub(super) async fn delete_unless_novas(&self, id: Uuid) -> Result<()> {
        self.delete_by(id, None).await
    }

    async fn delete_by(&self, id: Uuid, service: Option<&Secret>) -> Result<()> {
        let tried = format!("delete attachment {id}");
        let target = format!("/attachments/{id}");
        let answer = self.ask(
            &self.endpoint,
            service,
            &tried,
            Method::DELETE,
            &target,
            None,
        );
        match answer.await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Every attachment that matches, of all projects if the caller may see them, page by page.
    pub(super) async fn attachments(&self, filter: &[(&str, &str)]) -> Result<Vec<Attachment>> {
        for _ in 0..TRIES {
            if let Some(found) = self.try_attachments(filter).await? {
                return Ok(found);
            }
        }
        let why =
            format!("attachments come and go while they are listed, {TRIES} times: ask again");
        Err(CinderError::Unsuitable(why))
    }

    /// The same; `None`: the last of a page was gone before the next page was asked for, which Cinder then does not find.
    async fn try_attachments(&self, filter: &[(&str, &str)]) -> Result<Option<Vec<Attachment>>> {
        let mut found: Vec<Attachment> = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let mut target = format!("/attachments/detail?all_tenants=1&limit={PAGE}");
            for (key, value) in filter {
                target.push_str(&format!("&{key}={}", escaped(value)));
            }
            if let Some(last) = found.last() {
                target.push_str(&format!("&marker={}", last.id));
            }
            let answer = self.call("list the attachments", Method::GET, &target, None);
            let answer = match answer.await {
                Err(error) if error.is_not_found() && !found.is_empty() => return Ok(None),
                answer => answer?,
            };
            let page = answer.read::<ManyAttachments>()?.attachments;
            if page.is_empty() {
                return Ok(Some(found));
            }
            if !page.iter().all(|attachment| seen.insert(attachment.id)) {
                return Err(answer.malformed("it repeats the page before"));
            }
            found.extend(page);
        }
    }

    /// Every attachment with that value in a column that administrators alone may search; `None`: the caller may not.
    pub(super) async fn attachments_by(
        &self,
        column: &str,
        value: &str,
    ) -> Result<Option<Vec<Attachment>>> {
        match self.attachments(&[(column, value)]).await {
            Ok(found) => Ok(Some(found)),
            // "Invalid filters attached_host are found in query options."
            Err(error) if error.is_bad_request() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn extend(&self, volume: &str, gib: u64) -> Result<()> {
        let tried = format!("extend volume {volume} to {gib} GiB");
        let target = format!("/volumes/{}/action", escaped(volume));
        let body = json!({ "os-extend": { "new_size": gib } });
        self.call(&tried, Method::POST, &target, Some(body)).await?;
        Ok(())
    }

    /// Sets who may use a volume; `None`: forgets it, and what was never set is fine.
    pub(super) async fn set_permissions(
        &self,
        volume: &VolumeId,
        permissions: Option<Permissions>,
    ) -> Result<()> {
        let tried = format!("set the permissions of volume {volume}");
        let target = format!("/volumes/{volume}/metadata");
        let answer = match permissions {
            Some(permissions) => {
                let body = json!({ "metadata": { PERMISSIONS: permissions.to_string() } });
                self.call(&tried, Method::POST, &target, Some(body)).await
            }
            None => {
                let target = format!("{target}/{PERMISSIONS}");
                self.call(&tried, Method::DELETE, &target, None).await
            }
        };
        match answer {
            Err(error) if permissions.is_some() || !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// A value as a part of a target: it cannot lead elsewhere.
fn escaped(text: &str) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
    utf8_percent_encode(text, ESCAPED).to_string()
}
