//! From arguments to messages.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use super::args::{
    AccessArg, DiskArgs, FactsArgs, FilterArgs, LimitArgs, PlanArgs, ScopeArg, SourceArgs, StateArg,
};
use super::failure::Failure;
use crate::api::{encode, v1};
use crate::connection::ConnectionError;
use crate::model::{IoTune, VolumeId};

/// The largest connection info read, in bytes: the daemon takes no larger request.
const MAX_CONNECTION_INFO: u64 = 1024 * 1024;

/// A text, from a file or (`-`) standard input.
fn read(path: &Path, what: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let (read, place) = if path == Path::new("-") {
        let stdin = std::io::stdin();
        let read = stdin.take(MAX_CONNECTION_INFO).read_to_end(&mut bytes);
        (read, "standard input".to_owned())
    } else {
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(MAX_CONNECTION_INFO).read_to_end(&mut bytes));
        (read, path.display().to_string())
    };
    read.map_err(|error| Failure::local(format!("cannot read the {what} from {place}: {error}")))?;
    String::from_utf8(bytes).map_err(|_| {
        let error = ConnectionError::Invalid {
            key: "document".to_owned(),
            problem: "is not UTF-8",
            expected: "the object that Cinder gives, in JSON",
        };
        Failure::from_error(&error, error.reason())
    })
}

fn cinder_json(text: String) -> v1::ConnectionInfo {
    v1::ConnectionInfo {
        form: Some(v1::connection_info::Form::CinderJson(text)),
    }
}

impl SourceArgs {
    /// The connection info, and the access asked for.
    pub(super) fn read(&self) -> Result<(v1::ConnectionInfo, i32), Failure> {
        Ok((
            cinder_json(read(&self.connection_info, "connection info")?),
            self.access(),
        ))
    }

    fn access(&self) -> i32 {
        i32::from(match self.access {
            None => v1::Access::Unspecified,
            Some(AccessArg::Ro) => v1::Access::ReadOnly,
            Some(AccessArg::Rw) => v1::Access::ReadWrite,
        })
    }
}

/// What `plan` plans. The ids are placeholders where none are given: nothing is made, so they name nothing.
pub(super) fn plan(args: PlanArgs) -> Result<v1::AttachVolumeRequest, Failure> {
    let info = read(&args.source.connection_info, "connection info")?;
    let volume_id = args
        .volume
        .or_else(|| volume_id(&info))
        .unwrap_or_else(|| "volume".to_owned());
    Ok(v1::AttachVolumeRequest {
        attachment_id: "plan".to_owned(),
        volume_id,
        domain: args.domain.unwrap_or_else(|| "domain".to_owned()),
        access: args.source.access(),
        require_rw: args.source.require_rw,
        boot: args.source.boot,
        connection_info: Some(cinder_json(info)),
        volume: args.facts.into(),
        disk: Some(args.disk.into()),
    })
}

/// The volume's id where the connection info tells it: `serial` beside the data (Nova), `volume_id` in it (Cinder).
fn volume_id(info: &str) -> Option<String> {
    let info: serde_json::Value = serde_json::from_str(info).ok()?;
    ["/serial", "/volume_id", "/data/volume_id"]
        .into_iter()
        .filter_map(|place| info.pointer(place)?.as_str())
        .find(|id| id.parse::<VolumeId>().is_ok())
        .map(str::to_owned)
}

impl From<FactsArgs> for Option<v1::VolumeFacts> {
    fn from(said: FactsArgs) -> Self {
        let permissions = said.permissions.map(|permissions| permissions.to_string());
        let facts = v1::VolumeFacts {
            project_id: said.project.unwrap_or_default(),
            user_id: said.user.unwrap_or_default(),
            group_id: said.group.unwrap_or_default(),
            permissions: permissions.unwrap_or_default(),
            service_owned: said.service_owned,
            attached: Vec::new(),
        };
        (facts != v1::VolumeFacts::default()).then_some(facts)
    }
}

impl From<DiskArgs> for v1::DiskOptions {
    fn from(disk: DiskArgs) -> Self {
        Self {
            bus: disk.bus.unwrap_or_default(),
            target: disk.dev.unwrap_or_default(),
            cache: disk.cache.unwrap_or_default(),
            io: disk.io.unwrap_or_default(),
            discard: disk.discard.unwrap_or_default(),
            detect_zeroes: disk.detect_zeroes.unwrap_or_default(),
            serial: disk.serial.unwrap_or_default(),
            shareable: disk.shareable,
            iotune: io_tune(disk.limits),
            logical_block_size: disk.logical_block_size.unwrap_or_default(),
            physical_block_size: disk.physical_block_size.unwrap_or_default(),
            address: disk.address.unwrap_or_default(),
            boot_order: disk.boot_order.unwrap_or_default(),
            scope: i32::from(match disk.scope {
                ScopeArg::Live => v1::Scope::Live,
                ScopeArg::Config => v1::Scope::Config,
                ScopeArg::Both => v1::Scope::LiveAndConfig,
            }),
            error_policy: disk.error_policy.unwrap_or_default(),
            rerror_policy: disk.rerror_policy.unwrap_or_default(),
        }
    }
}

/// Limits; `None`: none are given.
pub(super) fn io_tune(limits: LimitArgs) -> Option<v1::IoTune> {
    let mut tune = IoTune {
        group_name: limits.iotune_group,
        ..IoTune::default()
    };
    for (name, value) in limits.iotune {
        tune.set(&name, value);
    }
    encode::io_tune(tune)
}

/// The QoS specs of a volume type, from a file or (`-`) standard input.
pub(super) fn qos_specs(path: &Path) -> Result<v1::QosSpecs, Failure> {
    #[derive(serde::Deserialize)]
    struct Document {
        consumer: String,
        specs: HashMap<String, String>,
    }
    let text = read(path, "QoS specs")?;
    let document: Document = serde_json::from_str(&text).map_err(|error| {
        Failure::local(format!(
            "cannot use the QoS specs in {}: {error}; give them as Cinder's API has them: {{\"consumer\": \"front-end\", \"specs\": {{…}}}}",
            path.display()
        ))
    })?;
    Ok(v1::QosSpecs {
        consumer: document.consumer,
        specs: document.specs,
    })
}

impl From<FilterArgs> for v1::AttachmentFilter {
    fn from(filter: FilterArgs) -> Self {
        Self {
            domain: filter.domain.unwrap_or_default(),
            volume_id: filter.volume.unwrap_or_default(),
            state: i32::from(match filter.state {
                None => v1::State::Unspecified,
                Some(StateArg::Connecting) => v1::State::Connecting,
                Some(StateArg::Attaching) => v1::State::Attaching,
                Some(StateArg::Attached) => v1::State::Attached,
                Some(StateArg::Connected) => v1::State::Connected,
                Some(StateArg::Lost) => v1::State::Lost,
                Some(StateArg::Detaching) => v1::State::Detaching,
                Some(StateArg::Disconnecting) => v1::State::Disconnecting,
                Some(StateArg::Failed) => v1::State::Failed,
            }),
            protocol: filter.protocol.unwrap_or_default(),
            server: filter.server.unwrap_or_default(),
            error_reason: filter.error.unwrap_or_default(),
            failing: filter.failing,
            created_before: filter
                .older_than
                .map(|age| (SystemTime::now() - age).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volumes_id_is_found_where_control_planes_put_it() {
        for (info, id) in [
            (r#"{"serial":"a","data":{"volume_id":"b"}}"#, Some("a")),
            (r#"{"data":{"volume_id":"b"}}"#, Some("b")),
            (r#"{"volume_id":"c"}"#, Some("c")),
            (r#"{"serial":1}"#, None),
            (r#"{"serial":"no id","volume_id":"c"}"#, Some("c")),
            ("no json", None),
        ] {
            assert_eq!(volume_id(info).as_deref(), id, "{info}");
        }
    }
}
