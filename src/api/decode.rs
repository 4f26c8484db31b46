//! From messages to valid values: every field is checked here, and nothing is checked again later.

mod connection;
mod volume;

use std::error::Error;
use std::str::FromStr;

use super::{page, revision, v1};
use crate::attach::{
    AttachRequest, ConnectRequest, EndRequest, ExtendRequest, Filter, ForgetRequest, IoLimits,
    IoTuneRequest, ListQuery, PermissionsRequest, WatchRequest,
};
use crate::connection::{ConnectionError, QosSpecs};
use crate::model::{
    Access, AttachmentId, DiskOptions, DomainRef, IoTune, Reason, Scope, State, VolumeId,
};

/// The longest target or serial taken, in bytes; which of the shorter ones the bus takes is decided with the domain.
const MAX_TEXT: usize = 64;

/// QoS specs taken at most.
const MAX_SPECS: usize = 64;

/// Longest QoS spec, in bytes.
const MAX_SPEC: usize = 255;

/// Longest text that attachments are searched for, in bytes: as long as the name of a host may be (RFC 1035, 2.3.4).
const MAX_SOUGHT: usize = 255;

/// Why a request cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A message or a string is not there.
    #[error("the request has no {field}, which is required")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field's value is wrong.
    #[error("the request's {field} cannot be used")]
    Field {
        /// The field.
        field: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A disk option's value is wrong.
    #[error("the disk option {field} cannot be used")]
    DiskOption {
        /// The option.
        field: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The connection info is wrong.
    #[error("the connection info cannot be used")]
    ConnectionInfo(#[source] ConnectionError),
}

impl DecodeError {
    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing { .. } | Self::Field { .. } => Reason::InvalidRequest,
            Self::DiskOption { .. } => Reason::DiskOptionInvalid,
            Self::ConnectionInfo(error) => error.reason(),
        }
    }
}

type Result<T> = std::result::Result<T, DecodeError>;

fn field(field: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> DecodeError {
    DecodeError::Field {
        field,
        source: source.into(),
    }
}

fn option(field: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> DecodeError {
    DecodeError::DiskOption {
        field,
        source: source.into(),
    }
}

fn unknown_number(value: i32) -> String {
    format!("{value} is none of its values that this daemon knows")
}

/// An id or a name that must be there.
fn required<T>(name: &'static str, value: &str) -> Result<T>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    if value.is_empty() {
        return Err(DecodeError::Missing { field: name });
    }
    value.parse().map_err(|error: T::Err| field(name, error))
}

/// An attachment's id.
///
/// # Errors
/// Where it is missing or malformed.
pub fn attachment_id(id: &str) -> Result<AttachmentId> {
    required("attachment_id", id)
}

/// What AttachVolume and PlanAttach ask.
///
/// # Errors
/// Where a field is missing or malformed.
pub fn attach(request: v1::AttachVolumeRequest) -> Result<AttachRequest> {
    Ok(AttachRequest {
        id: attachment_id(&request.attachment_id)?,
        volume: required("volume_id", &request.volume_id)?,
        domain: required("domain", &request.domain)?,
        info: connection::info(request.connection_info)?,
        access: access("access", request.access)?,
        require_rw: request.require_rw,
        boot: request.boot,
        facts: volume::facts(request.volume)?,
        disk: disk(request.disk.unwrap_or_default())?,
    })
}

/// What DetachVolume asks.
///
/// # Errors
/// Where the id is missing or malformed.
pub(super) fn detach(request: v1::DetachVolumeRequest) -> Result<EndRequest> {
    Ok(EndRequest {
        id: attachment_id(&request.attachment_id)?,
        force: request.force,
    })
}

/// What DisconnectVolume asks.
///
/// # Errors
/// Where the id is missing or malformed.
pub(super) fn disconnect(request: v1::DisconnectVolumeRequest) -> Result<EndRequest> {
    Ok(EndRequest {
        id: attachment_id(&request.attachment_id)?,
        force: request.force,
    })
}

/// What ForgetAttachment asks.
///
/// # Errors
/// Where the id is missing or malformed.
pub(super) fn forget(request: v1::ForgetAttachmentRequest) -> Result<ForgetRequest> {
    Ok(ForgetRequest {
        id: attachment_id(&request.attachment_id)?,
        confirmed: request.confirmed,
    })
}

/// What GetVolumePermissions asks.
///
/// # Errors
/// Where the id is missing or malformed.
pub(super) fn get_permissions(request: v1::GetVolumePermissionsRequest) -> Result<VolumeId> {
    required("volume_id", &request.volume_id)
}

/// What SetVolumePermissions asks.
///
/// # Errors
/// Where a field is missing or malformed.
pub(super) fn set_permissions(
    request: v1::SetVolumePermissionsRequest,
) -> Result<PermissionsRequest> {
    Ok(PermissionsRequest {
        volume: required("volume_id", &request.volume_id)?,
        permissions: volume::permissions("permissions", &request.permissions)?,
    })
}

/// What ExtendVolume asks.
///
/// # Errors
/// Where the id is missing or malformed.
pub(super) fn extend(request: v1::ExtendVolumeRequest) -> Result<ExtendRequest> {
    Ok(ExtendRequest {
        id: attachment_id(&request.attachment_id)?,
        bytes: Some(request.size_bytes).filter(|bytes| *bytes > 0),
    })
}

/// What SetIoTune asks.
///
/// # Errors
/// Where a field is missing or malformed.
pub(super) fn io_tune(request: v1::SetIoTuneRequest) -> Result<IoTuneRequest> {
    use v1::set_io_tune_request::Limits;
    let limits = match request.limits {
        None => return Err(DecodeError::Missing { field: "limits" }),
        Some(Limits::Iotune(limits)) => IoLimits::Fixed(iotune(Some(limits))?.unwrap_or_default()),
        Some(Limits::QosSpecs(qos)) => IoLimits::Qos(qos_specs(qos)?),
    };
    Ok(IoTuneRequest {
        id: attachment_id(&request.attachment_id)?,
        limits,
    })
}

fn qos_specs(qos: v1::QosSpecs) -> Result<QosSpecs> {
    if qos.specs.len() > MAX_SPECS {
        let number = qos.specs.len();
        let why = format!("it has {number} specs: at most {MAX_SPECS} are taken");
        return Err(field("qos_specs.specs", why));
    }
    let is_long = |(key, value): (&String, &String)| key.len().max(value.len()) > MAX_SPEC;
    // Cinder's columns (quality_of_service_specs in cinder/db/sqlalchemy/models.py).
    if qos.specs.iter().any(is_long) {
        let why = format!("a spec has more than {MAX_SPEC} bytes");
        return Err(field("qos_specs.specs", why));
    }
    if !["", "front-end", "back-end", "both"].contains(&qos.consumer.as_str()) {
        let why = "it is none of front-end, back-end and both";
        return Err(field("qos_specs.consumer", why));
    }
    QosSpecs::new(&qos.consumer, qos.specs).map_err(|error| field("qos_specs", error))
}

/// What PlanAttach asks.
///
/// # Errors
/// Where a field is missing or malformed.
pub(super) fn plan(request: v1::PlanAttachRequest) -> Result<AttachRequest> {
    attach(
        request
            .request
            .ok_or(DecodeError::Missing { field: "request" })?,
    )
}

/// What ConnectVolume asks.
///
/// # Errors
/// Where a field is missing or malformed.
pub(super) fn connect(request: v1::ConnectVolumeRequest) -> Result<ConnectRequest> {
    Ok(ConnectRequest {
        id: attachment_id(&request.attachment_id)?,
        volume: required("volume_id", &request.volume_id)?,
        info: connection::info(request.connection_info)?,
        access: access("access", request.access)?,
        require_rw: request.require_rw,
        boot: request.boot,
        facts: volume::facts(request.volume)?,
        disk: disk(request.disk.unwrap_or_default())?,
    })
}

/// What ListAttachments asks: one more than the page has, to learn whether there is a next.
///
/// # Errors
/// Where a field is malformed.
pub(super) fn list(request: v1::ListAttachmentsRequest) -> Result<ListQuery> {
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(page::parse(token).ok_or_else(|| {
            field(
                "page_token",
                "it is not the next_page_token of an earlier answer: begin again without it",
            )
        })?),
    };
    Ok(ListQuery {
        filter: filter(request.filter)?,
        after,
        limit: page::size(request.page_size) + 1,
    })
}

/// What WatchAttachments asks.
///
/// # Errors
/// Where a field is malformed.
pub(super) fn watch(request: v1::WatchAttachmentsRequest) -> Result<WatchRequest> {
    let after = match request.resume_after.as_str() {
        "" => None,
        token => Some(revision::parse(token).ok_or_else(|| {
            field(
                "resume_after",
                "it is not the revision of an earlier message: watch without it, which begins with everything as it is",
            )
        })?),
    };
    Ok(WatchRequest {
        filter: filter(request.filter)?,
        after,
    })
}

/// Which attachments a list or watch is about.
fn filter(filter: Option<v1::AttachmentFilter>) -> Result<Filter> {
    let filter = filter.unwrap_or_default();
    let present = |text: &String| !text.is_empty();
    let domain = Some(&filter.domain).filter(|text| present(text));
    let volume = Some(&filter.volume_id).filter(|text| present(text));
    Ok(Filter {
        domain: domain
            .map(|text| required::<DomainRef>("filter.domain", text))
            .transpose()?,
        volume: volume
            .map(|text| required("filter.volume_id", text))
            .transpose()?,
        state: state(filter.state)?,
        protocol: sought("filter.protocol", filter.protocol)?,
        server: sought("filter.server", filter.server)?,
        reason: sought("filter.error_reason", filter.error_reason)?,
        failing: filter.failing,
        created_before: filter
            .created_before
            .map(|time| {
                time.try_into()
                    .map_err(|error| field("filter.created_before", error))
            })
            .transpose()?,
    })
}

/// A text that attachments are searched for; `None`: not given.
fn sought(name: &'static str, value: String) -> Result<Option<String>> {
    match value.len() {
        0 => Ok(None),
        1..=MAX_SOUGHT => Ok(Some(value)),
        long => Err(field(
            name,
            format!("it has {long} bytes: at most {MAX_SOUGHT} are taken"),
        )),
    }
}

fn state(value: i32) -> Result<Option<State>> {
    let known =
        v1::State::try_from(value).map_err(|_| field("filter.state", unknown_number(value)))?;
    Ok(match known {
        v1::State::Unspecified => None,
        v1::State::Connecting => Some(State::Connecting),
        v1::State::Attaching => Some(State::Attaching),
        v1::State::Attached => Some(State::Attached),
        v1::State::Connected => Some(State::Connected),
        v1::State::Lost => Some(State::Lost),
        v1::State::Detaching => Some(State::Detaching),
        v1::State::Disconnecting => Some(State::Disconnecting),
        v1::State::Failed => Some(State::Failed),
        v1::State::Gone => Some(State::Gone),
    })
}

fn access(name: &'static str, value: i32) -> Result<Option<Access>> {
    let known = v1::Access::try_from(value).map_err(|_| field(name, unknown_number(value)))?;
    Ok(match known {
        v1::Access::Unspecified => None,
        v1::Access::ReadOnly => Some(Access::ReadOnly),
        v1::Access::ReadWrite => Some(Access::ReadWrite),
    })
}

fn disk(disk: v1::DiskOptions) -> Result<DiskOptions> {
    Ok(DiskOptions {
        bus: word("bus", &disk.bus)?,
        target: text("target", disk.target)?,
        cache: word("cache", &disk.cache)?,
        io: word("io", &disk.io)?,
        discard: word("discard", &disk.discard)?,
        detect_zeroes: word("detect_zeroes", &disk.detect_zeroes)?,
        serial: text("serial", disk.serial)?,
        shareable: disk.shareable,
        iotune: iotune(disk.iotune)?,
        logical_block_size: given(disk.logical_block_size),
        physical_block_size: given(disk.physical_block_size),
        address: word("address", &disk.address)?,
        boot_order: given(disk.boot_order),
        scope: scope(disk.scope)?,
        error_policy: word("error_policy", &disk.error_policy)?,
        rerror_policy: word("rerror_policy", &disk.rerror_policy)?,
    })
}

fn word<T>(name: &'static str, value: &str) -> Result<Option<T>>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    if value.is_empty() {
        return Ok(None);
    }
    let parsed = value.parse().map_err(|error: T::Err| option(name, error))?;
    Ok(Some(parsed))
}

fn text(name: &'static str, value: String) -> Result<Option<String>> {
    if value.len() > MAX_TEXT {
        let why = format!("it has {} bytes: at most {MAX_TEXT} are taken", value.len());
        return Err(option(name, why));
    }
    Ok((!value.is_empty()).then_some(value))
}

/// A number that is given; 0 is not.
fn given<T: Default + PartialEq>(number: T) -> Option<T> {
    (number != T::default()).then_some(number)
}

fn scope(value: i32) -> Result<Scope> {
    let known = v1::Scope::try_from(value).map_err(|_| option("scope", unknown_number(value)))?;
    Ok(match known {
        v1::Scope::Unspecified | v1::Scope::Live => Scope::Live,
        v1::Scope::Config => Scope::Config,
        v1::Scope::LiveAndConfig => Scope::LiveAndConfig,
    })
}

fn iotune(limits: Option<v1::IoTune>) -> Result<Option<IoTune>> {
    let limits = limits.unwrap_or_default();
    let iotune = IoTune {
        group_name: text("iotune.group_name", limits.group_name.clone())?,
        ..io_limits(&limits)
    };
    // Present but empty says the same as absent.
    Ok((iotune != IoTune::default()).then_some(iotune))
}

/// The limits without their group.
pub(crate) fn io_limits(limits: &v1::IoTune) -> IoTune {
    IoTune {
        total_bytes_sec: given(limits.total_bytes_sec),
        read_bytes_sec: given(limits.read_bytes_sec),
        write_bytes_sec: given(limits.write_bytes_sec),
        total_iops_sec: given(limits.total_iops_sec),
        read_iops_sec: given(limits.read_iops_sec),
        write_iops_sec: given(limits.write_iops_sec),
        total_bytes_sec_max: given(limits.total_bytes_sec_max),
        read_bytes_sec_max: given(limits.read_bytes_sec_max),
        write_bytes_sec_max: given(limits.write_bytes_sec_max),
        total_iops_sec_max: given(limits.total_iops_sec_max),
        read_iops_sec_max: given(limits.read_iops_sec_max),
        write_iops_sec_max: given(limits.write_iops_sec_max),
        size_iops_sec: given(limits.size_iops_sec),
        total_bytes_sec_max_length: given(limits.total_bytes_sec_max_length),
        read_bytes_sec_max_length: given(limits.read_bytes_sec_max_length),
        write_bytes_sec_max_length: given(limits.write_bytes_sec_max_length),
        total_iops_sec_max_length: given(limits.total_iops_sec_max_length),
        read_iops_sec_max_length: given(limits.read_iops_sec_max_length),
        write_iops_sec_max_length: given(limits.write_iops_sec_max_length),
        group_name: None,
    }
}

#[cfg(test)]
mod tests;
