//! What each decoded request is about: what admission decides on. A request without an answer does not build.

use crate::admission::Object;
use crate::attach::{
    AttachRequest, ConnectRequest, EndRequest, ExtendRequest, ForgetRequest, IoTuneRequest,
    ListQuery, PermissionsRequest, WatchRequest,
};
use crate::model::{Access, AttachmentId, VolumeFacts, VolumeId, VolumeOwner};
use crate::policy::Privilege;

/// What a request is about.
pub(super) enum Target<'a> {
    /// An attachment that there may be: whose it is, its record tells.
    Attachment(&'a AttachmentId),
    /// An attachment whose record may be one that this build cannot read: then nothing tells whose it is.
    Record(&'a AttachmentId),
    /// An attachment to be made, or made already, of a volume that the caller tells of.
    New(&'a AttachmentId, Object),
    /// A volume, whose it is as far as this host knows.
    Volume(&'a VolumeId),
    /// All that the caller may see: each is asked for by itself.
    Each,
    /// This host, which is nobody's.
    Host,
}

/// A request that says what it is about.
pub(super) trait Asks {
    /// What it is about.
    fn target(&self) -> Target<'_>;

    /// What it asks for that another rule must allow too.
    fn privilege(&self) -> Option<Privilege>;

    /// Forgets what it says of a volume, because the caller may not vouch for it; but not that the volume is a service's own,
    /// which lets nobody in.
    fn disown(&mut self);
}

/// Whose a volume is, as a request tells.
fn told(facts: Option<&VolumeFacts>) -> VolumeOwner {
    facts.map_or_else(VolumeOwner::default, |facts| facts.owner.clone())
}

/// What is left of what was said of a volume where nobody vouches for it.
fn disowned(facts: Option<VolumeFacts>) -> Option<VolumeFacts> {
    let service_owned = facts.is_some_and(|facts| facts.owner.service_owned);
    service_owned.then(|| VolumeFacts {
        owner: VolumeOwner {
            service_owned,
            ..VolumeOwner::default()
        },
        ..VolumeFacts::default()
    })
}

/// What the volume may be used for: where nothing is asked for, it is written if nothing forbids that.
fn may_become(asked: Option<Access>) -> Access {
    asked.unwrap_or(Access::ReadWrite)
}

impl Asks for AttachRequest {
    fn target(&self) -> Target<'_> {
        let object = Object {
            attachment: Some(self.id.clone()),
            volume: Some(self.volume.clone()),
            domain: Some(self.domain.to_string()),
            access: Some(may_become(self.access)),
            owner: told(self.facts.as_ref()),
        };
        Target::New(&self.id, object)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {
        self.facts = disowned(self.facts.take());
    }
}

impl Asks for ConnectRequest {
    fn target(&self) -> Target<'_> {
        let object = Object {
            attachment: Some(self.id.clone()),
            volume: Some(self.volume.clone()),
            domain: None,
            access: Some(may_become(self.access)),
            owner: told(self.facts.as_ref()),
        };
        Target::New(&self.id, object)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {
        self.facts = disowned(self.facts.take());
    }
}

impl Asks for ExtendRequest {
    fn target(&self) -> Target<'_> {
        Target::Attachment(&self.id)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for IoTuneRequest {
    fn target(&self) -> Target<'_> {
        Target::Attachment(&self.id)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for EndRequest {
    fn target(&self) -> Target<'_> {
        Target::Attachment(&self.id)
    }

    fn privilege(&self) -> Option<Privilege> {
        self.force.then_some(Privilege::Force)
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for ForgetRequest {
    fn target(&self) -> Target<'_> {
        Target::Record(&self.id)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for VolumeId {
    fn target(&self) -> Target<'_> {
        Target::Volume(self)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for PermissionsRequest {
    fn target(&self) -> Target<'_> {
        Target::Volume(&self.volume)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for AttachmentId {
    fn target(&self) -> Target<'_> {
        Target::Attachment(self)
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for ListQuery {
    fn target(&self) -> Target<'_> {
        Target::Each
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

impl Asks for WatchRequest {
    fn target(&self) -> Target<'_> {
        Target::Each
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}

/// GetConnector's and Diagnose's.
impl Asks for () {
    fn target(&self) -> Target<'_> {
        Target::Host
    }

    fn privilege(&self) -> Option<Privilege> {
        None
    }

    fn disown(&mut self) {} // makes no claim about a volume
}
