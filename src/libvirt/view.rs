//! A domain as its XML shows it: what it has, and so where there is room.
//!
//! The reader is tolerant: what it does not know it leaves out, since libvirt's documents grow with each version.

use std::path::PathBuf;

use uuid::Uuid;

use super::event::DomainEnd;
use super::xml::{Element, XmlError};
use crate::model::{AttachmentId, Dialect, DiskAddress, DiskPlan, Domain, IoTune, Scope};

/// libvirt's name of its AppArmor driver (`virNodeGetSecurityModel`, `<seclabel model=…>`).
pub(super) const APPARMOR: &str = "apparmor";

/// A domain as it is now, in the configurations that a scope is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainView {
    /// Its names.
    pub domain: Domain,
    /// How its disks are written.
    pub dialect: Dialect,
    /// Its number while it runs.
    pub id: Option<u32>,
    /// Of a running Xen domain: whether it is paused. Its guest could not connect to a disk.
    pub paused: bool,
    /// Of a running Xen domain: the disks of the others, by number, since nothing else keeps two of them from writing to one file.
    pub elsewhere: Vec<(u32, DiskView)>,
    /// Of a Xen domain: whether a device model (QEMU) runs for it, which reads images that the kernel's block backend does not.
    pub device_model: bool,
    /// Whether it runs (paused is running), and the scope is about that.
    pub running: bool,
    /// Whether it has a persistent configuration, and the scope is about that.
    pub persistent: bool,
    /// How a domain that does not run ended, if the scope is about running ones: as libvirt keeps it until libvirt's own next start.
    pub ended: Option<DomainEnd>,
    /// Whether libvirt's own way on this host is to write a domain's disks into an AppArmor profile, which the domain's XML may change.
    pub profiles: bool,
    /// What the running domain has; nothing where it does not run, or the scope is not about it.
    pub live: Devices,
    /// What the persistent configuration has; nothing where there is none, or the scope is not about it.
    pub config: Devices,
}

/// The devices of one of a domain's configurations, as far as disks are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// The machine type, such as `pc-q35-7.2`.
    pub machine: String,
    /// Whether SELinux confines what runs it: it has a label of that kind, and not one that confines nothing.
    pub confined: bool,
    /// Whether libvirt writes its disks into an AppArmor profile; `None`: the XML does not say.
    pub profiled: Option<bool>,
    /// All disks, of any bus and device type.
    pub disks: Vec<DiskView>,
    /// The indices of its virtio-scsi controllers.
    pub virtio_scsi: Vec<u32>,
    /// PCI addresses in use, by whatever device.
    pub pci: Vec<DiskAddress>,
    /// SCSI units in use, by disks and by host devices.
    pub scsi: Vec<DiskAddress>,
}

/// A disk as a domain's XML shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskView {
    /// The target, such as `vda`.
    pub target: String,
    /// The bus in libvirt's word, such as `virtio`, `sata` or `usb`.
    pub bus: String,
    /// The alias; a persistent configuration has only those that its author gave. libvirt's libxl driver forgets aliases, and
    /// no guest of Xen sees a serial: there the serial is the alias.
    pub alias: Option<String>,
    /// The serial.
    pub serial: Option<String>,
    /// The file or device; `None` for an empty drive and for network disks.
    pub source: Option<PathBuf>,
    /// Whether the domain may only read.
    pub readonly: bool,
    /// Where it sits, where that is a place of [`DiskAddress`]'s kinds.
    pub address: Option<DiskAddress>,
    /// Its limits, the group's name as libvirt has it; `None`: no limits. Boxed: few disks have limits, and each has many.
    pub tune: Option<Box<IoTune>>,
}

impl DomainView {
    /// A domain without a name that has nothing but one virtio-scsi controller: for a plan made without a hypervisor, and for the
    /// XML of a volume that is connected only.
    #[must_use]
    pub fn empty(dialect: Dialect) -> Self {
        let devices = Devices {
            virtio_scsi: vec![0],
            ..Devices::default()
        };
        Self {
            domain: Domain {
                uuid: Uuid::nil(),
                name: String::new(),
            },
            dialect,
            id: None,
            paused: false,
            elsewhere: Vec::new(),
            device_model: true,
            running: true,
            persistent: true,
            ended: None,
            profiles: false,
            live: devices.clone(),
            config: devices,
        }
    }

    /// The configurations that the scope is about.
    pub fn devices(&self, scope: Scope) -> impl Iterator<Item = &Devices> {
        let live = scope.live().then_some(&self.live);
        let config = scope.config().then_some(&self.config);
        live.into_iter().chain(config)
    }

    /// Whether a disk of that scope gets into an AppArmor profile: now, or when the domain starts. libvirt shows the label of every
    /// running domain that has one.
    pub(super) fn is_profiled(&self, scope: Scope) -> bool {
        let config = || self.persistent && self.config.profiled.unwrap_or(self.profiles);
        scope.live() && self.live.profiled == Some(true) || scope.config() && config()
    }

    /// Whether any configuration that the disk's scope is about has it.
    #[must_use]
    pub fn has(&self, disk: &DiskPlan) -> bool {
        self.devices(disk.scope)
            .any(|devices| devices.find(disk).is_some())
    }

    /// Whether every existing configuration in the disk's scope has the disk. For a domain that is shut off, the scope of both
    /// configurations means the persistent one, with which the domain will start.
    #[must_use]
    pub fn shows(&self, disk: &DiskPlan) -> bool {
        let scope = match disk.scope {
            Scope::LiveAndConfig if !self.running => Scope::Config,
            scope => scope,
        };
        self.devices(scope)
            .all(|devices| devices.find(disk).is_some())
    }
}

impl Devices {
    /// Reads a domain's XML.
    ///
    /// # Errors
    /// Where it is not XML.
    pub fn read(document: &str) -> Result<Self, XmlError> {
        Ok(Self::of(&Element::read(document)?))
    }

    /// What a `<domain>` shows.
    pub(super) fn of(domain: &Element) -> Self {
        let machine = domain
            .child("os")
            .and_then(|os| os.child("type"))
            .and_then(|kind| kind.attribute("machine"))
            .unwrap_or_default()
            .to_owned();
        let confined = domain.children_named("seclabel").any(confines);
        let profiled = profiled(domain);
        let Some(devices) = domain.child("devices") else {
            return Self {
                machine,
                confined,
                profiled,
                ..Self::default()
            };
        };
        let dialect = dialect(domain);
        let disks: Vec<DiskView> = devices
            .children_named("disk")
            .map(|disk| DiskView::of(disk, dialect))
            .collect();
        let addresses = devices.children.iter().filter_map(address);
        let scsi_disks = disks.iter().filter(|disk| disk.bus == "scsi");
        let scsi_hosts = devices.children_named("hostdev").filter_map(address);
        let scsi = scsi_disks
            .filter_map(|disk| disk.address)
            .chain(scsi_hosts.filter(|address| !is_pci(address)))
            .collect();
        Self {
            machine,
            confined,
            profiled,
            virtio_scsi: devices
                .children_named("controller")
                .filter_map(virtio_scsi_index)
                .collect(),
            pci: addresses.filter(is_pci).collect(),
            scsi,
            disks,
        }
    }

    /// Finds a planned disk by its alias. An alias that an earlier build made from the volume may belong to another attachment or program,
    /// so the source must match too; an attachment's own disk is found even if a snapshot has put another file over it.
    #[must_use]
    pub fn find(&self, plan: &DiskPlan) -> Option<&DiskView> {
        let own = AttachmentId::names(&plan.alias);
        self.disks.iter().find(|disk| {
            disk.alias.as_ref() == Some(&plan.alias)
                && (own || disk.source.as_ref() == Some(&plan.source))
        })
    }

    /// Whether a disk with another alias has the planned target.
    pub(super) fn has_another_at(&self, plan: &DiskPlan) -> bool {
        let mut others = self.disks.iter().filter(|disk| disk.target == plan.target);
        others.any(|disk| {
            disk.alias
                .as_ref()
                .is_some_and(|alias| *alias != plan.alias)
        })
    }
}

/// Whether a `<seclabel>` is one by which SELinux confines a domain that runs: of its model, in use, and not of an administrator's
/// own domain (libvirt `formatdomain`, "seclabel").
fn confines(label: &Element) -> bool {
    let text = label.child("label").map(|label| label.text.as_str());
    let unconfined = text.is_some_and(|text| text.split(':').nth(2) == Some("unconfined_t"));
    label.attribute("model") == Some("selinux")
        && label.attribute("type") != Some("none")
        && !unconfined
}

/// Whether libvirt writes disks into a profile for a domain of that XML. `None`: the XML does not say, and the host's own way holds.
fn profiled(domain: &Element) -> Option<bool> {
    let labels = || domain.children_named("seclabel");
    let is_for_us =
        |label: &&Element| matches!(label.attribute("model"), None | Some(APPARMOR | "none"));
    // libvirt's formatdomain, "seclabel": a static label's profile is the administrator's, unless `relabel` is asked for.
    labels().find(is_for_us).map(|label| {
        match (label.attribute("type"), label.attribute("relabel")) {
            (Some("none"), _) | (_, Some("no")) => false,
            (Some("static"), relabel) => relabel == Some("yes"),
            _ => true,
        }
    })
}

/// How the disks of a `<domain>` are written: its own type says so, whatever the connection is to.
pub(super) fn dialect(domain: &Element) -> Dialect {
    match domain.attribute("type") {
        Some("xen") => Dialect::Xen,
        _ => Dialect::Qemu,
    }
}

impl DiskView {
    pub(super) fn of(disk: &Element, dialect: Dialect) -> Self {
        let target = disk.child("target");
        let attribute = |name: &str| target.and_then(|target| target.attribute(name));
        let source = disk.child("source");
        let serial = || disk.child("serial").map(|serial| serial.text.clone());
        let alias = || {
            let alias = disk.child("alias")?.attribute("name")?;
            Some(alias.to_owned())
        };
        Self {
            target: attribute("dev").unwrap_or_default().to_owned(),
            bus: attribute("bus").unwrap_or_default().to_owned(),
            alias: match dialect {
                Dialect::Qemu => alias(),
                Dialect::Xen => serial(),
            },
            serial: serial(),
            source: source
                .and_then(|source| source.attribute("file").or_else(|| source.attribute("dev")))
                .map(PathBuf::from),
            readonly: disk.child("readonly").is_some(),
            address: address(disk),
            tune: disk.child("iotune").map(|it| Box::new(tune(it))),
        }
    }
}

/// The limits of an `<iotune>`; 0 is none.
fn tune(element: &Element) -> IoTune {
    let mut tune = IoTune::default();
    for limit in &element.children {
        match (limit.name.as_str(), limit.text.parse()) {
            ("group_name", _) => tune.group_name = Some(limit.text.clone()),
            (name, Ok(value)) if value > 0 => drop(tune.set(name, value)),
            _ => {}
        }
    }
    tune
}

fn is_pci(address: &DiskAddress) -> bool {
    matches!(address, DiskAddress::Pci { .. })
}

/// The index of a virtio-scsi controller. A SCSI controller without a model is lsilogic on x86 and takes no hot-plug
/// of LUNs, so it does not count; libvirt always writes the model of a running domain's.
fn virtio_scsi_index(controller: &Element) -> Option<u32> {
    let model = controller.attribute("model").unwrap_or_default();
    let ours = controller.attribute("type") == Some("scsi")
        && matches!(
            model,
            "virtio-scsi" | "virtio-transitional" | "virtio-non-transitional"
        );
    ours.then(|| controller.attribute("index")?.parse().ok())?
}

/// The place of a device, where it is of a kind that disks have. libvirt writes decimal or `0x` numbers; what is left
/// out is 0.
fn address(device: &Element) -> Option<DiskAddress> {
    let address = device.child("address")?;
    let number = |name: &str| match address.attribute(name) {
        None => Some(0),
        Some(text) => match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        },
    };
    match address.attribute("type")? {
        "pci" => Some(DiskAddress::Pci {
            domain: number("domain")?.try_into().ok()?,
            bus: number("bus")?.try_into().ok()?,
            slot: number("slot")?.try_into().ok()?,
            function: number("function")?.try_into().ok()?,
        }),
        "drive" => Some(DiskAddress::Drive {
            controller: number("controller")?,
            bus: number("bus")?,
            target: number("target")?,
            unit: number("unit")?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
