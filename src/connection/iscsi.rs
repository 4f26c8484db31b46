//! `iscsi`: a LUN of an iSCSI target, by one portal or several. Keys and shapes are Cinder's and os-brick's
//! (os_brick/initiator/connectors/iscsi.py).
//!
//! Invariants: a volume has at least one path, each with a literal address, a name of RFC 3720 3.2.6 and a LUN that SCSI can
//! address; secrets fit into one line of a node record as they are.

use std::net::SocketAddr;

use super::cinder::Fields;
use super::{Common, ConnectionError, ConnectionInfo, Protocol, few_paths, format};
use crate::model::{ImageFormat, Secret, Wwid};

/// The port of an iSCSI target (RFC 3720 12.8, IANA), where a portal names none.
const PORT: u16 = 3260;
/// The longest name, in bytes (RFC 3720 3.2.6.1).
const MAX_NAME: usize = 223;
/// The largest LUN: flat space addressing has 14 bits (SAM-5 4.7.7.3).
const MAX_LUN: u64 = 16383;
/// The longest user and password in a node record, in bytes (open-iscsi, usr/auth.h: `AUTH_STR_MAX_LEN`, with its NUL).
const MAX_AUTH: usize = 255;

const PORTAL: &str = "an address and port such as 10.0.0.1:3260 or [fd00::2]:3260";
const NAME: &str = "a target's name such as iqn.2010-10.org.openstack:volume-1";
const LUN: &str = "a number from 0 to 16383";
const LISTS: &str = "lists of equal length in target_portals, target_iqns and target_luns";
const IDENTITY: &str = "the volume's identity, such as 60014051b2d3e4f5061728394a5b6c7d";
const TEXT: &str = "text of at most 255 bytes, without control characters or spaces at its ends";

/// A LUN of an iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiVolume {
    /// The ways to it, each once, in the order given; at least one.
    pub paths: Vec<IscsiPath>,
    /// Who logs in to the targets; `None`: nobody asks.
    pub chap: Option<Chap>,
    /// Identity that the volume must have; `None`: any identity, but the same on every path.
    pub identity: Option<Wwid>,
    /// Only a multipath map will do, also over one path.
    pub enforce_multipath: bool,
    /// The one portal is asked for the target's others first; `None`: `paths` has all.
    pub discovery: Option<Discovery>,
}

/// Asking a portal for others (SendTargets, RFC 3720 appendix D).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Who asks; `None`: nobody wants to know.
    pub chap: Option<Chap>,
}

/// One way to a LUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiPath {
    /// The target's address.
    pub portal: SocketAddr,
    /// The target's name.
    pub target: String,
    /// The LUN as the kernel numbers it: with its addressing mode, at most 32767.
    pub lun: u64,
}

/// Credentials by CHAP (RFC 1994).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chap {
    /// This host's name to the target.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// The target's name and password to this host, where that asks for it: mutual CHAP.
    pub target: Option<(String, Secret)>,
}

/// A path as a caller describes it, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct IscsiPathText {
    /// Address and port.
    pub portal: String,
    /// The target's name.
    pub target: String,
    /// The LUN.
    pub lun: u64,
}

/// A login as a caller describes it, not yet checked; empty: not given.
#[derive(Debug)]
pub struct ChapText {
    /// This host's name to the target.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// The target's name to this host.
    pub username_in: String,
    /// Its password.
    pub password_in: Secret,
}

impl ConnectionInfo {
    /// A LUN of an iSCSI target, from typed fields; an empty `identity` is none.
    ///
    /// # Errors
    /// Where a field does not fit.
    pub fn iscsi(
        paths: &[IscsiPathText],
        chap: Option<ChapText>,
        identity: &str,
        enforce_multipath: bool,
        common: Common,
    ) -> Result<Self, ConnectionError> {
        common.check("properties.")?;
        few_paths("paths", paths.len())?;
        let mut parsed = Vec::new();
        for path in paths {
            add(
                &mut parsed,
                IscsiPath {
                    portal: portal("paths.portal", &path.portal)?,
                    target: name("paths.target", &path.target)?,
                    lun: lun("paths.lun", path.lun, Mode::Sam)?,
                },
            );
        }
        if parsed.is_empty() {
            return Err(ConnectionError::Missing {
                key: "paths".to_owned(),
                expected: "at least one portal",
            });
        }
        let chap = chap.map(|chap| checked("chap.", chap)).transpose()?;
        let identity = (!identity.is_empty())
            .then(|| self::identity("identity", identity))
            .transpose()?;
        Ok(Self {
            common,
            protocol: Protocol::Iscsi(IscsiVolume {
                paths: parsed,
                chap,
                identity,
                enforce_multipath,
                discovery: None,
            }),
        })
    }
}

impl IscsiVolume {
    /// From Cinder's keys.
    pub(super) fn from_cinder(data: &Fields<'_>) -> Result<Self, ConnectionError> {
        raw(data)?;
        let identity = ["wwn", "scsi_wwn"].into_iter().find_map(|key| {
            let text = data.text(key, IDENTITY).transpose()?;
            Some(text.and_then(|text| self::identity(&data.key(key), text)))
        });
        let enforce_multipath = data.flag("enforce_multipath")?;
        // As os-brick has it: who wants several paths and names one portal has it tell of the others.
        let discover = enforce_multipath && !data.has("target_portals");
        let discovery = discover.then(|| {
            let chap = chap(data, "discovery_auth_")?;
            Ok(Discovery { chap })
        });
        Ok(Self {
            paths: paths(data)?,
            chap: chap(data, "auth_")?,
            identity: identity.transpose()?,
            enforce_multipath,
            discovery: discovery.transpose()?,
        })
    }
}

/// Refuses every format but raw: who was promised what is in an image would see the image's own bytes.
fn raw(data: &Fields<'_>) -> Result<(), ConnectionError> {
    let key = data.key("format");
    let name = data.text("format", "the image format's name")?;
    match (format::parse(&key, name)?, name) {
        (ImageFormat::Raw, _) | (_, None) => Ok(()),
        (_, Some(name)) => Err(ConnectionError::Format {
            key,
            format: name.to_owned(),
            why: "expected raw (or none): a guest has an iSCSI disk as it is",
        }),
    }
}

/// The lists where they are given, as os-brick has it; else the one portal.
fn paths(data: &Fields<'_>) -> Result<Vec<IscsiPath>, ConnectionError> {
    let mode = Mode::parse(data)?;
    let single = data.number("target_lun")?;
    let one_lun = |number: Option<u64>| {
        let number = number.ok_or_else(|| data.missing("target_lun", LUN))?;
        lun(&data.key("target_lun"), number, mode)
    };
    let mut paths = Vec::new();
    let Some(portals) = data.texts("target_portals", LISTS)? else {
        if let Some(list) = ["target_iqns", "target_luns"]
            .into_iter()
            .find(|key| data.has(key))
        {
            return Err(data.invalid(list, "is given without target_portals", LISTS));
        }
        let text = |key, expected| {
            let text = data.text(key, expected)?;
            text.ok_or_else(|| data.missing(key, expected))
        };
        return Ok(vec![IscsiPath {
            portal: portal(&data.key("target_portal"), text("target_portal", PORTAL)?)?,
            target: name(&data.key("target_iqn"), text("target_iqn", NAME)?)?,
            lun: one_lun(single)?,
        }]);
    };
    let names = data
        .texts("target_iqns", LISTS)?
        .ok_or_else(|| data.missing("target_iqns", LISTS))?;
    let luns = data.numbers("target_luns", LISTS)?;
    if portals.is_empty() {
        return Err(data.invalid("target_portals", "is empty", LISTS));
    }
    few_paths(&data.key("target_portals"), portals.len())?;
    if names.len() != portals.len() {
        return Err(data.invalid("target_iqns", "is not as long as target_portals", LISTS));
    }
    if luns
        .as_ref()
        .is_some_and(|luns| luns.len() != portals.len())
    {
        return Err(data.invalid("target_luns", "is not as long as target_portals", LISTS));
    }
    for (at, (address, target)) in portals.into_iter().zip(names).enumerate() {
        let lun = match &luns {
            Some(luns) => lun(&data.key(&format!("target_luns[{at}]")), luns[at], mode)?,
            None => one_lun(single)?,
        };
        add(
            &mut paths,
            IscsiPath {
                portal: portal(&data.key(&format!("target_portals[{at}]")), address)?,
                target: name(&data.key(&format!("target_iqns[{at}]")), target)?,
                lun,
            },
        );
    }
    Ok(paths)
}

/// Some arrays list a portal twice: one path is enough.
fn add(paths: &mut Vec<IscsiPath>, path: IscsiPath) {
    if !paths.contains(&path) {
        paths.push(path);
    }
}

/// Address and port. A name would be resolved anew at each login: Cinder sends addresses.
fn portal(key: &str, text: &str) -> Result<SocketAddr, ConnectionError> {
    let invalid = |problem| ConnectionError::Invalid {
        key: key.to_owned(),
        problem,
        expected: PORTAL,
    };
    if text.is_empty() {
        return Err(invalid("is empty"));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = text.parse::<SocketAddr>().ok().or_else(|| {
        let ip = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok()?.into(),
            None => text.parse::<std::net::Ipv4Addr>().ok()?.into(),
        };
        Some(SocketAddr::new(ip, PORT))
    });
    match address {
        Some(SocketAddr::V6(v6)) if v6.scope_id() != 0 => Err(invalid("has a scope")),
        Some(address) if address.port() == 0 => Err(invalid("has port 0")),
        Some(address) if address.ip().is_unspecified() || address.ip().is_multicast() => {
            Err(invalid("is no host's address"))
        }
        Some(address) => Ok(address),
        None if !text.starts_with('[') && text.matches(':').count() > 1 => {
            Err(invalid("is an IPv6 address without brackets"))
        }
        None => Err(invalid("is no address with a port")),
    }
}

/// A target's name: it becomes a directory's name and a word on a command line.
fn name(key: &str, text: &str) -> Result<String, ConnectionError> {
    let invalid = |problem| ConnectionError::Invalid {
        key: key.to_owned(),
        problem,
        expected: NAME,
    };
    if text.is_empty() {
        return Err(invalid("is empty"));
    }
    if text.len() > MAX_NAME {
        return Err(invalid("is longer than 223 bytes"));
    }
    if !["iqn.", "eui.", "naa."]
        .iter()
        .any(|kind| text.len() > kind.len() && text.starts_with(kind))
    {
        return Err(invalid("begins with none of iqn., eui. and naa."));
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    if !text.chars().all(valid) {
        return Err(invalid("holds a character that no name has"));
    }
    Ok(text.to_owned())
}

/// How a number becomes a LUN: os-brick's `lun_for_addressing`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `SAM` and `transparent`: as it is.
    Sam,
    /// Flat space addressing above 255.
    Sam2,
    /// Flat space addressing always.
    Sam3Flat,
}

impl Mode {
    fn parse(data: &Fields<'_>) -> Result<Self, ConnectionError> {
        let expected = "SAM, transparent, SAM2 or SAM3-flat";
        match data.text("addressing_mode", expected)? {
            None | Some("SAM" | "transparent") => Ok(Self::Sam),
            Some("SAM2") => Ok(Self::Sam2),
            Some("SAM3-flat") => Ok(Self::Sam3Flat),
            Some(_) => Err(data.invalid("addressing_mode", "is not known", expected)),
        }
    }
}

fn lun(key: &str, number: u64, mode: Mode) -> Result<u64, ConnectionError> {
    if number > MAX_LUN {
        return Err(ConnectionError::Invalid {
            key: key.to_owned(),
            problem: "is too large",
            expected: LUN,
        });
    }
    let flat = mode == Mode::Sam3Flat || mode == Mode::Sam2 && number > 255;
    Ok(if flat { number + MAX_LUN + 1 } else { number })
}

/// A login, in the keys that begin with `prefix`.
fn chap(data: &Fields<'_>, prefix: &str) -> Result<Option<Chap>, ConnectionError> {
    let key = |name: &str| format!("{prefix}{name}");
    let text = |name: &str| data.text(&key(name), TEXT);
    let method = "CHAP, or null where there is none";
    match data.text(&key("method"), method)? {
        None | Some("" | "None" | "none") => {
            return match text("username")? {
                None | Some("") => Ok(None),
                // Not to be dropped in silence.
                Some(_) => Err(data.missing(&key("method"), "CHAP, since there is a username")),
            };
        }
        Some(name) if name.eq_ignore_ascii_case("CHAP") => {}
        Some(_) => return Err(data.invalid(&key("method"), "is not CHAP", method)),
    }
    let text = |name: &str| Ok(text(name)?.unwrap_or_default());
    let given = ChapText {
        username: text("username")?.to_owned(),
        password: Secret::from(text("password")?),
        username_in: text("username_in")?.to_owned(),
        password_in: Secret::from(text("password_in")?),
    };
    checked(&data.key(prefix), given).map(Some)
}

/// A login that a node record can hold; `at` is put before the names of keys in errors.
fn checked(at: &str, chap: ChapText) -> Result<Chap, ConnectionError> {
    let check = |key: &str, text: &str| {
        let problem = if text.is_empty() {
            "is empty"
        } else if text.len() > MAX_AUTH {
            "is longer than 255 bytes, and no node record holds more"
        } else if text.trim() != text || text.chars().any(char::is_control) {
            "has a control character, or a space at an end, which no node record can hold"
        } else {
            return Ok(());
        };
        Err(ConnectionError::Credentials {
            key: format!("{at}{key}"),
            problem,
        })
    };
    check("username", &chap.username)?;
    check("password", chap.password.expose())?;
    let mutual = !chap.username_in.is_empty() || !chap.password_in.expose().is_empty();
    if mutual {
        check("username_in", &chap.username_in)?;
        check("password_in", chap.password_in.expose())?;
        if chap.password_in == chap.password {
            // RFC 3720 8.2.1 forbids it: the target's answer could be had by reflecting its question.
            return Err(ConnectionError::Credentials {
                key: format!("{at}password_in"),
                problem: "is the same as password: the two directions of mutual CHAP need two",
            });
        }
    }
    Ok(Chap {
        username: chap.username,
        password: chap.password,
        target: mutual.then_some((chap.username_in, chap.password_in)),
    })
}

fn identity(key: &str, text: &str) -> Result<Wwid, ConnectionError> {
    text.parse().map_err(|problem| ConnectionError::Invalid {
        key: key.to_owned(),
        problem,
        expected: IDENTITY,
    })
}

#[cfg(test)]
mod tests;
