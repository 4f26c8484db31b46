//! What each message is about, for the log and for errors.

use super::status::Subject;
use super::v1;
use crate::model::{AttachmentId, DomainRef, VolumeId};

/// A message that is about something: ids that are not valid are left out.
pub(super) trait About {
    fn subject(&self) -> Subject;
}

fn valid<T: std::str::FromStr>(text: &str) -> Option<String> {
    text.parse::<T>().is_ok().then(|| text.to_owned())
}

macro_rules! about {
    ($($message:ident { $($part:ident: $kind:ident = $field:ident),+ })*) => {
        $(impl About for v1::$message {
            fn subject(&self) -> Subject {
                let mut subject = Subject::default();
                $(subject.$part = valid::<$kind>(&self.$field);)+
                subject
            }
        })*
    };
}

about! {
    AttachVolumeRequest { attachment: AttachmentId = attachment_id, volume: VolumeId = volume_id, domain: DomainRef = domain }
    DetachVolumeRequest { attachment: AttachmentId = attachment_id }
    CancelDetachRequest { attachment: AttachmentId = attachment_id }
    ForgetAttachmentRequest { attachment: AttachmentId = attachment_id }
    ConnectVolumeRequest { attachment: AttachmentId = attachment_id, volume: VolumeId = volume_id }
    DisconnectVolumeRequest { attachment: AttachmentId = attachment_id }
    GetAttachmentRequest { attachment: AttachmentId = attachment_id }
    ExtendVolumeRequest { attachment: AttachmentId = attachment_id }
    SetIoTuneRequest { attachment: AttachmentId = attachment_id }
    GetAttachmentStatsRequest { attachment: AttachmentId = attachment_id }
    GetVolumePermissionsRequest { volume: VolumeId = volume_id }
    SetVolumePermissionsRequest { volume: VolumeId = volume_id }
    AttachmentFilter { volume: VolumeId = volume_id, domain: DomainRef = domain }
}

impl About for v1::GetConnectorRequest {
    fn subject(&self) -> Subject {
        Subject::default()
    }
}

impl About for v1::DiagnoseRequest {
    fn subject(&self) -> Subject {
        Subject::default()
    }
}

impl About for v1::ListAttachmentsRequest {
    fn subject(&self) -> Subject {
        self.filter.as_ref().map(About::subject).unwrap_or_default()
    }
}

impl About for v1::WatchAttachmentsRequest {
    fn subject(&self) -> Subject {
        self.filter.as_ref().map(About::subject).unwrap_or_default()
    }
}

impl About for v1::PlanAttachRequest {
    fn subject(&self) -> Subject {
        self.request
            .as_ref()
            .map(About::subject)
            .unwrap_or_default()
    }
}
