//! Connection info, in either form: Cinder's JSON, or the typed messages.

use zeroize::Zeroizing;

use super::{DecodeError, Result, access, given, iotune};
use crate::api::v1;
use crate::api::v1::connection_info::Form;
use crate::connection::{ChapText, Common, ConnectionInfo, IscsiPathText, NvmeFields, SmbLogin};
use crate::model::{Access, AccessSource, Secret};

/// How to reach the volume.
pub(super) fn info(info: Option<v1::ConnectionInfo>) -> Result<ConnectionInfo> {
    let form = info
        .and_then(|info| info.form)
        .ok_or(DecodeError::Missing {
            field: "connection_info",
        })?;
    let info = match form {
        // Passwords are in it.
        Form::CinderJson(text) => ConnectionInfo::from_cinder_json(&Zeroizing::new(text)),
        Form::Smb(volume) => ConnectionInfo::smb(
            &volume.export,
            &volume.name,
            &volume.format,
            &Zeroizing::new(volume.options),
            volume.credentials.map(|credentials| SmbLogin {
                username: credentials.username,
                password: Secret::new(credentials.password),
                domain: credentials.domain,
            }),
            common(volume.properties)?,
        ),
        Form::Local(volume) => ConnectionInfo::local(
            &volume.device_path,
            &volume.format,
            common(volume.properties)?,
        ),
        Form::Nfs(volume) => ConnectionInfo::nfs(
            &volume.export,
            &volume.name,
            &volume.format,
            &volume.options,
            common(volume.properties)?,
        ),
        Form::Iscsi(volume) => ConnectionInfo::iscsi(
            &volume.paths.into_iter().map(path).collect::<Vec<_>>(),
            volume.chap.map(|chap| ChapText {
                username: chap.username,
                password: Secret::new(chap.password),
                username_in: chap.username_in,
                password_in: Secret::new(chap.password_in),
            }),
            &volume.identity,
            volume.enforce_multipath,
            common(volume.properties)?,
        ),
        Form::Nvme(volume) => ConnectionInfo::nvme(
            &NvmeFields {
                nqn: volume.nqn,
                portals: volume
                    .portals
                    .into_iter()
                    .map(|portal| (portal.address, portal.port))
                    .collect(),
                uuid: volume.uuid,
                nguid: volume.nguid,
                nsid: volume.nsid,
                host_nqn: volume.host_nqn,
                format: volume.format,
            },
            common(volume.properties)?,
        ),
    };
    info.map_err(DecodeError::ConnectionInfo)
}

fn path(path: v1::IscsiPath) -> IscsiPathText {
    IscsiPathText {
        portal: path.portal,
        target: path.target,
        lun: path.lun.into(),
    }
}

fn common(properties: Option<v1::VolumeProperties>) -> Result<Common> {
    let properties = properties.unwrap_or_default();
    let read_only_by = match access("connection_info.properties.access", properties.access)? {
        Some(Access::ReadOnly) => vec![AccessSource::AccessMode],
        Some(Access::ReadWrite) | None => vec![],
    };
    Ok(Common {
        read_only_by,
        iotune: iotune(properties.iotune)?,
        discard: properties.discard,
        logical_block_size: given(properties.logical_block_size),
        physical_block_size: given(properties.physical_block_size),
        // What only Cinder's JSON says: the typed way to it is the disk option `shareable`.
        multiattach: false,
    })
}
