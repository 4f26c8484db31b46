//! The block devices of a domain as xenstore shows them: what the toolstack has set up, and how far backend and frontend are
//! with it.

use std::fmt;
use std::path::PathBuf;

use super::store::{Store, StoreError};
use crate::libvirt::view::DiskView;
use crate::model::Bus;

/// Bytes in the unit of a backend's size (xen/include/public/io/blkif.h, "sectors").
pub(super) const SECTOR: u64 = 512;

/// How far one end of a device is (`enum xenbus_state`, xen/include/public/io/xenbus.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct XenbusState(u32);

impl XenbusState {
    /// There is no such end.
    const NOWHERE: Self = Self(0);
    /// Both ends are connected: the guest has the disk.
    pub(super) const CONNECTED: Self = Self(4);
    /// What a toolstack writes to have a device taken away.
    pub(super) const CLOSING: Self = Self(5);
    /// The backend has let go.
    pub(super) const CLOSED: Self = Self(6);

    pub(super) fn parse(text: Option<&str>) -> Self {
        Self(text.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// As it is written in the store.
    pub(super) fn number(self) -> String {
        self.0.to_string()
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 9] = [
            "unknown",
            "initialising",
            "waiting for the guest",
            "initialised",
            "connected",
            "closing",
            "closed",
            "reconfiguring",
            "reconfigured",
        ];
        let known = usize::try_from(self.0).ok().and_then(|n| NAMES.get(n));
        match known {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A block device of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vbd {
    /// The toolstack's own node of the device: its existence alone keeps another from this place.
    pub(super) node: String,
    /// The backend's node.
    pub(super) backend: String,
    /// The frontend's node.
    pub(super) frontend: String,
    /// The target, such as `xvdb`.
    pub(super) target: String,
    /// The file or device.
    pub(super) source: PathBuf,
    /// Whether the guest may only read.
    pub(super) readonly: bool,
    /// How far the backend is.
    pub(super) state: XenbusState,
    /// How far the guest is; nowhere, where it has no frontend.
    pub(super) guest: XenbusState,
    /// Whether it is to stay: a toolstack that takes it away says so first.
    pub(super) online: bool,
    /// What the hot-plug script failed of.
    pub(super) error: Option<String>,
    /// The device that the hot-plug script made of the source: itself, or a loop device.
    pub(super) device: Option<PathBuf>,
    /// Its size in bytes, once the backend knows.
    pub(super) bytes: Option<u64>,
}

impl Vbd {
    /// The block devices of the running domain of that number.
    pub(super) async fn all(store: &mut Store, domain: u32) -> Result<Vec<Self>, StoreError> {
        let nodes = format!("/libxl/{domain}/device/vbd");
        let mut found = Vec::new();
        for number in store.list(&nodes).await? {
            if let Some(vbd) = Self::read(store, format!("{nodes}/{number}")).await? {
                found.push(vbd);
            }
        }
        Ok(found)
    }

    /// The one at that target.
    pub(super) async fn at(
        store: &mut Store,
        domain: u32,
        target: &str,
    ) -> Result<Option<Self>, StoreError> {
        let all = Self::all(store, domain).await?;
        Ok(all.into_iter().find(|vbd| vbd.target == target))
    }

    /// `None` for a device that goes away meanwhile.
    async fn read(store: &mut Store, node: String) -> Result<Option<Self>, StoreError> {
        let Some(backend) = store.read(&format!("{node}/backend")).await? else {
            return Ok(None);
        };
        let frontend = store.read(&format!("{node}/frontend")).await?;
        let frontend = frontend.unwrap_or_default();
        let guest = store.read(&format!("{frontend}/state")).await?;
        let mut of = async |key: &str| store.read(&format!("{backend}/{key}")).await;
        let device = of("physical-device-path").await?;
        let sectors = of("sectors").await?;
        let vbd = Self {
            target: of("dev").await?.unwrap_or_default(),
            source: source(&of("params").await?.unwrap_or_default()),
            readonly: of("mode").await?.is_some_and(|mode| mode == "r"),
            state: XenbusState::parse(of("state").await?.as_deref()),
            guest: XenbusState::parse(guest.as_deref()),
            online: of("online").await?.is_none_or(|online| online != "0"),
            error: of("hotplug-error").await?,
            device: device.map(PathBuf::from),
            bytes: sectors.and_then(|sectors| sectors.parse::<u64>().ok()?.checked_mul(SECTOR)),
            frontend,
            backend,
            node,
        };
        Ok(Some(vbd))
    }

    /// Whether it is what a failed attach has left: no guest has it, and no toolstack goes on with it.
    pub(super) fn is_stale(&self) -> bool {
        self.is_let_go() || self.error.is_some() && !self.may_have_unwritten()
    }

    /// Whether a guest may have unwritten data for it: it is connected, or was asked to let go and has not yet.
    pub(super) fn may_have_unwritten(&self) -> bool {
        matches!(self.state, XenbusState::CONNECTED | XenbusState::CLOSING) && !self.is_let_go()
    }

    /// Whether the guest has let go of it, as it was asked to.
    pub(super) fn is_let_go(&self) -> bool {
        let gone = |state| matches!(state, XenbusState::CLOSED | XenbusState::NOWHERE);
        !self.online && (gone(self.state) || gone(self.guest))
    }

    /// Whether dom0's kernel serves it, and no device model.
    pub(super) fn served_by_kernel(&self) -> bool {
        self.device.is_some()
    }

    /// As libvirt would show it, if it knew.
    pub(super) fn disk(self) -> DiskView {
        DiskView {
            target: self.target,
            bus: Bus::Xen.to_string(),
            source: Some(self.source),
            readonly: self.readonly,
            ..DiskView::default()
        }
    }
}

/// The disks of all running domains but that one, with those domains' numbers.
pub(super) async fn elsewhere(
    store: &mut Store,
    domain: u32,
) -> Result<Vec<(u32, DiskView)>, StoreError> {
    let mut found = Vec::new();
    let running = store.list("/libxl").await?;
    let others = running.iter().filter_map(|number| number.parse().ok());
    for other in others.filter(|other| *other != domain) {
        let disks = Vbd::all(store, other).await?;
        let disks = disks.into_iter().filter(|vbd| !vbd.is_stale());
        found.extend(disks.map(|vbd| (other, vbd.disk())));
    }
    Ok(found)
}

/// The path in a backend's parameters: alone, or (of a device model) after a format, as in `qcow2:/volumes/v`.
pub(super) fn source(params: &str) -> PathBuf {
    match params.split_once(':') {
        Some((format, path)) if !format.contains('/') => path.into(),
        _ => params.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_source_of_each_kind_of_backend() {
        for (params, path) in [
            ("/volumes/a:b", "/volumes/a:b"),
            ("aio:/volumes/a", "/volumes/a"),
            ("qcow2:/volumes/a:b", "/volumes/a:b"),
            ("", ""),
        ] {
            assert_eq!(source(params), Path::new(path), "{params}");
        }
    }

    #[test]
    fn states_in_words() {
        let words = |text| XenbusState::parse(Some(text)).to_string();
        assert_eq!(words("2"), "waiting for the guest (2)");
        assert_eq!(words("77"), "77");
        assert_eq!(words("?"), "unknown (0)");
    }
}
