//! What libvirt shows of a domain, read into a view.

use uuid::Uuid;
use virt::domain::{Domain as VirtDomain, DomainStateReason, DomainStateReasonEnum};
use virt::enumutil::Enum;
use virt::error::Error;
use virt_sys as sys;

use super::connection::Connection;
use super::error::HypervisorError;
use super::event::DomainEnd;
use super::view::{self, Devices, DomainView};
use super::xml::Element;
use crate::model::{DiskPlan, Domain, DomainRef, Scope};

/// A domain's documents: what libvirt shows of the domain itself (running or not), and of its persistent configuration.
pub(super) struct Documents {
    domain: Domain,
    live: Option<String>,
    config: Option<String>,
    paused: bool,
    ended: Option<DomainEnd>,
    profiles: bool,
}

impl Documents {
    /// Reads them.
    pub(super) fn view(self) -> Result<DomainView, HypervisorError> {
        let name = self.domain.to_string();
        let read = |document: Option<String>| {
            let read = document
                .map(|document| Element::read(&document))
                .transpose();
            read.map_err(|source| HypervisorError::Xml {
                what: format!("domain {name}"),
                source,
            })
        };
        let (live, config) = (read(self.live)?, read(self.config)?);
        // A handle may have an earlier name.
        let now = live.as_ref().or(config.as_ref());
        let now = now.and_then(|domain| domain.child("name"));
        let domain = Domain {
            name: now.map_or(self.domain.name, |name| name.text.clone()),
            ..self.domain
        };
        // Of a domain that does not run, libvirt shows the persistent configuration; only a running one has a number.
        let live = live.filter(|domain| domain.attribute("id").is_some());
        let one = live.as_ref().or(config.as_ref());
        Ok(DomainView {
            dialect: one.map(view::dialect).unwrap_or_default(),
            id: live
                .as_ref()
                .and_then(|domain| domain.attribute("id")?.parse().ok()),
            paused: self.paused,
            elsewhere: Vec::new(),
            device_model: true,
            running: live.is_some(),
            persistent: config.is_some(),
            ended: self.ended.filter(|_| live.is_none()),
            profiles: self.profiles,
            live: live.as_ref().map(Devices::of).unwrap_or_default(),
            config: config.as_ref().map(Devices::of).unwrap_or_default(),
            domain,
        })
    }
}

/// How a domain ended, by the reason of its state. `None`: it runs, or libvirt was started since and has forgotten.
fn ended_by(reason: DomainStateReasonEnum) -> Option<DomainEnd> {
    let Enum::Known(DomainStateReason::Shutoff(reason)) = reason else {
        return None;
    };
    match reason.to_raw() {
        sys::VIR_DOMAIN_SHUTOFF_UNKNOWN => None,
        sys::VIR_DOMAIN_SHUTOFF_CRASHED => Some(DomainEnd::Crashed),
        sys::VIR_DOMAIN_SHUTOFF_MIGRATED => Some(DomainEnd::Migrated),
        sys::VIR_DOMAIN_SHUTOFF_SAVED => Some(DomainEnd::Saved),
        _ => Some(DomainEnd::ShutOff),
    }
}

/// The domain of that UUID, with its present number.
pub(super) fn lookup(connection: &Connection, domain: Uuid) -> Result<VirtDomain, Error> {
    connection.connect().lookup_domain_by_uuid(domain)
}

/// Whether every configuration of the scope shows the disk. A document that cannot be read shows nothing.
pub(super) fn shows(domain: &VirtDomain, disk: &DiskPlan) -> Result<bool, Error> {
    let scope = disk.scope;
    let shown =
        |document: &str| Devices::read(document).is_ok_and(|devices| devices.find(disk).is_some());
    Ok((!scope.live() || shown(&domain.xml_desc(0)?))
        && (!scope.config() || shown(&domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?)))
}

/// Whether a domain's document is of a running domain: libvirt writes the number into its first tag.
fn has_number(document: &str) -> bool {
    let tag = document.split('>').next().unwrap_or_default();
    tag.contains(" id='")
}

/// Only what the scope is about: each document is a round trip, and takes libvirtd longer the more devices there are.
pub(super) fn read_documents(
    connection: &Connection,
    name: &DomainRef,
    scope: Scope,
) -> Result<Documents, Error> {
    let domain = match name {
        DomainRef::Uuid(uuid) => connection.domain(*uuid)?,
        DomainRef::Name(name) => connection.connect().lookup_domain_by_name(name)?,
    };
    let live = scope.live().then(|| domain.xml_desc(0)).transpose()?;
    let config = (scope.config() && domain.is_persistent()?)
        .then(|| domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE))
        .transpose()?;
    // Of no consequence for QEMU's disks: not worth the round trip.
    let xen = live
        .as_deref()
        .is_some_and(|document| document.starts_with("<domain type='xen'"));
    let stopped = live
        .as_deref()
        .is_some_and(|document| !has_number(document));
    let state = (xen || stopped).then(|| domain.state()).transpose()?;
    Ok(Documents {
        paused: state.is_some_and(|(state, _)| state.to_raw() == sys::VIR_DOMAIN_PAUSED),
        ended: state.and_then(|(_, reason)| ended_by(reason)),
        profiles: connection.profiles(),
        domain: Domain {
            uuid: domain.uuid()?,
            name: domain.name()?,
        },
        live,
        config,
    })
}
